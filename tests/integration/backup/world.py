# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""API servers with Istio's kinds, and the modules run against them as functions."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _backup_run, _info_run, _restore_run
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind, kind_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _config_run
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import KINDS, kinds_at
from lab import binaries, mesh_asm
from lab.state import Lab
from tests.integration.ccm.plane import Plane, Process

Object = dict[str, Any]
LIMITED = "lab-limited"
CRD = kind_of("apiextensions.k8s.io/v1", "CustomResourceDefinition")
NAMESPACE, SERVICE, SECRET = kind_of("v1", "Namespace"), kind_of("v1", "Service"), kind_of("v1", "Secret")
VIRTUAL_SERVICE = kind_of("networking.istio.io/v1", "VirtualService")


class World(Plane):
    """etcd and an API server with RBAC, Istio's CRDs, and one user without rights."""

    AUTHORIZATION = "RBAC"
    USERS = f"{LIMITED},limited,limited,lab:limited\n"

    def ready(self, lab: Lab) -> World:
        self.start()
        crds = mesh_asm.istio_crds(lab)
        for crd in crds:
            self.cluster.create(CRD, crd)
        for crd in crds:
            name = crd["metadata"]["name"]
            wait(lambda name=name: established(self.cluster.get(CRD, name)), f"{name} is served")
        return self

    @property
    def cluster(self) -> Cluster:
        return Cluster("target", self.options)

    @property
    def options(self) -> Object:
        return {"kubeconfig": str(self.kubeconfig)}

    def limited(self, *rules: Object) -> Object:
        """Options of a user who has these rights only."""
        rbac = "rbac.authorization.k8s.io/v1"
        self.remove(kind_of(rbac, "ClusterRole"), "limited")
        self.remove(kind_of(rbac, "ClusterRoleBinding"), "limited")
        self.cluster.create(
            kind_of(rbac, "ClusterRole"),
            {"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": "limited"}, "rules": list(rules)},
        )
        ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "limited"}
        user = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "limited"}
        binding = {"metadata": {"name": "limited"}, "roleRef": ref, "subjects": [user]}
        self.cluster.create(kind_of(rbac, "ClusterRoleBinding"), {"apiVersion": rbac, "kind": "ClusterRoleBinding", **binding})
        return {**self.options, "api_key": LIMITED}

    def remove(self, kind: Kind, name: str, namespace: str = "") -> None:
        self.cluster.delete(kind, name, namespace)

    def restart(self) -> None:
        """The API server stops and starts again, at the same address."""
        server = self._processes.pop()
        server.stop(grace=3.0)
        self._processes.append(Process(server.argv, server.log))

    def kubectl(self, *argv: str, stdin: str | None = None, check: bool = True) -> str:
        words = [str(binaries.path("kubectl")), f"--kubeconfig={self.kubeconfig}", *argv]
        done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False, env={"HOME": str(self.folder)})
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def wipe(self) -> None:
        """Delete all objects of Istio's kinds, Services, workloads, Secrets and ConfigMaps of the tests' namespaces."""
        from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _scope

        cluster = self.cluster
        kinds = _scope.find_kinds(cluster, _scope.GROUPS, [])
        for kind in [*kinds, SERVICE, SECRET, kind_of("v1", "ConfigMap"), kind_of("v1", "ServiceAccount"), *_scope.WORKLOADS]:
            for obj in list(cluster.list_all(kind)):
                meta = obj["metadata"]
                if meta.get("namespace") in ("kube-system", "kube-public", "kube-node-lease") or meta["name"] == "kubernetes":
                    continue
                if meta.get("finalizers"):
                    cluster.patch(kind, meta["name"], meta.get("namespace", ""), {"metadata": {"finalizers": None}})
                cluster.delete(kind, meta["name"], meta.get("namespace", ""))


def wait(check: Any, what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.05)


def established(crd: Object | None) -> bool:
    conditions = ((crd or {}).get("status") or {}).get("conditions") or []
    return any(entry["type"] == "Established" and entry["status"] == "True" for entry in conditions)


def _defaults(spec: Object) -> Object:
    return {name: option.get("default") for name, option in spec.items()}


def backup(world: World | Object, dest: Path, check: bool = False, **options: Any) -> Outcome:
    source = world if isinstance(world, dict) else world.options
    params = {**_defaults(_backup_run.backup_spec()), **_defaults(_backup_run.key_spec()), "source": source, "dest": str(dest)}
    params["crds"] = "none"  # the tests count objects; those of definitions ask for them
    return _backup_run.run_module({**params, **options}, check)


