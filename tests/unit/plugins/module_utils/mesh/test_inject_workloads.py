# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who runs pods, whose sidecar they have, and what a proxy says of itself: sorted and judged by tables."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _sidecar_proof
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._inject import (
    Original,
    backward,
    forward,
    original_of,
    read_original,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._rollouts import Manners
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar import (
    Proxies,
    Sidecar,
    read_proxies,
    sidecar_of,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar_proof import Facts, judge_facts, read_facts
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._workloads import (
    MOVING,
    SOURCE,
    TARGET,
    Scope,
    Survey,
    Wish,
    Workload,
    read,
    survey,
)
from tests.unit.plugins.module_utils.mesh.inject_world import LABEL, Api, Object, _merge, proxy

WISH = Wish({LABEL: "true", "istio.io/rev": None})


def looked(api: Api, **more: Any) -> Survey:
    return survey(read(api, ()), Scope(WISH, more.pop("proxies", Proxies()), **more))  # type: ignore[arg-type]


def pod(name: str, owner: str = "", containers: list[Object] | None = None, **spec: Any) -> Object:
    meta: Object = {"name": name, "namespace": "shop", "labels": {}}
    if owner:
        kind, _slash, made = owner.partition("/")
        meta["ownerReferences"] = [{"kind": kind, "name": made, "controller": True}]
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    own = [{"name": "app"}, proxy(False)] if containers is None else containers
    return {"kind": "Pod", "metadata": meta, "spec": {"containers": own, **spec}, "status": status}


def test_what_is_listed_and_why() -> None:
    api = Api()
    api.workload("w")
    api.add(pod("lonely"))
    api.add(pod("static", "Node/n1"))
    api.add(pod("job-1", "Job/job"))
    api.add(pod("clone-1", "CloneSet/clone"))
    api.add(pod("rs-1", "ReplicaSet/rs"))
    api.add({"kind": "ReplicaSet", "metadata": {"name": "rs", "namespace": "shop"}, "spec": {}, "status": {"replicas": 1}})
    api.add(pod("rollout-1-x", "ReplicaSet/rollout-1"))
    owner = [{"kind": "Rollout", "name": "rollout", "controller": True}]
    meta = {"name": "rollout-1", "namespace": "shop", "ownerReferences": owner}
    api.add({"kind": "ReplicaSet", "metadata": meta, "spec": {}, "status": {"replicas": 1}})
    api.add(pod("rc-1", "ReplicationController/rc"))
    api.add(pod("host", "Job/host", [{"name": "app"}], hostNetwork=True))
    out = api.add(pod("out", "Job/out", [{"name": "app"}]))
    out["metadata"]["labels"] = {"sidecar.istio.io/inject": "false"}
    template: Object = {"metadata": {}, "spec": {}}
    cron = {"kind": "CronJob", "metadata": {"name": "nightly", "namespace": "shop"}}
    api.add({**cron, "spec": {"jobTemplate": {"spec": {"template": template}}}})
    made = api.workload("made")
    made["metadata"]["ownerReferences"] = [{"kind": "Operator", "name": "op", "controller": True}]
    gateway = api.workload("gateway")
    for one in api.pods(gateway):
        one["spec"]["containers"] = [proxy(False, router=True)]
    ended = api.add(pod("ended", "Job/over"))
    ended["status"]["phase"] = "Succeeded"
    found = looked(api)
    assert [one.name for one in found.workloads] == ["w"]
    reasons = {(one.kind, one.name): one.reason for one in found.listed}
    parts = {
        ("Pod", "lonely"): "without controller",
        ("Node", "n1"): "static pod",
        ("Job", "job"): "not restarted",
        ("CloneSet", "clone"): "its own controller",
        ("ReplicaSet", "rs"): "without Deployment",
        ("Rollout", "rollout"): "its own controller",
        ("ReplicationController", "rc"): "by hand",
        ("Job", "host"): "network of the node",
        ("Job", "out"): "opted out",
        ("CronJob", "nightly"): "next runs",
        ("Deployment", "made"): "made by Operator op",
        ("Deployment", "gateway"): "a gateway",
    }
    assert set(reasons) == set(parts)
    assert {key: part for key, part in parts.items() if part not in reasons[key]} == {}


def test_without_a_namespace_that_asks_for_sidecars_nothing_is_said() -> None:
    api = Api()
    api.items["Namespace", "", "shop"]["metadata"]["labels"] = {}
    api.add(pod("plain", "Job/x", [{"name": "app"}]))
    api.workload("asleep", replicas=0)
    found = looked(api)
    assert (found.workloads, found.listed, found.without) == ([], [], 2)


def test_states_are_read_off_the_pods() -> None:
    api = Api()
    api.workload("old")
    api.workload("new", template={LABEL: "true"})
    half = api.workload("half", template={LABEL: "true"})
    api.pods(half)[0]["spec"]["containers"] = [proxy(False)]
    # A native sidecar of ASM that came another way than by our label.
    other = api.workload("other")
    for one in api.pods(other):
        one["spec"] = {"containers": [{"name": "app"}], "initContainers": [{**proxy(True), "restartPolicy": "Always"}]}
    api.workload("asleep", replicas=0)
    states = {one.name: one.state for one in looked(api).workloads}
    assert states == {"old": SOURCE, "new": TARGET, "half": MOVING, "other": TARGET, "asleep": SOURCE}
    assert {one.name for one in looked(api).workloads if one.native} == {"other"}
    assert [one.name for one in looked(api, namespaces=("elsewhere",)).workloads] == []


def sidecar(**more: Any) -> Sidecar:
    given = {"image": "r/acs/proxyv2:v1", "env": {"ASM_ID": "c1"}, "discovery": "istiod-1.istio-system.svc:15012", **more}
    return Sidecar(native=False, router=False, **given)


@pytest.mark.parametrize(
    ("option", "given", "differs"),
    [
        ({}, sidecar(), ""),
        ({}, sidecar(env={}), "it has no ASM_ID"),
        ({"asm_id": "c2"}, sidecar(), "its ASM_ID is c1, not c2"),
        ({"discovery_address": "istiod-1.istio-system.svc.cluster.local"}, sidecar(env={}), ""),
        ({"discovery_address": "istiod.istio-system.svc:15012"}, sidecar(), "its control plane is istiod-1"),
        ({"image": "/acs/proxyv2:"}, sidecar(env={}), ""),
        ({"image": "/istio/"}, sidecar(), "its image is"),
        ({"asm_id": "c1"}, None, "it has no sidecar"),
    ],
)
def test_whose_proxy_it_is(option: Object, given: Sidecar | None, differs: str) -> None:
    found = read_proxies(option).differs(given)
    assert found.startswith(differs) and bool(found) == bool(differs)


def test_the_address_of_the_control_plane_is_in_the_configuration() -> None:
    config = json.dumps({"discoveryAddress": "istiod-2.istio-system.svc:15012"})
    one = pod("p", containers=[{"name": "istio-proxy", "image": "i", "env": [{"name": "PROXY_CONFIG", "value": config}]}])
    found = sidecar_of(one)
    assert found is not None and found.discovery == "istiod-2.istio-system.svc:15012" and not found.router


ROOT = b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(b"root one") + b"\n-----END CERTIFICATE-----\n"
FINGERPRINT = hashlib.sha256(b"root one").hexdigest()


def answers(identity: str = "spiffe://cluster.local/ns/shop/sa/web", roots: bytes = ROOT, rejected: int = 0) -> list[bytes]:
    certs = {"certificates": [{"ca_cert": [], "cert_chain": [{"subject_alt_names": [{"uri": identity}]}]}]}
    secret = {"validation_context": {"trusted_ca": {"inline_bytes": base64.b64encode(roots).decode()}}}
    names = _sidecar_proof._STATS
    values = dict.fromkeys(names, 1) | {names[2]: rejected, names[4]: 0}
    stats = {"stats": [{"name": name, "value": value} for name, value in values.items()]}
    dump = {"configs": [{"name": "default", "secret": {"tls_certificate": {}}}, {"name": "ROOTCA", "secret": secret}]}
    return [json.dumps(item).encode() for item in (certs, dump, stats)]


def test_what_a_proxy_says_is_read() -> None:
    assert read_facts(*answers()) == Facts("spiffe://cluster.local/ns/shop/sa/web", (FINGERPRINT,), True, True, 0)
    assert read_facts(*answers(roots=ROOT + ROOT)).roots == (FINGERPRINT,)
    assert read_facts(b"", b"not json", b"[]") == Facts()


@pytest.mark.parametrize(
    ("name", "value", "connected"),
    [
        ("cluster.xds-grpc;.upstream_rq_active", 1, True),
        ("cluster.xds-grpc.upstream_rq_active", 1, True),
        ("cluster.xds-grpc;.upstream_rq_active", 0, False),
        ("cluster.outbound|80||web;.upstream_rq_active", 5, False),
    ],
)
def test_a_sidecar_counts_its_stream_only(name: str, value: int, connected: bool) -> None:
    stats = json.dumps({"stats": [{"name": name, "value": value}]}).encode()
    assert read_facts(b"{}", b"{}", stats).connected is connected


@pytest.mark.parametrize(
    ("changed", "option", "why"),
    [
        ({}, {}, ""),
        ({}, {"trust_domain": "cluster.local", "roots": [FINGERPRINT.upper()]}, ""),
        ({"identity": "spiffe://cluster.local/ns/shop/sa/other"}, {}, "not for /ns/shop/sa/web"),
        ({"identity": ""}, {}, "for nobody"),
        ({}, {"trust_domain": "else"}, "trust domain cluster.local"),
        ({"roots": b""}, {}, "trusts no root"),
        ({}, {"roots": ["ab"]}, "does not trust the root ab"),
        ({"rejected": 2}, {}, "refused configuration"),
    ],
)
def test_what_is_no_proof(changed: Any, option: Object, why: str) -> None:
    found = judge_facts(pod("p", serviceAccountName="web"), read_facts(*answers(**changed)), read_proxies(option))
    assert why in found and bool(why) == bool(found)


@pytest.mark.parametrize(
    ("labels", "annotations"),
    [({}, {}), ({"istio.io/rev": "x", "token": "t"}, {}), ({LABEL: "false"}, {"备注": "值"}), ({LABEL: "true"}, {})],
)
def test_the_way_back_is_the_exact_inverse(labels: dict[str, str], annotations: dict[str, str]) -> None:
    wish = Wish({LABEL: "true", "istio.io/rev": None, "token": "new"}, {"备注": "新"})
    template: Object = (
        {"metadata": {"labels": labels, "annotations": annotations}} if annotations else {"metadata": {"labels": labels}}
    )
    one = Workload("Deployment", "shop", "w", "u", {}, labels, annotations, Manners(2, 2, 1, 1, "25%"), SOURCE, guard=0)
    known = original_of(one, wish, "1")
    # Through the journal and its file.
    known = read_original(json.loads(json.dumps(known.as_value())))
    assert isinstance(known, Original) and known.unavailable == "25%"
    item: Object = {
        "metadata": {"uid": "u"},
        "spec": {"template": template, "strategy": {"rollingUpdate": {"maxUnavailable": "25%"}}},
    }
    before = json.dumps(item, sort_keys=True)
    _merge(item, forward(one, known))
    assert item["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert wish.fulfilled(item["spec"]["template"]["metadata"]["labels"], item["spec"]["template"]["metadata"]["annotations"])
    _merge(item, backward(one, known))
    item["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] = known.unavailable
    assert json.dumps(item, sort_keys=True) == before
