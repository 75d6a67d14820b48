# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The plain kubeconfig: one file with a server, an authority, and a token or a client certificate.

Most are. Such a file needs nothing of the kubernetes library, whose import takes longer than a small module's work, and 25 MB.
Whatever is otherwise (a plugin, OIDC, a proxy, several files, an option that overrides something) is left to the library.
"""

from __future__ import annotations

import base64
import dataclasses
import os
import pathlib
import ssl
import tempfile
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._wire import Wire

_CLUSTER = frozenset(("server", "certificate-authority", "certificate-authority-data", "extensions"))
_USER = frozenset(("token", "client-certificate", "client-certificate-data", "client-key", "client-key-data", "extensions"))
_OVERRIDES = ("host", "api_key", "ca_cert", "client_cert", "client_key", "proxy", "in_cluster")


@dataclasses.dataclass
class Access:
    """How to call one API server. ``headers`` log in."""

    host: str
    headers: dict[str, str]
    wire: Wire


class _Shared(ssl.SSLContext):
    """One context for all threads. urllib3 sets its protocols anew for every connection, and OpenSSL frees the old list while
    another thread may be copying it: one handshake in some thousands was garbage (alert decode_error)."""

    fixed = False

    def set_alpn_protocols(self, alpn_protocols: t.Iterable[str]) -> None:
        if not self.fixed:
            super().set_alpn_protocols(alpn_protocols)


def plain_access(options: t.Mapping[str, t.Any], connections: int) -> Access | None:
    """None when it is not that plain, or is wrong: the library knows what to do or say then."""
    path = str(options.get("kubeconfig") or "")
    if not path or os.pathsep in path or any(options.get(name) for name in _OVERRIDES):
        return None
    proxies = any(value and name.lower().endswith("_proxy") for name, value in os.environ.items())
    if options.get("validate_certs") is not None or proxies:
        return None
    try:
        return _access(pathlib.Path(path).expanduser(), options.get("context"), connections)
    except Exception:  # pylint: disable=broad-exception-caught  # the library says what is wrong, in its own words
        return None


def _access(path: pathlib.Path, context: str | None, connections: int) -> Access | None:
    import urllib3  # pylint: disable=import-outside-toplevel
    import yaml  # pylint: disable=import-outside-toplevel

    config = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    chosen = _named(config["contexts"], context or config["current-context"])["context"]
    cluster = _named(config["clusters"], chosen["cluster"])["cluster"]
    user = _named(config["users"], chosen["user"])["user"]
    server = str(cluster["server"])
    if set(cluster) - _CLUSTER or set(user) - _USER or not server.startswith("https://"):
        return None
    authority = _content(path, cluster, "certificate-authority")
    certificate, key = _content(path, user, "client-certificate"), _content(path, user, "client-key")
    if not authority or bool(certificate) != bool(key):
        return None
    tls = _Shared(ssl.PROTOCOL_TLS_CLIENT)
    tls.set_alpn_protocols(["http/1.1"])
    tls.fixed = True
    tls.load_verify_locations(cadata=authority.decode("ascii"))
    if certificate and key:
        with tempfile.TemporaryDirectory() as folder:  # 0700, and gone at once: OpenSSL reads files only
            file = pathlib.Path(folder, "client.pem")
            file.touch(0o600)
            file.write_bytes(certificate.rstrip() + b"\n" + key)
            tls.load_cert_chain(str(file))
    headers = {"authorization": f"Bearer {user['token']}"} if user.get("token") else {}
    pool = urllib3.PoolManager(num_pools=4, maxsize=connections, ssl_context=tls, cert_reqs="CERT_REQUIRED")
    host = server.rstrip("/")
    return Access(host, headers, Wire(host, pool))


def _named(entries: t.Sequence[t.Mapping[str, t.Any]], name: str) -> t.Mapping[str, t.Any]:
    (found,) = (entry for entry in entries if entry["name"] == name)
    return found


def _content(config: pathlib.Path, entry: t.Mapping[str, t.Any], field: str) -> bytes:
    """What ``field-data`` holds, or the file that ``field`` names, relative to the kubeconfig."""
    if entry.get(f"{field}-data"):
        return base64.b64decode(entry[f"{field}-data"], validate=False)
    return config.parent.joinpath(entry[field]).read_bytes() if entry.get(field) else b""
