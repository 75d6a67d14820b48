# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""asm_network: the network that each cluster of an ASM instance is in, and its cross-cluster gateway. plan is pure.

Whether the API keeps clusters that a call leaves out is not documented, so a call names all clusters of the mesh that have one.
"""

from __future__ import annotations

import dataclasses
import re
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._asm import RUNNING, Member, Mesh, Network
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._retry import wait_until
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._asm_session import (
    GATEWAY_VERSION,
    AsmSession,
    mesh_refusals,
    open_asm,
    too_old,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._guard import Refusal, enforce

Object = dict[str, t.Any]
_ADDRESS = re.compile(r"(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3}):(\d{1,5})")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


@dataclasses.dataclass
class Observed:
    mesh: Mesh
    members: dict[str, Member]
    networks: dict[str, Network]
    originals: dict[str, Network] = dataclasses.field(default_factory=dict)

    def where(self, cluster: str) -> str:
        return f"asm/{self.mesh.id}/network/{cluster}"


def plain(network: Network) -> Object:
    """What a user sets; the name of the gateway is ASM's."""
    return {"network": network.network, "enable_gateway": network.gateway, "custom_gateway_address": network.address}


def from_plain(item: t.Mapping[str, t.Any], present: Network) -> Network:
    """What is not said stays as it is."""

    def said(name: str, now: t.Any) -> t.Any:
        return now if item.get(name) is None else item[name]

    return Network(
        str(said("network", present.network)),
        bool(said("enable_gateway", present.gateway)),
        str(said("custom_gateway_address", present.address)),
    )


def check_input(items: t.Sequence[t.Mapping[str, t.Any]]) -> None:
    """Raises InputError for what can be right in no mesh."""
    names = [str(item["cluster_id"]) for item in items]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            "A cluster is named twice in networks", where=", ".join(twice), why="it is in one network only", todo="merge them"
        )
    for item in items:
        where, network, address = str(item["cluster_id"]), item.get("network"), item.get("custom_gateway_address")
        if network and not _NAME.fullmatch(network):
            why = f"{network!r} cannot be a label of Kubernetes, and Istio writes it as one"
            raise InputError(
                "The name of a network cannot be used", where=where, why=why, todo="use the name that Istio uses, like network-1"
            )
        if address and not _good_address(address):
            why = f"{address!r} is not an IPv4 address with a port, like 192.0.2.7:15443"
            raise InputError("The address of a gateway cannot be used", where=where, why=why, todo="mend custom_gateway_address")


def _good_address(text: str) -> bool:
    found = _ADDRESS.fullmatch(text)
    return bool(found) and all(int(part) <= 255 for part in found.groups()[:4]) and 0 < int(found[5]) <= 65535 if found else False


def plan(seen: Observed, wanted: t.Mapping[str, Network]) -> tuple[Plan, list[Refusal]]:
    """A change for each cluster whose network differs."""
    made, refusals = Plan(), []
    for cluster, network in sorted(wanted.items()):
        present = seen.networks.get(cluster, Network())
        member = seen.members.get(cluster)
        if member is None or member.state != RUNNING:
            why = "it is not in the mesh" if member is None else f"its state is {member.state}"
            refusals.append(
                Refusal("The cluster cannot have a network", seen.where(cluster), why, "add it with asm_cluster", order=True)
            )
        if plain(present) == plain(network):
            continue
        if network.gateway and not network.network:
            why = "the gateway serves the clusters of other networks, and this one is in none"
            refusals.append(Refusal("A cross-cluster gateway needs a network", seen.where(cluster), why, "set network"))
        if network.gateway and too_old(seen.mesh.version, GATEWAY_VERSION):
            why = f"it is {seen.mesh.version}, and at least {GATEWAY_VERSION} is needed"
            refusals.append(Refusal("The mesh has no cross-cluster gateways", seen.where(cluster), why, "upgrade the mesh"))
        made.add("set_network", seen.where(cluster), plain(present), plain(network), "the same network as in Istio")
    if made.changes:
        refusals = [*mesh_refusals(seen.mesh), *refusals]
    return made, refusals


