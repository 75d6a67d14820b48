# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All manifests of a checkout of Istio: rewritten and back byte for byte, and checked against Istio's own schemas."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _yaml
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite import Rewriter
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_rules import rule_set
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_schema import Schemas
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_yaml import load_text
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError

CHECKOUT = os.environ.get("ISTIO_CHECKOUT", "")
pytestmark = pytest.mark.skipif(not CHECKOUT, reason="ISTIO_CHECKOUT names no checkout of istio/istio")
FOLDERS = ("samples", "pkg/config/analysis/analyzers/testdata", "tests/integration")
RULES = """
name: corpus
rules:
- {kind: namespace, from: default, to: elsewhere, merge: true}
- {kind: namespace, from: istio-system, to: mesh-root, merge: true}
- {kind: host, from: productpage.default, to: page.front, merge: true}
- {kind: host, from: reviews.default, to: reviews.example.com, merge: true}
- {kind: host, from: "*.example.com", to: "*.example.org", merge: true}
- {kind: host, from: httpbin.default, to: httpbin.other, merge: true}
- {kind: subset, from: v1, to: stable, merge: true}
- {kind: subset, host: reviews.default, from: v2, to: next, merge: true}
- {kind: selector, from: {istio: ingressgateway}, to: {istio: gateway, mesh: new}, merge: true}
- {kind: selector, from: {version: v1}, to: {release: v1}, merge: true}
- {kind: label, from: {version: v1}, to: {release: v1}, merge: true}
- {kind: label, from: {app: "*"}, to: {app.kubernetes.io/name: "*"}, merge: true}
- {kind: annotation, from: {sidecar.istio.io/inject: "*"}, to: {}, merge: true}
- {kind: gateway, from: default/bookinfo-gateway, to: mesh-root/bookinfo, merge: true}
- {kind: gateway, from: default/helloworld-gateway, to: default/hello, merge: true}
- {kind: class, of: gateway, from: istio, to: asm, merge: true}
- {kind: class, of: ingress, from: istio, to: asm, merge: true}
- {kind: name, of: ServiceAccount, from: bookinfo-productpage, to: page, merge: true}
- {kind: name, of: VirtualService, from: reviews, to: reviews-routes, merge: true}
- {kind: port, from: 9080, to: 19080, merge: true}
- {kind: port, of: gateway, from: 80, to: 8080, merge: true}
- {kind: port, of: workload, from: 80, to: 1080, merge: true}
- {kind: apiVersion, from: networking.istio.io/v1, to: networking.istio.io/v1beta1, merge: true}
- {kind: apiVersion, from: networking.istio.io/v1alpha3, to: networking.istio.io/v1, where: {kinds: [EnvoyFilter]}, merge: true}
- {kind: apiVersion, from: security.istio.io/v1, to: security.istio.io/v1beta1}
"""


def objects() -> Iterator[dict[str, Any]]:
    for folder in FOLDERS:
        for path in sorted(Path(CHECKOUT, folder).rglob("*.yaml")):
            try:
                documents = load_text(path.read_text(), str(path))
            except MigrationError:
                continue  # a template, or a key that is there twice
            for obj in documents:
                if isinstance(obj, dict) and isinstance(obj.get("kind"), str) and isinstance(obj.get("apiVersion"), str):
                    meta = obj.get("metadata")
                    if isinstance(meta, dict) and isinstance(meta.get("name"), str):
                        meta.setdefault("namespace", "default")
                        yield obj


def test_every_manifest_comes_back_byte_for_byte() -> None:
    rewriter = Rewriter(rule_set(RULES))
    taken = changed = kept = 0
    hits: collections.Counter[str] = collections.Counter()
    unknown: collections.Counter[str] = collections.Counter()
    for obj in objects():
        before = _yaml.dump(obj)
        done = rewriter.apply(obj)
        assert _yaml.dump(obj) == before, "the input is not touched"
        after = _yaml.dump(done.obj)
        assert (after != before) == bool(done.hits)
        assert _yaml.dump(rewriter.back(_yaml.parse(after), done.originals)) == before
        taken, changed, kept = taken + 1, changed + (after != before), kept + bool(done.originals)
        hits.update(hit.rule for hit in done.hits)
        if not done.understood:
            unknown[f"{obj['apiVersion']} {obj['kind']}"] += 1
    print(f"{taken} objects, {changed} changed by {sum(hits.values())} hits, {kept} with originals kept")
    print(f"not understood: {dict(unknown)}")
    assert taken > 500 and changed > 400
    unhit = [rule.id for rule in rewriter.rules.rules if not hits[rule.id]]
    assert unhit == [], unhit


def test_manifests_fit_the_schemas() -> None:
    path = Path(CHECKOUT, "manifests/charts/base/files/crd-all.gen.yaml")
    schemas = Schemas(load_text(path.read_text(), str(path)))
    checked, wrong = 0, []
    for obj in objects():
        found = schemas.check(obj)
        if found is not None:
            checked += 1
            wrong += [f"{obj['kind']} {obj['metadata']['name']} {line}" for line in found]
    print(f"{checked} objects checked, {len(wrong)} errors", *wrong[:40], sep="\n")
    assert checked > 200 and len(wrong) < checked * 0.1, "Istio's own manifests fit Istio's schemas, but for tests of analyzers"
