# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The objects that make up a gateway in a cluster: Service, Deployment, autoscaler, disruption budgets, pods."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import (
    DEPLOYMENT,
    POD,
    SERVICE,
    Kind,
    kind_of,
    served_as,
)

Object = dict[str, t.Any]

HPA = kind_of("autoscaling/v2", "HorizontalPodAutoscaler")
PDB = kind_of("policy/v1", "PodDisruptionBudget")
ISTIO_GATEWAY_GROUP = "istio.alibabacloud.com"


@dataclasses.dataclass
class GatewayObjects:
    """What is there of one gateway; None or empty where nothing is."""

    namespace: str
    name: str
    service: Object | None = None
    deployment: Object | None = None
    hpa: Object | None = None
    pdbs: list[Object] = dataclasses.field(default_factory=list)
    pods: list[Object] = dataclasses.field(default_factory=list)
    # Other Services that choose the same pods.
    sharing: list[Object] = dataclasses.field(default_factory=list)


def chooses(selector: t.Mapping[str, t.Any] | None, labels: t.Mapping[str, str] | None) -> bool:
    """Whether a non-empty equality selector chooses these labels."""
    return bool(selector) and all((labels or {}).get(key) == value for key, value in (selector or {}).items())


def template_labels(deployment: Object | None) -> dict[str, str]:
    if not deployment:
        return {}
    return dict((deployment["spec"]["template"].get("metadata") or {}).get("labels") or {})


def read_gateway(cluster: Cluster, namespace: str, service_name: str, deployment_name: str = "") -> GatewayObjects:
    """Read a gateway by its Service; the Deployment is the one whose pods the Service chooses.

    ``deployment_name`` is used when the Service is gone. Raises MigrationError when several Deployments are chosen.
    """
    lists = values(each((SERVICE, DEPLOYMENT, HPA, PDB, POD), lambda kind: list(cluster.list_all(kind, namespace))))
    services, deployments, hpas, pdbs, pods = lists
    found = GatewayObjects(namespace, service_name)
    found.service = next((item for item in services if item["metadata"]["name"] == service_name), None)
    selector = ((found.service or {}).get("spec") or {}).get("selector")
    chosen = [item for item in deployments if chooses(selector, template_labels(item))]
    if len(chosen) > 1:
        named = [item for item in chosen if item["metadata"]["name"] == service_name]
        if len(named) != 1:
            raise MigrationError(
                "It is not clear which Deployment the gateway is",
                where=cluster.where(SERVICE, service_name, namespace),
                why="its selector chooses the pods of " + ", ".join(sorted(item["metadata"]["name"] for item in chosen)),
                todo="narrow the selector of the Service to one Deployment",
            )
        chosen = named
    if not chosen and deployment_name:
        chosen = [item for item in deployments if item["metadata"]["name"] == deployment_name]
    if chosen:
        _belonging(found, chosen[0], services, hpas, pdbs, pods)
    else:
        # A Deployment that was deleted a moment ago leaves pods that still end their connections.
        found.pods = [pod for pod in pods if chooses(selector, pod["metadata"].get("labels"))]
    return found


def _belonging(
    found: GatewayObjects,
    deployment: Object,
    services: list[Object],
    hpas: list[Object],
    pdbs: list[Object],
    pods: list[Object],
) -> None:
    labels = template_labels(deployment)
    found.deployment = deployment
    selector = (deployment["spec"].get("selector") or {}).get("matchLabels") or labels
    found.pods = [pod for pod in pods if chooses(selector, pod["metadata"].get("labels"))]
    for hpa in hpas:
        scaled = hpa["spec"].get("scaleTargetRef") or {}
        if scaled.get("kind") == "Deployment" and scaled.get("name") == deployment["metadata"]["name"]:
            found.hpa = hpa
    found.pdbs = [pdb for pdb in pdbs if chooses((pdb["spec"].get("selector") or {}).get("matchLabels"), labels)]
    found.sharing = [
        item for item in services if item["metadata"]["name"] != found.name and chooses(item["spec"].get("selector"), labels)
    ]