def wanted_of(seen: Observed, params: t.Mapping[str, t.Any]) -> dict[str, Network]:
    """What is asked for; or, to restore, what was there before this migration first changed it."""
    if params["state"] == "restored":
        return {key: network for key, network in seen.originals.items() if key in seen.members}
    return {
        str(item["cluster_id"]): from_plain(item, seen.networks.get(item["cluster_id"], Network())) for item in params["networks"]
    }


def mesh_of(journal: Journal, mesh_id: str) -> str:
    """The instance that is named, or whose networks this migration changed; empty when it changed none."""
    found = {key.split("/")[1] for key in journal.originals("asm/") if key.split("/")[2:3] == ["network"]}
    if not mesh_id and len(found) > 1:
        why = f"this migration changed networks of {', '.join(sorted(found))}"
        raise InputError("It is not said which mesh gets its networks back", why=why, todo="set mesh_id")
    return mesh_id or next(iter(found), "")


# -- observe, apply, verify --------------------------------------------------------------------------------------


def observe(session: AsmSession, mesh_id: str) -> Observed:
    seen = Observed(session.asm.mesh(mesh_id), session.asm.members(mesh_id), session.asm.networks(mesh_id))
    prefix = seen.where("")
    for key, value in session.journal.originals(prefix).items():
        seen.originals[key.removeprefix(prefix)] = from_plain(value, Network())
    return seen


def apply(session: AsmSession, seen: Observed, wanted: t.Mapping[str, Network], made: Plan, done: list[str]) -> None:
    """One call a change, each with all networks as they are to be after it."""
    session.journal.keep_originals({change.target: change.before for change in made.changes})
    all_of_them = {key: item for key, item in seen.networks.items() if plain(item) != plain(Network()) and key in seen.members}
    for change in made.changes:
        cluster = change.target.removeprefix(seen.where(""))
        all_of_them[cluster] = wanted[cluster]
        with session.journal.around(change):
            session.asm.set_networks(seen.mesh.id, all_of_them)
        done.append(str(change))


def verify(session: AsmSession, seen: Observed, wanted: t.Mapping[str, Network], timeout: float) -> dict[str, Network]:
    """The mesh shows what was asked for, the gateways that were asked for have a name, and no other cluster changed."""
    expected = {**seen.networks, **wanted}
    last = {"wrong": ""}

    def shown() -> dict[str, Network] | None:
        found = session.asm.networks(seen.mesh.id)
        wrong = [key for key, item in sorted(expected.items()) if plain(found.get(key, Network())) != plain(item)]
        wrong += [
            f"{key} has no gateway yet" for key, item in sorted(wanted.items()) if item.gateway and not found[key].gateway_name
        ]
        last["wrong"] = "not as asked for: " + ", ".join(wrong)
        return None if wrong else found

    return wait_until(
        shown,
        timeout=timeout,
        what="the mesh shows the networks that were asked for",
        where=f"asm/{seen.mesh.id}",
        todo="look at the networks of the mesh in ASM's console, then run again",
        explain=lambda: last["wrong"],
    )


def run_module(params: t.Mapping[str, t.Any], check_mode: bool) -> Outcome:
    """Logic of asm_network. Raises MigrationError."""
    start = time.monotonic()
    check_input(params["networks"] or [])
    session = open_asm(params, check_mode)
    mesh_id = mesh_of(session.journal, str(params["mesh_id"] or "").strip())
    if not mesh_id:
        return Outcome(Plan(), {"networks": {}, "seconds": 0.0})
    seen = observe(session, mesh_id)
    wanted = wanted_of(seen, params)
    made, refusals = plan(seen, wanted)
    warnings, found = enforce(refusals, check_mode), seen.networks
    if not check_mode:
        done: list[str] = []
        try:
            apply(session, seen, wanted, made, done)
            found = verify(session, seen, wanted, float(params["wait_timeout"])) if made.changes else found
        except MigrationError as error:
            error.done = [*error.done, *done]
            error.not_done = [str(change) for change in made.changes if str(change) not in done]
            raise
        if params["state"] == "restored":
            session.journal.forget(seen.where(""))
        session.journal.sync()
    shown = {key: {**plain(item), "gateway_name": item.gateway_name} for key, item in sorted(found.items())}
    return Outcome(made, {"networks": shown, "seconds": round(time.monotonic() - start, 2)}, warnings)
