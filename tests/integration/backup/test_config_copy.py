# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mesh_config between two API servers: all kinds of Istio, compared three ways, and what the target does not take."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import KINDS, kinds_at
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._order import rank_of
from tests.integration.backup.world import (
    CRD,
    VIRTUAL_SERVICE,
    Object,
    World,
    config,
    established,
    gateway,
    make,
    make_namespaces,
    one_of_each,
    vs,
    wait,
)

OLD_FILTER = {
    "apiVersion": "networking.istio.io/v1alpha3",
    "kind": "EnvoyFilter",
    "metadata": {"name": "old", "namespace": "shop"},
    "spec": {
        "configPatches": [
            {
                "applyTo": "HTTP_FILTER",
                "match": {"proxy": {"proxyVersion": "^1\\.20.*"}},
                "patch": {"operation": "MERGE", "value": {}},
            }
        ]
    },
}


@pytest.fixture(autouse=True)
def places(source: World, target: World) -> None:
    """The gateway in the source, and the namespaces in the target, for nobody here could delete one that a copy made."""
    make(source, *gateway())
    make_namespaces(target, "shop", "istio-system")


def actions(outcome: Outcome, field: str = "action") -> dict[str, str]:
    return {f"{item['kind']}/{item['name']}": item[field] for item in outcome.result["items"]}


def reason(outcome: Outcome, key: str) -> str:
    (found,) = [item["reason"] for item in outcome.result["items"] if f"{item['kind']}/{item['name']}" == key]
    return str(found)


def done(outcome: Outcome) -> Outcome:
    assert outcome.failed is None, outcome.failed.message
    return outcome


def mesh_objects(world: World) -> list[Object]:
    return [obj for obj in one_of_each(world) if obj["kind"] in KINDS]


def test_every_kind_is_copied_once_in_the_order_of_dependencies(source: World, target: World, tmp_path: Path) -> None:
    wanted = mesh_objects(source)
    make(source, *wanted)
    state = {"state_dir": str(tmp_path)}
    planned = done(config(source, target, check=True, **state))
    assert planned.result["counts"] == {"only_in_source": len(KINDS), "same": 0, "differs": 0, "only_in_target": 0}
    assert set(actions(planned).values()) == {"create"}
    assert not list(target.cluster.list_all(VIRTUAL_SERVICE, "shop")), "a check writes nothing"
    assert done(config(source, target, **state)).plan.as_list() == planned.plan.as_list()
    lines = [json.loads(line) for line in (tmp_path / "config" / "journal.jsonl").read_text().splitlines()]
    begun = [rank_of(line["after"]) for line in lines if line["event"] == "begin"]
    assert begun == sorted(begun) and len(begun) == len(KINDS)
    again = done(config(source, target, **state))
    assert not again.plan.changed and again.result["counts"]["same"] == len(KINDS)
    for obj in wanted:
        kind = kinds_at(target.cluster)[obj["kind"]]
        assert (target.cluster.get(kind, obj["metadata"]["name"], "shop") or {}).get("spec", {}) == obj["spec"]
    source.remove(kinds_at(source.cluster)["Sidecar"], "a-sidecar", "shop")
    gone = done(config(source, target, **state))
    assert actions(gone)["Sidecar/a-sidecar"] == "extra" and "the source has it no more" in reason(gone, "Sidecar/a-sidecar")

    source.wipe()  # the gateway too: it has no traffic
    taken = done(config(source, target, state="absent", **state))
    assert set(actions(taken).values()) == {"delete"} and len(taken.plan.changes) == len(KINDS)
    assert not done(config(source, target, state="absent", **state)).plan.changed


def test_both_sides_are_compared_by_meaning(source: World, target: World) -> None:
    same = vs("same", hosts=["a.example.com", "b.example.com"])
    make(source, vs("new"), same, vs("other"))
    there = {**vs("same", hosts=["b.example.com", "a.example.com"]), "apiVersion": "networking.istio.io/v1beta1"}
    make(target, there, vs("other", hosts=["theirs.example.com"]), vs("theirs"))
    found = config(source, target)
    assert actions(found, "comparison") == {
        "VirtualService/new": "only_in_source",
        "VirtualService/other": "differs",
        "VirtualService/same": "same",
        "VirtualService/theirs": "only_in_target",
    }
    assert found.failed is not None and "the target has its own" in found.failed.why
    assert target.cluster.get(VIRTUAL_SERVICE, "new", "shop") is None, "nothing is written"
    done(config(source, target, on_conflict="update"))
    again = done(config(source, target))
    assert not again.plan.changed and Counter(actions(again, "comparison").values()) == {"same": 3, "only_in_target": 1}


