# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a mesh's configuration is read from an API server, whole and in few answers; and a plan that is made only to be read."""

from __future__ import annotations

import json
import urllib.parse
from typing import Any

from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import kind_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._config import fill, marked, plan_present, select
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._config_read import read_side
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import key_of

GROUP = "/apis/networking.istio.io"


class Routes:
    """Instead of the connection: an API server with so many VirtualServices, that pages as it is asked to."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.lists: list[str] = []

    def request(self, _method: str, target: str, *_more: Any) -> tuple[int, bytes]:
        path, text = target.partition("?")[::2]
        query = dict(urllib.parse.parse_qsl(text))
        if path == GROUP:
            return 200, json.dumps({"versions": [{"version": "v1"}]}).encode()
        if path == f"{GROUP}/v1":
            return 200, b'{"resources": [{"name": "virtualservices", "kind": "VirtualService", "namespaced": true}]}'
        if path != f"{GROUP}/v1/virtualservices":
            return 404, b'{"kind": "Status", "code": 404}'
        self.lists.append(text)
        first, limit = int(query.get("continue", 0)), int(query.get("limit", self.count))
        last = min(first + limit, self.count)
        items = [
            {"metadata": {"name": f"r{i}", "namespace": "a", "managedFields": [{"manager": "x"}]}} for i in range(first, last)
        ]
        return 200, json.dumps({"items": items, "metadata": {"continue": str(last) if last < self.count else ""}}).encode()


def read(count: int) -> tuple[Routes, list[dict[str, Any]]]:
    server = Routes(count)
    cluster = Cluster("source", {"host": "https://127.0.0.1:1"}, attempts=1)
    cluster._wire = server  # type: ignore[assignment]
    return server, read_side(cluster)[0]


def test_five_thousand_objects_of_a_kind_are_one_answer() -> None:
    server, found = read(5000)
    assert len(found) == 5000
    assert len(server.lists) == 1, "an API server reads all pages but the first from etcd, which takes it five times as long"


def test_more_of_them_come_in_pages_and_none_is_lost() -> None:
    server, found = read(12_001)
    assert [one["metadata"]["name"] for one in found] == [f"r{i}" for i in range(12_001)]
    assert len(server.lists) == 3, "what an answer may hold is bounded"
    assert not any("managedFields" in one["metadata"] for one in found)


def rule(name: str, host: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": "a", "uid": "u", "resourceVersion": "7"}
    return {"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": meta, "spec": {"host": host}}


def test_a_create_has_no_body_until_somebody_looks_at_it() -> None:
    served = {"DestinationRule": kind_of("networking.istio.io/v1", "DestinationRule")}
    there = [rule("same", "x"), rule("foreign", "other"), marked(rule("mine", "old"), served["DestinationRule"], "shop")]
    there[2]["metadata"]["resourceVersion"] = "8"
    wanted = select([rule(name, "x") for name in ("new", "same", "foreign", "mine")], [], scope="all")

    made = plan_present(wanted, {key_of(one): one for one in there}, served, migration="shop")
    assert [item.action for item in made.items] == ["conflict", "update", "create", "same"]
    assert [item.body for item in made.of("create")] == [None]
    changed = [dict(item.body or {}) for item in made.of("update")]
    fill(made.writes, served, "shop")
    (new,) = made.of("create")
    assert new.body == marked(rule("new", "x"), served["DestinationRule"], "shop")
    assert [item.body for item in made.of("update")] == changed != [{}]
