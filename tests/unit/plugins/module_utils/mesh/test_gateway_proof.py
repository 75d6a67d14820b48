# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What gateway_proof reads: nothing of the mesh in a check before there is a gateway to ask, and all of it otherwise."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _gateway_proof
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._source import GatewayObjects

SERVICE = {"metadata": {"name": "gw"}, "spec": {"ports": [{"port": 80}]}}
POD = {"metadata": {"name": "p", "namespace": "a"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
GATEWAY = {
    "kind": "Gateway",
    "metadata": {"name": "g", "namespace": "a"},
    "spec": {"servers": [{"port": {"number": 5432, "protocol": "TCP", "name": "tcp"}, "hosts": ["*"]}]},
}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A source gateway; ``pods``: of the target's. ``lists`` counts how often the mesh was read."""
    made = SimpleNamespace(pods=[], lists=0)

    def read_gateway(_source: Any, namespace: str, name: str) -> GatewayObjects:
        there = name != "gw-asm" or made.pods
        deployment = {"spec": {"template": {"metadata": {"labels": {"istio": "gw"}}}}}
        return GatewayObjects(namespace, name, SERVICE if there else None, deployment, None, [], made.pods if there else [])

    def read_side(_source: Any, kinds: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        assert set(kinds) == {"Gateway", "VirtualService"}
        made.lists += 1
        return [GATEWAY], {}

    cluster = SimpleNamespace(guard=lambda: None, where=lambda: "source", name="source")
    monkeypatch.setattr(_gateway_proof, "Cluster", lambda *_options: cluster)
    monkeypatch.setattr(_gateway_proof, "read_gateway", read_gateway)
    monkeypatch.setattr(_gateway_proof, "read_side", read_side)
    return made


def proof(check: bool, requests: list[dict[str, Any]] | None = None) -> Outcome:
    gateway = {"namespace": "a", "source_service": "gw", "target_gateway": "gw-asm", "load_balancer_id": None}
    options = {"wait_timeout": 1.0, "request_timeout": 1.0, "max_questions": 100, "requests": requests or []}
    return _gateway_proof.gateway_proof({"source": {}, "gateways": [gateway], **options}, check)


def test_a_check_before_there_is_a_gateway_to_ask_reads_no_routes(world: SimpleNamespace) -> None:
    outcome = proof(check=True)
    assert world.lists == 0 and outcome.result["unasked"] == []
    assert "it is asked once it has" in outcome.plan.notes[0]


def test_what_is_asked_is_still_looked_at(world: SimpleNamespace) -> None:
    request = {"host": "a", "port": 81, "scheme": "http", "path": "/", "method": "HEAD"}
    with pytest.raises(InputError, match="port that the gateway does not have"):
        proof(check=True, requests=[request])


def test_a_run_reads_the_routes_and_says_that_there_is_no_gateway(world: SimpleNamespace) -> None:
    with pytest.raises(MigrationError, match="cannot be proven"):
        proof(check=False)
    assert world.lists == 1


def test_a_check_with_a_gateway_says_what_cannot_be_asked(world: SimpleNamespace) -> None:
    world.pods = [POD]
    outcome = proof(check=True)
    assert world.lists == 1 and "5432" in outcome.result["unasked"][0]
    assert "nothing is asked" in outcome.warnings[0]
