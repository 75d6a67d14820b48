# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""route_weight's way back: the original weights, byte for byte, and away with what was made for the move."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._retry import retry
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _route_objects, _routes
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._route_objects import Objects
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._route_proof import Proxies
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._route_mover import (
    PREFIX,
    RouteMover,
    RouteState,
    where_of,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._staircase import Clock

Object = dict[str, t.Any]


@dataclasses.dataclass(frozen=True)
class Return:
    """A VirtualService that gets its original weights. ``obj``: as it is now, None when it is gone."""

    mesh: str
    namespace: str
    name: str
    original: Object
    obj: Object | None

    @property
    def state(self) -> RouteState:
        return RouteState(self.mesh, t.cast(Object, self.obj), ())

    @property
    def differs(self) -> bool:
        obj = self.obj
        return obj is not None and (_routes.shown(obj) != _routes.shown(self.original) or bool(_routes.mark_of(obj)[0]))


def returns(mover: RouteMover) -> tuple[list[Return], list[MigrationError]]:
    """All that this migration wrote to, and what must not be written to because somebody else changed it."""
    found: list[Return] = []
    refused: list[MigrationError] = []
    for mesh, namespace, name, original in mover.originals():
        obj = mover.read(mesh, namespace, name)
        try:
            if obj is not None:
                mover.refuse_conflict(mesh, obj)
                _routes.restored(obj, original)
            found.append(Return(mesh, namespace, name, original, obj))
        except MigrationError as error:
            refused.append(error)
    return found, refused


def restore(
    clusters: t.Mapping[str, Cluster],
    journal: Journal,
    proxies: Proxies | None,
    clock: Clock,
    drain: float,
    timeout: float,
    check_mode: bool,
) -> Outcome:
    """Weights first, then what was made goes; nothing goes while weights could not be put back."""
    objects, mover = Objects(clusters, journal), RouteMover(clusters, [], journal, proxies)
    back, refused = returns(mover)
    items = [] if refused else objects.doomed()
    made = Plan()
    for one in back:
        where = where_of(one.mesh, one.namespace, one.name)
        if one.obj is None:
            made.notes.append(f"{where} is gone, there is nothing to put back")
        elif one.differs:
            before, then = _routes.shown(one.obj), _routes.shown(one.original)
            made.add("set_route_weights", where, before, then, "as before this migration")
    _route_objects.tell(items, made)
    result: Object = {"objects": [item.as_dict() for item in items], "run": journal.run}
    problem = _refused(refused) if refused else None
    if check_mode or (problem and not made.changed):
        return Outcome(made, result, failed=problem)
    done = Plan(notes=made.notes)
    try:
        _put_back(mover, [one for one in back if one.obj is not None], done, timeout)
        if problem is None:
            if any(item.action == "delete" for item in items):
                # Requests that a gateway is still answering keep its listeners for a while.
                clock.sleep(drain or 0.001)
            objects.write(items)
            done.changes += [_route_objects.change_of(item) for item in items if item.action in _route_objects.WRITES]
            objects.forget()
        journal.forget_keys([f"{PREFIX}{one.mesh}/{one.namespace}/{one.name}" for one in back])
    except MigrationError as error:
        problem = error
        problem.done = list(dict.fromkeys([*mover.written, *error.done]))
    with contextlib.suppress(MigrationError):
        journal.sync()
    return Outcome(done, result, failed=problem)


def _put_back(mover: RouteMover, back: t.Sequence[Return], done: Plan, timeout: float) -> None:
    """All weights, then the proof of all: no traffic waits for another VirtualService's proxies."""
    until = time.monotonic() + timeout
    moved = [one for one in back if one.differs]
    for one in moved:
        _ready(mover, one)
        mover.restore(one.state, one.original, "as before this migration")
        before, then = _routes.shown(t.cast(Object, one.obj)), _routes.shown(one.original)
        done.add("set_route_weights", where_of(one.mesh, one.namespace, one.name), before, then, "as before this migration")
    for one in moved:
        _prove_back(mover, one, until)


def _ready(mover: RouteMover, one: Return) -> None:
    """Whoever gets more has somebody who answers. Not waited for long: when the source is down too, somebody has to decide."""

    def ask() -> None:
        for place in _gaining(one):
            mover.carries(one.mesh, one.namespace, place, one.state.where)

    retry(ask, attempts=4)


def _gaining(one: Return) -> list[_routes.Destination]:
    """The destinations that get more than they have now."""
    found = []
    rows = {(protocol, index): entry for protocol, index, entry in _routes.table(t.cast(Object, one.obj))}
    for protocol, index, then in _routes.table(one.original):
        now = {tuple(row[:3]): row[3] for row in rows.get((protocol, index), [])}
        for host, subset, port, weight in then:
            if weight > now.get((host, subset, port), 0):
                found.append(_routes.Destination(host, subset, port))
    return found


def _prove_back(mover: RouteMover, one: Return, until: float) -> None:
    """The proxies have the original weights: of each pair of destinations that was moved, none is left with a share."""
    obj = mover.read(one.mesh, one.namespace, one.name)
    if obj is None:
        return
    if _routes.shown(obj) != _routes.shown(one.original):
        raise MigrationError("A VirtualService does not have its original weights", where=one.state.where, todo="run again")
    pairs, planned = [], set()
    for target, source in _pairs(t.cast(Object, one.obj), one.original):
        pairs.append((source[0], target[0]))
        planned.add(100.0 * target[1] / (source[1] + target[1]) if source[1] + target[1] else 0.0)
    if pairs:
        mover.wait_taken(RouteState(one.mesh, obj, ()), pairs, planned, until)


def _pairs(now: Object, original: Object) -> list[tuple[tuple[_routes.Destination, int], tuple[_routes.Destination, int]]]:
    """For each route that changed: the destination that has more now than before and the one that has less, with old weights."""
    old = {(protocol, index): rows for protocol, index, rows in _routes.table(original)}
    found = []
    for protocol, index, rows in _routes.table(now):
        before = {tuple(row[:3]): row[3] for row in old.get((protocol, index), [])}
        more = [row for row in rows if row[3] > before.get(tuple(row[:3]), 0)]
        less = [row for row in rows if row[3] < before.get(tuple(row[:3]), 0)]
        if len(more) == len(less) == 1:
            both = [(_routes.Destination(*row[:3]), before.get(tuple(row[:3]), 0)) for row in (more[0], less[0])]
            found.append((both[0], both[1]))
    return found


def _refused(refused: t.Sequence[MigrationError]) -> MigrationError:
    first = refused[0]
    return MigrationError(
        f"{len(refused)} VirtualServices cannot be put back, and what they need is not taken away",
        where=", ".join(error.where for error in refused),
        why="; ".join(error.why for error in refused),
        todo=first.todo,
        details=first.details,
    )
