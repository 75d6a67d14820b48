# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Logic of module clb_reuse: observe all gateways, plan all, refuse before the first write, then work on all at once."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._clb import Clb
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._pool import each, values
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome, secrets_of
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._mirror import ConfigMapMirror
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._ccm import (
    ID,
    MADE_TAGS,
    Rules,
    annotation,
    annotations_of,
    rules,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._pair import PairView, now_text, observe_pair, pairs_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._reuse import (
    Step,
    describe,
    keys_of,
    originals,
    plan_absent,
    plan_present,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._reuse_checks import (
    absent_problems,
    present_problems,
    refused,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._reuse_run import (
    Runner,
    ccm_version,
    check_rights,
    events_of,
    twins_of,
)


@dataclasses.dataclass
class Work:
    """One gateway: what is there, what was there first, what is to be done."""

    view: PairView
    kept: dict[str, t.Any]
    steps: list[Step]
    notes: list[str]


def clb_reuse(params: dict[str, t.Any], check_mode: bool) -> Outcome:
    """See module clb_reuse."""
    pairs = pairs_of(params["gateways"])
    source, clb = Cluster("source", params["source"]), Clb(params["alibaba"])
    source.guard()
    journal = Journal(
        params["state_dir"],
        params["migration"],
        mirror=ConfigMapMirror(source, params["migration"]),
        secrets=secrets_of(params),
        enabled=not check_mode,
    )
    known = rules(ccm_version(source, params.get("ccm_version") or ""))
    views = values(each(pairs, lambda pair: observe_pair(source, clb, pair)))
    shared = [view.balancer.id for view in views]
    if len(set(shared)) != len(shared):
        raise InputError(
            "Two gateways name the same load balancer", why=", ".join(sorted(shared)), todo="name each load balancer once"
        )
    plan_one = _absent if params["state"] == "absent" else _present
    work = [plan_one(source, clb, view, journal, known) for view in views]
    plan = Plan([step.change for item in work for step in item.steps], [note for item in work for note in item.notes])
    result: dict[str, t.Any] = {"gateways": [describe(item.view, known) for item in work]}
    if check_mode or not plan.changed:
        if not check_mode and params["state"] == "absent":
            _forget(journal, work)
        return Outcome(plan, result)
    for item in work:
        check_rights(source, clb, item.view, item.steps)
    # All copies are safe before anything is changed anywhere.
    journal.keep_originals({key: value for item in work for key, value in item.kept.items()})

    def carry_out(item: Work) -> PairView:
        runner = Runner(source, clb, item.view, journal, params["wait_timeout"])
        try:
            return runner.run(item.steps)
        finally:
            plan.notes.extend(runner.notes)

    answers = each(work, carry_out)
    problem = next((answer.error for answer in answers if answer.error), None)
    for answer in answers:
        if answer.value is not None:
            answer.item.view = answer.value
    if params["state"] == "absent":
        _forget(journal, [answer.item for answer in answers if answer.error is None])
    journal.sync()
    result["gateways"] = [describe(item.view, known) for item in work]
    if problem is not None:
        others = [str(step.change) for answer in answers if answer.error is None for step in answer.item.steps]
        problem.done = [*problem.done, *others]
    return Outcome(plan, result, failed=problem)


def _present(source: Cluster, clb: Clb, view: PairView, journal: Journal, known: Rules) -> Work:
    if view.source is None and _retired(view):
        return Work(view, {}, [], [f"{view.pair}: the source's gateway is retired, its load balancer is in use by the target"])
    kept = journal.originals()
    events = events_of(source, view.pair.namespace, view.pair.source_service)
    problems = present_problems(view, kept, known, events, twins_of(clb, view))
    if problems:
        raise refused(view, f"The load balancer of {view.pair} cannot be made reusable", problems)
    first, notes = originals(view, kept)
    steps = plan_present(view, now_text())
    return Work(view, first, steps, notes if steps else [])


def _retired(view: PairView) -> bool:
    """The source's Service is gone, and the target's holds the load balancer as a reused one."""
    uses = view.target is not None and annotation(annotations_of(view.target), ID) == view.balancer.id
    return uses and not any(key in view.balancer.tags for key in MADE_TAGS)


def _absent(source: Cluster, clb: Clb, view: PairView, journal: Journal, known: Rules) -> Work:
    kept = journal.originals()
    if view.source is not None:
        # Nothing of ours is there, and nothing was ever kept: this migration has not begun, so there is nothing to refuse.
        begun = keys_of(view).annotations in kept or annotation(annotations_of(view.source), ID) == view.balancer.id
        if not begun:
            return Work(view, {}, [], [])
    problems = absent_problems(view, kept)
    if problems:
        raise refused(view, f"The load balancer of {view.pair} cannot be given back", problems)
    first, notes = originals(view, kept)
    steps, more = plan_absent(view, {**first, **kept}, now_text())
    return Work(view, first, steps, [*(notes if steps else []), *more])


def _forget(journal: Journal, work: t.Sequence[Work]) -> None:
    """After a proven undo the next migration of this name starts from the values of its own day."""
    for item in work:
        if item.view.source is None:
            continue
        keys = keys_of(item.view)
        try:
            for prefix in (keys.clb, keys.annotations):
                journal.forget(prefix)
        except MigrationError as error:
            error.done = [str(step.change) for step in item.steps]
            raise
