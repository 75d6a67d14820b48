# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Whether proxies have taken the weights of a VirtualService: they are asked for their configuration.

Istio notes in each route that it sends to a proxy which VirtualService it comes from. A destination with weight 0 is not sent.
"""

from __future__ import annotations

import dataclasses
import json
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError, few
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each
from ansible_collections.servicemesh.migration.plugins.module_utils._core._retry import retry
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import POD
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._closure import covers, fqdn
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._routes import Destination
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar import live, ready, sidecar_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar_proof import ask

Object = dict[str, t.Any]
#: Where the source sends, and where the target does.
Pair = tuple[Destination, Destination]
# The routes of HTTP, and what else a listener does with a connection.
PATHS = ("/config_dump?resource=dynamic_route_configs", "/config_dump?resource=dynamic_listeners")
# Percent points between what is planned and what a proxy has.
_NEAR = 0.5
# Copies of requests are no share of them.
_MIRRORS = frozenset(("request_mirror_policies", "request_mirror_policy"))


def weights_in(dumps: t.Iterable[t.Any], namespace: str, name: str) -> list[dict[str, int]]:
    """For each route of this VirtualService that the proxy has: the weights by cluster. Pure."""
    found: list[dict[str, int]] = []
    ending = f"/namespaces/{namespace}/virtual-service/{name}"

    def walk(node: t.Any, inside: bool) -> None:
        if isinstance(node, list):
            for item in node:
                walk(item, inside)
        elif isinstance(node, dict):
            told = ((node.get("metadata") or {}).get("filter_metadata") or {}).get("istio") or {}
            inside = inside or str(told.get("config") or "").endswith(ending)
            several = (node.get("weighted_clusters") or {}).get("clusters")
            if inside and several:
                found.append({str(one.get("name")): int(one.get("weight") or 0) for one in several})
            elif inside and isinstance(node.get("cluster"), str):
                found.append({node["cluster"]: 1})
            for key, item in node.items():
                if key not in _MIRRORS and key != "metadata":
                    walk(item, inside)

    for dump in dumps:
        walk(dump, False)
    return found


def answers_for(dumps: t.Iterable[t.Any], host: str, protocol: str) -> bool:
    """Whether a gateway has somewhere to send what comes for a host: a virtual host with routes, or (TLS) a server name. Pure."""

    def walk(node: t.Any) -> bool:
        if isinstance(node, list):
            return any(walk(item) for item in node)
        if not isinstance(node, dict):
            return False
        names = (node.get("filter_chain_match") or {}).get("server_names") or [] if protocol == "tls" else []
        if protocol == "http" and node.get("routes"):  # without routes it is Istio's black hole for a Gateway without routes
            names = [str(name).partition(":")[0] for name in node.get("domains") or []]
        return any(covers(str(name), host) for name in names) or any(walk(item) for item in node.values())

    return any(walk(dump) for dump in dumps)


def _is(cluster: str, wanted: Destination, namespace: str) -> bool:
    """Whether ``outbound|80|subset|host`` is this destination."""
    parts = cluster.split("|")
    if len(parts) != 4:
        return False
    _way, port, subset, host = parts
    return host == fqdn(wanted.host, namespace) and subset == wanted.subset and str(wanted.port) in ("0", port)


def shares_in(dumps: t.Iterable[t.Any], namespace: str, name: str, pairs: t.Collection[Pair]) -> list[float]:
    """The shares in percent that the targets have in the proxy's routes of this VirtualService. Pure."""
    found = []
    for weights in weights_in(dumps, namespace, name):
        for pair in pairs:
            source, target = (sum(n for key, n in weights.items() if _is(key, side, namespace)) for side in pair)
            if source + target:
                found.append(100.0 * target / (source + target))
                break
    return found


def waits(has: t.Sequence[float], planned: t.Collection[float]) -> str:
    """Why a proxy that has these shares has not taken the plan, or nothing."""
    for share in has:
        if all(abs(share - wanted) > _NEAR for wanted in planned):
            return f"it still sends {share:.4g} % to the target"
    return ""


@dataclasses.dataclass
class Taken:
    """What the proxies of one VirtualService say. ``concerned``: those of the ``asked`` ones that have its routes."""

    asked: int = 0
    concerned: int = 0
    shares: list[float] = dataclasses.field(default_factory=list)
    waiting: list[str] = dataclasses.field(default_factory=list)


