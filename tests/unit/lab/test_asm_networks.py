# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of the networks that ASM's API was told: configuration of the control plane, and what new sidecars are told."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from lab import eastwest
from lab.asm import __main__ as program
from lab.asm.migrate import MESH_CONFIG, OWN_HOOK_PATH, STATES, Injector
from lab.asm.networks import Networks, mesh_networks, obey
from lab.kube import Api
from tests.unit.lab.test_asm_migrate import World

URL = "https://192.0.2.1/inject/cluster/c0ack"
TOLD: Networks = {
    "c0ack": {"Network": "network-1", "EnableGateway": False, "CustomGatewayAddress": ""},
    "c0b": {"Network": "network-2", "EnableGateway": True, "CustomGatewayAddress": "192.0.2.7:15443"},
    "c0c": {"Network": "", "EnableGateway": False, "CustomGatewayAddress": ""},
}


@pytest.fixture
def world() -> World:
    """The cluster is migrating."""
    made = World(injector=Injector(URL, "Q0E="))
    for state in STATES[1:3]:
        made.ask(state=state)
    return made


def look(world: World, networks: Networks | None) -> None:
    obey(cast(Api, world.asm), world.migrations, "c0ack", lambda: networks)


def address(world: World) -> str:
    (webhook,) = world.ack.objects[OWN_HOOK_PATH]["webhooks"]
    return str(webhook["clientConfig"]["url"])


def test_mesh_networks_have_each_cluster_and_each_gateway_that_was_named() -> None:
    assert mesh_networks(TOLD) == {
        "networks": {
            "network-1": {"endpoints": [{"fromRegistry": "c0ack"}], "gateways": []},
            "network-2": {"endpoints": [{"fromRegistry": "c0b"}], "gateways": [{"address": "192.0.2.7", "port": 15443}]},
        }
    }


def test_new_sidecars_are_told_and_told_no_more(world: World) -> None:
    assert address(world) == URL
    look(world, TOLD)
    assert address(world) == f"{URL}/net/network-1"
    assert json.loads(world.asm.objects[MESH_CONFIG]["data"]["meshNetworks"]) == mesh_networks(TOLD)
    written = len(world.ack.writes), len(world.asm.writes)
    look(world, TOLD)
    assert (len(world.ack.writes), len(world.asm.writes)) == written
    look(world, {})
    assert address(world) == URL


def test_the_network_is_remembered_until_there_is_a_webhook() -> None:
    world = World(injector=Injector(URL, "Q0E="))
    look(world, TOLD)
    assert OWN_HOOK_PATH not in world.ack.objects
    for state in STATES[1:3]:
        world.ask(state=state)
    assert address(world) == f"{URL}/net/network-1"


def test_who_does_not_know_changes_nothing(world: World) -> None:
    look(world, TOLD)
    look(world, None)
    assert address(world).endswith("/net/network-1") and program.networks("", "c0asm") is None

    def nobody() -> Networks:
        raise OSError("connection refused")

    obey(cast(Api, world.asm), world.migrations, "c0ack", nobody)
    assert address(world).endswith("/net/network-1")


def test_the_far_application_is_selected_by_its_service_in_its_own_cluster_only() -> None:
    account, service, deployment = eastwest.server()
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert account["metadata"]["name"] == deployment["spec"]["template"]["spec"]["serviceAccountName"]
    assert service == eastwest.far() and service["spec"]["selector"].items() <= labels.items()
    assert labels["app"] != "echo"  # the near application has pods of that name in the other cluster


@pytest.mark.parametrize("part", ["containers", "initContainers"])
def test_the_network_of_a_pod_is_that_of_its_proxy(part: str) -> None:
    proxy: dict[str, Any] = {"name": "istio-proxy", "env": [{"name": "ISTIO_META_NETWORK", "value": "network-1"}]}
    spec = {"containers": [{"name": "app"}]}
    assert eastwest.network_of({"spec": spec}) is None
    assert eastwest.network_of({"spec": {**spec, part: [*spec.get(part, []), proxy]}}) == "network-1"
