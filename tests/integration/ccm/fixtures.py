# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the conformance suite of the cloud-controller-manager.

    pytest tests/integration/ccm                                        ours, three versions
    LAB_CCM=/path/to/binary LAB_CCM_VERSION=v2.14.0 pytest ...          the real one

LAB_BIN (or the lab's cache) must hold kube-apiserver and etcd.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.ccm.cloud import CloudServer
from tests.integration.ccm.implementation import Ccm, versions
from tests.integration.ccm.plane import Plane
from tests.integration.ccm.world import World


def _binary(name: str) -> Path:
    folder = os.environ.get("LAB_BIN")
    if folder:
        return Path(folder) / name
    from lab import binaries

    return binaries.path(name)


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    running = Plane(tmp_path_factory.mktemp("plane"), _binary("etcd"), _binary("kube-apiserver")).start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudServer]:
    server = CloudServer(tmp_path_factory.mktemp("cloud")).start()
    # every node that a case may make is a known instance; pods of node nK live in 10.64.K.0/24
    named = {f"i-n{index}": {"ip": f"10.10.1.{10 + index}", "pod_cidr": f"10.64.{index}.0/24"} for index in range(40)}
    named |= {f"i-{name}": {"ip": f"10.10.2.{10 + at}", "pod_cidr": f"10.65.{at}.0/24"} for at, name in enumerate(EXTRA)}
    server.instances(named)
    yield server
    server.stop()


EXTRA = ("late", "master", "control", "excluded", "notready", "tainted", "cordoned")


@pytest.fixture(scope="session", params=versions())
def ccm(
    request: pytest.FixtureRequest, plane: Plane, cloud: CloudServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ccm]:
    running = Ccm(request.param, tmp_path_factory.mktemp("ccm"), plane.kubeconfig, cloud.endpoint)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def world(ccm: Ccm, plane: Plane, cloud: CloudServer) -> Iterator[World]:
    used = World(plane.api, cloud, ccm)
    yield used
    used.close()
