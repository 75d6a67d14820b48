# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What belongs to a backup: groups, kinds, what mesh objects refer to, what is left out and why. Pure, but for ``find_kinds``."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _yaml
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._archive import Object
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._core._secrets import NEAR, SURE
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind, kind_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._order import order_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._planner import made_by_owner

# Where the configuration of a mesh lives. Vendors' own groups are named with the option groups.
GROUPS = (
    "*.istio.io",
    "gateway.networking.k8s.io",
    "istio.alibabacloud.com",
    "servicemesh.alibabacloud.com",
)
SERVICE, SECRET, CONFIG_MAP = kind_of("v1", "Service"), kind_of("v1", "Secret"), kind_of("v1", "ConfigMap")
ACCOUNT = kind_of("v1", "ServiceAccount")
NAMESPACE = kind_of("v1", "Namespace")
CRD = kind_of("apiextensions.k8s.io/v1", "CustomResourceDefinition")
WORKLOADS = tuple(kind_of("apps/v1", kind) for kind in ("DaemonSet", "Deployment", "StatefulSet"))


@dataclasses.dataclass(frozen=True)
class Part:
    """One kind of a backup. ``mode``: ``all`` objects, or ``referred`` ones only."""

    kind: Kind
    mode: str = "all"


def find_kinds(cluster: Cluster, groups: t.Sequence[str], more_kinds: t.Sequence[str]) -> list[Kind]:
    """By discovery: every kind of the groups that can be listed, in the version that the API server prefers."""
    known = cluster.groups()
    wanted = [group for group in known if any(fnmatch.fnmatchcase(group, pattern) for pattern in groups)]
    extra = [entry.rpartition("/") for entry in more_kinds]
    asked = sorted({*wanted, *(group for group, _slash, _kind in extra)})
    values(each(asked, cluster.served))
    found: dict[tuple[str, str], Kind] = {}
    for group in asked:
        for item in cluster.served(group):
            if "list" not in item.get("verbs", ["list"]):
                continue
            if group in wanted or (group, "/", item["kind"]) in extra:
                version = f"{group}/{item['version']}" if group else item["version"]
                found.setdefault((group, item["kind"]), Kind(version, item["kind"], item["plural"], item["namespaced"]))
    for group, _slash, kind in extra:
        if (group, kind) not in found:
            raise InputError(
                "A kind of more_kinds is not served by this cluster",
                where=f"{group or 'core'}/{kind}",
                todo="write it as group/Kind, like policy/PodDisruptionBudget, or as Kind for the core group",
            )
    return sorted(found.values(), key=lambda kind: (order_of(kind.group, kind.kind), kind.group, kind.kind))


# -- what is left out ----------------------------------------------------------------------------------------------

_GENERATED_MAPS = frozenset(("kube-root-ca.crt", "istio-ca-root-cert"))


def left_out(obj: Object) -> str:
    """Why an object of these kinds is not saved; empty when it is. It would not come back, or do harm if it did."""
    meta, kind = obj["metadata"], obj["kind"]
    if meta.get("deletionTimestamp"):
        return "it is being deleted"
    if kind == "Service" and obj["apiVersion"] == "v1":
        if (meta.get("namespace"), meta["name"]) == ("default", "kubernetes"):
            return "the API server makes it"
    elif kind == "Secret" and obj["apiVersion"] == "v1":
        if obj.get("type") == "kubernetes.io/service-account-token":
            return "a token of a ServiceAccount: the cluster makes new ones"
        if obj.get("type") == "helm.sh/release.v1":
            return "a release of Helm: it belongs to Helm"
        if obj.get("type") == "bootstrap.kubernetes.io/token":
            return "a bootstrap token"
    elif kind == "ConfigMap" and obj["apiVersion"] == "v1":
        if meta["name"] in _GENERATED_MAPS:
            return "a controller makes it in every namespace"
        if "control-plane.alpha.kubernetes.io/leader" in (meta.get("annotations") or {}):
            return "a lock of a leader election"
        if meta["name"].startswith("servicemesh-migration-"):
            return "the journal of a migration"
    if made_by_owner(obj):
        return "its owner makes it"
    return ""


