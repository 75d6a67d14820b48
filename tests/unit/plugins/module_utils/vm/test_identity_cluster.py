# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller reads for a VM out of a mesh's own objects, and what it would make."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind
from ansible_collections.servicemesh.migration.plugins.module_utils._vm import _cluster, _renewal
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._identity_spec import identity_spec

Object = dict[str, Any]
SYSTEM = "istio-system"


def named(kind: str, namespace: str, name: str, **more: Any) -> Object:
    return {"kind": kind, "metadata": {"namespace": namespace, "name": name, "uid": f"uid-{name}"}, **more}


VALUES = {"global": {"meshID": "mesh1", "network": "net1", "multiCluster": {"clusterName": "cn-1"}}}
MESH = "defaultConfig:\n  concurrency: 2\ntrustDomain: td.test\n"
PODS = [
    named("Pod", SYSTEM, "istiod-b", status={"podIP": "10.0.0.2", "conditions": [{"type": "Ready", "status": "True"}]}),
    named("Pod", SYSTEM, "istiod-a", status={"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}),
    named("Pod", SYSTEM, "istiod-c", status={"podIP": "10.0.0.3", "conditions": [{"type": "Ready", "status": "False"}]}),
]
BALANCED = named(
    "Service", SYSTEM, "istiod-lb",
    spec={"selector": {"app": "istiod"}, "ports": [{"port": 15012}]}, status={"loadBalancer": {"ingress": [{"ip": "192.0.2.5"}]}},
)  # fmt: skip
WORLD = [
    named("Namespace", "", "vmns"),
    named("ConfigMap", "vmns", "istio-ca-root-cert", data={"root-cert.pem": "ROOT"}),
    named("ConfigMap", "vmns", "kube-root-ca.crt", data={"ca.crt": "API"}),
    named("ConfigMap", SYSTEM, "istio-sidecar-injector", data={"values": json.dumps(VALUES)}),
    named("ConfigMap", SYSTEM, "istio", data={"mesh": MESH}),
    *PODS,
    BALANCED,
]


class Memory:
    """The few calls that are made, on objects in memory."""

    host = "https://192.0.2.8:6443/"

    def __init__(self, objects: list[Object], refuses: bool = False) -> None:
        self.objects, self.refuses = objects, refuses

    def get(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        for one in self.objects:
            if (one["kind"], one["metadata"]["namespace"], one["metadata"]["name"]) == (kind.kind, namespace, name):
                return one
        return None

    def exists(self, kind: Kind, name: str, namespace: str = "") -> bool:
        return self.get(kind, name, namespace) is not None

    def list_all(self, kind: Kind, namespace: str = "", **_more: Any) -> Iterator[Object]:
        return (one for one in self.objects if one["kind"] == kind.kind and one["metadata"]["namespace"] == namespace)

    def served(self, group: str) -> list[Object]:
        if self.refuses:
            raise MigrationError("No", why="not allowed", details={"status": 403})
        there = any(one["kind"] == "WorkloadEntry" for one in self.objects)
        return [{"kind": "WorkloadEntry", "plural": "workloadentries", "version": "v1beta1", "namespaced": True}] if there else []

    def where(self, kind: Kind, name: str, namespace: str) -> str:
        return f"source/{namespace}/{kind.kind}/{name}"


def options(**more: Any) -> Object:
    words = {"namespace": "vmns", "service_account": "vmsa", "name": "vm-0", **more}
    checked = ArgumentSpecValidator(identity_spec()).validate(words)
    assert checked.error_messages == []
    return dict(checked.validated_parameters)


def observe(objects: list[Object], **more: Any) -> _cluster.Facts:
    return _cluster.observe(Memory(objects), options(**more))  # type: ignore[arg-type]


def test_the_mesh_tells_who_it_is() -> None:
    found = observe(WORLD)
    assert (found.cluster_id, found.mesh_id, found.network, found.trust_domain) == ("cn-1", "mesh1", "net1", "td.test")
    assert (found.root_cert, found.addresses, found.proxy_config) == ("ROOT", ["192.0.2.5"], {"concurrency": 2})
    assert found.api_server == "" and found.api_ca == ""


def test_options_win_and_a_mesh_that_says_nothing_has_istios_defaults() -> None:
    bare = [one for one in WORLD if one["metadata"]["namespace"] != SYSTEM] + PODS
    found = observe(bare, istiod={"addresses": ["192.0.2.6"]}, cluster_id="mine")
    assert (found.cluster_id, found.mesh_id, found.trust_domain) == ("mine", "cluster.local", "cluster.local")
    assert found.addresses == ["192.0.2.6"]


def test_pods_addresses_only_when_asked_and_ready() -> None:
    assert observe(WORLD, istiod={"find": "pods"}).addresses == ["10.0.0.1", "10.0.0.2"]


def test_a_timer_needs_the_api_server() -> None:
    found = observe(WORLD, renewal={"method": "timer"})
    assert (found.api_server, found.api_ca) == ("https://192.0.2.8:6443", "API")
    assert observe(WORLD, renewal={"method": "timer", "server": "https://x:1/"}).api_server == "https://x:1"


def without(kind: str, name: str) -> list[Object]:
    return [one for one in WORLD if (one["kind"], one["metadata"]["name"]) != (kind, name)]


@pytest.mark.parametrize(
    ("objects", "more", "says"),
    [
        (without("Namespace", "vmns"), {}, "namespace of the VM"),
        (without("ConfigMap", "istio-ca-root-cert"), {}, "root certificate"),
        (without("Service", "istiod-lb"), {}, "where the VM reaches istiod"),
        (without("ConfigMap", "kube-root-ca.crt"), {"renewal": {"method": "timer"}}, "root certificate"),
        (WORLD, {"istiod": {"addresses": ["istiod.example"]}}, "no address of istiod"),
        ([*without("ConfigMap", "istio"), named("ConfigMap", SYSTEM, "istio", data={"mesh": "a: [b"})], {}, "cannot be read"),
    ],
)
def test_what_is_missing_is_said(objects: list[Object], more: Object, says: str) -> None:
    with pytest.raises(MigrationError, match=says):
        observe(objects, **more)


def planned(objects: list[Object], **more: Any) -> list[str]:
    made, made_objects = _cluster.plan(Memory(objects), options(**more))  # type: ignore[arg-type]
    assert len(made.changes) == len(made_objects)
    return [str(change) for change in made.changes]


def test_the_account_and_its_one_right_are_made_once() -> None:
    account = named("ServiceAccount", "vmns", "vmsa")
    assert planned(WORLD) == ["create source/vmns/ServiceAccount/vmsa"]
    assert planned([*WORLD, account]) == []
    timer = {"renewal": {"method": "timer"}}
    assert [word.split("/")[2] for word in planned([*WORLD, account], **timer)] == ["Role", "RoleBinding"]
    assert planned([*WORLD, account, *_renewal.rights("vmns", "vmsa")], **timer) == []


def test_a_role_that_says_something_else_is_not_taken_for_ours() -> None:
    role, binding = _renewal.rights("vmns", "vmsa")
    wide = {**role, "rules": [{**role["rules"][0], "resourceNames": []}]}
    with pytest.raises(MigrationError, match="not as it must be"):
        planned([*WORLD, wide, binding], renewal={"method": "timer"})
    with pytest.raises(MigrationError, match="service account is not there"):
        planned(WORLD, create_service_account=False)


def test_only_what_was_made_here_is_deleted() -> None:
    role, binding = (dict(one, metadata={**one["metadata"], "uid": "u"}) for one in _renewal.rights("vmns", "vmsa"))
    foreign = named("ServiceAccount", "vmns", "vmsa")
    made, found = _cluster.plan_absent(Memory([role, binding, foreign]), options())  # type: ignore[arg-type]
    assert [str(change).split("/")[2] for change in made.changes] == ["RoleBinding", "Role"]
    assert len(found) == 2 and "stays" in made.notes[0]


@pytest.mark.parametrize(
    ("other", "stays"),
    [
        (named("Pod", "vmns", "app", spec={"serviceAccountName": "vmsa"}, status={"phase": "Running"}), "Pod/app"),
        (named("Pod", "vmns", "job", spec={"serviceAccountName": "vmsa"}, status={"phase": "Succeeded"}), ""),
        (named("Pod", "vmns", "app", spec={"serviceAccountName": "default"}), ""),
        (named("Pod", "elsewhere", "app", spec={"serviceAccountName": "vmsa"}), ""),
        (named("WorkloadEntry", "vmns", "vm-1", spec={"address": "10.0.0.2", "serviceAccount": "vmsa"}), "WorkloadEntry/vm-1"),
        (named("WorkloadEntry", "vmns", "vm-0", spec={"address": "10.0.0.1", "serviceAccount": "vmsa"}), ""),
        (named("WorkloadEntry", "vmns", "vm-1", spec={"address": "10.0.0.2", "serviceAccount": "other"}), ""),
    ],
)
def test_an_account_that_others_still_are_stays(other: Object, stays: str) -> None:
    """A VM of an earlier wave that could not be reached keeps its identity."""
    mine = named("ServiceAccount", "vmns", "vmsa")
    mine["metadata"]["labels"] = {_renewal.MANAGED_BY: _renewal.MANAGER}
    made, found = _cluster.plan_absent(Memory([mine, other]), options(address="10.0.0.1"))  # type: ignore[arg-type]
    if stays:
        assert (made.changes, found) == ([], []) and stays in made.notes[0]
    else:
        assert [str(change) for change in made.changes] == ["delete source/vmns/ServiceAccount/vmsa"]


def test_an_account_whose_users_cannot_be_seen_stays() -> None:
    mine = named("ServiceAccount", "vmns", "vmsa")
    mine["metadata"]["labels"] = {_renewal.MANAGED_BY: _renewal.MANAGER}
    made, found = _cluster.plan_absent(Memory([mine], refuses=True), options())  # type: ignore[arg-type]
    assert found == [] and "cannot be seen" in made.notes[0]
