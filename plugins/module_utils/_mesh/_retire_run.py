# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""observe, apply and verify of gateway_retire; the thought is in _retire.py."""

from __future__ import annotations

import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._core._retry import wait_until
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import DEPLOYMENT, POD, SERVICE, Kind, kind_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _proof, _snapshot
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._drain import drain_of, wait_drained
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._guard import Refusal, enforce, stop_anew, together
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._pair import PairView, observe_pair, pairs_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._retire import (
    Observed,
    RetirePlan,
    place,
    plan_restored,
    plan_retired,
    without_numbers,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._session import Session, open_session
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._source import (
    HPA,
    PDB,
    GatewayObjects,
    read_gateway,
    rollout_trouble,
)

Object = dict[str, t.Any]
KINDS: dict[str, Kind] = {kind.kind: kind for kind in (SERVICE, DEPLOYMENT, HPA, PDB)}
SERVICE_ACCOUNT = kind_of("v1", "ServiceAccount")


def observe(session: Session, gateway: Object) -> Observed:
    """Read one pair (an item of the option gateways), the health of its backends, and the copies of it."""
    pair = pairs_of([gateway])[0]
    journal, prefix = session.journal, _snapshot.retired_prefix(pair.namespace, pair.source_service)
    kept = [t.cast(Object, _snapshot.kept(journal, key)) for key in journal.originals(prefix)]
    source = read_gateway(session.source, pair.namespace, pair.source_service)
    if source.service is None:
        source = _remains(session.source, source, kept)
    target = read_gateway(session.source, pair.namespace, pair.target_service, pair.target_service)
    seen = Observed(source, target, None, kept=kept)
    if source.service is not None or target.service is not None:
        seen.view = observe_pair(session.source, session.clb, pair)
        seen.health = _proof.health_of(session.clb, seen.view)
    if source.service is not None:
        seen.snapshot = _snapshot.holds(journal, place(source.service), source.service["metadata"]["uid"])
    return seen


def _remains(cluster: Cluster, found: GatewayObjects, kept: t.Sequence[Object]) -> GatewayObjects:
    """What is left of a gateway whose Service is gone: only the very objects (by UID) of which copies were kept.

    A gateway that this migration never retired has no copies, so nothing of it is found by a guessed name.
    """

    def still(obj: Object) -> Object | None:
        meta = obj["metadata"]
        present = cluster.get(KINDS[obj["kind"]], meta["name"], meta["namespace"])
        return present if present and present["metadata"]["uid"] == meta["uid"] else None

    there = [obj for obj in values(each([item for item in kept if item["kind"] != "Service"], still)) if obj]
    whole = GatewayObjects(found.namespace, found.name)
    for obj in there:
        if obj["kind"] == "Deployment":
            labels = ",".join(f"{key}={value}" for key, value in obj["spec"]["selector"].get("matchLabels", {}).items())
            whole.deployment = obj
            whole.pods = list(cluster.list_all(POD, found.namespace, label_selector=labels))
        elif obj["kind"] == "HorizontalPodAutoscaler":
            whole.hpa = obj
        else:
            whole.pdbs.append(obj)
    return whole


# -- retired -----------------------------------------------------------------------------------------------------


def keep_copies(session: Session, made: RetirePlan) -> None:
    """Copies of all that will be deleted, before the first deletion. A copy of an earlier state is replaced."""
    prefix = _snapshot.retired_prefix(made.observed.source.namespace, made.observed.source.name)
    for obj in made.objects:
        key = f"{prefix}{obj['kind']}/{obj['metadata']['name']}"
        plain = {name: value for name, value in obj.items() if name != "status"}
        before = _snapshot.kept(session.journal, key)
        if before is not None and before != plain:
            session.journal.forget(key)
        _snapshot.keep(session.journal, key, plain)


def apply_retired(session: Session, made: RetirePlan, timeout: float, drain: float) -> Object:
    """Time for clients to leave by themselves, the pods with their grace, and when none is left the Service, with proof."""
    keep_copies(session, made)
    seen, answer = made.observed, {"drained": None, "drain_seconds": 0.0}
    pods = [pod["metadata"]["name"] for pod in seen.source.pods]
    if any(obj["kind"] == "Deployment" for obj in made.objects):
        answer["drained"], answer["drain_seconds"] = wait_drained(session.source, seen.source.namespace, pods, drain)
        look_again(session, seen)
    for index, change in enumerate(made.plan.changes):
        obj = made.objects[index]
        kind, meta = KINDS[obj["kind"]], obj["metadata"]
        if obj["kind"] == "Service" and not answer["drained"]:
            wait_pods_gone(session, seen, timeout)
        with session.journal.around(change):
            session.source.delete(kind, meta["name"], meta["namespace"], uid=meta["uid"])
        made.done.append(str(change))
    if seen.source.service is not None:
        verify_out(session, seen, timeout)
    return answer


def look_again(session: Session, seen: Observed) -> None:
    """While clients left, somebody may have given traffic back to the source, or the target may have fallen ill."""
    names = {"namespace": seen.source.namespace, "source_service": seen.source.name}
    gateway = {**names, "target_gateway": seen.target.name.removeprefix("istio-")}
    if seen.view is not None:
        gateway["load_balancer_id"] = seen.view.balancer.id
    stop_anew(plan_retired(observe(session, gateway)).refusals, "this run has deleted nothing")


def wait_pods_gone(session: Session, seen: Observed, timeout: float) -> None:
    """All pods of the source gateway have ended: each answered what it had, and closed its connections, in its own grace."""
    left = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in seen.source.pods}

    def gone() -> bool | None:
        for name, uid in list(left.items()):
            present = session.source.get(POD, name, seen.source.namespace)
            if present is None or present["metadata"]["uid"] != uid:
                del left[name]
        return None if left else True

    wait_until(
        gone,
        timeout=timeout,
        what="the pods of the source gateway have ended",
        where=seen.where,
        todo="look at their terminationGracePeriodSeconds and finalizers, then run again; the Service is still there",
        interval=0.3,
        explain=lambda: f"still there: {', '.join(sorted(left))}",
    )