def clean(obj: Object) -> Object:
    """The object without what moves by itself, in place. A Service keeps its status: it tells the load balancer's address."""
    meta = obj["metadata"]
    for field in ("managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"):
        meta.pop(field, None)
    if obj["kind"] != "Service":
        obj.pop("status", None)
    return obj


# -- what mesh objects refer to -------------------------------------------------------------------------------------


_KNOWN = 10_000  # hosts; looking at one again costs little


class References:
    """Services, Secrets and pods that mesh objects name, collected while these go by. Holds names, never objects."""

    def __init__(self) -> None:
        self.services: set[tuple[str, str]] = set()
        self.secrets: set[tuple[str, str]] = set()
        self.accounts: set[tuple[str, str]] = set()
        # labels that choose pods, by namespace; "" is any namespace
        self.selectors: set[tuple[str, frozenset[tuple[str, str]]]] = set()
        # the same by one of their labels: an object is asked about those that have one of its own
        self._by_label: dict[tuple[str, str], list[tuple[str, frozenset[tuple[str, str]]]]] = {}
        self.namespaces: set[str] = set()
        self._known: set[tuple[str, str]] = set()

    def see(self, obj: Object) -> None:
        """Take in a mesh object."""
        namespace, spec = obj["metadata"].get("namespace") or "", obj.get("spec")
        if isinstance(spec, dict):
            try:
                self._see(obj, spec, namespace)
            except (AttributeError, TypeError):  # a kind of this name of somebody else, or one without a schema
                self._hosts(spec, namespace)

    def _see(self, obj: Object, spec: Object, namespace: str) -> None:
        meta, kind = obj["metadata"], obj["kind"]
        if kind == "VirtualService":
            self._routes(spec, namespace)
        elif kind in ("DestinationRule", "Sidecar", "ServiceEntry") or kind.endswith("Route"):
            self._hosts(spec, namespace)
        if kind == "Gateway" and isinstance(spec.get("selector"), dict):
            self._select("", spec["selector"])  # by default a Gateway finds its pods in every namespace
        for field in ("selector", "workloadSelector"):
            chosen = spec.get(field)
            if kind != "Gateway" and isinstance(chosen, dict):
                self._select(namespace, chosen.get("matchLabels") or chosen.get("labels"))
        if kind == "Gateway":
            self._secrets(spec, namespace)
        if kind == "IstioGateway":
            self.services.add((namespace, meta["name"]))
            self.services.add((namespace, f"istio-{meta['name']}"))

    def _select(self, namespace: str, labels: t.Any) -> None:
        if isinstance(labels, dict) and labels:
            chosen = namespace, frozenset((str(key), str(value)) for key, value in labels.items())
            if chosen not in self.selectors:
                self.selectors.add(chosen)
                self._by_label.setdefault(min(chosen[1]), []).append(chosen)

    def _chooses(self, namespace: str, labels: t.AbstractSet[tuple[str, str]]) -> bool:
        """Whether something that went by chooses pods with these labels."""
        near = (chosen for label in labels for chosen in self._by_label.get(label, ()))
        return any(place in ("", namespace) and chosen <= labels for place, chosen in near)

    def _routes(self, spec: Object, namespace: str) -> None:
        """The hosts of a VirtualService. There are many of these, so only the places where a host can be are looked at."""
        named = set(spec.get("hosts") or ())
        for section in ("http", "tcp", "tls"):
            for rule in spec.get(section) or ():
                for route in rule.get("route") or ():
                    destination = route.get("destination")
                    if destination:
                        named.add(destination.get("host", ""))
                if "mirror" in rule or "mirrors" in rule:
                    self._hosts([rule.get("mirror"), rule.get("mirrors")], namespace)
        for host in named:
            self._host(host, namespace)

    def _hosts(self, value: t.Any, namespace: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                if key == "host" and isinstance(item, str):
                    self._host(item, namespace)
                elif key == "hosts" and isinstance(item, list):
                    for host in item:
                        self._host(str(host).rpartition("/")[2], namespace)
                elif key in ("backendRefs", "backendRef"):
                    for ref in item if isinstance(item, list) else [item]:
                        if isinstance(ref, dict) and ref.get("kind", "Service") == "Service" and ref.get("name"):
                            self.services.add((ref.get("namespace") or namespace, ref["name"]))
                else:
                    self._hosts(item, namespace)
        elif isinstance(value, list):
            for item in value:
                self._hosts(item, namespace)

    def _host(self, host: str, namespace: str) -> None:
        """``name``, ``name.namespace``, ``name.namespace.svc...``; other hosts name no Service that exists."""
        if (namespace, host) in self._known:
            return
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known.add((namespace, host))
        parts = host.split(".")
        if len(parts) == 1:
            self.services.add((namespace, host))
        elif len(parts) == 2 or parts[2] == "svc":
            self.services.add((parts[1], parts[0]))

    def _secrets(self, spec: Object, namespace: str) -> None:
        for server in [*(spec.get("servers") or ()), *(spec.get("listeners") or ())]:
            tls = server.get("tls") or {}
            for name in [tls.get("credentialName"), *(tls.get("credentialNames") or ())]:
                if name and "://" not in name:
                    self.secrets.add(("", name))
                    self.secrets.add(("", f"{name}-cacert"))
            for ref in tls.get("certificateRefs") or ():
                self.secrets.add((ref.get("namespace") or namespace, ref["name"]))

    def wants(self, kind: Kind, obj: Object) -> bool:
        """Whether something that went by refers to this object; takes in what it refers to itself."""
        meta = obj["metadata"]
        namespace, name = meta.get("namespace") or "", meta["name"]
        if kind == SECRET:
            return (namespace, name) in self.secrets or ("", name) in self.secrets
        if kind == ACCOUNT:
            return (namespace, name) in self.accounts
        spec = obj.get("spec") or {}
        if kind == SERVICE:
            selector = spec.get("selector") or {}
            # a gateway's Service chooses by labels that a Gateway chooses by, too
            wanted = (namespace, name) in self.services or self._chooses(namespace, set(selector.items()))
            if wanted and selector:
                self._select(namespace, selector)
            return wanted
        template = spec.get("template") or {}
        labels = (template.get("metadata") or {}).get("labels") or {}
        pairs = {(str(key), str(value)) for key, value in labels.items()}
        wanted = self._chooses(namespace, pairs) or _injected(template)
        if wanted:
            pod = template.get("spec") or {}
            self.accounts.add((namespace, pod.get("serviceAccountName") or pod.get("serviceAccount") or "default"))
        return wanted


def _injected(template: t.Mapping[str, t.Any]) -> bool:
    meta = template.get("metadata") or {}
    marks = {**(meta.get("annotations") or {}), **(meta.get("labels") or {})}
    return str(marks.get("sidecar.istio.io/inject", "")).lower() == "true" or "istio.io/rev" in marks


# -- what may be a secret -----------------------------------------------------------------------------------------------

# Kinds that hold whatever somebody writes into them.
_FREE = frozenset(("Secret", "ConfigMap", "EnvoyFilter", "WasmPlugin", "Deployment", "StatefulSet", "DaemonSet"))
_WORDS = re.compile(f"{NEAR}|{SURE}", re.I)


def may_hold_secret(kind: str, text: str, marked: bool | None = None) -> bool:
    """Whether the text of an object looks as if somebody wrote a secret into it. Too often yes rather than once no.

    :arg marked: what ``_yaml.marked`` said of it, if it was asked.
    """
    if kind in _FREE:
        return True
    if kind == CRD.kind:  # it describes fields, in many words, and holds no values
        return False
    if marked is False:
        return False
    low = text.lower()
    return (marked or any(word in low for word in _yaml.MARKED)) and _WORDS.search(low) is not None
