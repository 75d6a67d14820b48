# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ASM's side of a migration from Istio: the resource ASMMigrateFromIstio, its states, and what each does to the cluster.

Built from these facts (the real controller is not published):
- asmmigratefromistio_types.go of aliyun/alibabacloud-servicemesh-api: the fields of spec and status, cluster scope.
- The vendor's procedure: ASM makes the object `default` in state Init when a cluster with Istio is added; the states go in one
  fixed order; a change of state triggers a check; a check that failed is told in status.message and made again only when
  spec.retryCounter changes; a state is reached when status has the state and the counter of spec; Kubernetes 1.21, Istio 1.10;
  ASM disables the injection in istio-system by the label `istio-injection: disabled`, unless
  stopIstioSystemInjectionDisabling; SetupIstioForMigrate adds PROXY_CONFIG_XDS_AGENT "true" to Istio's defaultConfig; in
  Migrating Istio injects by default and the label `sidecar.asm.aliyun.com/inject: "true"` switches a workload; Finished fails
  while resources of Istio remain, and names them.

What is our choice because nobody says it: an illegal jump is told in status.message (a webhook could refuse it); a failed check
leaves state and counter of status as they were; Migrating needs PROXY_CONFIG_XDS_AGENT in all of Istio's sidecars (the procedure
asks the user for it; gateways it does not name, and istioctl's cannot get it from the ConfigMap); which resources of Istio
Finished looks for.
Two roots: when the meshes' roots differ, each side's mesh configuration gets the other's root (caCertificates), and Istio's
istiod ISTIO_MULTIROOT_MESH. That is what works with Istio; what ASM really adds is not known. ASM's own istiod has that
variable from the beginning, and its root is in a ConfigMap of its own in each namespace, for Istio's is written by Istio.
Injection is a webhook of ASM in the ACK cluster, answered by ASM's istiod (`Injector`); how ASM really arranges it is not known.
From Migrating on it takes labelled pods, and Istio's webhooks get a rule to leave these alone, so that no pod is injected twice;
in Finished it takes all pods of namespaces with istio-injection=enabled. When the cluster leaves the mesh, object, webhook and
rule go; what Istio's mesh configuration got stays. Namespaces are not synchronised to the cluster.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import yaml

from lab.asm.render import ASM_ROOT, ISTIO_ROOT, NAMESPACE, Mesh, Object
from lab.kube import Api, Controller, KubeError, Watch, own_key, path_of

log = logging.getLogger("lab.asm.migrate")
GROUP, NAME = "istio.alibabacloud.com/v1beta1", "default"
STATES = ("Init", "SetupIstioForMigrate", "Migrating", "Finished")
AGENT, LABEL, INJECTION = "PROXY_CONFIG_XDS_AGENT", "sidecar.asm.aliyun.com/inject", "istio-injection"
KEEP = "stopIstioSystemInjectionDisabling"
HOOKS = "admissionregistration.k8s.io/v1"
OBJECT = path_of(GROUP, "asmmigratefromistios", None, NAME)
ISTIOD = path_of("apps/v1", "deployments", NAMESPACE)
MESH_CONFIG = path_of("v1", "configmaps", NAMESPACE, "istio")
ROOT = path_of("v1", "configmaps", NAMESPACE, ISTIO_ROOT)
OWN_HOOK = "asm-sidecar-injector"
OWN_HOOK_PATH = path_of(HOOKS, "mutatingwebhookconfigurations", None, OWN_HOOK)


class CheckFailed(Exception):
    """What has to be mended before a state can be entered; the text is for status.message."""


@dataclass(frozen=True)
class Injector:
    """Where ASM injects sidecars: the URL of the webhook and the authority (PEM, base64) of its certificate.

    :arg network: of the cluster, as ASM's API was told; its sidecars are told by the path, as Istio's external istiod does it.
    """

    url: str
    ca_bundle: str
    network: str = ""

    @property
    def address(self) -> str:
        return f"{self.url}/net/{self.network}" if self.network else self.url


@dataclass(frozen=True)
class IstioProxy:
    """namespace/name of a pod, which may be ending, and the environment of its proxy: a sidecar, or (router) a gateway."""

    name: str
    env: dict[str, str]
    router: bool
    ending: bool


