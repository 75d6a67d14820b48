# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Waves of workloads as something that the staircase can climb: a share is the part of all workloads that has moved."""

from __future__ import annotations

import dataclasses
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError, few
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Change
from ansible_collections.servicemesh.migration.plugins.module_utils._core._retry import repeated_until
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _inject, _rehearsal
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._fleet import (
    DONE,
    FAILED,
    QUEUED,
    ROLLING,
    Fleet,
    Flight,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._inject import Original, Return
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._waves import Wave
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._workloads import (
    MOVE,
    SOURCE,
    Scope,
    Survey,
    Wish,
    Workload,
    afresh,
    read,
    survey,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._staircase import Move
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._steps import Step, Todo

Object = dict[str, t.Any]
# What is added to a workload's key in the journal: what its way back needed.
_BACK, _OUT = "/back", "/out"
# Names in a message.
_MOST = 5


def eligible(one: Workload) -> bool:
    return one.state != SOURCE or not one.obstacle


def shares(waves: t.Sequence[Wave[Workload]]) -> list[float]:
    """After each wave, the percentage of all workloads that can be moved which has moved then. Pure."""
    sizes = [sum(1 for one in wave.members if eligible(one)) for wave in waves]
    total, sum_, found = sum(sizes), 0, []
    for size in sizes:
        sum_ += size
        found.append(100.0 * sum_ / total if total else 0.0)
    return found


def todo_of(waves: t.Sequence[Wave[Workload]], originals: t.Mapping[str, Original], unjudged: t.Collection[int]) -> list[Todo]:
    """The waves in which something is left to do, and the one whose judgement was cut short. Pure.

    :arg unjudged: numbers of waves that were begun and never passed.
    """
    after = shares(waves)
    left: list[Todo] = []
    last: Todo | None = None
    for index, wave in enumerate(waves):
        before = after[index - 1] if index else 0.0
        step = Step(wave.number, after[index], wave.rule.hold, wave.rule.max_hold)
        if any(open_(one, originals) for one in wave.members):
            left.append(Todo(step, True, before))
        elif after[index] > before and not left:
            last = Todo(step, False, before)
    if last is not None and last.step.number in unjudged:
        left.insert(0, last)
    return left


def open_(one: Workload, originals: t.Mapping[str, Original]) -> bool:
    """Whether there is something to do for this workload."""
    return (one.state == SOURCE and not one.obstacle) or _inject.unsettled(one, originals.get(_inject.journal_key(one)))


def originals_of(journal: Journal, trail: str = MOVE) -> dict[str, Original]:
    """What the journal knows, by its key, with what the way back needed."""
    values = journal.originals(f"{trail}/")
    found = {key: _inject.read_original(value) for key, value in values.items() if not key.endswith((_BACK, _OUT))}
    for key in list(found):
        if key + _BACK in values:
            more = values[key + _BACK]
            found[key] = dataclasses.replace(found[key], guard=more.get("guard"), unavailable=more.get("unavailable"))
        if key + _OUT in values:
            later = _inject.read_original(values[key + _OUT])
            found[key] = dataclasses.replace(found[key], edit=later.edit, out=later.out)
    return found


def forget(journal: Journal, keys: t.Collection[str]) -> None:
    """These workloads are as they were, or gone."""
    journal.try_forget([*keys, *(key + more for key in keys for more in (_BACK, _OUT))])


def unjudged_of(journal: Journal, trail: str = MOVE) -> set[int]:
    """Waves that were begun and never passed, by this machine's journal."""
    found: set[int] = set()
    for entry in journal.entries():
        if entry.get("event") != trail:
            continue
        if entry.get("what") == "begin":
            found.add(int(entry["step"]))
        elif entry.get("what") == "passed":
            found.discard(int(entry["step"]))
        elif entry.get("what") == "rolled back" and entry.get("ok"):
            found.clear()
    return found


def proven_of(journal: Journal, trail: str = MOVE) -> set[str]:
    """Places of workloads that an earlier run saw arrive, by this machine's journal. Unwell since is another matter."""
    found: set[str] = set()
    for entry in journal.entries():
        if entry.get("event") == "workload" and entry.get("trail", MOVE) == trail:
            place = str(entry.get("target", "")).partition("/")[2]
            (found.add if entry.get("forth") and entry.get("state") == DONE else found.discard)(place)
    return found


class Convoy:
    """A Shifter. ``paused()``: nothing new is started while it is true. ``say(text)``: progress for people."""

    def __init__(
        self,
        cluster: Cluster,
        fleet: Fleet,
        journal: Journal,
        scope: Scope,
        waves: t.Sequence[Wave[Workload]],
        *,
        first: float,
        restore_failed: bool = True,
        paused: t.Callable[[], bool] = lambda: False,
        say: t.Callable[[str], None] = lambda _text: None,
        rehearse: t.Callable[[t.Sequence[Workload]], None] = lambda _members: None,
    ) -> None:
        self._cluster = cluster
        self._fleet = fleet
        self._journal = journal
        self._scope = scope
        self._waves = list(waves)
        self._shares = shares(waves)
        self._last = first
        self._restore_failed = restore_failed
        self._paused = paused
        self._say = say
        self._rehearse = rehearse
        self._flights: dict[int, list[Flight]] = {}
        self._done: dict[str, str] = {}
        self.trouble: MigrationError | None = None
        self.kept_out: list[str] = []
        self.unasked: list[str] = []

    @property
    def done(self) -> list[str]:
        """What happened to each workload in the end."""
        return [f"{place} {what}" for place, what in self._done.items()]

    @property
    def touched(self) -> set[str]:
        """Places of the workloads that were written to."""
        return {*self._done, *(one.workload.place for _wave, one in self.flights() if one.wrote)}

    def drifted(self, share: float) -> bool:
        """Workloads need no new plan when pods come and go."""
        return False

    def flights(self) -> list[tuple[Wave[Workload], Flight]]:
        """What this run did, in order."""
        return [(self._waves[number - 1], one) for number, some in sorted(self._flights.items()) for one in some]

    def move(self, share: float, *, timeout: float, reason: str) -> Move:
        """Forwards one tick at a time, so that gates and orders are heard in between; backwards until it is done."""
        written = len(self._fleet.writes)
        if share < self._last:
            self._back(share)
        else:
            self._last = share
            with repeated_until(time.monotonic() + timeout, self._cluster):
                self._forth(share)
        moved = [one.as_dict() for wave, one in self.flights() if self._shares[wave.number - 1] <= share + 1e-9]
        return Move(share, share, moved, tuple(self._fleet.writes[written:]))

    # -- forth ---------------------------------------------------------------------------------------------------

    def _forth(self, share: float) -> None:
        number = next(index for index, after in enumerate(self._shares, 1) if after >= share - 1e-9)
        wave = self._waves[number - 1]
        if number not in self._flights:
            self._flights[number] = self._prepare(self._waves[:number])
        flights = self._flights[number]
        failed = [one for one in flights if one.state == FAILED]
        self._fleet.tick(flights, hold=bool(failed) or self._paused())
        self._tell(wave, flights)
        failed = [one for one in flights if one.state == FAILED]
        if failed and not any(one.state == ROLLING for one in flights):
            self._note_done(flights)
            self.trouble = self._trouble(wave, flights, failed)
            raise self.trouble
        if all(one.state == DONE for one in flights):
            self._note_done(flights)
            self._journal.sync()
            return
        waiting = [one for one in flights if one.state in (QUEUED, ROLLING)]
        why = "; ".join(f"{one.workload.place}: {one.reason or one.state}" for one in waiting[:_MOST])
        raise MigrationError(f"Wave {wave.name} is not through yet", why=why, transient=True, done=self.done)

    def _prepare(self, waves: t.Sequence[Wave[Workload]]) -> list[Flight]:
        """Flights for all that is left in these waves, as it is now; what has to be remembered is on the disk before the first
        patch."""
        known = originals_of(self._journal, self._scope.trail)
        handled = {one.workload.key for some in self._flights.values() for one in some}
        fresh: dict[str, Object] = {}
        found: list[Flight] = []
        left = [(wave, one) for wave in waves for one in wave.members if one.key not in handled and open_(one, known)]
        still = [one for _wave, one in left if one.state == SOURCE]
        now = {one.key: one for one in afresh(self._cluster, still)}
        for wave, seen in left:
            one = now.get(seen.key, seen)
            key = _inject.journal_key(one)
            if one.state != SOURCE:
                found.append(Flight(one, known.get(key), None, True))
                continue
            asked = _inject.original_of(one, self._scope.wish, wave.name)
            original = known.get(key, asked)
            if key not in known:
                fresh[key] = original.as_value()
            elif original.after("labels") != asked.after("labels"):
                raise _other_wish(one)
            elif one.guard is not None and original.guard is None:
                # Remembered by a run that was killed before its patch, when the workload needed no guard.
                original = dataclasses.replace(original, guard=asked.guard, unavailable=asked.unavailable)
                fresh[key + _BACK] = original.as_value()
            before, after = _inject.shown(one, original)
            change = Change("relabel", _inject.target_name(one), before, after, f"wave {wave.name}")
            found.append(Flight(one, original, _inject.forward(one, original), True, change))
        self._rehearse([one.workload for one in found if one.patch is not None])
        self._journal.keep_originals(fresh)
        if self._journal.unsaved:
            self._journal.sync()  # an earlier try kept them, and the cluster did not answer
        return found

    def _tell(self, wave: Wave[Workload], flights: t.Sequence[Flight]) -> None:
        count = {state: sum(1 for one in flights if one.state == state) for state in (DONE, ROLLING, QUEUED, FAILED)}
        slow = next((f" | {one.workload.place}: {one.reason}" for one in flights if one.state == ROLLING and one.reason), "")
        numbers = ", ".join(f"{number} {state}" for state, number in count.items() if number)
        self._say(f"wave {wave.name}: {numbers}{slow}")

    def _note_done(self, flights: t.Sequence[Flight]) -> None:
        for one in flights:
            if one.state == DONE and one.wrote:
                self._done[one.workload.place] = "moved"

    def _trouble(self, wave: Wave[Workload], flights: t.Sequence[Flight], failed: t.Sequence[Flight]) -> MigrationError:
        why = few([f"{one.workload.place}: {one.reason}" for one in failed], _MOST)
        back = ""
        if self._restore_failed:
            back = self._restore({one.workload.key for one in failed})
        return MigrationError(
            f"{len(failed)} of {len(flights)} workloads of wave {wave.name} did not come to the target{back}",
            why=why,
            todo="look at the named pods, mend the cause, then run again; what has moved is not moved again",
            done=self.done,
            not_done=[f"{one.workload.place}: {one.reason or one.state}" for one in flights if one.state != DONE],
        )

    def _restore(self, keys: t.Collection[tuple[str, str, str]]) -> str:
        try:
            back = self.bring_back(lambda one: one.key in keys)
        except MigrationError as error:
            return f", and putting the old sidecar back FAILED ({error.why})"
        return f"; {len(back)} have their old sidecar back"

    # -- back ----------------------------------------------------------------------------------------------------

    def _back(self, share: float) -> None:
        keys = {
            one.key
            for wave, after in zip(self._waves, self._shares)  # noqa: B905
            if after > share + 1e-9
            for one in wave.members
        }
        self.bring_back(lambda one: one.key in keys)

    def bring_back(
        self,
        chosen: t.Callable[[Workload], bool],
        stop: t.Callable[[], str] = lambda: "",
        opt_out: t.Mapping[str, str] | None = None,
        paused: t.Callable[[], bool] = lambda: False,
    ) -> list[Flight]:
        """Undo from the state of now what this migration did to the chosen workloads; raises when not all of it could be.

        :arg paused: only for a way back that somebody asked for. What a gate or a failure takes back waits for no one.
        :arg opt_out: labels for workloads whose pods the target would take without its label, too. They keep them, and stay in
            the journal, until an undo after the cluster has left the target.
        """
        with repeated_until(None, self._cluster):  # also from within a move whose time is up
            return self._bring_back(chosen, stop, opt_out, paused)

    def _bring_back(
        self,
        chosen: t.Callable[[Workload], bool],
        stop: t.Callable[[], str],
        opt_out: t.Mapping[str, str] | None,
        paused: t.Callable[[], bool],
    ) -> list[Flight]:
        seen = survey(read(self._cluster, self._scope.namespaces), dataclasses.replace(self._scope, selector=()))
        back, refused, over = _inject.returns(seen, originals_of(self._journal, self._scope.trail), ())
        items = self._rehearsed([item for item in back if chosen(item.workload)], opt_out or {})
        flights = self.flights_back(items)
        stopped = ""
        while any(one.state in (QUEUED, ROLLING) for one in flights):
            stopped = stopped or stop()
            if stopped and not any(one.state == ROLLING for one in flights):
                break
            self._fleet.tick(flights, hold=bool(stopped) or paused())
            self._say(f"back: {sum(1 for one in flights if one.state == DONE)} of {len(flights)}")
        ended = [one for one in flights if one.state == DONE]
        self.kept_out = sorted(one.workload.place for one in ended if one.original is not None and one.original.out)
        keys = [_inject.journal_key(one.workload) for one in ended if one.workload.place not in self.kept_out]
        keys += [key for key in over if any(key == _inject.journal_key(one) and chosen(one) for one in seen.workloads)]
        forget(self._journal, [*keys, *_inject.gone(seen, originals_of(self._journal, self._scope.trail))])
        self._done.update({one.workload.place: "is back" for one in ended})
        self._check(flights, [(one, why) for one, why in refused if chosen(one)], stopped)
        return flights

    def _rehearsed(self, items: list[Return], opt_out: t.Mapping[str, str]) -> list[Return]:
        """The same, with the labels that keep pods out where the target would take them all. Raises before anything restarts."""
        proxies, plain = self._scope.proxies, [dataclasses.replace(one, original=_inject.inward(one.original)) for one in items]
        wrong, self.unasked = _rehearsal.rehearse_back(self._cluster, [_edit(one) for one in plain], proxies)
        taken = {one.workload.namespace for one in plain} & set(wrong)
        if not taken:
            return plain
        outside = [
            dataclasses.replace(one, original=_inject.kept_out(one.workload, one.original, opt_out))
            if one.workload.namespace in taken
            else one
            for one in plain
        ]
        edits = [_edit(dataclasses.replace(one, original=_inject.outward(one.original))) for one in outside]
        still, _unasked = _rehearsal.rehearse_back(self._cluster, edits, proxies) if opt_out else (wrong, [])
        if still:
            raise MigrationError(
                "The workloads would not get their old sidecars, so none of them is restarted",
                where=self._cluster.name,
                why="in a dry run: " + "; ".join(list(still.values())[:_MOST]),
                todo="look at the injection webhooks of both meshes and at the labels of the namespaces; then run again",
                not_done=[one.workload.place for one in items],
            )
        return outside

    def _check(self, flights: t.Sequence[Flight], refused: t.Sequence[tuple[Workload, str]], stopped: str) -> None:
        bad = [f"{one.workload.place}: {one.reason or stopped or one.state}" for one in flights if one.state != DONE]
        bad += [f"{one.place}: {why}" for one, why in refused]
        if bad:
            raise MigrationError(
                f"{len(bad)} workloads could not be taken back",
                why=few(bad, _MOST),
                todo="mend the cause, then run with state: restored again",
                done=self.done,
                not_done=bad,
            )

    def flights_back(self, back: t.Sequence[Return]) -> list[Flight]:
        found: list[Flight] = []
        guards: dict[str, Object] = {}
        for item in back:
            one, known = item.workload, item.original
            if one.guard is not None and known.guard is None:
                known = dataclasses.replace(known, guard=one.guard, unavailable=one.manners.raw)
                guards[_inject.journal_key(one) + _BACK] = known.as_value()
            if known.out:
                guards[_inject.journal_key(one) + _OUT] = known.as_value()
                known = _inject.outward(known)
            before, after = _inject.shown(one, known)
            change = Change("relabel", _inject.target_name(one), after, before, f"back from wave {known.wave}")
            patch = None if _inject.undone(one, known) else _inject.backward(one, known)
            found.append(Flight(one, known, patch, False, change))
        self._journal.keep_originals(guards)
        return found


def differences(before: Survey, after: Survey) -> list[tuple[Workload, Workload]]:
    """Workloads whose template or manners are not what they were."""
    old = {(one.key, one.uid): one for one in before.workloads}
    pairs = [(old[one.key, one.uid], one) for one in after.workloads if (one.key, one.uid) in old]

    def parts(one: Workload) -> tuple[t.Any, ...]:
        return dict(one.template_labels), dict(one.template_annotations), one.manners.raw

    return [(one, two) for one, two in pairs if parts(one) != parts(two)]


def _other_wish(one: Workload) -> MigrationError:
    return MigrationError(
        "A workload was moved with other labels before",
        where=_inject.target_name(one),
        why="the journal remembers an edit of this migration that is not the one that is asked for now",
        todo="take it back first (state: restored), then move it with the new labels",
    )


def _edit(item: Return) -> tuple[Workload, Wish]:
    return item.workload, Wish(item.original.before("labels"), item.original.before("annotations"))
