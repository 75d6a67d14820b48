# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Manifests as people write them: keys twice, CRLF, anchors, fields that nobody knows. What is stored comes back.

test_round_trip.py has the odd objects: names of 200 characters, 1 MB, CJK, finalizers, owners.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _yaml
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._archive import Reader
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import kind_of
from tests.integration.backup.test_round_trip import widgets
from tests.integration.backup.world import CRD, VIRTUAL_SERVICE, World, backup, established, info, make, restore, vs, wait

TWICE = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: twice, namespace: shop}
spec:
  hosts: [first.example.com]
  hosts: [second.example.com]
  http: [{route: [{destination: {host: web}}]}]
"""
CRLF = """\
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata:
  name: crlf
  namespace: shop
  annotations: &marks
    note: 全角文字 "quoted"
    again: "line\\r\\nline"
  labels: {app: web}
spec:
  workloadSelector: {labels: &app {app: web}}
  configPatches:
  - applyTo: HTTP_FILTER
    match: {context: ANY, proxy: {metadata: *app}}
    patch:
      operation: INSERT_BEFORE
      value:
        unknownToEverybody: [1, 1.5, null, {deep: {er: true}}, "0755", 1e3]
        inline_code: |
          function f()
            return "末"

          end
""".replace("\n", "\r\n")


def test_a_key_that_is_there_twice_is_refused_where_it_can_be_written(source: World, tmp_path: Path) -> None:
    """A strict API server refuses it, in YAML and in JSON, and so does the reader of archives. kubectl takes the last one
    without a word. An object of an API server cannot have one, so a backup never loses one.
    """
    make(source, vs("a"))
    source.kubectl("create", "-f", "-", stdin=TWICE)
    silent = source.cluster.get(VIRTUAL_SERVICE, "twice", "shop")
    assert silent and silent["spec"]["hosts"] == ["second.example.com"]
    source.remove(VIRTUAL_SERVICE, "twice", "shop")
    status, said = post(source, f"{VIRTUAL_SERVICE.path('shop')}?fieldValidation=Strict", TWICE, "application/yaml")
    assert status == 400 and "already set in map" in said
    body = json.dumps(vs("twice")).replace('"hosts": [', '"hosts": ["first.example.com"], "hosts": [', 1)
    assert body.count('"hosts"') == 2
    status, said = post(source, f"{VIRTUAL_SERVICE.path('shop')}?fieldValidation=Strict", body)
    assert status == 400 and "duplicate field" in said
    assert source.cluster.get(VIRTUAL_SERVICE, "twice", "shop") is None
    status, _said = post(source, f"{VIRTUAL_SERVICE.path('shop')}?fieldValidation=Ignore", body)
    assert status == 201, "an API server that is not asked to be strict takes the last one"
    saved = backup(source, tmp_path).result["archive"]
    (found,) = (obj for entry, obj in Reader(saved).objects() if entry.name == "twice")
    assert found and found["spec"]["hosts"] == ["twice.example.com"]
    with pytest.raises(ValueError, match="'hosts' is there twice"):
        _yaml.parse("spec:\n  hosts:\n  - a\n  hosts:\n  - b\n")
    source.wipe()
    assert restore(source, saved).failed is None and info(source, saved)["comparison"]["same"]


def test_crlf_anchors_and_unknown_fields_come_back(source: World, tmp_path: Path) -> None:
    make(source, vs("a"))
    source.kubectl("create", "-f", "-", stdin=CRLF)
    kind = kind_of("networking.istio.io/v1alpha3", "EnvoyFilter")
    before = source.cluster.get(kind, "crlf", "shop")
    assert before and before["metadata"]["annotations"]["again"] == "line\r\nline"
    assert before["spec"]["configPatches"][0]["match"]["proxy"]["metadata"] == {"app": "web"}
    saved = backup(source, tmp_path).result["archive"]
    source.wipe()
    assert restore(source, saved).failed is None
    after = source.cluster.get(kind, "crlf", "shop")
    assert after and (after["spec"], after["metadata"]["annotations"]) == (before["spec"], before["metadata"]["annotations"])
    assert info(source, saved)["comparison"]["same"]


@pytest.fixture
def strict_target(source: World, target: World) -> Iterator[World]:
    """The source's Widgets may have any field, the target's only `size`."""
    name = "widgets.odd.istio.io"
    loose, strict = widgets("odd.istio.io"), widgets("odd.istio.io")
    sizes: dict[str, Any] = {"type": "object", "properties": {"size": {"type": "integer"}}}
    strict["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = {"type": "object", "properties": {"spec": sizes}}
    for world, crd in ((source, loose), (target, strict)):
        world.cluster.create(CRD, crd)
        wait(lambda world=world: established(world.cluster.get(CRD, name)), "it is served")  # type: ignore[misc]
    yield target
    for world in (source, target):
        world.remove(CRD, name)
        wait(lambda world=world: world.cluster.get(CRD, name) is None, "it is gone")  # type: ignore[misc]


def test_a_field_that_the_target_does_not_know_is_named_and_nothing_is_written(
    source: World, strict_target: World, tmp_path: Path
) -> None:
    """An API server drops such a field without a word."""
    odd = {"apiVersion": "odd.istio.io/v1", "kind": "Widget", "metadata": {"name": "w", "namespace": "shop"}}
    make(source, vs("a"), {**odd, "spec": {"size": 1, "colour": {"of": "money"}}})
    saved = backup(source, tmp_path).result["archive"]
    done = restore(strict_target, saved)
    assert done.failed is not None and "would drop spec.colour" in done.failed.message
    assert done.result["written"] == 0 and strict_target.cluster.get(VIRTUAL_SERVICE, "a", "shop") is None


def post(world: World, path: str, body: str, content: str = "application/json") -> tuple[int, str]:
    """A body that no JSON library would write."""
    address = urlsplit(world.cluster.host)
    link = http.client.HTTPSConnection(address.hostname or "", address.port, context=ssl._create_unverified_context())
    headers = {"Content-Type": content, **world.cluster._auth_headers()}
    link.request("POST", path, body.encode(), headers)
    answer = link.getresponse()
    text = answer.read().decode()
    link.close()
    return answer.status, text
