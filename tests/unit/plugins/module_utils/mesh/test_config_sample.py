# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Of many objects check mode asks the target about a sample: what it finds, what it says, and that a run asks about all."""

from __future__ import annotations

import copy
import random
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import kind_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _config_run
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._config import marked
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import key_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sample import Candidate, sample

Object = dict[str, Any]
API = "networking.istio.io/v1"
SERVED = {kind: kind_of(API, kind) for kind in ("VirtualService", "DestinationRule", "Sidecar")}


def obj(kind: str, name: str, namespace: str = "a", **spec: Any) -> Object:
    meta = {"name": name, "namespace": namespace, "uid": "u", "resourceVersion": "7"}
    return {"apiVersion": API, "kind": kind, "metadata": meta, "spec": spec or {"host": name}}


def routes(count: int, namespaces: int = 4) -> list[Object]:
    return [obj("VirtualService", f"r{i}", f"n{i % namespaces}", hosts=[f"h{i}"]) for i in range(count)]


# -- the sample ------------------------------------------------------------------------------------------------------------------

SHAPES = st.dictionaries(st.sampled_from("abcde"), st.sampled_from([1, "x", {"f": 1}, [{"g": 1}, {"h": 2}], []]), max_size=3)
CANDIDATES = st.lists(st.tuples(st.sampled_from("KLM"), st.sampled_from("xyz"), SHAPES), max_size=60)


@given(CANDIDATES, st.integers(3, 40))
def test_a_sample_is_bounded_and_the_same_again_and_has_every_kind(candidates: list[Candidate], most: int) -> None:
    found = sample(candidates, most)
    assert len(found) == len(set(found)) == min(most, len(candidates))
    assert found == sorted(found) and found == sample(copy.deepcopy(candidates), most)
    assert {candidates[index][0] for index in found} == {kind for kind, _namespace, _payload in candidates}
    places = {one[:2] for one in candidates}
    if len(places | {one[:1] for one in candidates}) <= most:
        assert {candidates[index][:2] for index in found} == places


def test_each_field_is_asked_about_wherever_it_is_used() -> None:
    plain: list[Candidate] = [("VirtualService", "a", {"spec": {"http": [{"route": [{"weight": 1}]}]}}) for _i in range(1000)]
    plain[313] = ("VirtualService", "a", {"spec": {"http": [{"route": [{"weight": 1}]}, {"route": [{"rare": {"deep": 1}}]}]}})
    plain[747] = ("VirtualService", "a", {"spec": {"tls": []}})
    assert {313, 747} <= set(sample(plain, 20))


def test_the_rest_of_a_sample_is_spread_over_the_namespaces() -> None:
    many: list[Candidate] = [("K", "large", {}) for _i in range(900)] + [("K", "small", {}) for _i in range(100)]
    found = sample(many, 50)
    assert sum(1 for index in found if many[index][1] == "small") == 25


# -- what is asked ---------------------------------------------------------------------------------------------------------------


class Target:
    """An API server that refuses what ``refuses`` says, drops the field ``unknown`` and adds ``defaults``; it notes questions."""

    name = "target"

    def __init__(self, refuses: Callable[[Object], bool] = lambda _obj: False, **defaults: Any) -> None:
        self.refuses, self.defaults = refuses, defaults
        self.asked: list[str] = []
        self._lock = threading.Lock()

    def create(self, _kind: Any, body: Object, *, dry_run: bool = False, validate: bool = True) -> Object:
        return self._answer(body, dry_run)

    def replace(self, _kind: Any, body: Object, *, dry_run: bool = False) -> Object:
        return self._answer(body, dry_run)

    def _answer(self, body: Object, dry_run: bool) -> Object:
        assert dry_run, "nothing is written here"
        with self._lock:
            self.asked.append(key_of(body))
        if self.refuses(body):
            raise MigrationError("No", why="not today", details={"status": 403})
        spec = {key: value for key, value in body["spec"].items() if key != "unknown"}
        return {**body, "metadata": copy.deepcopy(body["metadata"]), "spec": {**spec, **self.defaults}}


OPTIONS: Object = {
    **{name: option.get("default") for name, option in _config_run.config_spec().items()},
    "migration": "shop",
    "scope": "all",
    "gateways": [{"namespace": "istio-system", "source_service": "gw", "target_gateway": "gw-asm", "target_service": "t"}],
    "source": {},
    "target": {},
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[Outcome, Target]]:
    def call(source: list[Object], there: list[Object], target: Target, check: bool = True, **options: Any) -> Outcome:
        seen = _config_run.Observed(
            source, {key_of(one): one for one in there}, dict(SERVED), {f"n{i}" for i in range(9)} | {"a"}
        )
        chosen = {**OPTIONS, **options}
        session = SimpleNamespace(options=chosen, source=None, target=target, journal=Journal(str(tmp_path), "shop"), clb=None)
        monkeypatch.setattr(_config_run, "open_session", lambda _params, _check: session)
        monkeypatch.setattr(_config_run, "observe", lambda *_sides: seen)
        monkeypatch.setattr(_config_run, "workloads", lambda *_more: [])
        monkeypatch.setattr(_config_run, "credentials", lambda *_more: [])
        return _config_run.run_module(chosen, check)

    return lambda *words, **more: (call(*words, **more), words[2])


