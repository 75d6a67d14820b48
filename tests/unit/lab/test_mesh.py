# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The meshes' certificates, and the objects that make a mesh."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from lab import apps, mesh_asm, mesh_ca, mesh_source
from lab.asm.render import Mesh
from lab.state import Lab


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path))
    return Lab("mesh")


def test_two_authorities_of_one_root(lab: Lab) -> None:
    folders = [mesh_ca.mesh_authority(lab, name) for name in ("source", "asm")]
    roots = {(folder / "root-cert.pem").read_text() for folder in folders}
    assert len(roots) == 1
    root = x509.load_pem_x509_certificate(roots.pop().encode())
    certificates = [x509.load_pem_x509_certificate((folder / "ca-cert.pem").read_bytes()) for folder in folders]
    assert certificates[0].public_key() != certificates[1].public_key()
    for folder, certificate in zip(folders, certificates, strict=True):
        certificate.verify_directly_issued_by(root)
        assert certificate.not_valid_after_utc <= root.not_valid_after_utc
        assert (folder / "cert-chain.pem").read_text() == (folder / "ca-cert.pem").read_text() + (
            folder / "root-cert.pem"
        ).read_text()
        assert (folder / "ca-key.pem").stat().st_mode & 0o077 == 0
    again = mesh_ca.mesh_authority(lab, "asm")
    assert x509.load_pem_x509_certificate((again / "ca-cert.pem").read_bytes()) == certificates[1]


def test_clients_outside_trust_the_gateways_certificate(lab: Lab) -> None:
    authority = mesh_ca.gateway_authority(lab)
    certificate, _ = authority.issue(mesh_ca.HOST, names=[mesh_ca.HOST])
    store = Store([x509.load_pem_x509_certificate(authority.crt.read_bytes())])
    verifier = PolicyBuilder().store(store).build_server_verifier(x509.DNSName(mesh_ca.HOST))
    assert verifier.verify(x509.load_pem_x509_certificate(certificate.encode()), [])


def test_stock_envoy_gets_nothing_that_it_does_not_know() -> None:
    spec = mesh_source.operator()["spec"]
    assert spec["values"]["telemetry"] == {"enabled": False}
    assert spec["values"]["pilot"]["env"] == mesh_source.ISTIOD_ENV
    assert set(mesh_source.ISTIOD_ENV.values()) == {"false"}


def test_gateways_leave_the_service_before_they_stop_serving() -> None:
    assert mesh_source.PRE_STOP + mesh_source.DRAIN < mesh_source.GRACE
    config = json.loads(
        mesh_source.operator()["spec"]["values"]["gateways"]["istio-ingressgateway"]["podAnnotations"]["proxy.istio.io/config"]
    )
    assert config["proxyHeaders"]["server"]["value"] == "istio-ingressgateway"
    assert apps.PRE_STOP + apps.DRAIN < apps.GRACE


def test_asm_is_found_where_its_gateways_look_for_it() -> None:
    (_, _, service), (_, _, endpoints) = mesh_asm.service()
    mesh = Mesh("c0asm", mesh_asm.ACK_ID, "image")
    assert mesh.discovery == f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc:15012"
    assert "selector" not in service["spec"]
    assert endpoints["metadata"]["labels"]["kubernetes.io/service-name"] == service["metadata"]["name"]
    assert endpoints["endpoints"][0]["addresses"] == ["10.10.0.3"]
    config = json.loads(mesh_asm.mesh_config()["data"]["mesh"])
    assert config["defaultConfig"]["discoveryAddress"] == mesh.discovery


def test_remote_secret_is_what_istiod_looks_for() -> None:
    secret = mesh_asm.remote_secret("kubeconfig")
    assert secret["metadata"]["labels"] == {"istio/multiCluster": "true"}
    assert base64.b64decode(secret["data"][mesh_asm.ACK_ID]) == b"kubeconfig"


def test_routes_share_all_traffic_among_versions_that_exist() -> None:
    gateway, service, rule = apps.routing("ingressgateway-asm")
    routes = service["spec"]["http"][0]["route"]
    assert sum(route["weight"] for route in routes) == 100
    assert {route["destination"]["subset"] for route in routes} == {subset["name"] for subset in rule["spec"]["subsets"]}
    assert gateway["spec"]["selector"] == {"istio": "ingressgateway-asm"}
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in apps.workloads() if one["kind"] == "Deployment"]
    assert [subset["labels"]["version"] for subset in rule["spec"]["subsets"]] == [label["version"] for label in labels]


def test_two_roots_when_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path))
    lab = Lab("roots")
    lab.data["options"] = {"roots": 2}
    source, asm = ((mesh_ca.mesh_authority(lab, name) / "root-cert.pem").read_text() for name in ("source", "asm"))
    assert source != asm
    (gateway,) = mesh_source.operator(two_roots=True)["spec"]["components"]["ingressGateways"]
    assert {"name": "PROXY_CONFIG_XDS_AGENT", "value": "true"} in gateway["k8s"]["env"]
    (gateway,) = mesh_source.operator()["spec"]["components"]["ingressGateways"]
    assert gateway["k8s"]["env"] == []
