# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Logic of module clb_weight: one share for all gateways, or one for each."""

from __future__ import annotations

import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._clb import Clb
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import Answer, each
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome, secrets_of
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._lease import Lease
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._mirror import ConfigMapMirror
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._pair import GatewayPair, pairs_of
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._control import nobody_elsewhere, only_one
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._move_state import worst
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._mover import GatewayState, Moved, Mover, plan_share
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._shares import parse_share

# A staircase that is just ending is waited for. Seconds.
_LOCK_WAIT = 30.0


def _wanted(params: t.Mapping[str, t.Any]) -> list[tuple[GatewayPair, t.Any]]:
    """``[(gateway, asked share)]``; the gateway's own share wins."""
    found: list[tuple[GatewayPair, t.Any]] = []
    for pair, gateway in [(pairs_of([item])[0], item) for item in params["gateways"]]:
        share = gateway.get("share") if gateway.get("share") is not None else params.get("share")
        if share is None:
            raise InputError(
                f"No share is asked for {pair}",
                why="neither share nor gateways[].share is set",
                todo="set share to the percent of the traffic that the target is to get",
            )
        parse_share(share)
        found.append((pair, share))
    pairs_of(params["gateways"])
    return found


def clb_weight(params: dict[str, t.Any], check_mode: bool) -> Outcome:
    """See module clb_weight."""
    wanted = _wanted(params)
    source, target, clb = Cluster("source", params["source"]), Cluster("target", params["target"]), Clb(params["alibaba"])
    source.guard()
    target.guard()
    journal = Journal(
        params["state_dir"],
        params["migration"],
        mirror=ConfigMapMirror(source, params["migration"]),
        secrets=secrets_of(params),
        enabled=not check_mode,
    )
    if check_mode:
        return _move(params, wanted, source, target, clb, journal, check_mode)
    # A staircase would take its share back a moment later, and this one would have said that it is in effect.
    lease = Lease(source, journal.migration, journal.directory, journal.run)
    place = journal.directory / "shift.lock"
    with only_one(place, wait=_LOCK_WAIT, among=True), nobody_elsewhere(lease, wait=_LOCK_WAIT, among=True):
        outcome = _move(params, wanted, source, target, clb, journal, check_mode)
    outcome.warnings += lease.warnings
    return outcome


def _move(
    params: dict[str, t.Any],
    wanted: list[tuple[GatewayPair, t.Any]],
    source: Cluster,
    target: Cluster,
    clb: Clb,
    journal: Journal,
    check_mode: bool,
) -> Outcome:
    jobs = [(Mover(source, target, clb, [pair], journal), share) for pair, share in wanted]
    observed = each(jobs, lambda job: job[0].observe()[0])
    first = _first_error(observed)
    if first is not None:
        raise first
    states = [answer.value for answer in observed if answer.value is not None]
    plan = Plan()
    for (mover, share), state in [(answer.item, state) for answer, state in _both(observed, states)]:
        part = mover.plan(share, [state])
        plan.changes.extend(part.changes)
        plan.notes.extend(part.notes)
    if check_mode or not plan.changed:
        return Outcome(plan, {"gateways": [_shown(state, share) for (_pair, share), state in _pairs(wanted, states)]})
    reason = str(params.get("reason") or "clb_weight")
    answers = each(jobs, lambda job: job[0].move(job[1], timeout=params["wait_timeout"], reason=reason)[0])
    journal.sync()
    problem = _first_error(answers)
    shown = [_answer(answer, state) for answer, state in _both(answers, states)]
    if problem is not None:
        others = [write["what"] for answer in answers if answer.value is not None for write in answer.value.writes]
        problem.done = [*problem.done, *others]
    return Outcome(plan, {"gateways": shown}, [journal.problem] if journal.problem else [], problem)


def _first_error(answers: t.Sequence[Answer[t.Any, t.Any]]) -> MigrationError | None:
    return next((answer.error for answer in answers if answer.error is not None), None)


def _both(answers: t.Sequence[t.Any], states: t.Sequence[GatewayState]) -> list[tuple[t.Any, GatewayState]]:
    return [(answer, states[index]) for index, answer in enumerate(answers)]


def _pairs(wanted: t.Sequence[tuple[GatewayPair, t.Any]], states: t.Sequence[GatewayState]) -> list[tuple[t.Any, GatewayState]]:
    return [(item, states[index]) for index, item in enumerate(wanted)]


def _shown(state: GatewayState, share: t.Any) -> dict[str, t.Any]:
    """The answer for a gateway that is not written to: as it is, with what is planned."""
    plan = None if state.target_absent else plan_share(state, share)
    return {
        **state.as_dict(),
        "asked": float(parse_share(share)),
        "planned": plan.planned if plan else 0.0,
        "observed": worst(state.shares, plan.planned if plan else 0.0),
        "planned_source_weight": plan.source_weight if plan else None,
        "planned_target_weight": plan.target_weight if plan else None,
        "writes": [],
        "seconds": 0.0,
        "error": None,
    }


def _answer(answer: Answer[t.Any, Moved], state: GatewayState) -> dict[str, t.Any]:
    moved = answer.value
    if moved is None:
        error = answer.error.as_dict() if answer.error else None
        return {**_shown_or_less(state, answer.item[1]), "error": error}
    return {
        **state.as_dict(),
        "shares": {str(port): share for port, share in moved.listeners.items()},
        "asked": moved.asked,
        "planned": moved.planned,
        "observed": moved.observed,
        "source_weight": moved.source_weight,
        "target_weight": moved.target_weight,
        "planned_source_weight": moved.source_weight,
        "planned_target_weight": moved.target_weight,
        "writes": moved.writes,
        "seconds": moved.seconds,
        "error": None,
    }


def _shown_or_less(state: GatewayState, share: t.Any) -> dict[str, t.Any]:
    try:
        return _shown(state, share)
    except MigrationError:
        return state.as_dict()
