# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""vm_proxy on the VM: observe, apply (with the exchange of two proxies) and verify. See _proxy.py for how it is done."""

from __future__ import annotations

import os
import pathlib
import re
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Change, Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._retry import wait_until
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._vm import _envoy
from ansible_collections.servicemesh.migration.plugins.module_utils._vm import _redirect_host as host
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._alone import alone
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._engine import Engine
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._proxy import (
    HELPER,
    MIGRATE,
    TRAFFIC_PORTS,
    USUAL,
    Observed,
    Ports,
    body,
    container,
    helper_name,
    istiod_port,
    plain_id,
    plan,
    size,
    spiffe,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._redirect_tables import CHAINS, target

_FILES = ("cluster.env", "mesh.yaml", "certs/root-cert.pem")
_SYSCTL = pathlib.Path("/proc/sys/net/ipv4/tcp_migrate_req")
_SETTLE = 1.0  # seconds in which clients that were asked to go get their last answers before the ports are closed
Object = dict[str, t.Any]


class Session:
    """One run on one VM."""

    def __init__(self, options: t.Mapping[str, t.Any]) -> None:
        self.options = options
        self.engine = Engine(options["engine_socket"] or "")
        self.name, self.helper = options["name"], helper_name(options["name"])
        self.timeout = float(options["wait_timeout"])
        self.done: list[str] = []

    # -- observe ----------------------------------------------------------------------------------------------------

    def observe(self) -> Observed:
        seen = Observed()
        folder = self.options["path"]
        for name in _FILES:
            try:
                seen.texts[name] = pathlib.Path(folder, name).read_text(encoding="utf-8")
            except (FileNotFoundError, NotADirectoryError):
                continue
        seen.issued = os.path.isdir(f"{folder}/issued")
        seen.engine, seen.boots = self.engine.name(), self.engine.boots()
        seen.image = self.image_id()
        seen.proxy = container(self.engine.container(self.name))
        seen.helper = container(self.engine.container(self.helper))
        seen.ready = seen.proxy is not None and seen.proxy.running and _envoy.ready(USUAL.status)
        seen.serving = seen.ready and self.serves(self.name, USUAL)
        return seen

    def refuse(self, seen: Observed, made: Plan, check_mode: bool) -> None:
        """What must not be begun."""
        absent = self.options["state"] == "absent"
        if absent and (seen.serving or self.serves(self.helper, HELPER)) and (tools := redirects()):
            why = f"{', '.join(tools)} leads this machine's traffic to it: nothing would get in or out any more"
            todo = "lift the redirect first (vm_redirect, state absent)"
            if not check_mode:
                raise MigrationError("The proxy is in use and is not removed", where=self.name, why=why, todo=todo)
            made.notes.append(f"it would not be removed: {why}; {todo}")
        for name, one in ((self.name, seen.proxy), (self.helper, seen.helper)):
            if one is not None and not one.ours and not (self.options["adopt"] and name == self.name):
                why = "a container of this name is there and was not made by this module"
                todo = "set adopt to let it be exchanged, or choose another name"
                raise MigrationError("This container is somebody else's", where=name, why=why, todo=todo)
        if self.options["state"] == "present" and "cluster.env" not in seen.texts:
            todo = "run servicemesh.migration.vm_identity first, or name its folder in the option path"
            raise MigrationError(
                "The VM has no identity", where=f"{self.options['path']}/cluster.env", why="no such file", todo=todo
            )

    # -- apply ------------------------------------------------------------------------------------------------------

    def apply(self, made: Plan, seen: Observed) -> None:
        for change in list(made.changes):
            if change.action == "pull":
                self.pull(seen)
                if seen.image != plain_id(str((change.before or {}).get("id") or "")):
                    self.done.append(str(change))
                    self.apply_pulled(made, change, seen)
                    return
            elif change.action == "create":
                self.refuse_ports()
                self.engine.create(self.name, body(self.options, seen))
            elif change.action == "start":
                self.engine.start(self.name)
                self.wait_ready(self.name, USUAL)
            elif change.action == "replace":
                self.replace(seen)
            elif change.action == "remove":
                self.remove(change.target, seen)
            elif change.action == "remove image":
                self.engine.remove_image(self.options["image"])
            self.done.append(str(change))

    def apply_pulled(self, made: Plan, pulled: Change, seen: Observed) -> None:
        """Only now it is known which image the name means: what follows is planned anew."""
        rest = Plan([change for change in plan(self.options, seen).changes if change.action != "pull"])
        made.changes[:] = [pulled, *rest.changes]
        self.apply(rest, seen)

    def pull(self, seen: Observed) -> None:
        if self.options["pull"] == "never":
            todo = "load it (docker load), or set pull to missing"
            raise MigrationError("The image is not there", where=self.options["image"], why="pull is never", todo=todo)
        login = (self.options["registry_username"], self.options["registry_password"])
        self.engine.pull(self.options["image"], login if all(login) else None)
        seen.image = self.image_id()

    def image_id(self) -> str:
        found = self.engine.image(self.options["image"]) if self.options["image"] else None
        return plain_id(str((found or {}).get("Id") or ""))

    def refuse_ports(self) -> None:
        """A port that is taken is told before the proxy restarts over it for ever. A helper shares its own."""
        own = self.engine.container(self.helper) is not None
        ports = (*(() if own else TRAFFIC_PORTS), USUAL.admin, USUAL.status, USUAL.health, USUAL.metrics)
        if taken := sorted(_envoy.listeners(ports)):
            todo = "see who has them (ss -ltnp), and end it or move it"
            raise MigrationError("Ports of the proxy are taken", where=self.name, why=", ".join(map(str, taken)), todo=todo)

    def replace(self, seen: Observed) -> None:
        if self.options["replace"] == "restart" or seen.proxy is None or not seen.proxy.running:
            self.engine.stop(self.name, self.options["stop_timeout"])
            self.engine.remove(self.name)
            self.done.append(f"remove {self.name} (old)")
            self.engine.create(self.name, body(self.options, seen))
            self.engine.start(self.name)
            self.wait_ready(self.name, USUAL)
            if seen.helper is not None:
                self.remove(self.helper, seen)  # of an exchange that was cut short after the old proxy's end
            return
        self.begin_helper(seen)
        before = self.let_migrate()
        try:
            self.hand_over(self.name, seen.proxy.pid, USUAL)
            self.engine.create(self.name, body(self.options, seen))
            self.engine.start(self.name)
            self.wait_ready(self.name, USUAL)
            self.done.append(f"start {self.name} (new)")
            self.end_helper(before)
        finally:
            self.restore_migrate(before)

    def begin_helper(self, seen: Observed) -> None:
        """The helper serves, or the old proxy stays as it is and the helper is gone."""
        if self.serves(self.helper, HELPER):
            return  # of a run that was cut short: perhaps nobody else serves any more, so it is not touched
        if seen.helper is not None:
            self.restore_migrate(seen.helper.labels.get(MIGRATE, ""))
            self.engine.remove(self.helper)
        wanted = body(self.options, seen, helper=True)
        wanted["Labels"][MIGRATE] = setting()  # before it is changed: a run that is killed cannot put it back
        self.engine.create(self.helper, wanted)
        try:
            self.engine.start(self.helper)
            self.wait_ready(self.helper, HELPER)
        except MigrationError as error:
            self.engine.remove(self.helper)
            error.todo = (
                "the old proxy is as it was. Mend the cause; if two Envoys of this image cannot share their ports (older than "
                "Istio 1.12), lift the redirect (vm_redirect, state absent) and set replace=restart"
            )
            raise
        self.done.append(f"start {self.helper}")

    def serves(self, name: str, ports: Ports) -> bool:
        """It is ready, and has the ports itself: an agent is ready before its Envoy has them, or when it never gets them."""
        found = container(self.engine.container(name))
        if found is None or not found.running or not _envoy.ready(ports.status):
            return False
        return _envoy.holds(TRAFFIC_PORTS, _envoy.descendants(found.pid))

    def end_helper(self, before: str) -> None:
        found = container(self.engine.container(self.helper))
        if found is not None and found.running:
            self.hand_over(self.helper, found.pid, HELPER, before)
        else:
            self.restore_migrate(before)
            self.engine.remove(self.helper)

    def hand_over(self, name: str, pid: int, ports: Ports, before: str = "") -> None:
        """One proxy goes while another has the same ports: clients are asked to go, ports are closed, what it has is served."""
        _envoy.ask(ports.admin, "/drain_listeners?graceful&skip_exit", "POST")
        time.sleep(_SETTLE)
        _envoy.ask(ports.admin, "/drain_listeners", "POST")
        pids = _envoy.descendants(pid) if pid else []
        end = time.monotonic() + float(self.options["drain_seconds"])
        while time.monotonic() < end and _envoy.connections(TRAFFIC_PORTS, pids):
            time.sleep(0.2)
        self.engine.stop(name, 0)
        self.restore_migrate(before)  # while the helper, whose label knows it, is still there
        self.engine.remove(name)
        self.done.append(f"remove {name}")

    def remove(self, name: str, seen: Observed) -> None:
        if name == self.helper and self.options["state"] == "present":
            if not self.serves(self.name, USUAL):
                why, todo = "the proxy beside it does not have the ports", f"look at `docker logs {self.name}`, then run again"
                raise MigrationError("The helper is not removed: nobody else would serve", where=name, why=why, todo=todo)
            self.end_helper(self.let_migrate())
            return
        self.engine.stop(name, self.options["stop_timeout"])
        if name == self.helper and seen.helper is not None:
            self.restore_migrate(seen.helper.labels.get(MIGRATE, ""))
        self.engine.remove(name)

    def let_migrate(self) -> str:
        """Let the kernel move connections; gives what the setting was before, which the helper's label knows."""
        found = container(self.engine.container(self.helper))
        before = found.labels.get(MIGRATE, "") if found is not None else ""
        if before and setting() != "1":
            try:
                _SYSCTL.write_text("1\n", encoding="ascii")
            except OSError:
                return ""
        return before

    def restore_migrate(self, before: str) -> None:
        if before and before != "1":
            try:
                _SYSCTL.write_text(f"{before}\n", encoding="ascii")
            except OSError:
                pass

    # -- verify -----------------------------------------------------------------------------------------------------

    def wait_ready(self, name: str, ports: Ports) -> None:
        def ready() -> bool | None:
            found = container(self.engine.container(name))
            if found is None or (not found.running and found.restarts > 2):
                raise MigrationError("The proxy ended", where=name, why=self.explain(name))
            return True if self.serves(name, ports) else None

        wait_until(
            ready,
            timeout=self.timeout,
            what="the proxy is ready",
            where=name,
            todo=f"look at `docker logs {name}`: it must reach istiod, trust its certificate, and its token must be valid",
            explain=lambda: self.explain(name),
        )

    def explain(self, name: str) -> str:
        lines = [line for line in self.engine.logs(name, 40).splitlines() if re.search(r"error|warn|fatal|NOT ready", line, re.I)]
        return " | ".join(line[-200:] for line in lines[-3:]) or "its log says nothing"

    def proof(self, seen: Observed) -> Object:
        """What the proxy says of itself, and whether its agent is connected to istiod."""
        found = container(self.engine.container(self.name))
        pids = _envoy.descendants(found.pid) if found is not None and found.pid else []
        return {**_envoy.proof(USUAL.admin), "connected": _envoy.connected(istiod_port(seen.texts), pids)}

    def verify(self, seen: Observed) -> Object:
        """It is ready, has heard istiod, refused nothing, and is who it is to be."""
        wanted = spiffe(seen.texts)

        def good() -> Object | None:
            found = self.proof(seen)
            fine = found.get("connected") and not found.get("rejected") and (not wanted or found.get("spiffe") == wanted)
            return found if fine and _envoy.ready(USUAL.status) else None

        try:
            return wait_until(good, timeout=self.timeout, what="the proxy is in step with istiod", where=self.name)
        except MigrationError as error:
            found = self.proof(seen)
            error.why = f"it says {found or 'nothing'}; wanted is {wanted or 'any identity'}. {self.explain(self.name)}"
            error.todo = f"look at `docker logs {self.name}`; a second proxy or a foreign port 15000 would explain nothing said"
            raise


def redirects() -> list[str]:
    """The packet filters of which a rule of the kernel's own chains leads into one of the mesh."""
    try:
        found = host.tools(host.backend_in_use("auto"))
    except MigrationError:
        return []  # no iptables, no redirect
    return [
        str(tool)
        for tool in found
        if any(
            target(spec) in CHAINS
            for chains in (host.read(tool) or {}).values()
            for chain, specs in chains.items()
            if chain not in CHAINS
            for spec in specs
        )
    ]


def setting() -> str:
    """net.ipv4.tcp_migrate_req; empty on a kernel that has none."""
    try:
        return _SYSCTL.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def check(options: t.Mapping[str, t.Any]) -> None:
    """Options that cannot be right."""
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", options["name"]):
        raise InputError("This is no name of a container", where="name", why=repr(options["name"]))
    if options["state"] == "present" and not options["image"]:
        raise InputError("It is not said which image the proxy is", where="image", todo="name it, best by its digest")
    if options["image"] and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*", options["image"]):
        raise InputError("This is no image", where="image", why=repr(options["image"]))
    for name in ("memory",):
        try:
            if options[name] and size(options[name]) < 2**24:
                raise ValueError("less than 16 MiB")
        except (ValueError, KeyError) as error:
            raise InputError(
                "This is no amount of memory", where=name, why=f"{options[name]}: {error}", todo="say 512m or 1g"
            ) from error
    if options["cpus"] is not None and options["cpus"] <= 0:
        raise InputError("This is no number of CPUs", where="cpus", why=str(options["cpus"]))


def run_module(params: t.Mapping[str, t.Any], check_mode: bool) -> Outcome:
    """Logic of vm_proxy. Raises MigrationError."""
    check(params)
    if os.geteuid() != 0:
        raise InputError("This needs root on the VM", why=f"it runs as uid {os.geteuid()}", todo="set become: true")
    if check_mode:
        return _run(params, check_mode=True)
    with alone("proxy", params["name"]):
        return _run(params, check_mode=False)


def _run(params: t.Mapping[str, t.Any], *, check_mode: bool) -> Outcome:
    start = time.monotonic()
    session = Session(params)
    seen = session.observe()
    made = plan(params, seen)
    session.refuse(seen, made, check_mode)
    result: Object = {"ready": seen.ready}
    if not check_mode:
        try:
            session.apply(made, seen)
            if params["state"] == "present":
                result = {"ready": True, "proxy": session.verify(seen), "image_id": seen.image}
            else:
                result = {"ready": False}
        except MigrationError as error:
            error.done = [*error.done, *session.done]
            error.not_done = [str(change) for change in made.changes if str(change) not in session.done]
            raise
    elif seen.proxy is not None and seen.proxy.running and params["state"] == "present":
        result["proxy"] = session.proof(seen)
    result["seconds"] = round(time.monotonic() - start, 2)
    return Outcome(made, result)