def verify_out(session: Session, seen: Observed, timeout: float) -> None:
    """The Service is gone, its backends left every group; listeners are the same and the target has weight everywhere."""
    if seen.view is None:
        return
    view, namespace, name = seen.view, seen.source.namespace, seen.source.name
    state, nudge = {"missing": ""}, _proof.Nudge(session.source, namespace, name)

    def gone() -> bool | None:
        if session.source.get(SERVICE, name, namespace) is not None:
            state["missing"] = "the Service is still being deleted"
            nudge.again()
            return None
        left = _proof.left_behind(session.clb.groups(view.balancer.id), namespace, name)
        state["missing"] = f"its backends are still in {', '.join(left)}"
        return None if left else True

    wait_until(
        gone,
        timeout=timeout,
        what=f"the Service {name} and its backends are gone",
        where=seen.where,
        todo="look at the events of the Service, then run again",
        interval=0.2,
        explain=lambda: "; ".join(filter(None, [state["missing"], _proof.last_trouble(session.source, namespace, name)])),
    )
    after = observe_pair(session.source, session.clb, view.pair)
    wrong = _proof.unlike_listeners(view.listeners, after.listeners)
    for port in view.ports:
        if _proof.share(after, "target", port) < 100:
            wrong.append(f"port {port}: the target has {_proof.share(after, 'target', port):g} %")
    if wrong:
        raise MigrationError(
            "The load balancer is not as it must be after the source's Service was deleted",
            where=view.where,
            why="; ".join(wrong),
            todo="run gateway_retire with state restored, then clb_weight with share 0",
        )


def verify_retired(session: Session, made: RetirePlan, timeout: float) -> None:
    """All named objects and their pods are gone."""
    namespace = made.observed.source.namespace

    def gone() -> bool | None:
        left = []
        for obj in made.objects:
            present = session.source.get(KINDS[obj["kind"]], obj["metadata"]["name"], namespace)
            if present and present["metadata"]["uid"] == obj["metadata"]["uid"]:
                left.append(place(obj))
        return None if left else True

    what = "the objects of the source gateway are gone"
    wait_until(gone, timeout=timeout, what=what, where=made.observed.where, todo="look at their finalizers, then run again")


# -- restored ----------------------------------------------------------------------------------------------------


def need_account(session: Session, made: RetirePlan) -> list[Refusal]:
    """The pods' ServiceAccount was left alone by the retirement; without it no pod is made."""
    found = []
    for obj in made.objects:
        if obj["kind"] == "Deployment":
            name = obj["spec"]["template"]["spec"].get("serviceAccountName", "default")
            if not session.source.exists(SERVICE_ACCOUNT, name, obj["metadata"]["namespace"]):
                why, todo = f"the ServiceAccount {name} does not exist", "create it (the snapshot has it), then run again"
                found.append(Refusal("The gateway's pods cannot be made", place(obj), why, todo))
    return found


def apply_restored(session: Session, made: RetirePlan, timeout: float) -> None:
    """Pods first, ready; then what steers them; the Service last."""
    source = session.source
    for index, change in enumerate(made.plan.changes):
        body = made.objects[index]
        kind, meta = KINDS[body["kind"]], body["metadata"]
        if body["kind"] == "Service":
            body = fitting(source, kind, body)
        with session.journal.around(change):
            try:
                source.create(kind, body)
            except MigrationError as error:
                # A lost answer, or a run before this one: it must be there and not on its way out.
                present = source.get(kind, meta["name"], meta["namespace"])
                if error.details.get("status") != 409 or not present or present["metadata"].get("deletionTimestamp"):
                    raise
            if body["kind"] == "Deployment":
                wait_ready(source, meta["namespace"], meta["name"], timeout)
        made.done.append(str(change))


