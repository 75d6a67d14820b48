# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mesh_config between the lab's two API servers: copied, compared, in the way, refused, taken back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _config_run
from lab.cluster import Cluster
from lab.demo.stage import differences
from lab.kube import path_of
from lab.state import Lab
from tests.integration.ccm.world import until
from tests.integration.collection.gateway_world import Gateways, gateways, no_routes
from tests.integration.collection.scene import killed_at

MARK = "servicemesh.migration/managed-by"
ROUTE = path_of("networking.istio.io/v1", "virtualservices", "demo", "echo")
GATEWAY = path_of("networking.istio.io/v1", "gateways", "demo", "echo-gateway")


@pytest.fixture
def world(lab: Lab, tmp_path: Path) -> Iterator[Gateways]:
    with gateways(lab, tmp_path, "gw-config") as found:
        yield found


def actions(outcome: Any) -> dict[str, str]:
    return {f"{item['kind']}/{item['name']}": item["action"] for item in outcome.result["items"]}


ALL = {"Gateway/echo-gateway", "VirtualService/echo", "DestinationRule/echo"}


def test_copied_once_with_the_selector_of_the_target_and_taken_back(world: Gateways) -> None:
    before = world.stage.world()
    planned = world.call("config", check=True)
    assert actions(planned) == dict.fromkeys(ALL, "create")
    assert not differences(before, world.stage.world())
    done = world.call("config")
    assert done.plan.as_list() == planned.plan.as_list()
    assert done.result["secrets"] == [{"namespace": "istio-system", "name": "echo-cert", "exists": True}]
    there, here = world.asm.get(GATEWAY), world.ack.get(GATEWAY)
    assert there["spec"]["selector"] == {"istio": "ingressgateway-asm"}
    assert there["spec"]["servers"] == here["spec"]["servers"]
    assert world.asm.get(ROUTE)["spec"] == world.ack.get(ROUTE)["spec"]
    again = world.call("config")
    assert actions(again) == dict.fromkeys(ALL, "same")
    assert not again.plan.changed

    world.ack.patch(ROUTE, {"metadata": {"annotations": {"note": "new"}}})
    try:
        assert actions(world.call("config"))["VirtualService/echo"] == "update"
        assert world.asm.get(ROUTE)["metadata"]["annotations"]["note"] == "new"
    finally:
        world.ack.patch(ROUTE, {"metadata": {"annotations": {"note": None}}})
    world.call("config", state="absent")
    assert not differences(before, world.stage.world())
    assert not world.call("config", state="absent").plan.changed


def test_what_somebody_changed_since_is_neither_overwritten_nor_deleted(world: Gateways) -> None:
    world.call("config")
    world.asm.patch(ROUTE, {"spec": {"hosts": ["changed.test"]}})
    assert "somebody changed it in the target" in world.refused("config").why
    left = world.call("config", state="absent")
    assert actions(left)["VirtualService/echo"] == "kept"
    assert any("the namespace demo stays" in note for note in left.plan.notes)
    assert world.asm.get(ROUTE)["spec"]["hosts"] == ["changed.test"]
    world.asm.delete(ROUTE)


@pytest.fixture
def forbidden(world: Gateways) -> Iterator[None]:
    """The target's API server takes no VirtualService with a name."""
    with no_routes(world.asm):
        yield


@pytest.mark.usefixtures("forbidden")
def test_the_target_is_asked_about_everything_before_the_first_write(world: Gateways) -> None:
    error = world.refused("config")
    assert "no routes today" in error.why
    assert actions(world.answer("config")) == {
        "DestinationRule/echo": "create",
        "Gateway/echo-gateway": "create",
        "VirtualService/echo": "refused",
    }
    assert world.asm.find(GATEWAY) is None
    with pytest.raises(MigrationError, match="no routes today"):
        world.call("config", check=True)


@pytest.fixture
def many(world: Gateways) -> Iterator[int]:
    """More objects in the source than a check asks about."""
    rules, count = path_of("networking.istio.io/v1", "destinationrules", "demo"), _config_run.SAMPLE + 30
    kind = {"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule"}
    metas = [{"name": f"many-{i}", "labels": {"test": "many"}} for i in range(count)]
    bodies = [{**kind, "metadata": meta, "spec": {"host": meta["name"]}} for meta in metas]
    values(each(bodies, lambda body: world.ack.create(rules, body), 16))
    yield count
    world.ack.request("DELETE", rules, None, {"labelSelector": "test=many"})


