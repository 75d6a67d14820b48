# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""apply and verify of mesh_config. _config_read.py observes, the thought is in _config.py and _closure.py, _writer.py writes."""

from __future__ import annotations

import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError, few
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Change, Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import flow, values
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import SERVICE, Kind
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _snapshot, _writer
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._config import (
    ConfigPlan,
    Filters,
    Item,
    fill,
    holds,
    only_in_target,
    plan_absent,
    plan_present,
    select,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._config_read import (
    Observed,
    credentials,
    observe,
    read_side,
    workloads,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._guard import Refusal, enforce
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import (
    CONTENT,
    KINDS,
    MANAGED_BY,
    key_of,
    portable,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._meaning import digest, fingerprint
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._namespaces import (
    NAMESPACE,
    contents,
    in_the_way,
    made_by,
    wait_gone,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._pair import observe_pair, pairs_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._proof import live_ports
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sample import sample
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._session import Session, open_session

Object = dict[str, t.Any]
_UNASKED = (
    "The target was asked about {asked} of {of} objects, some of each kind in each namespace: whether it takes the others is not "
    "known yet. A run asks about every object before its first write, and so do this check with rehearse=all and the phase "
    "preflight of the role ack_to_asm (a run of it, which only reads)."
)
WORKERS = 16
# In check mode the target is asked about so many creates, and about all when there are no more; see docs/config.md.
SAMPLE, SAMPLE_LEAST = 200, 50
_KEPT = 800_000


def config_spec() -> Object:
    """Options of mesh_config, beside those of every module that moves gateways."""
    return {
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "scope": {"type": "str", "choices": ["gateway", "all"], "default": "gateway"},
        "kinds": {"type": "list", "elements": "str", "choices": sorted(KINDS), "default": []},
        "namespaces": {"type": "list", "elements": "str", "default": []},
        "names": {"type": "list", "elements": "str", "default": []},
        "label_selector": {"type": "str"},
        "target_selector": {"type": "dict", "default": {}},
        "target_version": {"type": "str"},
        "on_conflict": {"type": "str", "choices": ["fail", "skip", "update"], "default": "fail"},
        "on_refused": {"type": "str", "choices": ["fail", "skip"], "default": "fail"},
        "create_namespaces": {"type": "bool", "default": True},
        "rehearse": {"type": "str", "choices": ["all", "sample"], "default": "sample"},
    }


def filters_of(options: t.Mapping[str, t.Any]) -> Filters:
    """The options kinds, namespaces, names and label_selector."""
    return Filters(options["kinds"], options["namespaces"], options["names"], options["label_selector"])


def original_key(item_key: str) -> str:
    """The journal's key of an object that was overwritten: ``target/<ns>/<Kind>/<name>/object``."""
    kind, namespace, name = item_key.split("/")
    return f"target/{namespace}/{kind}/{name}/object"


def rehearse(
    target: Cluster,
    made: ConfigPlan,
    kinds: t.Mapping[str, Kind | None],
    stand_in: str,
    *,
    migration: str,
    most: int | None = None,
) -> None:
    """Ask the target to check every write (server-side dry run); what it does not take becomes ``refused``.

    An object in a namespace that is not there yet is checked in the namespace ``stand_in``, by another name. ``most``: only
    about so many creates, but about all of a kind of which one was not taken. What would change an object is always asked: only
    the target knows whether its own defaults are all that differs.
    """
    writes = [item for item in made.writes if item.action != "delete"]
    first = writes if most is None else _chosen(writes, most)
    _ask(target, made, first, kinds, stand_in, migration)
    strange = {item.kind for item in first if item.action == "refused"}
    _ask(target, made, [item for item in writes if item.kind in strange and not item.asked], kinds, stand_in, migration)
    needed = {item.namespace for item in made.of("create")}
    made.namespaces = [name for name in made.namespaces if name in needed]


def _chosen(writes: t.Sequence[Item], most: int) -> list[Item]:
    creates = [item for item in writes if item.action == "create"]
    least = max(SAMPLE_LEAST, most - len(writes) + len(creates))
    places = sample([(item.kind, item.namespace, _writer.payload(item.wanted or {})) for item in creates], least)
    return [*(item for item in writes if item.action != "create"), *(creates[place] for place in places)]


def _ask(
    target: Cluster,
    made: ConfigPlan,
    items: t.Sequence[Item],
    kinds: t.Mapping[str, Kind | None],
    stand_in: str,
    migration: str,
) -> None:
    fill(items, kinds, migration)

    def one(item: Item) -> None:
        body, present = t.cast(Object, item.body), None if item.action == "create" else item.present
        item.asked = True
        try:
            stored, dropped = _writer.rehearse(target, t.cast(Kind, kinds[item.kind]), body, present, made.namespaces, stand_in)
        except MigrationError as error:
            item.action, item.reason = "refused", _writer.refusal(error)
            return
        if dropped:
            item.action, item.reason = "refused", f"the target would drop {', '.join(dropped)}"
        elif item.action == "update" and fingerprint(stored) == fingerprint(t.cast(Object, present)):
            item.action, item.reason = "same", "the target's own defaults are all that differs"
        elif item.action != "restore" and _writer.changed(body, stored):
            body["metadata"]["annotations"][CONTENT] = digest(stored)  # the target's defaults are part of what we wrote

    for answer in flow(items, one, WORKERS):
        values([answer])


def apply(target: Cluster, made: ConfigPlan, journal: Journal, kinds: t.Mapping[str, Kind | None], migration: str) -> list[str]:
    """Write namespaces, then the objects: those of one rank at the same time. Returns what was done.

    One item that fails stops the ranks behind it, not its neighbours. Raises MigrationError with done and not_done.
    """
    done: list[str] = []
    for name in made.namespaces:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {MANAGED_BY: migration}}}
        with journal.around(Change("create", f"target/Namespace/{name}", None, {"name": name})):
            _writer.create(target, NAMESPACE, body)
        done.append(f"create target/Namespace/{name}")
    ranks: dict[int, list[Item]] = {}
    for item in made.writes:
        ranks.setdefault(item.rank, []).append(item)
    order = sorted(ranks, reverse=any(item.action == "delete" for item in made.writes))
    errors = []
    for answer in _writer.in_order(
        order, ranks.__getitem__, lambda item: _write(target, item, journal, t.cast(Kind, kinds[item.kind])), WORKERS
    ):
        if answer.error is None:
            done.append(f"{answer.item.action} {answer.item.where}")
        else:
            errors.append((answer.item, answer.error))
    if errors:
        item, error = errors[0]
        finished = set(done)
        raise MigrationError(
            f"{len(errors)} of {len(made.writes)} objects could not be written",
            where=item.where,
            why="; ".join(f"{failed.key}: {problem.why or problem.what}" for failed, problem in errors[:5]),
            todo=error.todo or "mend the cause and run again: what is done already is not done twice",
            done=done,
            not_done=[f"{item.action} {item.where}" for item in made.writes if f"{item.action} {item.where}" not in finished],
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
            _writer.create(target, kind, t.cast(Object, item.body))
        elif item.action == "delete":
            meta = present["metadata"]  # by its version, too: nobody changed it since it was judged
            target.delete(kind, item.name, item.namespace, uid=meta["uid"], version=meta.get("resourceVersion", ""))
        else:
            _writer.replace(target, kind, t.cast(Object, item.body))
    if item.action == "restore":
        journal.forget(key)


def verify(target: Cluster, made: ConfigPlan, kinds: t.Mapping[str, Kind | None], migration: str) -> None:
    """Read back what was written: it holds what was wanted, or is gone. Raises MigrationError."""
    written = [item for item in made.writes if item.action != "restore"]
    found, _served = read_side(target, {item.kind for item in written}, f"{MANAGED_BY}={migration}") if written else ([], {})
    present = {key_of(obj): obj for obj in found}
    for item in made.of("restore"):  # it has no label of ours any more
        obj = target.get(t.cast(Kind, kinds[item.kind]), item.name, item.namespace)
        if obj is not None:
            present[item.key] = {**obj, "kind": item.kind}
    wrong = []
    for item in made.writes:
        obj = present.get(item.key)
        if item.action == "delete":
            if obj is not None and not obj["metadata"].get("deletionTimestamp"):
                wrong.append(f"{item.key} is still there")
        elif obj is None:
            wrong.append(f"{item.key} is not there")
        elif not holds(obj, t.cast(Object, item.body)):
            wrong.append(f"{item.key} holds something else")
    if wrong:
        raise MigrationError(
            "The target does not hold what was written",
            where=target.where(),
            why=few(wrong),
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


def _problem(made: ConfigPlan, on_conflict: str, on_refused: str) -> MigrationError | None:
    """What stands against the whole: nothing is written then."""
    refused = [] if on_refused == "skip" else made.of("refused")
    conflicts = [] if on_conflict == "skip" else made.of("conflict")
    if not refused and not conflicts:
        return None
    lines = [f"{item.key}: {item.reason}" for item in [*refused, *conflicts]]
    todo = ["mend what is refused in the source, or set on_refused to skip"] if refused else []
    if any(item.differences for item in conflicts):
        todo.append("look at the differences, then make both sides agree or set on_conflict to update or skip")
    elif conflicts:
        todo.append("see why it is in the way, or set on_conflict to skip")
    return MigrationError(
        f"{len(lines)} of {len(made.items)} objects cannot be copied",
        where="target",
        why=few(lines, 8, see=" (see items)"),
        todo="; ".join(todo),
        not_done=[f"{item.action} {item.where}" for item in made.writes],
    )


def _no_room(made: ConfigPlan, journal: Journal) -> MigrationError | None:
    """What is overwritten is kept in the journal, whose mirror holds ``_KEPT`` bytes: more than that is not begun."""
    doomed = [t.cast(Object, item.present) for item in made.items if item.overwrites]
    size = sum(len(_snapshot.canonical(obj)) for obj in doomed) + len(_snapshot.canonical(journal.originals()))
    if not doomed or size <= _KEPT:
        return None
    return MigrationError(
        f"{len(doomed)} objects are too many to be overwritten in one migration",
        where="target",
        why=f"copies of them are kept for the way back, and take {size // 1000} KB of {_KEPT // 1000}",
        todo="overwrite fewer, chosen with namespaces, kinds or names, each part under a name of its own in migration",
        not_done=[f"{item.action} {item.where}" for item in made.writes],
    )


def _present(session: Session, check_mode: bool) -> tuple[ConfigPlan, Observed, Object]:
    options = session.options
    scope, filters = options["scope"], filters_of(options)
    seen = observe(session.source, session.target, options["kinds"] if scope == "all" else ())
    pods = workloads(session.source, options["gateways"], session.journal, options["target_selector"])
    selected = select(seen.source, pods, scope=scope, filters=filters)
    made = plan_present(
        selected,
        seen.target,
        seen.kinds,
        migration=options["migration"],
        on_conflict=options["on_conflict"],
        target_namespaces=seen.namespaces,
        create_namespaces=options["create_namespaces"],
        target_version=options["target_version"] or "",
    )
    made.notes += [f"not copied: {key_of(obj)}: the source is deleting it" for obj in seen.going if filters.lets_through(obj)]
    stand_in = options["gateways"][0]["namespace"]
    place = stand_in if stand_in in seen.namespaces else "default"
    sampled = check_mode and options["rehearse"] == "sample"
    rehearse(session.target, made, seen.kinds, place, migration=options["migration"], most=SAMPLE if sampled else None)
    if made.is_told_whole:
        fill(made.writes, seen.kinds, options["migration"])
    known = [*seen.source, *seen.going]
    made.items += only_in_target(known, seen.target, pods, scope=scope, filters=filters, migration=options["migration"])
    secrets = credentials(session.source, selected, options["gateways"])
    return made, seen, {"secrets": secrets, "counts": made.counts()}


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
    filters = Filters(namespaces=options["namespaces"], names=options["names"])
    made.items = [item for item in made.items if filters.lets_through(t.cast(Object, item.present))]
    seen.leaving = _empty_namespaces(session, made)
    rehearse(session.target, made, seen.kinds, "", migration=options["migration"])
    return made, seen, {"secrets": [], "counts": {}}


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
        made, seen, result = _present(session, check_mode)
    else:
        warnings += enforce(in_use(session), check_mode)
        made, seen, result = _absent(session)
    plan = made.as_plan()
    lost = [f"{item['namespace']}/{item['name']}" for item in result["secrets"] if not item["exists"]]
    if lost:
        warnings.append(f"Secrets that the Gateways serve TLS with are not there: {', '.join(lost)}")
    rehearsal = made.rehearsal()
    if not rehearsal["complete"]:
        warnings.append(_UNASKED.format(**rehearsal))
    result.update(items=[item.as_dict() for item in made.items], namespaces=made.namespaces, rehearsal=rehearsal)
    outcome = Outcome(plan, result, warnings)
    left = made.of("refused") if params["on_refused"] == "skip" else []
    if left:
        named = "; ".join(f"{item.key}: {item.reason}" for item in left[:5])
        outcome.warnings.append(f"{len(left)} objects are not copied, since the target does not take them: {named}")
    outcome.failed = _problem(made, params["on_conflict"], params["on_refused"]) or _no_room(made, session.journal)
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
        verify(session.target, made, seen.kinds, params["migration"])
    except MigrationError as error:
        outcome.failed = error
    session.journal.sync()
    outcome.warnings += session.journal.withheld
    return outcome
