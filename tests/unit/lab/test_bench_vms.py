# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""P6 counts right: steps of waves, and programs that change rules."""

from __future__ import annotations

from typing import Any

from lab.bench.vms import Run, writers

SAID = """add table ip nat
# new generation 2 by process 51 (iptables-nft-re)
add table ip mangle
# new generation 3 by process 51 (iptables-nft-re)
# new generation 4 by process 53 (ip6tables-nft-r)
# new generation 5 by process 55 (iptables)
# new generation 6 by process 56 (nft)
"""


def step(host: int, seconds: float, task: str = "a") -> dict[str, Any]:
    return {"host": f"vm-{host}", "task": task, "id": task, "seconds": seconds}


def test_a_wave_is_as_slow_as_its_slowest_machine_in_each_task() -> None:
    run = Run(steps=[step(0, 2), step(1, 5), step(2, 3), step(3, 1), step(0, 1, "b"), step(10, 4, "b")])
    assert run.slowest(2) == 5 + 3 + 1 + 4
    assert run.slowest(100) == 5 + 4
    assert run.by_task() == [(5.0, "a"), (4.0, "b")]


def test_a_program_counts_once_however_many_tables_it_changes() -> None:
    assert writers(SAID) == {"iptables": 2, "ip6tables": 1}
    assert writers("") == {"iptables": 0, "ip6tables": 0}
