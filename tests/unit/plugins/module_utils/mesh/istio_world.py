# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An installed Istio and an ASM beside it, as plain objects; labels and names as istioctl 1.31 writes them."""

from __future__ import annotations

import copy
import json
from typing import Any

from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar import Proxies
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._uninstall import Inventory

Object = dict[str, Any]
SYSTEM = "istio-system"
RBAC, HOOKS = "rbac.authorization.k8s.io/v1", "admissionregistration.k8s.io/v1"
PROXY = {"istio": "istiod.istio-system.svc:15012", "asm": "istiod-1-31-0.istio-system.svc:15012"}
_API = {
    "Deployment": "apps/v1",
    "DaemonSet": "apps/v1",
    "HorizontalPodAutoscaler": "autoscaling/v2",
    "PodDisruptionBudget": "policy/v1",
    **dict.fromkeys(("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"), RBAC),
    **dict.fromkeys(("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"), HOOKS),
}


def obj(kind: str, name: str, namespace: str = SYSTEM, /, labels: Object | None = None, **body: Any) -> Object:
    meta: Object = {"name": name, "uid": f"uid-{kind}-{namespace}-{name}", "resourceVersion": "1", "labels": labels or {}}
    meta.update({"namespace": namespace} if namespace else {})
    meta["annotations"] = body.pop("annotations", {})
    return {"apiVersion": _API.get(kind, "v1"), "kind": kind, "metadata": meta, **body}


def of(component: str, revision: str = "default", **more: str) -> Object:
    """Labels as istioctl puts them on."""
    owner = "install.operator.istio.io/owning-resource"
    return {"operator.istio.io/component": component, owner: "source", "istio.io/rev": revision, "release": "istio", **more}


def container(mesh: str, router: bool = False) -> Object:
    env = [{"name": "PROXY_CONFIG", "value": json.dumps({"discoveryAddress": PROXY[mesh]})}]
    env += [{"name": "ASM_ID", "value": "c1"}] if mesh == "asm" else []
    return {"name": "istio-proxy", "image": f"{mesh}/proxyv2", "args": ["proxy", "router" if router else "sidecar"], "env": env}


def pod(name: str, namespace: str, *containers: Object, labels: Object | None = None, **spec: Any) -> Object:
    found = obj("Pod", name, namespace, labels=labels, spec={"containers": list(containers), **spec})
    found["status"] = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    return found


def workload(kind: str, name: str, labels: Object, template: Object, *containers: Object, **spec: Any) -> Object:
    body = {"metadata": {"labels": template}, "spec": {"containers": list(containers), **spec}}
    return obj(kind, name, labels=labels, spec={"replicas": 1, "selector": {"matchLabels": template}, "template": body})


def hook(name: str, service: str = "istiod", namespaces: Object | None = None, objects: Object | None = None) -> Object:
    return {
        "name": name,
        "clientConfig": {"service": {"name": service, "namespace": SYSTEM}, "caBundle": "Q0E="},
        "namespaceSelector": namespaces or {},
        "objectSelector": objects or {},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
    }


def binding(kind: str, name: str, role: str, account: str, labels: Object) -> Object:
    namespace = SYSTEM if kind == "RoleBinding" else ""
    subject = {"kind": "ServiceAccount", "name": account, "namespace": SYSTEM}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind.removesuffix("Binding"), "name": role}
    return obj(kind, name, namespace, labels=labels, subjects=[subject], roleRef=reference)


