# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""sidecar_inject: what it saw and did, as the result, the diff and the error show it. Pure."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError, few
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _inject
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._waves import Wave
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._workloads import SOURCE, TARGET, Survey, Workload
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._convoy import differences, eligible
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gates import PASS
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._staircase import Report

Object = dict[str, t.Any]
# Names in a message or warning.
_MOST = 5


@dataclasses.dataclass
class Present:
    """The cluster now, in the waves that were asked for. ``example``: a ready pod with a sidecar."""

    survey: Survey
    waves: list[Wave[Workload]]
    rest: list[Workload]
    originals: dict[str, _inject.Original]
    example: Object | None = None

    @property
    def share(self) -> float:
        """Percentage of all workloads in the waves that is in the target."""
        members = [one for wave in self.waves for one in wave.members if eligible(one)]
        return 100.0 * sum(1 for one in members if one.state == TARGET) / len(members) if members else 0.0

    @property
    def refused(self) -> list[Workload]:
        return [one for wave in self.waves for one in wave.members if not eligible(one)]


def rows(present: Present) -> list[Object]:
    """Every workload with its wave and state, as the result shows it."""
    wave_of = {one.key: wave.name for wave in present.waves for one in wave.members}
    return [
        {
            "kind": one.kind,
            "namespace": one.namespace,
            "name": one.name,
            "wave": wave_of.get(one.key),
            "state": one.state,
            "pods": one.pods,
            "native_sidecar": one.native,
            "refused": one.obstacle,
        }
        for one in present.survey.workloads
    ]


def verify(before: Present, after: Present, reason: str) -> Plan:
    """What is really different now."""
    found = Plan()
    for old, new in differences(before.survey, after.survey):
        first: Object = {}
        second: Object = {}
        for part, one, two in (
            ("labels", old.template_labels, new.template_labels),
            ("annotations", old.template_annotations, new.template_annotations),
        ):
            for key in sorted({*one, *two}):
                if one.get(key) != two.get(key):
                    first.setdefault(part, {})[key], second.setdefault(part, {})[key] = one.get(key), two.get(key)
        if old.manners.raw != new.manners.raw:
            first["maxUnavailable"], second["maxUnavailable"] = old.manners.raw, new.manners.raw
        found.add("relabel", _inject.target_name(new), first, second, reason)
    return found


_TODO = {
    "fail": "look at what the gate says of the moved workloads, then run again; it goes on with what is left",
    "inconclusive": "look why the gate could not judge (too few requests, an address that is not reached), or raise max_hold",
    "aborted": "to go on, remove the order (or write resume in its place) and run again",
    "interrupted": "run again; it goes on with what is left",
    "error": "mend the cause, then run again; it goes on with what is left",
}


def problem_of(report: Report, waves: t.Sequence[Wave[Workload]], where: str) -> MigrationError | None:
    """The report as the error that fails the task; None when all passed."""
    if report.verdict == PASS:
        return None
    step = report.steps[-1] if report.steps else None
    back = report.rolled_back
    what = f"The move was stopped in wave {waves[step['step'] - 1].name}" if step else "The move was not begun"
    if report.soak is not None:
        what = "The soak after the last wave was not passed"
    if back and back["ok"]:
        what += f"; {_gone(back['to'])} back in the source mesh"
    elif back:
        what += f"; going back FAILED ({back['error']}), so look at the workloads now"
    elif report.done:
        what += "; what has moved stays"
    return MigrationError(
        what,
        where=where,
        why=f"{report.verdict}: {report.reason}",
        todo=_TODO[report.verdict],
        done=_short(report.done),
        details={"verdict": report.verdict, "rolled_back": back},
    )


def _gone(share: float) -> str:
    return "everything is" if share == 0 else "the workloads of this wave are"


def _short(lines: t.Sequence[str], most: int = 20) -> list[str]:
    return [*lines[:most], *([f"and {len(lines) - most} more"] if len(lines) > most else [])]


def result_of(present: Present, journal: Journal) -> Object:
    return {
        "workloads": rows(present),
        "listed": [item.as_dict() for item in present.survey.listed],
        "not_in_a_wave": [one.place for one in present.rest],
        "without_sidecar": present.survey.without,
        "share": present.share,
        "run": journal.run,
        "progress": str(journal.directory / "progress.jsonl"),
    }


def warnings_of(present: Present) -> list[str]:
    refused = present.refused
    if not refused:
        return []
    names = few([f"{one.place}: {one.obstacle}" for one in refused], _MOST, see=", see workloads[].refused")
    return [f"{len(refused)} workloads are not moved: {names}"]


def planned_waves(present: Present) -> list[Object]:
    return [
        {
            "wave": wave.name,
            "hold": wave.rule.hold,
            "max_hold": wave.rule.max_hold,
            "moves": [one.place for one in wave.members if one.state == SOURCE and not one.obstacle],
            "moved_already": sum(1 for one in wave.members if one.state == TARGET),
        }
        for wave in present.waves
    ]


def done_waves(present: Present, report: Report) -> list[Object]:
    found = []
    for step in report.steps:
        fields = {key: step.get(key) for key in ("started", "ended", "held_s", "move_s", "verdict", "numbers")}
        found.append({"wave": present.waves[step["step"] - 1].name, "share": step["asked"], **fields})
    return found
