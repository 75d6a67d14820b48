# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every form of a host, the objects themselves, and rule sets that cannot be right."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _yaml
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite import Done, Rewriter
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_fields import FIELDS, check_type, steps
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_names import gateway_of, host_of
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_residue import Residue
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_rules import rule_set
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError

Object = dict[str, Any]
ISTIO = "networking.istio.io/v1"
NS = {"kind": "namespace", "from": "shop", "to": "store"}
HOST = {"kind": "host", "from": "web.shop", "to": "front.ui"}


def thing(kind: str, spec: Object, api: str = ISTIO, name: str = "a", namespace: str = "shop", **meta: Any) -> Object:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": namespace, **meta}, "spec": spec}


def rewriter(*rules: Object, **more: Any) -> Rewriter:
    return Rewriter(rule_set({"rules": list(rules), **more}))


def done(obj: Object, *rules: Object) -> Done:
    """Rewritten, and the way back tried."""
    made = rewriter(*rules)
    found = made.apply(obj)
    assert _yaml.dump(made.back(found.obj, found.originals)) == _yaml.dump(obj)
    assert bool(found.hits) == (found.obj != obj)
    return found


def spec(obj: Object, *rules: Object) -> Object:
    found = done(obj, *rules)
    assert found.problems == []
    result: Object = found.obj["spec"]
    return result


# --- hosts ---

HOSTS = [
    # (host in an object of shop, by the host rule, by the namespace rule)
    ("web", "front.ui.svc.cluster.local", "web"),
    ("web.shop", "front.ui", "web.store"),
    ("web.shop.svc", "front.ui.svc", "web.store.svc"),
    ("web.shop.svc.cluster.local", "front.ui.svc.cluster.local", "web.store.svc.cluster.local"),
    ("web.shop.svc.clusterset.local", "front.ui.svc.clusterset.local", "web.store.svc.clusterset.local"),
    ("pod-0.web.shop.svc.cluster.local", "pod-0.front.ui.svc.cluster.local", "pod-0.web.store.svc.cluster.local"),
    ("*.web.shop.svc.cluster.local", "*.front.ui.svc.cluster.local", "*.web.store.svc.cluster.local"),
    ("*.shop.svc.cluster.local", "*.shop.svc.cluster.local", "*.store.svc.cluster.local"),
    ("other", "other", "other"),
    ("other.shop", "other.shop", "other.store"),
    ("web.other", "web.other", "web.other"),
    ("web.shop.svc.example.com", "web.shop.svc.example.com", "web.shop.svc.example.com"),
    ("web.shop.example.com", "web.shop.example.com", "web.shop.example.com"),
    ("myweb.shop", "myweb.shop", "myweb.store"),
    ("web-shop.x", "web-shop.x", "web-shop.x"),
    ("shop", "shop", "shop"),
    ("*", "*", "*"),
    ("*.example.com", "*.example.com", "*.example.com"),
    ("10.0.0.1", "10.0.0.1", "10.0.0.1"),
    ("", "", ""),
]


@pytest.mark.parametrize(("host", "by_host", "by_namespace"), HOSTS)
def test_all_forms_of_a_host(host: str, by_host: str, by_namespace: str) -> None:
    given = thing("VirtualService", {"hosts": [host], "http": [{"route": [{"destination": {"host": host}}]}]})
    for rule, wanted in ((HOST, by_host), (NS, by_namespace)):
        found = spec(given, rule)
        assert found["hosts"] == [wanted] and found["http"][0]["route"][0]["destination"]["host"] == wanted


def test_a_short_host_is_of_its_own_namespace() -> None:
    other = thing("VirtualService", {"hosts": ["web"]}, namespace="elsewhere")
    assert spec(other, HOST)["hosts"] == ["web"]
    assert spec(other, {"kind": "host", "from": "web.elsewhere", "to": "new.elsewhere"})["hosts"] == ["new"]
    both = {"kind": "host", "from": "web.shop", "to": "front.store"}
    assert spec(thing("VirtualService", {"hosts": ["web"]}), NS, both)["hosts"] == ["front"]


