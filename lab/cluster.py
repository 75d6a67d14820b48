# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Kubernetes cluster: etcd, API server, controller manager, scheduler and CoreDNS in the cloud, nodes in machines."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from lab import binaries, kwok, net, pki, proc
from lab.kubeapi import Api, KubeError, Object, path_of
from lab.node import Node
from lab.state import Lab, LabError, write_atomic

REGION = "cn-hangzhou"
ADMIN = ("lab-admin", ("system:masters",))


class CloudApi(Api):
    """A client whose connections are made in the lab's cloud namespace, whatever namespace the caller is in."""

    lab: Lab

    def _send(self, *args: Any, **kwargs: Any) -> Any:
        with net.inside(self.lab):
            return super()._send(*args, **kwargs)

    def _watch_open(self, *args: Any, **kwargs: Any) -> Any:
        with net.inside(self.lab):
            return super()._watch_open(*args, **kwargs)


class Cluster:
    """Cluster number `index` (1 to 9) of a lab: all addresses and ports follow from the number."""

    def __init__(self, lab: Lab, name: str, index: int) -> None:
        if not 1 <= index <= 9:
            raise LabError(f"cluster {name}: the index is 1 to 9, not {index}")
        self.lab, self.name, self.index = lab, name, index
        self.dir = lab.dir / "clusters" / name
        self.pki = self.dir / "pki"
        self.kubeconfig = self.dir / "admin.kubeconfig"
        self.faulty_kubeconfig = self.dir / "faulty.kubeconfig"
        self.server = f"https://{net.CLOUD_ADDRESS}:{6442 + index}"
        self.pod_cidr = f"10.{20 + index}.0.0/16"
        self.service_cidr = f"10.{95 + index}.0.0/16"
        self.dns_service = f"10.{95 + index}.0.10"
        self.dns_address = f"10.10.0.{10 + index}"
        self.proxy_port = 7442 + index
        self._port = 20000 + 100 * index

    # --- names and clients ------------------------------------------------------------------------------------------------

    def node(self, i: int) -> Node:
        """Node i: machine `<cluster>-<i>`, address 10.10.<k>.<10+i>, pods 10.<20+k>.<i>.0/24."""
        return Node(
            lab=self.lab,
            name=f"{self.name}-{i}",
            address=f"10.10.{self.index}.{10 + i}",
            pod_cidr=f"10.{20 + self.index}.{i}.0/24",
            cluster_cidr=self.pod_cidr,
            provider_id=f"{REGION}.i-{self.name}{i}",
            server=self.server,
            dns_service=self.dns_service,
            nameserver=self.dns_address,
        )

    @property
    def nodes(self) -> list[Node]:
        """The nodes that `up` made."""
        return [self.node(i) for i in range(int(self._facts().get("nodes", 0)))]

    def _facts(self) -> dict[str, Any]:
        clusters: dict[str, Any] = self.lab.data.get("clusters", {})
        facts: dict[str, Any] = clusters.get(self.name, {})
        return facts

    @cached_property
    def api(self) -> CloudApi:
        """A client with all rights; usable from any namespace."""
        return self.client()

    def proc_name(self, part: str) -> str:
        """Name of a control plane process for lab.proc: part is etcd, apiserver, kcm, scheduler or dns."""
        return f"{self.name}-{part}"

    def uid(self) -> str:
        """The cluster's identity: the uid of namespace kube-system."""
        return str(self.api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"])

    def kubectl(self, *argv: str, stdin: str | None = None, timeout: float = 60, check: bool = True) -> str:
        """Standard output of kubectl, run in the cloud."""
        words = [str(binaries.path("kubectl")), f"--kubeconfig={self.kubeconfig}", *argv]
        # kubectl keeps its discovery cache under HOME
        return proc.run(self.lab, words, stdin=stdin, timeout=timeout, check=check, env={"HOME": str(self.dir)}).stdout

    def apply(self, manifests: str | list[dict[str, Any]]) -> None:
        """Apply manifests (YAML text or objects) by server-side apply, as field manager `lab`."""
        text = manifests if isinstance(manifests, str) else json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
        self.kubectl("apply", "--server-side", "--force-conflicts", "--field-manager=lab", "-f", "-", stdin=text)

    def wait(self, what: str, check: Callable[[], bool], timeout: float = 60) -> None:
        """Wait for something in the cluster; an API error counts as "not yet"."""

        def ready() -> bool:
            try:
                return check()
            except KubeError:
                return False

        proc.wait_for(ready, timeout, what=f"{what} in cluster {self.name}", pause=0.1)

    # --- start ------------------------------------------------------------------------------------------------------------

    def up(
        self, nodes: int = 2, images: Sequence[Path] = (), say: Callable[[str, float], None] = lambda what, seconds: None
    ) -> None:
        """Start everything and wait until the nodes are Ready. `images`: docker-archive tars that every node is to have."""
        if not 0 <= nodes <= 9:
            raise LabError(f"cluster {self.name}: 0 to 9 nodes, not {nodes}; kwok nodes give more")
        self._certificates()
        with self.lab.lock():
            self.lab.data = self.lab._load()
            self.lab.data.setdefault("clusters", {})[self.name] = {"index": self.index, "nodes": nodes, "server": self.server}
            self.lab.save()
        with ThreadPoolExecutor(max_workers=nodes + 1) as pool:
            began = time.monotonic()
            boots = [pool.submit(self.node(i).start, self._node_files(i), images) for i in range(nodes)]
            self._control_plane(bool(nodes))
            say(f"{self.name}: control plane", time.monotonic() - began)
            for boot in boots:
                boot.result()
        if nodes:
            self.wait_nodes()
            say(f"{self.name}: {nodes} nodes Ready", time.monotonic() - began)

    def down(self) -> None:
        """Take this cluster away while the lab stays up: processes, machines, places in the network, files."""
        nodes = self.nodes
        proc.stop_all(self.lab, [self.proc_name(part) for part in ("dns", "scheduler", "kcm", "apiserver", "etcd")], grace=0)
        for node in nodes:
            node.machine.stop()
            net.remove_port(self.lab, node.name)
            net.unroute(self.lab, node.pod_cidr)
            shutil.rmtree(node.machine.dir, ignore_errors=True)
        net.remove_address(self.lab, f"{self.dns_address}/16")
        shutil.rmtree(self.dir, ignore_errors=True)
        with self.lab.lock():
            self.lab.data = self.lab._load()
            self.lab.data.get("clusters", {}).pop(self.name, None)
            self.lab.save()

    def start_node(self, node: Node) -> None:
        """Switch a node on again that was killed: a fresh root, the images that it had."""
        node.start(self._node_files(int(node.name.rsplit("-", 1)[1])))

    def add_kwok_nodes(self, count: int) -> None:
        """Add simulated nodes (see lab.kwok)."""
        kwok.add_nodes(self, count)

    def wait_nodes(self, timeout: float | None = None) -> None:
        """Wait until every real node is Ready (LAB_NODE_TIMEOUT seconds, 60 if that is not set)."""
        timeout = timeout or float(os.environ.get("LAB_NODE_TIMEOUT") or 60)
        names = {node.name for node in self.nodes}

        def ready() -> bool:
            for node in self.nodes:
                if not node.machine.alive():
                    log = self.lab.logs / f"{node.machine.proc_name}.log"
                    raise LabError(f"machine {node.name} does not run; the end of {log}:\n{proc.tail(log)}")
            return names <= self.ready_nodes()

        try:
            self.wait(f"{len(names)} nodes Ready", ready, timeout)
        except LabError as error:
            for node in self.nodes:
                if node.name not in self.ready_nodes():
                    raise LabError(f"{error}\n{node.name}, the end of its kubelet's log:\n{node.log('kubelet')}") from error
            raise

    def client(self, timeout: float = 30) -> CloudApi:
        """A client with all rights, usable from any namespace; `timeout` in seconds for each answer."""
        api = CloudApi.from_kubeconfig(self.kubeconfig, timeout=timeout)
        assert isinstance(api, CloudApi)
        api.lab = self.lab
        return api

    def ready_nodes(self, api: Api | None = None) -> set[str]:
        """Names of nodes whose condition Ready is True."""
        return {
            node["metadata"]["name"]
            for node in (api or self.api).list("/api/v1/nodes")["items"]
            if any(c["type"] == "Ready" and c["status"] == "True" for c in node.get("status", {}).get("conditions", []))
        }

    def _certificates(self) -> None:
        authority = pki.Authority(self.pki, "ca")
        front = pki.Authority(self.pki, "front-proxy-ca")
        pki.service_account_key(self.pki)
        service_ip = f"10.{95 + self.index}.0.1"
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
        authority.issue_files(
            "apiserver", "kube-apiserver", (), [*names, service_ip, net.CLOUD_ADDRESS, "127.0.0.1", "localhost"]
        )
        authority.issue_files("kubelet-client", "kube-apiserver-kubelet-client", ["system:masters"])
        front.issue_files("front-proxy-client", "front-proxy-client")
        # the fault proxy ends TLS with this one, so that clients trust it like the API server
        authority.issue_files("fault-proxy", "fault-proxy", (), [net.CLOUD_ADDRESS, "127.0.0.1", "localhost"])
        user, groups = ADMIN
        write_atomic(self.kubeconfig, authority.kubeconfig(self.server, user, groups))
        for name in ("kube-controller-manager", "kube-scheduler"):
            write_atomic(self.dir / f"{name}.kubeconfig", authority.kubeconfig(self.server, f"system:{name}"))
        write_atomic(self.dir / "coredns.kubeconfig", authority.kubeconfig(self.server, "lab-dns", ["system:masters"]))
        token = secrets.token_hex(16)
        write_atomic(self.pki / "tokens.csv", f'{token},{user},{user},"{",".join(groups)}"\n')
        proxy = f"https://{net.CLOUD_ADDRESS}:{self.proxy_port}"
        write_atomic(self.faulty_kubeconfig, pki.kubeconfig(proxy, authority.crt.read_text(), user, {"token": token}))

    def _node_files(self, i: int) -> dict[str, str | tuple[str, int]]:
        node, authority = self.node(i), pki.Authority(self.pki, "ca")
        crt, key = authority.issue(f"system:node:{node.name}", ["system:nodes"], [node.name, node.address])
        kubelet = authority.kubeconfig(self.server, f"system:node:{node.name}", ["system:nodes"])
        return {
            "/etc/kubernetes/ca.crt": authority.crt.read_text(),
            "/etc/kubernetes/kubelet.crt": crt,
            "/etc/kubernetes/kubelet.key": (key, 0o600),
            "/etc/kubernetes/kubelet.kubeconfig": (kubelet, 0o600),
            "/etc/kubernetes/kube-proxy.kubeconfig": (authority.kubeconfig(self.server, "system:kube-proxy"), 0o600),
        }

    def _control_plane(self, with_nodes: bool) -> None:
        etcd = f"http://127.0.0.1:{self._port + 1}"
        self._spawn("etcd", "etcd", _flags({
            "name": self.name, "data-dir": self.dir / "etcd", "unsafe-no-fsync": "true", "log-level": "warn",
            "listen-client-urls": etcd, "advertise-client-urls": etcd,
            "listen-peer-urls": f"http://127.0.0.1:{self._port + 2}",
            "initial-advertise-peer-urls": f"http://127.0.0.1:{self._port + 2}",
            "initial-cluster": f"{self.name}=http://127.0.0.1:{self._port + 2}",
        }))  # fmt: skip
        self._spawn("apiserver", "kube-apiserver", self._apiserver_flags(etcd))
        log = self.lab.logs / f"{self.proc_name('apiserver')}.log"
        proc.wait_for(self._readyz, 60, what=f"API server of {self.name}", log=log,
                      gone=lambda: not proc.alive(self.lab, self.proc_name("apiserver")))  # fmt: skip
        self._spawn("kcm", "kube-controller-manager", self._kcm_flags())
        if with_nodes:
            write_atomic(self.dir / "scheduler.json", json.dumps(self._scheduler_config()))
            scheduler = {"config": self.dir / "scheduler.json", "secure-port": self._port + 4, "bind-address": "127.0.0.1"}
            self._spawn("scheduler", "kube-scheduler", _flags(scheduler))
            self._register_nodes()
            self._dns()

    def _spawn(self, part: str, program: str, flags: list[str]) -> None:
        proc.spawn(self.lab, self.proc_name(part), [binaries.path(program), *flags])

    def _readyz(self) -> bool:
        try:
            self.api.get("/readyz")
        except KubeError:
            return False
        return True

    def _apiserver_flags(self, etcd: str) -> list[str]:
        pki_dir = self.pki
        return _flags({
            "etcd-servers": etcd, "bind-address": net.CLOUD_ADDRESS, "advertise-address": net.CLOUD_ADDRESS,
            "secure-port": 6442 + self.index, "service-cluster-ip-range": self.service_cidr,
            "tls-cert-file": pki_dir / "apiserver.crt", "tls-private-key-file": pki_dir / "apiserver.key",
            "client-ca-file": pki_dir / "ca.crt", "token-auth-file": pki_dir / "tokens.csv",
            "service-account-key-file": pki_dir / "sa.pub", "service-account-signing-key-file": pki_dir / "sa.key",
            "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
            "authorization-mode": "Node,RBAC", "enable-admission-plugins": "NodeRestriction", "allow-privileged": "true",
            "kubelet-client-certificate": pki_dir / "kubelet-client.crt", "kubelet-client-key": pki_dir / "kubelet-client.key",
            "kubelet-certificate-authority": pki_dir / "ca.crt", "kubelet-preferred-address-types": "InternalIP",
            "requestheader-client-ca-file": pki_dir / "front-proxy-ca.crt", "requestheader-allowed-names": "front-proxy-client",
            "requestheader-username-headers": "X-Remote-User", "requestheader-group-headers": "X-Remote-Group",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "proxy-client-cert-file": pki_dir / "front-proxy-client.crt",
            "proxy-client-key-file": pki_dir / "front-proxy-client.key",
            # webhook Services are called by endpoint address: there is no kube-proxy in the cloud namespace
            "enable-aggregator-routing": "true", "profiling": "false",
        })  # fmt: skip

    def _kcm_flags(self) -> list[str]:
        return _flags({
            "kubeconfig": self.dir / "kube-controller-manager.kubeconfig", "controllers": "*", "leader-elect": "false",
            "use-service-account-credentials": "true", "root-ca-file": self.pki / "ca.crt",
            "service-account-private-key-file": self.pki / "sa.key", "cluster-cidr": self.pod_cidr,
            "cluster-signing-cert-file": self.pki / "ca.crt", "cluster-signing-key-file": self.pki / "ca.key",
            "bind-address": "127.0.0.1", "secure-port": self._port + 3, "node-monitor-grace-period": "20s",
            # without these a restart of a hundred Deployments takes minutes
            "kube-api-qps": 2000, "kube-api-burst": 4000, "concurrent-deployment-syncs": 10, "concurrent-replicaset-syncs": 10,
            "concurrent-endpoint-syncs": 10, "profiling": "false",
        })  # fmt: skip

    def _scheduler_config(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "clientConnection": {"kubeconfig": str(self.dir / "kube-scheduler.kubeconfig"), "qps": 2000, "burst": 4000},
            "leaderElection": {"leaderElect": False},
        }

    # --- what the cloud tells the cluster ---------------------------------------------------------------------------------

    def _register_nodes(self) -> None:
        """Make the Node objects before kubelet does: pod CIDR and provider id are the cloud's to say, as with a real one."""
        for node in self.nodes:
            net.route(self.lab, node.pod_cidr, node.address)
            self.apply_object("v1", "nodes", node.manifest())

    def apply_object(self, api_version: str, plural: str, obj: Object) -> None:
        """Server-side apply of one object without starting kubectl."""
        meta = obj["metadata"]
        path = path_of(api_version, plural, meta.get("namespace"), meta["name"])
        self.api.patch(path, obj, "apply", fieldManager="lab", force="true")

    def _dns(self) -> None:
        """CoreDNS runs in the cloud, at an address of its own, behind the usual kube-dns Service."""
        net.add_address(self.lab, f"{self.dns_address}/16")
        corefile = f""".:53 {{
    bind {self.dns_address}
    errors
    hosts {self.dir}/hosts {{
        reload 2s
        fallthrough
    }}
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {self.dir}/coredns.kubeconfig
        pods insecure
        ttl 5
        fallthrough in-addr.arpa ip6.arpa
    }}
}}
"""
        write_atomic(self.dir / "Corefile", corefile)
        write_atomic(self.dir / "hosts", "# names that pods and nodes of this cluster can resolve; read again every 2 s\n")
        self._spawn("dns", "coredns", ["-conf", str(self.dir / "Corefile")])
        meta = {"namespace": "kube-system", "name": "kube-dns"}
        ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta,
            "spec": {"clusterIP": self.dns_service, "ports": ports},
        }
        self.apply_object("v1", "services", service)
        labels = {"kubernetes.io/service-name": "kube-dns", "endpointslice.kubernetes.io/managed-by": "lab"}
        self.apply_object("discovery.k8s.io/v1", "endpointslices", {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "ports": ports,
            "metadata": {**meta, "labels": labels},
            "endpoints": [{"addresses": [self.dns_address], "conditions": {"ready": True}}],
        })  # fmt: skip


def _flags(flags: dict[str, Any]) -> list[str]:
    return [f"--{name}={value}" for name, value in flags.items()]
