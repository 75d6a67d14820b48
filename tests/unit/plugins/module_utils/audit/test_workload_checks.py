# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the preflight says of a cluster whose workloads are to move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._audit._facts import Facts
from ansible_collections.servicemesh.migration.plugins.module_utils._audit._finding import run_checks
from ansible_collections.servicemesh.migration.plugins.module_utils._audit._workload_checks import WORKLOAD_CHECKS
from ansible_collections.servicemesh.migration.plugins.module_utils._audit._workload_facts import (
    WorkloadFacts,
    network_of,
    read_workloads,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._asm import Network
from tests.unit.plugins.module_utils.mesh.inject_world import Api

Object = dict[str, Any]


def namespace(name: str, **labels: str) -> Object:
    return {"metadata": {"name": name, "labels": {key.replace("_", "/"): value for key, value in labels.items()}}}


def rolling(surge: Any = "25%", unavailable: Any = 0) -> tuple[Object, Object]:
    strategy = {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}
    meta = {"name": "web", "namespace": "shop"}
    pod = {
        "containers": [{"name": "web", "resources": {"requests": {"cpu": "100m"}}}],
        "initContainers": [
            {"name": "istio-proxy", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
            {"name": "istio-init", "resources": {"requests": {"cpu": "7"}}},
        ],
    }
    return {"kind": "Deployment", "metadata": meta, "spec": {"replicas": 2, "strategy": strategy}}, {
        "metadata": meta,
        "spec": pod,
    }


def quota(used: Object, **hard: str) -> Object:
    status = {"hard": {key.replace("_", "."): value for key, value in hard.items()}, "used": used}
    return {"metadata": {"name": "limits", "namespace": "shop"}, "status": status}


def facts() -> Facts:
    found = Facts({"workloads": True})
    found.versions = {"source": "v1.30.1-aliyun.1"}
    found.workloads = WorkloadFacts(["docker.io/istio/pilot:1.20.8"], [namespace("shop", istio_injection="x")], root="PEM")
    found.workloads.namespaces = [{"metadata": {"name": "shop", "labels": {"istio-injection": "enabled"}}}]
    found.workloads.surging = [rolling()]
    found.workloads.quotas = [quota({"requests.cpu": "1500m", "pods": "5"}, requests_cpu="2", pods="10", services="1")]
    return found


def networked(found: Any, there: str = "", planned: str = "", mesh: str = "c0asm", cluster: str = "c0ack") -> None:
    """Istio has the cluster in network-1. ``there``: what ASM says. ``planned``: what it will be told."""
    networks = [{"cluster_id": "c0b"}, {"cluster_id": "c0ack", "network": planned}] if planned else []
    found.options = {"workloads": True, "mesh_id": mesh, "cluster_id": cluster, "networks": networks}
    found.workloads.network, found.networks = "network-1", {"c0ack": Network(there), "c0b": Network("network-1")}


def test_networks_that_agree_or_will_agree_pass() -> None:
    for there, planned in (("network-1", ""), ("", "network-1"), ("network-2", "network-1")):
        seen = facts()
        networked(seen, there, planned)
        report = run_checks(WORKLOAD_CHECKS, seen)
        assert report.passed == list(WORKLOAD_CHECKS) and [item.severity for item in report.findings] == ["info"]


def test_networks_that_could_not_be_read_are_skipped_unless_they_are_planned() -> None:
    seen = facts()
    networked(seen)
    seen.networks = None
    assert run_checks(WORKLOAD_CHECKS, seen).skipped == ["mesh-networks"]
    networked(seen, planned="network-1")
    seen.networks = None
    assert run_checks(WORKLOAD_CHECKS, seen).skipped == []


@pytest.mark.parametrize(
    ("labels", "values", "network"),
    [
        ({}, None, ""),
        ({"topology.istio.io/network": "network-1"}, None, "network-1"),
        ({"topology.istio.io/network": "network-1"}, '{"global": {"network": "network-7"}}', "network-7"),
        ({}, '{"global": {"network": "network-7"}}', "network-7"),
        ({"topology.istio.io/network": "network-1"}, '{"global": {"network": ""}}', "network-1"),
        ({}, "{", ""),
        ({}, '{"global": null}', ""),
        ({}, "[]", ""),
    ],
)
def test_the_network_is_that_of_new_sidecars_or_else_of_the_label(labels: Object, values: str | None, network: str) -> None:
    namespaces = [{"metadata": {"name": "shop", "labels": {"topology.istio.io/network": "x"}}}]
    namespaces.append({"metadata": {"name": "istio-system", "labels": labels}})
    assert network_of(namespaces, None if values is None else {"data": {"values": values}}) == network


def test_a_sound_cluster_passes_all() -> None:
    report = run_checks(WORKLOAD_CHECKS, facts())
    assert report.passed == list(WORKLOAD_CHECKS) and not report.findings


def test_what_could_not_be_read_is_skipped() -> None:
    assert run_checks(WORKLOAD_CHECKS, Facts({})).skipped == list(WORKLOAD_CHECKS)


@pytest.mark.parametrize(
    ("spoil", "severity", "name", "words"),
    [
        (lambda f: f.versions.update(source="v1.20.4"), "error", "versions", "at least 1.21"),
        (lambda f: setattr(f.workloads, "istiods", ["istio/pilot:1.9.9"]), "error", "versions", "at least 1.10"),
        (lambda f: setattr(f.workloads, "istiods", []), "warning", "versions", "app=istiod"),
        (
            lambda f: f.workloads.namespaces.append(namespace("old", **{"istio.io_rev": "canary"})),
            "warning",
            "revision-labels",
            "istio.io/rev=canary",
        ),
        (
            lambda f: setattr(f.workloads, "quotas", [quota({"requests.cpu": "1900m"}, requests_cpu="2")]),
            "error",
            "surge-quota",
            "leaves 0.1 requests.cpu, and one more pod needs 0.15",
        ),
        (lambda f: setattr(f.workloads, "quotas", [quota({"pods": "5"}, pods="5")]), "error", "surge-quota", "leaves 0 pods"),
        (
            lambda f: f.workloads.filters.append({"metadata": {"name": "lua", "namespace": "shop"}}),
            "warning",
            "envoy-filters",
            "copied as it is",
        ),
        (lambda f: setattr(f.workloads, "root", ""), "warning", "mesh-roots", "root certificate"),
        (networked, "error", "mesh-networks", "network-1, ASM in none"),
        (lambda f: networked(f, "network-2"), "error", "mesh-networks", "network-1, ASM in network-2"),
        (lambda f: networked(f, "network-1", planned="network-2"), "error", "mesh-networks", "network-1, ASM in network-2"),
        (lambda f: networked(f, mesh=""), "warning", "mesh-networks", "cannot be asked"),
        (lambda f: networked(f, cluster="", planned="network-1"), "warning", "mesh-networks", "cannot be asked"),
    ],
)
def test_each_trouble_is_found(spoil: Callable[[Any], None], severity: str, name: str, words: str) -> None:
    seen = facts()
    spoil(seen)
    (found,) = run_checks(WORKLOAD_CHECKS, seen).findings
    assert (found.severity, found.id) == (severity, name) and words in found.message and found.hint


def test_a_workload_that_makes_no_pod_first_needs_no_room() -> None:
    seen = facts()
    assert seen.workloads is not None
    seen.workloads.quotas = [quota({"pods": "5"}, pods="5")]
    seen.workloads.surging = [rolling(surge=0, unavailable=1)]
    assert not run_checks(WORKLOAD_CHECKS, seen).findings
    seen.workloads.surging = [rolling(unavailable=1)]
    (found,) = run_checks(WORKLOAD_CHECKS, seen).findings
    assert (found.severity, found.id) == ("warning", "surge-quota")


def test_the_cluster_is_read_in_a_few_lists() -> None:
    api: Any = Api()
    api.workload("web")
    api.add(
        {
            "kind": "Deployment",
            "metadata": {"name": "istiod", "namespace": "istio-system", "generation": 1, "labels": {"app": "istiod"}},
            "spec": {
                "replicas": 0,
                "selector": {},
                "template": {"metadata": {}, "spec": {"containers": [{"name": "d", "image": "pilot:1.20.8"}]}},
            },
            "status": {},
        }
    )
    api.add({"kind": "ResourceQuota", **quota({}, pods="5")})
    api.add(
        {
            "kind": "ConfigMap",
            "metadata": {"name": "istio-ca-root-cert", "namespace": "istio-system"},
            "data": {"root-cert.pem": "PEM\n"},
        }
    )
    found = read_workloads(api)
    assert found.istiods == ["pilot:1.20.8"] and found.root == "PEM"
    assert [item["metadata"]["name"] for item, _pod in found.surging] == ["web"]
    assert sum(number for what, number in api.calls.items() if what.startswith("list")) == 6
