# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One lab for all tests of a process that need one: the lab that LAB_NAME names if it is up, else a lab made for this run.

LAB_KEEP=1 leaves a lab that was made here up. A test leaves the lab as it found it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.state import Lab
from tests.integration.ccm.fixtures import ccm, cloud, plane, world  # noqa: F401  (one control plane for all that need it)

ROOT = Path(__file__).resolve().parents[2]
LAB = str(ROOT / "bin" / "lab")
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")  # several processes: a lab for each that needs one
NAME = os.environ.get("LAB_NAME") or "-".join(filter(None, ["test", WORKER]))


def call(*words: str) -> subprocess.CompletedProcess[str]:
    """The lab's command as a user calls it; its output is shown when a test fails."""
    env = {**os.environ, "LAB_NAME": NAME}
    done = subprocess.run(
        [LAB, *words], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=900
    )
    print(done.stdout, done.stderr, sep="\n")
    return done


OWN = bool(WORKER) and not os.environ.get("LAB_NAME")  # a lab that only this run can have made


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The shared lab, up. A test undoes the changes that it makes."""
    keep = os.environ.get("LAB_KEEP") == "1"
    if OWN and not keep and Lab(NAME).dir.exists():
        call("down")  # what a run that was killed left
    was_up = call("status").returncode == 0
    if not was_up:
        done = call("up")
        if done.returncode != 0:
            call("down")
            pytest.fail(f"the lab did not come up:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}", pytrace=False)
    try:
        yield Lab(NAME)
    finally:
        if not keep and (OWN or not was_up):
            done = call("down")
            assert done.returncode == 0, f"the lab did not go down:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Ctrl-C ends the processes of `pytest -n` without their fixtures' ends: what labs they leave is taken down here."""
    count = getattr(session.config.option, "numprocesses", None)
    if WORKER or not isinstance(count, int) or os.environ.get("LAB_NAME") or os.environ.get("LAB_KEEP") == "1":
        return
    for name in (f"test-gw{number}" for number in range(count)):
        if Lab(name).dir.exists():
            subprocess.run(
                [LAB, "down"], env={**os.environ, "LAB_NAME": name}, stdin=subprocess.DEVNULL, check=False, timeout=300
            )


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
