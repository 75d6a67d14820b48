# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Kubernetes side: which changes start a reconcile, and what a reconcile writes to the Service."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from lab.ccm import backends, names
from lab.ccm.backends import Endpoint
from lab.ccm.clb import Config, LoadBalancer
from lab.ccm.cloud import Cloud
from lab.ccm.names import CcmError, Object
from lab.ccm.sync import Event, Syncer, SyncError
from lab.kube import Api, Controller, KubeError, Recorder, Watch, exponential, key_of, path_of

log = logging.getLogger("lab.ccm")
WORKERS = 3
_SERVICE_NAME = "kubernetes.io/service-name"


_GROWING = exponential(5.0, 300.0)


def _pause(failures: int, error: Exception) -> float:
    """5, 10, 20 ... 300 s; always 5 s after a throttled call."""
    return 5.0 if "throttling" in str(error).lower() else _GROWING(failures, error)


class ServiceController:
    """start() / stop(). Retries as _pause says; a change of the Service tries again at once."""

    def __init__(self, api: Api, cloud: Cloud, config: Config) -> None:
        self._api = api
        self._config = config
        self._syncer = Syncer(cloud, config, self)
        self._recorder = Recorder(api, "service-controller")
        self._services = Watch(api, "/api/v1/services", self._service_keys)
        self._nodes = Watch(api, "/api/v1/nodes", self._node_keys)
        if config.quirks.endpoint_slices:
            self._endpoints = Watch(api, "/apis/discovery.k8s.io/v1/endpointslices", self._slice_keys)
        else:
            self._endpoints = Watch(api, "/api/v1/endpoints", self._endpoint_keys)
        self._controller = Controller(
            [self._services, self._nodes, self._endpoints],
            self.reconcile,
            backoff=_pause,
            workers=WORKERS,
            name="service-controller",
        )

    def start(self) -> None:
        self._controller.start()

    def synced(self, timeout: float) -> bool:
        return self._controller.synced(timeout)

    def stop(self) -> None:
        self._controller.stop()
        self._recorder.close()

    # --- what the syncer reads ----------------------------------------------------------------------------------------------

    def nodes(self) -> list[Object]:
        cache = dict(self._nodes.cache)
        return [cache[name] for name in sorted(cache)]

    def endpoints(self, svc: Object, port: Object) -> list[Endpoint]:
        meta = svc["metadata"]
        if not self._config.quirks.endpoint_slices:
            return backends.from_endpoints(self._endpoints.cache.get(key_of(svc)), port)
        cache = dict(self._endpoints.cache)
        mine = [
            cache[key]
            for key in sorted(cache)
            if cache[key]["metadata"].get("namespace") == meta["namespace"]
            and (cache[key]["metadata"].get("labels") or {}).get(_SERVICE_NAME) == meta["name"]
        ]
        return backends.from_slices(mine, port)

    # --- what starts a reconcile --------------------------------------------------------------------------------------------

    def _service_keys(self, event: str, old: Object | None, new: Object | None) -> Iterable[str]:
        if new is None:
            return []  # the finalizer made a change of the deletion
        if old is None:
            finalizers = new["metadata"].get("finalizers") or []
            return [key_of(new)] if names.wants_clb(new) or names.FINALIZER in finalizers else []
        change = _change(old, new)
        if change is None:
            return []
        if change[0]:
            self._recorder.emit(new, "Normal", *change)
        return [key_of(new)]

    def _node_keys(self, event: str, old: Object | None, new: Object | None) -> Iterable[str]:
        """Creation, removal, readiness, schedulability and labels of a node concern every Service. A new taint or providerID
        alone does not: it is seen with the next change."""
        some = [node for node in (old, new) if node is not None]
        if all(backends.is_excluded(node) or backends.is_master(node) for node in some):
            return []
        if old is not None and new is not None and event != "DELETED" and not _node_changed(old, new):
            return []
        eni = self._config.quirks.nodes_touch_eni
        return [
            key for key, svc in list(self._services.cache.items()) if names.wants_clb(svc) and (eni or not names.eni_mode(svc))
        ]

    def _slice_keys(self, event: str, old: Object | None, new: Object | None) -> Iterable[str]:
        some = new or old or {}
        name = (some["metadata"].get("labels") or {}).get(_SERVICE_NAME)
        same = old is not None and new is not None and all(old.get(part) == new.get(part) for part in ("endpoints", "ports"))
        if not name or same:
            return []
        return self._if_clb(f"{some['metadata']['namespace']}/{name}")

    def _endpoint_keys(self, event: str, old: Object | None, new: Object | None) -> Iterable[str]:
        if old is not None and new is not None and old.get("subsets") == new.get("subsets"):
            return []
        return self._if_clb(key_of(new or old or {}))

    def _if_clb(self, key: str) -> list[str]:
        svc = self._services.cache.get(key)
        return [key] if svc is not None and names.wants_clb(svc) else []

    # --- a reconcile --------------------------------------------------------------------------------------------------------

    def reconcile(self, key: str) -> None:
        svc = self._services.cache.get(key)
        if svc is None:
            return
        started = time.monotonic()

        def event(kind: str, reason: str, message: str) -> None:
            self._recorder.emit(svc, kind, reason, message)

        if names.leaving(svc) or not names.wants_clb(svc):
            self._clean(svc, event)
        else:
            self._ensure(svc, event)
        log.info("%s: reconciled in %.0f ms", key, 1000 * (time.monotonic() - started))

    def _ensure(self, svc: Object, event: Event) -> None:
        self._write(event, "FailedAddFinalizer", "Error adding finalizer", lambda: self._add_finalizer(svc))
        try:
            done = self._syncer.sync(svc, event)
        except SyncError as error:
            text = names.event_text(str(error))
            event("Warning", "SyncLoadBalancerFailed", f"Error syncing load balancer [{error.lb_id}]: {text}")
            raise
        lb = done.lb
        if lb is None:
            raise CcmError("lb not found, cannot not patch service status")
        self._write(event, "FailedAddHash", "Error adding service hash", lambda: self._label(svc, lb.id))
        self._write(event, "FailedUpdateStatus", "Error updating load balancer status", lambda: self._status(svc, lb))
        if any(group.unknown for group in done.groups):
            raise CcmError("has invalid backend in vservergroups")
        event("Normal", "EnsuredLoadBalancer", f"Ensured load balancer [{lb.id}]")

    def _clean(self, svc: Object, event: Event) -> None:
        if names.FINALIZER in (svc["metadata"].get("finalizers") or []):
            try:
                self._syncer.sync(svc, event)
            except SyncError as error:
                if "LoadBalancerId does not exist" not in str(error):  # a load balancer that is gone leaves nothing to clean
                    text = names.event_text(str(error))
                    event("Warning", "CleanLoadBalancerFailed", f"Error deleting load balancer [{error.lb_id}]: {text}")
                    raise
            self._write(event, "FailedRemoveHash", "Error removing service hash", lambda: self._label(svc, None))
            self._write(event, "FailedUpdateStatus", "Error removing load balancer status", lambda: self._status(svc, None))
            said = "Error removing load balancer finalizer"
            self._write(event, "FailedRemoveFinalizer", said, lambda: self._remove_finalizer(svc))
        event("Normal", "CleanLoadBalancer", "Clean load balancer")

    # --- writes to the Service ----------------------------------------------------------------------------------------------

    @staticmethod
    def _write(event: Event, reason: str, text: str, write: Callable[[], None]) -> None:
        try:
            write()
        except KubeError as error:
            event("Warning", reason, f"{text}: {error}")
            raise

    def _path(self, svc: Object, sub: str | None = None) -> str:
        meta = svc["metadata"]
        return path_of("v1", "services", meta["namespace"], meta["name"], sub)

    def _finalizers(self, svc: Object, edit: Callable[[list[str]], list[str]]) -> None:
        """Under the resourceVersion it was read with: another controller's finalizer is never lost."""
        if edit(list(svc["metadata"].get("finalizers") or [])) == list(svc["metadata"].get("finalizers") or []):
            return
        for last in (False, False, True):
            now = self._api.find(self._path(svc))
            if now is None or now["metadata"].get("uid") != svc["metadata"].get("uid"):
                return
            wanted = edit(list(now["metadata"].get("finalizers") or []))
            meta = {"finalizers": wanted, "resourceVersion": now["metadata"]["resourceVersion"]}
            try:
                self._api.patch(self._path(svc), {"metadata": meta})
                return
            except KubeError as error:
                if error.status == 404:
                    return
                if error.status != 409 or last:
                    raise

    def _add_finalizer(self, svc: Object) -> None:
        self._finalizers(svc, lambda there: there if names.FINALIZER in there else [*there, names.FINALIZER])

    def _remove_finalizer(self, svc: Object) -> None:
        self._finalizers(svc, lambda there: [item for item in there if item != names.FINALIZER])

    def _label(self, svc: Object, lb_id: str | None) -> None:
        """Hash and load balancer id as labels; None takes both away."""
        wanted: dict[str, str | None] = {names.LABEL_HASH: None, names.LABEL_LB: None}
        if lb_id is not None:
            wanted = {names.LABEL_HASH: names.service_hash(svc, self._config.quirks), names.LABEL_LB: lb_id}
        there: dict[str, Any] = svc["metadata"].get("labels") or {}
        if any(there.get(key) != value for key, value in wanted.items()):
            self._api.patch(self._path(svc, "status"), {"metadata": {"labels": wanted}})

    def _status(self, svc: Object, lb: LoadBalancer | None) -> None:
        entries: list[Object] | None = None
        if lb is not None:
            host = names.annotation(svc, "hostname")
            entries = [{"hostname": host}] if host else [{"ip": lb.address}]
        there = ((svc.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
        if [_shown(item) for item in there] != [_shown(item) for item in entries or []]:
            self._api.patch(self._path(svc, "status"), {"status": {"loadBalancer": {"ingress": entries}}})


def _shown(entry: Object) -> tuple[str, str]:
    return str(entry.get("ip", "")), str(entry.get("hostname", ""))


def _change(old: Object, new: Object) -> tuple[str, str] | None:
    """Reason and message of the event that a change of a Service makes; None for a change that does not matter.

    ("", "") for one that matters without an event. Labels and status do not matter.
    """
    was, now = names.wants_clb(old), names.wants_clb(new)
    if not was and not now:
        return None
    if was != now:
        if (new["metadata"].get("annotations") or {}).get(names.CLASS):
            return None
        return "TypeChanged", f"type change {old['spec'].get('type')} - {new['spec'].get('type')}"
    if old["metadata"].get("uid") != new["metadata"].get("uid"):
        return "", ""
    text = "The service will be updated because the {} has been changed."
    if (old["metadata"].get("annotations") or {}) != (new["metadata"].get("annotations") or {}):
        return "AnnotationChanged", text.format("annotations")
    if old["spec"] != new["spec"]:
        return "ServiceSpecChanged", text.format("spec")
    if bool(old["metadata"].get("deletionTimestamp")) != bool(new["metadata"].get("deletionTimestamp")):
        return "DeleteTimestampChanged", text.format("delete timestamp")
    return None


def _ready(node: Object) -> str:
    conditions = (node.get("status") or {}).get("conditions") or []
    return next((str(item.get("status")) for item in conditions if item.get("type") == "Ready"), "False")


def _node_changed(old: Object, new: Object) -> bool:
    labels = (old["metadata"].get("labels") or {}) != (new["metadata"].get("labels") or {})
    cordoned = bool((old.get("spec") or {}).get("unschedulable")) != bool((new.get("spec") or {}).get("unschedulable"))
    return labels or cordoned or _ready(old) != _ready(new)
