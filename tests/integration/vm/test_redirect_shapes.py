# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules that vm_redirect plans are those of the real istio-iptables: both are loaded into the kernel and read back.

Every pair of values of two options is among the combinations, and more by chance (with a fixed seed).
"""

from __future__ import annotations

import itertools
import random
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._vm import _redirect_tables as tables
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._redirect_shape import Wanted, build
from lab import binaries
from tests.integration.vm.space import EMPTY, Space

SERVERS = ("10.96.0.10", "192.0.2.53", "fd00:1::53")
#: Option of the plan -> values. The first is the default.
VALUES: dict[str, list[Any]] = {
    "proxy_port": [15001, 25001],
    "inbound_port": [15006, 25006],
    "tunnel_port": [15008, 25008],
    "uids": [("1337",), ("1337", "1338")],
    "gids": [("1337",), ("2000", "2001")],
    "tproxy": [False, True],
    "tproxy_mark": [1337, 42],
    "inbound_ports": [("*",), (), ("8080",), ("8080", "9090")],
    "inbound_exclude": [(), ("15020",), ("15090", "15021", "15020")],
    "outbound_cidrs": [("*",), (), ("10.233.0.0/16",), ("10.0.0.0/8", "fd00:2::/64", "192.0.2.7/32"), ("127.0.0.1/8",)],
    "outbound_exclude_cidrs": [(), ("169.254.169.254/32",), ("10.1.2.3/16", "fd00:3::/64")],
    "outbound_ports": [(), ("3306",), ("27017", "6379")],
    "outbound_exclude_ports": [(), ("443",), ("25", "53")],
    "exclude_interfaces": [(), ("eth1",), ("eth1", "eth2")],
    "virtual_interfaces": [(), ("virbr0",), ("virbr0", "virbr1")],
    "dns": ["", "servers", "all"],
    "drop_invalid": [False, True],
    "include_groups": [("*",), ("888",), ("888", "999"), ()],
    "exclude_groups": [(), ("daemon",), ("888", "daemon")],
    "loopback_cidr": ["127.0.0.1/32", "127.1.2.3/32"],
    "ipv6": [False, True],
    "guards": [("22",), ("22", "2222"), ()],
}


def combinations(number: int) -> list[dict[str, Any]]:
    """Rows that hold every pair of values, found greedily, then rows by chance until there are enough."""
    dice = random.Random(6)
    names = list(VALUES)
    missing = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(names, 2)
        for i in range(len(VALUES[a]))
        for j in range(len(VALUES[b]))
    }
    rows: list[dict[str, int]] = []
    while missing:
        tries = [{name: dice.randrange(len(VALUES[name])) for name in names} for _ in range(30)]
        for row in tries:  # each of them holds a pair that is missing
            row.update(dice.choice(sorted(missing)))
        best = max(tries, key=lambda row: sum(pair in missing for pair in itertools.combinations(row.items(), 2)))
        missing -= set(itertools.combinations(best.items(), 2))
        rows.append(best)
    while len(rows) < number:
        rows.append({name: dice.randrange(len(VALUES[name])) for name in names})
    return [{name: VALUES[name][index] for name, index in row.items()} for row in rows]


def wanted(row: dict[str, Any]) -> Wanted:
    given = {name: value for name, value in row.items() if name != "dns"}
    if row["dns"]:
        given |= {"dns_capture": True, "dns_all": row["dns"] == "all", "dns_servers": () if row["dns"] == "all" else SERVERS}
    return Wanted(**given, keep=False)


def command(plan: Wanted) -> tuple[dict[str, str], list[str]]:
    """istio-iptables with the same options: its environment and its words."""
    ports = [port for port in plan.inbound_ports if port not in plan.guards]
    guards = [port for port in plan.guards if port not in plan.inbound_exclude]
    flags = {
        "-p": plan.proxy_port, "-z": plan.inbound_port, "-e": plan.tunnel_port, "-u": plan.uids, "-g": plan.gids,
        "-m": "TPROXY" if plan.tproxy else "REDIRECT", "-t": plan.tproxy_mark, "-b": ports,
        "-d": [*guards, *plan.inbound_exclude], "-i": plan.outbound_cidrs, "-x": plan.outbound_exclude_cidrs,
        "-q": plan.outbound_ports, "-o": plan.outbound_exclude_ports, "-c": plan.exclude_interfaces,
        "-k": plan.virtual_interfaces,
    }  # fmt: skip
    texts = {flag: ",".join(value) if isinstance(value, (list, tuple)) else str(value) for flag, value in flags.items()}
    switches = {
        "--redirect-dns": plan.dns_capture,
        "--capture-all-dns": plan.dns_all,
        "--drop-invalid": plan.drop_invalid,
        "--dual-stack": plan.ipv6,
    }
    env = {
        "ISTIO_OUTBOUND_OWNER_GROUPS": ",".join(plan.include_groups),
        "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": ",".join(plan.exclude_groups),
        "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR": plan.loopback_cidr,
    }
    words = [word for pair in texts.items() for word in pair] + [switch for switch, on in switches.items() if on]
    return env, [str(binaries.path("pilot-agent")), "istio-iptables", "--dry-run", *words]


def programs_of(text: str, plan: Wanted) -> dict[int, str]:
    """The programs for iptables-restore in what a dry run wrote, by family."""
    programs: list[list[str]] = []
    last = ""
    for line in text.splitlines():
        if line.startswith("* "):
            if not programs or line <= last:  # tables are sorted: a lower one begins the next family
                programs.append([])
            last = line
        if line.startswith(("* ", "-", "COMMIT")):
            programs[-1].append(line.replace("* ", "*", 1))
    assert len(programs) == len(plan.families), text
    return {family: "\n".join(lines) + "\n" for family, lines in zip(plan.families, programs, strict=True)}


def loaded(space: Space, folder: Path, programs: list[tuple[str, str]]) -> list[tables.Tables]:
    """Each program's rules as the kernel has them, without empty chains of the kernel. All in one shell: there are many."""
    for number, (_tool, program) in enumerate(programs):
        (folder / f"{number}.in").write_text(program)
    (folder / "empty").write_text(EMPTY)
    lines = [
        f"{tool}-restore <empty && {tool}-restore --noflush <{number}.in && {tool}-save >{number}.out"
        for number, (tool, _program) in enumerate(programs)
    ]
    space.run("sh", "-ec", "\n".join([f"cd {folder}", *lines]))
    return [
        {
            table: {chain: specs for chain, specs in chains.items() if specs or chain in tables.CHAINS}
            for table, chains in tables.parse((folder / f"{number}.out").read_text()).items()
        }
        for number in range(len(programs))
    ]


