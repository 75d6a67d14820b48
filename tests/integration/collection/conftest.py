# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection's modules against an API server, the cloud server and a cloud-controller-manager, without nodes and traffic.

pytest tests/integration/collection                                        three versions of ours
LAB_CCM=/path/to/binary LAB_CCM_VERSION=v2.14.0 pytest ...                 the real one
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.ccm.implementation import versions
from tests.integration.ccm.plane import Plane
from tests.integration.ccm.world import World
from tests.integration.collection.scene import Gateways, Scene


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A file or test with VERSIONS runs with these versions of the CCM only: what it tests does not depend on the version."""

    def wanted(item: pytest.Item) -> bool:
        function, module = getattr(item, "function", None), getattr(item, "module", None)
        only = getattr(function, "VERSIONS", None) or getattr(module, "VERSIONS", ())
        called = getattr(item, "callspec", None)
        version = called.params.get("ccm") if called else None
        return not only or version is None or version in only or len(versions()) == 1

    left = [item for item in items if not wanted(item)]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if wanted(item)]
    for item in items:
        called = getattr(item, "callspec", None)
        here = Path(__file__).parent in item.path.parents
        if here and called and "ccm" in called.params and called.params["ccm"] != "v2.14.0" and len(versions()) > 1:
            item.add_marker(pytest.mark.thorough)


@pytest.fixture(scope="session")
def gateways(plane: Plane) -> Iterator[Gateways]:
    running = Gateways(plane.api)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def scene(world: World, plane: Plane, gateways: Gateways, tmp_path: Path) -> Iterator[Scene]:
    used = Scene(world, plane.kubeconfig, gateways, tmp_path)
    yield used
    used.close()
