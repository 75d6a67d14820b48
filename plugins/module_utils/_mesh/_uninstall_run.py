# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""apply and verify of istio_uninstall; the thought is in _uninstall.py and _istio_use.py."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._core._retry import wait_until
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import POD
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _istio_objects as istio
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _istio_use as use
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._guard import Refusal, enforce
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._namespaces import NAMESPACE
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._retire_run import fitting
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._rollouts import judge
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._session import Session, open_session
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar import ready, sidecar_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._snapshot import keep, kept
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._uninstall import plan_absent, plan_restored
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._uninstall_read import (
    PREFIX,
    Seen,
    copies,
    copy_key,
    observe,
    watch_gateways,
)

Object = dict[str, t.Any]
_WHERE = "source"
_PROBE = "servicemesh-migration-probe"


def _rights(cluster: Cluster, objects: t.Sequence[Object], verb: str) -> list[Refusal]:
    """What the user may not do with objects of the plan, before the first write."""
    pairs = sorted({(item["kind"], item["metadata"].get("namespace") or "") for item in objects})
    allowed = values(each(pairs, lambda pair: cluster.can(verb, istio.BY_NAME[pair[0]], pair[1])))
    missing = [f"{kind}{f' in {namespace}' if namespace else ''}" for (kind, namespace), may in zip(pairs, allowed) if not may]  # noqa: B905
    if not missing:
        return []
    why = f"the user may not {verb} {', '.join(missing)}"
    return [Refusal("Rights are missing", cluster.where(), why, "grant them; docs/rbac.md lists all that are needed")]


# -- absent ------------------------------------------------------------------------------------------------------


def keep_copies(session: Session, objects: t.Sequence[Object]) -> None:
    """A whole copy of each, before the first deletion. A copy of an earlier state is replaced."""
    for obj in objects:
        key, plain = copy_key(obj), {name: value for name, value in obj.items() if name != "status"}
        plain["metadata"] = {name: value for name, value in obj["metadata"].items() if name != "managedFields"}
        before = kept(session.journal, key)
        if before is not None and before != plain:
            session.journal.forget_keys([key])
        keep(session.journal, key, plain)


def apply_absent(session: Session, seen: Seen, made: Plan, done: list[str], timeout: float) -> None:
    """Webhooks, then a second look at the pods, then what runs, and when that has ended the rest."""
    wait_ended(session.source, seen.census.ending, timeout, "pods with a proxy of Istio have ended")
    objects = [item for item, _why in seen.sorted.removed]
    keep_copies(session, objects)
    changes = list(zip(made.changes, objects))  # noqa: B905
    stages = (istio.WEBHOOKS, ("HorizontalPodAutoscaler", "PodDisruptionBudget", *istio.WORKLOADS))
    rest = tuple(kind.kind for kind in istio.KINDS if kind.kind not in stages[0] + stages[1])
    for number, kinds in enumerate((*stages, rest)):
        for change, obj in changes:
            if obj["kind"] not in kinds:
                continue
            meta = obj["metadata"]
            with session.journal.around(change):
                session.source.delete(istio.BY_NAME[obj["kind"]], meta["name"], meta.get("namespace", ""), uid=meta["uid"])
            done.append(str(change))
        if number == 0:
            look_again(session, seen)
        elif number == 1:
            pods = [pod for pod in seen.inventory.pods if any(istio.has_pod(item, pod) for item in seen.sorted.workloads)]
            wait_ended(session.source, pods, timeout, "the pods of Istio have ended")


def look_again(session: Session, seen: Seen) -> None:
    """Without webhooks no pod gets a sidecar of Istio any more; one that came since the proof still needs istiod."""
    seen.inventory.pods = list(session.source.list_all(POD))
    counted = use.census(seen.inventory, seen.sorted)
    refusals = use.use_refusals(counted)
    if refusals:
        first = refusals[0]
        raise MigrationError(
            f"{first.what}: they came after the proof",
            where=first.where,
            why=first.why,
            todo=f"{first.todo}, then run again; or run with state restored: the webhooks are gone, istiod is there",
        )


def wait_ended(cluster: Cluster, pods: t.Sequence[Object], timeout: float, what: str) -> None:
    """These very pods are gone."""
    left = {(pod["metadata"]["namespace"], pod["metadata"]["name"]): pod["metadata"]["uid"] for pod in pods}

    def gone() -> bool | None:
        for (namespace, name), uid in list(left.items()):
            present = cluster.get(POD, name, namespace)
            if present is None or present["metadata"]["uid"] != uid:
                del left[(namespace, name)]
        return None if left else True

    def explain() -> str:
        return f"still there: {use.some('/'.join(pair) for pair in left)}"

    todo = "look at their terminationGracePeriodSeconds and finalizers, then run again"
    wait_until(gone, timeout=timeout, what=what, where=_WHERE, todo=todo, interval=0.3, explain=explain)


