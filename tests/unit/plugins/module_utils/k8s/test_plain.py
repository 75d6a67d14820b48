# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plain kubeconfig is read here, whatever is otherwise by the kubernetes library."""

from __future__ import annotations

import base64
import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import kind_of
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._plain import plain_access


def pair() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), text


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class Config:
    """A kubeconfig with a token, to be changed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "config"
        self.certificate, self.key = pair()
        (folder / "ca.crt").write_bytes(self.certificate)
        self.cluster: dict[str, Any] = {"server": "https://192.0.2.1:6443/", "certificate-authority": "ca.crt"}
        self.user: dict[str, Any] = {"token": "planted"}

    def options(self, **more: Any) -> dict[str, Any]:
        contexts = [{"name": name, "context": {"cluster": "c", "user": "u"}} for name in ("x", "y")]
        clusters, users = [{"name": "c", "cluster": self.cluster}], [{"name": "u", "user": self.user}]
        document = {"contexts": contexts, "clusters": clusters, "users": users, "current-context": "x"}
        self.path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **document}))
        return {"kubeconfig": str(self.path), **more}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(tmp_path)


def test_a_token(config: Config) -> None:
    found = plain_access(config.options(), 8)
    assert found is not None
    assert (found.host, found.headers) == ("https://192.0.2.1:6443", {"authorization": "Bearer planted"})
    cluster = Cluster("source", config.options())
    assert cluster._auth_headers() == found.headers
    assert cluster.configuration.host.rstrip("/") == cluster.host, "the library reads the same, when it is needed"


def test_a_client_certificate_in_the_file_leaves_no_file_behind(
    config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    certificate, key = (base64.b64encode(part).decode() for part in (config.certificate, config.key))
    config.user = {"client-certificate-data": certificate, "client-key-data": key}
    config.cluster["certificate-authority-data"] = certificate
    found = plain_access(config.options(), 8)
    assert found is not None and found.headers == {}
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"user": {"exec": {"command": "login"}}},
        {"user": {"tokenFile": "/x", "token": "a"}},
        {"user": {"auth-provider": {"name": "oidc"}}},
        {"user": {"client-certificate": "ca.crt"}},
        {"cluster": {"insecure-skip-tls-verify": True}},
        {"cluster": {"proxy-url": "http://192.0.2.9"}},
        {"cluster": {"tls-server-name": "x"}},
        {"cluster": {"server": "http://192.0.2.1"}},
        {"cluster": {"certificate-authority": None}},
        {"cluster": {"certificate-authority": "missing.crt"}},
        {"options": {"context": "nowhere"}},
        {"options": {"host": "https://192.0.2.2"}},
        {"options": {"api_key": "other"}},
        {"options": {"validate_certs": False}},
        {"options": {"proxy": "http://192.0.2.9"}},
        {"options": {"ca_cert": "/x"}},
        {"environment": "https_proxy"},
    ],
    ids=str,
)
def test_whatever_is_not_plain_is_left_to_the_library(
    config: Config, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plain_access(config.options(), 8) is not None
    config.user.update(change.get("user", {}))
    config.cluster.update(change.get("cluster", {}))
    if "environment" in change:
        monkeypatch.setenv(change["environment"], "http://192.0.2.9")
    assert plain_access(config.options(**change.get("options", {})), 8) is None


def test_several_files_and_none_are_left_to_the_library(config: Config) -> None:
    path = config.options()["kubeconfig"]
    assert plain_access({"kubeconfig": f"{path}:{path}"}, 8) is None
    assert plain_access({}, 8) is None
    with pytest.raises(InputError, match="cannot be used"):
        Cluster("source", {"kubeconfig": f"{path}.missing"})


@pytest.mark.parametrize("lines", [True, False])
def test_the_content_of_a_kubeconfig_in_the_place_of_its_path_is_not_repeated(config: Config, lines: bool) -> None:
    text = Path(config.options()["kubeconfig"]).read_text()
    text = f"apiVersion: v1\n{text}" if lines else text
    with pytest.raises(InputError, match="not the path of a file") as found:
        Cluster("source", {"kubeconfig": text})
    assert "planted" not in str(found.value.as_dict())


NOT_FOUND = {"kind": "Status", "code": 404, "reason": "NotFound", "message": 'virtualservices "a" not found'}


@pytest.mark.parametrize(
    ("body", "absent"),
    [
        (json.dumps(NOT_FOUND).encode(), True),
        (b"404 page not found\n", True),  # a path that an API server does not serve
        (b"<html><h1>404 Not Found</h1>nginx</html>", False),
        (b"default backend - 404", False),
        (b'{"message": "no Route matched with those values"}', False),
        (b"", False),
        (json.dumps(NOT_FOUND).encode()[:-9], False),
    ],
)
def test_a_404_of_something_on_the_way_is_not_taken_for_absent(
    config: Config, monkeypatch: pytest.MonkeyPatch, body: bytes, absent: bool
) -> None:
    cluster, kind = Cluster("source", config.options(), attempts=1), kind_of("networking.istio.io/v1", "VirtualService")
    monkeypatch.setattr(cluster._wire, "request", lambda *_args: (404, body))
    calls: list[tuple[Any, Any]] = [
        (lambda: cluster.get(kind, "a", "b"), None),
        (lambda: cluster.exists(kind, "a", "b"), False),
        (lambda: list(cluster.list_all(kind)), []),
        (lambda: cluster.served("networking.istio.io"), []),
        (lambda: cluster.delete(kind, "a", "b"), None),
    ]
    for call, nothing in calls:
        if absent:
            assert call() == nothing
            continue
        with pytest.raises(MigrationError, match="404 that is not its own") as found:
            call()
        assert found.value.transient and found.value.details["status"] == 0
