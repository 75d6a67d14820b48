# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Moves traffic between the two gateways behind a load balancer, by the weights in their annotations.

Rules: the side that gets more is written first; the other one only after the load balancer shows that the first can carry it
(weights over 0 and healthy backends in every vServer group). An event of the cloud-controller-manager is no proof: what counts
is what the load balancer has. Backends that it loses meanwhile are put back at once, past the CCM. No way back needs a journal.
"""

from __future__ import annotations

import dataclasses
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._clb import Backend, Clb
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Change, Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import Answer, each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._core._retry import repeated_until
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster, Object
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import SERVICE, Kind
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._ccm import TOUCHED, WEIGHT
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._clb_view import backend_key, by_port, owned_by
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._pair import (
    GatewayPair,
    PairView,
    now_text,
    observe_pair,
    read_services,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._source import istio_gateway_kind
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._move_state import (
    SIDES,
    GatewayState,
    not_ready,
    only_past_the_ccm,
    order,
    refusals,
    refuse,
    unhealthy,
    worst,
    yields,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._shares import SharePlan, parse_share, plan_share

__all__ = ["GatewayPair", "GatewayState", "Moved", "Mover", "plan_share"]

# Polling of the load balancer: at first as fast as a CCM answers, later gentle to the API's quota. Seconds.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.03, 0.5
# How often nodes and pods are counted again while waiting. Seconds.
_RECOUNT = 0.4
_REPLANS = 6
_EXCLUDE = "node.kubernetes.io/exclude-from-external-load-balancers"
# On the way back (share 0) a load balancer that shows nothing after this time is written to directly. Seconds.
_PUSH_AFTER = 0.4
# Backends that were put back stay under watch for this time. Seconds.
_QUIET = 0.4
# Backends of a side that are all gone may be pods that restart; after this time they are not. Seconds.
_GRACE = 1.5
# A CCM pauses for up to 300 s after a call that failed; a touched annotation ends the pause. On the way back more often. Seconds.
_NUDGE, _NUDGE_BACK = 5.0, 1.0
# A Service that does not say what the load balancer was made to show is given up after this time. Seconds.
_FOLLOW = 3.0


@dataclasses.dataclass
class Moved:
    """The answer for one gateway; shares in percent of the target.

    :arg observed: the listener farthest from the plan. :arg listeners: ``{port: share}``.
    :arg writes: ``[{"time": seconds since the move began, "what": text}]``. :arg seconds: until the load balancer showed it.
    """

    pair: GatewayPair
    asked: float
    planned: float
    observed: float
    source_weight: int
    target_weight: int
    listeners: dict[int, float] = dataclasses.field(default_factory=dict)
    writes: list[dict[str, t.Any]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    load_balancer_id: str = ""
    notes: list[str] = dataclasses.field(default_factory=list)

    def as_dict(self) -> dict[str, t.Any]:
        found = dataclasses.asdict(self)
        del found["pair"]
        found["listeners"] = {str(port): share for port, share in self.listeners.items()}
        return {**self.pair.as_dict(), **found}


class Mover:
    """See the module's docstring. ``journal`` gets every write, before and after it."""

    def __init__(self, source: Cluster, target: Cluster, clb: Clb, pairs: t.Sequence[GatewayPair], journal: Journal) -> None:
        self._source = source
        self._target = target
        self._clb = clb
        self._pairs = list(pairs)
        self._journal = journal
        self._kind: Kind | None = None

    # -- reading -------------------------------------------------------------------------------------------------

    def observe(self) -> list[GatewayState]:
        """All gateways as they are now. Raises MigrationError when one cannot be read."""
        self._gateway_kind()
        return values(each(self._pairs, self._observe))

    def drifted(self, share: float) -> bool:
        """Whether some gateway does not show what would be planned now for this share.

        A gateway for which nothing can be planned (no ready pod) has not drifted: no weight would mend that.
        """
        for state in self.observe():
            try:
                plan = plan_share(state, share)
            except InputError:
                raise
            except MigrationError:
                continue
            if not state.settled(plan) and not _nothing_to_do(state, share):
                return True
        return False

    def plan(self, share: t.Any, states: t.Sequence[GatewayState] | None = None) -> Plan:
        """What move() would write. Raises MigrationError when something forbids it."""
        found = Plan()
        for state in self.observe() if states is None else states:
            if _nothing_to_do(state, share):
                found.notes.append(f"{state.pair}: there is no target gateway, all traffic is at the source")
                continue
            reasons = refusals(state, share)
            if only_past_the_ccm(state, share, reasons):
                found.add("set_backends", state.view.where, {"share": state.share}, {"share": 0.0}, "; ".join(reasons))
                continue
            if reasons:
                raise refuse(state, reasons, share)
            plan = plan_share(state, share)
            for side, weight in order(state, plan):
                found.changes.append(self._change(state, side, weight, plan, "asked by the user"))
        return found

    def _gateway_kind(self) -> Kind | None:
        """The IstioGateway as the target's API server serves it; None when it does not."""
        if self._kind is None:
            self._kind = istio_gateway_kind(self._target)
        return self._kind

    def _gateway(self, pair: GatewayPair) -> Object | None:
        kind = self._gateway_kind()
        return self._target.get(kind, pair.target_gateway, pair.namespace) if kind else None

    def _observe(self, pair: GatewayPair) -> GatewayState:
        parts: list[t.Callable[[], t.Any]] = [
            lambda: observe_pair(self._source, self._clb, pair),
            lambda: self._gateway(pair),
        ]
        view, gateway = values(each(parts, lambda part: part()))
        return GatewayState(view, gateway)

    # -- moving --------------------------------------------------------------------------------------------------

    def move(self, share: float, *, timeout: float, reason: str) -> list[Moved]:
        """Bring every gateway to this share, all at the same time. Returns when the load balancers show it.

        Raises the first gateway's MigrationError after all have ended; ``done`` says what was written, for all of them.
        """
        with repeated_until(time.monotonic() + timeout, self._source, self._target, self._clb):
            answers = self.move_each(share, timeout=timeout, reason=reason)
        moved = [answer.value for answer in answers if answer.value is not None]
        for answer in answers:
            if answer.error is not None:
                others = [write["what"] for item in moved for write in item.writes]
                answer.error.done = [*answer.error.done, *others]
                answer.error.details["moved"] = [item.as_dict() for item in moved]
                raise answer.error
        return moved

    def move_each(self, share: float, *, timeout: float, reason: str) -> list[Answer[GatewayPair, Moved]]:
        """As move(), with an answer or an error for each gateway."""
        parse_share(share)
        self._source.guard()
        self._target.guard()
        self._gateway_kind()
        deadline = time.monotonic() + timeout
        return each(self._pairs, lambda pair: _One(self, pair, share, deadline, reason).run())

    def _change(self, state: GatewayState, side: str, weight: int, plan: SharePlan, reason: str) -> Change:
        pair = state.pair
        text = f"{reason}: asked {plan.asked:g} %, planned {plan.planned:g} %"
        if side == "source":
            where = f"source/{pair.namespace}/Service/{pair.source_service}"
            return Change("set_weight", where, {"weight": state.source_weight}, {"weight": weight}, text)
        where = f"target/{pair.namespace}/IstioGateway/{pair.target_gateway}"
        return Change("set_weight", where, {"weight": state.gateway_weight}, {"weight": str(weight)}, text)

    def _write(self, pair: GatewayPair, side: str, weight: int, *, touch: bool) -> None:
        """:arg touch: the weight is there already, but the load balancer does not show it: make the CCM look again at once."""
        annotations = {WEIGHT: str(weight), **({TOUCHED: now_text()} if touch else {})}
        if side == "source":
            self._source.patch(SERVICE, pair.source_service, pair.namespace, {"metadata": {"annotations": annotations}})
            return
        kind = self._gateway_kind()
        if kind is None:  # refusals() has seen it; somebody may have removed it since
            raise MigrationError("The target serves no IstioGateway any more", todo="find out why, then run this again")
        self._target.patch(kind, pair.target_gateway, pair.namespace, {"spec": {"serviceAnnotations": annotations}})


