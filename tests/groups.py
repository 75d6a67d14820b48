# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which tests run one after the other in one process when there are several (`pytest -n 2`), and which of them begin first.

A lab and a control plane take half a minute to start and are shared by a session; a session is a process. So the tests that use
the lab form a group, and those that use a control plane; those of virtual machines share machines without a lab. Every other
file is a group of its own, and every check of the repository, too. The lab's tests watch live traffic: they go first and have
the machine when they want it, the others take what they leave; among these are the lab tests without traffic, in a second lab.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAB, PLANE, BACKUP, STILL, VM = "lab", "control plane", "backup", "still", "vm"
SANITY = "tests/test_repository.py::test_check[ansible-test]"  # minutes, and nobody can share them: not to be begun last
FIRST = (LAB, PLANE, BACKUP, STILL, SANITY, VM)  # in this order
# Tests of a lab that watch no traffic: they need not have the machine when they want it, and get a lab of their own.
WITHOUT_TRAFFIC = {f"tests/integration/collection/test_{name}.py" for name in ("asm_migration", "config", "gateway", "preflight")}
WITHOUT_TRAFFIC.add("tests/integration/test_molecule.py")


@functools.cache
def needs_lab(file: str) -> bool:
    """Whether a file's tests ask for the shared lab, by themselves or through the migration's stage."""
    text = (ROOT / file).read_text()
    return bool(re.search(r"\b(lab: Lab|stage: Stage|lab\.state import Lab)\b", text))


def group(nodeid: str) -> str:
    """The group of a test."""
    file = nodeid.split("::", 1)[0]
    parts = Path(file).parts
    if file == "tests/test_repository.py":
        return nodeid if "::test_check[" in nodeid else file
    if parts[:2] != ("tests", "integration") or parts[2] == "cloud":
        return file
    if parts[2] == BACKUP or (parts[2] == VM and not needs_lab(file)):
        return parts[2]
    if file in WITHOUT_TRAFFIC:
        return STILL
    return PLANE if parts[2] == "ccm" or (parts[2] == "collection" and not needs_lab(file)) else LAB


def rank(nodeid: str) -> int:
    """Lower begins earlier."""
    name = group(nodeid)
    if name in FIRST:
        return FIRST.index(name)
    # What takes a minute in one piece comes before the many that take moments: those fill up what the processes have left.
    return len(FIRST) + (not name.startswith(("tests/test_repository.py", "tests/integration/")))


def nice(nodeid: str) -> int:
    """How much a test gives way to others (see nice(1))."""
    return {LAB: 0, STILL: 10}.get(group(nodeid), 15)
