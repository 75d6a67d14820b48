# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""An IstioGateway with the shape of a running Istio gateway. Pure functions of plain objects.

Fields of IstioGateway: aliyun/alibabacloud-servicemesh-api, istiogateway_types.go. What has no field there is said in the notes.
"""

from __future__ import annotations

import copy
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _ccm

Object = dict[str, t.Any]

# The annotations that keep the listeners and the traffic where they are. Nobody may override them.
SAFETY = (_ccm.ID, _ccm.VGROUP_PORT, _ccm.WEIGHT, _ccm.OVERRIDE)
# Annotations of the source that decide which backends join a vServer group; both gateways must agree on them.
_BACKEND_ANNOTATIONS = ("backend-label", "remove-unscheduled-backend", "network-type", "resource-group-id")

# What Istio's installers put on their own objects; the ASM controller puts its own.
_INSTALLER_PREFIXES = (
    "install.operator.istio.io/",
    "operator.istio.io/",
    "service.istio.io/",
    "istio.io/",
    "sidecar.istio.io/",
    "inject.istio.io/",
    "topology.istio.io/",
    "helm.sh/",
    "meta.helm.sh/",
    "app.kubernetes.io/",
    "argocd.argoproj.io/",
    "kustomize.toolkit.fluxcd.io/",
    "helm.toolkit.fluxcd.io/",
    "kubectl.kubernetes.io/",
    "deployment.kubernetes.io/",
    "service.beta.kubernetes.io/",
    "service.k8s.alibaba/",
    "servicemesh.migration/",
    "prometheus.io/",
)
_INSTALLER_KEYS = frozenset({"app", "istio", "release", "chart", "heritage", "pod-template-hash"})

# Environment that the installer or the injection sets, and that must be the target mesh's own.
_INSTALLER_ENV = frozenset(
    {
        "PILOT_CERT_PROVIDER",
        "CA_ADDR",
        "JWT_POLICY",
        "PROXY_CONFIG",
        "NODE_NAME",
        "POD_NAME",
        "POD_NAMESPACE",
        "INSTANCE_IP",
        "HOST_IP",
        "SERVICE_ACCOUNT",
        "TRUST_DOMAIN",
        "GOMEMLIMIT",
        "GOMAXPROCS",
        "MESH_CONFIG",
        "CLUSTER_ID",
        "XDS_AUTH_PROVIDER",
        "XDS_ROOT_CA",
        "CA_ROOT_CA",
        "CLOUD_PLATFORM",
        "CANONICAL_SERVICE",
        "CANONICAL_REVISION",
        "ISTIO_KUBE_APP_PROBERS",
        "ISTIO_CPU_LIMIT",
        "ISTIO_BOOTSTRAP_OVERRIDE",
        "PROXY_XDS_VIA_AGENT",
        "PROXY_CONFIG_XDS_AGENT",
    }
)
_DEFAULT_VOLUMES = frozenset({"istio-ingressgateway-certs", "istio-ingressgateway-ca-certs"})


def gateway_container(deployment: Object) -> Object:
    """The proxy's container: istio-proxy, else the first."""
    containers: list[Object] = deployment["spec"]["template"]["spec"].get("containers") or []
    for container in containers:
        if container.get("name") == "istio-proxy":
            return container
    return containers[0] if containers else {}


def ports(service: Object, deployment: Object) -> list[Object]:
    """The Service's ports with targetPort as a number, without nodePort: port and targetPort must equal the source's."""
    named = {
        port["name"]: port["containerPort"]
        for container in deployment["spec"]["template"]["spec"].get("containers") or []
        for port in container.get("ports") or []
        if port.get("name")
    }
    found: list[Object] = []
    for port in service["spec"].get("ports") or []:
        target = port.get("targetPort", port["port"])
        if isinstance(target, str) and not target.isdigit():
            if target not in named:
                raise InputError(
                    f"The port {port['port']} of the source Service points to a name that no container has",
                    where=f"source/{service['metadata']['namespace']}/Service/{service['metadata']['name']}",
                    why=f"targetPort {target!r}; the containers name {', '.join(sorted(named)) or 'none'}",
                    todo="give the Service a targetPort with a number",
                )
            target = named[target]
        item: Object = {"name": port.get("name") or f"port-{port['port']}", "port": port["port"], "targetPort": int(target)}
        item["protocol"] = port.get("protocol", "TCP")
        found.append(item)
    return found