def test_kinds_namespaces_labels_and_names_choose(source: World, target: World) -> None:
    ours, other = vs("ours"), vs("other", namespace="istio-system")
    ours["metadata"]["labels"] = {"team": "a"}
    make(source, ours, other, *[obj for obj in mesh_objects(source) if obj["kind"] == "Telemetry"])
    assert set(actions(config(source, target, check=True, kinds=["Telemetry"]))) == {"Telemetry/a-telemetry"}
    assert set(actions(config(source, target, check=True, namespaces=["istio-system"]))) == {"VirtualService/other"}
    assert set(actions(config(source, target, check=True, label_selector="team in (a, b)"))) == {"VirtualService/ours"}
    assert set(actions(config(source, target, check=True, names=["o*r"]))) == {"VirtualService/other"}
    assert actions(config(source, target, check=True, scope="gateway")) == {}


@pytest.fixture
def no_extensions(target: World) -> Iterator[None]:
    """The target does not serve TrafficExtension."""
    name = "trafficextensions.extensions.istio.io"
    crd = target.cluster.get(CRD, name) or {}
    target.remove(CRD, name)
    wait(lambda: "TrafficExtension" not in kinds_at(target.cluster), "the kind is gone")
    yield
    meta = {key: crd["metadata"][key] for key in ("name", "labels", "annotations") if key in crd["metadata"]}
    target.cluster.create(CRD, {**crd, "apiVersion": CRD.api_version, "kind": CRD.kind, "metadata": meta, "status": {}})
    wait(lambda: established(target.cluster.get(CRD, name)), "it is served again")
    wait(lambda: "TrafficExtension" in kinds_at(target.cluster), "discovery knows it")


@pytest.mark.usefixtures("no_extensions")
def test_what_the_target_does_not_take_is_listed_and_refused_or_left_out(source: World, target: World) -> None:
    make(source, *mesh_objects(source), OLD_FILTER)
    asked: dict[str, Any] = {"target_version": "1.24.6"}
    found = config(source, target, **asked)
    assert {key for key, action in actions(found).items() if action == "refused"} == {
        "EnvoyFilter/old",
        "TrafficExtension/a-trafficextension",
    }
    assert reason(found, "EnvoyFilter/old") == "none of its patches is for a proxy of the version 1.24.6, but for ^1\\.20.*"
    assert "does not serve the kind TrafficExtension" in reason(found, "TrafficExtension/a-trafficextension")
    assert found.failed is not None and "on_refused" in found.failed.todo
    assert not found.plan.changed and target.cluster.get(VIRTUAL_SERVICE, "a-virtualservice", "shop") is None
    put = done(config(source, target, on_refused="skip", **asked))
    assert len(put.plan.changes) == len(KINDS) - 1
    assert "2 objects are not copied" in put.warnings[0]
    assert not done(config(source, target, on_refused="skip", **asked)).plan.changed
    told = config(source, target, on_refused="skip", check=True)
    assert any("set target_version" in note for note in told.plan.notes), "without the version it is only told"


def test_what_the_targets_api_server_forbids_is_refused_before_the_first_write(source: World, target: World) -> None:
    make(source, *mesh_objects(source))
    read = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}
    groups = ["networking.istio.io", "security.istio.io", "telemetry.istio.io"]
    write = {"apiGroups": groups, "resources": ["*"], "verbs": ["create", "update"]}
    found = config(source, target, target=target.limited(read, write))
    refused = {key for key, action in actions(found).items() if action == "refused"}
    assert refused == {"TrafficExtension/a-trafficextension", "WasmPlugin/a-wasmplugin"}
    assert "cannot create resource" in reason(found, "WasmPlugin/a-wasmplugin")
    assert target.cluster.get(VIRTUAL_SERVICE, "a-virtualservice", "shop") is None


def test_more_than_a_page_and_a_plan_that_can_be_read(source: World, target: World) -> None:
    make(source, *[vs(f"many-{number}") for number in range(620)])
    planned = done(config(source, target, check=True))
    assert planned.result["counts"]["only_in_source"] == 620
    (change,) = planned.plan.changes
    assert (change.action, change.target, change.after) == (
        "create",
        "target/shop/VirtualService",
        "620 objects as in the source",
    )
    done(config(source, target))
    again = done(config(source, target))
    assert not again.plan.changed and again.result["counts"]["same"] == 620


def test_more_is_not_overwritten_than_can_be_kept(source: World, target: World) -> None:
    big = {"match": [{"uri": {"prefix": "/" + "x" * 900}}], "route": [{"destination": {"host": "web"}}]}
    names = [f"big-{number}" for number in range(30)]
    make(source, *[vs(name, hosts=["new.example.com"]) for name in names])
    make(target, *[vs(name, http=[big] * 30) for name in names])
    found = config(source, target, check=True, on_conflict="update")
    assert found.failed is not None and "30 objects are too many" in found.failed.message
    assert not found.plan.changed
    assert config(source, target, check=True, on_conflict="update", names=["big-1*"]).failed is None