def differences(space: Space, rows: list[dict[str, Any]], folder: Path, backend: str) -> list[str]:
    plans = [wanted(row) for row in rows]
    lines = []
    for number, plan in enumerate(plans):
        env, words = command(plan)
        given = [f"{name}={value}" for name, value in {**env, "DRY_RUN_FILE_PATH": f"{folder}/{number}.dry"}.items()]
        lines.append(shlex.join(["env", *given, *words]) + " >/dev/null 2>&1")
    space.run("sh", "-ec", "\n".join(lines))
    programs, about = [], []
    for number, plan in enumerate(plans):
        theirs = programs_of((folder / f"{number}.dry").read_text(), plan)
        for family in plan.families:
            rules = build(plan, family)
            planned = tables.program(tables.Ours(), tables.wanted_ours(rules), tables.tops(rules))
            tool = f"{'iptables' if family == 4 else 'ip6tables'}-{backend}"
            programs += [(tool, theirs[family]), (tool, tables.restore(planned))]
            about.append(f"IPv{family} {rows[number]}")
    found = loaded(space, folder, programs)
    pairs = zip(about, found[::2], found[1::2], strict=True)
    return [f"{text}\nistio-iptables: {theirs}\nvm_redirect:    {ours}" for text, theirs, ours in pairs if theirs != ours]


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    made = Space(tmp_path, "".join(f"nameserver {server}\n" for server in SERVERS))
    yield made
    made.close()


SHORT = 32  # of the rows in every run; the rest is a campaign
ROWS = 240


def unguarded(row: dict[str, Any]) -> dict[str, Any]:
    """With virtual interfaces our guards are rules that istio-iptables has not: see test_what_is_ours_alone."""
    return row | {"guards": ()} if row["virtual_interfaces"] else row


@pytest.mark.parametrize(
    ("backend", "rows"),
    [
        ("nft", slice(SHORT)),
        pytest.param("nft", slice(SHORT, None), marks=pytest.mark.thorough),
        pytest.param("legacy", slice(None), marks=pytest.mark.thorough),
    ],
    ids=["nft-short", "nft-rest", "legacy"],
)
def test_rules_are_those_of_istio_iptables(space: Space, tmp_path: Path, backend: str, rows: slice) -> None:
    chosen = [unguarded(row) for row in combinations(ROWS)]
    assert len(chosen) >= 200
    wrong = differences(space, chosen[rows], tmp_path, backend)
    assert not wrong, f"{len(wrong)} of {len(chosen[rows])}:\n{wrong[0]}"


def test_what_is_ours_alone() -> None:
    """The one way in which the real rules differ: what was there before the redirect goes on, and no way in is captured."""
    plain, mine = (build(Wanted(keep=keep), 4).chains["nat"] for keep in (False, True))
    for chain in plain:
        extra = ["-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j RETURN"] if chain.endswith("_REDIRECT") else []
        assert mine[chain] == [*extra, *plain[chain]]
    top = build(Wanted(virtual_interfaces=("virbr0",)), 4).top["nat"]["PREROUTING"]
    assert top[0] == "-i virbr0 -p tcp -m tcp --dport 22 -m addrtype --dst-type LOCAL -j RETURN"
