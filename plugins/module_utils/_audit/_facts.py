# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What the preflight knows: read once, everything at the same time, and what cannot be read is noted, not raised."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._audit._finding import FactMissing, Finding
from ansible_collections.servicemesh.migration.plugins.module_utils._audit._workload_facts import WorkloadFacts, read_workloads
from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._asm import Asm, Network
from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._clb import Clb, Health
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import secrets_of
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    ENDPOINT_SLICE,
    NODE,
    POD,
    SERVICE,
    Kind,
    kind_of,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._mirror import ConfigMapMirror
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _config_read, _snapshot
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._config import ConfigPlan, plan_present, select
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._gateway import Observed
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._gateway_run import observe
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import KINDS
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._proof import health_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._reuse_run import ccm_version, events_of, twins_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._source import (
    HPA,
    ISTIO_GATEWAY_GROUP,
    PDB,
    istio_gateway_kind,
)

Object = dict[str, t.Any]
Right = tuple[str, str, Kind, str]  # side, verb, kind, namespace


@dataclasses.dataclass
class GatewayFacts:
    """One pair. :arg seen: as asm_gateway sees it. :arg events: of the source Service. :arg twins: see twins_of.
    :arg retired: this migration has retired the source gateway. :arg health: port -> what the health check says."""

    seen: Observed
    events: list[Object] = dataclasses.field(default_factory=list)
    twins: list[str] = dataclasses.field(default_factory=list)
    retired: bool = False
    health: dict[int, list[Health]] = dataclasses.field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"source/{self.seen.source.namespace}/Service/{self.seen.source.name}"


@dataclasses.dataclass
class Facts:
    """Each part is None when it could not be read; ``problems`` says why."""

    options: t.Mapping[str, t.Any]
    uids: dict[str, str] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    rights: dict[Right, bool] | None = None
    ccm: str | None = None
    kind: Kind | None = None
    gateways: dict[str, GatewayFacts] = dataclasses.field(default_factory=dict)
    originals: dict[str, t.Any] = dataclasses.field(default_factory=dict)
    config: ConfigPlan | None = None
    secrets: list[Object] | None = None
    workloads: WorkloadFacts | None = None
    networks: dict[str, Network] | None = None
    problems: list[Finding] = dataclasses.field(default_factory=list)

    def need(self, part: str) -> t.Any:
        """A part, or FactMissing."""
        value = getattr(self, part)
        if value is None:
            raise FactMissing(part)
        return value


def needed_rights(gateways: t.Sequence[Object]) -> list[Right]:
    """All that the modules of this migration do in the two clusters."""
    found: list[Right] = []
    for namespace in sorted({gateway["namespace"] for gateway in gateways}):
        found += [("source", verb, SERVICE, namespace) for verb in ("get", "list", "create", "patch", "delete")]
        for kind in (DEPLOYMENT, HPA, PDB):
            found += [("source", verb, kind, namespace) for verb in ("get", "list", "create", "delete")]
        found += [("source", "list", kind, namespace) for kind in (POD, ENDPOINT_SLICE)]
        found += [("source", verb, CONFIG_MAP, namespace) for verb in ("get", "create", "patch")]
        gateway = Kind(f"{ISTIO_GATEWAY_GROUP}/v1beta1", "IstioGateway", "istiogateways")
        found += [("target", verb, gateway, namespace) for verb in ("get", "create", "patch", "delete")]
    found.append(("source", "list", NODE, ""))
    found += [("target", verb, kind_of("v1", "Namespace"), "") for verb in ("list", "create")]
    for name in ("Gateway", "VirtualService", "DestinationRule"):
        kind = kind_of(f"{KINDS[name].group}/v1", name)
        found.append(("source", "list", kind, ""))
        found += [("target", verb, kind, "") for verb in ("get", "list", "create", "update", "delete")]
    return found


