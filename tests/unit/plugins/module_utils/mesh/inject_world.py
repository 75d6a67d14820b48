# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster in memory that rolls workloads as the API's controllers do, pod by pod, and counts every call."""

from __future__ import annotations

import collections
import copy
import functools
import json
import math
import threading
import typing as t
from pathlib import Path

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._mirror import ConfigMapMirror
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._inject_run import World, read_options, run
from tests.unit.plugins.module_utils.traffic.stairs_world import FakeClock

Object = dict[str, t.Any]
LABEL = "sidecar.asm.aliyun.com/inject"
OPTIONS: Object = {
    "migration": "shop",
    "state": "moved",
    "namespaces": [],
    "label_selector": None,
    "labels": {LABEL: "true", "istio.io/rev": None},
    "annotations": {},
    "target_proxy": {},
    "waves": [1, "100%"],
    "undo_waves": [],
    "opt_out": {LABEL: "false"},
    "concurrency": 25,
    "hold": 5.0,
    "max_hold": None,
    "on_fail": "previous",
    "restore_failed": True,
    "baseline_timeout": 30.0,
    "soak": 0.0,
    "max_pause": 600.0,
    "proof": "pods",
    "proof_sample": 0,
    "proof_timeout": 10.0,
    "trust": "none",
    "trust_sample": 10,
    "wait_timeout": 60.0,
    "gates": [],
    "allow_without_gates": True,
}


class Killed(BaseException):
    """kill -9: nothing in the code may catch it."""


_C = t.TypeVar("_C", bound=t.Callable[..., t.Any])


def whole(call: _C) -> _C:
    """One call is carried out at a time, as an API server's storage does it: whoever reads sees no half of another's write."""

    @functools.wraps(call)
    def locked(api: Api, *args: t.Any, **more: t.Any) -> t.Any:
        with api.lock:
            return call(api, *args, **more)

    return t.cast(_C, locked)


def proxy(new: bool, *, router: bool = False, agent: bool = False, network: str = "") -> Object:
    env = [{"name": "ASM_ID", "value": "c0asm"}] if new else []
    if agent and not new:
        env = [{"name": "PROXY_CONFIG_XDS_AGENT", "value": "true"}]
    if network:
        env.append({"name": "ISTIO_META_NETWORK", "value": network})
    kind = "router" if router else "sidecar"
    return {"name": "istio-proxy", "image": "proxyv2:asm" if new else "proxyv2:istio", "env": env, "args": ["proxy", kind]}


