# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Old names in any text are found; and whatever an object is, the way back is exact."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _yaml
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite import Rewriter
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_fields import FIELDS, steps
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_residue import Residue
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_rules import rule_set

Object = dict[str, Any]
ISTIO = "networking.istio.io/v1"
NS = {"kind": "namespace", "from": "shop", "to": "store"}
HOST = {"kind": "host", "from": "web.shop", "to": "front.ui"}
GATEWAY = {"kind": "gateway", "from": "istio-system/gw", "to": "edge/gw-asm"}


def thing(kind: str, spec: Object, api: str = ISTIO, name: str = "a", namespace: str = "shop") -> Object:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def rewriter(*rules: Object) -> Rewriter:
    return Rewriter(rule_set({"rules": list(rules)}))


# --- residue ---


@pytest.mark.parametrize(
    ("rule", "text", "found"),
    [
        (HOST, "http://web.shop.svc/x", True),
        (HOST, "pod.web.shop", True),
        (HOST, "my-web.shop", False),
        (HOST, "web.shop-x", False),
        (HOST, "web.shopping", False),
        (NS, "see shop, please", True),
        (NS, "shop-2 x_shop", False),
        (NS, "x.shop.svc", True),
        ({**NS, "residue": "typed"}, "see shop, please", False),
        ({**NS, "residue": "typed"}, "call x.shop.svc:80", True),
        ({**NS, "residue": "typed"}, "a/ns/shop/sa/b", True),
        ({**NS, "residue": "none"}, "x.shop.svc", False),
        ({"kind": "host", "from": "*.example.com", "to": "*.example.org"}, "https://x.example.com/", True),
        ({"kind": "host", "from": "old.com", "to": "x.old.com"}, "https://x.old.com/", False),
        ({"kind": "host", "from": "old.com", "to": "x.old.com"}, "https://y.old.com/", True),
        (GATEWAY, "bound to istio-system/gw.", True),
        (GATEWAY, "istio-system/gw2", False),
        ({"kind": "subset", "from": "v1", "to": "v2"}, "outbound|80|v1|x.y.svc.cluster.local", True),
        ({"kind": "subset", "from": "v1", "to": "v2"}, "version v1", False),
        ({"kind": "selector", "from": {"istio": "a"}, "to": {"istio": "b"}}, "choose istio=a", True),
    ],
)
def test_residue_in_any_text(rule: Object, text: str, found: bool) -> None:
    residue = Residue(rule_set({"rules": [rule]}))
    where = ("networking.istio.io", "EnvoyFilter", "x", "y")
    obj = thing("EnvoyFilter", {"deep": [{"text": text}]}, namespace="x")
    assert bool(residue.search(obj, where)) == found
    as_key = thing("EnvoyFilter", {"deep": {text: 1}}, namespace="x")
    assert bool(residue.search(as_key, where)) == found


def test_forbidden_words_and_allowed_places() -> None:
    rules = rule_set(
        {
            "rules": [NS],
            "forbidden": ["c-12345"],
            "allowed": [{"kinds": ["EnvoyFilter"], "path": "spec.a[].b", "words": ["shop"], "reason": "a test"}],
        }
    )
    obj = thing("EnvoyFilter", {"a": [{"b": "shop"}, {"b": "c-12345"}], "c": "shop"}, namespace="store")
    found = Residue(rules).search(obj, ("networking.istio.io", "EnvoyFilter", "shop", "a"))
    assert found == [("spec.a[1].b", "forbidden c-12345"), ("spec.c", "namespace shop -> store")]


def test_typed_residue_in_mappings() -> None:
    rules = rule_set({"rules": [{"kind": "selector", "from": {"istio": "a"}, "to": {"istio": "b"}}]})
    obj = thing("Thing", {"selector": {"istio": "a", "x": "y"}, "labels": {"istio": "a"}}, "example.com/v1")
    assert [path for path, _rule in Residue(rules).search(obj, ("example.com", "Thing", "shop", "a"))] == ["spec.selector"]


# --- anything at all, there and back ---

