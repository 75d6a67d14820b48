# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A migration in the shared lab. Each test finds the world as it was first, and leaves it so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab import net
from lab.demo.stage import Stage, differences, sequence
from lab.state import Lab

QUICK = {"ack_to_asm_hold": 2, "ack_to_asm_steps": [5, 50, 100], "ack_to_asm_drain_seconds": 2}


def described(lab: Lab, folder: Path, name: str, **variables: Any) -> Stage:
    """A migration with a patient gate: a machine that does other things answers late. Whether an answer is missing is counted."""
    stage = Stage(lab, folder, name)
    (gate,) = stage.variables["ack_to_asm_gates"]
    gate["probe"] |= {"timeout": 10, "min_requests": 20}
    return Stage(lab, folder, name, **{**QUICK, "ack_to_asm_gates": [gate], **variables})


@pytest.fixture
def stage(lab: Lab, tmp_path: Path) -> Iterator[Stage]:
    """A described migration of the test's own."""
    with staged(lab, tmp_path) as one:
        yield one


@contextmanager
def staged(lab: Lab, folder: Path) -> Iterator[Stage]:
    """A described migration, the test's thread inside the lab's cloud. What is left behind in the end fails the test."""
    with net.inside(lab):
        one = described(lab, folder, "it")
        one.lift_faults()
        before = one.world()
        try:
            yield one
        finally:
            one.lift_faults()
            if differences(before, one.world()):
                played = one.play("ack_to_asm_rollback")
                left = differences(before, one.world())
                assert not left, f"the rollback left:\n{sequence(left)}\n{played.text[-3000:]}"
