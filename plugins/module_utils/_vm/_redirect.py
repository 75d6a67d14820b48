# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""vm_redirect: observe, plan, apply behind an armed timer, verify; then, over a new connection, confirm."""

from __future__ import annotations

import dataclasses
import typing as t
import uuid

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._vm import _redirect_guard as guard
from ansible_collections.servicemesh.migration.plugins.module_utils._vm import _redirect_host as host
from ansible_collections.servicemesh.migration.plugins.module_utils._vm import _redirect_tables as tables
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._redirect_options import probes_of, wanted_of
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._redirect_probe import prove
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._redirect_shape import DNS_PORT, Wanted, build
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._redirect_tables import Ours

Params = t.Dict[str, t.Any]  # noqa: UP006 - a VM's Python may be older than the controller's


@dataclasses.dataclass
class Seen:
    """What is there, and what is wanted in the words of this machine's iptables."""

    tables: dict[host.Tool, tables.Tables]
    live: dict[host.Tool, Ours]
    wanted: dict[host.Tool, Ours]
    tops: dict[host.Tool, dict[tuple[str, str], int]]
    routes: dict[str, tuple[list[str], list[str]]]
    routes_there: set[str]
    confirmed: dict[str, t.Any]
    boot: str
    notes: list[str]

    def programs(self) -> dict[host.Tool, dict[str, list[str]]]:
        """What is to be loaded; a tool for which nothing changes is left out."""
        found = {tool: tables.program(self.live[tool], self.wanted[tool], self.tops.get(tool)) for tool in self.live}
        return {tool: lines for tool, lines in found.items() if lines}


def vm_redirect(params: Params, check: bool) -> Outcome:
    """The module."""
    host.need_root()
    store = guard.Store(params["state_dir"])
    if check:
        return _run(params, store, check=True)
    with store.locked():
        if params["confirm"]:
            return _confirm(params, store)
        return _run(params, store, check=False)


def _run(params: Params, store: guard.Store, check: bool) -> Outcome:
    present = params["state"] == "present"
    note = _pending_note(store) if check else guard.settle(store)
    wanted = wanted_of(params, _guards(params, store))
    seen = observe(params, wanted, store, present)
    if note:
        seen.notes.append(note)
    outcome = Outcome(plan(seen, wanted, store, params, present))
    if present and seen.programs():
        _proxy_ready(wanted, seen, check)
    outcome.result = {
        "backend": params["backend"] if params["backend"] != "auto" else host.backend_in_use("auto"),
        "excluded_ssh_ports": [int(port) for port in wanted.guards],
        "rules": {str(tool): part.text() for tool, part in seen.wanted.items() if part},
        "confirmed": bool(not outcome.plan.changed),
    }
    if check or not outcome.plan.changed:
        if not check and not present:
            store.remove()
        return outcome
    if present:
        outcome.result.update(apply(seen, store, params, outcome.plan))
    else:
        remove(seen, store, params, wanted)
    return outcome


def _pending_note(store: guard.Store) -> str:
    if store.read("pending") is None:
        return ""
    return "a change of another run is not proven yet; this plan is made from what is there now"


def _guards(params: Params, store: guard.Store) -> list[str]:
    """Ports that are never captured: once a way in, always a way in."""
    connection = host.ssh_connection()
    before = (store.read("confirmed") or {}).get("guards", [])
    ports = {22, *params["ssh_ports"], *(int(port) for port in before), *([int(connection[3])] if connection else [])}
    return [str(port) for port in sorted(ports)]


# --- observe -------------------------------------------------------------------------------------------------------------------


def observe(params: Params, wanted: Wanted, store: guard.Store, present: bool) -> Seen:
    backend = host.backend_in_use(params["backend"])
    found: dict[host.Tool, tables.Tables] = {}
    for tool in host.tools(backend):
        read = host.read(tool)
        if read is not None:
            found[tool] = read
    planned: dict[host.Tool, Ours] = {}
    tops: dict[host.Tool, dict[tuple[str, str], int]] = {}
    for family in wanted.families:
        mine = next((tool for tool in found if (tool.backend, tool.family) == (backend, family)), None)
        if mine is None and present:
            raise MigrationError(
                f"The packet filter of IPv{family} cannot be read",
                where=f"{'iptables' if family == 4 else 'ip6tables'}-save ({backend})",
                todo="load the kernel's packet filter, or leave ipv6 off" if family == 6 else "look at dmesg and lsmod",
            )
        if mine is not None:
            rules = build(wanted, family)
            tops[mine] = tables.tops(rules)
            alone = tables.wanted_ours(rules)
            planned[mine] = host.rehearse(mine, tables.program(Ours(), alone, tops[mine])) if present else alone
    confirmed = store.read("confirmed") or {}
    notes: list[str] = []
    live: dict[host.Tool, Ours] = {}
    for tool, content in found.items():
        record = confirmed.get("after", {}).get(tool.key)
        live[tool] = tables.ours(content, tables.counted(Ours.of(record)) if record else {})
        if live[tool] and not confirmed:
            # another program's: what it made by the same options looks as it would if we had made it
            live[tool] = tables.ours(content, tables.counted(planned.get(tool, Ours())))
        if live[tool] and tool.backend != backend:
            notes.append(f"rules of the mesh are also in {tool}, which this machine's iptables does not show")
        if live[tool] and not confirmed and present:
            notes.append(f"rules that another program made are in {tool}; they are replaced")
        if tool.backend != backend and tables.foreign(content, live[tool]).get("nat") and present:
            notes.append(f"somebody else's rules are in the nat table of {tool}; both back ends see each packet")
    # what goes, goes whole: also the routes that another program made for rules that are gone by now
    routes = host.routes(wanted if present else dataclasses.replace(wanted, tproxy=True, ipv6=True, inbound_ports=("*",)))
    routes.update({name: (words[0], words[1]) for name, words in confirmed.get("routes", {}).items() if name not in routes})
    return Seen(
        tables=found,
        live=live,
        wanted={tool: planned.get(tool, Ours()) if present else Ours() for tool in found},
        tops=tops,
        routes=routes,
        routes_there=host.routes_there(routes),
        confirmed=confirmed,
        boot="",
        notes=notes,
    )