def verify_absent(session: Session, seen: Seen, was_ready: t.Mapping[str, str], timeout: float) -> Object:
    """All of it is gone, and the target's pods that were ready are ready."""
    left = [item for item, _why in seen.sorted.removed]

    def gone() -> bool | None:
        for obj in list(left):
            meta = obj["metadata"]
            present = session.source.get(istio.BY_NAME[obj["kind"]], meta["name"], meta.get("namespace", ""))
            if present is None or present["metadata"]["uid"] != meta["uid"]:
                left.remove(obj)
        return None if left else True

    wait_until(
        gone,
        timeout=timeout,
        what="what was removed is gone",
        where=_WHERE,
        todo="look at their finalizers, then run again",
        interval=0.2,
        explain=lambda: f"still there: {use.some(istio.place(item) for item in left)}",
    )
    state: dict[str, t.Any] = {"sick": [], "there": 0}

    def well() -> bool | None:
        pods = list(session.source.list_all(POD))
        state["sick"] = use.target_trouble(was_ready, pods, ready)
        state["there"] = sum(1 for pod in pods if pod["metadata"].get("uid") in was_ready)
        return None if state["sick"] else True

    wait_until(
        well,
        timeout=timeout,
        what="the target's pods are as ready as before",
        where=_WHERE,
        todo="look at these pods; state restored brings Istio back",
        interval=0.5,
        explain=lambda: f"not ready: {use.some(state['sick'])}",
    )
    return {"ready_before": len(was_ready), "of_them_there": state["there"], "not_ready": 0}


# -- restored ----------------------------------------------------------------------------------------------------


def apply_restored(session: Session, made: Plan, bodies: t.Sequence[Object], done: list[str], timeout: float) -> None:
    """Accounts and rights, configuration, Services, then what runs; webhooks when istiod is ready."""
    source, hooked = session.source, False
    running: list[Object] = []
    for change, body in zip(made.changes, bodies):  # noqa: B905
        kind, meta = istio.BY_NAME[body["kind"]], body["metadata"]
        if body["kind"] in istio.WEBHOOKS and not hooked:
            wait_running(source, running, timeout)
            hooked = True
        with session.journal.around(change):
            try:
                source.create(kind, fitting(source, kind, body) if body["kind"] == "Service" else body)
            except MigrationError as error:
                # A lost answer, or a run before this one: it must be there and not on its way out.
                present = source.get(kind, meta["name"], meta.get("namespace", ""))
                if error.details.get("status") != 409 or not present or present["metadata"].get("deletionTimestamp"):
                    raise
        done.append(str(change))
        running += [body] if body["kind"] in istio.WORKLOADS else []
    wait_running(source, running, timeout)


def wait_running(source: Cluster, workloads: t.Sequence[Object], timeout: float) -> None:
    """All pods of these workloads are there and ready."""
    state = {"missing": ""}

    def running() -> bool | None:
        for one in workloads:
            meta = one["metadata"]
            found = source.get(istio.BY_NAME[one["kind"]], meta["name"], meta["namespace"])
            wanted = int(((found or {}).get("spec") or {}).get("replicas", 1))
            seen = judge(found)
            if not (seen.done or (wanted == 0 and found is not None)):
                state["missing"] = f"{istio.place(one)}: {seen.hopeless or seen.missing}"
                return None
        return True

    what, todo = "what came back of Istio is ready", "look at the events of its pods, then run again"
    wait_until(running, timeout=timeout, what=what, where=_WHERE, todo=todo, interval=0.3, explain=lambda: state["missing"])


def verify_restored(session: Session, objects: t.Sequence[Object], timeout: float) -> tuple[Object, list[str]]:
    """Istio injects again: the API server is asked for a pod that a webhook selects, as a dry run."""
    hooks = [hook for item in objects if item["kind"] == istio.MUTATING.kind for hook in item.get("webhooks") or []]
    wish = _wish(hooks, list(session.source.list_all(NAMESPACE)))
    if wish is None:
        return {"injects": None}, ["no namespace is selected by Istio's injection, so it could not be tried"]
    state = {"missing": "", "forbidden": ""}

    def injected() -> bool | None:
        try:
            proxy = sidecar_of(session.source.create(POD, wish, dry_run=True))
        except MigrationError as error:
            if error.details.get("status") != 403:
                state["missing"] = error.why
                return None
            state["forbidden"] = error.why
            return True
        state["missing"] = "the pod got no sidecar"
        return True if proxy is not None and not proxy.asm_id else None

    where = f"source/{wish['metadata']['namespace']}"
    todo = "look at istiod's log and at its webhooks, then run again"
    what = "Istio injects its sidecar again (dry run of a pod)"
    wait_until(injected, timeout=timeout, what=what, where=where, todo=todo, interval=0.3, explain=lambda: state["missing"])
    if state["forbidden"]:
        return {"injects": None}, [f"whether Istio injects again could not be tried: {state['forbidden']}"]
    return {"injects": True}, []


