# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""observe, apply and verify of asm_gateway; the thought is in _gateway.py and _gateway_clone.py."""

from __future__ import annotations

import dataclasses
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._clb import Clb
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._core._retry import wait_until
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import DEPLOYMENT, SERVICE, Kind
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _ccm, _proof
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._drain import drain_of, wait_drained
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._gateway import (
    GatewayPlan,
    Observed,
    Wanted,
    check_input,
    in_use,
    plan_absent,
    plan_present,
    unlike,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._guard import enforce, stop_anew, together
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._pair import PairView, observe_pair, pairs_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._session import Session, open_session
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._source import (
    istio_gateway_kind,
    read_gateway,
    rollout_trouble,
)

Object = dict[str, t.Any]


def observe(source: Cluster, target: Cluster, clb: Clb, gateway: Object, kind: Kind | None) -> Observed:
    """Read one pair (an item of the option gateways), everything at the same time as far as it can be."""
    pair = pairs_of([gateway])[0]
    names = (pair.source_service, pair.target_service)
    first, made = values(each(names, lambda name: read_gateway(source, pair.namespace, name, name)))
    found = target.get(kind, pair.target_gateway, pair.namespace) if kind else None
    seen = Observed(pair.namespace, pair.target_gateway, kind, found, first, made, None)
    if first.service is not None or made.service is not None:
        seen.view = observe_pair(source, clb, pair)
    return seen


def rehearse(target: Cluster, made: GatewayPlan) -> None:
    """Server-side dry run of the create or the patch. Raises MigrationError with the server's reason."""
    seen = made.observed
    if made.action == "create" and seen.kind:
        target.create(seen.kind, made.body, dry_run=True)
    elif made.action == "update" and seen.kind:
        target.patch(seen.kind, seen.name, seen.namespace, made.body, dry_run=True)


def apply(target: Cluster, made: GatewayPlan, journal: Journal) -> None:
    """Create or patch the IstioGateway."""
    seen = made.observed
    kind = t.cast(Kind, seen.kind)
    for change in made.plan.changes:
        with journal.around(change):
            if change.action == "create":
                _create(target, kind, made.body)
            else:
                target.patch(kind, seen.name, seen.namespace, made.body)
        made.done.append(str(change))


def _create(target: Cluster, kind: Kind, body: Object) -> None:
    """Create; found there after a lost answer, it must be what we wanted to write."""
    try:
        target.create(kind, body)
    except MigrationError as error:
        present = target.get(kind, body["metadata"]["name"], body["metadata"]["namespace"])
        if error.details.get("status") != 409 or present is None or unlike(body["spec"], present.get("spec") or {}):
            raise


def verify(source: Cluster, target: Cluster, clb: Clb, made: GatewayPlan, timeout: float, *, expect_zero: bool) -> Object:
    """Wait for ready pods, the Service as it was asked for, its backends in every group; listeners must be what they were.

    ``expect_zero``: the gateway was just made, so every backend must have weight 0. Returns what was seen.
    Fails at once when a pod cannot start, or the Service may override listeners.
    """
    seen, start = made.observed, time.monotonic()
    state: dict[str, str] = {"missing": "the Deployment does not exist yet"}
    before = t.cast(PairView, seen.view)
    service_name = f"istio-{seen.name}"
    nudge = _proof.Nudge(source, seen.namespace, service_name)

    def check() -> Object | None:
        found = read_gateway(source, seen.namespace, service_name, service_name)
        ready, missing, hopeless = rollout_trouble(found.deployment, found.pods)
        if found.service is not None and not _service_as_asked(found.service, time.monotonic() - start):
            state["missing"] = "its Service does not say override-listeners false yet"
            return None
        if hopeless:
            raise MigrationError(
                "The gateway's pods do not start",
                where=source.where(DEPLOYMENT, service_name, seen.namespace),
                why=hopeless,
                todo="mend the cause and run again; the gateway has no traffic",
            )
        if not ready or found.service is None:
            state["missing"] = missing or "the Service does not exist yet"
            return None
        view = observe_pair(source, clb, before.pair)
        live = _proof.live_ports(view, "target")
        if live and expect_zero:
            raise MigrationError(
                "The new gateway has weight in the load balancer",
                where=view.where,
                why=", ".join(f"{percent:g} % of port {port}" for port, percent in live.items()),
                todo="set the share to 0 with clb_weight now",
            )
        lacking = _proof.missing(view, "target")
        if lacking:
            state["missing"] = "; ".join(lacking)
            nudge.again()
            return None
        changed = _proof.unlike_listeners(before.listeners, view.listeners)
        if changed:
            raise MigrationError(
                "Listeners changed while the gateway was made",
                where=view.where,
                why="; ".join(changed),
                todo='compare them with the snapshot; look for a Service of this load balancer with override-listeners "true"',
            )
        sick = _proof.not_serving(view, _proof.health_of(clb, view), "target")
        if sick and time.monotonic() - start < _PATIENCE:
            state["missing"] = "; ".join(sick)
            return None
        # A target without its routes is not healthy on their ports, and that is no fault of the gateway.
        made.plan.notes += [f"{seen.name}: not healthy yet; has mesh_config been run? {line}" for line in sick]
        return {
            "pods": int((found.deployment or {}).get("status", {}).get("availableReplicas", 0)),
            "shares": {str(port): _proof.share(view, "target", port) for port in view.ports},
            "seconds": round(time.monotonic() - start, 2),
        }

    def explain() -> str:
        said = [state["missing"], status_of(target, seen), _proof.last_trouble(source, seen.namespace, service_name)]
        return "; ".join(filter(None, said))

    return wait_until(
        check,
        timeout=timeout,
        what=f"the gateway {seen.name} is ready and in every vServer group with its backends",
        where=seen.where,
        todo="mend the cause and run again",
        interval=0.2,
        explain=explain,
    )


# The ASM controller may need a moment to bring a changed annotation to the Service.
_PATIENCE = 10.0


def _service_as_asked(service: Object, elapsed: float) -> bool:
    """Whether the Service leaves listeners alone. Raises MigrationError when it still does not after some seconds."""
    value = _ccm.annotation(_ccm.annotations_of(service), _ccm.OVERRIDE)
    if value != "false" and elapsed > _PATIENCE:
        raise MigrationError(
            "The gateway's Service may take the listeners over",
            where=f"source/{service['metadata']['namespace']}/Service/{service['metadata']['name']}",
            why=f"its annotation {_ccm.OVERRIDE} is {value or 'missing'}, though the IstioGateway says false",
            todo="find out who sets it (spec.overrides of the IstioGateway, a webhook), and do not delete this Service before",
        )
    return value == "false"


def status_of(target: Cluster, seen: Observed) -> str:
    """What the ASM controller says about the IstioGateway; its keys are capitalised in the published types."""
    found = target.get(seen.kind, seen.name, seen.namespace) if seen.kind else None
    status = {str(key).lower(): value for key, value in ((found or {}).get("status") or {}).items()}
    parts = [str(status[key]) for key in ("status", "errormessage") if status.get(key)]
    return f"the IstioGateway says {': '.join(parts)}" if parts else ""


# -- absent ------------------------------------------------------------------------------------------------------


def remove(session: Session, made: GatewayPlan, timeout: float, drain: float) -> Object:
    """Override to "false" where it is not, proven on the Service; the pods away; then the IstioGateway by its UID.

    Returns ``{drained, drain_seconds}`` when there were pods whose clients were waited for.
    """
    source, target, journal, seen = session.source, session.target, session.journal, made.observed
    kind, answer = t.cast(Kind, seen.kind), {}
    for change in made.plan.changes:
        if change.action == "empty":
            answer = _let_go(session, made, drain)
        with journal.around(change):
            if change.action == "annotate":
                _disarm(source, target, seen, kind, timeout)
            elif change.action == "empty":
                # Also when nobody is connected: a proxy that outlives its rights makes istiod remember a refusal, and a gateway
                # of the same name that is made within that minute gets no certificate.
                target.patch(kind, seen.name, seen.namespace, {"spec": change.after})
                made.plan.notes += _wait_empty(source, seen, timeout)
            else:
                target.delete(kind, seen.name, seen.namespace, uid=change.before["uid"])
        made.done.append(str(change))
    return answer


def _let_go(session: Session, made: GatewayPlan, drain: float) -> Object:
    """Time for clients to leave by themselves: one that asks in the moment in which a pod's drain ends loses its answer.

    Raises MigrationError when the gateway was given traffic meanwhile.
    """
    seen = made.observed
    pods = [pod["metadata"]["name"] for pod in seen.made.pods]
    drained, seconds = wait_drained(session.source, seen.namespace, pods, drain)
    if seen.view is not None:
        # Beside what was seen first: the proof that no listener changed stands on that.
        view = observe_pair(session.source, session.clb, seen.view.pair)
        now = dataclasses.replace(seen, view=view, made=dataclasses.replace(seen.made, service=view.target))
        stop_anew(in_use(now), "its pods are all there")
    return {"drained": drained, "drain_seconds": seconds}


def _wait_empty(source: Cluster, seen: Observed, timeout: float) -> list[str]:
    """Wait until the pods have ended in their grace. Returns a note when they do not.

    A client that never lets go is told to by the pods that end (Connection: close), while they still have their listeners.
    """
    name, start = f"istio-{seen.name}", time.monotonic()

    def ended() -> str | None:
        found = read_gateway(source, seen.namespace, name, name)
        if not found.pods:
            return ""
        wanted = int((found.deployment or {"spec": {}})["spec"].get("replicas", 1)) if found.deployment else 0
        if wanted > 0 and time.monotonic() - start > _PATIENCE:
            return f"{seen.name}: the ASM controller leaves {wanted} pods; clients that are still connected may see errors now"
        return None

    try:
        said = wait_until(ended, timeout=timeout, what="the pods of the gateway have ended", where=seen.where, interval=0.3)
    except MigrationError as error:
        return [error.message]
    return [said] if said else []


def _disarm(source: Cluster, target: Cluster, seen: Observed, kind: Kind, timeout: float) -> None:
    spec: Object = {"serviceAnnotations": {_ccm.OVERRIDE: "false"}}
    for cluster, per in ((t.cast(Object, seen.gateway).get("spec") or {}).get("overrides") or {}).items():
        if _ccm.OVERRIDE in (per.get("serviceAnnotations") or {}):
            spec.setdefault("overrides", {})[cluster] = {"serviceAnnotations": {_ccm.OVERRIDE: "false"}}
    target.patch(kind, seen.name, seen.namespace, {"spec": spec})

    def seen_by_ccm() -> bool | None:
        service = source.get(SERVICE, f"istio-{seen.name}", seen.namespace)
        return True if service is None or _ccm.annotation(_ccm.annotations_of(service), _ccm.OVERRIDE) == "false" else None

    wait_until(
        seen_by_ccm,
        timeout=timeout,
        what="the Service of the gateway says override-listeners false",
        where=source.where(SERVICE, f"istio-{seen.name}", seen.namespace),
        todo='set the annotation to "false" there; while it says otherwise the gateway is not deleted',
        explain=lambda: status_of(target, seen),
    )


def verify_absent(source: Cluster, target: Cluster, clb: Clb, made: GatewayPlan, timeout: float) -> Object:
    """Wait until IstioGateway, Service and Deployment are gone and no backend of it is left; listeners must be what they were."""
    seen, start, state = made.observed, time.monotonic(), {"missing": ""}
    service = f"istio-{seen.name}"
    nudge = _proof.Nudge(source, seen.namespace, service)

    def gone() -> bool | None:
        left = []
        if seen.kind and target.get(seen.kind, seen.name, seen.namespace) is not None:
            left.append("the IstioGateway")
        for kind in (SERVICE, DEPLOYMENT):
            if source.get(kind, f"istio-{seen.name}", seen.namespace) is not None:
                left.append(f"the {kind.kind} istio-{seen.name}")
        if not left and seen.view is not None:
            groups = _proof.left_behind(clb.groups(seen.view.balancer.id), seen.namespace, service)
            left += [f"backends in {group}" for group in groups]
        state["missing"] = f"still there: {', '.join(left)}"
        if left:
            nudge.again()
        return None if left else True

    wait_until(
        gone,
        timeout=timeout,
        what=f"the gateway {seen.name} and its backends are gone",
        where=seen.where,
        todo="look at the finalizers and at the events of the Service, then run again",
        interval=0.2,
        explain=lambda: "; ".join(filter(None, [state["missing"], _proof.last_trouble(source, seen.namespace, service)])),
    )
    if seen.view is not None:
        changed = _proof.unlike_listeners(seen.view.listeners, clb.listeners(seen.view.balancer.id))
        if changed:
            raise MigrationError(
                "Listeners changed while the gateway was removed",
                where=seen.view.where,
                why="; ".join(changed),
                todo='set override-listeners to "true" on the source Service for a moment: the CCM makes its listeners again',
            )
    return {"seconds": round(time.monotonic() - start, 2)}


# -- the module --------------------------------------------------------------------------------------------------


def run_module(params: t.Mapping[str, t.Any], check_mode: bool) -> Outcome:
    """Logic of asm_gateway: all gateways at the same time, an answer for each. Raises MigrationError."""
    overrides = params.get("overrides") or {}
    check_input(params["gateways"], overrides)
    drain = drain_of(params)
    wanted = Wanted(params["migration"], params.get("cluster_id") or "", overrides)
    session = open_session(params, check_mode)
    absent = params["state"] == "absent"
    kind = istio_gateway_kind(session.target)
    seen = values(each(params["gateways"], lambda item: observe(session.source, session.target, session.clb, item, kind)))
    plans = [plan_absent(item, wanted) if absent else plan_present(item, wanted) for item in seen]
    whole = Plan([change for made in plans for change in made.plan.changes], [note for made in plans for note in made.plan.notes])
    warnings = enforce([refusal for made in plans for refusal in made.refusals], check_mode)
    results: list[Object] = [
        {"name": made.observed.name, "namespace": made.observed.namespace, "action": made.action or "none", "seen": {}}
        for made in plans
    ]
    outcome = Outcome(whole, {"gateways": results, "api_version": kind.api_version if kind else None}, warnings)
    if check_mode:
        return outcome
    if not absent:
        values(each(plans, lambda made: rehearse(session.target, made)))
    timeout = float(params["wait_timeout"])
    seen_after = together(
        plans,
        lambda made: _take_away(session, made, timeout, drain) if absent else _bring(session, made, timeout),
        planned=lambda made: made.planned,
        done=lambda made: made.done,
    )
    for index, what in enumerate(seen_after):
        results[index]["seen"] = what
    whole.notes[:] = [note for made in plans for note in made.plan.notes]  # what was seen meanwhile too
    session.journal.sync()
    return outcome


def _bring(session: Session, made: GatewayPlan, timeout: float) -> Object:
    apply(session.target, made, session.journal)
    if made.observed.source.service is None:
        return {}
    new = made.action == "create"
    return verify(session.source, session.target, session.clb, made, timeout, expect_zero=new)


def _take_away(session: Session, made: GatewayPlan, timeout: float, drain: float) -> Object:
    seen = made.observed
    left = remove(session, made, timeout, drain)
    service = seen.made.service
    if seen.gateway is None and service is None:
        return {}
    if seen.gateway is None and not t.cast(Object, service)["metadata"].get("deletionTimestamp"):
        # An earlier run may have deleted the IstioGateway a moment ago; somebody else's Service stays for ever.
        timeout = min(timeout, _PATIENCE)
        try:
            return verify_absent(session.source, session.target, session.clb, made, timeout)
        except MigrationError as error:
            made.plan.notes.append(error.message)
            return {}
    return {**left, **verify_absent(session.source, session.target, session.clb, made, timeout)}