@pytest.mark.parametrize(
    ("old", "new", "host", "wanted"),
    [
        ("api.example.com", "api.example.org", "api.example.com", "api.example.org"),
        ("api.example.com", "api.example.org", "x.api.example.com", "x.api.example.com"),
        ("*.example.com", "*.example.org", "x.api.example.com", "x.api.example.org"),
        ("*.example.com", "*.example.org", "*.example.com", "*.example.org"),
        ("*.example.com", "*.example.org", "example.com", "example.com"),
        ("*.example.com", "*.example.org", "badexample.com", "badexample.com"),
        ("example.com", "example.org", "example.com", "example.org"),
        ("example.com", "web.shop.svc.cluster.local", "example.com", "web.shop.svc.cluster.local"),
        ("web.shop", "api.example.com", "web.shop.svc.cluster.local", "api.example.com"),
        ("api.example.com", "web.shop.svc.cluster.local", "api.example.com", "web.shop.svc.cluster.local"),
    ],
)
def test_hosts_outside_of_the_cluster(old: str, new: str, host: str, wanted: str) -> None:
    rule = {"kind": "host", "from": old, "to": new}
    assert spec(thing("ServiceEntry", {"hosts": [host]}), rule)["hosts"] == [wanted]


def test_another_cluster_domain() -> None:
    made = rewriter(HOST, cluster_domain="mesh.internal")
    found = made.apply(thing("VirtualService", {"hosts": ["web", "web.shop.svc.mesh.internal"]}))
    assert found.obj["spec"]["hosts"] == ["front.ui.svc.mesh.internal"] * 1 + ["front.ui.svc.mesh.internal"]


@given(st.from_regex(r"[a-z0-9*.:/~-]{0,40}", fullmatch=True))
def test_a_host_taken_apart_and_put_together_is_the_same(text: str) -> None:
    host = host_of(text, "shop")
    if host.service:
        assert host.renamed(host.name, host.namespace, "shop") == text
    else:
        assert host.text + host.port == text


# --- the objects themselves ---

GATEWAY = {"kind": "gateway", "from": "istio-system/gw", "to": "edge/gw-asm"}
LAST = "kubectl.kubernetes.io/last-applied-configuration"


def test_metadata() -> None:
    meta = {"labels": {"istio.io/rev": "old", "x": "old"}, "annotations": {"a.example.com/x": "kept", "shop": "shop"}}
    rules = [
        {"kind": "class", "of": "revision", "from": "old", "to": "new"},
        {"kind": "annotation", "from": {"a.example.com/x": "*"}, "to": {"b.example.com/x": "*"}},
        {"kind": "apiVersion", "from": ISTIO, "to": "networking.istio.io/v1beta1"},
        {"kind": "name", "of": "VirtualService", "from": "a", "to": "b"},
    ]
    found = done(thing("VirtualService", {}, **meta), NS, *rules).obj
    assert found["apiVersion"] == "networking.istio.io/v1beta1"
    assert found["metadata"] == {
        "name": "b",
        "namespace": "store",
        "labels": {"istio.io/rev": "new", "x": "old"},
        "annotations": {"b.example.com/x": "kept", "shop": "shop"},
    }


@pytest.mark.parametrize(
    ("obj", "rule", "name", "namespace"),
    [
        (thing("Service", {}, "v1", "web"), HOST, "front", "ui"),
        (thing("Service", {}, "v1", "api"), HOST, "api", "shop"),
        (thing("Gateway", {}, ISTIO, "gw", "istio-system"), GATEWAY, "gw-asm", "edge"),
        (thing("Deployment", {}, "apps/v1", "web"), HOST, "web", "shop"),
    ],
)
def test_the_object_itself(obj: Object, rule: Object, name: str, namespace: str) -> None:
    meta = done(obj, rule).obj["metadata"]
    assert (meta["name"], meta["namespace"]) == (name, namespace)


def test_the_namespace_itself() -> None:
    meta = {"name": "shop", "labels": {"kubernetes.io/metadata.name": "shop"}}
    obj = {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}
    assert done(obj, NS).obj["metadata"] == {"name": "store", "labels": {"kubernetes.io/metadata.name": "store"}}


