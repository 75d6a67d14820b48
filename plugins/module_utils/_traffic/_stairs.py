# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What every staircase has, whatever it moves: its options, the holds of earlier runs, and its report as an error."""

from __future__ import annotations

import math
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gate_kinds import build_gates, check_times
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gates import PASS, Gate
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._staircase import Report, Rules
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._steps import (
    CUT,
    ENDED,
    PASSED,
    SAME,
    Step,
    read_steps,
)


def stairs_spec() -> dict[str, t.Any]:
    """The options of a staircase; their documentation is in plugins/doc_fragments/_stairs.py."""
    return {
        "steps": {"type": "list", "elements": "raw", "required": True},
        "hold": {"type": "float", "default": 60},
        "max_hold": {"type": "float"},
        "allow_down": {"type": "bool", "default": False},
        "on_fail": {"type": "str", "choices": ["zero", "previous", "hold"], "default": "zero"},
        "on_interrupt": {"type": "str", "choices": ["hold", "rollback"], "default": "hold"},
        "baseline_timeout": {"type": "float", "default": 30},
        "soak": {"type": "float", "default": 0},
        "max_pause": {"type": "float", "default": 3600},
    }


def read_stairs(params: t.Mapping[str, t.Any]) -> tuple[list[Step], list[Gate], Rules]:
    """The options of ``stairs_spec``, and the gates. Raises InputError."""
    steps = read_steps(params["steps"], hold=params["hold"], max_hold=params["max_hold"], allow_down=params["allow_down"])
    for name in ("baseline_timeout", "soak", "max_pause", "wait_timeout"):
        if not 0 <= params[name] < math.inf:
            raise InputError(f"{name} is {params[name]:g}", todo="give seconds, 0 or more")
    rules = Rules(
        on_fail=params["on_fail"],
        on_interrupt=params["on_interrupt"],
        baseline=params["baseline_timeout"],
        soak=params["soak"],
        soak_max=params["soak"] + steps[-1].max_hold - steps[-1].hold,
        move_timeout=params["wait_timeout"],
        max_pause=params["max_pause"],
    )
    gates = build_gates(params["gates"], params["allow_without_gates"])
    check_times(gates, rules, {f"step {step.number}": step.max_hold for step in steps})
    return steps, gates, rules


def holds_of(journal: Journal, names: t.Sequence[str], event: str = "shift") -> dict[float, str]:
    """Which holds an earlier run of the same gateways or routes (``names``) saw through, by this machine's journal."""
    holds: dict[float, str] = {}
    for entry in journal.entries():
        if entry.get("event") != event or entry.get("gateways") != names:
            continue
        if entry.get("what") in ("begin", "passed"):
            holds[float(entry["share"])] = CUT if entry["what"] == "begin" else PASSED
        elif entry.get("what") == "end":
            holds = {share: ENDED if state == CUT else state for share, state in holds.items()}
    return holds


class Seen(t.Protocol):
    """Where the traffic is, see Present."""

    @property
    def low(self) -> float: ...

    def compare(self, share: float) -> tuple[float, float]: ...


def say_where(report: Report, now: Seen) -> None:
    """A move that was ended half way left neither the share of before nor that of its step: what is seen counts."""
    if report.verdict == PASS or report.share is None:
        return
    try:
        off = max(map(abs, now.compare(report.share)))
    except MigrationError:  # nothing can be planned for the backends of now
        off = 0.0
    if off > SAME:
        report.share = round(now.low, 3)


_TODO = {
    "fail": "look at what the gate says of the target, then run again; it goes on from the share in effect",
    "inconclusive": "look why the gate could not judge (too few requests, an address that is not reached), or raise max_hold",
    "aborted": "to go on, remove the order (or write resume in its place) and run again",
    "interrupted": "run again; it goes on from the share in effect",
    "error": "mend the cause, then run again; it goes on from the share in effect",
}


def problem_of(report: Report, where: str, there: str = "the load balancer") -> MigrationError | None:
    """The report as the error that fails the task; None when all passed. ``there``: where somebody has to look now."""
    if report.verdict == PASS:
        return None
    back = report.rolled_back
    step = report.steps[-1] if report.steps else None
    if report.soak is not None:
        what = "The soak after the last step was not passed"
    else:
        what = f"The shift was stopped in step {step['step']} ({step['asked']:g} %)" if step else "The shift was not begun"
    if back and back["ok"]:
        what += f"; {back['to']:g} % is back in effect"
    elif back:
        what += f"; going back to {back['to']:g} % FAILED ({back['error']}), so look at {there} now"
    elif report.share is not None:
        what += f"; {report.share:.4g} % stays in effect"
    return MigrationError(
        what,
        where=where,
        why=f"{report.verdict}: {report.reason}",
        todo=_TODO[report.verdict],
        done=report.done,
        details={"verdict": report.verdict, "rolled_back": back},
    )
