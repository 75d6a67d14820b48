# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller: watches IstioGateways (ASM's API server) and what it made of them (ACK's), and makes both agree."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from lab.asm.render import MANAGED, NAMESPACE, OWNER, GatewayError, Mesh, Object, object_name, owner, render
from lab.kube import Api, Controller, KubeError, Watch, key_of, own_key, path_of

log = logging.getLogger("lab.asm")
GROUP = "istio.alibabacloud.com/v1beta1"
FINALIZER = "istio.alibabacloud.com/asm-gateway"
MANAGER = "asm-controller"  # field manager: fields that others own (the CCM's labels, the HPA's replicas) are left alone
PLURALS = {
    "ServiceAccount": "serviceaccounts",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "Deployment": "deployments",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
    "Service": "services",
}
API_OF = {
    "ServiceAccount": "v1",
    "Role": "rbac.authorization.k8s.io/v1",
    "RoleBinding": "rbac.authorization.k8s.io/v1",
    "Deployment": "apps/v1",
    "HorizontalPodAutoscaler": "autoscaling/v2",
    "Service": "v1",
}
RETRY = 5.0  # seconds
# The Service goes first, so that a load balancer sends nothing any more to pods that are about to end.
DELETION = ("Service", "HorizontalPodAutoscaler", "Deployment", "RoleBinding", "Role", "ServiceAccount")


def path_to(obj: Object) -> str:
    return path_of(obj["apiVersion"], PLURALS[obj["kind"]], obj["metadata"]["namespace"], obj["metadata"]["name"])


