# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Proof that a pod really is in the target mesh: its proxy is asked, at its own admin port, through the API server.

Image and environment of a pod say what was asked for. The proxy says what it has: its certificate and SPIFFE identity, the roots
that it trusts, whether it is connected to its control plane and took what that sent. Private keys are never in what it answers.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import http.client
import json
import re
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._forward import forwarded
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar import Proxies, ready, sidecar_of

Object = dict[str, t.Any]
ADMIN = 15000
# Istio's bootstrap leaves control_plane.* out of what a sidecar counts; the open stream of its configuration is there.
_STREAMS = re.compile(r"cluster\.xds-grpc;?\.upstream_rq_active")
_STATS = (
    "control_plane.connected_state",
    "cluster_manager.cds.update_success",
    "cluster_manager.cds.update_rejected",
    "listener_manager.lds.update_success",
    "listener_manager.lds.update_rejected",
)
_PATHS = (
    "/certs",
    "/config_dump?resource=dynamic_active_secrets",
    "/stats?format=json&filter=" + "%7C".join((*_STATS, "upstream_rq_active")),
)
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a proxy says of itself. ``roots``: SHA-256 of each root that it trusts, in hex."""

    identity: str = ""
    roots: tuple[str, ...] = ()
    connected: bool = False
    configured: bool = False
    rejected: int = 0

    def as_dict(self) -> dict[str, t.Any]:
        return {**dataclasses.asdict(self), "roots": list(self.roots)}


def ask(cluster: Cluster, pod: Object, timeout: float, paths: t.Sequence[str] = _PATHS, port: int = ADMIN) -> list[bytes]:
    """GET each path of the proxy's admin port (or another one), over one connection. Raises MigrationError."""
    meta = pod["metadata"]
    found: list[bytes] = []
    with forwarded(cluster, meta["namespace"], meta["name"], port, timeout) as sock:
        connection = http.client.HTTPConnection("localhost", timeout=timeout)
        connection.auto_open = 0  # never to another place than the pod
        connection.sock = sock
        try:
            for path in paths:
                connection.request("GET", path)
                answer = connection.getresponse()
                data = answer.read()
                if answer.status != 200:
                    raise _silent(cluster, meta, port, f"it answered {path.partition('?')[0]} with {answer.status}")
                found.append(data)
        except (OSError, http.client.HTTPException) as error:
            raise _silent(cluster, meta, port, str(error) or type(error).__name__) from error
    return found


def _silent(cluster: Cluster, meta: Object, port: int, why: str) -> MigrationError:
    return MigrationError(
        "The proxy of a pod does not tell what it has" if port == ADMIN else "A pod does not tell what it has",
        where=f"{cluster.name}/{meta['namespace']}/Pod/{meta['name']} port {port}",
        why=why,
        todo="look at the containers of this pod",
        transient=True,
    )


def read_facts(certs: bytes, secrets: bytes, stats: bytes) -> Facts:
    """What the three answers say. Pure; anything missing is empty, and so not proven."""
    numbers = {str(item.get("name")): int(item.get("value") or 0) for item in _json(stats).get("stats") or [] if "value" in item}
    return Facts(
        identity=_identity(_json(certs)),
        roots=_roots(_json(secrets)),
        connected=numbers.get(_STATS[0]) == 1 or any(value and _STREAMS.fullmatch(name) for name, value in numbers.items()),
        configured=min(numbers.get(_STATS[1], 0), numbers.get(_STATS[3], 0)) > 0,
        rejected=numbers.get(_STATS[2], 0) + numbers.get(_STATS[4], 0),
    )


def _json(data: bytes) -> Object:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _identity(certs: Object) -> str:
    for item in certs.get("certificates") or []:
        for one in item.get("cert_chain") or []:
            for name in one.get("subject_alt_names") or []:
                if str(name.get("uri", "")).startswith("spiffe://"):
                    return str(name["uri"])
    return ""


def _roots(dump: Object) -> tuple[str, ...]:
    found: set[str] = set()
    for config in dump.get("configs") or []:
        # With ?resource= each is a secret; without it they are in a list of it.
        for item in [config, *(config.get("dynamic_active_secrets") or [])]:
            trusted = ((item.get("secret") or {}).get("validation_context") or {}).get("trusted_ca") or {}
            try:
                pem = base64.b64decode(trusted.get("inline_bytes") or "")
            except ValueError:
                continue
            found |= {hashlib.sha256(base64.b64decode(b"".join(body.split()))).hexdigest() for body in _PEM.findall(pem)}
    return tuple(sorted(found))


def expected_identity(pod: Object) -> str:
    """The SPIFFE identity without its trust domain: ``/ns/<namespace>/sa/<account>``."""
    return f"/ns/{pod['metadata']['namespace']}/sa/{pod['spec'].get('serviceAccountName') or 'default'}"


def judge_pod(pod: Object, proxies: Proxies) -> str:
    """Why what Kubernetes says of a pod is not that of a ready pod in the target, or nothing."""
    differs = proxies.differs(sidecar_of(pod))
    return differs or ("" if ready(pod) else "it is not ready")


def judge_facts(pod: Object, facts: Facts, proxies: Proxies) -> str:
    """Why what the proxy says is no proof, or nothing."""
    domain, _slashes, path = facts.identity.removeprefix("spiffe://").partition("/")
    if f"/{path}" != expected_identity(pod):
        return f"its certificate is for {facts.identity or 'nobody'}, not for {expected_identity(pod)}"
    if proxies.trust_domain and domain != proxies.trust_domain:
        return f"its certificate is of the trust domain {domain}, not {proxies.trust_domain}"
    if not facts.roots:
        return "it trusts no root"
    missing = [root for root in proxies.roots if root not in facts.roots]
    if missing:
        return f"it does not trust the root {missing[0][:16]}…"
    if not facts.connected:
        return "it is not connected to its control plane"
    if not facts.configured:
        return "it has no configuration yet"
    if facts.rejected:
        return f"it refused configuration of its control plane {facts.rejected} times"
    return ""


def prove(cluster: Cluster, pod: Object, proxies: Proxies, timeout: float) -> tuple[Facts | None, str]:
    """``(facts, why it is not proven)``, asked once. Being unable to ask is not proven."""
    try:
        facts = read_facts(*ask(cluster, pod, timeout))
    except MigrationError as error:
        if error.details.get("status") in (401, 403):
            raise
        return None, error.why or error.what
    return facts, judge_facts(pod, facts, proxies)
