# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading and writing one load balancer: every call of the cloud's API is made here."""

from __future__ import annotations

import ipaddress
import json
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from lab.ccm import backends, listeners, names
from lab.ccm.backends import Backend, Group
from lab.ccm.cloud import Cloud
from lab.ccm.listeners import Action, Listener
from lab.ccm.names import CcmError, Object, joined
from lab.ccm.plan import GroupAction, diff
from lab.ccm.versions import Quirks

BATCH = 40  # backends a call
MAX_TAGS = 10
_REASON = "managed.by.ack"


@dataclass(frozen=True)
class Config:
    cluster: str
    quirks: Quirks
    vpc: str = "vpc-lab"
    vswitch: str = "vsw-lab"


@dataclass
class LoadBalancer:
    """A CLB as described by the API."""

    id: str
    name: str = ""
    address: str = ""
    address_type: str = ""
    delete_protection: str = ""
    modification_protection: str = ""
    tags: dict[str, str] = field(default_factory=dict)


def parallel(tasks: Sequence[Callable[[], None]], limit: int = 10) -> list[Exception | None]:
    """Runs the tasks in threads, at most `limit` at once; the error of each, or None."""
    errors: list[Exception | None] = [None] * len(tasks)
    waiting = iter(range(len(tasks)))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                index = next(waiting, None)
            if index is None:
                return
            try:
                tasks[index]()
            except Exception as error:
                errors[index] = error

    if len(tasks) == 1:
        work()
        return errors
    threads = [threading.Thread(target=work, name="ccm-part", daemon=True) for _ in range(min(limit, len(tasks)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def _as_lb(answer: Object) -> LoadBalancer:
    tags = (answer.get("Tags") or {}).get("Tag") or []
    return LoadBalancer(
        id=str(answer.get("LoadBalancerId") or ""),
        name=str(answer.get("LoadBalancerName") or ""),
        address=str(answer.get("Address") or ""),
        address_type=str(answer.get("AddressType") or ""),
        delete_protection=str(answer.get("DeleteProtection") or ""),
        modification_protection=str(answer.get("ModificationProtectionStatus") or ""),
        tags={tag["TagKey"]: tag["TagValue"] for tag in tags},
    )


class Clb:
    """The operations on load balancers that a reconcile is made of. All raise CcmError (ApiError for an answer of the API)."""

    def __init__(self, cloud: Cloud, config: Config) -> None:
        self._cloud = cloud
        self._config = config
        self._tokens: dict[str, str] = {}

    def _slb(self, action: str, **params: Any) -> Object:
        return self._cloud.call("slb", action, **params)

    # --- the load balancer --------------------------------------------------------------------------------------------------

    def find(self, svc: Object, known: str = "") -> LoadBalancer | None:
        """By id (annotation, or `known` after a creation), else by owner tag, else by its default name. None: not there."""
        wanted = names.annotation(svc, "id") or known
        if wanted:
            found = _as_lb(self._slb("DescribeLoadBalancerAttribute", LoadBalancerId=wanted))
            if found.id != wanted:
                where = f"{svc['metadata']['namespace']}/{svc['metadata']['name']}"
                raise CcmError(
                    f"[{where}] find loadbalancer by id error: loadbalancer id from API not match, "
                    f"expect [{wanted}], actual [{found.id}]"
                )
            return found
        name = names.lb_name(svc)
        by_tag = json.dumps([{"TagValue": name, "TagKey": names.TAG_OWNER}], separators=(",", ":"))
        return self._only(svc, "tag", Tags=by_tag) or self._only(svc, "name", LoadBalancerName=name)

    def _only(self, svc: Object, way: str, **query: str) -> LoadBalancer | None:
        where = f"{svc['metadata']['namespace']}/{svc['metadata']['name']}"
        try:
            answer = self._slb("DescribeLoadBalancers", **query)
        except CcmError as error:
            raise CcmError(f"[{where}] find loadbalancer by {way} error: {error}") from error
        found = (answer.get("LoadBalancers") or {}).get("LoadBalancer") or []
        if len(found) > 1:
            ids = ",".join(str(item.get("LoadBalancerId")) for item in found)
            raise CcmError(f"[{where}] find multiple loadbalances by {way}, lbIds[{ids}]")
        return _as_lb(found[0]) if found and found[0].get("LoadBalancerId") else None

    def create(self, svc: Object) -> LoadBalancer:
        """Internet-facing unless annotated, with both protections on and both owner tags."""
        quirks = self._config.quirks
        name = names.lb_name(svc)
        tags = [{"Key": names.TAG_OWNER, "Value": name}, {"Key": names.TAG_CLUSTER, "Value": self._config.cluster}]
        tags += [{"Key": key, "Value": value} for key, value in names.extra_tags(svc).items()]
        kind = names.annotation(svc, "address-type") or "internet"
        inside = kind == "intranet"
        protection = names.annotation(svc, "modification-protection")
        charge = names.annotation(svc, "instance-charge-type")
        params: dict[str, Any] = {
            "AddressType": kind,
            "LoadBalancerName": names.annotation(svc, "name") or name,
            "InternetChargeType": names.annotation(svc, "charge-type"),
            "Bandwidth": names.annotation(svc, "bandwidth"),
            "InstanceChargeType": charge or ("" if quirks.per_spec else "PayByCLCU"),
            "LoadBalancerSpec": names.annotation(svc, "spec") or ("slb.s1.small" if quirks.per_spec else ""),
            "VpcId": self._config.vpc if inside else "",
            "VSwitchId": names.annotation(svc, "vswitch-id") or (self._config.vswitch if inside else ""),
            "DeleteProtection": names.annotation(svc, "delete-protection") or "on",
            "ModificationProtectionStatus": protection or "ConsoleProtection",
            "ModificationProtectionReason": "" if protection else _REASON,
            "Address": names.annotation(svc, "ip"),
            # the same token for a creation that is tried again: never two load balancers for one Service
            "ClientToken": self._tokens.setdefault(name, str(uuid.uuid4())),
        }
        if quirks.tags_in_create:
            params["Tag"] = tags
        made = self._slb("CreateLoadBalancer", **params)
        lb_id = str(made.get("LoadBalancerId") or "")
        if not quirks.tags_in_create:
            self.tag(lb_id, {tag["Key"]: tag["Value"] for tag in tags})
        found = self.find(svc, lb_id)
        if found is None:
            raise CcmError(f"update remote model for lbId {lb_id}, error: not found")
        return found

    def delete(self, svc: Object, lb: LoadBalancer) -> None:
        """Also what is in it. Takes its own deletion protection off first."""
        if lb.delete_protection == "on":
            self._slb("SetLoadBalancerDeleteProtection", LoadBalancerId=lb.id, DeleteProtection="off")
        self._tokens.pop(names.lb_name(svc), None)
        self._slb("DeleteLoadBalancer", LoadBalancerId=lb.id)

    def release(self, svc: Object, lb: LoadBalancer) -> None:
        """preserve-lb-on-delete: protections off, owner tags off."""
        if lb.delete_protection == "on":
            self._slb("SetLoadBalancerDeleteProtection", LoadBalancerId=lb.id, DeleteProtection="off")
        if lb.modification_protection == "ConsoleProtection":
            self._protect(lb.id, "NonProtection")
        own = {names.TAG_OWNER: names.lb_name(svc), names.TAG_CLUSTER: self._config.cluster}
        keys = [key for key, value in lb.tags.items() if own.get(key) == value]
        self._slb("UntagResources", ResourceType="instance", ResourceId=[lb.id], TagKey=keys)

    def _protect(self, lb_id: str, status: str) -> None:
        self._slb("SetLoadBalancerModificationProtection", LoadBalancerId=lb_id, ModificationProtectionStatus=status)

    def tag(self, lb_id: str, tags: dict[str, str]) -> None:
        pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
        self._slb("TagResources", ResourceType="instance", ResourceId=[lb_id], Tag=pairs)

    def read_tags(self, lb_id: str) -> dict[str, str]:
        answer = self._slb("ListTagResources", ResourceType="instance", ResourceId=[lb_id])
        found = (answer.get("TagResources") or {}).get("TagResource") or []
        return {item["TagKey"]: item["TagValue"] for item in found}

    def update(self, svc: Object, lb: LoadBalancer) -> Exception | None:
        """Brings tags, protections and name to what the annotations say; goes on after an error, returns all joined."""
        errors: list[Exception | None] = []

        def attempt(prefix: str, action: Callable[[], object]) -> None:
            try:
                action()
            except CcmError as error:
                errors.append(CcmError(f"{prefix}: {error}"))

        tag = {names.TAG_REUSED: "true"} if names.reused(svc) else {names.TAG_OWNER: names.lb_name(svc)}
        if not set(tag) & set(lb.tags) and len(lb.tags) < MAX_TAGS:
            attempt("AddTags", lambda: self.tag(lb.id, tag))
        if names.annotation(svc, "address-type") not in ("", lb.address_type):
            errors.append(CcmError("alicloud: can not change LoadBalancer AddressType once created. delete and retry"))
        if names.annotation(svc, "ip") not in ("", lb.address):
            errors.append(CcmError("alicloud: can not change LoadBalancer address once created"))
        flag = names.annotation(svc, "delete-protection")
        if flag not in ("", lb.delete_protection):
            action = "SetLoadBalancerDeleteProtection"
            attempt(action, lambda: self._slb(action, LoadBalancerId=lb.id, DeleteProtection=flag))
        status = names.annotation(svc, "modification-protection")
        if status not in ("", lb.modification_protection):
            attempt("SetLoadBalancerModificationProtection", lambda: self._protect(lb.id, status))
        name = names.annotation(svc, "name")
        if name not in ("", lb.name):
            attempt("SetLoadBalancerName", lambda: self._slb("SetLoadBalancerName", LoadBalancerId=lb.id, LoadBalancerName=name))
        if self._config.quirks.sync_extra_tags and names.extra_tags(svc):
            attempt(f"error to tag slb id [{lb.id}]", lambda: self._sync_tags(svc, lb))
        return joined(errors)

    def _sync_tags(self, svc: Object, lb: LoadBalancer) -> None:
        kept = {names.TAG_OWNER, names.TAG_CLUSTER} | ({names.TAG_REUSED} if names.reused(svc) else set())
        asked = {key: value for key, value in names.extra_tags(svc).items() if key not in kept and not key.startswith("acs:")}
        there = {key: value for key, value in lb.tags.items() if key not in kept and not key.startswith("acs:")}
        more = {key: value for key, value in asked.items() if there.get(key) != value}
        if more:
            self.tag(lb.id, more)
        less = [key for key in there if key not in asked]
        if less:
            self._slb("UntagResources", ResourceType="instance", ResourceId=[lb.id], TagKey=less)

    # --- vServer groups -----------------------------------------------------------------------------------------------------

    def group_list(self, lb_id: str) -> list[Group]:
        """Names and ids only. `foreign`: the name is not one that the CCM gives."""
        answer = self._slb("DescribeVServerGroups", LoadBalancerId=lb_id)
        return [
            Group(
                name=str(item.get("VServerGroupName") or ""),
                id=str(item.get("VServerGroupId") or ""),
                foreign=names.Owner.parse(str(item.get("VServerGroupName") or "")) is None,
            )
            for item in (answer.get("VServerGroups") or {}).get("VServerGroup") or []
        ]

    def groups(self, svc: Object, lb_id: str) -> list[Group]:
        """With the backends of those that concern this Service: its own, and those that vgroup-port names.

        A group that cannot be read counts as empty from v2.9 on; v2.8 fails. (Both seen in the sources.)
        """
        found = self.group_list(lb_id)
        named = names.named_groups(names.annotation(svc, "vgroup-port"))
        cluster = self._config.cluster

        def read(group: Group) -> None:
            answer = self._slb("DescribeVServerGroupAttribute", VServerGroupId=group.id)
            entries = (answer.get("BackendServers") or {}).get("BackendServer") or []
            group.backends = [backends.as_backend(item, svc, cluster) for item in entries]
            group.foreign = group.foreign or any(item.foreign for item in group.backends)

        mine = []
        for group in found:
            owner = names.Owner.parse(group.name)
            if (owner is not None and owner.same_service(svc, cluster)) or group.id in named:
                mine.append(group)
        if self._config.quirks.parallel_groups:
            if mine:
                parallel([partial(read, group) for group in mine])
        else:
            for group in mine:
                read(group)
        return found

    def apply_group(self, action: GroupAction, lb_id: str, skipped: Callable[[Group, Group], None]) -> None:
        """Creates a group, or adds, removes and updates backends in this order. `skipped(wanted, there)` is told when pods
        without a known interface keep it from removing anything."""
        group = action.wanted
        if action.there is None:
            group.id = str(self._slb("CreateVServerGroup", LoadBalancerId=lb_id, VServerGroupName=group.name)["VServerGroupId"])
            error = joined([self._backends("AddVServerGroupBackendServers", group.id, group.backends)])
            if error:
                raise error
            return
        change = diff(group, action.there)
        errors: list[Exception | None] = []
        added = self._backends("AddVServerGroupBackendServers", group.id, change.add)
        full = added is not None and "InstanceBackendServerNumberOverLimit" in str(added)
        if not full:
            errors.append(added)
        if group.unknown:
            skipped(group, action.there)
        else:
            errors.append(self._backends("RemoveVServerGroupBackendServers", group.id, change.remove))
            errors.append(self._backends("SetVServerGroupAttribute", group.id, change.update))
            if full:
                errors.append(self._backends("AddVServerGroupBackendServers", group.id, change.add))
        error = joined(errors)
        if error:
            raise error

    def _backends(self, action: str, group_id: str, items: list[Backend]) -> Exception | None:
        errors: list[Exception | None] = []
        for start in range(0, len(items), BATCH):
            text = json.dumps([item.as_json() for item in items[start : start + BATCH]], separators=(",", ":"))
            try:
                self._slb(action, VServerGroupId=group_id, BackendServers=text)
            except CcmError as error:
                errors.append(error)
        return joined(errors)

    def remove_backends(self, group: Group, items: list[Backend]) -> None:
        error = self._backends("RemoveVServerGroupBackendServers", group.id, items)
        if error:
            raise error

    def delete_group(self, group: Group) -> None:
        self._slb("DeleteVServerGroup", VServerGroupId=group.id)

    # --- listeners ----------------------------------------------------------------------------------------------------------

    def listeners(self, lb_id: str) -> list[Listener]:
        found: list[Listener] = []
        token = ""
        while True:
            answer = self._slb("DescribeLoadBalancerListeners", LoadBalancerId=[lb_id], MaxResults=50, NextToken=token)
            found += [listeners.as_listener(item) for item in answer.get("Listeners") or []]
            token = str(answer.get("NextToken") or "")
            if not token:
                return found

    def apply_listener(self, action: Action, lb_id: str) -> None:
        new, old = action.new, action.old
        where = {"LoadBalancerId": lb_id, "ListenerPort": new.port}
        if action.kind == "delete":
            self._slb("DeleteLoadBalancerListener", **where, ListenerProtocol=new.protocol)
            return
        kind = new.protocol.upper()
        if old is None:
            full = listeners.with_defaults(new)
            values = {"VServerGroupId": full.group_id, "Description": full.description, **full.settings}
            try:
                self._slb(f"CreateLoadBalancer{kind}Listener", **where, **values)
            except CcmError as error:
                raise CcmError(f"create {new.protocol} listener {new.port} error: {error}") from error
            self._slb("StartLoadBalancerListener", **where, ListenerProtocol=new.protocol)
            return
        if old.status == "stopped":
            self._slb("StartLoadBalancerListener", **where, ListenerProtocol=new.protocol)
        change = listeners.updated(new, old)
        if change is not None:
            values = {"VServerGroupId": change.group_id, "Description": change.description, **change.settings}
            self._slb(f"SetLoadBalancer{kind}ListenerAttribute", **where, VServerGroup="on", **values)

    # --- pods' network interfaces -------------------------------------------------------------------------------------------

    def interfaces(self, addresses: Sequence[str]) -> dict[str, str]:
        """Interface id by private address, of interfaces in use."""
        found: dict[str, str] = {}
        for start in range(0, len(addresses), 100):
            part = list(addresses[start : start + 100])
            limit = 100 if self._config.quirks.eni_after_ports else None
            query = {"VpcId": self._config.vpc, "Status": "InUse", "PrivateIpAddress": part, "MaxResults": limit}
            answer = self._cloud.call("ecs", "DescribeNetworkInterfaces", **query)
            for item in (answer.get("NetworkInterfaceSets") or {}).get("NetworkInterfaceSet") or []:
                for address in (item.get("PrivateIpSets") or {}).get("PrivateIpSet") or []:
                    found[str(address.get("PrivateIpAddress"))] = str(item.get("NetworkInterfaceId"))
        return found

    def vpc_test(self) -> Callable[[str], bool]:
        """A test whether an address lies in the VPC (asks DescribeVpcAttribute now)."""
        answer = self._cloud.call("vpc", "DescribeVpcAttribute", VpcId=self._config.vpc)
        blocks = [
            str(answer.get("CidrBlock") or ""),
            *((answer.get("SecondaryCidrBlocks") or {}).get("SecondaryCidrBlock") or []),
        ]
        nets = [ipaddress.ip_network(block, strict=False) for block in blocks if block]
        return lambda address: any(ipaddress.ip_address(address) in net for net in nets)
