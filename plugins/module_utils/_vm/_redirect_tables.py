# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What iptables-save says, whose rules are whose, and the program for iptables-restore that changes only ours.

Pure. A family's tables are {table: {chain: [rule]}} with rules as iptables-save prints them, without `-A chain`.
"""

from __future__ import annotations

import dataclasses
import re
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._redirect_shape import BUILTIN, Rules

Tables = t.Dict[str, t.Dict[str, t.List[str]]]  # noqa: UP006 - a VM's Python may be older than the controller's

#: All chains that istio-iptables of any version makes for a sidecar. Those of an ambient node have other names.
CHAINS = frozenset(
    f"ISTIO_{name}" for name in ("OUTPUT", "OUTPUT_DNS", "INBOUND", "DIVERT", "TPROXY", "REDIRECT", "IN_REDIRECT", "DROP")
)
#: What a rule of such a chain does. Something else was written by somebody else.
TARGETS = frozenset({"RETURN", "REDIRECT", "ACCEPT", "DROP", "MARK", "TPROXY", "CT", "CONNMARK", "NFLOG"}) | CHAINS
_OWNER = r"-m owner (?:! )?--[ug]id-owner \S+ "
_HOST = r"(?:-[sd] \S+ )?"
#: Rules in the kernel's own chains that only istio-iptables writes, and that name none of its chains.
SIGNED = tuple(
    re.compile(pattern)
    for pattern in (
        rf"-p udp -m udp --dport 53 (?:{_OWNER})+-j RETURN",
        rf"{_HOST}-p udp -m udp --dport 53 -j REDIRECT --to-ports 15053",
        rf"-p udp -m udp --(?:dport 53|sport 15053) {_OWNER}-j CT --zone [12]",
        rf"{_HOST}-p udp -m udp --(?:dport|sport) 53 -j CT --zone [12]",
        r"-p udp -m udp --dport 53 -j DNAT --to-destination 127\.0\.0\.1:15053",
        r"-p udp -m udp --dport 15053 -j SNAT --to-source 127\.0\.0\.1",
        r"-p tcp -m mark --mark 0x539 -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff",
        r"-p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
        r"-o lo -p tcp -m mark --mark 0x539 -j RETURN",
        r"! -d \S+ -o lo -p tcp -m owner --[ug]id-owner \S+ -j MARK --set-xmark 0x53a/0xffffffff",
        r"-s 127\.0\.0\.1/32 ! -d 127\.0\.0\.1/32 -p tcp -j MARK --set-xmark 0x539/0xffffffff",
    )
)


@dataclasses.dataclass(frozen=True)
class Place:
    """A rule in a chain of the kernel, with its place (from 1)."""

    table: str
    chain: str
    number: int
    spec: str


@dataclasses.dataclass
class Ours:
    """Our part of a family: whole chains, and rules in the kernel's chains in their order."""

    chains: Tables = dataclasses.field(default_factory=dict)
    places: list[Place] = dataclasses.field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.places or any(self.chains.values()))

    def hooks(self, table: str) -> dict[str, list[str]]:
        """Rules in the kernel's chains of a table."""
        found: dict[str, list[str]] = {}
        for place in self.places:
            if place.table == table:
                found.setdefault(place.chain, []).append(place.spec)
        return found

    def tables(self) -> list[str]:
        return sorted({place.table for place in self.places} | {table for table, chains in self.chains.items() if chains})

    def text(self) -> dict[str, list[str]]:
        """For a diff: {table: lines}."""
        lines: dict[str, list[str]] = {}
        for table in self.tables():
            hooks = self.hooks(table)
            found = [f"-A {chain} {spec}" for chain in BUILTIN for spec in hooks.get(chain, [])]
            for chain, specs in sorted(self.chains.get(table, {}).items()):
                found += [f"-A {chain} {spec}" for spec in specs] or [f"-N {chain}"]
            lines[table] = found
        return lines

    def same(self, other: Ours) -> bool:
        return self.text() == other.text()

    def as_dict(self) -> dict[str, t.Any]:
        return {"chains": self.chains, "places": [dataclasses.astuple(place) for place in self.places]}

    @classmethod
    def of(cls, data: t.Mapping[str, t.Any]) -> Ours:
        return cls(dict(data.get("chains", {})), [Place(*place) for place in data.get("places", [])])


def parse(saved: str) -> Tables:
    """iptables-save's output. Comments and counters are left out; a table whose chains are all empty is left in."""
    tables: Tables = {}
    chains: dict[str, list[str]] = {}
    for line in saved.splitlines():
        if line.startswith("*"):
            chains = tables.setdefault(line[1:].strip(), {})
        elif line.startswith(":"):
            chains.setdefault(line[1:].split()[0], [])
        elif line.startswith("-A "):
            chain, _dummy, spec = line[3:].partition(" ")
            chains.setdefault(chain, []).append(spec)
        elif line.startswith("["):  # counters, when somebody's iptables-save always prints them
            chain, _dummy, spec = line.partition("-A ")[2].partition(" ")
            chains.setdefault(chain, []).append(spec)
    return tables


def target(spec: str) -> str:
    """The target of a rule, "" when it only counts."""
    plain = re.sub(r'"(?:\\.|[^"\\])*"', '""', spec)  # a comment may say anything
    found = re.search(r"(?:^|\s)-[jg] (\S+)", plain)
    return found.group(1) if found else ""