def own_meta(values: t.Mapping[str, str] | None) -> dict[str, str]:
    """Labels or annotations that the user put there, without those of installers, GitOps tools and the CCM."""
    return {
        key: value
        for key, value in (values or {}).items()
        if key not in _INSTALLER_KEYS and not key.startswith(_INSTALLER_PREFIXES)
    }


def reuse_annotations(service: Object, predicted: t.Mapping[str, str] | None = None) -> dict[str, str]:
    """The annotations of the target's Service: same load balancer and groups, weight 0, listeners left alone.

    vgroup-port without spaces: newer CCMs silently drop every port after a ", ". ``predicted`` stands in for
    annotations that the source does not have yet (check mode).
    """
    given, notes = predicted or {}, _ccm.annotations_of(service)
    found = {
        _ccm.ID: _ccm.annotation(notes, _ccm.ID) or given.get(_ccm.ID, ""),
        _ccm.VGROUP_PORT: "".join((_ccm.annotation(notes, _ccm.VGROUP_PORT) or given.get(_ccm.VGROUP_PORT, "")).split()),
        _ccm.WEIGHT: "0",
        _ccm.OVERRIDE: "false",
    }
    if notes.get(_ccm.BACKEND_TYPE):
        found[_ccm.BACKEND_TYPE] = notes[_ccm.BACKEND_TYPE]
    for name in _BACKEND_ANNOTATIONS:
        value = _ccm.annotation(notes, _ccm.PREFIX + name)
        if value:
            found[_ccm.PREFIX + name] = value
    return found


def renamed(value: t.Any, target: str) -> t.Any:
    """A copy of affinity rules in which label selectors of the source gateway's pods choose the target's pods."""
    if isinstance(value, dict):
        fresh = {key: renamed(item, target) for key, item in value.items()}
        labels = fresh.get("matchLabels")
        if isinstance(labels, dict):
            for key, wanted in (("istio", target), ("app", f"istio-{target}")):
                if key in labels:
                    labels[key] = wanted
        if fresh.get("key") in ("istio", "app") and fresh.get("operator") == "In" and "values" in fresh:
            fresh["values"] = [target if fresh["key"] == "istio" else f"istio-{target}"]
        return fresh
    if isinstance(value, list):
        return [renamed(item, target) for item in value]
    return value


def _scaling(deployment: Object, hpa: Object | None, notes: list[str]) -> Object:
    """Replicas, or the autoscaler's bounds and targets."""
    if hpa is None:
        return {"autoscaleEnabled": False, "replicaCount": int(deployment["spec"].get("replicas", 1))}
    spec = hpa["spec"]
    smallest = int(spec.get("minReplicas", 1))
    # Not the present number of pods: it moves with the load, and a second run would then see a difference.
    found: Object = {
        "autoscaleEnabled": True,
        "minReplicas": smallest,
        "maxReplicas": int(spec["maxReplicas"]),
        "replicaCount": smallest,
    }
    for metric in spec.get("metrics") or []:
        resource = metric.get("resource") or {}
        percent = (resource.get("target") or {}).get("averageUtilization")
        if resource.get("name") in ("cpu", "memory") and percent is not None:
            found[resource["name"]] = {"targetAverageUtilization": int(percent)}
        else:
            notes.append(f"an autoscaler's metric is not carried over ({metric.get('type')}): IstioGateway knows cpu and memory")
    if spec.get("targetCPUUtilizationPercentage") is not None:
        found["cpu"] = {"targetAverageUtilization": int(spec["targetCPUUtilizationPercentage"])}
    if spec.get("behavior"):
        notes.append("the autoscaler's behavior is not carried over: IstioGateway has no field for it")
    now = int(deployment["spec"].get("replicas", smallest))
    if now > smallest:
        notes.append(f"the source runs {now} pods now, the target starts with {smallest}: its autoscaler must follow the share")
    return found