class Api:
    """What the logic asks of _k8s._client.Cluster. Each LIST of a kind of workload lets time pass for its rollouts."""

    def __init__(self) -> None:
        self.name = "source"
        self.lock = threading.RLock()
        self.items: dict[tuple[str, str, str], Object] = {}
        self.calls: collections.Counter[str] = collections.Counter()
        self.lowest: dict[tuple[str, str, str], int] = {}
        self.broken: set[str] = set()
        self.refuse: dict[str, MigrationError] = {}
        self.until: float | None = None  # as Cluster's
        self.on_call: t.Callable[[str], None] = lambda _what: None
        self.injects = True
        self.takes_all = False  # the target injects every pod that does not opt out
        self.source_injects = True
        self.prepared = False  # Istio's new sidecars take the trust of two meshes
        self.networks = {False: "", True: ""}  # that new sidecars of the source and of the target are told
        self.wrong: set[str] = set()
        self._numbers = 0
        self.namespace("shop")

    # -- what is in it --

    def add(self, item: Object) -> Object:
        meta = item["metadata"]
        meta.setdefault("uid", f"uid-{len(self.items)}")
        self.items[item["kind"], meta.get("namespace", ""), meta["name"]] = item
        return item

    def namespace(self, name: str, **labels: str) -> None:
        self.add({"kind": "Namespace", "metadata": {"name": name, "labels": {"istio-injection": "enabled", **labels}}})

    def workload(
        self,
        name: str,
        kind: str = "Deployment",
        namespace: str = "shop",
        replicas: int = 2,
        *,
        labels: Object | None = None,
        template: Object | None = None,
        strategy: Object | None = None,
        **spec: t.Any,
    ) -> Object:
        own = {"app": name}
        item: Object = {
            "kind": kind,
            "metadata": {"name": name, "namespace": namespace, "labels": {**own, **(labels or {})}, "generation": 1},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": own},
                "template": {"metadata": {"labels": {**own, **(template or {})}}, "spec": {}},
                **spec,
            },
            "status": {"observedGeneration": 1},
        }
        if kind == "Deployment":
            item["spec"]["strategy"] = strategy or {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"},
            }
        elif strategy:
            item["spec"]["updateStrategy"] = strategy
        self.add(item)
        for _number in range(replicas):
            self._pod(item, ready=True)
        self._status(item)
        return item

    def budget(self, name: str, app: str, allowed: int, namespace: str = "shop") -> Object:
        spec = {"selector": {"matchLabels": {"app": app}}}
        return self.add(
            {
                "kind": "PodDisruptionBudget",
                "metadata": {"name": name, "namespace": namespace},
                "spec": spec,
                "status": {"disruptionsAllowed": allowed},
            }
        )

    def pods(self, item: Object) -> list[Object]:
        uid = item["metadata"]["uid"]
        return [one for key, one in self.items.items() if key[0] == "Pod" and one["metadata"].get("of") == uid]

    def templates(self) -> dict[str, str]:
        """Every template and strategy, byte for byte."""
        return {
            "/".join(key): json.dumps({k: v for k, v in item["spec"].items() if k != "replicas"}, sort_keys=True)
            for key, item in self.items.items()
            if key[0] in ("Deployment", "StatefulSet", "DaemonSet")
        }

    def moved(self) -> set[str]:
        return {
            key[2]
            for key, item in self.items.items()
            if key[0] in ("Deployment", "StatefulSet", "DaemonSet")
            and self.pods(item)
            and all(self._has(one, "ASM_ID") for one in self.pods(item))
        }

    def old_trust(self) -> set[str]:
        """Workloads with a pod whose sidecar knows one trust only."""
        names = {"ASM_ID", "PROXY_CONFIG_XDS_AGENT"}
        return {
            one["metadata"]["name"].rpartition("-")[0]
            for key, one in self.items.items()
            if key[0] == "Pod" and not any(self._has(one, name) for name in names)
        }

    @staticmethod
    def _has(pod: Object, name: str) -> bool:
        return any(item["name"] == name for item in pod["spec"]["containers"][0]["env"])

    # -- controllers --

    def _digest(self, item: Object) -> str:
        labels = item["spec"]["template"]["metadata"].get("labels") or {}
        notes = item["spec"]["template"]["metadata"].get("annotations") or {}
        return str(abs(hash(json.dumps([labels, notes], sort_keys=True))) % 10**8)

    def _pod(self, item: Object, *, ready: bool) -> None:
        self._numbers += 1
        meta, kind = item["metadata"], item["kind"]
        labels = dict(item["spec"]["template"]["metadata"].get("labels") or {})
        digest = self._digest(item)
        owner = {"kind": kind, "name": meta["name"], "controller": True}
        if kind == "Deployment":
            labels["pod-template-hash"] = digest
            owner = {"kind": "ReplicaSet", "name": f"{meta['name']}-{digest}", "controller": True}
        new = self._new(labels) and meta["name"] not in self.wrong
        status: Object = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}
        if not ready:
            status["containerStatuses"] = [{"name": "app", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no"}}}]
        self.add(
            {
                "kind": "Pod",
                "metadata": {
                    "name": f"{meta['name']}-{self._numbers}",
                    "namespace": meta["namespace"],
                    "labels": {**labels, "controller-revision-hash": digest},
                    "ownerReferences": [owner],
                    "of": meta["uid"],
                    "digest": digest,
                },
                "spec": {"containers": [proxy(new, agent=self.prepared, network=self.networks[new])]},
                "status": status,
            }
        )

    def _new(self, labels: Object) -> bool:
        return labels.get(LABEL) == "true" or (self.takes_all and labels.get(LABEL) != "false")

    def _drop(self, pod: Object) -> None:
        del self.items["Pod", pod["metadata"]["namespace"], pod["metadata"]["name"]]

    def _roll(self, item: Object) -> None:
        """One round of a controller: at most what maxSurge and maxUnavailable allow."""
        digest, meta, spec = self._digest(item), item["metadata"], item["spec"]
        item["status"]["observedGeneration"] = meta["generation"]
        broken = meta["name"] in self.broken and spec["template"]["metadata"]["labels"].get(LABEL) == "true"
        rolling = (spec.get("strategy") or {}).get("rollingUpdate") or {}
        wanted = spec["replicas"]
        surge = _part(rolling.get("maxSurge", 0), wanted, True)
        away = _part(rolling.get("maxUnavailable", 1), wanted, False)
        if surge == 0 and away == 0:
            away = 1
        pods = self.pods(item)
        fresh = [one for one in pods if one["metadata"]["digest"] == digest]
        old = [one for one in pods if one["metadata"]["digest"] != digest]
        for one in [one for one in old if not _ready(one)]:
            if item["kind"] == "Deployment":
                self._drop(one)
                old.remove(one)
        for _number in range(min(wanted - len(fresh), wanted + surge - len(fresh) - len(old))):
            self._pod(item, ready=not broken)
        ready = sum(map(_ready, self.pods(item)))
        blocked = item["kind"] != "Deployment" and any(not _ready(one) for one in self.pods(item))
        for one in old[: 0 if blocked else max(0, ready - (wanted - away))]:
            self._drop(one)
        self.lowest[item["kind"], meta["namespace"], meta["name"]] = min(
            self.lowest.get((item["kind"], meta["namespace"], meta["name"]), wanted), sum(map(_ready, self.pods(item)))
        )
        self._status(item)

    def _status(self, item: Object) -> None:
        pods = self.pods(item)
        fresh = sum(1 for one in pods if one["metadata"]["digest"] == self._digest(item))
        ready = sum(map(_ready, pods))
        status = item["status"]
        if item["kind"] == "DaemonSet":
            status.update(
                desiredNumberScheduled=item["spec"]["replicas"],
                updatedNumberScheduled=fresh,
                numberReady=ready,
                numberAvailable=ready,
            )
            return
        status.update(replicas=len(pods), updatedReplicas=fresh, readyReplicas=ready, availableReplicas=ready)
        if item["kind"] == "StatefulSet":
            settled = fresh == len(pods)
            status.update(updateRevision=self._digest(item), currentRevision=self._digest(item) if settled else "old")

    # -- the client --

    def _called(self, what: str) -> None:
        self.calls[what] += 1
        self.on_call(what)

    def where(self, *_args: t.Any) -> str:
        return "source"

    @whole
    def list_all(self, kind: Kind, namespace: str = "", **_more: str) -> t.Iterator[Object]:
        self._called(f"list {kind.kind}")
        if kind.kind in ("Deployment", "StatefulSet", "DaemonSet"):
            for item in [one for key, one in list(self.items.items()) if key[0] == kind.kind]:
                self._roll(item)
        found = [one for key, one in self.items.items() if key[0] == kind.kind and namespace in ("", key[1])]
        return iter(copy.deepcopy(found))

    @whole
    def get(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        self._called(f"get {kind.kind}")
        return copy.deepcopy(self.items.get((kind.kind, namespace, name)))

    @whole
    def create(self, kind: Kind, body: Object, *, dry_run: bool = False, **_more: t.Any) -> Object:
        self._called(f"{'rehearse' if dry_run else 'create'} {kind.kind}")
        if dry_run:
            new = self._new(body["metadata"]["labels"]) and self.injects
            made = proxy(new, agent=self.prepared, network=self.networks[new])
            containers = [made] if new or self.source_injects else []
            return {**copy.deepcopy(body), "spec": {"containers": containers}}
        made = copy.deepcopy(body)
        made["metadata"].setdefault("resourceVersion", "1")
        return self.add(made)

    @whole
    def delete(self, kind: Kind, name: str, namespace: str = "", *, uid: str = "") -> None:
        self._called(f"delete {kind.kind}")
        item = self.items[kind.kind, namespace, name]
        assert uid == item["metadata"]["uid"]
        assert not _ready(item), "a ready pod was deleted"
        del self.items[kind.kind, namespace, name]

    @whole
    def patch(self, kind: Kind, name: str, namespace: str, body: Object, **_more: t.Any) -> Object:
        self._called(f"patch {kind.kind}")
        if name in self.refuse:
            raise self.refuse[name]
        item = self.items[kind.kind, namespace, name]
        before = json.dumps(item.get("spec"), sort_keys=True)
        assert (body.get("metadata") or {}).get("uid", item["metadata"].get("uid")) == item["metadata"].get("uid")
        _merge(item, copy.deepcopy(body))
        if kind.kind not in ("ConfigMap", "Lease") and json.dumps(item["spec"], sort_keys=True) != before:
            item["metadata"]["generation"] += 1
        return copy.deepcopy(item)


def _merge(into: Object, patch: Object) -> None:
    for key, value in patch.items():
        if value is None:
            into.pop(key, None)
        elif isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value
    for key in [key for key, value in into.items() if value == {} and key in ("annotations",)]:
        del into[key]


def _part(value: t.Any, of: int, up: bool) -> int:
    if str(value).endswith("%"):
        part = int(str(value)[:-1]) * of / 100
        return math.ceil(part) if up else math.floor(part)
    return int(value)


def _ready(pod: Object) -> bool:
    return any(item["type"] == "Ready" and item["status"] == "True" for item in pod["status"]["conditions"])


def shop() -> Api:
    """Three Deployments, one of them with a revision of Istio's, one of a single pod, a StatefulSet and a DaemonSet."""
    made = Api()
    for name in ("a", "b", "c"):
        made.workload(name, template={"istio.io/rev": "default"} if name == "b" else None)
    made.workload("one", replicas=1)
    made.workload("data", "StatefulSet", replicas=3)
    made.workload("node", "DaemonSet", replicas=2)
    return made


def inject(api: Api, folder: Path, *, check: bool = False, **options: t.Any) -> Outcome:
    """The module, with time of the test's making."""
    given = {**OPTIONS, **options}
    mirror = ConfigMapMirror(t.cast(t.Any, api), "shop")
    journal = Journal(str(folder), "shop", mirror=mirror, enabled=not check)
    return run(read_options(given), World(t.cast(t.Any, api), journal, FakeClock()), check)
