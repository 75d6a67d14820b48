# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The weights of a VirtualService's routes: which routes are meant, what a share gives, and the exact way back. Pure.

A VirtualService that was written to has the annotation ``servicemesh.migration/route-weights``: the migration, and a hash of all
weights as it left them. So a later run sees that somebody else changed them since, also without its journal.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._secrets import masked, unmasked
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._closure import fqdn

Object = dict[str, t.Any]
MARK = "servicemesh.migration/route-weights"
PROTOCOLS = ("http", "tls", "tcp")
SIDES = ("source", "target")
# Percent points that are no difference.
SAME = 0.01


@dataclasses.dataclass(frozen=True)
class Destination:
    """Where a route sends requests. An empty subset is none; port 0 is any."""

    host: str
    subset: str = ""
    port: int = 0

    def is_meant_by(self, given: t.Mapping[str, t.Any], namespace: str) -> bool:
        """Whether the ``destination`` of a route in this namespace is this one."""
        port = int((given.get("port") or {}).get("number") or 0)
        same = fqdn(str(given.get("host", "")), namespace) == fqdn(self.host, namespace)
        return same and str(given.get("subset") or "") == self.subset and self.port in (0, port)

    def __str__(self) -> str:
        return self.host + (f" subset {self.subset}" if self.subset else "") + (f" port {self.port}" if self.port else "")


@dataclasses.dataclass(frozen=True)
class Ask:
    """One entry of the option ``routes``. :arg route: the name of an HTTP route. :arg match: a part of one of its matches."""

    namespace: str
    name: str
    source: Destination
    target: Destination
    meshes: tuple[str, ...] = SIDES
    route: str = ""
    match: str = ""

    @property
    def place(self) -> str:
        return f"{self.namespace}/{self.name}"

    def __str__(self) -> str:
        return self.place + (f" route {self.route}" if self.route else "")


def read_asks(given: t.Sequence[t.Mapping[str, t.Any]]) -> list[Ask]:
    """The option ``routes``. Raises InputError."""
    if not given:
        raise InputError("No route is named", why="the option routes is empty", todo="name at least one VirtualService")
    found = []
    for number, item in enumerate(given, 1):
        ask = Ask(
            item["namespace"],
            item["name"],
            _destination(item["source"]),
            _destination(item["target"]),
            tuple(dict.fromkeys(item.get("meshes") or SIDES)),
            item.get("route") or "",
            json.dumps(item["match"], sort_keys=True) if item.get("match") else "",
        )
        one, two = ask.source, ask.target
        same = (fqdn(one.host, ask.namespace), one.subset) == (fqdn(two.host, ask.namespace), two.subset)
        if same and (one.port == two.port or 0 in (one.port, two.port)):
            raise InputError(
                f"Entry {number} of routes has one destination as source and target",
                where=ask.place,
                todo="give two destinations that differ in host, subset or port",
            )
        if ask in found:
            raise InputError(f"Entry {number} of routes is there twice", where=str(ask), todo="name each route once")
        found.append(ask)
    return found


def _destination(given: t.Mapping[str, t.Any]) -> Destination:
    return Destination(given["host"], given.get("subset") or "", int(given.get("port") or 0))


@dataclasses.dataclass(frozen=True)
class Weights:
    """What is planned for a route. ``total``: what source and target have together."""

    source: int
    target: int

    @property
    def share(self) -> float:
        total = self.source + self.target
        return 100.0 * self.target / total if total else 0.0


