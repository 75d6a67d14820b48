# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A world for the staircase in which time, mover, gates, orders and signals are of the test's making."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._control import Order
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gates import (
    PASS,
    Panel,
    Verdict,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._staircase import (
    Clock,
    Move,
    Report,
    Rules,
    Staircase,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._steps import (
    read_steps,
    remaining,
)


class FakeClock(Clock):
    """Time that passes only when somebody sleeps or moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_700_000_000.0 + self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds

    def watch(self, call: t.Callable[[], bool], interval: float) -> t.Any:
        return FakeWatch(self, call, interval)


class FakeWatch:
    def __init__(self, clock: FakeClock, call: t.Callable[[], bool], interval: float) -> None:
        self._clock, self._call, self._interval = clock, call, interval
        self._due = clock.now + interval
        self._value: bool | None = None
        self._problem = ""

    def latest(self) -> bool | None:
        if self._clock.now >= self._due:
            self._due += self._interval
            try:
                self._value = self._call()
                self._problem = ""
            except MigrationError as error:
                self._problem = error.what
        return self._value

    def problem(self) -> str:
        return self._problem

    def stop(self) -> None:
        pass


class FakeShifter:
    """A load balancer in one number. ``errors``: what the n-th move raises; half of it is done by then when ``half`` is set."""

    def __init__(self, clock: FakeClock, share: float = 0.0, seconds: float = 0.3) -> None:
        self.clock, self.share, self.seconds = clock, share, seconds
        self.moves: list[tuple[float, str]] = []
        self.errors: dict[int, Exception] = {}
        self.half = False
        self.drift: list[bool] = []
        self.drift_error = ""

    def move(self, share: float, *, timeout: float, reason: str) -> Move:
        self.moves.append((share, reason))
        error = self.errors.pop(len(self.moves), None)
        self.clock.now += self.seconds / 2
        first = self.clock.time()
        if error is not None:
            if self.half:
                self.share = (self.share + share) / 2
            raise error
        self.clock.now += self.seconds / 2
        writes = (first, self.clock.time()) if share != self.share else ()
        self.share = share
        return Move(planned=share + 0.1, observed=share + 0.2, gateways=[{"gateway": "g"}], writes=writes)

    def drifted(self, share: float) -> bool:
        if self.drift_error:
            raise MigrationError(self.drift_error)
        return self.drift.pop(0) if self.drift else False


class FakeGate:
    """Judges by a function of (seconds since start, share of the load balancer)."""

    name = "gate"

    def __init__(self, world: World, judge: t.Callable[[float, float], str]) -> None:
        self._world, self._judge = world, judge
        self.started: list[float] = []
        self.stopped = 0
        self.only_with_traffic = False

    def start(self) -> None:
        self.started.append(self._world.clock.now)

    def verdict(self) -> Verdict:
        state = self._judge(self._world.clock.now - self.started[-1], self._world.shifter.share)
        return Verdict(state, f"it is {state}", {"share": self._world.shifter.share})

    def stop(self) -> None:
        self.stopped += 1


class FakeControl:
    def __init__(self) -> None:
        self.script: t.Callable[[], Order] = Order
        self.text = ""

    def order(self) -> Order:
        return self.script()

    def problem(self) -> str:
        return self.text


class Lines:
    def __init__(self) -> None:
        self.lines: list[dict[str, t.Any]] = []

    def event(self, event: str, **fields: t.Any) -> None:
        self.lines.append({"event": event, **fields})


@dataclasses.dataclass
class World:
    """One run, from the options to the report."""

    share: float = 0.0
    judge: t.Callable[[float, float], str] = lambda _seconds, _share: PASS

    def __post_init__(self) -> None:
        self.clock = FakeClock()
        self.shifter = FakeShifter(self.clock, self.share)
        self.gate = FakeGate(self, self.judge)
        self.control = FakeControl()
        self.lines = Lines()
        self.notes: list[dict[str, t.Any]] = []
        self.interrupt: t.Callable[[], str] = str
        self.note_error: MigrationError | None = None
        self.known: dict[float, str] = {}

    def note(self, what: str, **fields: t.Any) -> None:
        if self.note_error is not None:
            raise self.note_error
        self.notes.append({"what": what, **fields})

    def compare(self, share: float) -> tuple[float, float]:
        return self.shifter.share - share, self.shifter.share - share

    def run(
        self, steps: t.Sequence[t.Any] = (1, 5, 25, 50, 100), *, hold: float = 10, down: bool = False, **rules: t.Any
    ) -> Report:
        found = read_steps(list(steps), hold=hold, allow_down=down)
        present = self.shifter.share
        todo = remaining(found, self.compare, present=present, known=lambda share: self.known.get(share, ""), allow_down=down)
        stairs = Staircase(
            self.shifter,
            Panel([self.gate]),
            self.control,
            self.lines,
            Rules(**rules),
            note=self.note,
            interrupted=self.interrupt,
            clock=self.clock,
        )
        return stairs.run(todo, present, found[-2].share if len(found) > 1 else 0.0)

    @property
    def shares(self) -> list[float]:
        return [share for share, _reason in self.shifter.moves]
