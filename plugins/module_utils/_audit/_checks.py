# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The checks of the preflight. Each is a pure function of the facts."""

from __future__ import annotations

import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._audit._facts import Facts, GatewayFacts
from ansible_collections.servicemesh.migration.plugins.module_utils._audit._finding import Check, Finding
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _ccm
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._ccm import Member
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._clb_view import WEIGHTED, by_port
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._config import ConfigPlan
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._gateway import Wanted, plan_present
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._pair import PairView
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._reuse_checks import present_problems
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._source import rollout_trouble
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._shares import Side, choose

Object = dict[str, t.Any]
Found = t.Iterator[Finding]
# Backends of one vServer group; the default quota of a CLB.
GROUP_QUOTA = 200
# Points between a share asked and the one that the weights can give, from which on it is worth a look.
SHARE_ERROR = 1.0

_GITOPS_KEYS = {
    "argocd.argoproj.io/": "Argo CD",
    "kustomize.toolkit.fluxcd.io/": "Flux (kustomize)",
    "helm.toolkit.fluxcd.io/": "Flux (helm)",
    "meta.helm.sh/": "Helm",
}
_GITOPS_MANAGERS = ("argocd", "kustomize-controller", "helm-controller", "helm", "fleet", "kapp")
# What clb_reuse refuses, by a word of its sentence; everything else is "clb-reuse".
_REUSE_IDS = (
    ("is too old", "ccm-version"),
    ("UDP", "udp-listener"),
    ("session persistence", "session-persistence"),
    ("providerID", "node-provider-id"),
    ("force-override-listeners", "override-listeners"),
    ("belongs to somebody else", "load-balancer-owner"),
    ("was not made by the CCM", "load-balancer-owner"),
    ("another load balancer", "load-balancer-owner"),
    ("several addresses", "load-balancer-owner"),
    ("shared", "load-balancer-owner"),
    ("backends of others", "load-balancer-owner"),
    ("has no listener", "ports"),
    ("has no vServer group", "ports"),
    ("annotation weight", "weights"),
    ("cannot reconcile", "ccm-events"),
)


def identity(facts: Facts) -> Found:
    for side in ("source", "target"):
        uid = facts.uids.get(side)
        if uid is None:
            continue
        said = (facts.options.get(side) or {}).get("cluster_uid")
        hint = "" if said else f"set {side}.cluster_uid to this, and no other cluster will ever be touched"
        yield Finding("cluster-identity", "info", side, f"API server {facts.versions.get(side)}, UID {uid}", hint)
    if len(set(facts.uids.values())) == 1 and len(facts.uids) == 2:
        why = "source and target are the same API server"
        yield Finding("cluster-identity", "error", "target", why, "give target the kubeconfig of the ASM instance")


def permissions(facts: Facts) -> Found:
    for (side, verb, kind, namespace), allowed in facts.need("rights").items():
        if not allowed:
            what = f"the credentials may not {verb} {kind.plural}" + (f" in {namespace}" if namespace else "")
            yield Finding("permissions", "error", side, what, "grant this right; docs/rbac.md lists all that are needed")


def ccm(facts: Facts) -> Found:
    known = _ccm.rules(facts.need("ccm"))
    if known.too_old:
        yield Finding("ccm-version", "error", "source", f"the CCM {known.version} is too old: {known.too_old}", "update it")
    elif not known.known:
        hint = "set ccm_version (ACK console, Add-ons); until then the strictest rules of all versions are kept"
        yield Finding("ccm-version", "warning", "source", "the version of the cloud-controller-manager is not known", hint)
    else:
        yield Finding("ccm-version", "info", "source", f"cloud-controller-manager {known.version}")


def _views(facts: Facts) -> t.Iterator[tuple[GatewayFacts, PairView]]:
    for gateway in facts.gateways.values():
        if gateway.seen.view is not None:
            yield gateway, gateway.seen.view


def retired(facts: Facts) -> Found:
    for gateway in facts.gateways.values():
        if gateway.retired:
            yield Finding("retired", "info", gateway.where, "this migration has retired this gateway already")


def reuse(facts: Facts) -> Found:
    """What clb_reuse would refuse."""
    known = _ccm.rules(facts.ccm or "")
    for gateway, view in _views(facts):
        if gateway.retired:
            continue
        for problem in present_problems(view, facts.originals, known, gateway.events, gateway.twins):
            name = next((found for word, found in _REUSE_IDS if word in problem), "clb-reuse")
            yield Finding(name, "error", gateway.where, problem, "clb_reuse refuses the gateway until this is mended")


def target_gateway(facts: Facts) -> Found:
    """What asm_gateway would refuse, but for what the steps before it will bring."""
    for gateway in facts.gateways.values():
        wanted = Wanted(facts.options["migration"], facts.options.get("cluster_id") or "")
        try:
            plan = plan_present(gateway.seen, wanted)
        except InputError as error:
            yield Finding("target-gateway", "error", error.where, f"{error.what}: {error.why}", error.todo)
            continue
        for refusal in plan.refusals:
            if not refusal.order and not gateway.retired:
                yield Finding("target-gateway", "error", refusal.where, f"{refusal.what}: {refusal.why}", refusal.todo)
        for note in plan.plan.notes:
            yield Finding("target-gateway", "info", gateway.seen.where, note)


