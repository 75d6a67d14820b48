# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""asm_cluster: a cluster in or out of an ASM instance, and the kubeconfig of the instance. plan is pure."""

from __future__ import annotations

import dataclasses
import datetime
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._asm import (
    FAILED,
    RUNNING,
    STARTING,
    STOPPING,
    Candidate,
    Member,
    Mesh,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._retry import wait_until
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _asm_kubeconfig as files
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._asm_session import (
    ASM_VERSION,
    KUBERNETES_VERSION,
    AsmSession,
    mesh_refusals,
    open_asm,
    proxies,
    too_old,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._guard import Refusal, enforce
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar import Proxy, listed

Object = dict[str, t.Any]
HAS_NAMESPACE = 4
# ForbiddenFlag of DescribeServiceMeshClusters, as its page lists them.
_FORBIDDEN = {
    1: ("the credentials have no administrator rights on the cluster", "have them granted in the console of ACK"),
    2: ("cluster and mesh are in different VPCs without a CEN between them", "connect the two VPCs with a CEN"),
    3: ("an address range of the cluster conflicts with the mesh", "use a mesh in another network"),
    HAS_NAMESPACE: ("the cluster has a namespace istio-system already", "set ignore_namespace_check when this is a migration"),
}


@dataclasses.dataclass
class Observed:
    """Plain data. :arg proxies: pods of the source with a proxy of this mesh; None when the source is not named."""

    mesh: Mesh
    cluster_id: str
    member: Member | None
    candidate: Candidate | None
    proxies: list[Proxy] | None = None
    given: files.Kubeconfig | None = None
    present: files.Present = dataclasses.field(default_factory=files.Present)

    @property
    def where(self) -> str:
        return f"asm/{self.mesh.id}/cluster/{self.cluster_id}"


@dataclasses.dataclass(frozen=True)
class Wanted:
    state: str = "present"
    ignore_namespace_check: bool = False
    discovery_only: bool = False
    kubeconfig_path: str = ""


def plan(seen: Observed, wanted: Wanted, now: datetime.datetime) -> tuple[Plan, list[Refusal]]:
    """The changes, and why they may not be made."""
    made, refusals = Plan(), []
    if wanted.state == "present":
        refusals += _plan_present(made, seen, wanted)
    elif wanted.state == "absent":
        refusals += _plan_absent(made, seen)
    if seen.given is not None:
        refusals += files.refusals(wanted.kubeconfig_path, seen.given, seen.present, now, seen.mesh.id)
        before = (
            {"fingerprint": seen.present.fingerprint, "mode": f"{seen.present.mode:04o}"} if seen.present.fingerprint else None
        )
        after = {"fingerprint": seen.given.fingerprint, "mode": f"{files.MODE:04o}"}
        if before != after:
            made.add(
                "write",
                wanted.kubeconfig_path,
                before,
                after,
                "the kubeconfig of the mesh's API server; only its owner can read it",
            )
    return made, refusals


def _plan_present(made: Plan, seen: Observed, wanted: Wanted) -> list[Refusal]:
    member = seen.member
    if member is not None and member.state == STOPPING:
        return [
            Refusal(
                "The cluster is being removed from the mesh", seen.where, "its state is stopping", "run again when it has left"
            )
        ]
    if member is not None and member.state not in (RUNNING, STARTING):
        why = f"its state is {member.state or 'unknown'}: {member.error or 'ASM gives no reason'}"
        return [
            Refusal(
                "The cluster is in the mesh and does not work", seen.where, why, "mend the cause, or remove and add the cluster"
            )
        ]
    if member is not None:
        if member.state == STARTING:
            made.notes.append("the cluster is on its way into the mesh already; this run waits for it")
        return []
    found = [*mesh_refusals(seen.mesh, ASM_VERSION), *_join_refusals(seen, wanted)]
    after = {"member": True, "ignore_namespace_check": wanted.ignore_namespace_check, "discovery_only": wanted.discovery_only}
    made.add("add", seen.where, {"member": False}, after, "ASM then makes the resource that steers the migration")
    return found


def _join_refusals(seen: Observed, wanted: Wanted) -> list[Refusal]:
    one = seen.candidate
    if one is None:
        why = "ASM lists no cluster of this id for the account and region"
        return [
            Refusal(
                "The cluster is not known",
                seen.where,
                why,
                "check cluster_id and alibaba.region; register a self-built cluster first",
            )
        ]
    found = []
    if one.mesh and one.mesh != seen.mesh.id:
        why = f"it is in {one.mesh}, and a cluster is in one mesh at most"
        found.append(
            Refusal("The cluster is in another service mesh", seen.where, why, "remove it there first, or check mesh_id")
        )
    if one.state != RUNNING:
        found.append(
            Refusal(
                "The cluster is not running", seen.where, f"its state is {one.state or 'unknown'}", "start it, then run again"
            )
        )
    if too_old(one.version, KUBERNETES_VERSION):
        why = f"it is {one.version}, and at least {KUBERNETES_VERSION} is needed"
        found.append(Refusal("The version of the cluster is too old", seen.where, why, "upgrade the cluster"))
    if one.forbidden and not (one.forbidden == HAS_NAMESPACE and wanted.ignore_namespace_check):
        why, todo = _FORBIDDEN.get(
            one.forbidden, (f"ASM gives the reason {one.forbidden}", "look at the cluster in ASM's console")
        )
        found.append(Refusal("The cluster may not be added to a mesh", seen.where, why, todo))
    return found


def _plan_absent(made: Plan, seen: Observed) -> list[Refusal]:
    if seen.member is None:
        return []
    if seen.member.state == STOPPING:
        made.notes.append("the cluster is on its way out of the mesh already; this run waits for it")
        return []
    found = mesh_refusals(seen.mesh)
    if seen.proxies is None:
        why = "without source nobody can see whether a pod still uses the mesh"
        found.append(Refusal("It is not said which cluster this is", seen.where, why, "set source"))
    elif seen.proxies:
        why = f"{len(seen.proxies)} pods have a proxy of it: {listed(seen.proxies)}"
        found.append(
            Refusal(
                "The mesh is in use in this cluster", seen.where, why, "move the workloads back and remove the gateways first"
            )
        )
    reason = "the namespace istio-system stays, whoever made what is in it"
    made.add("remove", seen.where, {"member": True}, {"member": False}, reason)
    return found


# -- observe, apply, verify --------------------------------------------------------------------------------------


def observe(session: AsmSession, wanted: Wanted, mesh_id: str, cluster_id: str) -> Observed:
    mesh = session.asm.mesh(mesh_id)
    member = session.asm.members(mesh_id).get(cluster_id)
    seen = Observed(mesh, cluster_id, member, None)
    if wanted.state == "present" and member is None:
        seen.candidate = session.asm.candidates(mesh_id).get(cluster_id)
    if wanted.state == "absent" and session.source is not None:
        seen.proxies = [item for item in proxies(session.source) if item.mesh == mesh_id]
    if wanted.kubeconfig_path:
        text, expires = session.asm.kubeconfig(mesh_id, bool(session.options["kubeconfig_private"]))
        seen.given, seen.present = files.read(text, expires), files.look(wanted.kubeconfig_path)
    return seen


def ended(session: AsmSession, seen: Observed, timeout: float) -> None:
    """Pods that end are waited for: what is left of a gateway that was just removed answers its last requests."""

    source = session.source
    if source is None:
        return  # nobody could look for pods, and there are none in what was seen

    def gone() -> bool | None:
        seen.proxies = [item for item in proxies(source) if item.mesh == seen.mesh.id]
        return True if not all(item.ending for item in seen.proxies) or not seen.proxies else None

    if seen.proxies and all(item.ending for item in seen.proxies):
        wait_until(
            gone,
            timeout=timeout,
            what="the last pods with a proxy of the mesh have ended",
            where=seen.where,
            todo="look why these pods do not end, then run again",
            explain=lambda: listed(seen.proxies or []),
        )


def apply(session: AsmSession, seen: Observed, wanted: Wanted, made: Plan, done: list[str]) -> None:
    for change in made.changes:
        if change.action == "add":
            session.journal.keep_original(f"{seen.where}/member", False)
        with session.journal.around(change):
            if change.action == "add":
                session.asm.add(
                    seen.mesh.id,
                    seen.cluster_id,
                    ignore_namespace_check=wanted.ignore_namespace_check,
                    discovery_only=wanted.discovery_only,
                )
            elif change.action == "remove":
                session.asm.remove(seen.mesh.id, seen.cluster_id)
            elif seen.given is not None:
                files.write(wanted.kubeconfig_path, seen.given.text)
        done.append(str(change))


def verify(session: AsmSession, seen: Observed, wanted: Wanted, timeout: float) -> Member | None:
    """Wait until the cluster is in the mesh and works, or is out of it; a join that failed is told at once."""
    last = {"state": ""}

    def joined() -> Member | None:
        member = session.asm.members(seen.mesh.id).get(seen.cluster_id)
        last["state"] = f"its state is {member.state}" if member else "ASM does not list it"
        if member is not None and member.state == FAILED:
            raise MigrationError(
                "The cluster could not join the mesh",
                where=seen.where,
                why=member.error or "ASM gives no reason",
                todo="mend the cause, remove the cluster from the mesh, then run again",
            )
        return member if member is not None and member.state == RUNNING else None

    def left() -> bool | None:
        member = session.asm.members(seen.mesh.id).get(seen.cluster_id)
        last["state"] = f"its state is {member.state}" if member else ""
        return True if member is None else None

    found: Member | None = seen.member
    common: Object = {"timeout": timeout, "where": seen.where, "todo": "look at the cluster in ASM's console, then run again"}
    if wanted.state == "present":
        found = wait_until(joined, what="the cluster is in the mesh and works", explain=lambda: last["state"], **common)
    elif wanted.state == "absent":
        wait_until(left, what="the cluster is out of the mesh", explain=lambda: last["state"], **common)
        found = None
        session.journal.forget(f"{seen.where}/member")
    if seen.given is not None:
        _verify_file(wanted.kubeconfig_path, seen.given)
    return found


def _verify_file(path: str, given: files.Kubeconfig) -> None:
    now = files.look(path)
    if (now.fingerprint, now.mode) != (given.fingerprint, files.MODE):
        why = "it is not what was written" if now.fingerprint != given.fingerprint else f"its mode is {now.mode:04o}"
        raise MigrationError(
            "The kubeconfig is not as it must be", where=path, why=why, todo="see who else writes it, then run again"
        )


def wanted_of(params: t.Mapping[str, t.Any]) -> Wanted:
    for name in ("mesh_id", "cluster_id"):
        if not str(params[name] or "").strip() and params["state"] != "restored":
            raise InputError(
                f"The option {name} is empty", todo=f"set {name}; the console of ASM and ACK show ids like c0a1b2c3..."
            )
    return Wanted(
        params["state"],
        bool(params["ignore_namespace_check"]),
        bool(params["discovery_only"]),
        str(params["kubeconfig_path"] or ""),
    )


def added_by(journal: Journal, mesh_id: str, cluster_id: str) -> list[tuple[str, str]]:
    """``(mesh, cluster)`` of what this migration added; an id that is empty is any."""
    found = []
    for key, value in journal.originals("asm/").items():
        parts = key.split("/")
        if value is False and len(parts) == 5 and parts[4] == "member":
            found.append((parts[1], parts[3]))
    return [pair for pair in found if mesh_id in ("", pair[0]) and cluster_id in ("", pair[1])]


def run_module(params: t.Mapping[str, t.Any], check_mode: bool) -> Outcome:
    """Logic of asm_cluster. Raises MigrationError."""
    wanted, start = wanted_of(params), time.monotonic()
    session = open_asm(params, check_mode)
    mesh_id, cluster_id = str(params["mesh_id"] or "").strip(), str(params["cluster_id"] or "").strip()
    if wanted.state == "restored":
        added = added_by(session.journal, mesh_id, cluster_id)
        if len(added) > 1:
            why = "this migration added " + ", ".join(f"{cluster} to {mesh}" for mesh, cluster in added)
            raise InputError("It is not said which cluster leaves its mesh", why=why, todo="set mesh_id and cluster_id")
        if not added and not (mesh_id and cluster_id):
            return Outcome(Plan(), {"mesh": {}, "cluster": {}, "kubeconfig": {}, "seconds": 0.0})
        wanted = dataclasses.replace(wanted, state="absent" if added else "queried")
        mesh_id, cluster_id = added[0] if added else (mesh_id, cluster_id)
    seen = observe(session, wanted, mesh_id, cluster_id)
    if not check_mode:
        ended(session, seen, float(params["wait_timeout"]))
    made, refusals = plan(seen, wanted, datetime.datetime.now(tz=datetime.UTC))
    warnings = enforce(refusals, check_mode)
    member = seen.member
    done: list[str] = []
    if not check_mode:
        try:
            apply(session, seen, wanted, made, done)
            member = verify(session, seen, wanted, float(params["wait_timeout"]))
        except MigrationError as error:
            error.done = [*error.done, *done]
            error.not_done = [str(change) for change in made.changes if str(change) not in done]
            raise
        session.journal.sync()
    result = {
        "mesh": {key: value for key, value in dataclasses.asdict(seen.mesh).items() if value},
        "cluster": dataclasses.asdict(member) if member else {"id": seen.cluster_id, "state": "absent"},
        "kubeconfig": {"path": wanted.kubeconfig_path, **seen.given.as_dict()} if seen.given else {},
        "seconds": round(time.monotonic() - start, 2),
    }
    return Outcome(made, result, warnings)