def _nothing_to_do(state: GatewayState, share: t.Any) -> bool:
    """Share 0 without a target gateway: true already, as long as the source has weight everywhere."""
    return parse_share(share) == 0 and state.target_absent and all(state.sum("source", port) > 0 for port in state.view.ports)


class _One:
    """One move of one gateway."""

    def __init__(self, mover: Mover, pair: GatewayPair, share: float, deadline: float, reason: str) -> None:
        self._mover = mover
        self._pair = pair
        self._share = share
        self._deadline = deadline
        self._reason = reason
        self._back = parse_share(share) == 0
        self._began = time.monotonic()
        self._writes: list[dict[str, t.Any]] = []

    def run(self) -> Moved:
        try:
            return self._run()
        except MigrationError as error:
            error.done = [*(write["what"] for write in self._writes), *error.done]
            raise

    def _run(self) -> Moved:
        state = self._mover._observe(self._pair)
        for _attempt in range(_REPLANS):
            if _nothing_to_do(state, self._share):
                return self._moved(state, None)
            reasons = refusals(state, self._share)
            if only_past_the_ccm(state, self._share, reasons):
                raise self._back_without_annotations(state, state.view.bad_nodes())
            if reasons:
                raise refuse(state, reasons, self._share)
            plan = plan_share(state, self._share)
            if state.settled(plan):
                return self._moved(state, plan)
            for side, weight in order(state, plan):
                state = self._step(state, plan, side, weight)
            # Pods and nodes may have come or gone meanwhile: then another pair of weights is the best one.
            state = self._mover._observe(self._pair)
        raise MigrationError(
            f"The backends of {self._pair} change faster than weights can be written",
            where=state.view.where,
            why=f"after {_REPLANS} plans the load balancer still shows other weights: "
            + "; ".join(
                [*state.view.differences("source", state.source_weight), *state.view.differences("target", state.target_weight)]
            ),
            todo="stop the autoscaling of the gateways for a while, then run again",
            transient=True,
        )

    def _moved(self, state: GatewayState, plan: SharePlan | None) -> Moved:
        planned = plan.planned if plan else 0.0
        return Moved(
            pair=self._pair,
            asked=float(parse_share(self._share)),
            planned=planned,
            observed=worst(state.shares, planned),
            source_weight=plan.source_weight if plan else state.source_weight or 0,
            target_weight=plan.target_weight if plan else 0,
            listeners=state.shares,
            writes=self._writes,
            seconds=round(time.monotonic() - self._began, 3),
            load_balancer_id=state.view.balancer.id,
            notes=[] if plan else ["there is no target gateway, all traffic is at the source"],
        )

    def _step(self, state: GatewayState, plan: SharePlan, side: str, weight: int) -> GatewayState:
        """One write and its proof. Returns the state that the load balancer shows after it."""
        mover, pair = self._mover, self._pair
        bad = state.view.bad_nodes()
        if bad:
            raise bad_node(pair, state.view, bad)
        if yields(state, plan, side, weight):
            self._other_carries(state, "target" if side == "source" else "source")
        change = mover._change(state, side, weight, plan, self._reason)
        with mover._journal.around(change, must=not self._back):
            mover._write(pair, side, weight, touch=state.asks(side) == weight)
            self._wrote(f"weight {weight} at {change.target}")
            return self._wait(state, side, weight)

    def _wrote(self, what: str) -> None:
        self._writes.append({"time": round(time.monotonic() - self._began, 3), "what": what})

    def _other_carries(self, state: GatewayState, other: str) -> None:
        view = state.view
        known = by_port(view.listeners)
        answers = each([known[port] for port in view.ports], lambda item: self._mover._clb.health(view.balancer.id, item))
        values(answers)
        states = {
            answer.item.port: [(item.server_id, item.server_ip, item.port, item.status) for item in answer.value or ()]
            for answer in answers
        }
        reasons = [*not_ready(state, other), *unhealthy(view, other, states)]
        if reasons:  # where the health check is off, or late, there are only the pods of this very moment to go by
            raise refuse(state, reasons, self._share)

    def _wait(self, state: GatewayState, side: str, weight: int) -> GatewayState:
        """Poll the groups until they hold the formula's weights for this side; look after the backends meanwhile."""
        mover, before, view = self._mover, state.view, state.view
        ids = [group.id for group in before.gateway_groups]
        began = counted = looked = nudged = time.monotonic()
        pause, pushed = _FIRST_PAUSE, 0.0
        trouble = ""
        while True:
            try:
                view = _with_groups(view, mover._clb.group_list(view.balancer.id, ids))
                trouble = ""
            except MigrationError as error:
                if not error.transient:
                    raise
                trouble = error.message
            if not trouble:
                for one in SIDES:  # a late look of the CCM can hit the other one, too
                    if _lost(before, view, one):
                        view = dataclasses.replace(view, **read_services(mover._source, self._pair))
                        self._look_after(before, view, one, time.monotonic() - began > _GRACE)
                        counted = time.monotonic()
                if view.shows(side, weight):
                    # Services and nodes as they are directly before the next write.
                    state = dataclasses.replace(state, view=dataclasses.replace(view, **read_services(mover._source, self._pair)))
                    if state.asks(side) == weight:
                        return state
                    if pushed and time.monotonic() - pushed > _FOLLOW:
                        raise self._in_vain(view, side, weight, trouble)
            now = time.monotonic()
            if self._back and now - looked > _PUSH_AFTER:
                self._push(view, side, weight)
                looked, pushed = now, pushed or now
            if now - nudged > (_NUDGE_BACK if self._back else _NUDGE) and not view.shows(side, weight):
                mover._write(self._pair, side, weight, touch=True)
                nudged = now
            if now > self._deadline:
                raise self._in_vain(view, side, weight, trouble)
            if now - counted > _RECOUNT:
                view = dataclasses.replace(view, **read_services(mover._source, self._pair))
                counted = time.monotonic()
            time.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 1.15)

    def _not_followed(self, side: str) -> str:
        who = "ASM's controller has not carried it over from the IstioGateway" if side == "target" else "somebody changes it"
        return f"the load balancer shows it, but the annotation of Service {self._pair.service(side)} does not say so: {who}"

    def _in_vain(self, view: PairView, side: str, weight: int, trouble: str) -> MigrationError:
        return MigrationError(
            f"The load balancer does not show weight {weight} of {self._pair.service(side)} in time",
            where=view.where,
            why=trouble or "; ".join(view.differences(side, weight)) or self._not_followed(side),
            todo=f"look at the events SyncLoadBalancerFailed of Service {self._pair.service(side)} and, for the target, at the "
            "status of its IstioGateway; then run again",
            transient=True,
        )

    # -- past the cloud-controller-manager: only on the way back, and only what the annotations say or will say -----

    def _push(self, view: PairView, side: str, weight: int) -> None:
        """Set the formula's weights on the backends that are there, in all groups at once. A CCM that is late will agree."""
        stale: dict[str, tuple[dict[str, int], list[Backend]]] = {}
        for port in view.ports:
            group, wanted = view.group(port), view.expected(side, port, weight)
            backends = [
                dataclasses.replace(item, weight=wanted[backend_key(item)])
                for item in (group.backends if group else ())
                if owned_by(item, self._pair.namespace, self._pair.service(side)) and backend_key(item) in wanted
            ]
            changed = [item for item in backends if group and item not in group.backends]
            if changed and group:
                stale[group.id] = view.own(side, group), changed

        def one(group_id: str) -> None:
            before, backends = stale[group_id]
            after = {backend_key(item): item.weight for item in backends}
            change = Change("set_backends", f"{view.where}/group/{group_id}", before, after, "the CCM is late")
            with self._mover._journal.around(change, must=False):
                self._mover._clb.set_backends(view.balancer.id, group_id, backends)
            self._wrote(f"weights {after} in {group_id}, past the cloud-controller-manager")

        values(each(list(stale), one))

    def _back_without_annotations(self, state: GatewayState, bad: list[str]) -> MigrationError:
        """All traffic to the source while a bad node forbids to touch annotations: only in the load balancer."""
        for side, weight in (("source", 100), ("target", 0)):
            if side == "target":
                self._other_carries(state, "source")
            self._push(state.view, side, weight)
            ids = [group.id for group in state.view.gateway_groups]
            groups = self._mover._clb.group_list(state.view.balancer.id, ids)
            state = dataclasses.replace(state, view=_with_groups(state.view, groups))
        error = bad_node(self._pair, state.view, bad)
        error.what = f"The traffic of {self._pair} is back at the source, but only in the load balancer"
        error.why += "; so the annotations still ask for the weights of before"
        return error

    # -- backends that went away ---------------------------------------------------------------------------------

    def _look_after(self, before: PairView, view: PairView, side: str, late: bool) -> None:
        """A side's backends are all gone from a group, and not because its pods are: put them back past the CCM, then stop.

        The CCM takes them out of one group after the other, so all groups are looked at until no more are lost.
        :arg late: the CCM had time enough to add backends that are only changing (a restart of all pods).
        """
        wanted = {server for port in view.ports for server in view.expected(side, port, 100)}
        if not view.bad_nodes() and (not late or not any(_known(_lost(before, view, side), wanted).values())):
            return
        mover, name = self._mover, self._pair.service(side)
        done: list[str] = []
        open_: dict[str, str] = {}
        quiet = time.monotonic() + _QUIET
        while time.monotonic() < quiet:
            for group_id, backends in _known(_lost(before, view, side), wanted).items():
                change = Change(
                    "put_back_backends",
                    f"{view.where}/group/{group_id}",
                    [],
                    [dataclasses.asdict(item) for item in backends],
                    f"the cloud-controller-manager took all backends of {name} away",
                )
                if group_id in open_:
                    continue
                try:
                    with mover._journal.around(change, must=False):
                        mover._clb.add_backends(view.balancer.id, group_id, backends)
                except MigrationError as error:
                    open_[group_id] = f"backends of {name} in {group_id}: {error.why}"
                    continue
                done.append(f"{len(backends)} backends of {name} put back into {group_id}")
                quiet = time.monotonic() + _QUIET
            time.sleep(_FIRST_PAUSE)
            view = _with_groups(view, mover._clb.group_list(view.balancer.id, [group.id for group in before.gateway_groups]))
        bad = view.bad_nodes()
        raise MigrationError(
            f"The cloud-controller-manager took all backends of {name} away; "
            + ("they could not all be put back" if open_ else "they are back with the weights of before"),
            where=view.where,
            why=f"the node(s) {', '.join(bad)} have no usable spec.providerID" if bad else "the cause is not known",
            todo=f"mend the node, or exclude it by the label {_EXCLUDE}, and run again",
            done=done,
            not_done=list(open_.values()),
            # One throttled call of a CCM v2.14 does this too; with sound nodes its next look mends it, and so may our next try.
            transient=not bad and not open_,
            details={"bad_nodes": bad},
        )