def info(world: World | None, archive: str | Path, **options: Any) -> Object:
    params = {**_defaults(_backup_run.key_spec()), "archive": str(archive), "compare": world is not None, "list": False}
    source = world.options if world is not None else {}
    return _info_run.run_module({**params, "source": source, **options}, True).result


def restore(world: World, archive: str | Path, check: bool = False, **options: Any) -> Outcome:
    params = {**_defaults(_restore_run.restore_spec()), **_defaults(_backup_run.key_spec()), "target": world.options}
    params |= {"archive": str(archive), "undo_dir": str(world.folder / "undo")}
    return _restore_run.run_module({**params, **options}, check)


def vs(name: str, namespace: str = "shop", **spec: Any) -> Object:
    meta = {"name": name, "namespace": namespace}
    route = {"route": [{"destination": {"host": "web"}}]}
    full = {"hosts": [f"{name[:40]}.example.com"], "http": [route], **spec}
    return {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": meta, "spec": full}


def service(name: str, namespace: str = "shop", **spec: Any) -> Object:
    full = {"selector": {"app": name}, "ports": [{"name": "http", "port": 80}], **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": full}


def secret(name: str, value: str, namespace: str = "shop", **more: Any) -> Object:
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"password": value}, **more}


def make_namespaces(world: World, *names: str) -> None:
    for name in names:
        if world.cluster.get(NAMESPACE, name) is None:
            meta = {"name": name, "labels": {"istio-injection": "enabled"}}
            world.cluster.create(NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": meta})


def make(world: World, *objects: Object) -> None:
    """Create objects, and their namespaces."""
    cluster = world.cluster
    make_namespaces(world, *sorted({obj["metadata"].get("namespace") for obj in objects} - {None}))
    for obj in objects:
        cluster.create(kind_of(obj["apiVersion"], obj["kind"]), json.loads(json.dumps(obj)))


# One valid object of each kind of Istio; the kinds that are not here take an empty one.
SPECS: dict[str, Object] = {
    "ServiceEntry": {
        "hosts": ["outside.example.com"],
        "ports": [{"number": 443, "name": "tls", "protocol": "TLS"}],
        "resolution": "DNS",
    },
    "WorkloadGroup": {"template": {"serviceAccount": "vm"}},
    "WorkloadEntry": {"address": "192.0.2.10"},
    "DestinationRule": {"host": "web"},
    "PeerAuthentication": {"mtls": {"mode": "STRICT"}},
    "RequestAuthentication": {"jwtRules": [{"issuer": "https://example.com"}]},
    "AuthorizationPolicy": {"rules": [{}]},
    "EnvoyFilter": {"configPatches": []},
    "Sidecar": {"egress": [{"hosts": ["./*"]}]},
    "TrafficExtension": {"lua": {"inlineCode": "-- nothing"}},
    "WasmPlugin": {"url": "https://example.com/plugin.wasm"},
    "VirtualService": {"hosts": ["web"], "http": [{"route": [{"destination": {"host": "web"}}]}]},
    "Gateway": {
        "selector": {"app": "web"},
        "servers": [{"hosts": ["*"], "port": {"number": 80, "name": "http", "protocol": "HTTP"}}],
    },
}


def one_of_each(world: World) -> list[Object]:
    """One object of every kind of Istio, two Services, a Secret."""
    served = kinds_at(world.cluster)
    made = [
        {
            "apiVersion": served[name].api_version,
            "kind": name,
            "metadata": {"name": f"a-{name.lower()}", "namespace": "shop"},
            "spec": SPECS.get(name, {}),
        }
        for name in sorted(KINDS)
    ]
    return [*made, service("web"), service("other"), secret("cert", "x")]


def gateway() -> list[Object]:
    """The Service and the Deployment of a source gateway."""
    labels = {"istio": "ingressgateway", "app": "gw"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "istio-proxy", "image": "example.com/proxyv2"}]}}
    meta = {"name": "istio-ingressgateway", "namespace": "istio-system"}
    deployment = {"metadata": meta, "spec": {"selector": {"matchLabels": labels}, "template": pod}}
    return [
        service(meta["name"], meta["namespace"], type="LoadBalancer", selector=labels),
        {"apiVersion": "apps/v1", "kind": "Deployment", **deployment},
    ]


def config(source: World, target: World, /, check: bool = False, **options: Any) -> Outcome:
    """mesh_config from one to the other; the journal is in the target's folder."""
    pair = {"namespace": "istio-system", "source_service": "istio-ingressgateway", "target_gateway": "ingressgateway-asm"}
    params = {**_defaults(_config_run.config_spec()), "migration": "config", "state_dir": str(target.folder / "state")}
    params |= {"source": source.options, "target": target.options, "alibaba": {}, "gateways": [pair], "scope": "all"}
    return _config_run.run_module({**params, **options}, check)
