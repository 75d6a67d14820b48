# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names, annotations, labels, tags and the hash of a Service: pure functions of the Service object."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lab.ccm.versions import Quirks

Object = dict[str, Any]

FINALIZER = "service.k8s.alibaba/resources"
LABEL_HASH = "service.beta.kubernetes.io/hash"
LABEL_LB = "service.k8s.alibaba/loadbalancer-id"
TAG_OWNER = "kubernetes.do.not.delete"
TAG_CLUSTER = "ack.aliyun.com"
TAG_REUSED = "kubernetes.reused.by.user"
BACKEND_TYPE = "service.beta.kubernetes.io/backend-type"
CLASS = "service.beta.kubernetes.io/class"
TUNNEL = "service.beta.kubernetes.io/alibaba-cloud-loadbalancer-tunnel-type"
_PREFIXES = ("service.beta.kubernetes.io/alibaba-cloud-loadbalancer-", "service.beta.kubernetes.io/alicloud-loadbalancer-")


class CcmError(Exception):
    """A reconcile that failed; its text is what the event and the log show."""


def joined(errors: list[Exception | None]) -> Exception | None:
    """None, the one error, or one that says `[first, second]` (each text once), as Kubernetes' error aggregates do."""
    texts = list(dict.fromkeys(str(error) for error in errors if error is not None))
    if not texts:
        return None
    return CcmError(texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]")


def event_text(message: str) -> str:
    """The part of an error that gets into an event: of an API error only `Message: ...`, the code stays in the log."""
    parts = message.split("[SDKError]")
    if len(parts) < 2:
        return message
    at = parts[1].rfind("Message:")
    return message if at < 0 else parts[1][at:].split("\n", 1)[0]


def annotation(svc: Object, name: str) -> str:
    """The value of `...loadbalancer-<name>`; the newer prefix wins over the legacy one; "" when absent."""
    found: Mapping[str, str] = svc["metadata"].get("annotations") or {}
    for prefix in _PREFIXES:
        if prefix + name in found:
            return found[prefix + name]
    return ""


def number(svc: Object, name: str, what: str) -> int | None:
    """An annotation that must be an integer; None when absent."""
    text = annotation(svc, name)
    if text == "":
        return None
    try:
        return int(text)
    except ValueError:
        raise CcmError(f"Annotation {what} must be integer, but got [{text}]. message=[invalid syntax] ") from None


def reused(svc: Object) -> bool:
    """True when the Service names a load balancer of its user's."""
    return annotation(svc, "id") != ""


def overrides(svc: Object) -> bool:
    return annotation(svc, "force-override-listeners") == "true"


def eni_mode(svc: Object) -> bool:
    return (svc["metadata"].get("annotations") or {}).get(BACKEND_TYPE) == "eni"


def local_mode(svc: Object) -> bool:
    return bool(svc["spec"].get("externalTrafficPolicy") == "Local")


def wants_clb(svc: Object) -> bool:
    """A Service of type LoadBalancer that no other class of load balancer claims."""
    spec, notes = svc["spec"], svc["metadata"].get("annotations") or {}
    return (
        spec.get("type") == "LoadBalancer"
        and spec.get("loadBalancerClass") is None
        and not notes.get(CLASS)
        and TUNNEL not in notes
    )


def leaving(svc: Object) -> bool:
    """The load balancer is to be cleaned up: the Service is being deleted, or is no LoadBalancer any more."""
    return bool(svc["metadata"].get("deletionTimestamp")) or svc["spec"].get("type") != "LoadBalancer"


def lb_name(svc: Object) -> str:
    """The default name of its load balancer, also the value of its owner tag: `a` + UID without dashes, 32 characters."""
    return ("a" + str(svc["metadata"]["uid"])).replace("-", "")[:32]


