# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The checks of the preflight that only a move of workloads needs. Each is a pure function of the facts."""

from __future__ import annotations

import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._audit._facts import Facts
from ansible_collections.servicemesh.migration.plugins.module_utils._audit._finding import Check, Finding
from ansible_collections.servicemesh.migration.plugins.module_utils._audit._workload_facts import WorkloadFacts
from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._asm import Network
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._asm_session import (
    ISTIO_VERSION,
    KUBERNETES_VERSION,
    too_old,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._gateway import quantity
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._rollouts import manners

Object = dict[str, t.Any]
Found = t.Iterator[Finding]
# What a quota limits -> where it stands in a container.
_LIMITED = {
    "cpu": ("requests", "cpu"),
    "requests.cpu": ("requests", "cpu"),
    "limits.cpu": ("limits", "cpu"),
    "memory": ("requests", "memory"),
    "requests.memory": ("requests", "memory"),
    "limits.memory": ("limits", "memory"),
}


def versions(facts: Facts) -> Found:
    known: WorkloadFacts = facts.need("workloads")
    found = facts.versions.get("source", "")
    if too_old(found, KUBERNETES_VERSION):
        why = f"the cluster is Kubernetes {found}, and ASM needs at least {KUBERNETES_VERSION}"
        yield Finding("versions", "error", "source", why, "upgrade the cluster")
    tags = [image.partition("@")[0].rpartition(":")[2] for image in known.istiods]
    if not tags:
        why = "no Deployment with the label app=istiod is in istio-system"
        yield Finding(
            "versions", "warning", "source/istio-system", why, "ASM refuses to prepare an Istio that it does not find there"
        )
    for tag in tags:
        if too_old(tag, ISTIO_VERSION):
            why = f"istiod is {tag}, and ASM needs at least {ISTIO_VERSION}"
            yield Finding("versions", "error", "source/istio-system", why, "upgrade Istio")


def revisions(facts: Facts) -> Found:
    known: WorkloadFacts = facts.need("workloads")
    for item in known.namespaces:
        labels = item["metadata"].get("labels") or {}
        revision = labels.get("istio.io/rev")
        if revision and labels.get("istio-injection") != "enabled":
            name = item["metadata"]["name"]
            why = f"its pods are injected by the label istio.io/rev={revision} of the namespace, not by istio-injection=enabled"
            hint = "a dry run before the first wave shows whether ASM takes them; if not, set istio-injection=enabled"
            yield Finding("revision-labels", "warning", f"source/{name}", why, hint)


def surge(facts: Facts) -> Found:
    """Whether a quota has room for the pods that one rollout makes before it takes others away."""
    known: WorkloadFacts = facts.need("workloads")
    for quota in known.quotas:
        place, name = quota["metadata"]["namespace"], quota["metadata"]["name"]
        hard, used = (quota.get("status") or {}).get("hard") or {}, (quota.get("status") or {}).get("used") or {}
        for deployment, pod in known.surging:
            if deployment["metadata"]["namespace"] != place:
                continue
            own = manners(deployment)
            for what, limit in sorted(hard.items()):
                need = _needed(what, pod)
                most, have = quantity(str(limit)), quantity(str(used.get(what, "0")))
                if own.surge and need and most is not None and have is not None and have + need > most:
                    where = f"source/{place}/Deployment/{deployment['metadata']['name']}"
                    why = f"ResourceQuota {name} leaves {most - have:g} {what}, and one more pod needs {need:g}"
                    hint = "raise the quota for the time of the move: without one more pod its rollout does not begin"
                    if own.unavailable:  # then it may go on by taking an old one first
                        hint = "raise the quota for the time of the move: a rollout that takes no old pod first does not begin"
                    yield Finding("surge-quota", "warning" if own.unavailable else "error", where, why, hint)
                    break


def _needed(what: str, pod: Object) -> float:
    """What one more pod like this takes of a quota; 0 for what is not looked at."""
    if what in ("pods", "count/pods"):
        return 1.0
    if what not in _LIMITED:
        return 0.0
    part, name = _LIMITED[what]
    native = [one for one in pod["spec"].get("initContainers") or [] if one.get("restartPolicy") == "Always"]
    given = [((one.get("resources") or {}).get(part) or {}).get(name) for one in [*pod["spec"]["containers"], *native]]
    return sum(quantity(str(value)) or 0.0 for value in given if value is not None)


def filters(facts: Facts) -> Found:
    known: WorkloadFacts = facts.need("workloads")
    for item in known.filters:
        meta = item["metadata"]
        why = "an EnvoyFilter is written for the configuration of one proxy version, and is copied as it is"
        hint = "try it on one workload first (a wave of 1), and look whether its proxy refuses it"
        yield Finding("envoy-filters", "warning", f"source/{meta['namespace']}/EnvoyFilter/{meta['name']}", why, hint)


def roots(facts: Facts) -> Found:
    known: WorkloadFacts = facts.need("workloads")
    if not known.root:
        why = "Istio's root certificate (ConfigMap istio-ca-root-cert) is not to be seen"
        yield Finding(
            "mesh-roots", "warning", "source/istio-system", why, "without it ASM cannot make both meshes trust each other"
        )


def networks(facts: Facts) -> Found:
    """A sidecar that does not know its network takes the servers of others for near, and goes past their gateways."""
    known: WorkloadFacts = facts.need("workloads")
    if not known.network:
        return
    where, cluster = "source/istio-system", facts.options.get("cluster_id") or ""
    planned = {str(item["cluster_id"]): str(item.get("network") or "") for item in facts.options.get("networks") or []}
    hint = "name this cluster and all others of the mesh in asm_network (ack_to_asm_networks in the role), before the first wave"
    if not cluster or not (facts.options.get("mesh_id") or planned):
        why = f"Istio has this cluster in the network {known.network}; without mesh_id and cluster_id ASM cannot be asked"
        yield Finding("mesh-networks", "warning", where, why, hint)
        return
    there = planned.get(cluster) or facts.need("networks").get(cluster, Network()).network
    if there == known.network:
        yield Finding("mesh-networks", "info", where, f"the network {there} is also that of ASM")
    else:
        why = f"Istio has this cluster in the network {known.network}, ASM in {there or 'none'}; gateways would be passed by"
        yield Finding("mesh-networks", "error", where, why, hint)


WORKLOAD_CHECKS: dict[str, Check[Facts]] = {
    "versions": versions,
    "revision-labels": revisions,
    "surge-quota": surge,
    "envoy-filters": filters,
    "mesh-roots": roots,
    "mesh-networks": networks,
}
