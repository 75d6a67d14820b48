# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""observe, apply and verify of vm_service; the thought is in _service_decide.py and the files that it names."""

from __future__ import annotations

import dataclasses
import functools
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError, few
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, flow, values
from ansible_collections.servicemesh.migration.plugins.module_utils._core._retry import wait_until
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome, secrets_of
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import POD, SERVICE, Kind, served_as
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._mirror import ConfigMapMirror
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _snapshot, _writer
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import key_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar import live, ready
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._service_decide import (
    PREFIX,
    Decision,
    Observed,
    decide,
    original_key,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._service_objects import NETWORKING, healthy, is_auto
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._service_plan import (
    LABEL,
    ROUTES,
    Item,
    editor_of,
    holds,
    remark,
    widened,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._service_spec import VmService, read_services

Object = dict[str, t.Any]
_KINDS = ("WorkloadEntry", "WorkloadGroup", "ServiceEntry", "DestinationRule", "VirtualService", "Gateway")
_WORKERS = 8
# Two runs that write the same object: the later one looks again, so often.
_AGAIN = 5


@dataclasses.dataclass
class World:
    """:arg cluster: has Services and pods. :arg config: has Istio's objects; often the same API server."""

    cluster: Cluster
    config: Cluster
    journal: Journal

    def of(self, kind: str) -> Cluster:
        return self.cluster if kind == "Service" else self.config


def vm_service(params: t.Mapping[str, t.Any], check_mode: bool) -> Outcome:
    """The logic of module vm_service."""
    services = read_services(params["services"], present=params["state"] == "present", parts=params["parts"])
    if not params["settle_seconds"] >= 0:
        raise InputError("settle_seconds cannot be used", todo="give seconds, 0 or more")
    cluster = Cluster("source", params["source"])
    cluster.guard()
    config = cluster
    if any(params["target"].get(name) for name in ("kubeconfig", "host", "in_cluster")):
        config = Cluster("target", params["target"])
        config.guard()
    journal = Journal(
        params["state_dir"],
        params["migration"],
        mirror=ConfigMapMirror(cluster, params["migration"]),
        secrets=secrets_of(params),
        enabled=not check_mode,
    )
    return run(params, services, World(cluster, config, journal), check_mode)


def run(params: t.Mapping[str, t.Any], services: t.Sequence[VmService], world: World, check_mode: bool) -> Outcome:
    """As vm_service, once options are read and clusters are proven."""
    present, parts, made = params["state"] == "present", set(params["parts"]), Plan()
    for attempt in range(_AGAIN):
        observed = observe(world, services, params)
        unserved = params["allow_unserved"]
        decisions = decide(services, observed, params["migration"], present=present, parts=parts, unserved=unserved)
        if not rehearse(world, decisions, observed) and attempt < _AGAIN - 1:
            continue
        _refuse(decisions, observed, params["on_conflict"], world)
        plan = plan_of(decisions, world)
        if check_mode:
            return _outcome(plan, decisions, observed)
        try:
            apply(world, decisions, observed, params["settle_seconds"])
        except MigrationError as error:
            if error.details.get("status") != 409 or attempt == _AGAIN - 1:
                raise
            made.changes += [change for change in plan.changes if f"{change.action} {change.target}" in error.done]
            continue
        made.changes += plan.changes
        made.notes += plan.notes
        break
    observed = verify(world, decisions, services, params)
    outcome = _outcome(made, decisions, observed)
    outcome.warnings += world.journal.withheld
    return outcome


def _outcome(plan: Plan, decisions: t.Sequence[Decision], observed: Observed) -> Outcome:
    told = [decision.as_dict(observed) for decision in decisions]
    warnings = [
        f"{decision.service.key} is left as it is: {'; '.join(decision.problems)}" for decision in decisions if decision.problems
    ]
    return Outcome(plan, {"services": told}, warnings)


# -- observe -----------------------------------------------------------------------------------------------------


def observe(world: World, services: t.Sequence[VmService], params: t.Mapping[str, t.Any]) -> Observed:
    """What these services may have to do with. Registering a VM alone reads entries alone: with many VMs, it is done often."""
    parts, migration = set(params["parts"]), params["migration"]
    leaving = params["state"] == "absent" or any(not work.present for service in services for work in service.workloads)
    small = parts == {"workloads"} and not leaving
    offered = world.config.served(NETWORKING)
    kinds: dict[str, Kind | None] = {name: served_as(offered, NETWORKING, name) for name in _KINDS}
    namespaces = sorted({service.namespace for service in services})
    jobs: list[t.Callable[[], t.Iterable[Object]]] = []

    def read(kind: Kind | None, namespace: str = "", selector: str = "") -> None:
        if kind is not None:
            jobs.append(lambda: world.of(kind.kind).list_all(kind, namespace, label_selector=selector))

    for name in ("WorkloadEntry",) if small else ("WorkloadEntry", "WorkloadGroup", "ServiceEntry", "DestinationRule"):
        for namespace in namespaces:
            read(kinds[name], namespace)
    if not small:
        read(kinds["VirtualService"])  # routes of any namespace may send to a service
        mine = f"{LABEL}={migration}"
        read(kinds["Gateway"], "", mine)
        read(SERVICE, "", mine)
        for namespace in sorted({name for service in services for name in service.namespaces()}):
            read(kinds["Gateway"], namespace)
            read(SERVICE, namespace)
    found = Observed({}, {**kinds, "Service": SERVICE})
    for objects in values(each(jobs, lambda job: list(job()), _WORKERS)):
        for obj in objects:
            found.objects[key_of(obj)] = obj
    world.journal.reload()  # another run may have kept the copy of an object that it has written since
    for key in world.journal.originals(PREFIX):
        kept = _snapshot.kept(world.journal, key)
        if kept is not None:
            found.originals[key] = kept
    for service in services if not small else ():
        selector = ",".join(f"{name}={value}" for name, value in sorted(service.selector.items()))
        pods = world.cluster.list_all(POD, service.namespace, label_selector=selector)
        found.pods[service.key] = [pod["metadata"].get("labels") or {} for pod in pods if live(pod) and ready(pod)]
    return found


# -- plan --------------------------------------------------------------------------------------------------------


def rehearse(world: World, decisions: t.Sequence[Decision], observed: Observed) -> bool:
    """The API servers check every write before the first one is done; what they do not take is a problem of its service.

    False: somebody has written one of the objects since they were observed.
    """
    overtaken = []

    def one(item: Item) -> None:
        kind, body = t.cast(Kind, observed.kinds[item.kind]), t.cast(Object, item.body)
        try:
            stored, dropped = _writer.rehearse(world.of(item.kind), kind, body, item.present if item.action != "create" else None)
        except MigrationError as error:
            if error.details.get("status") == 409:
                overtaken.append(item)
            item.action, item.reason = "refused", _writer.refusal(error)
            return
        if dropped:
            item.action, item.reason = "refused", f"the API server would drop {', '.join(dropped)}"
        elif item.action != "restore":
            remark(body, stored)

    items = [item for decision in decisions for item in decision.writes if item.action != "delete"]
    values(list(flow(items, one, _WORKERS)))
    for decision in decisions:
        decision.refuse()
    return not overtaken


def _refuse(decisions: t.Sequence[Decision], observed: Observed, on_conflict: str, world: World) -> None:
    bad = [decision for decision in decisions if decision.problems]
    if bad and (on_conflict == "fail" or len(bad) == len(decisions)):
        lines = [f"{decision.service.key}: {problem}" for decision in bad for problem in decision.problems]
        raise MigrationError(
            f"{len(bad)} of {len(decisions)} services cannot be made as they are wished",
            where=world.config.where(),
            why=few(lines, 6, see=" (see error.details)"),
            todo="mend what is named, and run again; on_conflict: skip writes the other services",
            details={"services": [decision.as_dict(observed) for decision in bad]},
        )


def plan_of(decisions: t.Sequence[Decision], world: World) -> Plan:
    made = Plan()
    for item in _ordered(decisions):
        made.changes.append(item.change(world.of(item.kind).name))
    for decision in decisions:
        made.notes += decision.notes
        made.notes += [f"kept: {item.key}: {item.reason}" for item in decision.items if item.action == "kept"]
    return made


def _ordered(decisions: t.Sequence[Decision]) -> list[Item]:
    return sorted((item for decision in decisions for item in decision.writes), key=lambda item: (item.stage, item.key))


# -- apply -------------------------------------------------------------------------------------------------------


def apply(world: World, decisions: t.Sequence[Decision], observed: Observed, settle: float) -> None:
    """Stage by stage: what routes need, routes, what they needed. Raises MigrationError with done and not_done.

    Proxies hear of routes and of what is behind them by different messages; ``settle`` seconds lie between the stages.
    """
    items, done = _ordered(decisions), []
    wide = [item for item in items if widened(item) is not None]
    stages: list[tuple[int, list[Item], bool]] = [(ROUTES - 1, wide, True)] if wide else []
    for stage in sorted({item.stage for item in items}):
        stages.append((stage, [item for item in items if item.stage == stage], False))
    last = 0
    for stage, some, widening in sorted(stages, key=lambda one: one[0]):
        if last and (last < ROUTES <= stage or ROUTES <= last <= ROUTES + 2 < stage):
            time.sleep(settle)
        errors: list[MigrationError] = []
        for answer in flow(some, functools.partial(_write, world, observed, widening), _WORKERS):
            if answer.error is None:
                done.append(str(answer.item.change(world.of(answer.item.kind).name)))
            else:
                errors.append(answer.error)
        if errors:
            error = errors[0]
            error.done = done
            error.not_done = [text for text in (str(item.change(world.of(item.kind).name)) for item in items) if text not in done]
            raise error
        last = stage


def _write(world: World, observed: Observed, widening: bool, item: Item) -> None:
    cluster, kind, key = world.of(item.kind), t.cast(Kind, observed.kinds[item.kind]), original_key(item.service, item.key)
    if item.action == "edit":
        present = t.cast(Object, item.present)
        if not editor_of(present)[0]:
            _snapshot.keep(world.journal, key, _snapshot.stable(present), anew=True)
    with world.journal.around(item.change(cluster.name)):
        if item.action == "create":
            _writer.create(cluster, kind, t.cast(Object, item.body))
        elif item.action == "delete":
            meta = t.cast(Object, item.present)["metadata"]
            cluster.delete(kind, item.name, item.namespace, uid=meta["uid"], version=meta.get("resourceVersion", ""))
        else:
            body = t.cast(Object, widened(item) if widening else item.body)
            stored = _writer.replace(cluster, kind, body)
            if widening:
                t.cast(Object, item.body)["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"]
    if item.action == "restore":
        world.journal.forget_keys([key])


# -- verify ------------------------------------------------------------------------------------------------------


def verify(
    world: World, decisions: t.Sequence[Decision], services: t.Sequence[VmService], params: t.Mapping[str, t.Any]
) -> Observed:
    """What was written is there or gone, and VMs that register themselves have done so and are healthy. Raises MigrationError."""
    items = _ordered(decisions)

    def look() -> Observed:
        return observe(world, services, params)

    observed = look()
    wrong = []
    for item in items:
        present = observed.objects.get(item.key)
        if item.action == "delete":
            if present is not None and not present["metadata"].get("deletionTimestamp"):
                wrong.append(f"{item.key} is still there")
        elif present is None or not holds(present, t.cast(Object, item.body)):
            wrong.append(f"{item.key} {'is not there' if present is None else 'holds something else'}")
    done = [str(item.change(world.of(item.kind).name)) for item in items]
    if wrong:
        raise MigrationError(
            "The API server does not have what was written",
            where=world.config.where(),
            why="; ".join(wrong[:5]),
            todo="another tool may be writing the same objects: stop it, and run again",
            done=done,
        )
    if params["state"] == "present" and "workloads" in params["parts"]:
        observed = _registered(world, services, look, observed, params["wait_timeout"], done)
    return observed


def _registered(
    world: World,
    services: t.Sequence[VmService],
    look: t.Callable[[], Observed],
    first: Observed,
    timeout: float,
    done: t.Sequence[str],
) -> Observed:
    state = {"observed": first}

    def missing() -> list[str]:
        return [text for service in services if service.auto for text in lacking(service, state["observed"])]

    def check() -> Observed | None:
        if not missing():
            return state["observed"]
        state["observed"] = look()
        return None if missing() else state["observed"]

    try:
        return wait_until(
            check,
            timeout=timeout,
            what="the VMs register themselves and are healthy",
            where=world.config.where(),
            todo="look at the proxies on these VMs (vm_proxy), their tokens, and what the health check asks; then run again",
            explain=lambda: "; ".join(missing()),
            interval=0.5,
            max_interval=3.0,
        )
    except MigrationError as error:
        error.done = [*done, *error.done]
        raise


def lacking(service: VmService, observed: Observed) -> list[str]:
    """VMs that should have registered themselves and have not, or are not healthy. Pure."""
    entries = {
        str(obj["spec"].get("address")): obj
        for key, obj in observed.objects.items()
        if key.startswith(f"WorkloadEntry/{service.namespace}/") and is_auto(obj) == service.group
    }
    found = []
    for work in (work for work in service.workloads if work.present):
        entry = entries.get(work.address)
        if entry is None:
            found.append(f"{service.key}: {work.address} has not registered itself in the group {service.group}")
        elif service.given["health_check"] and healthy(entry) is not True:
            found.append(f"{service.key}: {work.address} is not healthy")
    return found