def bad_node(pair: GatewayPair, view: PairView, bad: t.Sequence[str]) -> MigrationError:
    return MigrationError(
        f"No weight of {pair} can be changed now",
        where=view.where,
        why=f"node {', '.join(bad)} has no usable spec.providerID; at the next change of an annotation the "
        "cloud-controller-manager would fail, or take all backends of the Service away",
        todo=f"wait until the node has its providerID, or exclude it by the label {_EXCLUDE}, and run again",
        details={"bad_nodes": list(bad)},
    )


def _with_groups(view: PairView, groups: t.Sequence[t.Any]) -> PairView:
    fresh = {group.id: group for group in groups}
    merged = [
        dataclasses.replace(fresh[group.id], listeners=group.listeners) if group.id in fresh else group for group in view.groups
    ]
    return dataclasses.replace(view, groups=tuple(merged))


def _known(lost: t.Mapping[str, list[Backend]], servers: t.Collection[str]) -> dict[str, list[Backend]]:
    """Of the lost backends those whose node or pod is still there."""
    found = {group_id: [item for item in backends if backend_key(item) in servers] for group_id, backends in lost.items()}
    return {group_id: backends for group_id, backends in found.items() if backends}


def _lost(before: PairView, now: PairView, side: str) -> dict[str, list[Backend]]:
    """``{group id: backends}`` of groups in which this side had backends and has none now."""
    pair = before.pair
    present = {group.id: group for group in now.groups}
    found: dict[str, list[Backend]] = {}
    for group in before.gateway_groups:
        had = [item for item in group.backends if owned_by(item, pair.namespace, pair.service(side))]
        still = [item for item in present[group.id].backends if owned_by(item, pair.namespace, pair.service(side))]
        if had and not still:
            found[group.id] = had
    return found