def target_listeners(facts: Facts) -> Found:
    """A target gateway that is there already must leave listeners alone, and have the same ports."""
    for gateway in facts.gateways.values():
        made, source = gateway.seen.made.service, gateway.seen.source.service
        if made is None or gateway.seen.gateway is None:
            continue
        where = f"source/{gateway.seen.namespace}/Service/istio-{gateway.seen.name}"
        value = _ccm.annotation(_ccm.annotations_of(made), _ccm.OVERRIDE)
        if value != "false":
            why = f"force-override-listeners is {value or 'not set'}: deleting this Service would delete the listeners"
            hint = 'asm_gateway sets it to "false"; do not delete the Service before'
            yield Finding("override-listeners", "error", where, why, hint)
        mine = {(port["port"], str(port.get("targetPort"))) for port in _ccm.ports_of(made)}
        theirs = {(port["port"], str(port.get("targetPort"))) for port in _ccm.ports_of(source)} if source else mine
        if {port for port, _to in mine} != {port for port, _to in theirs}:
            why = f"its ports are {sorted(port for port, _to in mine)}, the source's are {sorted(port for port, _to in theirs)}"
            yield Finding("ports", "error", where, why, "run asm_gateway, which gives it the same ports")


def protection(facts: Facts) -> Found:
    for _gateway, view in _views(facts):
        balancer = view.balancer
        if balancer.delete_protection != "on":
            hint = "switch it on: it is the last guard against a CCM that deletes a load balancer with its Service"
            yield Finding("protection", "warning", view.where, "delete protection is off", hint)
        what = f"modification protection is {balancer.modification_protection}; it holds in the console, not for the API"
        yield Finding("protection", "info", view.where, what)
        if balancer.status and balancer.status != "active":
            yield Finding("protection", "error", view.where, f"the load balancer is {balancer.status}", "activate it")


def tags(facts: Facts) -> Found:
    for _gateway, view in _views(facts):
        if len(view.balancer.tags) >= _ccm.MAX_TAGS:
            what = f"it has {len(view.balancer.tags)} tags, so that the CCM cannot mark it as reused ({_ccm.TAG_REUSED})"
            yield Finding("tags", "warning", view.where, what, "remove a tag that nobody needs")


def scheduler(facts: Facts) -> Found:
    for _gateway, view in _views(facts):
        for port in view.ports:
            listener = by_port(view.listeners).get(port)
            if listener is not None and listener.scheduler not in WEIGHTED:
                what = f"the scheduler of listener {port} is {listener.scheduler or '?'}, which does not look at weights"
                yield Finding("scheduler", "warning", view.where, what, "clb_reuse sets it to wrr")


def _sides(view: PairView, gateway: GatewayFacts) -> tuple[Side, Side] | None:
    """The two sides as the CCM counts them; a target that is not there yet is taken to be like the source."""
    if not view.ports or view.source is None:
        return None
    counted = [view.counted("source", port) for port in view.ports]
    least = min(counted, key=lambda item: len(item.members))
    source = Side(least.mode, least.members)
    if view.target is not None and gateway.seen.gateway is not None:
        mine = [view.counted("target", port) for port in view.ports]
        smallest = min(mine, key=lambda item: len(item.members))
        if smallest.members:
            return source, Side(smallest.mode, smallest.members)
    if least.mode == "eni":
        hpa, deployment = gateway.seen.source.hpa, gateway.seen.source.deployment or {"spec": {}}
        pods = int(hpa["spec"].get("minReplicas", 1)) if hpa else int(deployment["spec"].get("replicas", 1))
        return source, Side("eni", tuple(Member(f"new pod {number}", "eni") for number in range(pods)))
    return source, source


def step_shares(facts: Facts) -> Found:
    """The share that each step would really give."""
    for gateway, view in _views(facts):
        sides = _sides(view, gateway)
        if sides is None:
            continue
        for step in facts.options.get("steps") or []:
            asked = step.get("share") if isinstance(step, t.Mapping) else step
            try:
                plan = choose(sides[0], sides[1], asked)
            except MigrationError as error:
                yield Finding("step-share", "error", gateway.where, f"{error.what}: {error.why}", error.todo)
                continue
            what = f"a share of {plan.asked:g} % is {plan.planned:.4g} % (weights {plan.source_weight}:{plan.target_weight})"
            far = abs(plan.error) > SHARE_ERROR
            hint = "weights are whole numbers a backend: fewer nodes or pods behind the gateway, or another step, come nearer"
            yield Finding("step-share", "warning" if far else "info", gateway.where, what, hint if far else "")


