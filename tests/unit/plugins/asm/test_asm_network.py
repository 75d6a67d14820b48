# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""asm_network: only what is named changes, the way back is exact, and wrong names are found before anything is asked."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._asm import Member, Mesh, Network
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._asm_network import Observed, mesh_of, plan

from .conftest import CLUSTER, MESH, Bench

SECOND = "c0second"
GOOD = Mesh(MESH, "prod", "running", "v1.24.6.64-g5c8f1f4b-aliyun")
IN = {CLUSTER: Member(CLUSTER, "", "running", "")}


@pytest.mark.parametrize(
    ("mesh", "members", "present", "wanted", "changes", "refused"),
    [
        (GOOD, IN, {}, Network("network-1", True), 1, ""),
        (GOOD, IN, {CLUSTER: Network("network-1", True, "", "asm-cross-network-x")}, Network("network-1", True), 0, ""),
        (GOOD, IN, {CLUSTER: Network("network-1")}, Network("network-2"), 1, ""),
        (GOOD, {}, {}, Network("network-1"), 1, "not in the mesh"),
        (GOOD, {CLUSTER: Member(CLUSTER, "", "starting", "")}, {}, Network("network-1"), 1, "its state is starting"),
        (GOOD, IN, {}, Network("", True), 1, "needs a network"),
        (Mesh(MESH, "", "running", "v1.21.6.1"), IN, {}, Network("network-1", True), 1, "at least 1.22"),
        (Mesh(MESH, "", "running", "v1.21.6.1"), IN, {}, Network("network-1"), 1, ""),
        (Mesh(MESH, "", "initial", "v1.24.1"), IN, {}, Network("network-1"), 1, "its state is initial"),
        (Mesh(MESH, "", "initial", "v1.24.1"), IN, {CLUSTER: Network("network-1")}, Network("network-1"), 0, ""),
    ],
)
def test_plan(mesh: Mesh, members: Any, present: Any, wanted: Network, changes: int, refused: str) -> None:
    made, refusals = plan(Observed(mesh, members, present), {CLUSTER: wanted})
    assert len(made.changes) == changes
    told = [f"{item.what} {item.why}" for item in refusals]
    assert (len(told) == 1 and refused in told[0]) if refused else not told


@pytest.fixture
def joined(bench: Bench) -> Bench:
    """Two clusters in the mesh; the second one has a network already."""
    members = {key: {"cluster_id": key} for key in (CLUSTER, SECOND)}
    bench.put({"members": members, "networks": {SECOND: {"Network": "network-2", "CustomGatewayAddress": "192.0.2.7:15443"}}})
    bench.cloud.lab("PUT", "/_lab/meshes", {"clusters": {SECOND: {}}})
    return bench


def test_set_again_and_restored(joined: Bench) -> None:
    wanted = {"networks": [{"cluster_id": CLUSTER, "network": "network-1", "enable_gateway": True}]}
    before = joined.run("asm_network", check=True, networks=[])["networks"]
    checked = joined.run("asm_network", check=True, **wanted)
    assert checked["changed"] and joined.writes == []
    done = joined.run("asm_network", **wanted)
    assert done["plan"] == checked["plan"]
    assert done["networks"][CLUSTER]["gateway_name"] == f"asm-cross-network-{CLUSTER}"
    assert done["networks"][SECOND] == before[SECOND]
    (call,) = [call for call in joined.cloud.lab("GET", "/_lab/calls")["calls"] if call["action"].startswith("Update")]
    assert SECOND in call["parameters"]["MultiClusterNetworks"]
    assert joined.run("asm_network", **wanted)["changed"] is False
    # one field said, the others stay
    moved = joined.run("asm_network", networks=[{"cluster_id": SECOND, "network": "network-3"}])
    assert moved["networks"][SECOND]["custom_gateway_address"] == "192.0.2.7:15443"
    back = joined.run("asm_network", state="restored", networks=None)
    assert back["changed"] and back["networks"] == before
    assert joined.run("asm_network", state="restored", networks=None)["changed"] is False


def test_the_journal_knows_which_mesh_gets_its_networks_back(joined: Bench) -> None:
    nothing = joined.run("asm_network", state="restored", mesh_id=None, networks=None)
    assert (nothing["changed"], nothing["networks"]) == (False, {})
    joined.run("asm_network", networks=[{"cluster_id": CLUSTER, "network": "network-1"}])
    back = joined.run("asm_network", state="restored", mesh_id=None, networks=None)
    assert back["changed"] and back["networks"][CLUSTER]["network"] == ""


def test_of_two_meshes_one_has_to_be_named(joined: Bench) -> None:
    journal = Journal(str(joined.folder / "elsewhere"), "shop")
    journal.keep_originals(
        {"asm/c0mesh/network/c0ack": {}, "asm/c0other/network/c0ack": {}, "asm/c0third/cluster/c/member": False}
    )
    assert mesh_of(journal, "c0mesh") == "c0mesh"
    with pytest.raises(InputError, match=r"c0mesh, c0other\."):
        mesh_of(journal, "")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mesh_id": "c0typo"}, ["404"]),
        ({"networks": [{"cluster_id": "c0typo", "network": "network-1"}]}, ["not in the mesh"]),
        ({"networks": [{"cluster_id": CLUSTER, "network": "net work"}]}, ["cannot be a label"]),
        ({"networks": [{"cluster_id": CLUSTER, "custom_gateway_address": "gw.example.com:15443"}]}, ["192.0.2.7:15443"]),
        ({"networks": [{"cluster_id": CLUSTER, "custom_gateway_address": "192.0.2.300:15443"}]}, ["192.0.2.300"]),
        ({"networks": [{"cluster_id": CLUSTER}, {"cluster_id": CLUSTER}]}, ["named twice"]),
        ({"networks": None}, ["networks"]),
        ({"mesh_id": None}, ["mesh_id"]),
    ],
)
def test_bad_input_is_refused_before_the_first_write(joined: Bench, options: dict[str, Any], words: list[str]) -> None:
    answer = joined.run("asm_network", **{"networks": [{"cluster_id": CLUSTER, "network": "network-1"}], **options})
    assert answer["failed"] and [word for word in words if word not in answer["msg"]] == []
    assert joined.writes == [] and joined.journal == ""


def test_a_lost_answer_is_no_error(joined: Bench) -> None:
    rule = {"target": "servicemesh", "action": "UpdateMesh*", "nth": 1, "effect": {"reset": True, "after": True}}
    joined.cloud.lab("POST", "/_lab/faults", [rule])
    answer = joined.run("asm_network", networks=[{"cluster_id": CLUSTER, "network": "network-1"}])
    assert not answer.get("failed") and answer["networks"][CLUSTER]["network"] == "network-1"