def _volumes(pod: Object, container: Object) -> Object:
    """Secrets and ConfigMaps that the user mounts."""
    mounts = {mount["name"]: mount["mountPath"] for mount in container.get("volumeMounts") or []}
    found: Object = {}
    for volume in pod.get("volumes") or []:
        secret, config = volume.get("secret"), volume.get("configMap")
        path = mounts.get(volume["name"])
        if not path:
            continue
        if secret and secret.get("secretName") not in _DEFAULT_VOLUMES and not volume["name"].startswith("istio"):
            item = {"name": volume["name"], "secretName": secret["secretName"], "mountPath": path}
            found.setdefault("secretVolumes", []).append(item)
        elif config and not config.get("name", "").startswith("istio") and volume["name"] != "config-volume":
            item = {"name": volume["name"], "configMapName": config["name"], "mountPath": path}
            found.setdefault("configVolumes", []).append(item)
    return found


def _env(container: Object) -> list[Object]:
    return [
        copy.deepcopy(item)
        for item in container.get("env") or []
        if item["name"] not in _INSTALLER_ENV and not item["name"].startswith("ISTIO_META_")
    ]


def _rollout(deployment: Object) -> Object:
    rolling = (deployment["spec"].get("strategy") or {}).get("rollingUpdate") or {}
    names = {"maxSurge": "rollingMaxSurge", "maxUnavailable": "rollingMaxUnavailable"}
    return {names[key]: str(rolling[key]) for key in names if rolling.get(key) is not None}


def _pod(deployment: Object, target: str, notes: list[str]) -> Object:
    """What the pod template says."""
    template = deployment["spec"]["template"]
    pod, container = template["spec"], gateway_container(deployment)
    meta = template.get("metadata") or {}
    found: Object = {"resources": copy.deepcopy(container.get("resources") or {})}
    probe = container.get("readinessProbe") or {}
    found["readinessProbe"] = {
        key: probe[key] for key in ("failureThreshold", "periodSeconds", "successThreshold") if probe.get(key) is not None
    }
    found["env"] = _env(container)
    found["lifecycle"] = copy.deepcopy(container.get("lifecycle") or {})
    found["affinity"] = renamed(pod.get("affinity") or {}, target)
    found["tolerations"] = copy.deepcopy(pod.get("tolerations") or [])
    found["nodeSelector"] = dict(pod.get("nodeSelector") or {})
    found["podAnnotations"] = own_meta(meta.get("annotations"))
    found["podLabels"] = own_meta(meta.get("labels"))
    if found["podAnnotations"].pop("proxy.istio.io/config", None):
        notes.append("the pod annotation proxy.istio.io/config is not carried over: it may name the source's control plane")
    if pod.get("hostNetwork"):
        found["hostNetwork"] = True
        found["dnsPolicy"] = pod.get("dnsPolicy", "ClusterFirstWithHostNet")
    security = {**(pod.get("securityContext") or {}), **(container.get("securityContext") or {})}
    if security.get("runAsUser") == 0:
        found["runAsRoot"] = True
    kernel = {item["name"]: str(item["value"]) for item in (pod.get("securityContext") or {}).get("sysctls") or []}
    kernel.pop("net.ipv4.ip_unprivileged_port_start", None)  # every gateway image brings this one itself
    if kernel:
        found["kernel"] = {"enabled": True, "parameters": kernel}
    found.update(_volumes(pod, container))
    for field in ("topologySpreadConstraints", "priorityClassName", "terminationGracePeriodSeconds"):
        if pod.get(field) and pod[field] != 30:
            notes.append(f"the pods' {field} is not carried over: IstioGateway has no field for it")
    others = [item["name"] for item in pod.get("containers") or [] if item is not container]
    if others:
        notes.append(f"containers beside the proxy are not carried over: {', '.join(others)}")
    return {key: value for key, value in found.items() if value not in ({}, [])}