def ready(facts: Facts) -> Found:
    for gateway in facts.gateways.values():
        source = gateway.seen.source
        if source.deployment is None:
            continue
        where = f"source/{source.namespace}/Deployment/{source.deployment['metadata']['name']}"
        is_ready, lacking, hopeless = rollout_trouble(source.deployment, source.pods)
        if not is_ready:
            yield Finding("gateway-ready", "error", where, hopeless or lacking, "mend the source gateway first")
        elif int(source.deployment["spec"].get("replicas", 1)) < 2:
            what = "it has one pod: the target gets as many, and a node that fails takes all traffic with it"
            yield Finding("gateway-ready", "warning", where, what, "two or more are recommended; see overrides of asm_gateway")
        if source.sharing:
            names = ", ".join(sorted(item["metadata"]["name"] for item in source.sharing))
            what = f"its pods also serve the Services {names}: gateway_retire refuses to remove them"
            yield Finding("gateway-shared", "warning", where, what, "move these Services before the phase finish")


def health(facts: Facts) -> Found:
    for gateway, view in _views(facts):
        for port, found in sorted(gateway.health.items()):
            states = {item.status for item in found}
            if states and "normal" not in states:
                what = f"no backend of port {port} is healthy ({', '.join(sorted(states))})"
                hint = "harmless when nobody uses this port; else mend the source gateway first"
                yield Finding("gateway-health", "warning", view.where, what, hint)


def gitops(facts: Facts) -> Found:
    """A tool that applies the Service again without our annotations makes the CCM take the load balancer apart."""
    for gateway in facts.gateways.values():
        service = gateway.seen.source.service
        if service is None:
            continue
        meta = service["metadata"]
        marks = [*(meta.get("labels") or {}), *(meta.get("annotations") or {})]
        tools = {tool for mark in marks for prefix, tool in _GITOPS_KEYS.items() if mark.startswith(prefix)}
        managers = {str(item.get("manager")) for item in meta.get("managedFields") or []}
        tools |= {name for name in managers if name.startswith(_GITOPS_MANAGERS)}
        if tools:
            what = f"{', '.join(sorted(tools))} manages it; when that drops our annotations, the CCM rebuilds the load balancer"
            hint = "stop its synchronisation of this Service, or put the annotations of the plan of clb_reuse into its source"
            yield Finding("gitops", "warning", gateway.where, what, hint)


def traffic_policy(facts: Facts) -> Found:
    for gateway, view in _views(facts):
        if view.source is None:
            continue
        mode = view.mode("source")
        policy = view.source["spec"].get("externalTrafficPolicy", "Cluster")
        yield Finding("traffic-policy", "info", gateway.where, f"externalTrafficPolicy {policy}, the CCM's mode is {mode}")
        if mode == "local":
            hint = "spread the target's pods over at least as many nodes as the source's"
            what = "only nodes with a ready pod are backends, and their weight follows the number of pods"
            yield Finding("traffic-policy", "warning", gateway.where, what, hint)


def quota(facts: Facts) -> Found:
    for gateway, view in _views(facts):
        sides = _sides(view, gateway)
        for group in view.gateway_groups if sides else []:
            new = 0 if view.own("target", group) else len(t.cast("tuple[Side, Side]", sides)[1].members)
            total = len(group.backends) + new
            if total > GROUP_QUOTA:
                what = f"group {group.id} would have {total} backends, over the default quota of {GROUP_QUOTA}"
                hint = "ask for a higher quota, or label nodes out of the load balancer"
                yield Finding("quota", "warning", view.where, what, hint)


def config(facts: Facts) -> Found:
    """What mesh_config would refuse. The target's own check of each object is asked for by the role, with mesh_config itself."""
    for item in facts.need("config").items:
        if item.action == "conflict":
            hint = "; ".join(item.differences[:3])
            yield Finding("mesh-config", "error", item.where, item.reason, f"make both agree, or see on_conflict ({hint})")
        elif item.action == "refused":
            yield Finding("mesh-config", "error", item.where, item.reason)
    made: ConfigPlan = facts.need("config")
    yield Finding("mesh-config", "info", "target", f"{len(made.items)} objects looked at, {len(made.writes)} to be written")


def secrets(facts: Facts) -> Found:
    for item in facts.need("secrets"):
        where = f"source/{item['namespace']}/Secret/{item['name']}"
        if not item["exists"]:
            hint = "create it where the gateway's pods are, before any traffic moves"
            yield Finding("secrets", "error", where, "a Gateway serves TLS with it (credentialName), and it is not there", hint)
        else:
            yield Finding("secrets", "info", where, "it is where the target gateway will look for it")


CHECKS: dict[str, Check[Facts]] = {
    "cluster-identity": identity,
    "permissions": permissions,
    "ccm-version": ccm,
    "retired": retired,
    "clb-reuse": reuse,
    "target-gateway": target_gateway,
    "override-listeners": target_listeners,
    "protection": protection,
    "tags": tags,
    "scheduler": scheduler,
    "step-share": step_shares,
    "gateway-ready": ready,
    "gateway-health": health,
    "gitops": gitops,
    "traffic-policy": traffic_policy,
    "quota": quota,
    "mesh-config": config,
    "secrets": secrets,
}
