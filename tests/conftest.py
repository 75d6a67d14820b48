# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes `ansible_collections.servicemesh.migration...` importable from a plain clone, for every test."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

if (ROOT / "dev").is_dir():
    from dev import tree

    COLLECTIONS = str(tree.link())
    sys.path.insert(0, COLLECTIONS)
    os.environ["ANSIBLE_COLLECTIONS_PATH"] = COLLECTIONS

from tests import groups  # noqa: E402  (the root is importable from here on)


def pytest_configure() -> None:
    """Names the run for the processes that it starts: see the lab's fixture."""
    if not os.environ.get("PYTEST_XDIST_WORKER"):
        os.environ["LAB_TEST_RUN"] = str(os.getpid())


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long campaigns (marker `thorough`) run with LAB_THOROUGH=1 or when they are named; CI has an hour for everything."""
    if os.environ.get("LAB_THOROUGH") != "1" and not any("::" in word for word in config.args):
        left = [item for item in items if item.get_closest_marker("thorough")]
        if left:
            config.hook.pytest_deselected(items=left)
            items[:] = [item for item in items if not item.get_closest_marker("thorough")]
    if os.environ.get("PYTEST_XDIST_WORKER"):
        items.sort(key=lambda item: groups.rank(item.nodeid))  # what takes longest is begun first


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Beside the lab's tests, the others give way."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        os.setpriority(os.PRIO_PROCESS, 0, groups.nice(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """`pytest -n 2`: tests that share a lab or a control plane stay together in one process (see tests/groups.py)."""
    from xdist.scheduler.loadscope import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return groups.group(nodeid)

    config.option.loadscopereorder = False
    return ByGroup(config, log)