def test_few_objects_are_all_asked_about_in_check_mode(run: Any) -> None:
    outcome, target = run(routes(_config_run.SAMPLE), [], Target())
    assert len(target.asked) == _config_run.SAMPLE
    assert outcome.result["rehearsal"] == {"asked": 200, "of": 200, "complete": True}
    assert outcome.warnings == [] and all(item["asked"] for item in outcome.result["items"])


def test_of_many_objects_a_sample_is_asked_about_and_that_is_said(run: Any) -> None:
    many = [*routes(3000), obj("DestinationRule", "only")]
    outcome, target = run(many, [], Target())
    assert len(target.asked) == _config_run.SAMPLE
    assert outcome.result["rehearsal"] == {"asked": 200, "of": 3001, "complete": False}
    asked = {key_of(item | {"metadata": item}) for item in outcome.result["items"] if item["asked"]}
    assert asked == set(target.asked) and "DestinationRule/a/only" in asked
    (warning,) = outcome.warnings
    assert "200 of 3001" in warning and "rehearse=all" in warning and "preflight" in warning
    assert outcome.plan.changed and outcome.result["counts"]["only_in_source"] == 3001
    again, twin = run(random.Random(1).sample(many, len(many)), [], Target())
    assert sorted(twin.asked) == sorted(target.asked) and again.plan.as_list() == outcome.plan.as_list()


def test_all_of_many_are_asked_about_when_that_is_wished(run: Any) -> None:
    outcome, target = run(routes(700), [], Target(), rehearse="all")
    assert len(target.asked) == 700 and outcome.warnings == [] and outcome.result["rehearsal"]["complete"]


def test_a_run_asks_about_every_object_before_it_writes(run: Any) -> None:
    """One of 700 is refused, no sample would have it: nothing is written. A write fails in Target."""
    outcome, target = run(routes(700), [], Target(lambda one: one["metadata"]["name"] == "r699"), check=False)
    assert len(target.asked) == 700
    assert outcome.failed is not None and "r699: not today" in outcome.failed.why and not outcome.plan.changed


def test_a_kind_that_the_target_does_not_take_is_listed_in_full_with_the_reason(run: Any) -> None:
    many = [obj("VirtualService", f"r{i}", unknown=1) for i in range(600)] + [obj("DestinationRule", f"d{i}") for i in range(600)]
    outcome, target = run(many, [], Target(), on_refused="skip")
    told = {(item["kind"], item["action"], item["reason"]) for item in outcome.result["items"] if item["action"] == "refused"}
    assert told == {("VirtualService", "refused", "the target would drop spec.unknown")}
    assert sum(1 for key in target.asked if key.startswith("VirtualService/")) == len(set(target.asked)) - 100 == 600
    assert outcome.result["rehearsal"] == {"asked": 700, "of": 1200, "complete": False}
    only, _target = run(many[:600], [], Target(), on_refused="skip")
    assert not only.plan.changed, "nothing of it would be written"


def test_the_one_object_with_a_field_that_the_target_drops_is_found(run: Any) -> None:
    many = routes(2000)
    many[1234]["spec"]["unknown"] = {"x": 1}
    outcome, _target = run(many, [], Target())
    assert outcome.failed is not None and "VirtualService/n2/r1234: the target would drop spec.unknown" in outcome.failed.why


def test_what_only_the_targets_defaults_make_different_is_no_change_however_many(run: Any) -> None:
    """Only the target knows that; so all are asked about, or `changed` would be wrong."""
    many, there = routes(400), []
    for one in many:
        stored = marked(one, SERVED["VirtualService"], "shop")
        stored["spec"] = {**stored["spec"], "added": True}
        stored["metadata"]["resourceVersion"] = "8"
        stored = {**stored, "metadata": {**stored["metadata"], "annotations": {}}}
        stored["metadata"]["annotations"] = {_config_run.CONTENT: _config_run.digest(stored)}
        there.append(stored)
    outcome, target = run(many, there, Target(added=True))
    assert len(target.asked) == 400 and not outcome.plan.changed
    assert {item["action"] for item in outcome.result["items"]} == {"same"}
    assert outcome.result["rehearsal"]["complete"]


def test_a_plan_that_shows_whole_objects_shows_those_that_nobody_asked_about_too(run: Any) -> None:
    outcome, target = run(routes(300), [], Target())
    assert len(target.asked) == 200 and len(outcome.plan.changes) == 300
    assert all(change.after["spec"]["hosts"] for change in outcome.plan.changes)


def test_a_namespace_is_made_for_objects_that_nobody_asked_about_too(run: Any) -> None:
    many = [obj("VirtualService", f"r{i}", f"new{i}") for i in range(250)]
    outcome, target = run(many, [], Target())
    assert len(outcome.result["namespaces"]) == 250
    assert all("/istio-system/" in key or "/default/" in key for key in target.asked), "asked about in a place that is there"