class Gateways:
    """`reconcile(key)` for IstioGateways; keys are namespace/name."""

    def __init__(self, asm: Api, ack: Api, mesh: Mesh) -> None:
        self._asm, self._ack, self._mesh = asm, ack, mesh
        self._made = "labelSelector", ",".join(f"{key}={value}" for key, value in MANAGED.items())

    def controller(self) -> Controller:
        """The controller, to be started."""
        selector = dict([self._made])
        watches = [Watch(self._asm, path_of(GROUP, "istiogateways"), own_key)]
        for kind in ("Deployment", "Service"):
            path = path_of(API_OF[kind], PLURALS[kind], NAMESPACE)
            watches.append(Watch(self._ack, path, self._keys_of_made, selector))
        return Controller(watches, self.reconcile, name="asm")

    def _keys_of_made(self, event: str, old: Object | None, new: Object | None) -> list[str]:
        mark = ((new or old or {}).get("metadata", {}).get("annotations") or {}).get(OWNER, "")
        mesh, _, key = mark.partition("/")
        return [key] if mesh == self._mesh.id else []

    def reconcile(self, key: str) -> float | None:
        namespace, name = key.split("/", 1)
        path = path_of(GROUP, "istiogateways", namespace, name)
        gateway = self._asm.find(path)
        if gateway is None:
            return None
        if gateway["metadata"].get("deletionTimestamp"):
            return self._finish(path, gateway)
        try:
            objects = self._render(gateway)
            self._claim(gateway, objects)
        except GatewayError as error:
            self._report(path, gateway, {"Status": "Failed", "ErrorMessage": str(error)})
            return RETRY  # what is in the way may go, and nobody tells us
        if FINALIZER not in (gateway["metadata"].get("finalizers") or []):
            kept = gateway["metadata"].get("finalizers") or []
            version = gateway["metadata"]["resourceVersion"]
            self._asm.patch(path, {"metadata": {"finalizers": [*kept, FINALIZER], "resourceVersion": version}})
        try:
            for obj in objects:
                self._ack.patch(path_to(obj), obj, "apply", fieldManager=MANAGER, force="true")
            self._drop(gateway, {obj["kind"] for obj in objects})
        except KubeError as error:
            if error.status not in (400, 403, 422):
                raise
            self._report(path, gateway, {"Status": "Failed", "ErrorMessage": error.message})
            return RETRY
        self._report(path, gateway, self._status(objects))
        return None

    def _render(self, gateway: Object) -> list[Object]:
        now = self._ack.find(path_of("apps/v1", "deployments", NAMESPACE, object_name(gateway)))
        return render(gateway, self._mesh, (now or {}).get("spec", {}).get("replicas"))

    def _claim(self, gateway: Object, objects: list[Object]) -> None:
        """Refuse to touch anything that somebody else made."""
        for obj in objects:
            found = self._ack.find(path_to(obj))
            if found is not None and not self._ours(found, gateway):
                message = f"{obj['kind']} {key_of(obj)} exists in the cluster and was not made for this gateway; it is left alone"
                raise GatewayError(message)

    def _ours(self, found: Object, gateway: Object) -> bool:
        mark = (found["metadata"].get("annotations") or {}).get(OWNER)
        return bool(mark == owner(gateway, self._mesh))

    def _made_by(self, gateway: Object) -> list[tuple[str, Callable[[], Any]]]:
        """Kinds that exist for this gateway, in the order of deletion, with the call that deletes each."""
        name = object_name(gateway)
        names = {"ServiceAccount": f"{name}-service-account", "Role": f"{name}-sds", "RoleBinding": f"{name}-sds"}
        answer: list[tuple[str, Callable[[], Any]]] = []
        for kind in DELETION:
            path = path_of(API_OF[kind], PLURALS[kind], NAMESPACE, names.get(kind, name))
            found = self._ack.find(path)
            if found is not None and self._ours(found, gateway):
                answer.append((kind, lambda path=path: self._ack.delete(path, propagationPolicy="Background")))  # type: ignore[misc]
        return answer

    def _drop(self, gateway: Object, wanted: set[str]) -> None:
        """Take away what an earlier spec asked for (the HPA)."""
        if "HorizontalPodAutoscaler" in wanted:
            return
        for kind, delete in self._made_by(gateway):
            if kind == "HorizontalPodAutoscaler":
                delete()

    def _finish(self, path: str, gateway: Object) -> float | None:
        finalizers = gateway["metadata"].get("finalizers") or []
        if FINALIZER not in finalizers:
            return None
        made = self._made_by(gateway)
        if made and made[0][0] == "Service":
            made[0][1]()
            return 0.2  # the CCM may have to clean up first; the watch tells when it is gone, this is for safety
        for _, delete in made:
            delete()
        rest = [one for one in finalizers if one != FINALIZER]
        version = gateway["metadata"]["resourceVersion"]
        self._asm.patch(path, {"metadata": {"finalizers": rest, "resourceVersion": version}})
        return None

    def _status(self, objects: list[Object]) -> Object:
        by_kind = {obj["kind"]: obj for obj in objects}
        deployment, service = (self._ack.find(path_to(by_kind[kind])) or {} for kind in ("Deployment", "Service"))
        wanted = deployment.get("spec", {}).get("replicas", 0)
        state = deployment.get("status", {})
        current = state.get("observedGeneration") == deployment.get("metadata", {}).get("generation")
        ready = bool(current and state.get("updatedReplicas", 0) == wanted == state.get("readyReplicas", 0))
        ingress = service.get("status", {}).get("loadBalancer", {}).get("ingress") or []
        addresses = [address for one in ingress if (address := one.get("ip") or one.get("hostname"))]
        waits = service.get("spec", {}).get("type") == "LoadBalancer" and not addresses
        return {
            "Status": "Running" if ready and not waits else "Pending",
            "GatewayAddress": addresses,
            "ClusterIdGatewayAddressMap": [{"ipAddress": one, "clusterId": self._mesh.cluster_id} for one in addresses],
        }

    def _report(self, path: str, gateway: Object, status: Object) -> None:
        """Write the status when it changed."""
        if gateway.get("status") == status:
            return
        log.info("%s: %s %s", key_of(gateway), status["Status"], status.get("ErrorMessage", ""))
        gone = dict.fromkeys(set(gateway.get("status") or {}) - set(status))
        self._asm.patch(f"{path}/status", {"status": {**gone, **status}})
