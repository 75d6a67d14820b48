# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The one exception that reaches a user, written for a tired operator."""

from __future__ import annotations

import typing as t


def few(lines: t.Sequence[str], most: int = 5, *, joint: str = "; ", see: str = "") -> str:
    """The first ones of what may be thousands, and how many more there are; ``see`` says where those stand."""
    return joint.join([*lines[:most], *([f"and {len(lines) - most} more{see}"] if len(lines) > most else [])])


class MigrationError(Exception):
    """What went wrong, where, why, and what to do next.

    :arg what: one sentence, what could not be done.
    :arg where: the object, as ``cluster/namespace/kind/name`` or ``clb/<id>/...``.
    :arg why: the cause, as the API or the check gave it.
    :arg todo: what the operator can do now.
    :arg done: what has been changed already by this call (one line an item).
    :arg not_done: what was planned and has not been changed.
    :arg transient: whether the same call may succeed when simply repeated.
    :arg details: plain data for machines (never a secret).
    """

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        why: str = "",
        todo: str = "",
        done: t.Sequence[str] = (),
        not_done: t.Sequence[str] = (),
        transient: bool = False,
        details: t.Mapping[str, t.Any] | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.todo = todo
        self.done = list(done)
        self.not_done = list(not_done)
        self.transient = transient
        self.details = dict(details or {})

    @property
    def message(self) -> str:
        """All fields as the sentences that the operator reads."""
        parts = [self.what.rstrip(".") + "."]
        if self.where:
            parts.append(f"Where: {self.where}.")
        if self.why:
            parts.append(f"Why: {self.why.rstrip('.')}.")
        if self.todo:
            parts.append(f"What to do: {self.todo.rstrip('.')}.")
        if self.done:
            parts.append("Changed already: " + "; ".join(self.done) + ".")
        else:
            parts.append("Nothing has been changed by this call.")
        if self.not_done:
            parts.append("Not changed: " + "; ".join(self.not_done) + ".")
        return " ".join(parts)

    def as_dict(self) -> dict[str, t.Any]:
        """The same fields as data, for the module's RV(error)."""
        return {
            "what": self.what,
            "where": self.where,
            "why": self.why,
            "todo": self.todo,
            "done": self.done,
            "not_done": self.not_done,
            "transient": self.transient,
            "details": self.details,
        }

    def __str__(self) -> str:
        return self.message


class InputError(MigrationError):
    """An option that cannot be right: found before anything is read or written."""


def unknown(error: Exception) -> MigrationError:
    """The last line of defence: an operator at night gets a sentence with the place in the code, not a stack."""
    trace, place = error.__traceback__, "?"
    while trace is not None:
        place = f"{trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return MigrationError(
        "The module met a situation that it does not know",
        why=f"{type(error).__name__}: {error} (at {place})",
        todo="look at the journal for what was begun and not done, run again with --check, and report this as a bug",
        done=["unknown, see the journal"],
    )
