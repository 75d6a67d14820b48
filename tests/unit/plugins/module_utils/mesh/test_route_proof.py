# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a proxy's configuration says of a VirtualService: its weights, and whether a gateway answers for a host."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._route_proof import (
    answers_for,
    shares_in,
    waits,
    weights_in,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._routes import Destination

Object = dict[str, Any]
OLD, NEW = "old.gw.svc.cluster.local", "new.gw.svc.cluster.local"


def note(name: str, namespace: str = "shop") -> Object:
    config = f"/apis/networking.istio.io/v1/namespaces/{namespace}/virtual-service/{name}"
    return {"filter_metadata": {"istio": {"config": config}}}


def weighted(**hosts: int) -> Object:
    names = {"old": OLD, "new": NEW}
    clusters = [{"name": f"outbound|80||{names.get(key, key)}", "weight": weight} for key, weight in hosts.items()]
    return {"weighted_clusters": {"clusters": clusters}}


def rds(*routes: Object) -> Object:
    return {"configs": [{"route_config": {"virtual_hosts": [{"domains": ["x"], "routes": list(routes)}]}}]}


PAIR = (Destination(OLD), Destination(NEW, port=80))


def test_the_weights_of_this_virtual_service_only() -> None:
    mirror = {"cluster": f"outbound|80||{NEW}"}
    dump = rds(
        {"metadata": note("cnn"), "route": {**weighted(old=99, new=1), "request_mirror_policies": [mirror]}},
        {"metadata": note("cnn", "bank"), "route": weighted(old=50, new=50)},
        {"metadata": note("cnn-2"), "route": weighted(old=40, new=60)},
        {"route": {"cluster": f"outbound|80||{OLD}"}},
    )
    assert weights_in([dump], "shop", "cnn") == [{f"outbound|80||{OLD}": 99, f"outbound|80||{NEW}": 1}]
    assert shares_in([dump], "shop", "cnn", [PAIR]) == [1.0]


@pytest.mark.parametrize(("host", "share"), [(OLD, 0.0), (NEW, 100.0)])
def test_a_single_destination_is_all_of_it(host: str, share: float) -> None:
    dump = rds({"metadata": note("cnn"), "route": {"cluster": f"outbound|80||{host}"}})
    assert shares_in([dump], "shop", "cnn", [PAIR]) == [share]


def test_a_tcp_proxy_counts_and_another_destination_does_not() -> None:
    chain = {"metadata": note("cnn"), "filters": [{"typed_config": weighted(old=30, new=10, other=60)}]}
    strange = {"metadata": note("cnn"), "filters": [{"typed_config": {"cluster": "outbound|80|v2|" + OLD}}]}
    assert shares_in([{"configs": [{"filter_chains": [chain, strange]}]}], "shop", "cnn", [PAIR]) == [25.0]


@pytest.mark.parametrize(
    ("has", "planned", "taken"), [([1.0], [1.0], True), ([], [50.0], True), ([99.0, 1.0], [1.0], False), ([1.3], [1.0], True)]
)
def test_a_proxy_is_waited_for_until_all_its_routes_are_as_planned(has: list[float], planned: list[float], taken: bool) -> None:
    assert (waits(has, planned) == "") is taken


@pytest.mark.parametrize(
    ("domains", "routes", "answers"),
    [
        (["edition.cnn.com", "edition.cnn.com:80"], [{}], True),
        (["*.cnn.com"], [{}], True),
        (["*"], [{}], True),
        (["*"], [], False),  # Istio's black hole
        (["other.test"], [{}], False),
    ],
)
def test_a_gateway_answers_for_a_host_by_its_virtual_hosts(domains: list[str], routes: list[Object], answers: bool) -> None:
    dump = {"configs": [{"route_config": {"virtual_hosts": [{"domains": domains, "routes": routes}]}}]}
    assert answers_for([dump], "edition.cnn.com", "http") is answers


def test_a_gateway_answers_for_tls_by_its_server_names() -> None:
    dump = {"configs": [{"filter_chains": [{"filter_chain_match": {"server_names": ["a.test"]}}]}]}
    assert answers_for([dump], "a.test", "tls") and not answers_for([dump], "b.test", "tls")
    assert not answers_for([dump], "a.test", "http")