class Proxies:
    """The proxies of a cluster that are asked: of each mesh a sample, those in the VirtualService's own namespace first."""

    def __init__(self, cluster: Cluster, sample: int, timeout: float) -> None:
        self._cluster = cluster
        self._sample = sample
        self._timeout = timeout
        self._pods: list[Object] | None = None

    def forget(self) -> None:
        """Pods come and go: look at them anew."""
        self._pods = None

    def _chosen(self, mesh: str, obj: Object) -> list[Object]:
        if self._pods is None:
            self._pods = [pod for pod in self._cluster.list_all(POD) if live(pod) and ready(pod) and sidecar_of(pod)]
        gateways = (obj.get("spec") or {}).get("gateways") or ["mesh"]
        found = []
        for pod in self._pods:
            proxy = sidecar_of(pod)
            side = "target" if proxy and proxy.asm_id else "source"
            if proxy and side == mesh and not (proxy.router and gateways == ["mesh"]) and (proxy.router or "mesh" in gateways):
                found.append(pod)
        here = obj["metadata"].get("namespace")
        found.sort(key=lambda pod: (pod["metadata"]["namespace"] != here, bool(getattr(sidecar_of(pod), "router", False))))
        return found[: self._sample] if self._sample else found

    def can_ask(self, mesh: str, obj: Object) -> None:
        """Before anything is moved: a proof that cannot be had would send back what is good. Raises MigrationError."""
        for pod in self._chosen(mesh, obj)[:1]:
            try:
                retry(lambda pod=pod: ask(self._cluster, pod, self._timeout, ("/ready",)), attempts=3)  # type: ignore[misc]
            except MigrationError as error:
                raise MigrationError(
                    "The proxies cannot be asked, so nothing is moved",
                    where=error.where,
                    why=error.why,
                    todo=f"{error.todo}; or set proof: stored, and believe what the API servers store",
                ) from error

    def unaware(self, namespace: str, labels: t.Mapping[str, str], host: str, protocol: str) -> str:
        """Why the gateways with these labels do not answer for a host, or nothing. Pods that are no gateways do not count."""
        selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        for pod in self._cluster.list_all(POD, namespace, label_selector=selector):
            proxy = sidecar_of(pod)
            if proxy is None or not proxy.router or not live(pod) or not ready(pod):
                continue
            dumps = _read(ask(self._cluster, pod, self._timeout, PATHS))
            if not answers_for(dumps, host, protocol):
                return f"its pod {pod['metadata']['name']} has no route for {host} (yet)"
        return ""

    def taken(self, mesh: str, obj: Object, pairs: t.Collection[Pair], planned: t.Collection[float]) -> Taken:
        """Ask them once. A proxy that cannot be asked is waited for, and one that has no such route does not count."""
        pods = self._chosen(mesh, obj)
        made, meta = Taken(len(pods)), obj["metadata"]

        def one(pod: Object) -> list[float]:
            answers = ask(self._cluster, pod, self._timeout, PATHS)
            return shares_in(_read(answers), meta.get("namespace", ""), meta["name"], pairs)

        for answer in each(pods, one):
            place = f"{answer.item['metadata']['namespace']}/{answer.item['metadata']['name']}"
            if answer.error is not None:
                if answer.error.details.get("status") in (401, 403):
                    raise answer.error
                if answer.error.details.get("status") == 404:
                    self.forget()
                made.waiting.append(f"{place}: {answer.error.why or answer.error.what}")
                continue
            has = answer.value or []
            made.concerned += bool(has)
            made.shares += has
            why = waits(has, planned)
            if why:
                made.waiting.append(f"{place}: {why}")
        return made


def _read(answers: t.Iterable[bytes]) -> list[t.Any]:
    try:
        return [json.loads(data) for data in answers]
    except ValueError as error:
        raise MigrationError("A proxy's configuration cannot be read", why=str(error), transient=True) from error


def not_taken(mesh: str, place: str, taken: Taken) -> MigrationError:
    """Proxies that do not have the weights (yet)."""
    return MigrationError(
        f"{len(taken.waiting)} of {taken.asked} proxies that were asked do not have the weights of {place}",
        where=f"{mesh}/{place}",
        why=few(taken.waiting, 3),
        todo="look whether they are connected to their control plane, and whether it refuses the VirtualService; then run again",
        transient=True,
    )
