# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The option ``gates`` of every module that moves in steps: its spec, and the gates made of it."""

from __future__ import annotations

import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gates import Gate
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._probe import Probe
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._probe_options import PROBE_SPEC, probe_options
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._prometheus import PROMETHEUS_SPEC, Prometheus
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._staircase import Rules


def _probe(name: str, params: t.Mapping[str, t.Any]) -> Gate:
    return Probe(probe_options(name, params))


# A new kind of gate is a line here, its spec, and its documentation.
_KINDS: dict[str, t.Callable[[str, t.Mapping[str, t.Any]], Gate]] = {"probe": _probe, "prometheus": Prometheus}


def gates_spec() -> dict[str, t.Any]:
    """``gates`` and ``allow_without_gates``."""
    kinds = {"probe": {"type": "dict", "options": PROBE_SPEC}, "prometheus": {"type": "dict", "options": PROMETHEUS_SPEC}}
    return {
        "gates": {
            "type": "list",
            "elements": "dict",
            "required": True,
            "options": {"name": {"type": "str"}, **kinds},
        },
        "allow_without_gates": {"type": "bool", "default": False},
    }


def build_gates(given: t.Sequence[t.Mapping[str, t.Any]], allow_without: bool) -> list[Gate]:
    """The gates of the option, all checked. Raises InputError."""
    if not given and not allow_without:
        raise InputError(
            "There are no gates, so nothing would judge what the traffic meets",
            why="the option gates is empty",
            todo="name at least one gate, or set allow_without_gates: true when something else watches",
        )
    found: list[Gate] = []
    for number, item in enumerate(given, 1):
        kinds = [kind for kind in _KINDS if item.get(kind) is not None]
        if len(kinds) != 1:
            raise InputError(
                f"Gate {number} is not clear",
                why=f"a gate is of one kind, this one has {len(kinds)}",
                todo=f"give it exactly one of {', '.join(_KINDS)}",
            )
        (kind,) = kinds
        name = item.get("name") or f"{kind} {number}"
        if name in [gate.name for gate in found]:
            raise InputError(f"Two gates are named {name}", todo="give each gate a name of its own")
        found.append(_KINDS[kind](name, item[kind]))
    return found


def check_times(gates: t.Sequence[Gate], rules: Rules, holds: t.Mapping[str, float]) -> None:
    """A gate that can know nothing before a time is over can pass in no shorter one. Raises InputError.

    :arg holds: what is held for at most so many seconds, by its name.
    """
    for gate in gates:
        first = float(getattr(gate, "first_after", 0.0))
        # Also for a gate that is left out before the first step: a run that goes on where another one ended asks it there.
        limits = {"baseline_timeout": rules.baseline}
        limits.update({f"the max_hold of {name}": seconds for name, seconds in holds.items()})
        if rules.soak > 0:
            limits["the soak with what the last max_hold is more than its hold"] = rules.soak_max
        for name, limit in limits.items():
            if first > 0 and first >= limit:
                raise InputError(
                    f"The gate {gate.name} could never pass: {name} is {limit:g} s",
                    why=f"its first figures come after {first:g} s (min_window), and an undecided gate lets nothing on",
                    todo=f"give more time there (like {2 * first:g} s), or less min_window where the metrics are scraped often",
                )
