# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Why a plan is not carried out. Planners return refusals as data; one place turns them into the error or the warning."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each

I = t.TypeVar("I")  # noqa: E741
R = t.TypeVar("R")


@dataclasses.dataclass(frozen=True)
class Refusal:
    """:arg order: only an earlier step of the migration is missing; in check mode, where that step changed nothing either,
    it is a warning and the plan is shown as it would be after that step."""

    what: str
    where: str
    why: str
    todo: str = ""
    order: bool = False


def enforce(refusals: t.Sequence[Refusal], check_mode: bool) -> list[str]:
    """Raise the first refusal that counts (the others are in its details); return the rest as warnings."""
    hard = [item for item in refusals if not (check_mode and item.order)]
    if hard:
        first, others = hard[0], hard[1:]
        why = first.why + "".join(f"; also: {item.what} ({item.where}: {item.why})" for item in others)
        details = {"refusals": [dataclasses.asdict(item) for item in hard]}
        raise MigrationError(first.what, where=first.where, why=why, todo=first.todo, details=details)
    return [f"{item.what} ({item.where}): {item.why}. The plan is as it would be after that." for item in refusals]


def stop_anew(refusals: t.Sequence[Refusal], kept: str) -> None:
    """Raise for what came up while clients of a gateway were waited for.

    :arg kept: what this run has left alone, for the end of the advice.
    """
    if refusals:
        first = refusals[0]
        raise MigrationError(
            f"{first.what}: that came while its clients were waited for",
            where=first.where,
            why="; ".join(item.why for item in refusals),
            todo=f"{first.todo}, then run again; {kept}",
        )


def together(
    items: t.Sequence[I],
    call: t.Callable[[I], R],
    *,
    planned: t.Callable[[I], list[str]],
    done: t.Callable[[I], list[str]],
) -> list[R]:
    """Call for all items at the same time; when one fails, its error says what all of them have done and have not.

    ``planned`` and ``done`` give the lines of an item.
    """
    answers = each(items, call)
    errors = [answer.error for answer in answers if answer.error is not None]
    if not errors:
        return [t.cast(R, answer.value) for answer in answers]
    first = errors[0]
    for other in errors[1:]:
        first.why = f"{first.why.rstrip('.')}; also: {other.what} ({other.where}: {other.why})"
    first.done = [line for item in items for line in done(item)]
    first.not_done = [line for item in items for line in planned(item) if line not in first.done]
    raise first
