# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What Alibaba Cloud's cloud-controller-manager (CCM) means: annotations, names, tags, owners, versions, weights. All pure.

Source: kubernetes/cloud-provider-alibaba-cloud v2.8.0, v2.11.2, v2.14.0, and these versions observed as processes.
"""

from __future__ import annotations

import dataclasses
import re
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError

Object = dict[str, t.Any]

# The newer prefix wins over the legacy one (annotations.go AnnotationRequest.Get).
PREFIX = "service.beta.kubernetes.io/alibaba-cloud-loadbalancer-"
LEGACY_PREFIX = "service.beta.kubernetes.io/alicloud-loadbalancer-"
ID = f"{PREFIX}id"
OVERRIDE = f"{PREFIX}force-override-listeners"
VGROUP_PORT = f"{PREFIX}vgroup-port"
WEIGHT = f"{PREFIX}weight"
SCHEDULER = f"{PREFIX}scheduler"
DELETE_PROTECTION = f"{PREFIX}delete-protection"
DEFAULT_WEIGHT = f"{PREFIX}default-weight"
IGNORE_WEIGHT = f"{PREFIX}ignore-weight-update"
# Any change of an annotation makes the CCM reconcile at once; this one is ours and means nothing else.
TOUCHED = "servicemesh.migration/touched"

BACKEND_TYPE = "service.beta.kubernetes.io/backend-type"
LABEL_LB = "service.k8s.alibaba/loadbalancer-id"

TAG_OWNER = "kubernetes.do.not.delete"
TAG_CLUSTER = "ack.aliyun.com"
TAG_REUSED = "kubernetes.reused.by.user"
# A load balancer with one of these is not reused (model_applier.go isLoadBalancerReusable).
MADE_TAGS = (TAG_OWNER, TAG_CLUSTER)
MAX_TAGS = 10

EVENT_FAILED = "SyncLoadBalancerFailed"
EVENT_DONE = "EnsuredLoadBalancer"
# What the CCM says when it aborts, because the tags or the names say that it made this load balancer itself.
ABORTED = ("can not be reused", "cannot reuse a ccm created vgroup")

_NAME = re.compile(r"^k8s/([^/]+)/([^/]+)/([^/]+)/([^/]+)$")


@dataclasses.dataclass(frozen=True)
class Owner:
    """``k8s/<port>/<service>/<namespace>/<cluster id>``: name of a group, Description of a backend or a listener.

    :arg port: of a listener the Service's port; else the NodePort (nodes as backends) or the targetPort (pods as backends).
    """

    port: str
    service: str
    namespace: str
    cluster_id: str

    def __str__(self) -> str:
        return f"k8s/{self.port}/{self.service}/{self.namespace}/{self.cluster_id}"

    @property
    def key(self) -> str:
        """``namespace/service``, the owner as the modules name it."""
        return f"{self.namespace}/{self.service}"


def parse_owner(text: str) -> Owner | None:
    """None when this was not written by a CCM."""
    found = _NAME.match(text or "")
    return Owner(*found.groups()) if found else None


def annotations_of(service: Object) -> dict[str, str]:
    return dict((service.get("metadata") or {}).get("annotations") or {})


def annotation(annotations: t.Mapping[str, str], key: str) -> str:
    """The value that counts: of the newer prefix, else of the legacy one, else empty."""
    if key in annotations:
        return str(annotations[key])
    return str(annotations.get(key.replace(PREFIX, LEGACY_PREFIX), ""))


def weight_of(annotations: t.Mapping[str, str]) -> int | None:
    """The weight as the CCM reads it: only of a reused load balancer with named groups; None when there is none.

    Raises ValueError when the CCM would not take it (no integer, or not in 0..100).
    """
    if not annotation(annotations, ID) or not annotation(annotations, VGROUP_PORT):
        return None
    text = annotation(annotations, WEIGHT)
    if text == "":
        return None
    if not re.fullmatch(r"[+-]?[0-9]+", text) or not 0 <= int(text) <= 100:
        raise ValueError(f"the weight {text!r} is no integer in 0..100")
    return int(text)


def owner_tag(uid: str) -> str:
    """Value of the tag kubernetes.do.not.delete, and default name of the load balancer, for a Service with this UID."""
    return ("a" + uid).replace("-", "")[:32]


def vgroup_port(groups: t.Mapping[int, str], service: Object) -> str:
    """The annotation for all ports of the Service in their order. No spaces: after ', ' the CCM finds no further port.

    Raises MigrationError when a port has no group: an annotation that lacks a port would leave it where it is, in silence.
    """
    lost = [str(port["port"]) for port in ports_of(service) if int(port["port"]) not in groups]
    if lost:
        raise MigrationError(
            f"The ports {', '.join(lost)} have no vServer group",
            where=f"source/{service['metadata'].get('namespace', '')}/Service/{service['metadata'].get('name', '')}",
            why="the load balancer has no listener for them that sends to a vServer group",
            todo="give each port a listener with a vServer group, or take the port out of the Service",
        )
    return ",".join(f"{groups[int(port['port'])]}:{port['port']}" for port in ports_of(service))


def parse_vgroup_port(text: str) -> dict[int, str]:
    """``{port: group id}`` exactly as the CCM reads it: an entry that it does not understand is not there."""
    found: dict[int, str] = {}
    for entry in text.split(","):
        group_id, _sep, port = entry.partition(":")
        if port.isdigit() and group_id == group_id.strip() and group_id:
            found.setdefault(int(port), group_id)
    return found


def ports_of(service: Object) -> list[Object]:
    return list((service.get("spec") or {}).get("ports") or [])


def group_name(service: Object, port: Object, mode: str, cluster_id: str) -> str:
    """The name under which the CCM looks for the group of a port (vgroups.go getVGroupNamedKey)."""
    meta = service["metadata"]
    number = port.get("targetPort", port["port"]) if mode == "eni" else port.get("nodePort", 0)
    return str(Owner(str(number), meta["name"], meta["namespace"], cluster_id))


@dataclasses.dataclass(frozen=True)
class Rules:
    """What is true for a version of the CCM. An unknown version gets the strictest of each.

    :arg refuses_made_groups: a group named ``k8s/...`` cannot be reused (since v2.9.1).
    :arg skips_bad_ports: a port that cannot be built is left out in silence and its backends are removed (since v2.12.1).
    """

    version: str
    known: bool
    refuses_made_groups: bool
    skips_bad_ports: bool
    too_old: str = ""


def rules(version: str) -> Rules:
    """:arg version: like ``v2.11.2`` or ``v2.11.2.26-abc-aliyun``; empty = unknown."""
    found = re.match(r"^v?(\d+)\.(\d+)(?:\.(\d+))?", version or "")
    if not found:
        return Rules("unknown", False, True, True)
    number = tuple(int(part or 0) for part in found.groups())
    old = ""
    if number < (2, 4, 0):
        old = "the label service.k8s.alibaba/loadbalancer-id needs v2.4.0, weight 0 needs v2.1.0, vgroup-port needs v2.0.1"
    return Rules(version, True, number >= (2, 9, 1), number >= (2, 12, 1), old)


def version_of_image(image: str) -> str:
    """The version in an image like ``registry/acs/cloud-controller-manager-amd64:v2.11.2``; empty when there is none."""
    tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
    return tag if re.match(r"^v?\d+\.\d+", tag) else ""


# -- the weight formula ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Member:
    """One backend that the CCM would make for a Service's port.

    :arg server: id of the instance (kind ecs), or address of the pod (kind eni, eci).
    :arg kind: ecs = a node, eni = a pod, eci = a pod on a virtual node.
    :arg pods: ready pods on the node (only Local mode asks).
    """

    server: str
    kind: str
    pods: int = 1


MODES = ("eni", "cluster", "local")


def weights(mode: str, members: t.Sequence[Member], weight: int | None, default: int = 100) -> dict[str, int]:
    """Weight of each member by ``server`` (vgroups.go setWeightBackends: podNumberAlgorithm, podPercentAlgorithm).

    Floor division; a positive weight never makes less than 1 a backend, except for pods on virtual nodes in Local mode.
    """
    total = sum(member.pods if mode == "local" and member.kind == "ecs" else 1 for member in members)
    found: dict[str, int] = {}
    for member in members:
        pods = member.pods if mode == "local" and member.kind == "ecs" else 1
        if weight is None:
            found[member.server] = pods if mode == "local" else default
        elif weight == 0:
            found[member.server] = 0
        elif mode == "local" and member.kind != "ecs":
            found[member.server] = weight // total
        elif mode == "local":
            found[member.server] = max(1, weight * pods // total)
        else:
            found[member.server] = max(1, weight // total)
    return found


def capacity(mode: str, members: t.Sequence[Member], weight: int | None, default: int = 100) -> int:
    """Sum of the weights that really reach the load balancer for this annotation."""
    return sum(weights(mode, members, weight, default).values())
