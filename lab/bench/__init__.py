# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures, measured in the lab. The method of each stands in docs/benchmarks.md."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Figure:
    """One measured value. `bar` says in words what it has to be, `ok` whether it is."""

    id: str
    what: str
    value: float | None
    unit: str
    bar: str
    ok: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def at_most(ident: str, what: str, value: float | None, unit: str, bar: float) -> Figure:
    """A figure that may not be above its bar; a value that could not be measured is not ok."""
    return Figure(
        ident, what, None if value is None else round(value, 3), unit, f"<= {bar:g}", value is not None and value <= bar
    )


def at_least(ident: str, what: str, value: float | None, unit: str, bar: float) -> Figure:
    """A figure that may not be below its bar."""
    return Figure(
        ident, what, None if value is None else round(value, 3), unit, f">= {bar:g}", value is not None and value >= bar
    )