class Migrations:
    """`reconcile(key)` for the one ASMMigrateFromIstio. ``root``: PEM of ASM's root certificate, empty when it is not told."""

    def __init__(self, asm: Api, ack: Api, mesh: Mesh, root: str = "", injector: Injector | None = None) -> None:
        self._asm, self._ack, self._mesh, self._root, self._injector = asm, ack, mesh, root.strip(), injector
        self.member: bool | None = None  # what `follow` was told last
        self._judged: tuple[str, str, int] | None = None  # uid, state and counter of the check that failed last

    def controller(self) -> Controller:
        """The controller, to be started."""
        return Controller(
            [Watch(self._asm, path_of(GROUP, "asmmigratefromistios"), own_key)], self.reconcile, name="migrate", workers=1
        )

    def joined(self) -> None:
        """The cluster was added to the mesh though it has Istio: the migration begins."""
        if self._asm.find(OBJECT) is None:
            spec = {"desiredState": STATES[0], "retryCounter": 0, "advancedOptions": {KEEP: False}}
            body = {"apiVersion": GROUP, "kind": "ASMMigrateFromIstio", "metadata": {"name": NAME}, "spec": spec}
            self._asm.create(path_of(GROUP, "asmmigratefromistios"), body)

    def left(self) -> None:
        """The cluster is not in the mesh any more: pods are Istio's matter again, those with our label too."""
        self._rule_hooks(obey)
        if self._ack.find(OWN_HOOK_PATH) is not None:
            self._ack.delete(OWN_HOOK_PATH)
        if self._asm.find(OBJECT) is not None:
            self._asm.delete(OBJECT)

    def reconcile(self, key: str) -> float | None:
        found = self._asm.find(OBJECT) if key == NAME else None
        if found is None:
            return None
        spec, status = found.get("spec") or {}, found.get("status") or {}
        desired, counter = str(spec.get("desiredState") or STATES[0]), int(spec.get("retryCounter") or 0)
        state = str(status.get("state") or "")
        self._label(bool((spec.get("advancedOptions") or {}).get(KEEP)))
        if not state:
            state = STATES[0]
            self._report(status, state, counter if desired == state else 0, "")
        if desired == state:
            self._report(status, state, counter, "")
            return None
        judged = (str(found["metadata"].get("uid")), desired, counter)
        if self._judged == judged:
            return None  # not before somebody says that it was mended
        try:
            self._enter(state, desired)
        except CheckFailed as failure:
            self._judged = judged
            self._report(status, state, int(status.get("retryCounter") or 0), str(failure))
            return None
        self._judged = None
        self._report(status, desired, counter, "")
        return None

    def _enter(self, state: str, desired: str) -> None:
        if STATES.index(desired) != STATES.index(state) + 1:
            raise CheckFailed(f"cannot change from {state} to {desired}: the order is {' -> '.join(STATES)}")
        steps: dict[str, Callable[[], None]] = {STATES[1]: self._setup, STATES[2]: self._migrate, STATES[3]: self._finish}
        steps[desired]()

    def _report(self, old: Object, state: str, counter: int, message: str) -> None:
        status = {"state": state, "retryCounter": counter, "message": message}
        if old != status:
            log.info("%s, retry %d %s", state, counter, message)
            self._asm.patch(f"{OBJECT}/status", {"status": status})
            old.update(status)

    def _label(self, keep: bool) -> None:
        """Injection in istio-system is disabled by ASM, unless it is told to leave the label alone."""
        path = path_of("v1", "namespaces", None, NAMESPACE)
        found = self._ack.find(path)
        if not keep and found is not None and (found["metadata"].get("labels") or {}).get(INJECTION) != "disabled":
            self._ack.patch(path, {"metadata": {"labels": {INJECTION: "disabled"}}})

    # --- SetupIstioForMigrate ---------------------------------------------------------------------------------------------

    def _setup(self) -> None:
        need("Kubernetes", str(self._ack.get("/version").get("gitVersion") or ""), (1, 21))
        deployments = self._istiods()
        config = self._ack.find(MESH_CONFIG)
        if not deployments or config is None:
            raise CheckFailed(f"no Istio was found in the namespace {NAMESPACE}: no Deployment app=istiod, or no ConfigMap istio")
        for deployment in deployments:
            images = [str(one.get("image")) for one in deployment["spec"]["template"]["spec"]["containers"]]
            need("Istio", images[0].partition("@")[0].rpartition(":")[2], (1, 10))
        roots = self._foreign_roots()
        self._configure(self._ack, config, roots[0], agent=True)
        if roots[1] and (own := self._asm.find(MESH_CONFIG)) is not None:
            self._configure(self._asm, own, roots[1], agent=False)
        if roots[0]:
            for deployment in deployments:
                self._multi_root(deployment)

    def _istiods(self) -> list[Object]:
        return list(self._ack.list(ISTIOD, labelSelector="app=istiod")["items"])

    def _foreign_roots(self) -> tuple[str, str]:
        """The root that Istio has to learn, and the one that ASM has to; both empty when the meshes have one root."""
        theirs = str((self._ack.find(ROOT) or {}).get("data", {}).get("root-cert.pem") or "").strip()
        return (self._root, theirs) if self._root and theirs and theirs != self._root else ("", "")

    def _configure(self, api: Api, config: Object, root: str, *, agent: bool) -> None:
        text = str((config.get("data") or {}).get("mesh") or "")
        try:
            mesh = yaml.safe_load(text) or {}
            if agent:
                mesh.setdefault("defaultConfig", {}).setdefault("proxyMetadata", {})[AGENT] = "true"
            known = [str(one.get("pem") or "").strip() for one in mesh.get("caCertificates") or []]
        except (yaml.YAMLError, AttributeError) as error:
            raise CheckFailed(f"the key mesh of ConfigMap {NAMESPACE}/istio cannot be read") from error
        if root and root not in known:
            mesh["caCertificates"] = [*(mesh.get("caCertificates") or []), {"pem": root}]
        if mesh != yaml.safe_load(text):
            api.patch(MESH_CONFIG, {"data": {"mesh": yaml.safe_dump(mesh, sort_keys=False)}})

    def _multi_root(self, deployment: Object) -> None:
        """Istio's istiod accepts more roots only with this variable; the change rolls its pods."""
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        wanted = {"name": "ISTIO_MULTIROOT_MESH", "value": "true"}
        if wanted in (container.get("env") or []):
            return
        patch = {"spec": {"template": {"spec": {"containers": [{"name": container["name"], "env": [wanted]}]}}}}
        self._ack.patch(f"{ISTIOD}/{deployment['metadata']['name']}", patch, "strategic")

    # --- Migrating, Finished -----------------------------------------------------------------------------------------------

    def _migrate(self) -> None:
        old = [one.name for one in self._istio_proxies() if not (one.router or one.ending or has_agent(one.env))]
        if old:
            raise CheckFailed(f"{len(old)} pods lack {AGENT}; restart their workloads: {names(old)}")
        if self._injector is None:
            return
        self._rule_hooks(leave_alone)
        self._inject(self._injector, labelled_only=True)

    def _inject(self, injector: Injector, *, labelled_only: bool) -> None:
        hook = own_hook(injector, labelled_only=labelled_only)
        self._ack.patch(OWN_HOOK_PATH, hook, "apply", fieldManager="asm-controller", force="true")

    def place(self, network: str) -> None:
        """The cluster is in this network ("": in none): pods that are injected from now on are told. Those that run are not."""
        if self._injector is None:
            return
        self._injector = replace(self._injector, network=network)
        hook = self._ack.find(OWN_HOOK_PATH)
        client = {"url": self._injector.address, "caBundle": self._injector.ca_bundle}
        if hook is not None and any(one["clientConfig"] != client for one in hook["webhooks"]):
            version = {"resourceVersion": hook["metadata"].get("resourceVersion")}
            webhooks = [{**one, "clientConfig": client} for one in hook["webhooks"]]
            self._ack.patch(OWN_HOOK_PATH, {"metadata": version, "webhooks": webhooks})

    def _rule_hooks(self, rule: Callable[[Object], Object]) -> None:
        """Change the object selectors of Istio's injection webhooks, where they are not so already."""
        for hook in self._hooks():
            changed = [rule(one) for one in hook["webhooks"]]
            if changed != hook["webhooks"]:
                path = path_of(HOOKS, "mutatingwebhookconfigurations", None, hook["metadata"]["name"])
                version = {"resourceVersion": hook["metadata"].get("resourceVersion")}
                self._ack.patch(path, {"metadata": version, "webhooks": changed})

    def _finish(self) -> None:
        left = [f"Deployment {NAMESPACE}/{one['metadata']['name']}" for one in self._istiods()]
        left += [f"MutatingWebhookConfiguration {hook['metadata']['name']}" for hook in self._hooks()]
        pods = [one.name for one in self._istio_proxies()]
        if pods:
            left.append(f"{len(pods)} pods with a proxy of Istio ({names(pods)})")
        if left:
            raise CheckFailed(f"resources of Istio remain; clear them: {', '.join(left)}")
        if self._injector is not None:
            self._inject(self._injector, labelled_only=False)

    def _hooks(self) -> list[Object]:
        """Istio's injectors, not ASM's own."""
        found = self._ack.list(path_of(HOOKS, "mutatingwebhookconfigurations"), labelSelector="app=sidecar-injector")["items"]
        return [hook for hook in found if hook["metadata"]["name"] != OWN_HOOK]

    def _istio_proxies(self) -> list[IstioProxy]:
        """Of the pods that run, those with a proxy that is not ASM's."""
        found = []
        for pod in self._ack.list(path_of("v1", "pods"))["items"]:
            if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
                continue
            for one in [*pod["spec"].get("containers", []), *pod["spec"].get("initContainers", [])]:
                env = {item["name"]: str(item.get("value") or "") for item in one.get("env") or []}
                if one["name"] == "istio-proxy" and "ASM_ID" not in env:
                    name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
                    ending = "deletionTimestamp" in pod["metadata"]
                    found.append(IstioProxy(name, env, "router" in (one.get("args") or [])[:2], ending))
        return found


