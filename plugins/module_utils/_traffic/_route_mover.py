# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Routes of VirtualServices as something that the staircase can move: all of them at once, on each mesh's API server.

A write goes through only if nobody wrote in between (resourceVersion), and only over weights that this migration found or left.
"""

from __future__ import annotations

import dataclasses
import re
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Change, Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._core._secrets import concealed
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import ENDPOINT_SLICE, SERVICE, Kind
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _routes
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._closure import covers, fqdn
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import CONTENT, NETWORKING
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._meaning import digest as content_digest
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._route_objects import kind_at
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._route_proof import Pair, Proxies, Taken, not_taken
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._routes import Ask, Destination, Route
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._staircase import Move

Object = dict[str, t.Any]
#: The journal's keys of the VirtualServices as they were: ``route/<mesh>/<namespace>/<name>``.
PREFIX = "route/"
_SERVICE_HOST = re.compile(r"([^.]+)\.([^.]+)\.svc\.")
# A write that met somebody else's write of another field is tried again so often.
_TRIES = 5
_PAUSE = 0.1
KIND = "VirtualService"


@dataclasses.dataclass(frozen=True)
class RouteState:
    """One VirtualService on one mesh's API server, and those of its routes that are meant.

    :arg imagined: it is not there yet, this is what check mode knows of it.
    """

    mesh: str
    found: Object
    routes: tuple[Route, ...]
    imagined: bool = False

    @property
    def namespace(self) -> str:
        return str(self.found["metadata"].get("namespace", ""))

    @property
    def name(self) -> str:
        return str(self.found["metadata"]["name"])

    @property
    def place(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def where(self) -> str:
        return where_of(self.mesh, self.namespace, self.name)

    @property
    def key(self) -> str:
        return f"{PREFIX}{self.mesh}/{self.place}"

    @property
    def pairs(self) -> list[Pair]:
        return list(dict.fromkeys((route.ask.source, route.ask.target) for route in self.routes))

    @property
    def shares(self) -> list[float]:
        return [route.present.share for route in self.routes]

    def settled(self, share: float) -> bool:
        return all(route.settled(share) for route in self.routes)

    def planned(self, share: float) -> list[float]:
        return [route.plan(share).share for route in self.routes]

    def moved(self, share: float) -> Object:
        fresh = {(route.protocol, route.index): route.moved(share) for route in self.routes if not route.settled(share)}
        return _routes.with_routes(self.found, fresh)

    def as_dict(self) -> dict[str, t.Any]:
        """For RV(routes)."""
        rows = [
            {
                "protocol": route.protocol,
                "index": route.index,
                "name": route.entry.get("name", ""),
                "source_weight": route.present.source,
                "target_weight": route.present.target,
                "share": route.present.share,
            }
            for route in self.routes
        ]
        return {"mesh": self.mesh, "namespace": self.namespace, "name": self.name, "routes": rows}


def where_of(mesh: str, namespace: str, name: str) -> str:
    return f"{mesh}/{namespace}/{KIND}/{name}"


def _unable(place: Destination, what: str, where: str, why: str) -> MigrationError:
    return MigrationError(
        f"{place} is not able to take the traffic of {what}, so it gets none",
        where=where,
        why=why,
        todo="bring it up, then run again",
        transient=True,
    )


def worst(pairs: t.Sequence[tuple[float, float]]) -> float:
    """Of ``(value, wanted)`` the value farthest from what is wanted."""
    return max(pairs, key=lambda item: abs(item[0] - item[1]), default=(0.0, 0.0))[0]


class RouteMover:
    """A Shifter. ``clusters``: mesh -> API server; ``source`` is also where pods and Services are."""

    def __init__(
        self,
        clusters: t.Mapping[str, Cluster],
        asks: t.Sequence[Ask],
        journal: Journal,
        proxies: Proxies | None,
        *,
        imagined: t.Mapping[tuple[str, str], Object] | None = None,
    ) -> None:
        self._clusters = clusters
        self._asks = asks
        self._journal = journal
        self._proxies = proxies
        self._imagined = imagined or {}
        self._kinds: dict[str, Kind] = {}
        self.written: list[str] = []
        #: VirtualServices that no proxy of those that were asked (so many) has.
        self.unproven: dict[str, int] = {}

    @property
    def cluster(self) -> Cluster:
        """The API server of pods and Services."""
        return self._clusters["source"]

    # -- observe -------------------------------------------------------------------------------------------------

    def places(self) -> list[tuple[str, str, str]]:
        """Mesh, namespace and name of all VirtualServices that are asked for, in the order of the options."""
        return list(dict.fromkeys((mesh, ask.namespace, ask.name) for ask in self._asks for mesh in ask.meshes))

    def observe(self) -> list[RouteState]:
        """All of them now. Raises MigrationError for one that is not there, or that somebody else changed."""
        return values(each(self.places(), lambda place: self._state(*place)))

    def _state(self, mesh: str, namespace: str, name: str) -> RouteState:
        found, where = self.read(mesh, namespace, name), where_of(mesh, namespace, name)
        imagined = found is None
        if found is None:
            found = self._imagined.get((mesh, f"{KIND}/{namespace}/{name}"))
        if found is None:
            raise MigrationError(
                "A VirtualService is not there",
                where=where,
                todo=f"copy it there (mesh_config), give it in objects, or leave {mesh} out of routes[].meshes",
            )
        self.refuse_conflict(mesh, found)
        asks = [ask for ask in self._asks if (ask.namespace, ask.name) == (namespace, name) and mesh in ask.meshes]
        return RouteState(mesh, found, tuple(_routes.choose(found, asks, where)), imagined)

    def kind(self, mesh: str) -> Kind:
        if mesh not in self._kinds:
            self._kinds[mesh] = kind_at(self._clusters[mesh], f"{NETWORKING}/v1", KIND)
        return self._kinds[mesh]

    def read(self, mesh: str, namespace: str, name: str) -> Object | None:
        kind = self.kind(mesh)
        found = self._clusters[mesh].get(kind, name, namespace)
        return None if found is None else {**found, "apiVersion": kind.api_version, "kind": KIND}

    def refuse_conflict(self, mesh: str, obj: Object) -> None:
        namespace, name = obj["metadata"].get("namespace", ""), obj["metadata"]["name"]
        original = self._journal.original(f"{PREFIX}{mesh}/{namespace}/{name}")
        known = {str(original["digest"])} if original else set()
        known |= {
            str(entry["digest"])
            for entry in self._journal.entries()
            if original and entry.get("event") == "route" and entry.get("place") == f"{namespace}/{name}"
        }
        why = _routes.conflict(obj, self._journal.migration, known)
        if why:
            raise MigrationError(
                "The weights of a VirtualService are not those of this migration, and are not overwritten",
                where=where_of(mesh, namespace, name),
                why=why,
                todo="find out who changed them (a GitOps tool puts back what its repository says) and stop that; then give "
                "them the weights of before the change, or the original ones, and run again",
                details={"conflict": True},
            )

    # -- plan ----------------------------------------------------------------------------------------------------

    def plan(self, share: float, states: t.Sequence[RouteState], reason: str) -> Plan:
        """The writes for a share. Pure. Raises MigrationError for one that cannot be."""
        refused = [text for state in states for route in state.routes for text in route.refusals(share)]
        if refused:
            raise MigrationError(
                f"The share {share:g} % cannot be set",
                where=", ".join(state.where for state in states),
                why="; ".join(refused),
                todo="give the destinations weights that can be divided, or name other ones",
            )
        found = Plan()
        for state in states:
            if not state.settled(share):
                after = _routes.shown(state.moved(share))
                found.add("set_route_weights", state.where, _routes.shown(state.found), after, reason)
        return found

    # -- move ----------------------------------------------------------------------------------------------------

    def move(self, share: float, *, timeout: float, reason: str) -> Move:
        """Write what is not settled, and see that the proxies have it."""
        until, states = time.monotonic() + timeout, self.observe()
        self.plan(share, states, reason)
        for state in states:
            if not state.settled(share):
                self.serves(state, share)
        writes: list[float] = []
        for state in states:
            for _try in range(_TRIES):
                if state.settled(share):
                    break
                try:
                    self._write(state, state.moved(share), self._journal.migration, reason, must=share > 0)
                    writes.append(time.time())
                except MigrationError as error:
                    if error.details.get("status") != 409:
                        error.done = [*self.written, *error.done]
                        raise
                # As it is now: after a conflict somebody may have changed the very weights, which is refused.
                state = self._state(state.mesh, state.namespace, state.name)
        states = self.observe()
        late = [state.where for state in states if not state.settled(share)]
        if late:
            raise MigrationError(
                "The weights cannot be written, because somebody else writes all the time", where=", ".join(late), transient=True
            )
        observed = self._prove(states, share, until)
        planned = worst([(value, share) for state in states for value in state.planned(share)])
        rows = [{**state.as_dict(), "planned": state.planned(share)} for state in states]
        return Move(planned, worst([(value, planned) for value in observed]), rows, tuple(writes))

    def drifted(self, share: float) -> bool:
        """Somebody else's write is found by trying to move: it is named and refused there."""
        try:
            return any(not state.settled(share) for state in self.observe())
        except MigrationError as error:
            if error.details.get("conflict"):
                return True
            raise

    def _write(self, state: RouteState, made: Object, owner: str, reason: str, *, must: bool) -> None:
        """One write. ``owner``: empty when the original comes back, and the annotation goes. ``must``: only with the journal."""
        self._journal.keep_original(state.key, {"digest": _routes.digest(state.found), "object": _stored(state.found)})
        mark = f"{owner} {_routes.digest(made)}" if owner else None
        body = _routes.patch_of(state.found, made, mark)
        notes = state.found["metadata"].get("annotations") or {}
        if notes.get(CONTENT) == content_digest(state.found):
            # What mesh_config or objects wrote, and nobody changed: our weights do not make it somebody else's.
            body["metadata"]["annotations"][CONTENT] = content_digest(made)
        before, after = _routes.shown(state.found), _routes.shown(made)
        # The way back waits for no room on a disk: the annotation knows these weights too.
        note = self._journal.write if must else self._journal.try_write
        note("route", place=state.place, mesh=state.mesh, digest=_routes.digest(made))
        with self._journal.around(Change("set_route_weights", state.where, before, after, reason), must=must):
            self._clusters[state.mesh].patch(self.kind(state.mesh), state.name, state.namespace, body)
        self.written.append(f"weights of {state.where}: {after}")

    def can_ask(self, states: t.Sequence[RouteState]) -> None:
        for state in states if self._proxies else ():
            t.cast(Proxies, self._proxies).can_ask(state.mesh, state.found)

    # -- proof ---------------------------------------------------------------------------------------------------

    def serves(self, state: RouteState, share: float) -> None:
        """Whoever gets more has somebody who answers. Raises a transient MigrationError: a gateway may be starting."""
        for route in state.routes:
            now, then = route.present, route.plan(share)
            for side, more in (("source", then.source > now.source), ("target", then.target > now.target)):
                if not more:
                    continue
                place, what = getattr(route.ask, side), f"{route} on {state.mesh}"
                self.carries(state.mesh, state.namespace, place, what)
                if getattr(now, side) == 0:
                    self._answers(state, route, place, what, must=share > 0)

    def carries(self, mesh: str, namespace: str, place: Destination, what: str) -> None:
        host, why = fqdn(place.host, namespace), ""
        service = _SERVICE_HOST.match(host)
        if service:
            why = self._without_pods(service[1], service[2], place.port)
        else:
            kind = kind_at(self._clusters[mesh], f"{NETWORKING}/v1", "ServiceEntry")
            known = (name for one in self._clusters[mesh].list_all(kind) for name in (one.get("spec") or {}).get("hosts") or [])
            if not any(covers(name, host) for name in known):
                why = f"neither is it a Service nor has a ServiceEntry of {mesh} this host"
        if not why and place.subset and not self._has_subset(mesh, host, place.subset):
            why = f"no DestinationRule of {mesh} gives this host a subset {place.subset}"
        if why:
            raise _unable(place, what, f"{mesh}/{namespace}", why)

    def _answers(self, state: RouteState, route: Route, place: Destination, what: str, *, must: bool) -> None:
        """A gateway that gets its first traffic of a route has its own route for it: a ready pod may not have it yet.

        :arg must: False on the way back, where a gateway that cannot be asked is better than one that was found to be bad.
        """
        service = _SERVICE_HOST.match(fqdn(place.host, state.namespace))
        if self._proxies is None or not service or route.protocol == "tcp":
            return
        labels = ((self.cluster.get(SERVICE, service[1], service[2]) or {}).get("spec") or {}).get("selector") or {}
        written = (route.entry.get("rewrite") or {}).get("authority")
        for host in [written] if written else state.found["spec"].get("hosts") or []:
            try:
                why = self._proxies.unaware(service[2], labels, str(host), route.protocol) if labels else ""
            except MigrationError:
                if must:
                    raise
                return
            if why:
                raise _unable(place, what, state.where, why)

    def _without_pods(self, name: str, namespace: str, port: int) -> str:
        service = self.cluster.get(SERVICE, name, namespace)
        if service is None:
            return f"there is no Service {namespace}/{name}"
        ports = [int(item["port"]) for item in (service.get("spec") or {}).get("ports") or []]
        if port and port not in ports:
            return f"Service {namespace}/{name} has no port {port}, only {', '.join(map(str, ports))}"
        slices = self.cluster.list_all(ENDPOINT_SLICE, namespace, label_selector=f"kubernetes.io/service-name={name}")
        ready = [
            one for item in slices for one in item.get("endpoints") or [] if (one.get("conditions") or {}).get("ready", True)
        ]
        return "" if ready else f"Service {namespace}/{name} has no ready pod"

    def _has_subset(self, mesh: str, host: str, subset: str) -> bool:
        kind = kind_at(self._clusters[mesh], f"{NETWORKING}/v1", "DestinationRule")
        for rule in self._clusters[mesh].list_all(kind):
            spec = rule.get("spec") or {}
            mine = covers(fqdn(str(spec.get("host", "")), rule["metadata"].get("namespace", "")), host)
            if mine and any(one.get("name") == subset for one in spec.get("subsets") or []):
                return True
        return False

    def _prove(self, states: t.Sequence[RouteState], share: float, until: float) -> list[float]:
        """The shares that are seen: those of the proxies where there are any that have the routes, else those that are stored."""
        seen: list[float] = []
        for state in states:
            taken = self.wait_taken(state, state.pairs, state.planned(share), until) if self._proxies else Taken()
            seen += taken.shares or state.shares
            if self._proxies and not taken.concerned:
                self.unproven[state.where] = taken.asked
            else:
                self.unproven.pop(state.where, None)
        return seen

    def wait_taken(self, state: RouteState, pairs: t.Collection[Pair], planned: t.Collection[float], until: float) -> Taken:
        """Ask the proxies until they have the planned shares; they learn it from their control plane in a moment."""
        if self._proxies is None:
            return Taken()
        while True:
            taken = self._proxies.taken(state.mesh, state.found, pairs, planned)
            if not taken.waiting:
                return taken
            if time.monotonic() >= until:
                self._proxies.forget()
                raise not_taken(state.mesh, state.place, taken)
            time.sleep(_PAUSE)

    # -- back to the original ------------------------------------------------------------------------------------

    def originals(self) -> list[tuple[str, str, str, Object]]:
        """Mesh, namespace, name and the VirtualService as it was, of all that this migration wrote to."""
        found = []
        for key, value in sorted(self._journal.originals(PREFIX).items()):
            mesh, namespace, name = key[len(PREFIX) :].split("/")
            found.append((mesh, namespace, name, value["object"]))
        return found

    def restore(self, state: RouteState, original: Object, reason: str) -> None:
        """Put the original's destinations back, byte for byte."""
        for _try in range(_TRIES):
            made = _routes.restored(state.found, original)
            try:
                self._write(state, made, "", reason, must=False)
                return
            except MigrationError as error:
                if error.details.get("status") != 409:
                    raise
            again = self.read(state.mesh, state.namespace, state.name)
            if again is None:
                return
            self.refuse_conflict(state.mesh, again)
            state = dataclasses.replace(state, found=again)
        raise MigrationError("The weights cannot be written, because somebody else writes all the time", where=state.where)


def _stored(obj: Object) -> Object:
    """What the journal keeps: name, place and spec; the rest is not written to. The way back takes secrets from the object."""
    meta = obj["metadata"]
    return {"metadata": {"namespace": meta.get("namespace", ""), "name": meta["name"]}, "spec": concealed(obj.get("spec") or {})}