def read(params: t.Mapping[str, t.Any]) -> Facts:
    """Read everything. Raises InputError only for options that name no cluster or no load balancer API at all."""
    facts = Facts(params)
    source, target, clb = Cluster("source", params["source"]), Cluster("target", params["target"]), Clb(params["alibaba"])

    def who(side: Cluster) -> tuple[str, str]:
        side.guard()
        return side.version(), side.uid()

    for answer in each((source, target), who):
        side = answer.item
        if answer.value is not None:
            facts.versions[side.name], facts.uids[side.name] = answer.value
        else:
            facts.problems.append(_finding(f"{side.name}-api", t.cast(MigrationError, answer.error)))
    if len(facts.uids) < 2:
        return facts  # nothing else can be known, and nothing must be asked of a wrong cluster
    journal: Journal | None = None
    try:
        mirror = ConfigMapMirror(source, params["migration"])
        journal = Journal(params["state_dir"], params["migration"], mirror=mirror, secrets=secrets_of(params), enabled=False)
        facts.originals = journal.originals()
    except MigrationError as error:
        facts.problems.append(_finding("journal", error))
    jobs: dict[str, t.Callable[[], None]] = {
        "permissions": lambda: _rights(facts, source, target),
        "ccm-version": lambda: _ccm(facts, source),
        "target-gateway": lambda: _gateways(facts, source, target, clb),
    }
    if params.get("workloads"):
        jobs["workloads"] = lambda: _workloads(facts, source)
    if journal is not None:
        known = journal
        jobs["mesh-config"] = lambda: _config(facts, source, target, known)
    for job in each(list(jobs), lambda name: jobs[name]()):
        if job.error is not None:
            facts.problems.append(_finding(job.item, job.error))
    return facts


def _finding(name: str, error: MigrationError) -> Finding:
    return Finding(name, "error", error.where, f"{error.what}: {error.why}" if error.why else error.what, error.todo)


def _rights(facts: Facts, source: Cluster, target: Cluster) -> None:
    sides = {"source": source, "target": target}
    answers = each(needed_rights(facts.options["gateways"]), lambda right: sides[right[0]].can(*right[1:]))
    facts.problems += [_finding("permissions", answer.error) for answer in answers if answer.error]
    facts.rights = {answer.item: bool(answer.value) for answer in answers if answer.error is None}


def _ccm(facts: Facts, source: Cluster) -> None:
    facts.ccm = ccm_version(source, facts.options.get("ccm_version") or "")


def _gateways(facts: Facts, source: Cluster, target: Cluster, clb: Clb) -> None:
    facts.kind = istio_gateway_kind(target)

    def one(gateway: Object) -> GatewayFacts:
        found = GatewayFacts(observe(source, target, clb, gateway, facts.kind))
        prefix = _snapshot.retired_prefix(gateway["namespace"], gateway["source_service"])
        parts = found.seen.source
        # Pods first, Service last: a retirement that was killed leaves a Service without a Deployment.
        begun = parts.service is None or parts.deployment is None
        found.retired = begun and any(key.startswith(prefix) for key in facts.originals)
        if found.seen.source.service is not None and found.seen.view is not None:
            found.events = events_of(source, gateway["namespace"], gateway["source_service"])
            found.twins = twins_of(clb, found.seen.view)
        if found.seen.view is not None:
            found.health = health_of(clb, found.seen.view)
        return found

    for answer in each(facts.options["gateways"], one):
        if answer.error is not None:
            facts.problems.append(_finding("gateway", answer.error))
        else:
            facts.gateways[str(answer.item["target_gateway"])] = t.cast(GatewayFacts, answer.value)


def _workloads(facts: Facts, source: Cluster) -> None:
    """ASM is asked for its networks only when Istio has one, and its instance is named."""
    facts.workloads = read_workloads(source)
    mesh_id = facts.options.get("mesh_id")
    if facts.workloads.network and mesh_id:
        facts.networks = Asm(facts.options["alibaba"]).networks(mesh_id)


def _config(facts: Facts, source: Cluster, target: Cluster, journal: Journal) -> None:
    gateways = facts.options["gateways"]
    seen = _config_read.observe(source, target)
    scope = "all" if facts.options.get("workloads") else "gateway"
    selected = select(seen.source, _config_read.workloads(source, gateways, journal, {}), scope=scope)
    facts.config = plan_present(
        selected,
        seen.target,
        seen.kinds,
        migration=facts.options["migration"],
        target_namespaces=seen.namespaces,
    )
    facts.secrets = _config_read.credentials(source, selected, gateways)
