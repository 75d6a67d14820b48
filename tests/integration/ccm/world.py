# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The words that the cases are written in: nodes, Services, endpoints, annotations, and what the cloud shows."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable
from typing import Any

from lab.ccm.cloud import RpcCloud
from lab.kube import Api, KubeError, path_of
from tests.integration.ccm.cloud import CloudServer
from tests.integration.ccm.implementation import CLUSTER, Ccm

Object = dict[str, Any]
PREFIX = "service.beta.kubernetes.io/alibaba-cloud-loadbalancer-"
OUTCOMES = ("EnsuredLoadBalancer", "SyncLoadBalancerFailed", "CleanLoadBalancer", "CleanLoadBalancerFailed")
WAIT = 10.0


def until(what: str, test: Callable[[], Any], seconds: float = WAIT) -> Any:
    """The first true value of `test`; AssertionError after `seconds`."""
    end, pause = time.monotonic() + seconds, 0.01
    while True:
        value = test()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what} (last: {value!r})")
        time.sleep(pause)
        pause = min(1.2 * pause, 0.1)  # what does not come at once is waited for without keeping the servers busy


class World:
    """One API server, one cloud, one controller. Nodes and Services made here are removed by close()."""

    _number = itertools.count(1)  # of the case

    def __init__(self, api: Api, cloud: CloudServer, ccm: Ccm) -> None:
        # a namespace of its own: a retry that an earlier case left behind must not meet a Service of the same name
        self.ns = f"case-{next(self._number)}"
        api.create(path_of("v1", "namespaces"), {"metadata": {"name": self.ns}})
        self.api = api
        self.cloud = cloud
        self.ccm = ccm
        self.version = ccm.version
        self.rpc: RpcCloud = cloud.rpc
        # the real one handles the change of a node that late, and then reconciles every Service
        self.lag = 0.3 if ccm.real else 0.1
        self._uids: dict[str, str] = {}
        self._hashes: dict[str, tuple[str, str]] = {}  # at the last success: annotations, hash label
        self._nodes: list[str] = []
        self._new_nodes = False
        self._endpoints: set[str] = set()

    # --- the cluster --------------------------------------------------------------------------------------------------------

    def node(self, name: str, provider: str | None = "", ready: bool = True, labels: dict[str, str] | None = None) -> None:
        """provider: "" gives `cn-hangzhou.i-<name>`, None leaves it out."""
        spec = {} if provider is None else {"providerID": provider or f"cn-hangzhou.i-{name}"}
        conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
        obj = {"metadata": {"name": name, "labels": labels or {}}, "spec": spec, "status": {"conditions": conditions}}
        self.api.create(path_of("v1", "nodes"), obj)
        self._nodes.append(name)

    def nodes(self, count: int) -> list[str]:
        """Exactly n0 ... n<count-1>, ready; their instance ids, sorted. They stay for the next case: making them is slow."""
        wanted = [f"n{index}" for index in range(count)]
        there = {item["metadata"]["name"] for item in self.api.list(path_of("v1", "nodes"))["items"]}
        for name in there - set(wanted):
            self.api.delete(path_of("v1", "nodes", None, name))
        for name in wanted:
            if name not in there:
                self.node(name)
                self._nodes.remove(name)
        if there != set(wanted):
            self._new_nodes = True
            time.sleep(self.lag)
        return sorted(f"i-{name}" for name in wanted)

    def service(
        self,
        name: str,
        notes: dict[str, str] | None = None,
        ports: Iterable[int] = (80, 443),
        local: bool = False,
        eni: bool = False,
        raw: dict[str, str] | None = None,
        target: str = "",
    ) -> None:
        """A LoadBalancer Service; `notes` are annotations without their prefix, targetPort is 8000 + port (or `target`)."""
        meta: Object = {"name": name, "annotations": {PREFIX + key: value for key, value in (notes or {}).items()} | (raw or {})}
        if eni:
            meta["annotations"]["service.beta.kubernetes.io/backend-type"] = "eni"
        listed = [{"name": f"p{port}", "port": port, "targetPort": target or 8000 + port, "protocol": "TCP"} for port in ports]
        spec: Object = {"type": "LoadBalancer", "ports": listed, "selector": {"app": name}}
        if local:
            spec["externalTrafficPolicy"] = "Local"
        made = self.api.create(path_of("v1", "services", self.ns), {"metadata": meta, "spec": spec})
        self._uids[name] = str(made["metadata"]["uid"])

    def endpoints(self, name: str, pods: Iterable[tuple[str, str]], ports: Iterable[int] = (80, 443)) -> None:
        """Ready pods (address, node) of a Service: an EndpointSlice, and Endpoints for the older controller."""
        pods = list(pods)
        listed = [{"name": f"p{port}", "port": 8000 + port, "protocol": "TCP"} for port in ports]
        entries = [{"addresses": [ip], "nodeName": node, "conditions": {"ready": True}} for ip, node in pods]
        labels = {"kubernetes.io/service-name": name}
        piece: Object = {
            "metadata": {"name": name, "labels": labels},
            "addressType": "IPv4",
            "ports": listed,
            "endpoints": entries,
        }
        addresses = [{"ip": ip, "nodeName": node} for ip, node in pods]
        subsets = [{"addresses": addresses, "ports": listed}] if pods else []
        older: Object = {"metadata": {"name": name}, "subsets": subsets}
        for version, plural, obj in (("discovery.k8s.io/v1", "endpointslices", piece), ("v1", "endpoints", older)):
            if name in self._endpoints:
                obj["metadata"]["resourceVersion"] = self.api.get(path_of(version, plural, self.ns, name))["metadata"][
                    "resourceVersion"
                ]
                self.api.replace(path_of(version, plural, self.ns, name), obj)
            else:
                self.api.create(path_of(version, plural, self.ns), obj)
        self._endpoints.add(name)

    def path(self, name: str) -> str:
        return path_of("v1", "services", self.ns, name)

    def get(self, name: str) -> Object | None:
        return self.api.find(self.path(name))

    def annotate(self, name: str, **notes: str | None) -> None:
        """`vgroup_port="..."` sets annotation ...-vgroup-port; None takes it away."""
        named = {PREFIX + key.replace("_", "-"): value for key, value in notes.items()}
        self.api.patch(self.path(name), {"metadata": {"annotations": named}})

    def touch(self, name: str) -> None:
        """Any annotation: changes the hash and starts a reconcile at once."""
        patch = {"metadata": {"annotations": {"touched": str(time.monotonic_ns())}}}
        self.api.patch(self.path(name), patch)

    def delete(self, name: str) -> None:
        self.api.delete(self.path(name))

    # --- outcomes -----------------------------------------------------------------------------------------------------------

    def events(self, name: str) -> list[tuple[str, str, int]]:
        """(reason, message, count) of this Service (also after its deletion), in no order."""
        found = self.api.get(path_of("v1", "events", self.ns), fieldSelector=f"involvedObject.uid={self._uids[name]}")
        return [(item["reason"], item["message"], int(item.get("count") or 1)) for item in found["items"]]

    def reasons(self, name: str) -> set[str]:
        return {reason for reason, _, _ in self.events(name)}

    def outcome(self, name: str, action: Callable[[], Any] | None = None) -> tuple[str, str]:
        """Reason and message of the reconcile that `action` starts. The Service must be at rest before."""

        def outcomes() -> dict[tuple[str, str], int]:
            seen: dict[tuple[str, str], int] = {}
            for reason, text, count in self.events(name) if name in self._uids else []:
                if reason in OUTCOMES:
                    seen[reason, text] = seen.get((reason, text), 0) + count
            return seen

        before = outcomes() if action else {}
        if action:
            action()
        # a reconcile that was already waiting (for a node, say) may end first: one that has seen the new annotations
        # has written another hash
        notes, known = self._notes(name), self._hashes.get(name)

        def seen() -> bool:
            return known is None or known[0] == notes or self._label(name) != known[1]

        def news() -> list[tuple[str, str]]:
            found = [key for key, count in outcomes().items() if count > before.get(key, 0)]
            return found if found[:1] and (found[-1][0] != "EnsuredLoadBalancer" or seen()) else []

        fresh = until(f"an outcome of {name}", news)
        if fresh[0][0] == "EnsuredLoadBalancer":
            self._hashes[name] = (notes, self._label(name))
        assert len(fresh) == 1, fresh
        reason, text = fresh[0]
        return str(reason), str(text)

    def _notes(self, name: str) -> str:
        notes = (self.get(name) or {"metadata": {}})["metadata"].get("annotations") or {}
        return json.dumps({key: value for key, value in notes.items() if value}, sort_keys=True)

    def _label(self, name: str) -> str:
        labels = (self.get(name) or {"metadata": {}})["metadata"].get("labels") or {}
        return str(labels.get("service.beta.kubernetes.io/hash", ""))

    def quiet(self) -> None:
        """Waits until the controller has nothing left to do: no call for a while."""

        def calm() -> bool:
            mark = self.cloud.mark()
            time.sleep(self.lag)
            return not self.cloud.calls(mark)

        until("the controller is at rest", calm)

    def ensured(self, name: str, action: Callable[[], Any] | None = None) -> None:
        assert self.outcome(name, action)[0] == "EnsuredLoadBalancer", self.events(name)

    def create(self, name: str, notes: dict[str, str] | None = None, **more: Any) -> str:
        """A Service, reconciled; the id of its load balancer."""
        self.ensured(name, lambda: self.service(name, notes, **more))
        if self._new_nodes:  # their events may still be on the way, and reconcile the Service once more
            self.quiet()
            self._new_nodes = False
        return str((self.get(name) or {})["metadata"]["labels"]["service.k8s.alibaba/loadbalancer-id"])

    # --- the cloud ----------------------------------------------------------------------------------------------------------

    def load_balancer(self, lb_id: str) -> Object:
        return self.rpc.call("slb", "DescribeLoadBalancerAttribute", LoadBalancerId=lb_id)

    def exists(self, lb_id: str) -> bool:
        answer = self.rpc.call("slb", "DescribeLoadBalancers", LoadBalancerId=lb_id)
        return any(item["LoadBalancerId"] == lb_id for item in answer["LoadBalancers"]["LoadBalancer"])

    def tags(self, lb_id: str) -> dict[str, str]:
        answer = self.rpc.call("slb", "ListTagResources", ResourceType="instance", ResourceId=[lb_id])
        return {item["TagKey"]: item["TagValue"] for item in answer["TagResources"]["TagResource"]}

    def untag(self, lb_id: str, *keys: str) -> None:
        self.rpc.call("slb", "UntagResources", ResourceType="instance", ResourceId=[lb_id], TagKey=list(keys))

    def groups(self, lb_id: str) -> dict[str, str]:
        """Name -> id."""
        answer = self.rpc.call("slb", "DescribeVServerGroups", LoadBalancerId=lb_id)
        return {item["VServerGroupName"]: item["VServerGroupId"] for item in answer["VServerGroups"]["VServerGroup"]}

    def rename(self, group_id: str, name: str) -> None:
        self.rpc.call("slb", "SetVServerGroupAttribute", VServerGroupId=group_id, VServerGroupName=name)

    def backends(self, group_id: str) -> list[Object]:
        answer = self.rpc.call("slb", "DescribeVServerGroupAttribute", VServerGroupId=group_id)
        return list(answer["BackendServers"]["BackendServer"])

    def weights(self, group_id: str, service: str) -> list[int]:
        """Weights of the backends that `service` owns (by their Description), sorted."""
        return sorted(int(item["Weight"]) for item in self.backends(group_id) if item["Description"].split("/")[2:3] == [service])

    def set_weight(self, group_id: str, backend: Object, weight: int) -> None:
        """Out of band, as a person in the console does."""
        kept = {key: backend[key] for key in ("ServerId", "Port", "Type", "Description")}
        entry = {**kept, "ServerIp": backend.get("ServerIp", ""), "Weight": weight}
        self.rpc.call("slb", "SetVServerGroupAttribute", VServerGroupId=group_id, BackendServers=json.dumps([entry]))

    def listeners(self, lb_id: str) -> dict[int, Object]:
        answer = self.rpc.call("slb", "DescribeLoadBalancerListeners", LoadBalancerId=[lb_id], MaxResults=50)
        return {int(item["ListenerPort"]): item for item in answer["Listeners"]}

    def user_lb(self, ports: Iterable[int] = (80, 443), scheduler: str = "wrr") -> tuple[str, dict[int, str]]:
        """A load balancer of the user's own, not tagged: listeners and groups `shared-<port>`; its id, port -> group id."""
        lb_id = str(self.rpc.call("slb", "CreateLoadBalancer", AddressType="internet", LoadBalancerName="mine")["LoadBalancerId"])
        ids = {}
        for port in ports:
            made = self.rpc.call("slb", "CreateVServerGroup", LoadBalancerId=lb_id, VServerGroupName=f"shared-{port}")
            ids[port] = str(made["VServerGroupId"])
            where = {"LoadBalancerId": lb_id, "ListenerPort": port}
            more = {"Bandwidth": -1, "Scheduler": scheduler, "VServerGroupId": ids[port], "Description": "mine"}
            self.rpc.call("slb", "CreateLoadBalancerTCPListener", **where, **more)
            self.rpc.call("slb", "StartLoadBalancerListener", **where, ListenerProtocol="tcp")
        return lb_id, ids

    @staticmethod
    def reuse(lb_id: str, ids: dict[int, str], weight: int | None = None, override: str = "false") -> dict[str, str]:
        """The annotations that reuse `lb_id` with these groups."""
        notes = {"id": lb_id, "vgroup-port": ",".join(f"{group}:{port}" for port, group in ids.items())}
        notes["force-override-listeners"] = override
        return notes | ({} if weight is None else {"weight": str(weight)})

    def group_name(self, service: str, port: int) -> str:
        """`k8s/<nodePort>/<service>/default/<cluster>` of a service port."""
        spec = (self.get(service) or {})["spec"]
        node_port = next(item["nodePort"] for item in spec["ports"] if item["port"] == port)
        return f"k8s/{node_port}/{service}/{self.ns}/{CLUSTER}"

    def listener_text(self, service: str, port: int) -> str:
        return f"k8s/{port}/{service}/{self.ns}/{CLUSTER}"

    def close(self) -> None:
        for name in self._uids:
            try:
                self.api.patch(self.path(name), {"metadata": {"finalizers": None}})
            except KubeError as error:
                if error.status != 404:
                    raise
            self.api.delete(self.path(name))
        for name in self._endpoints:
            self.api.delete(path_of("discovery.k8s.io/v1", "endpointslices", self.ns, name))
            self.api.delete(path_of("v1", "endpoints", self.ns, name))
        for name in self._nodes:
            self.api.delete(path_of("v1", "nodes", None, name))
        if self._nodes:
            time.sleep(self.lag)
        self.cloud.clear_faults()
        found = self.rpc.call("slb", "DescribeLoadBalancers", PageSize=100)["LoadBalancers"]["LoadBalancer"]
        for lb_id in (item["LoadBalancerId"] for item in found):
            self.rpc.call("slb", "SetLoadBalancerDeleteProtection", LoadBalancerId=lb_id, DeleteProtection="off")
            self.rpc.call("slb", "DeleteLoadBalancer", LoadBalancerId=lb_id)