def fitting(source: Cluster, kind: Kind, body: Object) -> Object:
    """With the old addresses and node ports when they are free (dry run), else with new ones."""
    try:
        source.create(kind, body, dry_run=True)
        return body
    except MigrationError as error:
        if error.details.get("status") not in (400, 422):
            raise
        return without_numbers(body)


def wait_ready(source: Cluster, namespace: str, name: str, timeout: float) -> None:
    state = {"missing": ""}

    def check() -> bool | None:
        deployment = source.get(DEPLOYMENT, name, namespace)
        labels = ((deployment or {}).get("spec") or {}).get("selector", {}).get("matchLabels") or {}
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        pods = list(source.list_all(POD, namespace, label_selector=selector)) if selector else []
        ready, state["missing"], hopeless = rollout_trouble(deployment, pods)
        if hopeless:
            raise MigrationError(
                "The gateway's pods do not start",
                where=source.where(DEPLOYMENT, name, namespace),
                why=hopeless,
                todo="mend the cause and run again; the gateway has no traffic",
            )
        return True if ready else None

    what, where = f"the pods of {name} are ready", source.where(DEPLOYMENT, name, namespace)
    wait_until(check, timeout=timeout, what=what, where=where, interval=0.2, explain=lambda: state["missing"])


def verify_restored(session: Session, made: RetirePlan, timeout: float) -> Object:
    """The Service is in every group with the backends that its weight means, and the listeners are what they were."""
    seen, start, state = made.observed, time.monotonic(), {"missing": ""}
    if seen.view is None:
        return {}
    pair, listeners = seen.view.pair, seen.view.listeners
    nudge = _proof.Nudge(session.source, pair.namespace, pair.source_service)

    def check() -> PairView | None:
        view = observe_pair(session.source, session.clb, pair)
        lacking = _proof.missing(view, "source") if view.source else ["the Service is not there"]
        lacking = lacking or _proof.not_serving(view, _proof.health_of(session.clb, view), "source")
        state["missing"] = "; ".join(lacking)
        if lacking:
            nudge.again()
        return None if lacking else view

    def explain() -> str:
        said = _proof.last_trouble(session.source, pair.namespace, pair.source_service)
        return "; ".join(filter(None, [state["missing"], said]))

    what = f"the gateway {pair.source_service} is in every vServer group with healthy backends"
    after = wait_until(check, timeout=timeout, what=what, where=seen.where, todo="run again", interval=0.2, explain=explain)
    changed = _proof.unlike_listeners(listeners, after.listeners)
    if changed:
        raise MigrationError("Listeners changed while the gateway came back", where=after.where, why="; ".join(changed))
    session.journal.forget(_snapshot.retired_prefix(pair.namespace, pair.source_service))
    return {"seconds": round(time.monotonic() - start, 2)}


# -- the module --------------------------------------------------------------------------------------------------


def run_module(params: t.Mapping[str, t.Any], check_mode: bool) -> Outcome:
    """Logic of gateway_retire: all gateways at the same time, an answer for each. Raises MigrationError."""
    pairs_of(params["gateways"])
    drain = drain_of(params)
    session = open_session(params, check_mode)
    retired = params["state"] == "retired"
    seen = values(each(params["gateways"], lambda gateway: observe(session, gateway)))
    plans = [plan_retired(item) if retired else plan_restored(item) for item in seen]
    refusals = [refusal for made in plans for refusal in made.refusals]
    if not retired:
        refusals += [refusal for made in plans for refusal in need_account(session, made)]
    whole = Plan([change for made in plans for change in made.plan.changes], [note for made in plans for note in made.plan.notes])
    warnings = enforce(refusals, check_mode)
    results: list[Object] = [
        {"namespace": item.source.namespace, "source_service": item.source.name, "snapshot": item.snapshot, "seen": {}}
        for item in seen
    ]
    outcome = Outcome(whole, {"gateways": results}, warnings)
    if check_mode:
        return outcome
    timeout = float(params["wait_timeout"])

    def work(made: RetirePlan) -> Object:
        if retired:
            answer = apply_retired(session, made, timeout, drain)
            verify_retired(session, made, timeout)
            return answer
        if not made.observed.kept:
            return {}
        apply_restored(session, made, timeout)
        return verify_restored(session, made, timeout)

    answers = together(plans, work, planned=lambda made: made.planned, done=lambda made: made.done)
    for index, answer in enumerate(answers):
        results[index]["seen"] = answer
    session.journal.sync()
    outcome.warnings += session.journal.withheld
    return outcome