def test_of_many_a_check_asks_about_a_sample_and_a_run_about_all(world: Gateways, many: int) -> None:
    chosen: dict[str, Any] = {"scope": "all", "label_selector": "test=many"}
    some = world.call("config", check=True, **chosen)
    assert some.result["rehearsal"] == {"asked": many - 30, "of": many, "complete": False}
    assert set(actions(some).values()) == {"create"} and "rehearse=all" in some.warnings[0]
    every = world.call("config", check=True, rehearse="all", **chosen)
    assert every.result["rehearsal"] == {"asked": many, "of": many, "complete": True} and not every.warnings
    done = world.call("config", **chosen)
    assert done.result["rehearsal"]["complete"]
    assert [(one.action, one.target) for one in done.plan.changes] == [(one.action, one.target) for one in some.plan.changes]
    again = world.call("config", check=True, **chosen)
    assert not again.plan.changed and again.result["rehearsal"] == {"asked": 0, "of": 0, "complete": True}


def test_filters_narrow_what_is_copied(world: Gateways) -> None:
    some = world.call("config", kinds=["VirtualService", "DestinationRule"], check=True)
    assert set(actions(some)) == {"VirtualService/echo", "DestinationRule/echo"}
    assert actions(world.call("config", names=["echo-*"], check=True)) == {"Gateway/echo-gateway": "create"}
    assert actions(world.call("config", namespaces=["nowhere"], check=True)) == {}
    assert actions(world.call("config", label_selector="no=thing", check=True)) == {}
    assert "VirtualService/echo" in actions(world.call("config", scope="all", kinds=["VirtualService"], check=True))


def killed_and_run_again(world: Gateways, copying: int, taking_back: int) -> None:
    """Killed at these lines of the journal."""
    with killed_at(copying):
        world.call("config")
    world.call("config")
    assert actions(world.call("config")) == dict.fromkeys(ALL, "same")
    with killed_at(taking_back):
        world.call("config", state="absent")
    world.call("config", state="absent")


@pytest.mark.parametrize("number", [1, 8])
def test_killed_at_the_ends_the_namespace_comes_and_goes(world: Gateways, number: int) -> None:
    killed_and_run_again(world, number, number)
    assert world.asm.find(path_of("v1", "namespaces", name="demo")) is None


@pytest.fixture(scope="module")
def there(lab: Lab) -> Iterator[None]:
    """The namespace is in the target, whatever a test does: an API server takes five seconds to end one."""
    api = Cluster(lab, "asm", 2).api
    api.create(path_of("v1", "namespaces"), {"metadata": {"name": "demo"}})
    yield
    api.delete(path_of("v1", "namespaces", name="demo"))
    until("the namespace is gone", lambda: api.find(path_of("v1", "namespaces", name="demo")) is None)


@pytest.fixture
def own_route(there: None, world: Gateways) -> Iterator[dict[str, Any]]:
    """The target has a VirtualService of the same name already, its own."""
    body = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "echo", "namespace": "demo", "labels": {"team": "theirs"}},
        "spec": {"hosts": ["theirs.test"], "http": [{"route": [{"destination": {"host": "theirs"}}]}]},
    }
    yield world.asm.create(path_of("networking.istio.io/v1", "virtualservices", "demo"), body)
    world.asm.delete(ROUTE)


@pytest.mark.usefixtures("own_route")
def test_what_is_in_the_way_is_listed_and_nothing_at_all_is_written(world: Gateways) -> None:
    error = world.refused("config")
    assert "VirtualService/demo/echo: the target has its own, and it differs" in error.why
    outcome = world.answer("config")
    assert actions(outcome)["VirtualService/echo"] == "conflict"
    (item,) = [item for item in outcome.result["items"] if item["action"] == "conflict"]
    assert 'spec.hosts[0]: "theirs.test" -> "echo.lab.test"' in item["differences"]


def test_an_overwritten_object_comes_back_as_it_was(world: Gateways, own_route: dict[str, Any]) -> None:
    skipped = world.call("config", on_conflict="skip")
    assert actions(skipped)["VirtualService/echo"] == "conflict"
    assert world.asm.get(ROUTE)["spec"] == own_route["spec"]
    world.call("config", on_conflict="update")
    assert world.asm.get(ROUTE)["spec"] == world.ack.get(ROUTE)["spec"]
    assert not world.call("config").plan.changed
    taken = world.call("config", state="absent")
    assert actions(taken)["VirtualService/echo"] == "restore"
    back = world.asm.get(ROUTE)
    assert (back["spec"], back["metadata"]["labels"]) == (own_route["spec"], {"team": "theirs"})
    assert MARK not in str(back)


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(("copying", "taking_back"), [(1, 3), (4, 6)])
def test_killed_in_between_the_objects_come_and_go(world: Gateways, copying: int, taking_back: int) -> None:
    """A copy that makes no namespace has two lines less in front."""
    killed_and_run_again(world, copying, taking_back)
    for path in (GATEWAY, ROUTE):
        assert world.asm.find(path) is None
