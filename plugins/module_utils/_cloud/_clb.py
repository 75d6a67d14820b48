# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Alibaba Cloud's classic load balancer (CLB, product SLB, API version 2014-05-15) as plain data. Knows no Kubernetes.

Every write here says the same when it is repeated (a name, a weight, a tag with its value), so all of them may be retried.
"""

from __future__ import annotations

import dataclasses
import json
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._sdk import Answer, Api
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, values

# SetVServerGroupAttribute and its sisters take at most this many backends (API reference).
BATCH = 20
_PROTOCOLS = {"tcp": "TCP", "udp": "UDP", "http": "HTTP", "https": "HTTPS"}


@dataclasses.dataclass(frozen=True)
class LoadBalancer:
    """:arg delete_protection: ``on`` or ``off``. :arg modification_protection: ``NonProtection`` or ``ConsoleProtection``."""

    id: str
    name: str
    address: str
    status: str
    delete_protection: str
    modification_protection: str
    tags: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Listener:
    """:arg scheduler: wrr, wlc, rr, sch, ... :arg persistence: what sticks a client to a backend, empty when nothing does.
    :arg drain: ``on`` or ``off`` with the seconds of the time-out, as ``on/300``."""

    port: int
    protocol: str
    scheduler: str
    group_id: str
    status: str
    description: str
    persistence: str = ""
    drain: str = ""


@dataclasses.dataclass(frozen=True)
class Backend:
    """:arg type: ecs (a node) or eni (a pod). :arg server_ip: empty for ecs. :arg weight: 0..100."""

    server_id: str
    port: int
    weight: int
    type: str
    server_ip: str
    description: str


@dataclasses.dataclass(frozen=True)
class Group:
    """A vServer group. :arg listeners: ports of the listeners that use it."""

    id: str
    name: str
    listeners: tuple[int, ...]
    backends: tuple[Backend, ...] = ()


@dataclasses.dataclass(frozen=True)
class Health:
    """:arg status: normal, abnormal or unavailable (the health check is off, or has no result yet)."""

    listener_port: int
    server_id: str
    server_ip: str
    port: int
    status: str


class Clb:
    """The driver. ``options`` is the option O(alibaba) of the modules; all calls raise MigrationError."""

    def __init__(self, options: t.Mapping[str, t.Any]) -> None:
        self._api = Api(options)
        self.region = self._api.region

    @property
    def until(self) -> float | None:
        """A time.monotonic() after which no call is repeated."""
        return self._api.until

    @until.setter
    def until(self, value: float | None) -> None:
        self._api.until = value

    # -- reading -------------------------------------------------------------------------------------------------

    def load_balancer(self, lb_id: str) -> LoadBalancer:
        """One load balancer with all its tags. Raises MigrationError with details["not_found"] when it is not there."""
        where = f"clb/{lb_id}"
        attribute, tags = values(
            each(
                ["attribute", "tags"],
                lambda part: (
                    self._api.call("DescribeLoadBalancerAttribute", where=where, LoadBalancerId=lb_id)
                    if part == "attribute"
                    else {"tags": self.tags(lb_id)}
                ),
            )
        )
        return dataclasses.replace(_load_balancer(attribute), tags=tags["tags"])

    def find(self, *, address: str = "", tag: tuple[str, str] | None = None) -> list[LoadBalancer]:
        """Load balancers by address or by one tag (their own tags are not read)."""
        query: dict[str, t.Any] = {"PageSize": 100, "PageNumber": 1}
        if address:
            query["Address"] = address
        if tag:
            query["Tags"] = json.dumps([{"TagKey": tag[0], "TagValue": tag[1]}])
        answer = self._api.call("DescribeLoadBalancers", where=f"clb with {address or tag}", **query)
        return [_load_balancer(item) for item in _list(answer, "LoadBalancers", "LoadBalancer")]

    def tags(self, lb_id: str) -> dict[str, str]:
        found: dict[str, str] = {}
        token: str | None = None
        while True:
            answer = self._api.call(
                "ListTagResources", where=f"clb/{lb_id}/tags", ResourceType="instance", ResourceId=[lb_id], NextToken=token
            )
            for item in _list(answer, "TagResources", "TagResource"):
                found[str(item.get("TagKey"))] = str(item.get("TagValue") or "")
            token = answer.get("NextToken") or None
            if not token:
                return found

    def listeners(self, lb_id: str) -> list[Listener]:
        """All listeners, by port."""
        found: list[Listener] = []
        token: str | None = None
        while True:
            answer = self._api.call(
                "DescribeLoadBalancerListeners",
                where=f"clb/{lb_id}/listeners",
                LoadBalancerId=[lb_id],
                MaxResults=100,
                NextToken=token,
            )
            found.extend(_listener(item) for item in answer.get("Listeners") or [])
            token = answer.get("NextToken") or None
            if not token:
                return sorted(found, key=lambda item: (item.port, item.protocol))

    def groups(self, lb_id: str) -> list[Group]:
        """All vServer groups with their backends (read in parallel), by id."""
        answer = self._api.call(
            "DescribeVServerGroups", where=f"clb/{lb_id}/groups", LoadBalancerId=lb_id, IncludeListener="true"
        )
        heads = _list(answer, "VServerGroups", "VServerGroup")
        found = values(each(heads, lambda head: self._fill(lb_id, head)))
        return sorted(found, key=lambda item: item.id)

    def _fill(self, lb_id: str, head: Answer) -> Group:
        ports = [int(item["Port"]) for item in _list(head.get("AssociatedObjects") or {}, "Listeners", "Listener")]
        group = self.group(lb_id, str(head["VServerGroupId"]))
        return dataclasses.replace(group, listeners=tuple(sorted(ports)))

    def group(self, lb_id: str, group_id: str) -> Group:
        """One group with its backends; its listeners are not read."""
        answer = self._api.call("DescribeVServerGroupAttribute", where=f"clb/{lb_id}/group/{group_id}", VServerGroupId=group_id)
        backends = [_backend(item) for item in _list(answer, "BackendServers", "BackendServer")]
        return Group(
            id=str(answer.get("VServerGroupId") or group_id),
            name=str(answer.get("VServerGroupName") or ""),
            listeners=(),
            backends=tuple(sorted(backends, key=lambda item: (item.server_id, item.server_ip, item.port))),
        )

    def group_list(self, lb_id: str, group_ids: t.Sequence[str]) -> list[Group]:
        """Some groups, read in parallel, in the order asked for."""
        return values(each(list(group_ids), lambda group_id: self.group(lb_id, group_id)))

    def health(self, lb_id: str, listener: Listener) -> list[Health]:
        answer = self._api.call(
            "DescribeHealthStatus",
            where=f"clb/{lb_id}/listener/{listener.port}",
            LoadBalancerId=lb_id,
            ListenerPort=listener.port,
            ListenerProtocol=listener.protocol,
        )
        return [
            Health(
                listener_port=int(item.get("ListenerPort") or listener.port),
                server_id=str(item.get("ServerId") or ""),
                server_ip=str(item.get("ServerIp") or ""),
                port=int(item.get("Port") or 0),
                status=str(item.get("ServerHealthStatus") or "unavailable"),
            )
            for item in _list(answer, "BackendServers", "BackendServer")
        ]

    # -- writing -------------------------------------------------------------------------------------------------

    def tag(self, lb_id: str, tags: t.Mapping[str, str]) -> None:
        self._api.call(
            "TagResources",
            where=f"clb/{lb_id}/tags",
            ResourceType="instance",
            ResourceId=[lb_id],
            Tag=[{"Key": key, "Value": value} for key, value in sorted(tags.items())],
        )

    def untag(self, lb_id: str, keys: t.Sequence[str]) -> None:
        """Remove these tags. Without keys the API would remove ALL tags, so that is refused here."""
        if not keys or not all(keys):
            raise InputError("Tags are only ever removed by their keys", where=f"clb/{lb_id}/tags", why="no key was given")
        self._api.call(
            "UntagResources",
            where=f"clb/{lb_id}/tags",
            ResourceType="instance",
            ResourceId=[lb_id],
            TagKey=sorted(keys),
        )

    def rename_group(self, lb_id: str, group_id: str, name: str) -> None:
        self._api.call(
            "SetVServerGroupAttribute", where=f"clb/{lb_id}/group/{group_id}", VServerGroupId=group_id, VServerGroupName=name
        )

    def set_backends(self, lb_id: str, group_id: str, backends: t.Sequence[Backend]) -> None:
        """Set weights of backends that are in the group already."""
        self._backends("SetVServerGroupAttribute", lb_id, group_id, backends)

    def add_backends(self, lb_id: str, group_id: str, backends: t.Sequence[Backend]) -> None:
        """Add backends. An answer that was lost makes the repetition find them there: that is no error."""
        try:
            self._backends("AddVServerGroupBackendServers", lb_id, group_id, backends)
        except MigrationError as error:
            if "AlreadyExist" not in str(error.details.get("code")):
                raise

    def _backends(self, action: str, lb_id: str, group_id: str, backends: t.Sequence[Backend]) -> None:
        for start in range(0, len(backends), BATCH):
            items = [
                {
                    "ServerId": item.server_id,
                    "Port": item.port,
                    "Weight": item.weight,
                    "Type": item.type,
                    "Description": item.description,
                    **({"ServerIp": item.server_ip} if item.server_ip else {}),
                }
                for item in backends[start : start + BATCH]
            ]
            self._api.call(
                action, where=f"clb/{lb_id}/group/{group_id}", VServerGroupId=group_id, BackendServers=json.dumps(items)
            )

    def set_scheduler(self, lb_id: str, listener: Listener, scheduler: str) -> None:
        """Set the scheduler; what is not named in the call stays as it is (drain, health check, persistence)."""
        kind = _PROTOCOLS.get(listener.protocol, "TCP")
        self._api.call(
            f"SetLoadBalancer{kind}ListenerAttribute",
            where=f"clb/{lb_id}/listener/{listener.port}",
            LoadBalancerId=lb_id,
            ListenerPort=listener.port,
            Scheduler=scheduler,
        )

    def set_delete_protection(self, lb_id: str, value: str) -> None:
        self._api.call("SetLoadBalancerDeleteProtection", where=f"clb/{lb_id}", LoadBalancerId=lb_id, DeleteProtection=value)


def _list(answer: t.Mapping[str, t.Any], outer: str, inner: str) -> list[Answer]:
    """``answer[outer][inner]``; the API leaves out what is empty."""
    found = (answer.get(outer) or {}).get(inner) or []
    return [item for item in found if isinstance(item, dict)]


def _load_balancer(item: Answer) -> LoadBalancer:
    return LoadBalancer(
        id=str(item.get("LoadBalancerId") or ""),
        name=str(item.get("LoadBalancerName") or ""),
        address=str(item.get("Address") or ""),
        status=str(item.get("LoadBalancerStatus") or ""),
        delete_protection=str(item.get("DeleteProtection") or "off"),
        modification_protection=str(item.get("ModificationProtectionStatus") or "NonProtection"),
        tags={str(tag.get("TagKey")): str(tag.get("TagValue") or "") for tag in _list(item, "Tags", "Tag")},
    )


def _listener(item: Answer) -> Listener:
    protocol = str(item.get("ListenerProtocol") or "").lower()
    config: Answer = item.get(f"{protocol.upper()}ListenerConfig") or {}
    sticks = ""
    if int(config.get("PersistenceTimeout") or 0) > 0:
        sticks = f"PersistenceTimeout {config['PersistenceTimeout']} s"
    elif str(config.get("StickySession") or "off").lower() == "on":
        sticks = f"StickySession on ({config.get('StickySessionType') or '?'})"
    drain = str(config.get("ConnectionDrain") or "")
    if drain == "on":
        drain = f"on/{config.get('ConnectionDrainTimeout') or '?'}"
    return Listener(
        port=int(item.get("ListenerPort") or 0),
        protocol=protocol,
        scheduler=str(item.get("Scheduler") or ""),
        group_id=str(item.get("VServerGroupId") or ""),
        status=str(item.get("Status") or ""),
        description=str(item.get("Description") or ""),
        persistence=sticks,
        drain=drain,
    )


def _backend(item: Answer) -> Backend:
    return Backend(
        server_id=str(item.get("ServerId") or ""),
        port=int(item.get("Port") or 0),
        weight=int(item.get("Weight") or 0),
        type=str(item.get("Type") or "ecs"),
        server_ip=str(item.get("ServerIp") or ""),
        description=str(item.get("Description") or ""),
    )