def _wish(hooks: t.Sequence[Object], namespaces: t.Sequence[Object]) -> Object | None:
    """A pod that one of the webhooks is called for."""
    for item in namespaces:
        name = item["metadata"]["name"]
        for labels in ({}, {"sidecar.istio.io/inject": "true"}):
            where = {"kubernetes.io/metadata.name": name, **istio.labels_of(item)}
            if not name.startswith("kube-") and any(use.selected(hook, where, labels) for hook in hooks):
                spec = {"containers": [{"name": "probe", "image": "registry.k8s.io/pause:3.10"}]}
                meta = {"name": _PROBE, "namespace": name, "labels": labels}
                return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
    return None


# -- the module --------------------------------------------------------------------------------------------------


def run_module(params: t.Mapping[str, t.Any], check_mode: bool) -> Outcome:
    """Logic of istio_uninstall. Raises MigrationError."""
    if params["quiet_seconds"] < 0 or params["wait_timeout"] < 0:
        raise InputError("quiet_seconds or wait_timeout cannot be used", todo="give seconds, 0 or more")
    session = open_session(params, check_mode)
    return _absent(session, check_mode) if params["state"] == "absent" else _restored(session, check_mode)


def _absent(session: Session, check_mode: bool) -> Outcome:
    start, timeout = time.monotonic(), float(session.options["wait_timeout"])
    seen = observe(session)
    made = plan_absent(seen.sorted)
    made.notes += seen.notes
    if made.changes:
        watch_gateways(session, seen, 0 if check_mode else float(session.options["quiet_seconds"]))
        seen.refusals += _rights(session.source, [item for item, _why in seen.sorted.removed], "delete")
        seen.refusals += _rights(session.source, [item for item, _why in seen.sorted.removed], "create")
    else:
        seen.refusals = []
    warnings = enforce(seen.refusals, check_mode)
    result: Object = {"left": [dataclasses.asdict(item) for item in seen.sorted.left], "proof": _proof(seen)}
    if made.changes and not check_mode:
        was_ready = {pod["metadata"]["uid"]: use.pod_name(pod) for pod in seen.census.target if ready(pod)}
        done: list[str] = []
        with _accounted(made, done):
            apply_absent(session, seen, made, done, timeout)
            result["proof"]["target_pods"] = verify_absent(session, seen, was_ready, timeout)
        session.journal.write("note", what="Istio is removed", objects=len(done))
        session.journal.sync()
    result["seconds"] = round(time.monotonic() - start, 2)
    return Outcome(made, result, [*warnings, *session.journal.withheld])


def _restored(session: Session, check_mode: bool) -> Outcome:
    start, timeout = time.monotonic(), float(session.options["wait_timeout"])
    objects = copies(session)
    there = values(each(objects, lambda obj: _present(session.source, obj)))
    made, bodies = plan_restored(objects, {istio.key_of(item): item for item in there if item is not None})
    warnings = enforce(_rights(session.source, bodies, "create"), check_mode)
    result: Object = {"left": [], "proof": {}}
    if objects and not check_mode:
        done: list[str] = []
        with _accounted(made, done):
            apply_restored(session, made, bodies, done, timeout)
            result["proof"], notes = verify_restored(session, objects, timeout)
        made.notes += notes
        session.journal.forget(PREFIX)
    result["seconds"] = round(time.monotonic() - start, 2)
    return Outcome(made, result, warnings)


def _present(source: Cluster, obj: Object) -> Object | None:
    kind, namespace, name = istio.key_of(obj)
    found = source.get(istio.BY_NAME[kind], name, namespace)
    return {"kind": kind, **found} if found else None


@contextlib.contextmanager
def _accounted(made: Plan, done: list[str]) -> t.Iterator[None]:
    """An error says what was done before it, and what was not."""
    try:
        yield
    except MigrationError as error:
        error.done = list(done)
        error.not_done = [str(change) for change in made.changes if str(change) not in done]
        raise


def _proof(seen: Seen) -> Object:
    """What was seen, as result."""
    names: Object = {pod: what if isinstance(what, str) else sorted(what) for pod, what in sorted(seen.clients.items())}
    looks = {
        name: several[-1] if isinstance(several[-1], str) else dataclasses.asdict(several[-1])
        for name, several in sorted(seen.looks.items())
    }
    return {
        **use.proxies_of(seen.census, seen.inventory.proxies),
        "istiod_clients": names,
        "gateway_clients": looks,
        "dormant": seen.dormant,
        "control_planes": sorted(seen.sorted.services),
    }
