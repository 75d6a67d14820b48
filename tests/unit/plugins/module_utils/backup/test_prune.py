# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""prune deletes what the archive has not; what the target has because of its own control plane is kept, with a reason."""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._backup._info_run import read_live
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._restore import Choice, RestorePlan
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._restore_run import Restore
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind, kind_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._vendor import owned

Object = dict[str, Any]
CLASS = Kind("gateway.networking.k8s.io/v1", "GatewayClass", "gatewayclasses", False)
FILTER, SERVICE = kind_of("networking.istio.io/v1alpha3", "EnvoyFilter"), kind_of("v1", "Service")


def thing(kind: Kind, name: str, labels: Object | None = None, **more: Any) -> Object:
    meta: Object = {"name": name, "uid": f"uid-{name}", "resourceVersion": "1", "labels": labels or {}}
    if kind.namespaced:
        meta["namespace"] = "istio-system"
    meta.update(more.pop("meta", {}))
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta, "spec": {}, **more}


def of_class(name: str, controller: str) -> Object:
    return thing(CLASS, name, spec={"controllerName": controller})


def owner(version: str, kind: str) -> Object:
    return {"ownerReferences": [{"apiVersion": version, "kind": kind, "name": "x", "uid": "u", "controller": False}]}


OWN = [
    (of_class("istio", "istio.io/gateway-controller"), "of the controller istio.io/gateway-controller"),
    (of_class("istio-remote", "istio.io/unmanaged-gateway"), "of the controller"),
    (of_class("asm", "istio.alibabacloud.com/gateway-controller"), "of the controller"),
    (of_class("tcm", "mesh.cloud.tencent.com/gateway"), "of the controller"),
    (thing(FILTER, "stats-filter-1.24"), "Istio's installation made it"),
    (thing(FILTER, "tcp-metadata-exchange-1.12-canary"), "Istio's installation made it"),
    (thing(FILTER, "a", {"operator.istio.io/component": "Pilot"}), "component Pilot"),
    (thing(FILTER, "b", {"install.operator.istio.io/owning-resource": "installed-state"}), "installed by"),
    (thing(FILTER, "c", {"provider": "asm"}), "ASM's (label provider)"),
    (thing(FILTER, "d", meta={"annotations": {"asm.alibabacloud.com/system": "1"}}), "ASM's (asm.alibabacloud.com/system)"),
    (thing(FILTER, "e", {"app.kubernetes.io/managed-by": "asm-operator"}), "asm-operator manages it"),
    (thing(FILTER, "f", meta=owner("istio.alibabacloud.com/v1", "ASMTemplate")), "belongs to ASMTemplate x"),
    (thing(SERVICE, "gw", {"gateway.istio.io/managed": "istio.io-gateway-controller"}), "istio.io-gateway-controller makes it"),
    (thing(SERVICE, "pool", meta=owner("example.com/v1", "Pool")), "belongs to Pool x"),
]
USERS = [
    of_class("nginx", "gateway.nginx.org/nginx-gateway-controller"),
    of_class("mine", "notistio.io.example.com/controller"),
    thing(FILTER, "rate-limit"),
    thing(FILTER, "stats-filter-of-shop"),
    thing(FILTER, "helm", {"app.kubernetes.io/managed-by": "Helm", "app": "shop"}),
    thing(FILTER, "ours", {"app.kubernetes.io/managed-by": "servicemesh.migration", "servicemesh.migration/managed-by": "shop"}),
    thing(FILTER, "isolated", {"app.kubernetes.io/managed-by": "tkestack-of-shop"}),
    thing(SERVICE, "web"),
]


@pytest.mark.parametrize(("obj", "why"), OWN, ids=lambda value: value["metadata"]["name"] if isinstance(value, dict) else "")
def test_what_the_target_has_by_its_control_plane_is_known(obj: Object, why: str) -> None:
    assert why in owned(obj)


@pytest.mark.parametrize("obj", USERS, ids=lambda value: value["metadata"]["name"])
def test_what_users_made_is_theirs(obj: Object) -> None:
    assert owned(obj) == ""


class World:
    def __init__(self, objects: list[Object]) -> None:
        self.objects = objects

    def list_all(self, kind: Kind, _namespace: str) -> Iterator[Object]:
        return iter(copy.deepcopy([obj for obj in self.objects if obj["kind"] == kind.kind]))


def test_prune_names_only_what_users_made() -> None:
    made: Restore = object.__new__(Restore)
    kinds = {(kind.group, kind.kind): kind for kind in (CLASS, FILTER, SERVICE)}
    world: Any = World([*(obj for obj, _why in OWN), *USERS])
    made.plan, made.choice = RestorePlan(), Choice((), (), {})
    made.live = read_live(world, dict(kinds), None, everything=True)
    lists = [{"kind": f"{kind.group}/{kind.kind}" if kind.group else kind.kind, "mode": "all"} for kind in kinds.values()]
    made.reader = types.SimpleNamespace(manifest={"lists": lists, "scope": {}})  # type: ignore[assignment]
    seen = next(key for key in made.live.objects if key.endswith("/rate-limit"))
    made._prune({seen})
    users = {obj["metadata"]["name"] for obj in USERS}
    assert {key.rpartition("/")[2] for key, _uid in made.plan.deletes} == users - {"rate-limit"}
    kept = {item.key.rpartition("/")[2]: item for item in made.plan.items}
    assert set(kept) == {obj["metadata"]["name"] for obj, _why in OWN}
    assert all(item.state == "kept" and "the archive has it not, and it is kept: " in item.reason for item in kept.values())
    assert "of the controller istio.io/gateway-controller" in kept["istio"].reason
    assert made.plan.counts["kept"] == len(OWN) and made.plan.counts["extra"] == len(USERS) - 1
    assert f"{len(OWN)} objects are not pruned" in made.plan.notes[0]
    assert not [change for change in made.plan.as_plan().changes if change.target.rpartition("/")[2] in kept]