def _proxy_ready(wanted: Wanted, seen: Seen, check: bool) -> None:
    """A redirect to nobody takes the machine out of the network."""
    ports = {wanted.proxy_port, *([wanted.inbound_port] if wanted.inbound_ports else [])}
    missing = sorted(ports - host.listening())
    if wanted.dns_capture and DNS_PORT not in host.listening("udp"):
        missing.append(DNS_PORT)
    if missing and check:
        seen.notes.append(f"nothing listens on {', '.join(map(str, missing))} yet; without the proxy the rules are not written")
    elif missing:
        raise MigrationError(
            f"No proxy listens on port {', '.join(map(str, missing))} of this machine",
            why="what is redirected would be refused",
            todo="start the proxy first (vm_proxy), or give the ports that it really listens on",
        )


# --- plan ----------------------------------------------------------------------------------------------------------------------


def plan(seen: Seen, wanted: Wanted, store: guard.Store, params: Params, present: bool) -> Plan:
    found = Plan(notes=seen.notes)
    for tool in seen.programs():
        before, after = seen.live[tool], seen.wanted[tool]
        verb = "redirect" if after and not before else "change" if after else "clean"
        found.add(verb, str(tool), before.text() or None, after.text() or None, _why(before, after))
    needed = host.routes(wanted) if present else {}
    for name in seen.routes:
        if (name in needed) != (name in seen.routes_there):
            there = name in seen.routes_there
            found.add("unroute" if there else "route", name, name if there else None, None if there else name, "TPROXY and IPv6")
    for port in wanted.kept() if present else ():
        found.notes.append(f"inbound port {port} is not captured: Ansible or sshd comes in by it")
    added = [name for name in needed if name in seen.routes]
    adds = [" ".join(seen.routes[name][0]) for name in added]
    seen.boot = guard.boot_script({tool: part for tool, part in seen.wanted.items() if part}, seen.tops, adds) if present else ""
    persist = present and params["persist"]
    if persist and not guard.has_systemd():
        found.notes.append("there is no systemd: after a reboot this task has to be run again")
    elif persist and not guard.persisted(store, seen.boot):
        found.add("persist", guard.UNIT, None, str(store.folder / "boot.sh"), "the rules are written again after a reboot")
    elif not persist and (guard.UNITS / guard.UNIT).exists():
        found.add("unpersist", guard.UNIT, str(store.folder / "boot.sh"), None, "a reboot brings no rules any more")
    return found


def _why(before: Ours, after: Ours) -> str:
    if not after:
        return "no redirect is wanted here"
    return "the rules differ from those of the proxy's version and options" if before else "there is no redirect yet"


# --- apply, verify -------------------------------------------------------------------------------------------------------------


def apply(seen: Seen, store: guard.Store, params: Params, made: Plan) -> dict[str, t.Any]:
    """Write the rules behind an armed timer. Without new rules there is nothing to prove, and no timer."""
    programs = seen.programs()
    routes = [change for change in made.changes if change.action in ("route", "unroute")]
    if not programs and not routes:
        _persist(store, params, seen.boot)
        return {"confirmed": True}
    name = uuid.uuid4().hex
    undo = [" ".join(seen.routes[change.target][1 if change.action == "route" else 0]) for change in routes]
    record = {
        "change": name,
        "before": {tool.key: part.as_dict() for tool, part in seen.live.items() if part},
        "after": {tool.key: part.as_dict() for tool, part in seen.wanted.items() if part},
        "guards": _guards(params, store),
        "routes": {name: list(words) for name, words in seen.routes.items() if name in host.routes(wanted_of(params, []))},
        "boot_script": seen.boot,
        "connection": host.ssh_connection(),
    }
    script = guard.revert_script(store, seen.live, seen.wanted, undo)
    kind = guard.arm(store, script, record, params["revert_after"])
    done: list[str] = []
    try:
        for tool, lines in programs.items():
            host.load(tool, lines, done)
            done.append(f"rules of {tool}")
        host.change_routes([seen.routes[change.target][0 if change.action == "route" else 1] for change in routes], done)
        _verify(seen, made)
    except MigrationError as error:
        if not guard.revert_now(store):
            # the timer was faster, and what was written after it had begun is still there
            store.move("reverted", "pending")
            guard.revert_now(store)
        error.why = f"{error.why}. What had been written was taken back" if done else error.why
        error.done = []
        raise
    return {
        "confirmed": False,
        "pending": {"change": name, "revert_after": params["revert_after"], "timer": kind, "connection": record["connection"]},
    }