@dataclass(frozen=True)
class Owner:
    """Who owns a backend, a vServer group or a listener: written as `k8s/<port>/<service>/<namespace>/<cluster>`.

    `port` is the NodePort (or targetPort in ENI mode) for groups and backends, the service port for listeners.
    """

    port: str
    service: str
    namespace: str
    cluster: str

    def __str__(self) -> str:
        return f"k8s/{self.port}/{self.service}/{self.namespace}/{self.cluster}"

    @classmethod
    def parse(cls, text: str, *, numeric: bool = False) -> Owner | None:
        """None for any other text; `numeric`: a listener's, whose port must be a number."""
        parts = (text or "").split("/")
        if len(parts) != 5 or parts[0] != "k8s" or (numeric and not parts[1].lstrip("-").isdigit()):
            return None
        return cls(*parts[1:])

    def same_service(self, svc: Object, cluster: str) -> bool:
        meta = svc["metadata"]
        return (self.service, self.namespace, self.cluster) == (meta["name"], meta["namespace"], cluster)


def group_owner(svc: Object, port: Object, cluster: str) -> Owner:
    meta = svc["metadata"]
    number = port.get("targetPort", port["port"]) if eni_mode(svc) else port.get("nodePort", 0)
    return Owner(str(number), meta["name"], meta["namespace"], cluster)


def listener_owner(svc: Object, port: Object, cluster: str) -> Owner:
    meta = svc["metadata"]
    return Owner(str(port["port"]), meta["name"], meta["namespace"], cluster)


def _pairs(text: str) -> list[list[str]]:
    """`a:1,b:2` cut at commas and colons, nothing trimmed: `a:1, b:2` gives the name ` b`."""
    pairs = []
    for part in text.split(","):
        cut = part.split(":")
        if len(cut) < 2:
            raise CcmError(
                f"vgroupid and protocol format must be like 'vsp-xxx:443' with colon separated. got=[[{' '.join(cut)}]]"
            )
        pairs.append(cut)
    return pairs


def group_for_port(text: str, port: int) -> str:
    """The vServer group that annotation vgroup-port names for a service port; "" when it names none.

    A malformed entry is an error only if it is met before the port is found.
    """
    for part in text.split(","):
        cut = _pairs(part)[0]
        if cut[1] == str(port):
            return cut[0]
    return ""


def named_groups(text: str) -> list[str]:
    """All ids in annotation vgroup-port, as they stand (spaces too)."""
    return [cut[0] for cut in _pairs(text)] if text else []


def weight_of(text: str, what: str = "weight") -> int:
    """0..100, else an error (the documentation's 1..1000 is wrong)."""
    try:
        weight = int(text)
    except ValueError:
        weight = -1
    if not 0 <= weight <= 100:
        raise CcmError(f"{what} must be integer in range [0,100] , got [{text}]")
    return weight


def _pruned(value: Any) -> Any:
    """Without empty values (null, "", 0, false, {}, []): they do not enter the hash."""
    if isinstance(value, dict):
        return {key: _pruned(item) for key, item in value.items() if item}
    if isinstance(value, list):
        return [pruned for item in value if (pruned := _pruned(item))]
    return value


def service_hash(svc: Object, quirks: Quirks) -> str:
    """Changes exactly when one of these does: ports, type, externalTrafficPolicy, loadBalancerClass, any annotation,
    deletionTimestamp (and loadBalancerSourceRanges in newer versions). Labels, selector and status do not enter it."""
    spec, meta = svc["spec"], svc["metadata"]
    parts = [spec.get("ports"), spec.get("type"), spec.get("externalTrafficPolicy"), spec.get("loadBalancerClass")]
    parts += [meta.get("annotations"), meta.get("deletionTimestamp")]
    if quirks.hash_source_ranges:
        parts.append(spec.get("loadBalancerSourceRanges"))
    named = {str(index): pruned for index, part in enumerate(parts) if (pruned := _pruned(part))}
    return hashlib.sha224(json.dumps(named, sort_keys=True).encode()).hexdigest()


def hash_changed(svc: Object, quirks: Quirks) -> bool:
    return (svc["metadata"].get("labels") or {}).get(LABEL_HASH) != service_hash(svc, quirks)


def extra_tags(svc: Object) -> dict[str, str]:
    """additional-resource-tags: `Key1=Val1,Key2=,Key3`."""
    tags = {}
    for part in annotation(svc, "additional-resource-tags").strip().split(","):
        key, _, value = part.strip().partition("=")
        if key:
            tags[key] = value.split("=")[0]
    return tags
