# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""observe, apply and verify of mesh_config; the thought is in _config.py and _closure.py."""

from __future__ import annotations

import copy
import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Change, Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import SERVICE, Kind, kind_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _snapshot
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._closure import Selected, Workload, credentials_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._config import (
    ConfigPlan,
    Item,
    matches,
    plan_absent,
    plan_present,
    select,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._guard import Refusal, enforce
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import (
    KINDS,
    MANAGED_BY,
    key_of,
    kind_at,
    portable,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._meaning import digest
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._namespaces import (
    NAMESPACE,
    contents,
    in_the_way,
    made_by,
    wait_gone,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._pair import observe_pair, pairs_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._proof import live_ports
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._session import Session, open_session
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._source import read_gateway, template_labels

Object = dict[str, t.Any]
SECRET = kind_of("v1", "Secret")


@dataclasses.dataclass
class Observed:
    """:arg source: objects of all kinds. :arg target: key -> object. :arg kinds: kind -> how the target serves it.
    :arg namespaces: of the target. :arg leaving: those that are being deleted; nothing can be written there any more.
    """

    source: list[Object]
    target: dict[str, Object]
    kinds: dict[str, Kind | None]
    namespaces: set[str]
    leaving: set[str] = dataclasses.field(default_factory=set)


def original_key(item_key: str) -> str:
    """The journal's key of an object that was overwritten: ``target/<ns>/<Kind>/<name>/object``."""
    kind, namespace, name = item_key.split("/")
    return f"target/{namespace}/{kind}/{name}/object"


def read_side(
    side: Cluster, kinds: t.Collection[str] = (), label_selector: str = ""
) -> tuple[list[Object], dict[str, Kind | None]]:
    """All objects of the kinds (default: all kinds), each kind read at the same time, and how this API server serves each."""
    chosen = [KINDS[name] for name in (kinds or KINDS)]
    for group in {kind.group for kind in chosen}:
        side.served(group)  # discovery once, before the threads ask for it
    served = {kind.kind: kind_at(side, kind) for kind in chosen}

    def read(kind: Kind | None) -> list[Object]:
        return list(side.list_all(kind, label_selector=label_selector)) if kind else []

    lists = values(each(list(served.values()), read))
    return [obj for objects in lists for obj in objects], served


def observe(source: Cluster, target: Cluster) -> Observed:
    """Read all kinds on both sides at the same time."""
    first, second = values(each((source, target), read_side))
    found = Observed(first[0], {}, second[1], set())
    for item in target.list_all(NAMESPACE):
        place = found.leaving if item["metadata"].get("deletionTimestamp") else found.namespaces
        place.add(item["metadata"]["name"])
    # What is in a namespace that is being deleted goes with it.
    found.target = {key_of(obj): obj for obj in second[0] if obj["metadata"].get("namespace") not in found.leaving}
    return found


def workloads(
    source: Cluster, gateways: t.Sequence[Object], journal: Journal, target_selector: t.Mapping[str, str]
) -> list[Workload]:
    """The source gateways' pods. A gateway that is retired already is known from the copy that was kept of it."""

    def one(gateway: Object) -> Workload:
        namespace, name = gateway["namespace"], gateway["source_service"]
        labels = template_labels(read_gateway(source, namespace, name).deployment)
        if not labels:
            prefix = _snapshot.retired_prefix(namespace, name)
            for key in journal.originals(f"{prefix}Deployment/"):
                labels = template_labels(_snapshot.kept(journal, key))
        if not labels:
            raise MigrationError(
                "The source gateway's pods are not known",
                where=f"source/{namespace}/Service/{name}",
                why="there is no such Service with a Deployment behind it, and no copy of one",
                todo="check gateways[].namespace and gateways[].source_service",
            )
        return Workload(namespace, labels, target_selector or {"istio": gateway["target_gateway"]})

    return values(each(gateways, one))


def credentials(source: Cluster, selected: t.Sequence[Selected], gateways: t.Sequence[Object]) -> list[Object]:
    """The Secrets that the Gateways serve TLS with: gateways read them in their own namespace, and are in the same one."""
    names = sorted({name for item in selected if item.obj["kind"] == "Gateway" for name in credentials_of(item.obj)})
    places = sorted({gateway["namespace"] for gateway in gateways})
    wanted = [(namespace, name) for namespace in places for name in names if "://" not in name]

    def one(pair: tuple[str, str]) -> Object:
        return {"namespace": pair[0], "name": pair[1], "exists": source.exists(SECRET, pair[1], pair[0])}

    return values(each(wanted, one))


def rehearse(target: Cluster, made: ConfigPlan, kinds: t.Mapping[str, Kind | None], stand_in: str) -> None:
    """Ask the target to check every write (server-side dry run); what it does not take becomes ``refused``.

    An object in a namespace that is not there yet is checked in the namespace ``stand_in``, by another name.
    """

    def one(item: Item) -> None:
        kind = kinds[item.kind]
        if item.action == "delete" or kind is None:
            return
        body = copy.deepcopy(t.cast(Object, item.body))
        if item.namespace in made.namespaces:
            body["metadata"].update(namespace=stand_in, name=f"dry-run-{digest(body)}")
        try:
            if item.action == "create":
                target.create(kind, body, dry_run=True)
            else:
                target.replace(kind, body, dry_run=True)
        except MigrationError as error:
            if error.details.get("status") not in (400, 403, 409, 422):
                raise
            item.action, item.reason = "refused", error.why or error.what

    values(each(made.writes, one))


def apply(target: Cluster, made: ConfigPlan, journal: Journal, kinds: t.Mapping[str, Kind | None], migration: str) -> list[str]:
    """Write namespaces, then the objects: those of one order at the same time. Returns what was done.

    One item that fails stops the orders behind it, not its neighbours. Raises MigrationError with done and not_done.
    """
    done: list[str] = []
    for name in made.namespaces:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {MANAGED_BY: migration}}}
        with journal.around(Change("create", f"target/Namespace/{name}", None, {"name": name})):
            _create(target, NAMESPACE, body)
        done.append(f"create target/Namespace/{name}")
    rank: dict[str, int] = {kind.kind: kind.order for kind in KINDS.values()}
    orders = sorted({rank[item.kind] for item in made.writes}, reverse=any(item.action == "delete" for item in made.writes))
    for order in orders:
        batch = [item for item in made.writes if rank[item.kind] == order]
        answers = each(batch, lambda item: _write(target, item, journal, t.cast(Kind, kinds[item.kind])))
        done += [f"{answer.item.action} {answer.item.where}" for answer in answers if answer.error is None]
        errors = [(answer.item, answer.error) for answer in answers if answer.error is not None]
        if errors:
            item, error = errors[0]
            raise MigrationError(
                f"{len(errors)} of {len(made.writes)} objects could not be written",
                where=item.where,
                why="; ".join(f"{failed.key}: {problem.why or problem.what}" for failed, problem in errors[:5]),
                todo=error.todo or "mend the cause and run again: what is done already is not done twice",
                done=done,
                not_done=[f"{item.action} {item.where}" for item in made.writes if f"{item.action} {item.where}" not in done],
            )
    for namespace in made.emptied:
        name, uid = namespace["metadata"]["name"], namespace["metadata"]["uid"]
        with journal.around(Change("delete", f"target/Namespace/{name}", {"uid": uid}, None)):
            target.delete(NAMESPACE, name, uid=uid)
        done.append(f"delete target/Namespace/{name}")
    wait_gone(target, [namespace["metadata"]["name"] for namespace in made.emptied])
    return done


def _write(target: Cluster, item: Item, journal: Journal, kind: Kind) -> None:
    before = portable(item.present) if item.present else None
    after = None if item.action == "delete" else portable(t.cast(Object, item.body))
    present = item.present or {}
    key = original_key(item.key)
    if item.overwrites:
        _snapshot.keep(journal, key, {name: value for name, value in present.items() if name != "status"})
    with journal.around(Change(item.action, item.where, before, after, item.reason)):
        if item.action == "create":
            _create(target, kind, t.cast(Object, item.body))
        elif item.action == "delete":
            target.delete(kind, item.name, item.namespace, uid=present["metadata"]["uid"])
        else:
            _replace(target, kind, t.cast(Object, item.body))
    if item.action == "restore":
        journal.forget(key)


def _create(target: Cluster, kind: Kind, body: Object) -> None:
    """Create; found there after a lost answer, it must be what we wanted to write."""
    try:
        target.create(kind, body)
    except MigrationError as error:
        if error.details.get("status") != 409:
            raise
        meta = body["metadata"]
        present = target.get(kind, meta["name"], meta.get("namespace", ""))
        if present is None or (kind != NAMESPACE and digest(present) != digest(body)):
            raise


def _replace(target: Cluster, kind: Kind, body: Object) -> None:
    """Replace; a conflict after a lost answer is none when the object holds what we wanted to write."""
    try:
        target.replace(kind, body)
    except MigrationError as error:
        meta = body["metadata"]
        if error.details.get("status") != 409:
            raise
        present = target.get(kind, meta["name"], meta.get("namespace", ""))
        if present is None or digest(present) != digest(body):
            raise


def verify(target: Cluster, made: ConfigPlan, kinds: t.Mapping[str, Kind | None]) -> None:
    """Read every written object back: it holds what was wanted, or is gone. Raises MigrationError."""

    def one(item: Item) -> str:
        present = target.get(t.cast(Kind, kinds[item.kind]), item.name, item.namespace)
        if item.action == "delete":
            still = present is not None and not present["metadata"].get("deletionTimestamp")
            return f"{item.key} is still there" if still else ""
        if present is None:
            return f"{item.key} is not there"
        return "" if digest(present) == digest(t.cast(Object, item.body)) else f"{item.key} holds something else"

    wrong = [answer for answer in values(each(made.writes, one)) if answer]
    if wrong:
        raise MigrationError(
            "The target does not hold what was written",
            where=target.where(),
            why="; ".join(wrong[:5]),
            todo="another tool may be writing the same objects: stop it, and run again",
            done=[f"{item.action} {item.where}" for item in made.writes],
        )


# -- the module --------------------------------------------------------------------------------------------------


def in_use(session: Session) -> list[Refusal]:
    """The target gateways that have traffic: their configuration is not taken away."""
    found = []
    for pair in pairs_of(session.options["gateways"]):
        services = (pair.source_service, pair.target_service)
        if not any(session.source.exists(SERVICE, name, pair.namespace) for name in services):
            continue
        live = live_ports(observe_pair(session.source, session.clb, pair), "target")
        if live:
            why = ", ".join(f"it has {percent:g} % of port {port}" for port, percent in sorted(live.items()))
            todo = "set its share to 0 with clb_weight first"
            where = f"target/{pair.namespace}/IstioGateway/{pair.target_gateway}"
            found.append(Refusal("The target gateway uses this configuration", where, why, todo, order=True))
    return found


def _problem(made: ConfigPlan, on_conflict: str) -> MigrationError | None:
    """What stands against the whole: nothing is written then."""
    refused, conflicts = made.of("refused"), made.of("conflict") if on_conflict == "fail" else []
    if not refused and not conflicts:
        return None
    lines = [f"{item.key}: {item.reason}" for item in [*refused, *conflicts]]
    more = f", and {len(lines) - 8} more (see items)" if len(lines) > 8 else ""
    todo = "mend what is refused in the source" if refused else ""
    if conflicts:
        todo = "; ".join(
            filter(None, [todo, "look at the differences, then make both sides agree or set on_conflict to update or skip"])
        )
    return MigrationError(
        f"{len(lines)} of {len(made.items)} objects cannot be copied",
        where="target",
        why="; ".join(lines[:8]) + more,
        todo=todo,
        not_done=[f"{item.action} {item.where}" for item in made.writes],
    )


def _present(session: Session) -> tuple[ConfigPlan, Observed, Object]:
    options = session.options
    seen = observe(session.source, session.target)
    selected = select(
        seen.source,
        workloads(session.source, options["gateways"], session.journal, options["target_selector"]),
        scope=options["scope"],
        kinds=options["kinds"],
        namespaces=options["namespaces"],
        names=options["names"],
    )
    if options["label_selector"]:
        labelled, _served = read_side(session.source, options["kinds"], options["label_selector"])
        allowed = {key_of(obj) for obj in labelled}
        selected = [item for item in selected if item.key in allowed]
    made = plan_present(
        selected,
        seen.target,
        seen.kinds,
        migration=options["migration"],
        on_conflict=options["on_conflict"],
        target_namespaces=seen.namespaces,
        create_namespaces=options["create_namespaces"],
    )
    stand_in = options["gateways"][0]["namespace"]
    rehearse(session.target, made, seen.kinds, stand_in if stand_in in seen.namespaces else "default")
    secrets = credentials(session.source, selected, options["gateways"])
    return made, seen, {"secrets": secrets}


def _absent(session: Session) -> tuple[ConfigPlan, Observed, Object]:
    options = session.options
    found, served = read_side(session.target, options["kinds"], f"{MANAGED_BY}={options['migration']}")
    seen = Observed([], {key_of(obj): obj for obj in found}, served, set())
    originals: dict[str, Object] = {}
    for key in seen.target:
        original = _snapshot.kept(session.journal, original_key(key))
        if original is not None:
            originals[key] = original
    made = plan_absent(seen.target, originals, migration=options["migration"])
    keep = {"namespaces": options["namespaces"], "names": options["names"]}
    made.items = [item for item in made.items if matches(item.namespace, item.name, **keep)]
    seen.leaving = _empty_namespaces(session, made)
    rehearse(session.target, made, seen.kinds, "")
    return made, seen, {"secrets": []}


def _empty_namespaces(session: Session, made: ConfigPlan) -> set[str]:
    """Namespaces that this migration made and that hold nothing else. Returns those that an earlier run deleted."""
    leaving_now: set[str] = set()
    for namespace in made_by(session.target, session.options["migration"]):
        name = namespace["metadata"]["name"]
        if namespace["metadata"].get("deletionTimestamp"):
            leaving_now.add(name)
            continue
        leaving = {(item.kind, item.name) for item in made.of("delete") if item.namespace == name}
        try:
            reason = in_the_way(namespace, contents(session.target, name), leaving)
        except MigrationError as error:
            reason = f"not everything in it can be seen ({error.where}: {error.why})"
        if reason:
            made.notes.append(f"the namespace {name} stays in the target: {reason}")
        else:
            made.emptied.append(namespace)
    return leaving_now


def run_module(params: t.Mapping[str, t.Any], check_mode: bool) -> Outcome:
    """Logic of mesh_config. Raises MigrationError; what concerns single objects is in the Outcome, with ``failed``."""
    pairs_of(params["gateways"])
    session = open_session(params, check_mode)
    warnings: list[str] = []
    if params["state"] == "present":
        made, seen, result = _present(session)
    else:
        warnings += enforce(in_use(session), check_mode)
        made, seen, result = _absent(session)
    plan = made.as_plan()
    lost = [f"{item['namespace']}/{item['name']}" for item in result["secrets"] if not item["exists"]]
    if lost:
        warnings.append(f"Secrets that the Gateways serve TLS with are not there: {', '.join(lost)}")
    result.update(items=[item.as_dict() for item in made.items], namespaces=made.namespaces)
    outcome = Outcome(plan, result, warnings)
    outcome.failed = _problem(made, params["on_conflict"])
    if outcome.failed:
        outcome.plan = Plan(notes=plan.notes)  # nothing of it is done
        return outcome
    if check_mode:
        return outcome
    try:
        # An earlier run may have ended between the deletion of a namespace and its end.
        wait_gone(session.target, sorted(seen.leaving if params["state"] == "absent" else seen.leaving & {*made.namespaces}))
        if not plan.changed:
            return outcome
        apply(session.target, made, session.journal, seen.kinds, params["migration"])
        verify(session.target, made, seen.kinds)
    except MigrationError as error:
        outcome.failed = error
    session.journal.sync()
    return outcome
