# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""route_weight: the staircase over the weights of VirtualServices. observe, plan (pure), apply, verify; and the way back."""

from __future__ import annotations

import dataclasses
import os
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._interrupt import interruptible
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome, secrets_of
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._lease import Lease
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._mirror import ConfigMapMirror
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _route_objects, _routes
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._drain import drain_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._route_objects import Given, Objects, read_objects
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._route_proof import Proxies
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._routes import SIDES, Ask, read_asks
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._control import (
    CONTROLLER_ENV,
    Interrupted,
    nobody_elsewhere,
    only_one,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gates import Gate, Panel
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._orders import Orders
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._progress import Progress
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._route_back import restore
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._route_mover import (
    PREFIX,
    RouteMover,
    RouteState,
    worst,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._staircase import Clock, Report, Rules, Staircase
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._stairs import (
    holds_of,
    problem_of,
    read_stairs,
    say_where,
    stairs_spec,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._steps import Step, Todo, remaining

Object = dict[str, t.Any]
_LOCK_WAIT = 30.0
_EVENT = "routes"


def route_spec() -> dict[str, t.Any]:
    """The options of route_weight, beside those of every module."""
    place = {
        "type": "dict",
        "required": True,
        "options": {"host": {"type": "str", "required": True}, "subset": {"type": "str"}, "port": {"type": "int"}},
    }
    stairs = stairs_spec()
    stairs["steps"] = {"type": "list", "elements": "raw", "default": [1, 10, 50, 100]}
    return {
        **stairs,
        "state": {"type": "str", "choices": ["moved", "restored"], "default": "moved"},
        "routes": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "namespace": {"type": "str", "required": True},
                "name": {"type": "str", "required": True},
                "route": {"type": "str"},
                "match": {"type": "dict"},
                "source": place,
                "target": place,
                "meshes": {"type": "list", "elements": "str", "choices": list(SIDES), "default": list(SIDES)},
            },
        },
        "objects": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "mesh": {"type": "str", "choices": list(SIDES), "required": True},
                "definition": {"type": "dict", "required": True},
            },
        },
        "proof": {"type": "str", "choices": ["proxies", "stored"], "default": "proxies"},
        "proof_sample": {"type": "int", "default": 5},
        "drain_seconds": {"type": "float", "default": 10},
    }


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The options, checked."""

    asks: list[Ask]
    objects: list[Given]
    steps: list[Step]
    gates: list[Gate]
    rules: Rules
    allow_down: bool
    back: bool
    sample: int | None
    drain: float
    timeout: float
    request_timeout: float = 10.0


def read_options(params: t.Mapping[str, t.Any]) -> Wanted:
    """Everything that can be wrong without asking anybody is found here. Raises InputError."""
    back = params["state"] == "restored"
    asks = [] if back else read_asks(params["routes"])
    objects = [] if back else read_objects(params["objects"])
    steps, gates, rules = read_stairs({**params, "allow_without_gates": params["allow_without_gates"] or back})
    if params["proof_sample"] < 0:
        raise InputError("proof_sample cannot be used", todo="give a number, 0 or more")
    sample = params["proof_sample"] if params["proof"] == "proxies" else None
    drain, down = drain_of(params), params["allow_down"]
    return Wanted(asks, objects, steps, gates, rules, down, back, sample, drain, params["wait_timeout"])


@dataclasses.dataclass
class World:
    """What a run works with; tests bring their own. ``clusters``: mesh -> API server."""

    clusters: t.Mapping[str, Cluster]
    journal: Journal
    clock: Clock = dataclasses.field(default_factory=Clock)
    proxies: Proxies | None = None
    lease: Lease | None = None


def route_weight(params: dict[str, t.Any], check_mode: bool) -> Outcome:
    """The logic of module route_weight."""
    wanted = read_options(params)
    source = Cluster("source", params["source"])
    source.guard()
    journal = Journal(
        params["state_dir"],
        params["migration"],
        mirror=ConfigMapMirror(source, params["migration"]),
        secrets=secrets_of(params),
        enabled=not check_mode,
    )
    clusters = {"source": source}
    if "target" in _meshes(wanted, journal):
        clusters["target"] = Cluster("target", params["target"])
        clusters["target"].guard()
    proxies = None if wanted.sample is None else Proxies(source, wanted.sample, wanted.request_timeout)
    lease = Lease(source, journal.migration, journal.directory, journal.run)
    outcome = run(wanted, World(clusters, journal, proxies=proxies, lease=lease), check_mode)
    outcome.warnings += lease.warnings
    return outcome


def _meshes(wanted: Wanted, journal: Journal) -> set[str]:
    """The meshes whose API server is needed."""
    found = {mesh for ask in wanted.asks for mesh in ask.meshes} | {one.mesh for one in wanted.objects}
    if wanted.back:
        for prefix in (PREFIX, _route_objects.PREFIX):
            found |= {key[len(prefix) :].split("/")[0] for key in journal.originals(prefix)}
    return found


def run(wanted: Wanted, world: World, check_mode: bool) -> Outcome:
    """As route_weight, once the options are read."""
    way = _back if wanted.back else _move
    if check_mode:
        return way(wanted, world, True)
    place = world.journal.directory / "shift.lock"
    with only_one(place, wait=_LOCK_WAIT), nobody_elsewhere(world.lease, wait=_LOCK_WAIT):
        world.journal.reload()  # what the run that was waited for has done since
        strange = _meshes(wanted, world.journal) - set(world.clusters)
        if strange:
            raise MigrationError(
                "Another run has just written to a mesh that is not connected here",
                where=", ".join(sorted(strange)),
                why="it ended while this one waited for it",
                todo="run this again",
            )
        return way(wanted, world, False)


def _back(wanted: Wanted, world: World, check_mode: bool) -> Outcome:
    return restore(world.clusters, world.journal, world.proxies, world.clock, wanted.drain, wanted.timeout, check_mode)


# -- observe -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Present:
    """Where the traffic is. ``low``: the lowest share in percent that any route has."""

    states: list[RouteState]
    holds: dict[float, str]

    def known(self, share: float) -> str:
        return self.holds.get(share, "")

    @property
    def low(self) -> float:
        return min((share for state in self.states for share in state.shares), default=0.0)

    def compare(self, share: float) -> tuple[float, float]:
        """How far, in percent points, the lowest and the highest route are from what would be planned for this share."""
        off = [route.present.share - route.plan(share).share for state in self.states for route in state.routes]
        return min(off, default=0.0), max(off, default=0.0)


def _names(wanted: Wanted) -> list[str]:
    return sorted(f"{mesh}/{ask} {ask.source} -> {ask.target}" for ask in wanted.asks for mesh in ask.meshes)


def observe(mover: RouteMover, wanted: Wanted, journal: Journal) -> Present:
    return Present(mover.observe(), holds_of(journal, _names(wanted), _EVENT))


# -- plan --------------------------------------------------------------------------------------------------------


def plan(mover: RouteMover, present: Present, todo: t.Sequence[Todo]) -> tuple[Plan, list[Object]]:
    """All writes of the staircase in order, and the steps as the result shows them. Pure."""
    found, steps, states = Plan(), [], present.states
    for item in todo:
        share = item.step.share
        part = mover.plan(share, states, f"step {item.step.number}: asked {share:g} %")
        found.changes += part.changes
        states = [after(state, share) for state in states]
        values = [(value, share) for state in states for value in state.planned(share)]
        steps.append(
            {
                "step": item.step.number,
                "asked": share,
                "planned": worst(values),
                "hold": item.step.hold,
                "max_hold": item.step.max_hold,
                "moved": item.move,
                "routes": [state.as_dict() for state in states],
            }
        )
    return found, steps


def after(state: RouteState, share: float) -> RouteState:
    """The VirtualService as it would be."""
    obj = state.moved(share)
    return dataclasses.replace(state, found=obj, routes=tuple(_routes.choose(obj, _asks_of(state), state.where)))


def _asks_of(state: RouteState) -> list[Ask]:
    return list(dict.fromkeys(route.ask for route in state.routes))


# -- apply -------------------------------------------------------------------------------------------------------


def climb(wanted: Wanted, world: World, mover: RouteMover, todo: t.Sequence[Todo], present: Present) -> Report:
    """Go through the steps under live orders, and write progress."""
    journal, names = world.journal, _names(wanted)
    if todo:
        journal.sync()  # the ConfigMap that takes orders is there from the beginning
    orders = Orders(mover.cluster, journal, world.lease)
    progress = Progress(journal.directory, journal.run)

    def note(what: str, **fields: t.Any) -> None:
        journal.write(_EVENT, what=what, gateways=names, **fields)

    shares = ", ".join(f"{item.step.share:g} %" for item in todo)
    text = f"routes from {present.low:.4g} % by {shares}" if todo else f"{present.low:.4g} % is in effect, nothing to move"
    progress.event("start", of=todo[-1].step.number if todo else None, observed=present.low, text=text)
    try:
        with interruptible() as flag:
            stairs = Staircase(
                mover,
                Panel(wanted.gates),
                orders.control,
                progress,
                wanted.rules,
                note=note,
                interrupted=Interrupted(flag, os.environ.get(CONTROLLER_ENV)),
                clock=world.clock,
            )
            report = stairs.run(todo, present.low, wanted.steps[-2].share if len(wanted.steps) > 1 else 0.0)
    finally:
        orders.control.stop()
        progress.close()
    journal.sync()
    if progress.problem:
        report.warnings.append(progress.problem)
    return report


# -- verify ------------------------------------------------------------------------------------------------------


def verify(mover: RouteMover, before: t.Sequence[RouteState], found: Plan, report: Report) -> list[RouteState]:
    """Into the plan what is really different now; and the routes as they are."""
    states = list(before)
    if not report.done and not mover.written:
        return states
    try:
        states = mover.observe()
    except MigrationError as error:
        report.warnings.append(f"how it ended could not be read: {error.message}")
        found.notes.append("the changes are not listed, because how it ended could not be read")
        return states
    say_where(report, Present(states, {}))
    old = {state.where: _routes.shown(state.found) for state in before}
    for state in states:
        first, second = old.get(state.where), _routes.shown(state.found)
        if first != second:
            found.add("set_route_weights", state.where, first, second, report.reason)
    return states


# -- the module --------------------------------------------------------------------------------------------------


def _move(wanted: Wanted, world: World, check_mode: bool) -> Outcome:
    journal, objects = world.journal, Objects(world.clusters, world.journal)
    under_way = {(mesh, f"VirtualService/{namespace}/{name}") for mesh, namespace, name in _written(journal)}
    items = objects.wanted(wanted.objects, under_way)
    imagined = {item.one.place: item.body for item in items if item.action in ("create", "update")}
    mover = RouteMover(world.clusters, wanted.asks, journal, world.proxies, imagined=imagined if check_mode else {})
    made = Plan()
    _route_objects.tell(items, made)
    result: Object = {"objects": [item.as_dict() for item in items], "run": journal.run}
    if not check_mode:
        objects.write(items)
    try:
        present = observe(mover, wanted, journal)
        todo = remaining(wanted.steps, present.compare, present=present.low, known=present.known, allow_down=wanted.allow_down)
        planned, steps = plan(mover, present, todo)
        warnings = _early(mover, present, todo) if check_mode else []
    except MigrationError as error:
        if check_mode or not made.changed:
            raise
        return Outcome(made, result, failed=_also_done(error, made))
    if check_mode:
        made.changes += planned.changes
        shown = [state.as_dict() for state in present.states]
        return Outcome(made, {**result, "steps": steps, "share": present.low, "routes": shown}, warnings)
    try:
        if todo:
            mover.can_ask(present.states)
    except MigrationError as error:
        return Outcome(made, result, failed=_also_done(error, made))
    report = climb(wanted, world, mover, todo, present)
    states = verify(mover, present.states, made, report)
    fields = {key: value for key, value in dataclasses.asdict(report).items() if key not in ("warnings", "done")}
    for row in [*fields["steps"], *([fields["rolled_back"]] if fields["rolled_back"] else [])]:
        row["routes"] = row.pop("gateways", [])
    result.update(fields, routes=[state.as_dict() for state in states], progress=str(journal.directory / "progress.jsonl"))
    where = ", ".join(state.where for state in present.states)
    warnings = []
    for place, asked in mover.unproven.items():
        text = (
            f"{place}: {'none of the proxies that were asked' if asked else 'no proxy of its mesh'} has it, what is stored counts"
        )
        (warnings if asked else made.notes).append(text)
    problem = problem_of(report, where, "the VirtualServices")
    if problem is not None:
        problem.done = list(dict.fromkeys([*problem.done, *mover.written]))
    return Outcome(made, result, [*warnings, *report.warnings], problem)


def _written(journal: Journal) -> list[tuple[str, str, str]]:
    """Mesh, namespace and name of what this migration has written weights to."""
    return [t.cast("tuple[str, str, str]", tuple(key[len(PREFIX) :].split("/"))) for key in journal.originals(PREFIX)]


def _also_done(error: MigrationError, made: Plan) -> MigrationError:
    error.done = [*(str(change) for change in made.changes), *error.done]
    return error


def _early(mover: RouteMover, present: Present, todo: t.Sequence[Todo]) -> list[str]:
    """In check mode: what the first step would wait for."""
    found = []
    for state in present.states:
        if todo and not state.settled(todo[0].step.share):
            try:
                mover.serves(state, todo[0].step.share)
            except MigrationError as error:
                found.append(f"{error.what}: {error.why}")
    return found
