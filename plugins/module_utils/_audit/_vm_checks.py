# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The checks of a VM before it joins a mesh, and of one that has joined. Each is a pure function of the facts."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._audit._finding import Check, Finding
from ansible_collections.servicemesh.migration.plugins.module_utils._audit._vm_facts import VmFacts
from ansible_collections.servicemesh.migration.plugins.module_utils._vm import _token

Found = t.Iterator[Finding]
#: Ports that agent and Envoy listen on: outbound, debug, inbound, tunnels, agent, statistics, health, DNS, Prometheus.
PROXY_PORTS = (15000, 15001, 15004, 15006, 15008, 15020, 15021, 15053, 15090)
PROXIES = ("envoy", "pilot-agent", "kuma-dp", "linkerd2-proxy", "consul-dataplan")  # as the kernel cuts them
#: Chains of the packet filter that lead connections into a proxy, and whose they are.
CHAINS = {"ISTIO_": "Istio", "KUMA_": "Kuma", "PROXY_INIT": "Linkerd", "CONSUL_PROXY": "Consul", "CILIUM_": "Cilium"}
PROXY_USER = 1337
SKEW, DRIFT = 30.0, 5.0
SMALL_MTU, FREE_MIB, LOW_MIB, MEMORY_MIB = 1280, 512, 2048, 256
PYTHON = (3, 9)
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def system(facts: VmFacts) -> Found:
    yield Finding("system", "info", "vm", f"kernel {facts.kernel}, {facts.arch}, Python {facts.python[0]}.{facts.python[1]}")
    if not facts.root:
        yield Finding("system", "error", "vm", "this is not root", "add become: true, or connect as root")
    if facts.python < PYTHON:
        hint = "install Python 3.9 or newer on the VM, and name it in ansible_python_interpreter"
        yield Finding("system", "error", "vm", f"its Python is {facts.python[0]}.{facts.python[1]}", hint)
    if facts.arch not in ARCHITECTURES:
        hint = "there is no image of the proxy for it that we know of; give one by its digest"
        yield Finding("system", "warning", "vm", f"its architecture is {facts.arch}", hint)
    if not facts.systemd:
        hint = "rules and token renewal do not survive a reboot: run the play again after each"
        yield Finding("system", "warning", "vm", "there is no systemd", hint)


def tools(facts: VmFacts) -> Found:
    for name, path in facts.programs.items():
        if not path and name not in ("systemd-run", "ip6tables"):
            yield Finding("tools", "error", name, "it is not there", "install the packages iptables, iproute2 and util-linux")
    if not facts.programs.get("ip6tables") and facts.options["ipv6"]:
        yield Finding("tools", "error", "ip6tables", "it is not there", "install it, or leave IPv6 alone")


def packet_filter(facts: VmFacts) -> Found:
    if facts.backend:
        yield Finding("packet-filter", "info", "iptables", f"its back end is {facts.backend}")
    tables = facts.need("tables")
    nft = sorted(tool for tool in tables if tool.endswith("-nft"))
    legacy = sorted(tool for tool in tables if tool.endswith("-legacy"))
    if nft and legacy:
        what = f"rules are in both back ends ({', '.join([*nft, *legacy])}): the kernel asks both, and each tool shows its own"
        hint = f"move the rules into {facts.backend}; vm_redirect writes there, and takes Istio's out of the other one"
        yield Finding("packet-filter", "warning", "iptables", what, hint)


def kernel(facts: VmFacts) -> Found:
    for name, why in facts.need("trials").items():
        if why:
            program, part = name.split(" ", 1)
            hint = (
                f"load or install the kernel's module for {part} (xt_{part} or its nft sibling); containers may not load modules"
            )
            yield Finding("kernel", "error", program, f"a rule with {part} is refused: {why}", hint)


def leftovers(facts: VmFacts) -> Found:
    """Other proxies, and what they left: two redirects are a loop."""
    for tool, chains in facts.need("tables").items():
        for start, owner in CHAINS.items():
            there = [name for name in chains if name.startswith(start)]
            if not there or (start == "ISTIO_" and facts.redirect_is_ours):
                continue
            what = f"chains of {owner} are there: {', '.join(there)}"
            if start == "ISTIO_":
                hint = "vm_redirect compares them with what it would write; with state absent it removes them, whoever made them"
                yield Finding("leftovers", "warning", tool, what, hint)
            else:
                yield Finding("leftovers", "error", tool, what, f"take the VM out of {owner} first")
    for one in facts.need("processes"):
        if one.program in PROXIES and one.pid not in facts.ours:
            what = f"{one.program} runs already (process {one.pid}), and not in {facts.options['name']}"
            yield Finding("leftovers", "error", f"process {one.pid}", what, "stop it, and disable what starts it")


