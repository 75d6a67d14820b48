# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What the modules of an ASM instance share: the cloud, the journal, a source cluster that need not be named, versions."""

from __future__ import annotations

import dataclasses
import re
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._asm import RUNNING, Asm, Mesh
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import secrets_of
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import POD
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._mirror import ConfigMapMirror
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._guard import Refusal
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar import Proxy, proxy_of

# The vendor's procedure needs at least these.
ASM_VERSION, KUBERNETES_VERSION, ISTIO_VERSION, GATEWAY_VERSION = "1.24", "1.21", "1.10", "1.22"
_NAMED = ("kubeconfig", "host", "in_cluster")


@dataclasses.dataclass
class AsmSession:
    """:arg source: None when no source cluster is named; then the journal has no second home there."""

    options: t.Mapping[str, t.Any]
    asm: Asm
    source: Cluster | None
    journal: Journal


def named_source(options: t.Mapping[str, t.Any]) -> Cluster | None:
    """The source cluster, its identity proven, when it is named at all."""
    given = options.get("source") or {}
    if not any(given.get(name) for name in _NAMED):
        return None
    source = Cluster("source", given)
    source.guard()
    return source


def open_asm(options: t.Mapping[str, t.Any], check_mode: bool) -> AsmSession:
    """Connect. In check mode the journal is only read."""
    source = named_source(options)
    journal = Journal(
        options["state_dir"],
        options["migration"],
        mirror=ConfigMapMirror(source, options["migration"]) if source else None,
        secrets=secrets_of(options),
        enabled=not check_mode,
    )
    return AsmSession(options, Asm(options["alibaba"]), source, journal)


def proxies(cluster: Cluster) -> list[Proxy]:
    """All pods with a proxy of whatever mesh, in all namespaces."""
    return [found for pod in cluster.list_all(POD) if (found := proxy_of(pod)) is not None]


def parts(version: str) -> tuple[int, int]:
    """Major and minor of a version like v1.24.6.64-g5c8f1f4b-aliyun; (0, 0) when it is none."""
    found = re.match(r"v?(\d+)\.(\d+)", version.strip())
    return (int(found[1]), int(found[2])) if found else (0, 0)


def too_old(version: str, least: str) -> bool:
    """Whether a version is known and below the least one."""
    return (0, 0) < parts(version) < parts(least)


def mesh_refusals(mesh: Mesh, least: str = "") -> list[Refusal]:
    """Why nothing may be changed in this mesh now."""
    where, found = f"asm/{mesh.id}", []
    if mesh.state != RUNNING:
        why = f"its state is {mesh.state or 'unknown'}" + (f": {mesh.error}" if mesh.error else "")
        found.append(
            Refusal("The service mesh is not running", where, why, "wait until it is running, or mend it, then run again")
        )
    if least and too_old(mesh.version, least):
        why = f"it is {mesh.version}, and at least {least} is needed"
        found.append(Refusal("The version of the service mesh is too old", where, why, "use a new ASM instance"))
    return found
