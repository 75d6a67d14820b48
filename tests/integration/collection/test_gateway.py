# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""asm_gateway in the lab: made without traffic, never twice, and removed without a listener."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _ccm
from lab.demo.stage import differences
from lab.kube import path_of
from lab.state import Lab
from tests.integration.ccm.world import until
from tests.integration.collection.gateway_world import NAMESPACE, TARGET, Gateways, gateways
from tests.integration.collection.scene import killed_at


@pytest.fixture
def world(lab: Lab, tmp_path: Path) -> Iterator[Gateways]:
    with gateways(lab, tmp_path, "gw-make") as found:
        yield found


def test_it_is_made_without_traffic_once_and_removed_without_a_listener(world: Gateways) -> None:
    before, first = world.stage.world(), world.listeners()
    error = world.refused("asm")
    assert "run clb_reuse" in error.todo
    planned = world.call("asm", check=True)
    assert [change.action for change in planned.plan.changes] == ["create"]
    assert any("not reusable yet" in warning for warning in planned.warnings)
    assert not differences(before, world.stage.world())

    world.call("reuse")
    world.call("config")  # without routes the gateway is not healthy, and would be waited for
    listeners = world.listeners()
    made = world.call("asm")
    body = planned.plan.changes[0].after["spec"]["serviceAnnotations"]
    assert made.plan.changes[0].after["spec"]["serviceAnnotations"] == body
    seen = made.result["gateways"][0]["seen"]
    assert seen["pods"] >= 2
    assert set(seen["shares"].values()) == {0.0}
    assert world.listeners() == listeners
    service = world.service(f"istio-{TARGET}")
    assert service is not None
    assert service["metadata"]["annotations"][_ccm.WEIGHT] == "0"
    assert service["metadata"]["annotations"][_ccm.OVERRIDE] == "false"
    source = world.service()
    assert source is not None
    ports = [[(port["port"], port["targetPort"]) for port in item["spec"]["ports"]] for item in (source, service)]
    assert ports[0] == ports[1]
    again = world.call("asm")
    assert not again.plan.changed

    world.call("weight", share=50)
    assert not world.call("asm").plan.changed
    assert world.stage.shares() == {50.0}
    assert "has traffic" in world.refused("asm", state="absent").what
    world.call("weight", share=0)
    gone = world.call("asm", state="absent")
    assert [change.action for change in gone.plan.changes] == ["empty", "delete"]
    assert gone.plan.notes == []
    assert world.service(f"istio-{TARGET}") is None
    assert world.listeners() == listeners
    assert not world.call("asm", state="absent").plan.changed
    assert first.keys() == listeners.keys()


def _override(world: Gateways) -> str | None:
    service = world.service(f"istio-{TARGET}") or {"metadata": {}}
    return (service["metadata"].get("annotations") or {}).get(_ccm.OVERRIDE)


def test_the_override_is_disarmed_before_the_deletion(world: Gateways) -> None:
    """Deleted with override "true", a gateway takes the listeners with it: the worst that can happen in a rollback."""
    world.call("reuse")
    world.call("config")
    world.call("asm")
    listeners = world.listeners()
    world.asm.patch(world.gateway_path(), {"spec": {"serviceAnnotations": {_ccm.OVERRIDE: "true"}}})
    until("the Service has it", lambda: _override(world) == "true")
    gone = world.call("asm", state="absent")
    assert [change.action for change in gone.plan.changes] == ["annotate", "empty", "delete"]
    after = world.listeners()
    assert after.keys() == listeners.keys()
    assert {port: item["vserver_group_id"] for port, item in after.items()} == {
        port: item["vserver_group_id"] for port, item in listeners.items()
    }


@pytest.fixture(scope="module")
def reusable(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    """The load balancer can be reused, and the routes are there: without them a gateway is not healthy, and is waited for."""
    with gateways(lab, tmp_path_factory.mktemp("reusable"), "gw-reuse") as found:
        found.call("reuse")
        found.call("config")
        yield found


@pytest.fixture
def ready(reusable: Gateways) -> Iterator[Gateways]:
    """A world for one gateway. Afterwards it is gone, and all else is as it was, the source Service too."""
    before = reusable.stage.world()
    yield reusable
    reusable.call("asm", state="absent")
    left = differences(before, reusable.stage.world())
    assert not left, "\n".join(left)


@pytest.mark.parametrize("number", [1, 3])
def test_killed_anywhere_and_run_again_it_is_the_same_gateway(ready: Gateways, number: int) -> None:
    with killed_at(number):
        ready.call("asm")
    ready.call("asm")
    assert not ready.call("asm").plan.changed
    with killed_at(number):
        ready.call("asm", state="absent")
    ready.call("asm", state="absent")
    assert ready.service(f"istio-{TARGET}") is None


def test_a_pod_that_cannot_start_is_told_at_once_with_its_own_reason(ready: Gateways) -> None:
    missing = {"name": "NEEDS", "valueFrom": {"secretKeyRef": {"name": "not-there", "key": "x"}}}
    with pytest.raises(MigrationError) as caught:
        ready.call("asm", overrides={"env": [missing]})
    assert "CreateContainerConfigError" in caught.value.message
    assert 'secret "not-there" not found' in caught.value.message
    assert caught.value.done == [f"create target/{NAMESPACE}/IstioGateway/{TARGET}"]
    assert ready.stage.shares() == {0.0}


def test_a_service_of_that_name_is_never_taken_over(ready: Gateways) -> None:
    path = path_of("v1", "services", NAMESPACE, f"istio-{TARGET}")
    body = {"metadata": {"name": f"istio-{TARGET}"}, "spec": {"ports": [{"port": 1}], "selector": {"a": "b"}}}
    ready.ack.create(path_of("v1", "services", NAMESPACE), body)
    try:
        assert "exists already" in ready.refused("asm").what
    finally:
        ready.ack.delete(path)


def test_an_istio_gateway_of_somebody_else_is_left_alone(ready: Gateways) -> None:
    ready.call("asm")
    ready.asm.patch(ready.gateway_path(), {"metadata": {"labels": {"servicemesh.migration/managed-by": None}}})
    assert not ready.call("asm").plan.changed
    assert "did not make" in ready.refused("asm", state="absent").what
    assert "is not this migration's" in ready.refused("asm", overrides={"replicaCount": 7, "minReplicas": 7}).what
    ready.asm.patch(ready.gateway_path(), {"metadata": {"labels": {"servicemesh.migration/managed-by": "gw-reuse"}}})
