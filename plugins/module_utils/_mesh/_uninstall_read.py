# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""observe of istio_uninstall: what there is of Istio, who uses it, and what its proxies and istiod say of their clients."""

from __future__ import annotations

import dataclasses
import json
import re
import time
import typing as t
import urllib.parse

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import (
    DEPLOYMENT,
    POD,
    SERVICE,
    Kind,
    kind_of,
    served_as,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _istio_objects as istio
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _istio_use as use
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._asm_migration import istio_version
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._guard import Refusal
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import NETWORKING
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istioctl import Istioctl
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._namespaces import NAMESPACE
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._rollouts import STATEFUL_SET
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._session import Session
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar import live, read_proxies, ready
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar_proof import ask
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._snapshot import kept
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._source import ISTIO_GATEWAY_GROUP
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._uninstall import Inventory, Left, Sorted, sort

Object = dict[str, t.Any]
#: The copies of what this module removes: ``<PREFIX><Kind>/<namespace or _>/<name>`` in the journal.
PREFIX = "source/uninstall/"
SECRET, CRON_JOB = kind_of("v1", "Secret"), kind_of("batch/v1", "CronJob")
_LIST_METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_ALL = "server.total_connections"
_FILTER = urllib.parse.quote(rf"^listener\..*\.downstream_cx_active$|^{re.escape(_ALL)}$")
_STATS = (f"/stats?format=json&filter={_FILTER}", "/clusters?format=json")
# Listeners of the proxy's own: administration, health and metrics. The kubelet and Prometheus ask there.
_OWN = re.compile(r"^listener\.(admin|.*_(15021|15090|15020))\.|\.worker_\d+\.|\.main_thread\.")
_HTTP, _MONITORING = 8080, 15014
_CONNECTED = re.compile(rb"^pilot_xds(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)
_TIMEOUT = 10.0


@dataclasses.dataclass
class Seen:
    """:arg clients, looks: see _istio_use. :arg notes: what could not be read and is no reason against anything."""

    inventory: Inventory
    sorted: Sorted
    census: use.Census
    refusals: list[Refusal]
    clients: dict[str, list[str] | str] = dataclasses.field(default_factory=dict)
    looks: dict[str, list[use.Look | str]] = dataclasses.field(default_factory=dict)
    dormant: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def copy_key(obj: Object) -> str:
    kind, namespace, name = istio.key_of(obj)
    return f"{PREFIX}{kind}/{namespace or '_'}/{name}"


def copies(session: Session) -> list[Object]:
    """What this migration has removed, or was about to."""
    return [t.cast(Object, kept(session.journal, key)) for key in session.journal.originals(PREFIX)]


def objects(cluster: Cluster, namespace: str) -> list[Object]:
    """All that could be Istio's: cluster-wide kinds and the mesh's namespace whole, the rest by label."""
    jobs: list[tuple[Kind, str, str]] = []
    for kind in (*istio.KINDS, *istio.LISTED):
        jobs.append((kind, namespace if kind.namespaced else "", ""))
        if kind.namespaced and kind in istio.KINDS:
            jobs += [(kind, "", selector) for selector in istio.SELECTORS]
    lists = values(each(jobs, lambda job: list(cluster.list_all(job[0], job[1], label_selector=job[2]))))
    found = {istio.key_of(item): item for items in lists for item in items}
    return [found[key] for key in sorted(found)]


def observe(session: Session) -> Seen:
    """Everything that a removal depends on. Raises MigrationError when something of it cannot be read."""
    options, source = session.options, session.source
    namespace, notes = str(options["namespace"]), []
    kinds = (POD, NAMESPACE, SERVICE, DEPLOYMENT, STATEFUL_SET, CRON_JOB)
    pods, namespaces, services, *workloads = values(each(kinds, lambda kind: list(source.list_all(kind))))
    secrets, trouble = _secrets(source, namespace)
    notes += trouble
    seen = Inventory(
        namespace,
        objects(source, namespace),
        pods,
        read_proxies(options["target_proxy"]),
        sorted(str(item["metadata"]["name"]) for item in _listed(session.target, ISTIO_GATEWAY_GROUP, "IstioGateway")),
        tuple(options["revisions"]),
        kept=copies(session),
        readers=_readers(secrets),
    )
    if options["istioctl"]:
        seen.named = _named(session, seen, notes)
    found = sort(seen)
    found.left += [Left(istio.place({**item, "kind": "Secret"}), "no Secret is ever removed") for item in secrets]
    found.left += [
        Left(f"source/CustomResourceDefinition/*.{group}", "configuration of the mesh is stored in it, and ASM shares it")
        for group in sorted(source.groups())
        if group.endswith(".istio.io")
    ]
    found.left.append(Left(f"source/Namespace/{namespace}", "ASM's gateways and this migration's journal are in it"))
    counted = use.census(seen, found)
    refusals = use.use_refusals(counted) + use.steering_refusals(seen, found) + use.reference_refusals(seen, found, services)
    refusals += use.route_refusals(found, _listed(session.target, NETWORKING, "VirtualService"))
    hooks = [item for item in seen.objects if item["kind"] == istio.MUTATING.kind]
    asleep = use.dormant(found, hooks, namespaces, [item for items in workloads for item in items])
    refusals += use.dormant_refusals(asleep, options["dormant"])
    made = Seen(
        seen,
        found,
        counted,
        refusals,
        dormant=asleep,
        notes=notes + use.mentions(seen, found) + use.orphaned(found, hooks, namespaces),
    )
    if options["proof"] == "proxies":
        made.clients = clients(source, seen, found)
        made.refusals += use.client_refusals(counted, made.clients)
    return made


def _listed(target: Cluster, group: str, name: str) -> list[Object]:
    """All objects of a kind; none where the target does not know it."""
    kind = served_as(target.served(group), group, name)
    return list(target.list_all(kind)) if kind else []


def _named(session: Session, seen: Inventory, notes: list[str]) -> list[istio.Key]:
    """istioctl's list. When an earlier run has taken away what istioctl knows a revision by, the copies say what was planned."""
    program = Istioctl(str(session.options["istioctl"]), session.options["source"], seen.namespace)
    notes.append(f"istioctl {program.check_version(istio_version(session.source))} was asked what it would remove")
    ids = istio.labels_of
    found = {ids(item).get(istio.REVISION, "") for item in seen.objects if item["kind"] == "Deployment" and istio.is_istiod(item)}
    revisions = sorted(seen.revisions or (found - {""}) or {"default"})
    try:
        return program.objects(revisions)
    except MigrationError as error:
        if error.details.get("no_revision") and seen.kept:
            return []
        raise


def _secrets(source: Cluster, namespace: str) -> tuple[list[Object], list[str]]:
    """The Secrets of the mesh's namespace, without what they hold."""
    found: list[Object] = []
    token = ""
    try:
        while True:
            page = source.page(SECRET, namespace, token=token, accept=_LIST_METADATA)
            found += page.get("items") or []
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return found, []
    except MigrationError as error:
        if error.details.get("status") != 403:
            raise
        return [], [f"the Secrets of {namespace} may not be listed; none is removed"]


def _readers(secrets: t.Sequence[Object]) -> set[tuple[str, str]]:
    """ServiceAccounts with a token that does not end: what `istioctl create-remote-secret` gives to other control planes."""
    pairs = {
        (item["metadata"]["namespace"], istio.notes_of(item).get("kubernetes.io/service-account.name", "")) for item in secrets
    }
    return {pair for pair in pairs if pair[1]}


# -- asking ------------------------------------------------------------------------------------------------------


def clients(source: Cluster, seen: Inventory, found: Sorted) -> dict[str, list[str] | str]:
    """Who is connected to each istiod that goes; one that is not ready has no clients."""
    planes = [item for item in found.of(DEPLOYMENT.kind) if istio.is_istiod(item)]
    pods = [pod for pod in seen.pods if live(pod) and ready(pod) and any(istio.has_pod(item, pod) for item in planes)]
    answers = each(pods, lambda pod: _clients(source, pod))
    return {use.pod_name(answer.item): answer.value if answer.error is None else _why(answer.error) for answer in answers}  # type: ignore[misc]


def _why(error: MigrationError) -> str:
    return error.why or error.what


def _clients(source: Cluster, pod: Object) -> list[str]:
    """Names of the proxies; where istiod does not tell them, as many nameless ones as its metric counts."""
    try:
        found = json.loads(ask(source, pod, _TIMEOUT, ["/debug/connections"], _HTTP)[0])
        # A connection is called <pod>.<namespace>-<number>.
        return [str(item["connectionId"]).rpartition("-")[0] for item in found.get("clients") or []]
    except (ValueError, KeyError, AttributeError, TypeError):
        pass
    except MigrationError as error:
        if error.details.get("status"):
            raise
    count = sum(float(number) for number in _CONNECTED.findall(ask(source, pod, _TIMEOUT, ["/metrics"], _MONITORING)[0]))
    return [f"a proxy without name ({number})" for number in range(1, int(count) + 1)]


def gateway_clients(source: Cluster, pods: t.Sequence[Object]) -> dict[str, use.Look | str]:
    """What the proxies of gateways say of their connections, one look."""
    answers = each(pods, lambda pod: read_look(*ask(source, pod, _TIMEOUT, _STATS)))
    return {use.pod_name(answer.item): answer.value if answer.error is None else _why(answer.error) for answer in answers}  # type: ignore[misc]


def read_look(stats: bytes, clusters: bytes) -> use.Look:
    """Raises MigrationError when it is no answer. Pure."""
    try:
        found = {str(item.get("name")): int(item["value"]) for item in json.loads(stats)["stats"] if "value" in item}
        passed = {"rq_active": 0, "rq_total": 0}
        for cluster in json.loads(clusters).get("cluster_statuses") or []:
            if not str(cluster.get("name")).startswith("outbound"):
                continue  # its own: metrics, its agent, istiod
            for item in (one for host in cluster.get("host_statuses") or [] for one in host.get("stats") or []):
                if item.get("name") in passed:
                    passed[item["name"]] += int(item.get("value") or 0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MigrationError("A proxy's statistics cannot be read", why=f"{type(error).__name__}: {error}") from error
    listeners = [value for name, value in found.items() if name.startswith("listener.") and not _OWN.search(name)]
    return use.Look(passed["rq_active"], passed["rq_total"], sum(listeners) if listeners else None, found.get(_ALL, 0))


def watch_gateways(session: Session, made: Seen, seconds: float) -> None:
    """Look at the gateways that go, some times in so many seconds, or until one is busy. Their refusals are added."""
    pods = made.census.gateways if session.options["proof"] == "proxies" else []
    until = time.monotonic() + seconds
    while pods:
        for name, look in gateway_clients(session.source, pods).items():
            made.looks.setdefault(name, []).append(look)
        refusals = use.gateway_refusals(made.inventory, made.census, made.looks)
        if refusals or time.monotonic() >= until:
            break
        time.sleep(max(0.2, min(seconds / 3, until - time.monotonic())))
    made.refusals += use.gateway_refusals(made.inventory, made.census, made.looks)