@dataclasses.dataclass(frozen=True)
class Route:
    """One route of a VirtualService that has the source's destination, the target's, or both. ``-1``: it is not in its list."""

    ask: Ask
    protocol: str
    index: int
    entry: Object
    source: int
    target: int

    @property
    def weights(self) -> list[int]:
        return weights_of(self.entry)

    @property
    def present(self) -> Weights:
        both = [self.weights[place] if place >= 0 else 0 for place in (self.source, self.target)]
        return Weights(*both)

    @property
    def total(self) -> int:
        """What source and target share. Alone in their route they share 100; others keep what they have."""
        alone = len(self.entry["route"]) == (self.source >= 0) + (self.target >= 0)
        now = self.present
        return 100 if alone else now.source + now.target

    def plan(self, share: float) -> Weights:
        """The whole weights nearest to a share; no step between 0 and 100 takes all of it from one side."""
        total = self.total
        target = min(range(total + 1), key=lambda weight: abs(100.0 * weight - share * total))
        if 0 < share < 100:
            target = max(1, min(total - 1, target))
        return Weights(total - target, target)

    def settled(self, share: float) -> bool:
        """Whether the route has the planned share already, in whatever numbers."""
        now = self.present
        return now.source + now.target > 0 and abs(now.share - self.plan(share).share) < SAME

    def refusals(self, share: float) -> list[str]:
        if self.total == 0:
            return [f"{self}: neither {self.ask.source} nor {self.ask.target} has a weight, so there is nothing to move"]
        if self.total < 2 and 0 < share < 100:
            return [f"{self}: both have a weight of 1 together, which cannot be divided"]
        return []

    def moved(self, share: float) -> Object:
        """The route with the weights of a share; everything else of it as it is."""
        wanted, fresh = self.plan(share), copy.deepcopy(self.entry)
        for weight, one in zip(self.weights, fresh["route"]):  # noqa: B905 - not in Python 3.9
            if weight or "weight" in one:
                one["weight"] = weight
        places = {"source": self.source, "target": self.target}
        for side, other in (("source", "target"), ("target", "source")):
            if places[side] < 0:
                # As the other side's, so that header rules and the port stay, but for where it goes.
                twin = copy.deepcopy(fresh["route"][places[other]])
                twin["destination"] = _as_destination(getattr(self.ask, side), twin["destination"])
                fresh["route"].append(twin)
                places[side] = len(fresh["route"]) - 1
        fresh["route"][places["source"]]["weight"] = wanted.source
        fresh["route"][places["target"]]["weight"] = wanted.target
        return fresh

    def __str__(self) -> str:
        return f"{self.ask.place} {self.protocol}[{self.entry.get('name') or self.index}]"


def _as_destination(wanted: Destination, twin: t.Mapping[str, t.Any]) -> Object:
    found: Object = {"host": wanted.host}
    if wanted.subset:
        found["subset"] = wanted.subset
    if wanted.port:
        found["port"] = {"number": wanted.port}
    elif twin.get("port"):
        found["port"] = dict(twin["port"])
    return found


def weights_of(entry: t.Mapping[str, t.Any]) -> list[int]:
    """A destination without a weight has 0, but for one that is alone."""
    destinations = entry.get("route") or []
    if len(destinations) == 1:
        return [int(destinations[0].get("weight") or 100)]
    return [int(one.get("weight") or 0) for one in destinations]


def entries(spec: t.Mapping[str, t.Any]) -> t.Iterator[tuple[str, int, Object]]:
    """All routes that send to destinations, each with its protocol and place."""
    for protocol in PROTOCOLS:
        for index, entry in enumerate(spec.get(protocol) or []):
            if entry.get("route"):
                yield protocol, index, entry


def choose(obj: t.Mapping[str, t.Any], asks: t.Sequence[Ask], where: str) -> list[Route]:
    """The routes of a VirtualService that are meant. Raises MigrationError when one is not there, or it is not clear which."""
    found: dict[tuple[str, int], Route] = {}
    for ask in asks:
        mine = [route for route in _candidates(obj, ask) if route.source >= 0 or route.target >= 0]
        if not mine:
            there = "; ".join(_told(*item) for item in entries(obj.get("spec") or {})) or "it has no route with destinations"
            raise MigrationError(
                f"{ask} has no such route",
                where=where,
                why=f"none that was asked for sends to {ask.source} or {ask.target}; there is {there}",
                todo="check source, target, route and match",
            )
        for route in mine:
            if (route.protocol, route.index) in found:
                raise MigrationError(
                    "A route is named twice",
                    where=where,
                    why=f"{route} is meant by two entries of routes",
                    todo="narrow them with route or match",
                )
            found[route.protocol, route.index] = route
    return [found[key] for key in sorted(found)]


def _candidates(obj: t.Mapping[str, t.Any], ask: Ask) -> t.Iterator[Route]:
    wanted = json.loads(ask.match) if ask.match else None
    for protocol, index, entry in entries(obj.get("spec") or {}):
        if ask.route and entry.get("name") != ask.route:
            continue
        if wanted is not None and not any(_within(wanted, match) for match in entry.get("match") or []):
            continue
        places = []
        for side in (ask.source, ask.target):
            here = [
                place for place, one in enumerate(entry["route"]) if side.is_meant_by(one.get("destination") or {}, ask.namespace)
            ]
            if len(here) > 1:
                raise MigrationError(
                    f"{ask} sends to {side} more than once",
                    where=f"{protocol}[{index}]",
                    todo="give the port or the subset of the destination that is meant",
                )
            places.append(here[0] if here else -1)
        yield Route(ask, protocol, index, entry, *places)


def _within(part: t.Any, whole: t.Any) -> bool:
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and _within(value, whole[key]) for key, value in part.items())
    if isinstance(part, list):
        return isinstance(whole, list) and all(any(_within(item, other) for other in whole) for item in part)
    return bool(part == whole)