def istio() -> list[Object]:
    """What istioctl installs, with an ingress and an egress gateway; the ingress gateway is retired."""
    pilot, ingress, egress = of("Pilot", app="istiod"), of("IngressGateways"), of("EgressGateways")
    enabled = {"matchLabels": {"istio-injection": "enabled"}}
    pods = {"app": "istio-egressgateway", "istio": "egressgateway"}
    return [
        obj(
            "MutatingWebhookConfiguration", "istio-sidecar-injector", "", labels=pilot, webhooks=[hook("one", namespaces=enabled)]
        ),
        obj("ValidatingWebhookConfiguration", "istio-validator-istio-system", "", labels=pilot, webhooks=[hook("rev")]),
        workload(
            "Deployment",
            "istiod",
            pilot,
            {"app": "istiod"},
            {"name": "discovery", "image": "pilot:1.31"},
            serviceAccountName="istiod",
        ),
        obj("Service", "istiod", labels=pilot, spec={"type": "ClusterIP", "selector": {"app": "istiod"}}),
        obj("ConfigMap", "istio", labels=of("Pilot"), data={"mesh": "{}"}),
        obj("ConfigMap", "istio-sidecar-injector", labels=of("Pilot"), data={"config": "{}"}),
        obj("ServiceAccount", "istiod", labels=pilot),
        obj("Role", "istiod", labels=pilot),
        binding("RoleBinding", "istiod", "istiod", "istiod", pilot),
        obj("ClusterRole", "istiod-clusterrole-istio-system", "", labels=pilot),
        binding("ClusterRoleBinding", "istiod-clusterrole-istio-system", "istiod-clusterrole-istio-system", "istiod", pilot),
        obj("ClusterRole", "istio-reader-clusterrole-istio-system", "", labels=of("Pilot", app="istio-reader")),
        binding(
            "ClusterRoleBinding",
            "istio-reader-clusterrole-istio-system",
            "istio-reader-clusterrole-istio-system",
            "istio-reader-service-account",
            of("Pilot", app="istio-reader"),
        ),
        obj("ServiceAccount", "istio-reader-service-account", labels=of("Base", app="istio-reader")),
        obj("ServiceAccount", "istio-ingressgateway-service-account", labels=ingress),
        obj("Role", "istio-ingressgateway-sds", labels=ingress),
        binding(
            "RoleBinding", "istio-ingressgateway-sds", "istio-ingressgateway-sds", "istio-ingressgateway-service-account", ingress
        ),
        workload("Deployment", "istio-egressgateway", egress, pods, container("istio", router=True), serviceAccountName="egress"),
        obj("Service", "istio-egressgateway", labels=egress, spec={"type": "ClusterIP", "selector": pods}),
        obj(
            "HorizontalPodAutoscaler",
            "istio-egressgateway",
            labels=egress,
            spec={"scaleTargetRef": {"kind": "Deployment", "name": "istio-egressgateway"}},
        ),
        obj("PodDisruptionBudget", "istio-egressgateway", labels=egress, spec={"selector": {"matchLabels": pods}}),
    ]


def asm() -> list[Object]:
    """ASM's objects in the same namespace. Its gateway was rendered by Istio's own chart, and says so."""
    labels = {"app": "istio-ingressgateway-asm", "istio": "ingressgateway-asm"}
    like_istio = of("IngressGateways", **labels)
    return [
        obj("Service", "istiod-1-31-0", labels={"app": "istiod", "provider": "asm"}, spec={"type": "ClusterIP"}),
        workload(
            "Deployment",
            "istio-ingressgateway-asm",
            like_istio,
            labels,
            container("asm", router=True),
            serviceAccountName="asm-gw",
        ),
        obj("Service", "istio-ingressgateway-asm", labels=like_istio, spec={"type": "LoadBalancer", "selector": labels}),
        obj("ServiceAccount", "istio-ingressgateway-asm-service-account", labels=like_istio),
    ]


def shared() -> list[Object]:
    """What lies about."""
    return [
        obj("ConfigMap", "istio-ca-root-cert", data={"root-cert.pem": "x"}),
        obj("ConfigMap", "kube-root-ca.crt", data={}),
        obj(
            "ConfigMap",
            "servicemesh-migration-shop",
            labels={"servicemesh.migration/journal": "true"},
            data={"a": "istiod.istio-system.svc"},
        ),
        obj("ServiceAccount", "default"),
        obj("ConfigMap", "grafana", data={}),
    ]


def pods() -> list[Object]:
    """Everything is moved: istiod, the idle egress gateway, ASM's gateway and an application with ASM's sidecar."""
    return [
        pod("istiod-1", SYSTEM, {"name": "discovery"}, labels={"app": "istiod"}, serviceAccountName="istiod"),
        pod(
            "egress-1",
            SYSTEM,
            container("istio", True),
            labels={"app": "istio-egressgateway", "istio": "egressgateway"},
            serviceAccountName="egress",
        ),
        pod(
            "asm-1",
            SYSTEM,
            container("asm", True),
            labels={"app": "istio-ingressgateway-asm", "istio": "ingressgateway-asm"},
            serviceAccountName="asm-gw",
        ),
        pod("shop-1", "shop", {"name": "app"}, container("asm"), labels={"app": "shop"}),
    ]


def inventory(*more: Object, **fields: Any) -> Inventory:
    """``fields``: of Inventory; ``extra_pods``: pods besides those of ``pods``."""
    extra = fields.pop("extra_pods", [])
    objects = {
        (item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]): item
        for item in [*istio(), *asm(), *shared(), *more]
    }
    defaults: Object = {"gateways": ["ingressgateway-asm"], "proxies": Proxies()}
    return Inventory(SYSTEM, copy.deepcopy(list(objects.values())), [*pods(), *extra], **{**defaults, **fields})
