# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""traffic_shift: the staircase over the load balancer's weights. observe, plan (pure), apply, verify."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._clb import Clb
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._interrupt import interruptible
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome, secrets_of
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import SERVICE
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._lease import Lease
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._mirror import ConfigMapMirror
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._pair import GatewayPair, pairs_of
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._control import (
    ANNOTATION,
    CONTROLLER_ENV,
    Control,
    Interrupted,
    Order,
    Poller,
    nobody_elsewhere,
    only_one,
    read_order,
    strongest,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gates import Gate, Panel
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._mover import (
    GatewayState,
    Moved,
    Mover,
    plan_share,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._progress import Progress
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._shares import Side
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._staircase import Move, Report, Rules, Staircase
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._stairs import (
    holds_of,
    problem_of,
    read_stairs,
    say_where,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._steps import Step, Todo, remaining

# A run that is just ending (its controller died, or it was told to) is waited for. Seconds.
_LOCK_WAIT = 30.0
_CONTROL_INTERVAL = 2.0


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The options, checked."""

    pairs: list[GatewayPair]
    steps: list[Step]
    gates: list[Gate]
    rules: Rules
    allow_down: bool


def read_options(params: t.Mapping[str, t.Any]) -> Wanted:
    """Everything that can be wrong without asking anybody is found here. Raises InputError."""
    pairs = pairs_of(params["gateways"])
    steps, gates, rules = read_stairs(params)
    return Wanted(pairs, steps, gates, rules, params["allow_down"])


# -- observe -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Present:
    """Where the traffic is. ``low``: the lowest share in percent that any gateway has on any port."""

    states: list[GatewayState]
    holds: dict[float, str]

    def known(self, share: float) -> str:
        return self.holds.get(share, "")

    @property
    def low(self) -> float:
        return min((share for state in self.states for share in state.shares.values()), default=0.0)

    def compare(self, share: float) -> tuple[float, float]:
        """How far, in percent points, the lowest and the highest gateway are from what would be planned for this share."""
        off = [
            seen - _planned(state, share)
            for state in self.states
            if not (share == 0 and state.target_absent)
            for seen in state.shares.values()
        ]
        return min(off, default=0.0), max(off, default=0.0)


def _planned(state: GatewayState, share: float) -> float:
    """What would be planned; when the source is retired, or about to be, no weights can be: the share stands for itself."""
    if state.view.source is None or not state.source.members:
        return share
    return plan_share(state, share).planned


class Imagined(GatewayState):
    """A gateway whose target was not made yet, as check mode sees it: the target is taken to have the source's backends."""

    @property
    def target(self) -> Side:
        return self.source

    @property
    def note(self) -> str:
        return (
            f"{self.pair}: the target gateway is not there yet; the shares are planned as if it had the backends of the source "
            f"({len(self.source.members)} now)"
        )


def imagine(state: GatewayState) -> GatewayState:
    """In check mode the steps before this one have changed nothing either: plan as it would be after them."""
    return Imagined(state.view, state.gateway) if state.target_absent else state


def observe(mover: Mover, journal: Journal, pairs: t.Sequence[GatewayPair]) -> Present:
    """The gateways now, and which holds an earlier run saw through (from the journal)."""
    return Present(mover.observe(), holds_of(journal, _names(pairs)))


# -- plan --------------------------------------------------------------------------------------------------------


def plan(present: Present, todo: t.Sequence[Todo]) -> tuple[Plan, list[dict[str, t.Any]]]:
    """All writes of the staircase in order, and the steps as the result shows them. Pure."""
    found = Plan()
    steps: list[dict[str, t.Any]] = []
    known: dict[str, t.Any] = {}
    for item in todo:
        gateways = []
        for state in present.states:
            share = plan_share(state, item.step.share)
            gateways.append({**state.pair.as_dict(), **share.as_dict()})
            sides = [(_source_name(state.pair), state.source_weight, share.source_weight)]
            sides.append((_target_name(state.pair), state.target_weight, share.target_weight))
            # As the mover does it: the side that gets more is written first.
            sides.sort(key=lambda side: (known.get(side[0], side[1]) or 0) - side[2])
            for name, weight, wanted in sides:
                before = known.get(name, weight)
                if before != wanted:
                    why = f"step {item.step.number}: asked {item.step.share:g} %, planned {share.planned:.4g} %"
                    found.add("set_weight", name, {"weight": before}, {"weight": wanted}, why)
                known[name] = wanted
        steps.append(
            {
                "step": item.step.number,
                "asked": item.step.share,
                "planned": _worst([(gateway["planned"], item.step.share) for gateway in gateways]),
                "hold": item.step.hold,
                "max_hold": item.step.max_hold,
                "moved": item.move,
                "gateways": gateways,
            }
        )
    return found, steps


def _source_name(pair: GatewayPair) -> str:
    return f"source/{pair.namespace}/Service/{pair.source_service}"


def _target_name(pair: GatewayPair) -> str:
    return f"target/{pair.namespace}/IstioGateway/{pair.target_gateway}"


def _names(pairs: t.Sequence[GatewayPair]) -> list[str]:
    return sorted(str(pair) for pair in pairs)


def _worst(pairs: t.Sequence[tuple[float, float]]) -> float:
    """Of ``(value, wanted)`` the value farthest from what is wanted."""
    return max(pairs, key=lambda item: abs(item[0] - item[1]), default=(0.0, 0.0))[0]


# -- apply -------------------------------------------------------------------------------------------------------


class Weights:
    """The load balancer's weights as something that the staircase can move."""

    def __init__(self, mover: Mover) -> None:
        self._mover = mover

    def move(self, share: float, *, timeout: float, reason: str) -> Move:
        began = time.time()
        moved: list[Moved] = self._mover.move(share, timeout=timeout, reason=reason)
        return Move(
            planned=_worst([(item.planned, share) for item in moved]),
            observed=_worst([(item.observed, item.planned) for item in moved]),
            gateways=[item.as_dict() for item in moved],
            writes=tuple(sorted(began + write["time"] for item in moved for write in item.writes)),
        )

    def drifted(self, share: float) -> bool:
        return self._mover.drifted(share)


def annotation_order(source: Cluster, pairs: t.Sequence[GatewayPair]) -> Order:
    """The strongest order in the annotations of the source Services."""
    orders = []
    for pair in pairs:
        service = source.get(SERVICE, pair.source_service, pair.namespace) or {}
        text = ((service.get("metadata") or {}).get("annotations") or {}).get(ANNOTATION)
        orders.append(read_order(text, f"the annotation {ANNOTATION} of Service {pair.namespace}/{pair.source_service}"))
    return strongest(orders)


def apply(
    wanted: Wanted,
    mover: Mover,
    source: Cluster,
    journal: Journal,
    todo: t.Sequence[Todo],
    present: Present,
    lease: Lease | None = None,
) -> Report:
    """Go through the steps under live orders, and write progress."""
    names = _names(wanted.pairs)
    first = annotation_order(source, wanted.pairs)
    poller = Poller(lambda: annotation_order(source, wanted.pairs), _CONTROL_INTERVAL, first)
    control = Control(journal.directory / "control", poller, lease)
    progress = Progress(journal.directory, journal.run)

    def note(what: str, **fields: t.Any) -> None:
        journal.write("shift", what=what, gateways=names, **fields)

    progress.event("start", of=todo[-1].step.number if todo else None, observed=present.low, text=_intention(todo, present))
    try:
        with interruptible() as flag:
            stairs = Staircase(
                Weights(mover),
                Panel(wanted.gates),
                control,
                progress,
                wanted.rules,
                note=note,
                interrupted=Interrupted(flag, os.environ.get(CONTROLLER_ENV)),
            )
            report = stairs.run(todo, present.low, wanted.steps[-2].share if len(wanted.steps) > 1 else 0.0)
    finally:
        control.stop()
        progress.close()
    if progress.problem:
        report.warnings.append(progress.problem)
    return report


def _intention(todo: t.Sequence[Todo], present: Present) -> str:
    steps = ", ".join(f"{item.step.share:g} %" for item in todo)
    return f"from {present.low:.4g} % by {steps}" if steps else f"{present.low:.4g} % is in effect, nothing to move"


# -- verify ------------------------------------------------------------------------------------------------------


def verify(mover: Mover, before: Present, report: Report) -> tuple[Plan, list[dict[str, t.Any]]]:
    """What is really different now, and the gateways as they are."""
    found = Plan()
    if not report.done:
        return found, [state.as_dict() for state in before.states]
    try:
        after = mover.observe()
    except MigrationError as error:
        report.warnings.append(f"how it ended could not be read: {error.message}")
        found.notes.append("the changes are not listed, because how it ended could not be read")
        return found, []
    for old, new in zip(before.states, after):  # noqa: B905 - not in Python 3.9
        sides = [(_source_name(new.pair), old.source_weight, new.source_weight)]
        sides.append((_target_name(new.pair), old.target_weight, new.target_weight))
        for name, weight, now in sides:
            if weight != now:
                found.add("set_weight", name, {"weight": weight}, {"weight": now}, report.reason)
    say_where(report, Present(after, {}))
    return found, [state.as_dict() for state in after]


# -- the module --------------------------------------------------------------------------------------------------


def shift(params: dict[str, t.Any], check_mode: bool) -> Outcome:
    """The logic of traffic_shift."""
    wanted = read_options(params)
    source, target = Cluster("source", params["source"]), Cluster("target", params["target"])
    clb = Clb(params["alibaba"])
    source.guard()
    target.guard()
    journal = Journal(
        params["state_dir"],
        params["migration"],
        mirror=ConfigMapMirror(source, params["migration"]),
        secrets=secrets_of(params),
        enabled=not check_mode,
    )
    mover = Mover(source, target, clb, wanted.pairs, journal)
    if check_mode:
        present, todo, planned, steps = _prepare(wanted, mover, journal, rehearsal=True)
        gateways = [state.as_dict() for state in present.states]
        result = {"steps": steps, "share": present.low, "gateways": gateways, "run": journal.run}
        return Outcome(planned, result, [state.note for state in present.states if isinstance(state, Imagined)])
    lease = Lease(source, journal.migration, journal.directory, journal.run)
    place = journal.directory / "shift.lock"
    with only_one(place, wait=_LOCK_WAIT), nobody_elsewhere(lease, wait=_LOCK_WAIT):
        present, todo, _planned, _steps = _prepare(wanted, mover, journal)
        report = apply(wanted, mover, source, journal, todo, present, lease)
        done, gateways = verify(mover, present, report)
    result = {key: value for key, value in dataclasses.asdict(report).items() if key not in ("warnings", "done")}
    result.update(gateways=gateways, run=journal.run, progress=str(pathlib.Path(journal.directory) / "progress.jsonl"))
    where = ", ".join(str(pair) for pair in wanted.pairs)
    return Outcome(done, result, [*lease.warnings, *report.warnings], problem_of(report, where))


def _prepare(
    wanted: Wanted, mover: Mover, journal: Journal, *, rehearsal: bool = False
) -> tuple[Present, list[Todo], Plan, list[dict[str, t.Any]]]:
    """Observe and plan. What the first step would be refused for is found here, in check mode too."""
    present = observe(mover, journal, wanted.pairs)
    if rehearsal:
        present = Present([imagine(state) for state in present.states], present.holds)
    todo = remaining(wanted.steps, present.compare, present=present.low, known=present.known, allow_down=wanted.allow_down)
    if todo:
        mover.plan(todo[0].step.share, [state for state in present.states if not isinstance(state, Imagined)])
    return present, todo, *plan(present, todo)
