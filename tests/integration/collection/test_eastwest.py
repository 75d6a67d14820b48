# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workloads move while they call a cluster in another network, which is reached through its east-west gateway alone.

LAB_THOROUGH=1 pytest tests/integration/collection/test_eastwest.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _asm_network
from lab import eastwest
from lab.load import DEPLOYMENT
from lab.mesh_asm import ACK_ID, MESH_ID
from lab.state import Lab
from tests.integration.collection.test_inject import Scene, good, joined

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(900)]
NETWORKS: list[dict[str, Any]] = [
    {"cluster_id": ACK_ID, "network": eastwest.NETWORK},
    {"cluster_id": eastwest.B_ID, "network": eastwest.OTHER, "custom_gateway_address": eastwest.ADDRESS},
]
LABEL = {"sidecar.asm.aliyun.com/inject": "true"}


class Networked(Scene):
    """The cluster has a neighbour in another network."""

    def networks(self, networks: list[dict[str, Any]] | None, state: str = "present") -> Outcome:
        given = {**self.asm_options(), "networks": networks, "state": state}
        return good(_asm_network.run_module(given, False))

    def clients(self) -> dict[str, str | None]:
        """The mesh of each client's sidecar (empty: Istio's), with the network that it was told."""
        found = {}
        for pod in self.stage.ack.get(eastwest.PODS)["items"]:
            if pod["metadata"]["labels"].get("app") == "client" and not pod["metadata"].get("deletionTimestamp"):
                (proxy,) = (one for one in pod["spec"]["initContainers"] if one["name"] == "istio-proxy")
                mesh = next((item["value"] for item in proxy["env"] if item["name"] == "ASM_ID"), "")
                found[mesh] = eastwest.network_of(pod)
        return found


@pytest.fixture(scope="module")
def neighbour(lab: Lab) -> Iterator[None]:
    with eastwest.running(lab):
        yield


@pytest.fixture
def scene(lab: Lab, neighbour: None, tmp_path: Path) -> Iterator[Networked]:
    with joined(lab, tmp_path, Networked) as one:
        yield one


def migrating(scene: Networked) -> None:
    scene.state("SetupIstioForMigrate")
    good(scene.run(state="restarted"))
    scene.state("Migrating")


def test_with_the_network_told_no_request_is_lost(lab: Lab, scene: Networked) -> None:
    load = eastwest.Caller(lab)
    with load.running():
        scene.networks(NETWORKS)
        migrating(scene)
        assert scene.clients() == {"": eastwest.NETWORK}
        good(scene.run())
        assert scene.clients() == {MESH_ID: eastwest.NETWORK}
        load.wait_for(300)
        good(scene.run(state="restored"))
        assert scene.clients() == {"": eastwest.NETWORK}
        restored = scene.networks(None, "restored")
        assert {item["network"] for item in restored.result["networks"].values()} == {""}
        told = load.stop()
    print(json.dumps(told, indent=1))
    assert (told["failed"], told["errors"]) == (0, {}), told
    answered = load.answered()
    assert answered[eastwest.NAME] > 1000 and told["least_rate"] >= 100, (answered, told)


@pytest.mark.parametrize("networks", [None, [{**NETWORKS[0], "network": eastwest.OTHER}, NETWORKS[1]]], ids=["none", "wrong"])
def test_without_it_who_moved_by_hand_reaches_nobody(lab: Lab, scene: Networked, networks: list[dict[str, Any]] | None) -> None:
    """The module refuses. The vendor's own command asks nobody."""
    load = eastwest.Caller(lab)
    with load.running():
        if networks:
            scene.networks(networks)
        migrating(scene)
        load.wait_for(300)
        assert not load.failures()
        refused = scene.run()
        assert refused.failed is not None and "would not know the network that it is in" in refused.failed.message
        assert list(scene.clients()) == [""]
        scene.stage.ack.patch(DEPLOYMENT, {"spec": {"template": {"metadata": {"labels": LABEL}}}})
        load.ack.wait("the client in ASM's mesh", lambda: list(scene.clients()) == [MESH_ID], 60)
        load.ack.wait("requests that are lost", lambda: len(load.failures()) >= 50, 60)
        assert {line["target"] for line in load.failures()} == {eastwest.NAME}, load.failures()[:5]
        scene.stage.ack.patch(DEPLOYMENT, {"spec": {"template": {"metadata": {"labels": dict.fromkeys(LABEL)}}}})
        load.ack.wait("the client in Istio's mesh", lambda: list(scene.clients()) == [""], 60)
        before = load.answered()[eastwest.NAME]
        load.ack.wait("answers from the other network", lambda: load.answered()[eastwest.NAME] > before + 50, 60)
        if networks:
            scene.networks(None, "restored")
