# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The staircase: move, hold, judge, next; and back when it is not good. One loop; everything from outside is injected."""

from __future__ import annotations

import dataclasses
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._control import (
    ABORT,
    PAUSE,
    ROLLBACK,
    Order,
    Poller,
    Watch,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gates import FAIL, PASS, Panel, Verdict
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._progress import iso
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._steps import Todo

# A move is waited for in pieces of this length, so that gates and orders are heard while the load balancer is slow. Seconds.
_PIECE = 10.0
# The way back is tried for so long at most: then somebody has to be told, and look. Seconds.
_BACK = 60.0
# Between two tries of what may help when it is simply done again. Seconds.
_AGAIN = 0.1


@dataclasses.dataclass(frozen=True)
class Move:
    """What a move of all gateways did. Shares in percent, worst of all gateways and ports; times in seconds since the epoch."""

    planned: float
    observed: float
    gateways: list[dict[str, t.Any]] = dataclasses.field(default_factory=list)
    writes: tuple[float, ...] = ()


class Shifter(t.Protocol):
    """What can be moved in shares: a load balancer's weights now, a route's weights later."""

    def move(self, share: float, *, timeout: float, reason: str) -> Move:
        """Bring the share about and see it in effect; nothing is written when it is there already. Raises MigrationError."""

    def drifted(self, share: float) -> bool:
        """Whether the share would be planned with other weights now. Reads only; called from another thread than move."""


class Orders(t.Protocol):
    def order(self) -> Order: ...

    def problem(self) -> str: ...


class Events(t.Protocol):
    def event(self, event: str, **fields: t.Any) -> None: ...


class Clock:
    """Real time; tests bring their own."""

    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def watch(self, call: t.Callable[[], bool], interval: float) -> Watch[bool]:
        return Poller(call, interval)


@dataclasses.dataclass(frozen=True)
class Rules:
    """How it goes on when it does not go well. Times in seconds."""

    on_fail: str = "zero"
    on_interrupt: str = "hold"
    baseline: float = 30.0
    soak: float = 0.0
    soak_max: float = 60.0
    move_timeout: float = 300.0
    max_pause: float = 3600.0
    drift_interval: float = 5.0
    tick: float = 0.05


@dataclasses.dataclass
class Report:
    """What happened. ``verdict``: pass, fail, inconclusive, aborted, interrupted or error."""

    verdict: str = PASS
    reason: str = ""
    steps: list[dict[str, t.Any]] = dataclasses.field(default_factory=list)
    rolled_back: dict[str, t.Any] | None = None
    timings: dict[str, t.Any] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)
    done: list[str] = dataclasses.field(default_factory=list)
    soak: dict[str, t.Any] | None = None
    share: float | None = None


class _Stop(Exception):
    """The end of the way up. ``goal``: the share to go back to, or None to stay."""

    def __init__(
        self, verdict: str, reason: str, goal: float | None = None, numbers: t.Mapping[str, t.Any] | None = None
    ) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.reason = reason
        self.goal = goal
        self.numbers = numbers