def _verify(seen: Seen, made: Plan) -> None:
    for tool, before in seen.tables.items():
        now = host.read(tool) or {}
        part = tables.ours(now, tables.counted(seen.wanted[tool]))
        if not part.same(seen.wanted[tool]):
            raise MigrationError(
                f"{tool} does not show the rules that were written",
                where=_difference(part, seen.wanted[tool]),
                why="another program writes rules at the same time",
                todo="look who writes to the packet filter and run the task again",
            )
        if tables.foreign(now, part) != tables.foreign(before, seen.live[tool]):
            made.notes.append(f"somebody else's rules in {tool} changed while this task ran; not by this task")


def _difference(one: Ours, other: Ours) -> str:
    left = {line for lines in one.text().values() for line in lines}
    right = {line for lines in other.text().values() for line in lines}
    return "; ".join(sorted(left ^ right)[:3])


def _persist(store: guard.Store, params: Params, script: str) -> None:
    if params["persist"] and guard.has_systemd():
        guard.persist(store, script)
    elif not params["persist"]:
        guard.unpersist()


def remove(seen: Seen, store: guard.Store, params: Params, wanted: Wanted) -> None:
    """All of it, with or without a record of how it came. First what would bring it back."""
    guard.unpersist()
    done = [guard.UNIT]
    host.change_routes([seen.routes[name][1] for name in sorted(seen.routes_there)], done)
    for _dummy in range(3):
        programs = seen.programs()
        if not programs:
            break
        for tool, lines in programs.items():
            host.load(tool, lines, done)
            done.append(f"rules of {tool}")
        # what somebody else applied once more meanwhile goes, too; but a rule that looks like one of ours is theirs from now on
        store.forget("confirmed")
        seen = observe(params, wanted, store, present=False)
    left = [f"{tool}: {part.text()}" for tool, part in seen.live.items() if part]
    if left:
        raise MigrationError(
            "The rules of the mesh come back again and again",
            where="; ".join(left)[:500],
            why="another program writes them (the proxy's container, or istio-start.sh)",
            todo="stop it first, then run the task again",
            done=done,
        )
    store.remove()


# --- confirm -------------------------------------------------------------------------------------------------------------------


def _confirm(params: Params, store: guard.Store) -> Outcome:
    """The second call, over a new connection: prove, and only then stop the timer."""
    pending, before = store.read("pending"), store.read("confirmed") or {}
    if pending is None and before.get("change") == params["confirm"]["change"]:
        return _confirmed(params, store, before, [])  # an earlier call proved it, and its answer was lost
    if pending is None or pending.get("change") != params["confirm"]["change"]:
        raise MigrationError(
            "The redirect was taken back before it was proven",
            why="its timer was faster, or another run has begun",
            todo="run the task again; give more time in revert_after when the proof needs it",
            details={"taken_back": True},
        )
    proof: list[dict[str, t.Any]] = []
    why = params["confirm"]["failure"] or _stale(pending)
    if not why:
        proof = prove([probe for probe in probes_of(params) if probe["from"] == "vm"], params["probe_timeout"])
        why = "; ".join(f"{one['probe']}: {one['why']}" for one in proof if not one["ok"])
    if why:
        guard.revert_now(store)
        raise MigrationError(
            "The redirect was not proven and has been taken back",
            why=why,
            todo="look at the proxy (its log, its readiness), then run the task again",
            details={"proof": proof},
        )
    if not store.move("pending", "confirmed"):
        raise MigrationError("The redirect was taken back while it was proven", todo="run the task again with more revert_after")
    return _confirmed(params, store, pending, proof)


def _confirmed(params: Params, store: guard.Store, record: dict[str, t.Any], proof: list[dict[str, t.Any]]) -> Outcome:
    """What follows once the record is that of a proven change."""
    guard.disarm(store)
    store.forget("reverted")
    _persist(store, params, record["boot_script"])
    return Outcome(result={"confirmed": True, "proof": proof, "connection": host.ssh_connection()})


def _stale(pending: dict[str, t.Any]) -> str:
    """Why this call proves nothing: it came by the old connection, or the rules are not there any more. "" when it does."""
    connection = host.ssh_connection()
    if connection and connection == pending.get("connection"):
        return "the proof came by the connection that was there before the rules, so it does not prove a new one"
    try:
        for tool in host.tools(host.backend_in_use("auto")):
            part = Ours.of(pending["after"].get(tool.key, {}))
            if not tables.ours(host.read(tool) or {}, tables.counted(part)).same(part):
                return f"the rules of {tool} are not what was written; another program changed them"
    except MigrationError as error:
        return str(error)
    return ""