ALL_RULES = [
    {**NS, "merge": True},
    {**HOST, "merge": True},
    {"kind": "host", "from": "*.example.com", "to": "*.example.org", "merge": True},
    {"kind": "subset", "from": "v1", "to": "v2", "merge": True},
    {"kind": "gateway", "from": "shop/web", "to": "store/web", "merge": True},
    {"kind": "selector", "from": {"a": "b"}, "to": {"a": "c"}, "merge": True},
    {"kind": "selector", "from": {"app": "*"}, "to": {}, "merge": True},
    {"kind": "label", "from": {"a": "*"}, "to": {"b": "*"}, "merge": True},
    {"kind": "annotation", "from": {"a": "b"}, "to": {}, "merge": True},
    {"kind": "port", "from": 80, "to": 81, "merge": True},
    {"kind": "port", "of": "workload", "from": 80, "to": "http", "merge": True},
    {"kind": "port", "of": "gateway", "from": 80, "to": 81, "merge": True},
    {"kind": "name", "of": "Secret", "from": "web", "to": "v1", "merge": True},
    {"kind": "class", "of": "revision", "from": "v1", "to": "v2", "merge": True},
    {"kind": "apiVersion", "from": "networking.istio.io/v1", "to": "networking.istio.io/v1beta1", "merge": True},
]
WORDS = ["web", "shop", "store", "front", "v1", "v2", "a", "b", "80", "网关", "\r\n", "x" * 200, "*", "", "web.shop", "mesh"]
texts = st.one_of(
    st.sampled_from(WORDS),
    st.lists(st.sampled_from([*WORDS, "svc", "cluster", "local", "com", "ns", "sa"]), min_size=1, max_size=6).map(".".join),
    st.lists(st.sampled_from(WORDS), min_size=2, max_size=5).map("/".join),
    st.lists(st.sampled_from(["outbound", "80", "", "v1", "web.shop.svc.cluster.local"]), min_size=4, max_size=4).map("|".join),
    st.text(max_size=5),
)
leaves = st.one_of(texts, st.sampled_from([80, 81, 1.0, 1, True, False, None]))
KEYS = sorted({part for fields in FIELDS.values() for path in fields for part in steps(path) if part.isidentifier()})
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from([*KEYS, "host", "number", "name"]), texts), inner, max_size=4),
    ),
    max_leaves=12,
)


NAMES = st.sampled_from(["web", "web.shop.svc.cluster.local", "x.example.com", "shop/web", "shop", "v1", "api", "80", 80, 81])
LABELS = st.dictionaries(st.sampled_from(["a", "b", "app", "istio.io/rev"]), st.sampled_from(["b", "c", "v1", "v2"]))


def sense(kind: str) -> st.SearchStrategy[Any]:
    """What belongs to a place of this type."""
    if kind in ("labels", "selector", "annotations"):
        return LABELS
    if kind in ("destination", "backend", "condition") or kind.startswith("ref:"):
        fields = dict.fromkeys(("host", "subset", "name", "namespace", "kind", "key"), NAMES)
        return st.fixed_dictionaries({}, optional=fields)
    return NAMES


@st.composite
def anything(draw: st.DrawFn) -> Object:
    """An object of a known kind with sense at some of its places and nonsense at others."""
    group, kind = draw(st.sampled_from(sorted(FIELDS)))
    name = draw(st.sampled_from(["web", "网"]))
    obj: Object = {"apiVersion": f"{group}/v1".lstrip("/"), "kind": kind, "metadata": {"name": name}}
    if draw(st.booleans()):
        obj["metadata"]["namespace"] = draw(st.sampled_from(["shop", "store", "x"]))
    places = {"metadata.labels": "labels", "metadata.annotations": "annotations", **FIELDS[group, kind]}
    for path in draw(st.lists(st.sampled_from(sorted(places)), max_size=4)):
        node: Any = obj
        way = [step for step in steps(path) if step != "**"]
        for step, following in zip(way, [*way[1:], ""], strict=True):
            key: Any = draw(st.sampled_from(["80", "a"])) if step == "{}" else 0 if step == "[]" else step
            made: Any = draw(st.one_of(sense(places[path]), trees)) if not following else [] if following == "[]" else {}
            if isinstance(node, list) and key == 0:
                node[:] = node or [made]
            elif isinstance(node, dict) and isinstance(key, str):
                node.setdefault(key, made)
            else:
                break  # something else is in the way already
            node = node[key]
    return obj


@given(anything(), st.one_of(st.just(ALL_RULES), st.lists(st.sampled_from(ALL_RULES), min_size=1, unique_by=str)))
def test_whatever_it_is_the_way_back_is_exact(obj: Object, rules: list[Object]) -> None:
    text = _yaml.dump(obj)
    made = rewriter(*rules)
    found = made.apply(obj)
    assert _yaml.dump(obj) == text, "the input is not touched"
    originals = json.loads(json.dumps(found.originals))  # as they come back from a manifest
    assert _yaml.dump(made.back(_yaml.parse(_yaml.dump(found.obj)), originals)) == text
    if not found.hits and not found.problems:
        assert _yaml.dump(found.obj) == text
