# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two API servers for the tests of backup and restore: where the mesh is, and where it is put."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.state import Lab
from tests.integration.backup.world import World
from tests.integration.ccm.fixtures import _binary


def _world(name: str, tmp_path_factory: pytest.TempPathFactory) -> World:
    lab = Lab("backup-test")
    return World(tmp_path_factory.mktemp(name), _binary("etcd"), _binary("kube-apiserver")).ready(lab)


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = _world("first", tmp_path_factory)
    yield world
    world.stop()


@pytest.fixture(scope="session")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = _world("second", tmp_path_factory)
    yield world
    world.stop()


@pytest.fixture
def source(first: World) -> Iterator[World]:
    yield first
    first.wipe()


@pytest.fixture
def target(second: World) -> Iterator[World]:
    yield second
    second.wipe()