class Staircase:
    """One run. ``interrupted()`` gives a reason once the process is asked to end, an empty text before."""

    def __init__(
        self,
        shifter: Shifter,
        gates: Panel,
        control: Orders,
        progress: Events,
        rules: Rules,
        *,
        note: t.Callable[..., t.Any],
        interrupted: t.Callable[[], str] = lambda: "",
        clock: Clock | None = None,
    ) -> None:
        self._shifter = shifter
        self._gates = gates
        self._control = control
        self._progress = progress
        self._rules = rules
        self._note = note
        self._interrupted = interrupted
        self._clock = clock or Clock()
        self._report = Report()
        self._paused = 0.0
        self._is_paused = False
        self._touched = False
        self._looked: float | None = None
        self._gap = 0.0
        self._of = 0
        self._previous = 0.0
        self._step: dict[str, t.Any] = {}

    def run(self, todo: t.Sequence[Todo], present: float, previous: float = 0.0) -> Report:
        """Go through the steps. Never raises for what a gate, an order, a signal or a move brings: the report says it.

        :arg present: the share in effect now.
        :arg previous: the share before the last step, for a soak when no step is left to do.
        """
        self._previous = previous
        report, began = self._report, self._clock.time()
        report.timings["started"] = iso(began)
        report.share = present
        self._of = max((item.step.number for item in todo), default=0)
        try:
            self._climb(todo, present)
            report.reason = report.reason or "all steps passed"
        except _Stop as stop:
            self._end(stop)
        except MigrationError as error:  # the journal cannot be written, for example
            self._end(_Stop("error", error.message, self._goal()))
        except Exception as error:  # a mistake of ours must not leave live traffic half way and unwatched
            self._end(_Stop("error", f"{type(error).__name__}: {error}", self._goal()))
        finally:
            self._gates.stop()
        if self._control.problem():
            self._warn(f"the control annotation could not be read: {self._control.problem()}")
        report.timings.update(
            ended=iso(self._clock.time()), seconds=round(self._clock.time() - began, 3), longest_verdict_gap_s=round(self._gap, 3)
        )
        self._quietly("end", verdict=report.verdict, reason=report.reason, share=report.share)
        self._progress.event("end", text=f"{report.verdict}: {report.reason}")
        return report

    # -- up ------------------------------------------------------------------------------------------------------

    def _climb(self, todo: t.Sequence[Todo], present: float) -> None:
        if not todo and self._rules.soak <= 0:
            self._report.reason = "the last share is reached already"
            return
        self._previous = todo[0].previous if todo else self._previous
        self._baseline(present)
        for item in todo:
            self._do(item)
        if self._rules.soak > 0:
            soak: dict[str, t.Any] = {"asked": self._report.share}
            self._report.soak = self._step = soak
            self._hold(self._report.share or 0.0, self._rules.soak, self._rules.soak_max)

    def _baseline(self, present: float) -> None:
        """The gates must pass before anything is moved; else nobody could say later what the move did."""
        self._gates.start(idle=present <= 0)
        began, paused = self._clock.monotonic(), self._paused
        self._looked = None
        while True:
            try:
                verdict = self._look()
            except _Stop as stop:
                if stop.verdict != FAIL:
                    raise
                # With traffic on the target already (a run was killed) it may fail because of that: the same rule as in a hold.
                goal = self._goal() if present > 0 else None
                raise _Stop(FAIL, f"before the first step: {stop.reason}", goal, stop.numbers) from None
            if verdict.state == PASS and not self._is_paused:
                break
            waited = self._clock.monotonic() - began - (self._paused - paused)
            if waited >= self._rules.baseline and not self._is_paused:
                reason = f"before the first step the gates could not be judged in {self._rules.baseline:g} s: {verdict.reason}"
                raise _Stop("inconclusive", reason, None, verdict.numbers)
            self._progress.event("baseline", gates=verdict.numbers)
            self._clock.sleep(self._rules.tick)
        self._report.timings["baseline_s"] = round(self._clock.monotonic() - began, 3)

    def _do(self, item: Todo) -> None:
        step = item.step
        self._clear()
        now = self._clock.time()
        self._previous = item.previous
        self._step = {
            "step": step.number,
            "asked": step.share,
            "planned": None,
            "observed": None,
            "moved": item.move,
            "started": iso(now),
            "ended": None,
            "held_s": 0.0,
            "verdict": None,
            "numbers": {},
            "replans": 0,
        }
        self._report.steps.append(self._step)
        self._note("begin", step=step.number, share=step.share)
        # Also when the traffic is there already: the move then writes nothing, and proves the weights in the load balancer.
        self._move(step.share, f"step {step.number} of {self._of}", "move", self._rules.move_timeout)
        self._look()  # what failed while the weights changed
        self._hold(step.share, step.hold, step.max_hold)
        self._note("passed", step=step.number, share=step.share, observed=self._step["observed"])

    def _clear(self) -> None:
        """The last look before a write: an order or a failing gate of this very moment counts, and a pause is waited out."""
        self._look()
        while self._is_paused:
            self._clock.sleep(self._rules.tick)
            self._look()

    def _move(self, share: float, reason: str, event: str, timeout: float) -> None:
        began = self._clock.monotonic()
        self._progress.event(event, **self._place(), text=reason)
        before, self._touched = self._touched, True
        try:
            move = self._bring(share, reason, timeout, self._look)
        except MigrationError as error:
            # Wrong input is found before the first write; of any other failure it is not certain what it left behind.
            self._touched = before or not isinstance(error, InputError)
            raise _Stop("error", error.message, self._goal()) from error
        self._report.share = share
        self._took(move, share)
        self._step.update(
            planned=move.planned, observed=move.observed, gateways=move.gateways, move_s=round(self._clock.monotonic() - began, 3)
        )
        self._looked = None

    def _bring(self, share: float, reason: str, timeout: float, between: t.Callable[[], t.Any]) -> Move:
        """The move, tried again in pieces as long as that may help and there is time. A try begins by observing afresh."""
        until = self._clock.monotonic() + timeout
        while True:
            left = until - self._clock.monotonic()
            try:
                return self._shifter.move(share, timeout=max(0.0, min(left, _PIECE)), reason=reason)
            except MigrationError as error:
                self._report.done.extend(text for text in error.done if text not in self._report.done)
                if not error.transient or self._clock.monotonic() + _AGAIN >= until:
                    raise
                between()
                self._clock.sleep(_AGAIN)

    def _hold(self, share: float, hold: float, max_hold: float) -> None:
        """Judge all the time. Leaves when it passed; raises _Stop for everything else."""
        rules, clock = self._rules, self._clock
        self._gates.start(idle=share <= 0)
        began, paused = clock.monotonic(), self._paused
        since = clock.time()
        self._looked = None
        watch = clock.watch(lambda: self._shifter.drifted(share), rules.drift_interval)
        try:
            while True:
                verdict = self._look()
                pause = self._paused - paused
                held = clock.monotonic() - began - pause
                self._step.update(verdict=verdict.state, numbers=dict(verdict.numbers))
                if not self._is_paused:
                    if held >= hold and verdict.state == PASS:
                        self._progress.event("verdict", **self._place(), gates=verdict.numbers, text=f"{verdict.state}")
                        return
                    if held >= max_hold:
                        reason = f"undecided after {max_hold:g} s: {verdict.reason}"
                        raise _Stop("inconclusive", reason, self._goal(), verdict.numbers)
                # Only while it is good as it is: what is about to be taken back needs no better weights.
                if verdict.state == PASS and watch.latest():
                    watch.stop()
                    self._replan(share)
                    watch = clock.watch(lambda: self._shifter.drifted(share), rules.drift_interval)
                until = since + pause + (hold if held < hold else max_hold)
                self._progress.event("hold", **self._place(), since=iso(since), until=iso(until), gates=verdict.numbers)
                clock.sleep(rules.tick)
        finally:
            held = clock.monotonic() - began - (self._paused - paused)
            self._step.update(held_s=round(held, 3), ended=iso(clock.time()))
            if watch.problem():
                self._warn(f"whether the backends changed could not be seen: {watch.problem()}")
            watch.stop()

    def _replan(self, share: float) -> None:
        """Backends came or went, so the same share needs other weights. A failure is not the end: the gates still judge."""
        self._step["replans"] = self._step.get("replans", 0) + 1
        self._note("replan", share=share)
        try:
            timeout = min(_PIECE, self._rules.move_timeout)
            self._move(share, "the backends changed, so the weights are planned anew", "replan", timeout)
            self._warn(f"the backends changed while {share:g} % was held: the weights were planned anew")
        except _Stop as stop:
            if stop.verdict != "error":
                raise
            self._warn(f"the backends changed while {share:g} % was held, and the weights could not be adapted: {stop.reason}")

    def _look(self) -> Verdict:
        """Gates first, then signals, then orders. Raises _Stop when one of them ends the way up."""
        verdict = self._gates.verdict()
        now = self._clock.monotonic()
        gap = now - self._looked if self._looked is not None else 0.0
        self._gap = max(self._gap, gap)
        self._looked = now
        if verdict.state == FAIL:
            raise _Stop(FAIL, verdict.reason, self._goal(), verdict.numbers)
        reason = self._interrupted()
        if reason:
            raise _Stop("interrupted", reason, 0.0 if self._rules.on_interrupt == "rollback" else None)
        order = self._control.order()
        if order.word == ROLLBACK:
            raise _Stop("aborted", f"rollback was ordered by {order.origin}", 0.0)
        if order.word == ABORT:
            raise _Stop("aborted", f"abort was ordered by {order.origin}")
        self._pause(order, gap)
        return verdict

    def _pause(self, order: Order, gap: float) -> None:
        pause = order.word == PAUSE
        if pause and self._is_paused:
            self._paused += gap
        if pause != self._is_paused:
            self._is_paused = pause
            text = f"by {order.origin}" + (f": {order.note}" if order.note else "") if pause else ""
            self._progress.event("pause" if pause else "resume", **self._place(), text=text)
            self._note("pause" if pause else "resume", origin=order.origin, detail=order.note)
            if order.note:
                self._warn(f"{order.origin}: {order.note}")
        if self._paused > self._rules.max_pause:
            raise _Stop("aborted", f"paused for more than {self._rules.max_pause:g} s by {order.origin}")

    # -- back ----------------------------------------------------------------------------------------------------

    def _goal(self) -> float | None:
        return {"zero": 0.0, "previous": self._previous, "hold": None}[self._rules.on_fail]

    def _end(self, stop: _Stop) -> None:
        at, clock_at = self._clock.time(), self._clock.monotonic()
        report = self._report
        report.verdict, report.reason = stop.verdict, stop.reason
        step = self._step
        step.update(verdict=stop.verdict, ended=iso(at))
        if stop.numbers is not None:
            step["numbers"] = dict(stop.numbers)
        report.timings["verdict_at"] = iso(at)
        self._quietly("verdict", verdict=stop.verdict, reason=stop.reason, goal=stop.goal)
        self._progress.event("verdict", **self._place(), gates=stop.numbers, text=f"{stop.verdict}: {stop.reason}")
        if stop.goal is None or (not self._touched and report.share == stop.goal):
            return
        self._roll_back(stop.goal, f"{stop.verdict}: {stop.reason}", at, clock_at)

    def _roll_back(self, goal: float, why: str, at: float, clock_at: float) -> None:
        report = self._report
        answer: dict[str, t.Any] = {"to": goal, "ok": False, "verdict_at": iso(at), "error": None}
        report.rolled_back = answer
        self._progress.event("rollback", asked=goal, text=f"back to {goal:g} %")
        try:
            move = self._bring(goal, f"rollback ({why})", min(_BACK, self._rules.move_timeout), lambda: None)
            seconds = round(self._clock.monotonic() - clock_at, 3)
            answer.update(ok=True, planned=move.planned, observed=move.observed, gateways=move.gateways)
            report.share = goal
            self._took(move, goal)
            report.timings.update(
                first_write_s=_after(move.writes[:1], at),
                last_write_s=_after(move.writes[-1:], at),
                verdict_to_weights_s=seconds,
            )
        except MigrationError as error:
            answer["error"] = error.message
        except Exception as error:  # as above: this must end in a report, whatever happens
            answer["error"] = f"{type(error).__name__}: {error}"
        self._quietly("rolled back", to=goal, ok=answer["ok"], error=answer["error"])
        text = f"{goal:g} % is back in effect" if answer["ok"] else f"it failed: {answer['error']}"
        self._progress.event("rollback", asked=goal, observed=answer.get("observed"), text=text)

    # -- notes ---------------------------------------------------------------------------------------------------

    def _took(self, move: Move, share: float) -> None:
        if move.writes:
            self._report.done.append(f"{share:g} % asked, {move.planned:.4g} % planned, {move.observed:.4g} % observed")

    def _place(self) -> dict[str, t.Any]:
        step = self._step
        return {"of": self._of or None, **{key: step.get(key) for key in ("step", "asked", "planned", "observed")}}

    def _warn(self, text: str) -> None:
        if text not in self._report.warnings:
            self._report.warnings.append(text)

    def _quietly(self, what: str, **fields: t.Any) -> None:
        """Notes on the way back never stand in its way."""
        try:
            self._note(what, **fields)
        except MigrationError as error:
            self._warn(f"the journal could not be written: {error.why or error.what}")


def _after(writes: tuple[float, ...], at: float) -> float | None:
    return round(writes[0] - at, 3) if writes else None
