# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cloud in memory for the unit tests: as much of SLB, ECS and VPC as the controller calls. No clock, no network."""

from __future__ import annotations

import json
import threading
from typing import Any

from lab.ccm.cloud import ApiError, flat

Object = dict[str, Any]
_KEPT = ("AddressType", "LoadBalancerName", "DeleteProtection", "ModificationProtectionStatus", "ModificationProtectionReason")


class MemoryCloud:
    """`calls` lists every (action, flat parameters); `failures[action]` is an ApiError code to answer instead."""

    def __init__(self) -> None:
        self.lbs: dict[str, Object] = {}
        self.groups: dict[str, Object] = {}
        self.interfaces: dict[str, str] = {}
        self.cidr = "10.0.0.0/8"
        self.calls: list[tuple[str, dict[str, str]]] = []
        self.failures: dict[str, str] = {}
        self._lock = threading.Lock()
        self._number = 0

    def actions(self) -> list[str]:
        return [action for action, _ in self.calls]

    def call(self, product: str, action: str, **params: Any) -> Object:
        with self._lock:
            query = flat(params)
            self.calls.append((action, query))
            if action in self.failures:
                raise ApiError(action, self.failures[action], "req", f"The {action} failed.")
            for verb, listener in (("CreateLoadBalancer", self._create_listener), ("SetLoadBalancer", self._set_listener)):
                if action.startswith(verb) and "Listener" in action:
                    protocol = action.removeprefix(verb).split("Listener")[0].lower()
                    listener(query, protocol)
                    return {}
            answer = getattr(self, f"_{action}")(query)
            return answer or {}

    def _id(self, prefix: str) -> str:
        self._number += 1
        return f"{prefix}-{self._number}"

    def _lb(self, query: Object) -> Object:
        if query["LoadBalancerId"] not in self.lbs:
            raise ApiError("", "InvalidLoadBalancerId.NotFound", "req", "The specified LoadBalancerId does not exist.")
        return self.lbs[query["LoadBalancerId"]]

    def _group(self, query: Object) -> Object:
        if query["VServerGroupId"] not in self.groups:
            raise ApiError("", "InvalidParameter", "req", "The specified VServerGroupId does not exist.")
        return self.groups[query["VServerGroupId"]]

    @staticmethod
    def _shown(lb: Object) -> Object:
        return {**lb["attributes"], "Tags": {"Tag": [{"TagKey": key, "TagValue": value} for key, value in lb["tags"].items()]}}

    # --- load balancers -----------------------------------------------------------------------------------------------------

    def _CreateLoadBalancer(self, query: Object) -> Object:
        lb_id = self._id("lb")
        tags = {
            value: query[key.replace("Key", "Value")]
            for key, value in query.items()
            if key.startswith("Tag.") and key.endswith("Key")
        }
        attributes = {key: query.get(key, "") for key in _KEPT}
        attributes |= {"LoadBalancerId": lb_id, "Address": f"198.51.100.{self._number}"}
        self.lbs[lb_id] = {"attributes": attributes, "tags": tags, "listeners": {}}
        return {"LoadBalancerId": lb_id, "Address": attributes["Address"]}

    def _DeleteLoadBalancer(self, query: Object) -> None:
        if self._lb(query)["attributes"]["DeleteProtection"] == "on":
            raise ApiError("", "OperationDenied.DeleteProtectionIsOn", "req", "Deletion protection is on.")
        del self.lbs[query["LoadBalancerId"]]
        self.groups = {key: item for key, item in self.groups.items() if item["lb"] != query["LoadBalancerId"]}

    def _DescribeLoadBalancers(self, query: Object) -> Object:
        wanted = {item["TagKey"]: item["TagValue"] for item in json.loads(query.get("Tags", "[]"))}
        name = query.get("LoadBalancerName")
        found = [
            self._shown(lb)
            for lb in self.lbs.values()
            if (not wanted or any(lb["tags"].get(key) == value for key, value in wanted.items()))
            and (not name or lb["attributes"]["LoadBalancerName"] == name)
        ]
        return {"LoadBalancers": {"LoadBalancer": found}}

    def _DescribeLoadBalancerAttribute(self, query: Object) -> Object:
        return self._shown(self._lb(query))

    def _SetLoadBalancerDeleteProtection(self, query: Object) -> None:
        self._lb(query)["attributes"]["DeleteProtection"] = query["DeleteProtection"]

    def _SetLoadBalancerModificationProtection(self, query: Object) -> None:
        self._lb(query)["attributes"]["ModificationProtectionStatus"] = query["ModificationProtectionStatus"]

    def _SetLoadBalancerName(self, query: Object) -> None:
        self._lb(query)["attributes"]["LoadBalancerName"] = query["LoadBalancerName"]

    def _TagResources(self, query: Object) -> None:
        lb = self.lbs[query["ResourceId.1"]]
        lb["tags"] |= {value: query[key.replace("Key", "Value")] for key, value in query.items() if key.endswith(".Key")}

    def _UntagResources(self, query: Object) -> None:
        for key, value in query.items():
            if key.startswith("TagKey."):
                self.lbs[query["ResourceId.1"]]["tags"].pop(value, None)

    def _ListTagResources(self, query: Object) -> Object:
        tags = self.lbs[query["ResourceId.1"]]["tags"]
        return {"TagResources": {"TagResource": [{"TagKey": key, "TagValue": value} for key, value in tags.items()]}}

    # --- vServer groups -----------------------------------------------------------------------------------------------------

    def _CreateVServerGroup(self, query: Object) -> Object:
        group_id = self._id("rsp")
        self.groups[group_id] = {"lb": query["LoadBalancerId"], "name": query["VServerGroupName"], "backends": []}
        return {"VServerGroupId": group_id}

    def _DescribeVServerGroups(self, query: Object) -> Object:
        self._lb(query)
        found = [
            {"VServerGroupId": key, "VServerGroupName": item["name"]}
            for key, item in self.groups.items()
            if item["lb"] == query["LoadBalancerId"]
        ]
        return {"VServerGroups": {"VServerGroup": found}}

    def _DescribeVServerGroupAttribute(self, query: Object) -> Object:
        return {"BackendServers": {"BackendServer": [dict(item) for item in self._group(query)["backends"]]}}

    def _DeleteVServerGroup(self, query: Object) -> None:
        lb = self.lbs[self._group(query)["lb"]]
        if any(item["VServerGroupId"] == query["VServerGroupId"] for item in lb["listeners"].values()):
            raise ApiError("DeleteVServerGroup", "RspoolVipExist", "req", "The specified VServerGroup is in use.")
        del self.groups[query["VServerGroupId"]]

    @staticmethod
    def _sent(query: Object) -> list[Object]:
        return [{key[0].upper() + key[1:]: value for key, value in item.items()} for item in json.loads(query["BackendServers"])]

    @staticmethod
    def _who(item: Object) -> tuple[Any, ...]:
        return item["ServerId"], item["Port"], item.get("ServerIp", "")

    def _AddVServerGroupBackendServers(self, query: Object) -> None:
        there = self._group(query)["backends"]
        there += [item for item in self._sent(query) if self._who(item) not in {self._who(old) for old in there}]

    def _RemoveVServerGroupBackendServers(self, query: Object) -> None:
        gone = {self._who(item) for item in self._sent(query)}
        group = self._group(query)
        group["backends"] = [item for item in group["backends"] if self._who(item) not in gone]

    def _SetVServerGroupAttribute(self, query: Object) -> None:
        group = self._group(query)
        group["name"] = query.get("VServerGroupName", group["name"])
        for item in self._sent(query) if "BackendServers" in query else []:
            for old in group["backends"]:
                if self._who(old) == self._who(item):
                    old.update(Weight=item["Weight"], Description=item["Description"])

    # --- listeners ----------------------------------------------------------------------------------------------------------

    def _create_listener(self, query: Object, protocol: str) -> None:
        lb, port = self._lb(query), int(query["ListenerPort"])
        if port in lb["listeners"]:
            raise ApiError("CreateListener", "ListenerAlreadyExists", "req", "The specified resource already exists.")
        kept = {key: value for key, value in query.items() if key not in ("LoadBalancerId", "ListenerPort")}
        lb["listeners"][port] = {**kept, "ListenerPort": port, "ListenerProtocol": protocol, "Status": "stopped"}

    def _set_listener(self, query: Object, protocol: str) -> None:
        kept = {key: value for key, value in query.items() if key not in ("LoadBalancerId", "ListenerPort", "VServerGroup")}
        self._lb(query)["listeners"][int(query["ListenerPort"])].update(kept)

    def _StartLoadBalancerListener(self, query: Object) -> None:
        self._lb(query)["listeners"][int(query["ListenerPort"])]["Status"] = "running"

    def _DeleteLoadBalancerListener(self, query: Object) -> None:
        del self._lb(query)["listeners"][int(query["ListenerPort"])]

    def _DescribeLoadBalancerListeners(self, query: Object) -> Object:
        found = self.lbs[query["LoadBalancerId.1"]]["listeners"].values()
        return {"Listeners": [{**dict(item), f"{item['ListenerProtocol'].upper()}ListenerConfig": dict(item)} for item in found]}

    # --- ECS and VPC --------------------------------------------------------------------------------------------------------

    def _DescribeNetworkInterfaces(self, query: Object) -> Object:
        asked = [value for key, value in query.items() if key.startswith("PrivateIpAddress.")]
        sets = [
            {"NetworkInterfaceId": self.interfaces[ip], "PrivateIpSets": {"PrivateIpSet": [{"PrivateIpAddress": ip}]}}
            for ip in asked
            if ip in self.interfaces
        ]
        return {"NetworkInterfaceSets": {"NetworkInterfaceSet": sets}}

    def _DescribeVpcAttribute(self, query: Object) -> Object:
        return {"CidrBlock": self.cidr}