def ports(facts: VmFacts) -> Found:
    listeners = facts.need("listeners")
    for one in listeners:
        if one.port in PROXY_PORTS and one.pid not in facts.ours:
            who = f"{one.program or 'somebody'}{f' (process {one.pid})' if one.pid else ''}"
            yield Finding("ports", "error", f"port {one.port}", f"{who} listens on it, and the proxy needs it", "free the port")
    for port in facts.options["app_ports"]:
        addresses = {one.address for one in listeners if one.port == port}
        if not addresses:
            hint = "start the application before the VM gets requests, or give a health check"
            yield Finding("app-ports", "warning", f"port {port}", "nobody listens on it", hint)
        elif addresses <= {"127.0.0.1", "::1"} and _at_least(facts, (1, 10)):
            hint = "let it listen on 0.0.0.0: since Istio 1.10 the proxy connects to the VM's own address"
            yield Finding("app-ports", "error", f"port {port}", "the application listens on the loopback address only", hint)
        elif not addresses & {"0.0.0.0", "::", "127.0.0.1"} and not _at_least(facts, (1, 10)):
            hint = "let it listen on 0.0.0.0: before Istio 1.10 the proxy connects to 127.0.0.1"
            yield Finding(
                "app-ports", "error", f"port {port}", f"the application listens on {', '.join(sorted(addresses))}", hint
            )


def _version(text: str) -> tuple[int, ...]:
    match = re.match(r"v?(\d+)\.(\d+)", text or "")
    return (int(match[1]), int(match[2])) if match else ()


def _at_least(facts: VmFacts, wanted: tuple[int, int]) -> bool:
    """Of a version that is not known, the newer."""
    known = _version(facts.options["proxy_version"])
    return not known or known >= wanted


def engine(facts: VmFacts) -> Found:
    if facts.engine is None:
        hint = "install Docker (18.09 or newer) or podman with its socket, and start it; name its socket in engine_socket"
        yield Finding("engine", "error", "container engine", facts.engine_error, hint)
        return
    found = facts.engine
    yield Finding("engine", "info", found["path"], f"{found['name']} {found['version']}, storage {found['driver'] or '?'}")
    if found["name"] == "docker" and (_version(found["version"]) or (99, 0)) < (18, 9):
        yield Finding("engine", "error", found["path"], f"Docker {found['version']} is too old", "install 18.09 or newer")
    if not found.get("boots", True):
        hint = "systemctl enable podman-restart.service: it starts containers that are to run always"
        yield Finding("engine", "warning", found["path"], "no container comes back when the VM boots", hint)
    if facts.container and not facts.container["made"]:
        what = f"a container {facts.container['name']} runs that vm_proxy did not make"
        yield Finding("engine", "warning", found["path"], what, "remove it, or let vm_proxy take it over (adopt)")


def clock(facts: VmFacts) -> Found:
    skew = facts.need("skew")
    text = f"it is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} the controller's"
    hint = "synchronise it (chrony, ntp): tokens and certificates are not valid yet, or no more, for a clock that is wrong"
    if abs(skew) > SKEW:
        yield Finding("clock", "error", "clock", text, hint)
    elif abs(skew) > DRIFT:
        yield Finding("clock", "warning", "clock", text, hint)
    else:
        yield Finding("clock", "info", "clock", text)


def istiod(facts: VmFacts) -> Found:
    """The way to the control plane: name, connection, certificate, size of packets."""
    name, given = facts.options["istiod_host"], facts.options["istiod_addresses"]
    there = facts.names.get(name, [])
    if not given and not there:
        hint = "give istiod_addresses to have the way checked now; vm_identity will look for them in the cluster"
        yield Finding("istiod", "warning", name, "its name is not known here, and no address was given", hint)
    elif given and there and not set(there) & set(given):
        what = f"here it is {', '.join(there)}, and not {', '.join(given)}"
        hint = "an old entry in the hosts file, or another mesh; vm_identity writes its own entry behind it"
        yield Finding("istiod", "warning", name, what, hint)
    for one in facts.ways:
        if one.error:
            hint = "open the way (routes, security groups, both directions), and see that istiod listens there"
            yield Finding("istiod", "error", one.target, f"no connection: {one.error}", hint)
            continue
        if one.mtu and one.mtu < SMALL_MTU:
            hint = "certificates do not fit into one packet: look for a tunnel on the way"
            yield Finding("mtu", "warning", one.target, f"packets may have {one.mtu} bytes at most", hint)
        if one.fits is False:
            what = f"packets of {one.mtu} bytes do not get through, and nobody says so: long answers will hang"
            yield Finding("mtu", "warning", one.target, what, "lower the MTU of the interface, or clamp the MSS on the way")
        elif one.mtu:
            proven = "proven by ping" if one.fits else "nobody answers pings, so it is not proven"
            yield Finding("mtu", "info", one.target, f"packets of {one.mtu} bytes ({proven})")
    for address, why in facts.tls.items():
        if why:
            hint = (
                "does this address lead to istiod of this mesh, and is root-cert.pem of this mesh (vm_identity writes it anew)?"
            )
            yield Finding("istiod", "error", address, f"its certificate is not accepted: {why}", hint)


def reach(facts: VmFacts) -> Found:
    for one in facts.reach:
        if one.error:
            hint = "open the way (routes, security groups): pods and VMs speak to each other directly"
            yield Finding("reach", "error", one.target, f"no connection: {one.error}", hint)
        else:
            yield Finding("reach", "info", one.target, "it can be reached")