def test_what_kubectl_wrote_about_its_last_apply() -> None:
    inner = thing("VirtualService", {"hosts": ["web.shop", "<&>"]})
    text = json.dumps(inner, sort_keys=True, separators=(",", ":")).replace("<&>", "\\u003c\\u0026\\u003e") + "\n"
    for written in (text, json.dumps(inner, indent=1), "no json", "[]", "{}"):
        found = done(thing("VirtualService", {"hosts": ["web.shop"]}, annotations={LAST: written}), NS)
        after = found.obj["metadata"]["annotations"][LAST]
        wanted = text.replace('"shop"', '"store"').replace("web.shop", "web.store")
        assert after.rstrip() == (wanted.rstrip() if "shop" in written else written)
        assert bool(found.originals) == (written.startswith("{\n"))


def test_a_label_that_is_there_otherwise_is_a_problem() -> None:
    rule = {"kind": "label", "from": {"istio.io/rev": "1"}, "to": {"istio-injection": "enabled"}}
    obj = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x", "labels": {"istio.io/rev": "1"}}}
    assert done(obj, rule).obj["metadata"]["labels"] == {"istio-injection": "enabled"}
    obj["metadata"]["labels"]["istio-injection"] = "disabled"  # type: ignore[index]
    found = rewriter(rule).apply(obj)
    assert [path for path, _why in found.problems] == ["metadata.labels"] and found.obj == obj


def test_a_rule_that_says_where() -> None:
    rule = {"kind": "selector", "from": {"istio": "a"}, "to": {"istio": "b"}, "where": {"kinds": ["Gateway"], "names": ["x*"]}}
    for kind, name, wanted in (("Gateway", "x1", "b"), ("Gateway", "y", "a"), ("EnvoyFilter", "x1", "a")):
        found = rewriter(rule).apply(thing(kind, {"selector": {"istio": "a"}}, name=name))
        assert found.obj["spec"] == {"selector": {"istio": wanted}}


def test_the_narrower_rule_comes_first() -> None:
    wide = {"kind": "selector", "from": {"istio": "a"}, "to": {"istio": "b"}}
    both = {"kind": "selector", "from": {"istio": "a", "app": "x"}, "to": {"istio": "c"}}
    here = {"kind": "class", "of": "revision", "from": "1", "to": "2", "where": {"names": ["a"]}}
    everywhere = {"kind": "class", "of": "revision", "from": "1", "to": "3"}
    rules = [wide, both, everywhere, here]
    found = done(thing("Gateway", {"selector": {"istio": "a", "app": "x"}}, labels={"istio.io/rev": "1"}), *rules).obj
    assert found["spec"]["selector"] == {"istio": "c"} and found["metadata"]["labels"] == {"istio.io/rev": "2"}
    assert spec(thing("Gateway", {"selector": {"istio": "a", "app": "y"}}), *rules)["selector"] == {"istio": "b", "app": "y"}


def test_an_ingress_cannot_send_to_another_namespace() -> None:
    ingress = thing("Ingress", {"defaultBackend": {"service": {"name": "web"}}}, "networking.k8s.io/v1")
    found = rewriter(HOST).apply(ingress)
    assert [path for path, _why in found.problems] == ["spec.defaultBackend.service"] and found.obj == ingress
    assert spec(ingress, {**HOST, "to": "front.shop"})["defaultBackend"]["service"] == {"name": "front"}


def test_swaps_and_chains_act_at_one_moment() -> None:
    swap = [{"kind": "namespace", "from": "a", "to": "b"}, {"kind": "namespace", "from": "b", "to": "a"}]
    found = done(thing("VirtualService", {"hosts": ["x.a.svc", "x.b.svc"]}, namespace="a"), *swap)
    assert found.obj["spec"]["hosts"] == ["x.b.svc", "x.a.svc"] and found.originals == [] and found.problems == []
    chain = [swap[0], {"kind": "namespace", "from": "b", "to": "c"}]
    assert spec(thing("VirtualService", {"hosts": ["x.a.svc", "x.b.svc"]}), *chain)["hosts"] == ["x.b.svc", "x.c.svc"]
    assert Residue(rule_set({"rules": chain})).unsearched == ["namespace b -> c"]