def need_source(cluster: Cluster, found: GatewayObjects) -> tuple[Object, Object]:
    """Service and Deployment, or the error that says which one is missing."""
    if found.service is None:
        raise MigrationError(
            "The source gateway's Service does not exist",
            where=cluster.where(SERVICE, found.name, found.namespace),
            why="there is no such Service in the source cluster",
            todo="check gateways[].namespace and gateways[].source_service, and that source is the right cluster",
        )
    if found.service["spec"].get("type") != "LoadBalancer":
        raise MigrationError(
            "The source gateway's Service has no load balancer",
            where=cluster.where(SERVICE, found.name, found.namespace),
            why=f"its type is {found.service['spec'].get('type')}, not LoadBalancer",
            todo="name the Service that the load balancer sends to",
        )
    if found.deployment is None:
        raise MigrationError(
            "The source gateway's Deployment does not exist",
            where=cluster.where(SERVICE, found.name, found.namespace),
            why=f"no Deployment in {found.namespace} has the labels {found.service['spec'].get('selector')}",
            todo="a gateway that is not a Deployment cannot be moved by this module",
        )
    return found.service, found.deployment


def rollout_trouble(deployment: Object | None, pods: t.Sequence[Object]) -> tuple[bool, str, str]:
    """``(ready, what is missing, why it will never come)`` as ``kubectl rollout status`` judges, and faster to give up.

    The third is empty while there is hope: a pod may still start. Sources: the Deployment's status (observedGeneration,
    updatedReplicas, availableReplicas, Progressing=False), the pods' waiting reasons.
    """
    if deployment is None:
        return False, "the Deployment does not exist yet", ""
    spec, status = deployment["spec"], deployment.get("status") or {}
    wanted = int(spec.get("replicas", 1))
    for condition in status.get("conditions") or []:
        if condition.get("type") == "Progressing" and condition.get("status") == "False":
            return False, "the rollout failed", f"{condition.get('reason')}: {condition.get('message')}"
    if int(status.get("observedGeneration", 0)) < int(deployment["metadata"].get("generation", 0)):
        return False, "the new generation is not observed yet", ""
    updated, total = int(status.get("updatedReplicas", 0)), int(status.get("replicas", 0))
    available = int(status.get("availableReplicas", 0))
    if updated >= wanted and total <= updated and available >= updated and wanted > 0:
        return True, "", ""
    missing = f"{available} of {wanted} pods are available, {updated} updated"
    missing = "; ".join([missing, *filter(None, (pending(pod) for pod in pods))])
    if wanted == 0:
        return False, "it is scaled to 0", "no pods are wanted: replicas is 0"
    return False, missing, next(filter(None, (pod_trouble(pod) for pod in pods)), "")


# Waiting reasons that do not pass by themselves. CrashLoopBackOff counts from the third restart on.
_HOPELESS = frozenset(
    {"ErrImageNeverPull", "InvalidImageName", "ImagePullBackOff", "CreateContainerConfigError", "RunContainerError"}
)


def pod_trouble(pod: Object) -> str:
    """Why this pod will not become ready by itself, or nothing."""
    status, name = pod.get("status") or {}, pod["metadata"]["name"]
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason in _HOPELESS or (reason == "CrashLoopBackOff" and int(container.get("restartCount", 0)) >= 3):
            return f"pod {name}, container {container.get('name')}: {reason} {waiting.get('message', '')}".rstrip()
    return ""


def pending(pod: Object) -> str:
    """Why this pod has no node yet, or nothing. A cluster autoscaler may still bring one."""
    for condition in (pod.get("status") or {}).get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"pod {pod['metadata']['name']} has no node: {condition.get('message') or condition.get('reason')}"
    return ""


def istio_gateway_kind(target: Cluster) -> Kind | None:
    """IstioGateway in v1beta1, the version of ASM's documentation, which every ASM serves; else in the server's first."""
    return served_as(target.served(ISTIO_GATEWAY_GROUP), ISTIO_GATEWAY_GROUP, "IstioGateway", "v1beta1")