def versions(facts: VmFacts) -> Found:
    """istiod may be one minor version newer or older than proxies that are supported; a proxy must not be newer."""
    said = facts.options["istiod_version"] or facts.istiod_version
    proxy, control = _version(facts.options["proxy_version"]), _version(said)
    if not proxy or not control:
        lacks = "the proxy" if not proxy else "istiod"
        yield Finding("version-skew", "info", "versions", f"the version of {lacks} is not known, so they are not compared")
        return
    text = f"the proxy is {facts.options['proxy_version']}, istiod is {said}"
    if proxy > control:
        yield Finding("version-skew", "error", "versions", f"{text}: the proxy is newer", "take an image of istiod's version")
    elif control[0] != proxy[0] or control[1] - proxy[1] > 2:
        hint = "take an image nearer to istiod's version; more than two minor versions are not supported"
        yield Finding("version-skew", "warning", "versions", text, hint)
    else:
        yield Finding("version-skew", "info", "versions", text)


def token(facts: VmFacts) -> Found:
    """An identity that is there already."""
    if not facts.has_token:
        yield Finding("token", "info", facts.options["path"], "there is no token yet")
        return
    audience, subject = facts.options["audience"], ""
    if facts.options["namespace"] and facts.options["service_account"]:
        subject = _token.subject(facts.options["namespace"], facts.options["service_account"])
    found = facts.token
    why = _token.stale(found, subject or (found.subject if found else ""), audience, 0.0, facts.now)
    if why:
        # vm_identity mends it, unless a proxy lives on it now.
        hint = "vm_identity replaces it; a proxy that starts with it now gets no certificate"
        yield Finding(
            "token", "error" if facts.mesh else "warning", facts.options["path"], f"the token cannot be used: {why}", hint
        )
    elif found is not None:
        yield Finding("token", "info", facts.options["path"], f"the token is valid until {_token.iso(found.expires)}")


def ssh(facts: VmFacts) -> Found:
    if not facts.ssh:
        hint = "give ssh_ports when ssh listens elsewhere; port 22 is never captured"
        yield Finding("ssh", "info", "ssh", "this did not come in by ssh", hint)
        return
    listening = {one.port for one in facts.need("listeners")}
    for port in facts.ssh:
        if port in listening:
            yield Finding("ssh", "info", f"port {port}", "it will never be captured")
        else:
            yield Finding("ssh", "warning", f"port {port}", "it is said to be ssh's, and nobody listens on it", "check ssh_ports")


def security(facts: VmFacts) -> Found:
    if facts.security.get("selinux") == "enforcing":
        hint = "the container may not read files below /opt without a label: mount them with :z, or set container_file_t"
        yield Finding("security", "warning", "SELinux", "it is enforcing", hint)
    if "apparmor" in facts.security:
        yield Finding("security", "info", "AppArmor", "it is on; the engine's default profile lets the proxy run")


def space(facts: VmFacts) -> Found:
    for path, free in facts.space.items():
        hint = "make room: the image takes about 300 MiB, twice during an upgrade"
        if free < FREE_MIB:
            yield Finding("space", "error", path, f"{free} MiB are free", hint)
        elif free < LOW_MIB:
            yield Finding("space", "warning", path, f"{free} MiB are free", hint)
    if facts.memory is not None and facts.memory < MEMORY_MIB:
        hint = "a proxy takes 60 to 200 MiB; more where the mesh is large"
        yield Finding("space", "warning", "memory", f"{facts.memory} MiB are available", hint)


def user(facts: VmFacts) -> Found:
    """Connections of the proxy's user are never redirected."""
    name = facts.users.get(PROXY_USER)
    if name and name != "istio-proxy":
        hint = "give this user another number: connections of user 1337 go past the proxy"
        yield Finding("user", "error", f"user {name}", f"it has the number {PROXY_USER} of the proxy", hint)
    for one in facts.need("processes"):
        if one.uid == PROXY_USER and one.pid not in facts.ours and one.program not in PROXIES:
            hint = "run it as another user: its connections go past the proxy"
            yield Finding("user", "warning", f"process {one.pid}", f"{one.program} runs as user {PROXY_USER}", hint)


def ipv6(facts: VmFacts) -> Found:
    if facts.ipv6 and not facts.options["ipv6"]:
        what = f"it has addresses of IPv6 ({', '.join(facts.ipv6[:3])}), which are not redirected"
        yield Finding("ipv6", "info", "vm", what, "set ipv6 when pods or clients use them")


VM_CHECKS: dict[str, Check[VmFacts]] = {
    "system": system,
    "tools": tools,
    "packet-filter": packet_filter,
    "kernel": kernel,
    "leftovers": leftovers,
    "ports": ports,
    "engine": engine,
    "clock": clock,
    "istiod": istiod,
    "reach": reach,
    "version-skew": versions,
    "token": token,
    "ssh": ssh,
    "security": security,
    "space": space,
    "user": user,
    "ipv6": ipv6,
}
