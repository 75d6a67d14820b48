# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The sidecar of a pod, and which control plane it belongs to. Pure.

The annotation sidecar.istio.io/status and the revision say the same in both meshes. What tells ASM's sidecar is ASM_ID in the
environment of its proxy; then the address of its control plane, and its image.
"""

from __future__ import annotations

import dataclasses
import json
import typing as t

Object = dict[str, t.Any]
PROXY = "istio-proxy"
_OVER = ("Succeeded", "Failed")


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


@dataclasses.dataclass(frozen=True)
class Proxies:
    """What the proxies of the target mesh are known by; with nothing said, by having an ASM_ID at all."""

    asm_id: str = ""
    discovery_address: str = ""
    image: str = ""
    trust_domain: str = ""
    roots: tuple[str, ...] = ()

    def differs(self, sidecar: Sidecar | None) -> str:
        """Why this is no proxy of the target, or nothing."""
        if sidecar is None:
            return "it has no sidecar"
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
    return Proxies(**texts, roots=roots)


def live(pod: Object) -> bool:
    """Neither ended nor being deleted."""
    return (pod.get("status") or {}).get("phase") not in _OVER and not pod["metadata"].get("deletionTimestamp")


def ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)


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
    try:
        config = json.loads(env.get("PROXY_CONFIG") or "{}")
    except ValueError:
        config = {}
    address = config.get("discoveryAddress") if isinstance(config, dict) else ""
    return Sidecar(
        image=str(container.get("image") or ""),
        env=env,
        discovery=str(address or env.get("CA_ADDR") or ""),
        native=native,
        router="router" in (container.get("args") or [])[:2],
    )
