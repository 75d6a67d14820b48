# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One lab for all tests that need one: the lab that LAB_NAME names if it is up, else a lab made for this run.

LAB_KEEP=1 leaves a lab that was made here up. A test leaves the lab as it found it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.state import Lab

ROOT = Path(__file__).resolve().parents[2]
LAB = str(ROOT / "bin" / "lab")
NAME = os.environ.get("LAB_NAME") or "test"


def call(*words: str) -> subprocess.CompletedProcess[str]:
    """The lab's command as a user calls it; its output is shown when a test fails."""
    env = {**os.environ, "LAB_NAME": NAME}
    done = subprocess.run(
        [LAB, *words], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=900
    )
    print(done.stdout, done.stderr, sep="\n")
    return done


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The shared lab, up. A test undoes the changes that it makes."""
    was_up = call("status").returncode == 0
    if not was_up:
        done = call("up")
        if done.returncode != 0:
            call("down")
            pytest.fail(f"the lab did not come up:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}", pytrace=False)
    try:
        yield Lab(NAME)
    finally:
        if not was_up and os.environ.get("LAB_KEEP") != "1":
            done = call("down")
            assert done.returncode == 0, f"the lab did not go down:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Real clusters on a machine that others use too: a test that failed is tried once more, and pytest's line counts it (R).

    `--reruns 0` shows the first failure as it is.
    """
    if config.getoption("--reruns") is not None:
        return
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.flaky(reruns=1))
