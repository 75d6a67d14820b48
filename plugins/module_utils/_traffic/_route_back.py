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
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Change, Plan
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
Problems = dict[str, MigrationError]
#: What became of a VirtualService, for RV(restored).
RESTORED, SAME, GONE, NOT_RESTORED, NOT_PROVEN = "restored", "as_before", "gone", "not_restored", "not_proven"
_REASON = "as before this migration"


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
    def where(self) -> str:
        return where_of(self.mesh, self.namespace, self.name)

    @property
    def change(self) -> Change:
        before, then = _routes.shown(t.cast(Object, self.obj)), _routes.shown(self.original)
        return Change("set_route_weights", self.where, before, then, _REASON)

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
    """Weights first, each VirtualService by itself; then what was made goes, but nothing while weights could not be put back."""
    objects, mover = Objects(clusters, journal), RouteMover(clusters, [], journal, proxies)
    back, refused = returns(mover)
    items = [] if refused else objects.doomed()
    made = Plan()
    for one in back:
        if one.obj is None:
            made.notes.append(f"{one.where} is gone, there is nothing to put back")
        elif one.differs:
            made.changes.append(one.change)
    _route_objects.tell(items, made)
    result: Object = {"objects": [item.as_dict() for item in items], "run": journal.run}
    problem = _not_back(refused, {}, {}, len(back), []) if refused else None
    if check_mode or (problem and not made.changed):
        return Outcome(made, result, failed=problem)
    unable, unproven = _put_back(mover, [one for one in back if one.differs], timeout)
    done = Plan([one.change for one in back if one.differs and one.where not in unable], made.notes)
    result["restored"] = [_row(one, unable.get(one.where), unproven.get(one.where)) for one in back]
    result["restored"] += [{"target": error.where, "state": NOT_RESTORED, "reason": error.why or error.what} for error in refused]
    if unable or unproven:
        problem = _not_back(refused, unable, unproven, len(back), mover.written)
    warnings: list[str] = []
    try:
        if problem is None:
            if any(item.action == "delete" for item in items):
                # Requests that a gateway is still answering keep its listeners for a while.
                clock.sleep(drain or 0.001)
            objects.write(items)
            done.changes += [_route_objects.change_of(item) for item in items if item.action in _route_objects.WRITES]
            objects.forget()
        over = [one for one in back if one.where not in unable and one.where not in unproven]
        journal.forget_keys([f"{PREFIX}{one.mesh}/{one.namespace}/{one.name}" for one in over])
    except MigrationError as error:
        error.done = list(dict.fromkeys([*mover.written, *error.done]))
        if problem is None:
            problem = error
        else:
            warnings.append(error.message)
    with contextlib.suppress(MigrationError):
        journal.sync()
    return Outcome(done, result, warnings, problem)


def _put_back(mover: RouteMover, moved: t.Sequence[Return], timeout: float) -> tuple[Problems, Problems]:
    """``(what could not be put back, what no proxy was seen to have)``, each by its place.

    Each by itself: traffic whose way back is clear waits for none that has to wait for its destination, nor for the proofs.
    """
    until = time.monotonic() + timeout
    unable: Problems = {}
    unproven: Problems = {}
    for attempts in (1, 4):
        left = [one for one in moved if attempts == 1 or (one.where in unable and unable[one.where].transient)]
        for one in left:
            unable.pop(one.where, None)
            try:
                _ready(mover, one, attempts)
                mover.restore(one.state, one.original, _REASON)
            except MigrationError as error:
                unable[one.where] = error
    for one in moved:
        if one.where not in unable:
            try:
                _prove_back(mover, one, until)
            except MigrationError as error:
                unproven[one.where] = error
    return unable, unproven


def _ready(mover: RouteMover, one: Return, attempts: int) -> None:
    """Whoever gets more has somebody who answers. Not waited for long: when the source is down too, somebody has to decide."""

    def ask() -> None:
        for place in _gaining(one):
            mover.carries(one.mesh, one.namespace, place, one.state.where)

    retry(ask, attempts=attempts)


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


def _row(one: Return, unable: MigrationError | None, unproven: MigrationError | None) -> Object:
    """For RV(restored)."""
    error = unable or unproven
    state = NOT_RESTORED if unable else NOT_PROVEN if unproven else GONE if one.obj is None else RESTORED if one.differs else SAME
    return {"target": one.where, "state": state, "reason": _told(error) if error else ""}


def _told(error: MigrationError) -> str:
    return f"{error.what}: {error.why}" if error.why else error.what


def _not_back(
    refused: t.Sequence[MigrationError], unable: Problems, unproven: Problems, others: int, written: t.Sequence[str]
) -> MigrationError:
    """One error for all that is not back, each with its reason."""
    bad = {**{error.where: error for error in refused}, **unable}
    whole = len(refused) + others
    parts = [f"{len(bad)} of {whole} VirtualServices cannot be put back"] if bad else []
    if unproven:
        parts.append(f"{len(unproven)} of {whole} have their weights back, and proxies were not seen to have taken them")
    errors = {**bad, **unproven}
    return MigrationError(
        f"{'; '.join(parts)}; what they need is not taken away",
        where=", ".join(errors),
        why="; ".join(f"{where}: {_told(error)}" for where, error in errors.items()),
        todo="; ".join(dict.fromkeys(error.todo for error in errors.values() if error.todo)),
        done=list(written),
        not_done=list(bad),
        details=next(iter(errors.values())).details,
    )