def test_a_new_name_that_is_in_use_is_a_problem_unless_it_is_meant() -> None:
    obj = thing("VirtualService", {"hosts": ["x.shop.svc", "x.store.svc"]})
    assert [path for path, _why in rewriter(NS).apply(obj).problems] == ["spec.hosts[1]"]
    found = done(obj, {**NS, "merge": True})
    assert found.problems == [] and found.obj["spec"]["hosts"] == ["x.store.svc", "x.store.svc"]
    assert found.originals == [[["spec", "hosts", 1], "x.store.svc"]]


def test_the_table_of_fields_is_well_formed() -> None:
    for fields in FIELDS.values():
        for path, kind in fields.items():
            assert check_type(kind) and steps(path)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("mesh", None),
        ("gw", ("shop", "gw", "short")),
        ("./gw", ("shop", "gw", "dot")),
        ("ns/gw", ("ns", "gw", "slash")),
        ("gw.ns", ("ns", "gw", "two")),
        ("gw.ns.svc.cluster.local", ("ns", "gw", "full")),
    ],
)
def test_gateways(text: str, wanted: tuple[str, str, str] | None) -> None:
    assert gateway_of(text, "shop") == wanted


# --- rule sets that cannot be right ---


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rules: []", "there are none"),
        ("rulse: []", "did you mean rules?"),
        ("rules:\n- {kind: namspace, from: a, to: b}", "did you mean namespace?"),
        ("rules:\n- {kind: namespace, form: a, to: b}", "did you mean from?"),
        ("rules:\n- {kind: namespace, from: a, to: a}", "the same"),
        ("rules:\n- {kind: namespace, from: a}", "no 'to'"),
        ("rules:\n- {kind: namespace, from: a, to: b, where: {kinds: [x]}}", "everywhere"),
        ("rules:\n- {kind: host, from: web, to: x.y}", "with its namespace"),
        ("rules:\n- {kind: host, from: '*.a.b', to: x.y}", "pattern"),
        ("rules:\n- {kind: gateway, from: gw, to: x/y}", "namespace/name"),
        ("rules:\n- {kind: port, from: true, to: 1}", "number or the name"),
        ("rules:\n- {kind: port, of: gatway, from: 1, to: 2}", "did you mean gateway?"),
        ("rules:\n- {kind: name, from: a, to: b}", "of"),
        ("rules:\n- {kind: label, from: {a: 1}, to: {}}", "in quotes"),
        ("rules:\n- {kind: label, from: {}, to: {}}", "chooses nothing"),
        ("rules:\n- {kind: label, from: {a: b}, to: {c: '*'}}", "'*'"),
        ("rules:\n- {kind: namespace, from: a, to: b}\n- {kind: namespace, from: c, to: b}", "merge: true"),
        ("rules:\n- {kind: namespace, from: a, to: b}\n- {kind: namespace, from: a, to: c}", "same old one"),
        ("rules:\n- {kind: namespace, from: a, from: b}", "line 2"),
        ("rules:\n- {kind: namespace, from: '${x}', to: b}", "no value"),
        ("rules:\n- {kind: namespace, from: a, to: b}\nfields:\n- {kind: X, paths: {spec.a: hots}}", "did you mean host?"),
        ("rules:\n- {kind: namespace, from: a, to: b}\nallowed:\n- {path: x}", "reason"),
        ("- 1", "a mapping is needed"),
    ],
)
def test_rule_sets_that_cannot_be_right(text: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        rule_set(text)
    assert words in error.value.message and "rules" in error.value.where


def test_variables() -> None:
    text = (
        "variables: {a: shop, b: null, n: 80}\nrules:\n- {kind: namespace, from: '${a}', to: '${b}'}\n"
        "- {kind: port, from: '${n}', to: 81}"
    )
    made = rule_set(text, {"b": "x"})
    assert [(rule.old, rule.new) for rule in made.rules] == [("shop", "x"), (80, 81)]
    assert [rule.kind for rule in rule_set(text, {"b": "shop"}).rules] == ["port"], "a rule that does nothing is none"
    with pytest.raises(InputError, match="no value"):
        rule_set(text)
    with pytest.raises(InputError, match="did you mean a"):
        rule_set(text, {"aa": "x"})
