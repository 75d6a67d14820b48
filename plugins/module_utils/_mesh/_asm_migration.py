# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""asm_migration: observe, apply and verify; the thought is in _asm_steering.py."""

from __future__ import annotations

import dataclasses
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._retry import wait_until
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome, secrets_of
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import DEPLOYMENT, Kind, served_as
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._mirror import ConfigMapMirror
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._asm_session import named_source, proxies
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._asm_steering import (
    FIELD,
    GROUP,
    KIND,
    NAME,
    Observed,
    Steering,
    Wanted,
    behind,
    plan,
    read,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._guard import enforce

Object = dict[str, t.Any]
# A message that is there already when something is asked for is believed to be the new one after so many seconds.
_PATIENCE = 5.0
# So long ASM may take to make the resource of a cluster that has just joined. Seconds.
_JOINING = 15.0


def steering_kind(target: Cluster) -> Kind | None:
    """ASMMigrateFromIstio in v1beta1, the version of ASM's documentation, when it is served; else in the server's first."""
    return served_as(target.served(GROUP), GROUP, KIND, "v1beta1")


def _found(target: Cluster, kind: Kind, wanted: Wanted, patience: float) -> Steering | None:
    """ASM makes the resource a moment after the cluster has joined, and writes into it where it is a moment after that."""
    end = time.monotonic() + patience
    while True:
        found = target.get(kind, NAME)
        now = read(found) if found else None
        fresh = now is None or not (now.state or now.message or now.desired == wanted.state)
        if not fresh or time.monotonic() >= end:
            return now
        time.sleep(0.2)


def observe(target: Cluster, source: Cluster | None, kind: Kind | None, wanted: Wanted, patience: float = 0.0) -> Observed:
    """The resource; and the source's versions and pods when something is going to be asked for."""
    seen = Observed(kind is not None, _found(target, kind, wanted, patience) if kind else None)
    now = seen.steering
    if source is not None and now is not None and not behind(now, wanted) and (now.desired != wanted.state or now.message):
        seen.kubernetes, seen.istio = source.version(), istio_version(source)
        seen.proxies = proxies(source)
    return seen


def istio_version(source: Cluster) -> str:
    """The tag of istiod's image; empty when there is no istiod of Istio's own, or its image has no tag that is a version."""
    for found in source.list_all(DEPLOYMENT, "istio-system", label_selector="app=istiod"):
        for container in found["spec"]["template"]["spec"].get("containers") or []:
            if container.get("name") == "discovery":
                return str(container.get("image") or "").partition("@")[0].rpartition(":")[2]
    return ""


def apply(target: Cluster, kind: Kind, seen: Observed, made: Plan, journal: Journal) -> None:
    """One merge patch, refused by the server when somebody else wrote in between."""
    for change in made.changes:
        journal.keep_original(f"{seen.where}/spec", change.before)
        spec = {key: value for key, value in change.after.items() if change.before.get(key) != value}
        version = seen.steering.version if seen.steering else ""
        body: Object = {"spec": spec, **({"metadata": {"resourceVersion": version}} if version else {})}
        with journal.around(change):
            try:
                target.patch(kind, NAME, "", body)
            except MigrationError as error:
                # After a lost answer the repetition meets the new version: what was wanted is there.
                present = target.get(kind, NAME) if error.details.get("status") == 409 else None
                if present is None or read(present).spec() != change.after:
                    raise


def verify(target: Cluster, kind: Kind, seen: Observed, wanted: Wanted, made: Plan, timeout: float) -> Steering:
    """Wait until ASM says that the state is reached. A check that failed ends the wait, with what ASM says."""
    start, last = time.monotonic(), {"said": ""}
    before = seen.steering.message if seen.steering else ""
    asked = made.changes[-1].after if made.changes else None

    def reached() -> Steering | None:
        found = target.get(kind, NAME)
        if found is None:
            raise MigrationError("The resource that steers the migration is gone", where=seen.where, why="somebody deleted it")
        now = read(found)
        last["said"] = f"it is in {now.state or 'no state yet'}" + (f", and says: {now.message}" if now.message else "")
        if asked is not None and now.spec() != asked:
            raise _not_kept(seen, asked, now)
        if now.settled and now.state == wanted.state:
            return now
        if now.message and (now.message != before or time.monotonic() - start > _PATIENCE):
            raise MigrationError(
                f"ASM could not go to {wanted.state}",
                where=seen.where,
                why=now.message,
                todo="mend what it says, then run again; the check is then asked for once more",
                details={"state": now.state, "message": now.message},
            )
        return None

    return wait_until(
        reached,
        timeout=timeout,
        what=f"the migration is in {wanted.state}",
        where=seen.where,
        todo="look at the resource, then run again; the run goes on where this one stopped",
        interval=0.1,
        explain=lambda: last["said"],
    )


def _not_kept(seen: Observed, asked: Object, now: Steering) -> MigrationError:
    """The API server took the patch and stored something else, or somebody wrote after us."""
    lost = (asked.get("advancedOptions") or {}).get(FIELD) != now.keep and asked["desiredState"] == now.desired
    return MigrationError(
        "ASM did not keep what was written",
        where=seen.where,
        why=f"its type does not know {FIELD}" if lost else f"asked for {asked}, it holds {now.spec()}",
        todo="use a newer ASM instance, or leave the option out" if lost else "see who else steers this migration",
    )


def run_module(params: t.Mapping[str, t.Any], check_mode: bool) -> Outcome:
    """Logic of asm_migration. Raises MigrationError."""
    start = time.monotonic()
    keep = params["keep_istio_system_injection"]
    wanted = Wanted(params["state"], keep, bool(params["retry"]), bool(params["passed"]))
    source, target = named_source(params), Cluster("target", params["target"])
    target.guard()
    journal = Journal(
        params["state_dir"],
        params["migration"],
        mirror=ConfigMapMirror(source, params["migration"]) if source else None,
        secrets=secrets_of(params),
        enabled=not check_mode,
    )
    kind = steering_kind(target)
    patience = 0.0 if check_mode else min(_JOINING, float(params["wait_timeout"]))
    seen = observe(target, source if params["check_workloads"] else None, kind, wanted, patience)
    made, refusals = plan(seen, wanted)
    warnings = enforce(refusals, check_mode)
    now = seen.steering
    if not check_mode and kind is not None and not (now and behind(now, wanted)):
        done: list[str] = []
        try:
            apply(target, kind, seen, made, journal)
            done = [str(change) for change in made.changes]
            now = verify(target, kind, seen, wanted, made, float(params["wait_timeout"]))
        except MigrationError as error:
            error.done = [*error.done, *done]
            error.not_done = [] if done else [str(change) for change in made.changes]
            raise
        if made.changes:
            journal.write("note", what=f"the migration is in {now.state}", retry_counter=now.counter)
            journal.sync()
    result = {"migration_state": dataclasses.asdict(now) if now else {}, "seconds": round(time.monotonic() - start, 2)}
    return Outcome(made, result, warnings)
