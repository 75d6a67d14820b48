# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The controller's half of vm_identity: what the cluster knows of the mesh, and what it must make for a VM."""

from __future__ import annotations

import dataclasses
import ipaddress
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError, few
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster, Object
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import (
    CONFIG_MAP,
    POD,
    SERVICE,
    kind_of,
    served_as,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._vm import _renewal, _token
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._service_objects import DISCONNECTED, NETWORKING

ROOT_CONFIG_MAP, ROOT_KEY = "istio-ca-root-cert", "root-cert.pem"
API_CONFIG_MAP, API_KEY = "kube-root-ca.crt", "ca.crt"
ACCOUNT, NAMESPACE = kind_of("v1", "ServiceAccount"), kind_of("v1", "Namespace")


@dataclasses.dataclass
class Facts:
    """What the VM needs to know, none of it secret. Plain data, for it travels to the VM."""

    root_cert: str = ""
    addresses: list[str] = dataclasses.field(default_factory=list)
    cluster_id: str = ""
    mesh_id: str = ""
    network: str = ""
    trust_domain: str = ""
    proxy_config: Object = dataclasses.field(default_factory=dict)
    api_server: str = ""
    api_ca: str = ""
    account_uid: str = ""

    def as_dict(self) -> Object:
        return dataclasses.asdict(self)


def observe(cluster: Cluster, options: t.Mapping[str, t.Any]) -> Facts:
    """The mesh as its own ConfigMaps describe it; what is given as an option wins."""
    namespace, system = options["namespace"], options["istio_namespace"]
    if cluster.get(NAMESPACE, namespace) is None:
        todo = "make the namespace (with its label for injection), or check the option namespace"
        raise MigrationError("The namespace of the VM's workload is not there", where=f"source/{namespace}", todo=todo)
    suffix = f"-{options['revision']}" if options.get("revision") else ""
    values = _parsed(cluster, system, f"istio-sidecar-injector{suffix}", "values").get("global") or {}
    mesh = _parsed(cluster, system, f"istio{suffix}", "mesh")
    default = dict(mesh.get("defaultConfig") or {})
    trust = str(mesh.get("trustDomain") or values.get("trustDomain") or "cluster.local")
    facts = Facts(
        root_cert=_certificate(cluster, namespace, ROOT_CONFIG_MAP, ROOT_KEY),
        addresses=addresses(cluster, options),
        cluster_id=str(options.get("cluster_id") or (values.get("multiCluster") or {}).get("clusterName") or "Kubernetes"),
        mesh_id=str(options.get("mesh_id") or values.get("meshID") or default.get("meshId") or trust),
        network=str(options.get("network") or values.get("network") or ""),
        trust_domain=trust,
        proxy_config=default,
    )
    account = cluster.get(ACCOUNT, options["service_account"], namespace)
    facts.account_uid = str(account["metadata"]["uid"]) if account else ""
    if options["renewal"]["method"] == "timer":
        facts.api_server = str(options["renewal"].get("server") or cluster.host).rstrip("/")
        facts.api_ca = _certificate(cluster, namespace, API_CONFIG_MAP, API_KEY)
    return facts


def _parsed(cluster: Cluster, namespace: str, name: str, key: str) -> Object:
    """A ConfigMap's entry, YAML or JSON; empty when a vendor has none of that name."""
    import yaml  # pylint: disable=import-outside-toplevel

    found = cluster.get(CONFIG_MAP, name, namespace)
    try:
        data = yaml.safe_load(str(((found or {}).get("data") or {}).get(key) or "")) or {}
    except yaml.YAMLError as error:
        raise MigrationError(
            "The mesh's own configuration cannot be read", where=f"{namespace}/{name}", why=str(error)
        ) from error
    return data if isinstance(data, dict) else {}


def _certificate(cluster: Cluster, namespace: str, name: str, key: str) -> str:
    found = ((cluster.get(CONFIG_MAP, name, namespace) or {}).get("data") or {}).get(key)
    if not found:
        raise MigrationError(
            "The root certificate is not where it must be",
            where=cluster.where(CONFIG_MAP, name, namespace),
            why=f"there is no such ConfigMap with the key {key}; the control plane writes it into each namespace",
            todo="check that istiod (for istio-ca-root-cert) and the controller manager (for kube-root-ca.crt) are healthy",
        )
    return str(found)


def addresses(cluster: Cluster, options: t.Mapping[str, t.Any]) -> list[str]:
    """Where a VM reaches istiod: as given, the address of a load balancer, or (only when asked) those of the pods."""
    istiod, system = options["istiod"], options["istio_namespace"]
    if istiod["addresses"]:
        for one in istiod["addresses"]:
            try:
                ipaddress.ip_address(one)
            except ValueError as error:
                todo = "give IP addresses; a name would have to be resolved by whom?"
                raise InputError("This is no address of istiod", where=str(one), why=str(error), todo=todo) from error
        return list(istiod["addresses"])
    if istiod["find"] == "pods":
        pods = cluster.list_all(POD, system, label_selector="app=istiod")
        found = sorted(str(pod["status"]["podIP"]) for pod in pods if ready(pod))
        what = "no pod with the label app=istiod is ready"
    else:
        services = cluster.list_all(SERVICE, system)
        found = sorted(
            str(ingress["ip"])
            for service in services
            if (service["spec"].get("selector") or {}).get("app") == "istiod"
            and any(port.get("port") == istiod["port"] for port in service["spec"].get("ports") or [])
            for ingress in ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
            if ingress.get("ip")
        )
        what = f"no Service that selects app=istiod and has the port {istiod['port']} has a load balancer"
    if not found:
        raise MigrationError(
            "It is not known where the VM reaches istiod",
            where=f"{system}/istiod",
            why=what,
            todo="make a Service of type LoadBalancer (or NodePort) for istiod and name it in istiod.addresses and istiod.port; "
            "istiod.find=pods takes the pods' addresses, which change when istiod restarts",
        )
    return found


def ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return bool((pod.get("status") or {}).get("podIP")) and any(
        one["type"] == "Ready" and one["status"] == "True" for one in conditions
    )


# -- plan, apply ---------------------------------------------------------------------------------------------------------------


def plan(cluster: Cluster, options: t.Mapping[str, t.Any]) -> tuple[Plan, list[Object]]:
    """What is to be made in the cluster. What is there and is somebody else's is left as it is."""
    made = Plan()
    objects: list[Object] = []
    namespace, account = options["namespace"], options["service_account"]
    if not cluster.exists(ACCOUNT, account, namespace):
        if not options["create_service_account"]:
            where, todo = cluster.where(ACCOUNT, account, namespace), "make it, or set create_service_account"
            raise MigrationError("The service account is not there", where=where, todo=todo)
        meta = {"name": account, "namespace": namespace, "labels": {_renewal.MANAGED_BY: _renewal.MANAGER}}
        objects.append({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
    if options["renewal"]["method"] == "timer":
        for wanted in _renewal.rights(namespace, account):
            kind = kind_of(wanted["apiVersion"], wanted["kind"])
            found = cluster.get(kind, wanted["metadata"]["name"], namespace)
            if found is None:
                objects.append(wanted)
            elif any(found.get(key) != wanted.get(key) for key in ("rules", "roleRef")):
                where = cluster.where(kind, wanted["metadata"]["name"], namespace)
                why, todo = "somebody else made it or changed it", "look at it, and delete it when it is a leftover"
                raise MigrationError(
                    "What allows the VM to renew its token is not as it must be", where=where, why=why, todo=todo
                )
    for obj in objects:
        kind = kind_of(obj["apiVersion"], obj["kind"])
        rest = {key: value for key, value in obj.items() if key in ("rules", "subjects", "roleRef")}
        reason = "the identity of the VM" if obj["kind"] == "ServiceAccount" else "the VM may renew the token of this account"
        made.add("create", cluster.where(kind, obj["metadata"]["name"], namespace), None, rest, reason)
    return made, objects


def plan_absent(cluster: Cluster, options: t.Mapping[str, t.Any]) -> tuple[Plan, list[tuple[t.Any, str, str]]]:
    """What this module made in the cluster: it knows them by their label."""
    made = Plan()
    found: list[tuple[t.Any, str, str]] = []
    namespace, account = options["namespace"], options["service_account"]
    if users := users_of(cluster, options):
        where = cluster.where(ACCOUNT, account, namespace)
        made.notes.append(f"{where} and its rights stay, because others are still it: {few(users)}")
        return made, found
    role = _renewal.role_name(account)
    group = "rbac.authorization.k8s.io/v1"
    for api, name, one in ((group, "RoleBinding", role), (group, "Role", role), ("v1", "ServiceAccount", account)):
        kind = kind_of(api, name)
        obj = cluster.get(kind, one, namespace)
        if obj is None:
            continue
        where = cluster.where(kind, one, namespace)
        if (obj["metadata"].get("labels") or {}).get(_renewal.MANAGED_BY) != _renewal.MANAGER:
            made.notes.append(f"{where} was not made by this module and stays")
            continue
        made.add("delete", where, {}, None, "all tokens of the account end with it" if name == "ServiceAccount" else "")
        found.append((kind, one, str(obj["metadata"]["uid"])))
    return made, found


def users_of(cluster: Cluster, options: t.Mapping[str, t.Any]) -> list[str]:
    """Who else is in the mesh by this account: pods, and VMs that are registered; what cannot be seen counts as somebody."""
    namespace, account = options["namespace"], options["service_account"]
    found = [
        f"Pod/{pod['metadata']['name']}"
        for pod in cluster.list_all(POD, namespace)
        if (pod.get("spec") or {}).get("serviceAccountName") == account
        and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
    ]
    try:
        entry = served_as(cluster.served(NETWORKING), NETWORKING, "WorkloadEntry")
        for one in cluster.list_all(entry, namespace) if entry else ():
            spec, notes = one.get("spec") or {}, one["metadata"].get("annotations") or {}
            own = bool(options["address"]) and spec.get("address") == options["address"]
            if spec.get("serviceAccount") == account and not own and not notes.get(DISCONNECTED):
                found.append(f"WorkloadEntry/{one['metadata']['name']}")
    except MigrationError as error:
        if error.details.get("status") != 403:
            raise
        found.append(f"perhaps VMs, whose entries cannot be seen ({error.why})")
    return found


def token(cluster: Cluster, options: t.Mapping[str, t.Any], audiences: t.Sequence[str]) -> str:
    """A fresh token. What it says of itself is checked: an API server may give other audiences or a shorter life."""
    namespace, account = options["namespace"], options["service_account"]
    text = str(cluster.request_token(namespace, account, audiences, options["expiration_seconds"]).get("token") or "")
    claims = _token.read(text)
    if claims is None or claims.subject != _token.subject(namespace, account):
        where, todo = cluster.where(ACCOUNT, account, namespace), "check the version of the API server (TokenRequest: 1.20)"
        raise MigrationError("The API server gave no token that can be used", where=where, todo=todo)
    return text
