# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""A gate judges whether what runs now is good enough to go on. Three answers: pass, fail, inconclusive.

The interface is small so that probes, metric queries and comparisons of two sides all fit behind it, and so that whatever
moves in steps (a load balancer's share, waves of workloads, a route's weight) can use it:

* ``start()`` begins a fresh observation. It may be called again: everything seen before no longer counts.
* ``verdict()`` says what is known now. It never blocks: a gate that has to ask somebody does so in a thread of its own.
* ``stop()`` ends the observation, within a second or so.

A gate may say two things of itself: ``only_with_traffic`` (it judges nothing but the target's own traffic, so it is not asked
while there is none), and ``first_after`` (seconds from a start until it can know anything).

A gate that knows too little, or that is broken itself, is inconclusive: silence never passes.
"""

from __future__ import annotations

import dataclasses
import typing as t

PASS = "pass"
FAIL = "fail"
INCONCLUSIVE = "inconclusive"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a gate says now.

    :arg state: ``pass``, ``fail`` or ``inconclusive``.
    :arg reason: one sentence that the operator reads.
    :arg numbers: what the sentence stands on (plain data, no secrets).
    """

    state: str
    reason: str = ""
    numbers: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict)

    def as_dict(self) -> dict[str, t.Any]:
        return {"state": self.state, "reason": self.reason, "numbers": dict(self.numbers)}


class Gate(t.Protocol):
    """See the module's docstring. Any exception means: this gate cannot say anything now."""

    name: str

    def start(self) -> None:
        """Begin a fresh observation."""

    def verdict(self) -> Verdict:
        """What is known now, without waiting for more."""

    def stop(self) -> None:
        """End the observation and give back threads and connections."""


class Panel:
    """Several gates as one: one fail fails, one inconclusive holds, all must pass.

    Without any gate the verdict is ``pass``; whether that is allowed is decided where the options are read.
    """

    name = "all gates"

    def __init__(self, gates: t.Sequence[Gate]) -> None:
        self._gates = list(gates)
        self._broken: dict[int, str] = {}
        self._idle = False

    def __len__(self) -> int:
        return len(self._gates)

    def start(self, idle: bool = False) -> None:
        """``idle``: the target has no traffic (yet, or any more), and no figures of it."""
        self._broken, self._idle = {}, idle
        for number, gate in enumerate(self._gates):
            try:
                gate.start()
            except Exception as error:  # a broken gate must hold the traffic, not kill the run that could roll it back
                self._broken[number] = f"the gate could not be started: {_text(error)}"

    def verdict(self) -> Verdict:
        """The worst of all; ``numbers`` is ``{gate's name: {state, reason, numbers}}``."""
        seen = [(gate.name, self._ask(number, gate)) for number, gate in enumerate(self._gates)]
        numbers = {name: verdict.as_dict() for name, verdict in seen}
        for state in (FAIL, INCONCLUSIVE):
            reasons = [f"{name}: {verdict.reason}" for name, verdict in seen if verdict.state == state]
            if reasons:
                return Verdict(state, "; ".join(reasons), numbers)
        return Verdict(PASS, "; ".join(f"{name}: {verdict.reason}" for name, verdict in seen) or "there are no gates", numbers)

    def stop(self) -> None:
        for gate in self._gates:
            try:
                gate.stop()
            except Exception:  # nothing that a gate does at its end may hide what the run has to say
                continue

    def _ask(self, number: int, gate: Gate) -> Verdict:
        if self._idle and getattr(gate, "only_with_traffic", False):
            return Verdict(PASS, "not asked while the target has no traffic")
        if number in self._broken:
            return Verdict(INCONCLUSIVE, self._broken[number])
        try:
            verdict = gate.verdict()
        except Exception as error:  # as above: inconclusive holds and is visible
            return Verdict(INCONCLUSIVE, f"the gate is broken: {_text(error)}")
        if verdict.state in (PASS, FAIL, INCONCLUSIVE):
            return verdict
        return Verdict(INCONCLUSIVE, f"the gate answered {verdict.state!r}, which is no verdict")


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
