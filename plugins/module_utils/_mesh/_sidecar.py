# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The proxy of a pod, and which control plane it belongs to. Pure.

The annotation sidecar.istio.io/status and the revision say the same in both meshes. What tells ASM's proxy is ASM_ID in its
environment; then the address of its control plane, and its image. A native sidecar is among the init containers.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import few

Object = dict[str, t.Any]
PROXY = "istio-proxy"
#: With it a proxy of Istio asks its control plane for the roots to trust, and so learns of a second one.
XDS_AGENT = "PROXY_CONFIG_XDS_AGENT"
_OVER = ("Succeeded", "Failed")
# A kubelet says "not ready" for the first time when it takes a pod up, to the second.
_BEGINS = datetime.timedelta(seconds=2)


@dataclasses.dataclass(frozen=True)
class Sidecar:
    """:arg native: it is an init container that keeps running. :arg router: it is a gateway, the proxy is all there is."""

    image: str
    env: t.Mapping[str, str]
    discovery: str
    native: bool
    router: bool

    @property
    def asm_id(self) -> str:
        return self.env.get("ASM_ID", "")

    @property
    def network(self) -> str:
        """The network that it was told it is in; with none it takes every endpoint for near, and uses no gateway to others."""
        return self.env.get("ISTIO_META_NETWORK", "")

    @property
    def two_meshes(self) -> bool:
        """It takes the trust of both meshes: by the variable itself, or by the metadata in its configuration that become it."""
        if self.env.get(XDS_AGENT, "").lower() == "true":
            return True
        try:
            return str((_config(self.env).get("proxyMetadata") or {}).get(XDS_AGENT, "")).lower() == "true"
        except AttributeError:
            return False


@dataclasses.dataclass(frozen=True)
class Proxies:
    """What the proxies of the target mesh are known by; with nothing said, by having an ASM_ID at all.

    :arg two_meshes: instead of all that, whether they take the trust of both meshes (any of ASM's does).
    """

    asm_id: str = ""
    discovery_address: str = ""
    image: str = ""
    trust_domain: str = ""
    roots: tuple[str, ...] = ()
    two_meshes: bool = False

    def differs(self, sidecar: Sidecar | None) -> str:
        """Why this is no proxy of the target, or nothing."""
        if sidecar is None:
            return "it has no sidecar"
        if self.two_meshes:
            return "" if sidecar.asm_id or sidecar.two_meshes else f"it does not have {XDS_AGENT}"
        if self.asm_id and sidecar.asm_id != self.asm_id:
            return f"its ASM_ID is {sidecar.asm_id or 'missing'}, not {self.asm_id}"
        if self.discovery_address and _host(sidecar.discovery) != _host(self.discovery_address):
            return f"its control plane is {sidecar.discovery or 'not said'}, not {self.discovery_address}"
        if self.image and self.image not in sidecar.image:
            return f"its image is {sidecar.image}, without {self.image}"
        if not (self.asm_id or self.discovery_address or self.image) and not sidecar.asm_id:
            return f"it has no ASM_ID (control plane {sidecar.discovery or 'not said'}, image {sidecar.image})"
        return ""


def _host(address: str) -> str:
    """``istiod-1-24.istio-system.svc:15012`` is also written with more of the cluster's domain, or without port."""
    return ".".join(address.partition(":")[0].split(".")[:2])


def read_proxies(given: t.Mapping[str, t.Any] | None) -> Proxies:
    """The option ``target_proxy``."""
    texts = {key: str(value) for key, value in (given or {}).items() if value and key != "roots"}
    roots = tuple(str(item).replace(":", "").lower() for item in (given or {}).get("roots") or ())
    return Proxies(roots=roots, **t.cast("dict[str, t.Any]", texts))


def live(pod: Object) -> bool:
    """Neither ended nor being deleted."""
    return (pod.get("status") or {}).get("phase") not in _OVER and not pod["metadata"].get("deletionTimestamp")


def ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)


def was_ready(pod: Object) -> bool:
    """Whether a pod is ready, or was: what never was is not ready since it began."""
    status = pod.get("status") or {}
    for item in status.get("conditions") or []:
        if item.get("type") == "Ready" and item.get("status") != "True":
            try:
                began, since = (
                    datetime.datetime.fromisoformat(str(text).replace("Z", "+00:00"))
                    for text in (status["startTime"], item["lastTransitionTime"])
                )
            except (KeyError, ValueError):
                return False
            return since - began > _BEGINS
    return ready(pod)


def sidecar_of(pod: Object) -> Sidecar | None:
    """The proxy of a pod (or of a pod template that has one)."""
    spec = pod.get("spec") or {}
    for name in ("containers", "initContainers"):
        for container in spec.get(name) or []:
            if container.get("name") == PROXY:
                return _read(container, native=name == "initContainers")
    return None


def _read(container: Object, *, native: bool) -> Sidecar:
    env = {item["name"]: str(item.get("value") or "") for item in container.get("env") or []}
    return Sidecar(
        image=str(container.get("image") or ""),
        env=env,
        discovery=str(_config(env).get("discoveryAddress") or env.get("CA_ADDR") or ""),
        native=native,
        router="router" in (container.get("args") or [])[:2],
    )


def _config(env: t.Mapping[str, str]) -> Object:
    try:
        config = json.loads(env.get("PROXY_CONFIG") or "{}")
    except ValueError:
        return {}
    return config if isinstance(config, dict) else {}


@dataclasses.dataclass(frozen=True)
class Proxy:
    """Whose proxy a pod has. :arg mesh: the id of the ASM instance, empty for Istio's own. :arg router: it is a gateway.

    :arg ending: the pod is being deleted.
    """

    namespace: str
    pod: str
    mesh: str
    ready_for_two: bool
    router: bool = False
    ending: bool = False

    @property
    def place(self) -> str:
        return f"{self.namespace}/{self.pod}"


def proxy_of(pod: Object) -> Proxy | None:
    """None for a pod without a proxy, or one that has ended; a pod that is being deleted still has one."""
    found, meta = sidecar_of(pod), pod["metadata"]
    if found is None or (pod.get("status") or {}).get("phase") in _OVER:
        return None
    ending = bool(meta.get("deletionTimestamp"))
    return Proxy(meta.get("namespace", ""), meta["name"], found.asm_id, found.two_meshes, found.router, ending)


def listed(found: t.Sequence[Proxy], most: int = 5) -> str:
    """The first few, and how many more."""
    return few(sorted(item.place for item in found), most, joint=", ")
