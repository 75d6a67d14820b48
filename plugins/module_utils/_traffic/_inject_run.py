# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""sidecar_inject: workloads change their control plane in waves, judged by gates. observe, plan (pure), apply, verify."""

from __future__ import annotations

import dataclasses
import datetime
import math
import os
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._interrupt import interruptible
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._retry import retry
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome, secrets_of
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import POD
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._lease import Lease
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._mirror import ConfigMapMirror
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._selector import parse_selector
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _inject, _sidecar_proof, _trust
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._fleet import Fleet, Pace
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._rehearsal import Rehearsal
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._rollouts import MOVABLE
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar import live, read_proxies, ready, sidecar_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._waves import Rule, read_waves, split
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._workloads import (
    RESTART,
    Scope,
    Survey,
    Wish,
    read,
    survey,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._control import (
    CONTROLLER_ENV,
    Interrupted,
    nobody_elsewhere,
    only_one,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._convoy import (
    Convoy,
    forget,
    originals_of,
    proven_of,
    todo_of,
    unjudged_of,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gate_kinds import build_gates, check_times
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gates import Gate, Panel
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._inject_lost import lost
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._inject_report import (
    Present,
    done_waves,
    planned_waves,
    problem_of,
    result_of,
    verify,
    warnings_of,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._orders import NAMESPACE, Orders
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._progress import Progress
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._staircase import Clock, Report, Rules, Staircase
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._steps import Todo
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._trust_gate import TrustGate

Object = dict[str, t.Any]
_LOCK_WAIT = 30.0
# Between two progress lines of a rollout. Seconds.
_SAY = 2.0
# So long a wave is held at most for a matrix of trust that is only told. Seconds.
_PATIENCE = 30.0
# Names in a message or warning.
_MOST = 5
#: In the pod template of what was restarted. It stays there: to take it away would restart all pods once more, for nothing.
RESTARTED = "servicemesh.migration/restarted"
# The journal's key for its value of a restart that is not through.
_MARK = "restarting"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The options, checked."""

    scope: Scope
    rules: list[Rule]
    gates: list[Gate]
    manners: Rules
    pace: Pace
    restore_failed: bool
    undo: tuple[str, ...] | None
    trust: str = "none"
    trust_sample: int = 10
    opt_out: t.Mapping[str, str] = dataclasses.field(default_factory=dict)


def read_options(params: t.Mapping[str, t.Any]) -> Wanted:
    """Everything that can be wrong without asking anybody is found here. Raises InputError."""
    back, again = params["state"] == "restored", params["state"] == "restarted"
    wish = Wish(_texts(params["labels"], "labels"), _texts(params["annotations"], "annotations"))
    if not again and not any(value is not None for part in (wish.labels, wish.annotations) for value in part.values()):
        raise InputError(
            "It is not said which label moves a workload",
            why="labels and annotations set no value",
            todo='leave labels at its default, or set one, like {"istio.io/rev": "asm"}',
        )
    for name in ("baseline_timeout", "soak", "max_pause", "wait_timeout", "proof_timeout"):
        if not 0 <= params[name] < math.inf:
            raise InputError(f"{name} is {params[name]:g}", todo="give seconds, 0 or more")
    if params["concurrency"] < 1 or params["proof_sample"] < 0:
        raise InputError("concurrency or proof_sample cannot be used", todo="concurrency: 1 or more; proof_sample: 0 or more")
    rules = read_waves(params["waves"], hold=params["hold"], max_hold=params["max_hold"])
    unknown = sorted({kind for rule in rules for kind in rule.kinds} - set(MOVABLE))
    if unknown:
        raise InputError(f"Workloads of kind {unknown[0]} are not moved", todo=f"name kinds among {', '.join(MOVABLE)}")
    manners = Rules(
        on_fail="hold" if again else params["on_fail"],
        on_interrupt="hold",
        baseline=params["baseline_timeout"],
        soak=params["soak"],
        soak_max=params["soak"] + rules[-1].max_hold - rules[-1].hold,
        # A wave is as long as its rollouts make progress; what makes none ends by wait_timeout.
        move_timeout=math.inf,
        max_pause=params["max_pause"],
    )
    pace = Pace(
        params["concurrency"],
        params["wait_timeout"],
        params["proof"] == "proxies",
        params["proof_sample"],
        params["proof_timeout"],
    )
    scope = Scope(
        wish,
        read_proxies(params["target_proxy"]),
        tuple(params["namespaces"]),
        parse_selector(params["label_selector"]),
    )
    if again:
        # What is wished for is known with the journal, see ``restarting``.
        own = dataclasses.replace(scope.proxies, two_meshes=True)
        scope = dataclasses.replace(scope, wish=Wish({}, {}), proxies=own, trail=RESTART)
    gates = [] if back else build_gates(params["gates"], params["allow_without_gates"])
    check_times(gates, manners, {f"wave {number}": rule.max_hold for number, rule in enumerate(rules, 1)})
    return Wanted(
        scope,
        rules,
        gates,
        manners,
        pace,
        params["restore_failed"] and not again,
        tuple(params["undo_waves"]) if back else None,
        "none" if again else params["trust"],
        params["trust_sample"],
        {key: value for key, value in _texts(params["opt_out"], "opt_out").items() if value is not None} if back else {},
    )


def _texts(given: t.Mapping[str, t.Any], name: str) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for key, value in given.items():
        if value is not None and not isinstance(value, str):
            # YAML reads true and 1 as what a label cannot be; what was meant is not guessed for others.
            if not isinstance(value, (bool, int)):
                raise InputError(f"The value of {name}.{key} is {value!r}", todo="give a text, or null to take it away")
            value = str(value).lower()
        found[str(key)] = value
    return found


# -- observe -----------------------------------------------------------------------------------------------------


def observe(cluster: Cluster, wanted: Wanted, journal: Journal) -> Present:
    seen = read(cluster, wanted.scope.namespaces)
    found = survey(seen, dataclasses.replace(wanted.scope, proven=proven_of(journal, wanted.scope.trail)))
    waves, rest = split(found.workloads, wanted.rules)
    places = {one.namespace for wave in waves for one in wave.members}
    proxied = (pod for pod in seen["Pod"] if live(pod) and ready(pod) and sidecar_of(pod) is not None)
    example = next((pod for pod in proxied if pod["metadata"]["namespace"] in places), None)
    return Present(found, waves, rest, originals_of(journal, wanted.scope.trail), example)


def can_ask(cluster: Cluster, present: Present, pace: Pace) -> None:
    """Before anything is moved: a proof that cannot be had would send back what is good. Raises MigrationError."""
    if not pace.ask or present.example is None:
        return
    try:
        retry(lambda: _sidecar_proof.ask(cluster, t.cast(Object, present.example), pace.request_timeout, ("/certs",)), attempts=3)
    except MigrationError as error:
        raise MigrationError(
            "The proxies cannot be asked, so nothing is moved",
            where=error.where,
            why=error.why,
            todo=f"{error.todo}; or set proof: pods, and believe what the pods say of themselves",
        ) from error


# -- apply -------------------------------------------------------------------------------------------------------


class Sidecars:
    """Where the trust gate reads."""

    def __init__(self, wanted: Wanted, cluster: Cluster) -> None:
        self._namespaces = wanted.scope.namespaces
        self._timeout = wanted.pace.request_timeout
        self._cluster = cluster

    def pods(self) -> list[Object]:
        places = self._namespaces if 0 < len(self._namespaces) <= 3 else ("",)
        return [pod for place in places for pod in self._cluster.list_all(POD, place)]

    def clients(self, pods: t.Sequence[Object]) -> _trust.Reading:
        return _trust.read_clients(self._cluster, pods, self._timeout)

    def servers(self, pods: t.Sequence[Object]) -> dict[str, bool | None]:
        return _trust.read_servers(self._cluster, pods, self._timeout)


def _trust_gates(wanted: Wanted, world: World) -> list[Gate]:
    if wanted.trust == "none":
        return []
    asked = Sidecars(wanted, world.cluster)
    patience = min([_PATIENCE, *(0.8 * rule.max_hold for rule in wanted.rules)])
    return [TrustGate(asked, wanted.scope.proxies, wanted.trust_sample, require=wanted.trust == "require", patience=patience)]


class Speaker:
    """Progress lines of rollouts, not more often than they can be read."""

    def __init__(self, progress: Progress, clock: Clock) -> None:
        self._progress = progress
        self._clock = clock
        self._said = -_SAY

    def __call__(self, text: str) -> None:
        if self._clock.monotonic() - self._said >= _SAY:
            self._said = self._clock.monotonic()
            self._progress.event("rollout", text=text)


@dataclasses.dataclass
class World:
    """What a run works with; tests bring their own clock."""

    cluster: Cluster
    journal: Journal
    clock: Clock = dataclasses.field(default_factory=Clock)
    lease: Lease | None = None


def apply(wanted: Wanted, world: World, present: Present, todo: t.Sequence[Todo]) -> tuple[Report, Convoy]:
    """Go through the waves under live orders, and write progress."""
    journal = world.journal
    if todo:
        journal.sync()  # the ConfigMap that takes orders is there from the beginning
    orders = Orders(world.cluster, journal, world.lease)
    progress = Progress(journal.directory, journal.run)
    fleet = Fleet(world.cluster, wanted.scope.proxies, wanted.pace, journal, world.clock)
    rehearse = Rehearsal(world.cluster, wanted.scope.wish, wanted.scope.proxies, world.clock)
    convoy = Convoy(
        world.cluster,
        fleet,
        journal,
        wanted.scope,
        present.waves,
        first=todo[0].step.share if todo else present.share,
        restore_failed=wanted.restore_failed,
        paused=orders.paused,
        say=Speaker(progress, world.clock),
        rehearse=rehearse,
    )

    def note(what: str, **fields: t.Any) -> None:
        journal.write(wanted.scope.trail, what=what, **fields)

    names = ", ".join(present.waves[item.step.number - 1].name for item in todo)
    progress.event("start", of=len(present.waves), observed=present.share, text=f"waves {names}" if todo else "nothing to move")
    try:
        with interruptible() as flag:
            stairs = Staircase(
                convoy,
                Panel([*wanted.gates, *_trust_gates(wanted, world)]),
                orders.control,
                progress,
                wanted.manners,
                note=note,
                interrupted=Interrupted(flag, os.environ.get(CONTROLLER_ENV)),
                clock=world.clock,
            )
            report = stairs.run(todo, present.share, todo[0].previous if todo else 0.0)
    finally:
        orders.control.stop()
        progress.close()
    report.done = convoy.done
    if report.verdict == "error" and convoy.trouble is not None:
        # In two sentences; what was done and what to do is said once, for the whole run.
        report.reason = f"{convoy.trouble.what}: {convoy.trouble.why}"
    if report.rolled_back is not None:
        report.rolled_back.pop("gateways", None)
    report.warnings += sorted(rehearse.unasked)
    if progress.problem:
        report.warnings.append(progress.problem)
    return report, convoy


# -- the module --------------------------------------------------------------------------------------------------


def inject(params: dict[str, t.Any], check_mode: bool) -> Outcome:
    """The logic of sidecar_inject."""
    wanted = read_options(params)
    cluster = Cluster("source", params["source"])
    cluster.guard()
    journal = Journal(
        params["state_dir"],
        params["migration"],
        mirror=ConfigMapMirror(cluster, params["migration"]),
        secrets=secrets_of(params),
        enabled=not check_mode,
    )
    lease = Lease(cluster, journal.migration, journal.directory, journal.run)
    outcome = run(wanted, World(cluster, journal, lease=lease), check_mode)
    outcome.warnings += lease.warnings
    return outcome


def restarting(wanted: Wanted, journal: Journal) -> Wanted:
    """An edit that no template has yet, the same one until the restart is through: a killed run goes on with it."""
    now = datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="milliseconds")
    wish = Wish({}, {RESTARTED: str(journal.original(_MARK, now))})
    return dataclasses.replace(wanted, scope=dataclasses.replace(wanted.scope, wish=wish))


def run(wanted: Wanted, world: World, check_mode: bool) -> Outcome:
    """As inject, once the options are read."""
    one_way = _restart if wanted.scope.trail == RESTART else _move if wanted.undo is None else _restore
    if check_mode:
        return one_way(wanted, world, True)
    place = world.journal.directory / "shift.lock"
    with only_one(place, wait=_LOCK_WAIT), nobody_elsewhere(world.lease, wait=_LOCK_WAIT):
        world.journal.reload()  # what the run that was waited for has done since
        return one_way(wanted, world, False)


def _move(wanted: Wanted, world: World, check_mode: bool) -> Outcome:
    present = observe(world.cluster, wanted, world.journal)
    todo = todo_of(present.waves, present.originals, unjudged_of(world.journal, wanted.scope.trail))
    planned = _inject.plan(present.waves, wanted.scope.wish, present.originals)
    result = result_of(present, world.journal)
    warnings = warnings_of(present)
    if check_mode:
        return Outcome(planned, {**result, "waves": planned_waves(present)}, warnings)
    if todo:
        can_ask(world.cluster, present, wanted.pace)
    report, convoy = apply(wanted, world, present, todo)
    after, done = present, Plan()
    if convoy.touched:
        after, done = ended(wanted, world, present, report.reason, report.warnings, planned, convoy)
    fields = {key: value for key, value in dataclasses.asdict(report).items() if key not in ("warnings", "done", "steps")}
    proofs = {one.workload.key: one.as_dict() for _wave, one in convoy.flights()}
    result = {**result_of(after, world.journal), **fields, "share": after.share, "waves": done_waves(present, report)}
    for row in result["workloads"]:
        told = proofs.get((row["kind"], row["namespace"], row["name"]))
        if told:
            row.update(result=told["state"], reason=told["reason"], seconds=told["seconds"], proofs=told["pods"])
    where = ", ".join(wanted.scope.namespaces) or "all namespaces"
    problem = problem_of(report, present.waves, f"source, {where}")
    return Outcome(done, result, [*warnings, *report.warnings, *_lost(world.journal)], problem)


def ended(
    wanted: Wanted, world: World, before: Present, reason: str, warnings: list[str], planned: Plan, convoy: Convoy
) -> tuple[Present, Plan]:
    """How it is now, and what is different. A cluster that does not answer any more hides nothing of what was written."""
    try:
        after = observe(world.cluster, wanted, world.journal)
    except MigrationError as error:
        warnings.append(f"how it ended could not be read: {error.message}")
        touched = {f"source/{place}" for place in convoy.touched}
        notes = ["the changes are those that were written, and the workloads are shown as before: how it ended could not be read"]
        return before, Plan([change for change in planned.changes if change.target in touched], notes)
    return after, verify(before, after, reason)


def _restart(wanted: Wanted, world: World, check_mode: bool) -> Outcome:
    """A move to where they are, with a new proxy. When it is through, nothing of it has to be remembered."""
    wanted = restarting(wanted, world.journal)
    if not check_mode:
        world.journal.keep_original(_MARK, wanted.scope.wish.annotations[RESTARTED])
    outcome = _move(wanted, world, check_mode)
    if not check_mode and outcome.failed is None:
        world.journal.forget_keys([_MARK, *world.journal.originals(f"{RESTART}/")])
    return outcome


def _restore(wanted: Wanted, world: World, check_mode: bool) -> Outcome:
    known = originals_of(world.journal, wanted.scope.trail)
    if not known:  # nothing was moved, and no right to read it is needed; or the memory of it is lost
        result = {**result_of(Present(Survey([], []), [], [], {}), world.journal), "kept_out": []}
        return Outcome(Plan(), result, *lost(world.cluster, world.journal, wanted.scope, NAMESPACE))
    if not wanted.scope.namespaces:
        places = tuple(sorted({key.split("/")[1] for key in known}))
        wanted = dataclasses.replace(wanted, scope=dataclasses.replace(wanted.scope, namespaces=places))
    present = observe(world.cluster, wanted, world.journal)
    whole = survey(read(world.cluster, wanted.scope.namespaces), dataclasses.replace(wanted.scope, selector=()))
    chosen = {one.key for one in present.survey.workloads}
    back, refused, over = _inject.returns(whole, present.originals, wanted.undo or ())
    back = [item for item in back if item.workload.key in chosen]
    planned = _inject.plan_back(back)
    warnings = [f"{one.place} is not taken back: {why}" for one, why in refused][:_MOST]
    if check_mode or not (back or over):
        if not check_mode:
            forget(world.journal, _inject.gone(whole, present.originals))
            warnings += _lost(world.journal)
        return Outcome(planned, {**result_of(present, world.journal), "kept_out": []}, warnings)
    orders = Orders(world.cluster, world.journal, world.lease)
    progress = Progress(world.journal.directory, world.journal.run)
    fleet = Fleet(world.cluster, wanted.scope.proxies, wanted.pace, world.journal, world.clock)
    say = Speaker(progress, world.clock)
    convoy = Convoy(world.cluster, fleet, world.journal, wanted.scope, present.waves, first=0.0, say=say)
    keys = {item.workload.key for item in back} | {
        one.key for one in whole.workloads if one.key in chosen and _inject.journal_key(one) in over
    }
    problem: MigrationError | None = None
    try:
        with interruptible() as flag:
            interrupted = Interrupted(flag, os.environ.get(CONTROLLER_ENV))
            convoy.bring_back(
                lambda one: one.key in keys, lambda: interrupted() or orders.stopped(), wanted.opt_out, orders.paused
            )
    except MigrationError as error:
        problem = error
    finally:
        orders.control.stop()
        progress.event("end", text="restored" if problem is None else problem.what)
        progress.close()
    after, done = ended(wanted, world, present, "back in the source mesh", warnings, planned, convoy)
    if convoy.kept_out:
        labels = ", ".join(f"{key}: {value}" for key, value in sorted(wanted.opt_out.items()))
        warnings.append(
            f"{len(convoy.kept_out)} workloads have the label {labels}, without which the target would take them; when the "
            "cluster has left the target, run again with state: restored, and they are as before"
        )
    result = {**result_of(after, world.journal), "kept_out": convoy.kept_out}
    return Outcome(done, result, [*warnings, *convoy.unasked, *_lost(world.journal)], problem)


def _lost(journal: Journal) -> list[str]:
    return [journal.problem] if journal.problem else []