def _told(protocol: str, index: int, entry: Object) -> str:
    hosts = ", ".join(str((one.get("destination") or {}).get("host")) for one in entry["route"])
    return f"{protocol}[{entry.get('name') or index}] to {hosts}"


# -- whole objects -----------------------------------------------------------------------------------------------


def table(obj: t.Mapping[str, t.Any]) -> list[t.Any]:
    """All weights of a VirtualService: protocol, place, and for each destination where it sends and how much."""
    namespace = obj["metadata"].get("namespace", "")
    found = []
    for protocol, index, entry in entries(obj.get("spec") or {}):
        rows = []
        for weight, one in zip(weights_of(entry), entry["route"]):  # noqa: B905
            place = one.get("destination") or {}
            port = (place.get("port") or {}).get("number")
            rows.append([fqdn(str(place.get("host", "")), namespace), place.get("subset") or "", port or 0, weight])
        found.append([protocol, index, rows])
    return found


def digest(obj: t.Mapping[str, t.Any]) -> str:
    return hashlib.sha256(json.dumps(table(obj)).encode()).hexdigest()[:16]


def shown(obj: t.Mapping[str, t.Any]) -> dict[str, list[str]]:
    """The weights for a plan or a diff: ``{"http[0]": ["host 99", "host 1"]}``."""
    return {
        f"{protocol}[{index}]": [f"{host}{'/' + subset if subset else ''} {weight}" for host, subset, _port, weight in rows]
        for protocol, index, rows in table(obj)
    }


def mark_of(obj: t.Mapping[str, t.Any]) -> tuple[str, str]:
    """``(migration, hash)`` of the annotation, or two empty texts."""
    owner, _blank, value = str((obj["metadata"].get("annotations") or {}).get(MARK, "")).partition(" ")
    return owner, value


def conflict(obj: t.Mapping[str, t.Any], migration: str, known: t.Collection[str]) -> str:
    """Why the weights are not those that this migration found or left, or nothing. ``known``: their hashes."""
    owner, left = mark_of(obj)
    if owner and owner != migration:
        return f"the migration {owner} moves its weights"
    if (owner or known) and digest(obj) not in {left, *known}:
        return f"somebody changed its weights since this migration did; now they are {json.dumps(shown(obj))}"
    return ""


def with_routes(obj: Object, fresh: t.Mapping[tuple[str, int], Object]) -> Object:
    """A copy of the VirtualService with these routes in their places."""
    made = copy.deepcopy(obj)
    for (protocol, index), entry in fresh.items():
        made["spec"][protocol][index] = entry
    return made


def restored(obj: Object, original: t.Mapping[str, t.Any]) -> Object:
    """A copy with the destinations of the original; what somebody else changed beside them stays. Raises MigrationError.

    What the journal may not hold (the value of a header named token) was never written to, and is taken from what is there.
    """
    fresh: dict[tuple[str, int], Object] = {}
    there = {(protocol, index): entry for protocol, index, entry in entries(obj.get("spec") or {})}
    for protocol, index, entry in entries(original.get("spec") or {}):
        now = there.get((protocol, index))
        entry = unmasked(entry, now)
        if now is None or any(now.get(field) != entry.get(field) for field in ("name", "match")):
            raise MigrationError(
                "The routes of a VirtualService are not the same any more",
                where=f"{obj['metadata'].get('namespace')}/VirtualService/{obj['metadata']['name']}",
                why=f"{protocol}[{index}] has another name or match than when the migration began",
                todo="put its routes in their old order, or its weights back by hand (the journal has them), and run again",
            )
        if masked(entry["route"]):
            raise MigrationError(
                "The destinations of a VirtualService cannot be put back as they were",
                where=f"{obj['metadata'].get('namespace')}/VirtualService/{obj['metadata']['name']}",
                why=f"{protocol}[{index}] had a value that the journal may not hold, and somebody took it away since",
                todo="put the weights back by hand (the journal has them), and the header that was there",
            )
        fresh[protocol, index] = {**now, "route": copy.deepcopy(entry["route"])}
    return with_routes(obj, fresh)


def patch_of(obj: Object, made: Object, mark: str | None) -> Object:
    """The merge patch from one to the other, refused if somebody wrote in between. ``mark``: None takes the annotation away."""
    changed = {name: made["spec"][name] for name in PROTOCOLS if made["spec"].get(name) != obj["spec"].get(name)}
    body: Object = {"metadata": {"resourceVersion": obj["metadata"]["resourceVersion"], "annotations": {MARK: mark}}}
    return {**body, "spec": changed} if changed else body
