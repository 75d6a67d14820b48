# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Findings, and how checks are run: all of them, none stops another."""

from __future__ import annotations

import collections
import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError, few
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome

F = t.TypeVar("F")
SEVERITIES = ("error", "warning", "info")


@dataclasses.dataclass(frozen=True)
class Finding:
    """:arg id: of the check. :arg severity: error (the migration would fail or harm), warning (look at it), info.
    :arg subject: the object, as in plans. :arg message: what is so. :arg hint: what to do about it."""

    id: str
    severity: str
    subject: str
    message: str
    hint: str = ""

    def as_dict(self) -> dict[str, str]:
        return dataclasses.asdict(self)


class FactMissing(Exception):
    """A check asks for something that could not be read; that is a finding of its own already."""


Check = t.Callable[[F], t.Iterable[Finding]]


@dataclasses.dataclass
class Report:
    """:arg passed: ids of checks without an error or a warning. :arg skipped: ids of checks whose facts could not be read."""

    findings: list[Finding]
    passed: list[str]
    skipped: list[str]

    def of(self, severity: str) -> list[Finding]:
        return [item for item in self.findings if item.severity == severity]

    @property
    def summary(self) -> dict[str, int]:
        counts = collections.Counter(item.severity for item in self.findings)
        numbers = {severity: counts.get(severity, 0) for severity in SEVERITIES}
        return {**numbers, "passed": len(self.passed), "skipped": len(self.skipped)}


def run_checks(checks: t.Mapping[str, Check[F]], facts: F, first: t.Sequence[Finding] = ()) -> Report:
    """Run every check. ``first``: findings of the reading. A check that fails to run is an error itself."""
    found, passed, skipped = list(first), [], []
    for name, check in checks.items():
        try:
            mine = list(check(facts))
        except FactMissing:
            skipped.append(name)
            continue
        except MigrationError as error:
            mine = [Finding(name, "error", error.where, f"{error.what}: {error.why}", error.todo)]
        found += mine
        if not any(item.severity != "info" for item in mine):
            passed.append(name)
    found.sort(key=lambda item: (SEVERITIES.index(item.severity), item.id, item.subject, item.message))
    return Report(list(dict.fromkeys(found)), passed, skipped)


def judged(report: Report, least: str, what: str) -> Outcome:
    """What a preflight answers. :arg least: ``error``, ``warning`` or ``never``: from which severity on it fails."""
    result = {
        "findings": [item.as_dict() for item in report.findings],
        "passed": report.passed,
        "skipped": report.skipped,
        "summary": report.summary,
    }
    outcome = Outcome(result=result)
    bad = [item for item in report.findings if least != "never" and SEVERITIES.index(item.severity) <= SEVERITIES.index(least)]
    if bad:
        lines = [f"{item.severity} {item.id}: {item.subject}: {item.message}" for item in bad]
        outcome.failed = MigrationError(
            f"{len(bad)} findings stand against {what}",
            where=bad[0].subject,
            why=few(lines, 8, see=" (see findings)"),
            todo=bad[0].hint or "mend what is found, and run again",
        )
    else:
        outcome.warnings = [f"{item.id}: {item.subject}: {item.message}" for item in report.of("warning")]
    return outcome