def ours(tables: Tables, known: t.Mapping[tuple[str, str, str], int] | None = None) -> Ours:
    """Our part of what is there. `known` says how many times this module wrote a rule, by table, chain and rule: those are the
    last ones of their kind, because rules are added to the end.

    :raises MigrationError: a chain of our name holds somebody else's rules, or is used by somebody else's chain.
    """
    found = Ours()
    left = dict(known or {})
    for table, chains in tables.items():
        found.chains[table] = {name: specs for name, specs in chains.items() if name in CHAINS}
        for chain, specs in chains.items():
            places = []
            for number, spec in reversed(list(enumerate(specs, start=1))):
                jump = target(spec)
                if chain in CHAINS:
                    if jump not in TARGETS:
                        raise _foreign(table, chain, spec, f"istio-iptables has no rule with the target {jump or 'none'}")
                elif chain not in BUILTIN:
                    if jump in CHAINS:
                        raise _foreign(table, jump, f"-A {chain} {spec}", f"the chain {chain} is not Istio's and jumps to it")
                elif left.get((table, chain, spec), 0) > 0:
                    left[(table, chain, spec)] -= 1
                    places.append(Place(table, chain, number, spec))
                elif jump in CHAINS or any(sign.fullmatch(spec) for sign in SIGNED):
                    places.append(Place(table, chain, number, spec))
            found.places += reversed(places)
    return found


def counted(part: Ours) -> dict[tuple[str, str, str], int]:
    """How many times each of our rules is in the kernel's chains."""
    found: dict[tuple[str, str, str], int] = {}
    for place in part.places:
        key = (place.table, place.chain, place.spec)
        found[key] = found.get(key, 0) + 1
    return found


def _foreign(table: str, chain: str, spec: str, why: str) -> MigrationError:
    return MigrationError(
        f"The chain {chain} of the table {table} is not only Istio's",
        where=f"{table}/{chain}: {spec}",
        why=why,
        todo="give that chain another name, or remove that rule; nothing that is somebody else's is touched here",
    )


def foreign(tables: Tables, mine: Ours) -> Tables:
    """What is left without our part; a table or a chain of the kernel that is empty is the same as none."""
    places = {(place.table, place.chain, place.number) for place in mine.places}
    rest: Tables = {}
    for table, chains in tables.items():
        for chain, specs in chains.items():
            if chain in mine.chains.get(table, {}):
                continue
            kept = [spec for number, spec in enumerate(specs, start=1) if (table, chain, number) not in places]
            if kept or chain not in BUILTIN:
                rest.setdefault(table, {})[chain] = kept
    return rest


def wanted_ours(rules: Rules) -> Ours:
    """The planner's rules as if they were alone on a machine."""
    found = Ours(chains={table: {} for table in rules.tables()})
    for table in rules.tables():
        own = rules.chains.get(table, {})
        found.chains[table] = {name: list(specs) for name, specs in own.items() if name in CHAINS}
        for chain in BUILTIN:
            specs = [*rules.top.get(table, {}).get(chain, []), *own.get(chain, [])]
            found.places += [Place(table, chain, number, spec) for number, spec in enumerate(specs, start=1)]
    return found


def tops(rules: Rules) -> dict[tuple[str, str], int]:
    """How many of our rules are to be at the very top of a chain of the kernel."""
    return {(table, chain): len(specs) for table, chains in rules.top.items() for chain, specs in chains.items()}


def program(
    live: Ours, wanted: Ours, top: t.Mapping[tuple[str, str], int] | None = None, *, places: bool = False
) -> dict[str, list[str]]:
    """Lines for `iptables-restore --noflush` that turn our part of a family into the wanted one, {table: lines}.

    A table is changed at once or not at all. Tables in which nothing changes are left out. With `places`, rules of the
    kernel's chains go to the places that they name, else to the end of the chain (or to its top, see `tops`).
    """
    lines: dict[str, list[str]] = {}
    for table in sorted({*live.tables(), *wanted.tables()}):
        before, after = live.chains.get(table, {}), wanted.chains.get(table, {})
        moved = live.hooks(table) != wanted.hooks(table)
        if not moved and before == after:
            continue
        # A declared chain is made, or emptied when it is there.
        found = [f":{chain} - [0:0]" for chain in sorted({*before, *after})]
        if moved:
            found += [f"-D {place.chain} {place.spec}" for place in live.places if place.table == table]
            found += _hooks(wanted, table, top or {}, places)
        found += [f"-A {chain} {spec}" for chain, specs in sorted(after.items()) for spec in specs]
        found += [f"-X {chain}" for chain in sorted(set(before) - set(after))]
        lines[table] = found
    return lines


def _hooks(wanted: Ours, table: str, top: t.Mapping[tuple[str, str], int], places: bool) -> list[str]:
    if places:
        return [f"-I {place.chain} {place.number} {place.spec}" for place in wanted.places if place.table == table]
    lines = []
    for chain, specs in wanted.hooks(table).items():
        head = top.get((table, chain), 0)
        lines += [f"-I {chain} {number} {spec}" for number, spec in enumerate(specs[:head], start=1)]
        lines += [f"-A {chain} {spec}" for spec in specs[head:]]
    return lines


def restore(lines: t.Mapping[str, t.Sequence[str]]) -> str:
    """The input of one iptables-restore."""
    return "".join("\n".join([f"*{table}", *lines[table], "COMMIT", ""]) for table in sorted(lines))
