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

from lab.state import Lab, state_root
from tests.integration.ccm.fixtures import ccm, cloud, plane, world  # noqa: F401  (one control plane for all that need it)

ROOT = Path(__file__).resolve().parents[2]
LAB = str(ROOT / "bin" / "lab")
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")  # several processes: a lab for each that needs one
RUN = os.environ.get("LAB_TEST_RUN", "")  # the process that started them; two runs never have a lab of the same name
OWN = bool(WORKER) and not os.environ.get("LAB_NAME")  # a lab that only this run can have made
NAME = os.environ.get("LAB_NAME") or (f"test-{RUN}-{WORKER}" if WORKER else "test")


def call(*words: str) -> subprocess.CompletedProcess[str]:
    """The lab's command as a user calls it; its output is shown when a test fails."""
    env = {**os.environ, "LAB_NAME": NAME}
    done = subprocess.run(
        [LAB, *words], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=900
    )
    print(done.stdout, done.stderr, sep="\n")
    return done


def labs_of_runs() -> Iterator[tuple[int, str]]:
    """Process and name of each lab that a run in several processes made and that is still there."""
    for folder in state_root().glob("test-*-gw*"):
        run = folder.name.split("-")[1]
        if run.isdigit():
            yield int(run), folder.name


def down(name: str) -> None:
    env = {**os.environ, "LAB_NAME": name}
    subprocess.run([LAB, "down"], env=env, stdin=subprocess.DEVNULL, check=False, timeout=300)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The shared lab, up. A test undoes the changes that it makes."""
    keep = os.environ.get("LAB_KEEP") == "1"
    for run, name in labs_of_runs() if OWN else ():
        if not Path(f"/proc/{run}").exists():
            down(name)  # what a run that was killed left; a run that is alive keeps its own
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


def pytest_sessionfinish() -> None:
    """Ctrl-C ends the processes of `pytest -n` before their fixtures end: the labs of this run that they leave go here."""
    if WORKER or os.environ.get("LAB_KEEP") == "1":
        return
    for run, name in labs_of_runs():
        if run == os.getpid():
            down(name)


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
