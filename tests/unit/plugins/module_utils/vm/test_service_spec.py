# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of bad input of vm_service: each mistake is named before anybody is asked, all of a service's at once."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._service_spec import PARTS, read_services
from tests.unit.plugins.module_utils.vm.service_world import VERSIONS, WORKLOADS, forecast, two_versions, validated

GATEWAY = {"name": "gw", "port": 2050, "hosts": ["203.0.113.9"]}


def read(service: dict[str, Any], present: bool = True) -> Any:
    return read_services(validated(service)["services"], present=present, parts=PARTS)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (forecast(name="1st"), "no name of a Service"),
        (forecast(name="Forecast"), "no name of a Service"),
        (forecast(namespace="vm ns"), "no name of a namespace"),
        (forecast(virtual_service="a/b"), "virtual_service 'a/b'"),
        (forecast(ports=[]), "it has no ports"),
        (forecast(ports=[{"port": 0}]), "0 is no port"),
        (forecast(ports=[{"port": 80, "target_port": 70000}]), "70000 is no port"),
        (forecast(ports=[{"port": 80}, {"port": 80}]), "port 80 is there twice"),
        (forecast(ports=[{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]), "name a is there twice"),
        (forecast(workloads=[{"address": "vm1.example.com"}]), "no IP address"),
        (forecast(workloads=[{"address": "192.0.2.300"}]), "no IP address"),
        (forecast(workloads=[WORKLOADS[0], WORKLOADS[0]]), "is there twice"),
        (forecast(workloads=[{"address": "192.0.2.1", "labels": {"app": "web"}}]), "other labels (app)"),
        (forecast(health_check={"tcp": {"port": 1}}), "health_check needs registration: auto"),
        (forecast(subsets=[*VERSIONS, VERSIONS[0]]), "subset v1 is there twice"),
        (forecast(subsets=[{"name": "v1", "labels": {}}]), "subset v1 has no labels"),
        (two_versions(weights={"v1": 80, "v2": 30}), "100 together"),
        (two_versions(weights={"v1": 120, "v2": -20}), "0 or more"),
        (two_versions(weights={"v1": 50, "v3": 50}), "subset v3 is used, and is not in subsets"),
        (two_versions(canaries=[{"subset": "v9", "match": {"port": 1}}]), "subset v9"),
        (two_versions(canaries=[{"subset": "v2", "match": {}}]), "has no match"),
        (two_versions(faults=[{"delay": {"seconds": 0}}]), "is none"),
        (two_versions(faults=[{"abort": {"http_status": 99}}]), "no HTTP status"),
        (two_versions(faults=[{"abort": {"http_status": 500, "percent": 101}}]), "no percentage"),
        (two_versions(faults=[{"delay": {"seconds": 1}}, {"abort": {"http_status": 500}}]), "more than one of faults"),
        (two_versions(ports=[{"port": 1, "protocol": "TCP"}], faults=[{"delay": {"seconds": 1}}]), "need a port of HTTP"),
        (two_versions(ports=[{"port": 1}, {"port": 2, "protocol": "TCP"}], gateways=[GATEWAY]), "with gateways all ports"),
        (two_versions(gateways=[{**GATEWAY, "hosts": []}]), "has no hosts"),
        (two_versions(gateways=[{**GATEWAY, "paths": ["test"]}]), "does not begin with /"),
        (two_versions(gateways=[{**GATEWAY, "service_port": 9}]), "9 is no HTTP port"),
        (two_versions(gateways=[{**GATEWAY, "port": 65536}]), "65536 is no port"),
    ],
)
def test_a_mistake_is_named(wish: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        read(wish)
    assert said in caught.value.message and "Nothing has been changed" in caught.value.message


def test_all_mistakes_of_a_service_are_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        read(forecast(name="X", ports=[{"port": 0}], workloads=[{"address": "no", "name": "a"}]))
    assert caught.value.why.count(";") == 2


def test_a_service_that_goes_needs_its_name_only() -> None:
    (service,) = read({"name": "forecast", "namespace": "vmns"}, present=False)
    assert (service.key, service.host) == ("vmns/forecast", "forecast.vmns.svc.cluster.local")


def test_numbers_in_labels_are_texts() -> None:
    (service,) = read(
        forecast(workloads=[{"address": "192.0.2.1", "labels": {"version": 1}}], subsets=[{"name": "a", "labels": {"v": 1}}])
    )
    assert service.workloads[0].labels == {"app": "forecast", "version": "1"}
    assert service.subsets[0]["labels"] == {"v": "1"}