def need(what: str, version: str, least: tuple[int, int]) -> None:
    """A version that says nothing passes."""
    found = re.match(r"v?(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) < least:
        raise CheckFailed(f"{what} {version} is older than {least[0]}.{least[1]}")


def has_agent(env: dict[str, str]) -> bool:
    return env.get(AGENT) == "true" or f'"{AGENT}":"true"' in env.get("PROXY_CONFIG", "").replace(" ", "")


def names(found: list[str]) -> str:
    return ", ".join(sorted(found)[:5]) + (" ..." if len(found) > 5 else "")


_RULE = {"key": LABEL, "operator": "NotIn", "values": ["true"]}


def leave_alone(webhook: Object) -> Object:
    """An injection webhook of Istio that does not look at pods which ask for ASM's sidecar."""
    selector = dict(webhook.get("objectSelector") or {})
    rules = list(selector.get("matchExpressions") or [])
    return webhook if _RULE in rules else {**webhook, "objectSelector": {**selector, "matchExpressions": [*rules, _RULE]}}


def obey(webhook: Object) -> Object:
    """The same webhook as it was before `leave_alone`."""
    selector = dict(webhook.get("objectSelector") or {})
    rules = list(selector.pop("matchExpressions", None) or [])
    if _RULE not in rules:
        return webhook
    rules.remove(_RULE)
    return {**webhook, "objectSelector": {**selector, **({"matchExpressions": rules} if rules else {})}}


def own_hook(injector: Injector, *, labelled_only: bool) -> Object:
    """ASM's injection in namespaces where it is enabled: of pods that ask for it by label, or of all that do not opt out."""
    chosen = {"key": LABEL, "operator": "In", "values": ["true"]}
    others = {"key": LABEL, "operator": "NotIn", "values": ["false"]}
    not_out = {"key": "sidecar.istio.io/inject", "operator": "NotIn", "values": ["false"]}
    webhook = {
        "name": "asm.sidecar-injector.istio.io",
        "clientConfig": {"url": injector.address, "caBundle": injector.ca_bundle},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
        "objectSelector": {"matchExpressions": [chosen if labelled_only else others, not_out]},
        "namespaceSelector": {"matchExpressions": [{"key": INJECTION, "operator": "In", "values": ["enabled"]}]},
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "reinvocationPolicy": "Never",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 10,
    }
    meta = {"name": OWN_HOOK, "labels": {"app": "sidecar-injector", "provider": "asm"}}
    return {"apiVersion": HOOKS, "kind": "MutatingWebhookConfiguration", "metadata": meta, "webhooks": [webhook]}


def spread(ack: Api, root: str) -> None:
    """ASM's root is in every namespace, in a ConfigMap of its own (when the meshes have two)."""
    try:
        found = ack.list(path_of("v1", "configmaps"), fieldSelector=f"metadata.name={ASM_ROOT}")["items"]
        there = {one["metadata"]["namespace"] for one in found}
        for item in ack.list(path_of("v1", "namespaces"))["items"]:
            name = item["metadata"]["name"]
            if name not in there and (item.get("status") or {}).get("phase") == "Active":
                body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": ASM_ROOT}, "data": {"root-cert.pem": root}}
                ack.create(path_of("v1", "configmaps", name), body)
    except (KubeError, OSError) as error:
        log.warning("ASM's root in the namespaces: %s", error)


def follow(migrations: Migrations, members: Callable[[], bool | None]) -> None:
    """One look at who is in the mesh: True the cluster is (and has Istio), False it is not, None nobody knows."""
    try:
        member = members()
        if member is not None and member != migrations.member:
            (migrations.joined if member else migrations.left)()
            migrations.member = member
    except (KubeError, OSError, ValueError) as error:
        log.warning("who is in the mesh: %s", error)