def clone(
    service: Object,
    deployment: Object,
    hpa: Object | None,
    *,
    target: str,
    cluster_id: str,
    overrides: t.Mapping[str, t.Any] | None = None,
    predicted: t.Mapping[str, str] | None = None,
) -> tuple[Object, list[str]]:
    """The spec of the IstioGateway, and what could not be carried over. ``overrides`` are merged last.

    Raises InputError when an override touches what keeps the traffic safe, or a named port cannot be resolved.
    """
    notes: list[str] = []
    check_overrides(overrides or {})
    spec: Object = {
        "gatewayType": "ingress",
        "clusterIds": [cluster_id],
        "serviceType": "LoadBalancer",
        "ports": ports(service, deployment),
        "externalTrafficPolicy": service["spec"].get("externalTrafficPolicy", "Cluster"),
    }
    if service["spec"].get("loadBalancerClass"):
        spec["loadBalancerClass"] = service["spec"]["loadBalancerClass"]
    labels = own_meta(service["metadata"].get("labels"))
    if labels:
        spec["serviceLabels"] = labels
    for field, default in (
        ("sessionAffinity", "None"),
        ("loadBalancerSourceRanges", None),
        ("internalTrafficPolicy", "Cluster"),
        ("externalIPs", None),
    ):
        value = service["spec"].get(field)
        if value and value != default:
            notes.append(f"the Service's {field} is not carried over: IstioGateway has no field for it")
    spec.update(_scaling(deployment, hpa, notes))
    spec.update(_rollout(deployment))
    spec.update(_pod(deployment, target, notes))
    spec["serviceAnnotations"] = {**own_meta(service["metadata"].get("annotations")), **reuse_annotations(service, predicted)}
    return merged(spec, overrides or {}), notes


def check_overrides(overrides: t.Mapping[str, t.Any]) -> None:
    """Refuse overrides of ports, type, and of the annotations that keep listeners and weights safe, also per cluster."""
    fixed = [name for name in ("ports", "serviceType", "gatewayType", "clusterIds") if name in overrides]
    per_cluster = overrides.get("overrides") or {}
    if not isinstance(per_cluster, t.Mapping):
        raise InputError("overrides.overrides must be a dictionary of clusters", why=f"it is a {type(per_cluster).__name__}")
    for place, spec in (("", overrides), *((f"overrides.{name}.", item) for name, item in per_cluster.items())):
        if not isinstance(spec, t.Mapping):
            raise InputError(f"{place.rstrip('.')} must be a dictionary", why=f"it is a {type(spec).__name__}")
        annotations = spec.get("serviceAnnotations") or {}
        if not isinstance(annotations, t.Mapping):
            raise InputError(f"{place}serviceAnnotations must be a dictionary", why=f"it is a {type(annotations).__name__}")
        if place:
            fixed += [place + name for name in ("ports", "serviceType") if name in spec]
        safety = [key for key in annotations if str(key).replace(_ccm.LEGACY_PREFIX, _ccm.PREFIX) in SAFETY]
        fixed += [f"{place}serviceAnnotations.{key}" for key in safety]
    if fixed:
        raise InputError(
            f"These fields cannot be overridden: {', '.join(fixed)}",
            where="the option overrides",
            why="ports, load balancer, groups and listeners must be the source's, and the weight belongs to clb_weight",
            todo="remove them from overrides",
        )


def merged(base: t.Any, over: t.Any) -> t.Any:
    """Dictionaries merged into each other, everything else replaced; None removes."""
    if not isinstance(base, dict) or not isinstance(over, t.Mapping):
        return copy.deepcopy(over)
    found = copy.deepcopy(base)
    for key, value in over.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merged(found.get(key), value) if isinstance(found.get(key), dict) else copy.deepcopy(value)
    return found
