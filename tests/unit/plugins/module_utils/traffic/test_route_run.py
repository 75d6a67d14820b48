# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""route_weight over two API servers in memory: moved, judged, killed anywhere, in the way of others, and exactly back."""

from __future__ import annotations

import copy
import json
import types
import typing as t
from pathlib import Path

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _routes
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import CONTENT, MANAGED_BY
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._meaning import digest
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gates import FAIL, PASS, Verdict
from tests.unit.plugins.module_utils.traffic.route_world import (
    NEW,
    OLD,
    ROUTE,
    Api,
    Both,
    Killed,
    cnn,
    destination,
    virtual_service,
)

Object = dict[str, t.Any]


@pytest.fixture
def both(tmp_path: Path) -> Both:
    return Both(tmp_path)


def good(outcome: Outcome) -> Outcome:
    assert outcome.failed is None, outcome.failed.message
    return outcome


def failed(outcome: Outcome) -> MigrationError:
    assert outcome.failed is not None
    return outcome.failed


def gate(judge: t.Callable[[], str]) -> t.Any:
    def verdict() -> Verdict:
        state = judge()
        return Verdict(state, f"it is {state}")

    return types.SimpleNamespace(name="gate", start=lambda: None, stop=lambda: None, verdict=verdict)


# --- up, and back ---------------------------------------------------------------------------------------------------------------


def test_both_meshes_move_in_the_same_steps_and_a_second_run_writes_nothing(both: Both) -> None:
    seen: list[list[list[int]]] = []
    watching = gate(lambda: seen.append(both.weights()) or PASS)  # type: ignore[func-returns-value]
    done = good(both.run(gates=[watching]))
    assert [step["asked"] for step in done.result["steps"]] == [1, 50, 100]
    assert [(step["planned"], step["observed"]) for step in done.result["steps"]] == [(1, 1), (50, 50), (100, 100)]
    assert [pair for index, pair in enumerate(seen) if not index or pair != seen[index - 1]] == [
        [[100], [100]],
        [[99, 1], [99, 1]],
        [[50, 50], [50, 50]],
        [[0, 100], [0, 100]],
    ]
    added = both.spec()["http"][0]["route"][1]
    assert added == {
        "destination": {"host": NEW, "port": {"number": 80}},
        "headers": {"request": {"set": {"a": "b"}}},
        "weight": 100,
    }
    assert both.spec()["http"][1] == cnn()["spec"]["http"][1]
    assert {change.target for change in done.plan.changes} == {f"{mesh}/shop/VirtualService/cnn" for mesh in both.apis}
    writes = list(both.writes)
    again = good(both.run())
    assert not again.plan.changed and again.result["share"] == 100
    assert both.writes == writes


def test_the_way_back_is_exact(both: Both) -> None:
    before = {mesh: copy.deepcopy(both.spec(mesh)) for mesh in both.apis}
    good(both.run())
    planned = good(both.run(state="restored", check=True))
    assert {change.action for change in planned.plan.changes} == {"set_route_weights"}
    assert both.weights() == [[0, 100], [0, 100]]
    back = good(both.run(state="restored"))
    assert back.plan.as_list() == planned.plan.as_list()
    for mesh in both.apis:
        assert json.dumps(both.spec(mesh)) == json.dumps(before[mesh])
        assert _routes.MARK not in both.meta(mesh)["annotations"]
    assert not good(both.run(state="restored")).plan.changed
    assert both.journal().originals() == {}


def test_the_way_back_needs_no_disk(both: Both) -> None:
    before = copy.deepcopy(both.spec())
    good(both.run(steps=[25]))
    both.lose_disk()
    good(both.run(steps=[25, 50]))
    both.lose_disk()
    good(both.run(state="restored"))
    assert both.spec() == both.spec("target") == before


def test_check_mode_plans_all_steps_and_writes_nothing(both: Both) -> None:
    done = good(both.run(check=True))
    assert [step["planned"] for step in done.result["steps"]] == [1, 50, 100]
    assert [change.reason for change in done.plan.changes][:2] == ["step 1: asked 1 %"] * 2
    assert len(done.plan.changes) == 6 and both.writes == []
    first = done.plan.changes[0]
    assert (first.before["http[0]"], first.after["http[0]"]) == ([f"{OLD} 100"], [f"{OLD} 99", f"{NEW} 1"])
    assert not (both.folder / "shop").exists()


def test_a_failing_gate_takes_it_back(both: Both) -> None:
    judge = gate(lambda: FAIL if both.weights()[0][-1] == 50 else PASS)
    done = both.run(gates=[judge])
    assert "0 % is back in effect" in failed(done).what and done.result["verdict"] == "fail"
    assert both.weights() == [[100, 0], [100, 0]]
    assert done.result["rolled_back"]["ok"] is True


def test_on_fail_previous_goes_one_step_back(both: Both) -> None:
    judge = gate(lambda: FAIL if both.weights()[0][-1] == 50 else PASS)
    failed(both.run(gates=[judge], on_fail="previous"))
    assert both.weights() == [[99, 1], [99, 1]]


def test_an_order_stops_it(both: Both) -> None:
    control = both.folder / "shop" / "control"
    control.parent.mkdir(parents=True)
    control.write_text("abort")
    assert "abort was ordered" in failed(both.run()).why
    assert both.weights() == [[100], [100]]


def test_one_mesh_only(both: Both) -> None:
    good(both.run(routes=[{**ROUTE, "meshes": ["target"]}]))
    assert both.weights() == [[100], [0, 100]]


# --- killed ---------------------------------------------------------------------------------------------------------------------


def _kill_at(both: Both, number: int) -> None:
    count = [0]

    def kill(_api: Api, _what: str) -> None:
        count[0] += 1
        if count[0] == number:
            raise Killed

    for api in both.apis.values():
        api.on_write = kill


def _calm(both: Both) -> None:
    for api in both.apis.values():
        api.on_write = lambda _api, _what: None


@pytest.mark.parametrize("number", range(1, 13))
@pytest.mark.parametrize("disk", [True, False], ids=["disk", "lost"])
def test_killed_at_any_write_a_plain_run_completes(both: Both, number: int, disk: bool) -> None:
    before = copy.deepcopy(both.spec())
    _kill_at(both, number)
    with pytest.raises(Killed):
        both.run()
    _calm(both)
    if not disk:
        both.lose_disk()
    good(both.run())
    assert both.weights() == [[0, 100], [0, 100]]
    _kill_at(both, 1 + number % 4)
    with pytest.raises(Killed):
        both.run(state="restored")
    _calm(both)
    good(both.run(state="restored"))
    assert both.spec() == both.spec("target") == before
    assert _routes.MARK not in both.meta()["annotations"]


# --- others ---------------------------------------------------------------------------------------------------------------------


def test_weights_that_somebody_else_changed_are_not_overwritten(both: Both) -> None:
    good(both.run(steps=[25]))
    item = both.apis["target"].items["VirtualService", "shop", "cnn"]
    item["spec"]["http"][0]["route"][0]["weight"] = 60
    item["spec"]["http"][0]["route"][1]["weight"] = 40
    for options in ({}, {"check": True}, {"state": "restored"}):
        writes = list(both.apis["target"].writes)
        try:
            problem = failed(both.run(**options))
        except MigrationError as error:
            problem = error
        assert "somebody changed" in problem.why and "target/shop/VirtualService/cnn" in problem.where
        assert both.apis["target"].writes == writes
    both.lose_disk()  # known without the journal too
    with pytest.raises(MigrationError, match="not overwritten"):
        both.run()
    assert both.weights()[1] == [60, 40]


def test_weights_changed_in_the_very_moment_of_a_write_are_refused(both: Both) -> None:
    def meddle(api: Api, what: str) -> None:
        if what.startswith("before"):
            api.on_write = lambda _api, _what: None
            item = copy.deepcopy(api.items["VirtualService", "shop", "cnn"])
            item["spec"]["http"][0]["route"] = [destination(OLD, 70), destination(NEW, 30)]
            api.put(item)

    both.apis["source"].on_write = meddle
    done = both.run(on_fail="hold")
    assert "not those of this migration" in failed(done).message
    assert both.weights()[0] == [70, 30]


def test_another_field_changed_in_the_very_moment_of_a_write_is_kept(both: Both) -> None:
    def meddle(api: Api, what: str) -> None:
        if what.startswith("before"):
            api.on_write = lambda _api, _what: None
            item = copy.deepcopy(api.items["VirtualService", "shop", "cnn"])
            item["spec"]["http"][0]["timeout"] = "5s"
            api.put(item)

    both.apis["source"].on_write = meddle
    good(both.run())
    assert both.spec()["http"][0]["timeout"] == "5s" and both.weights() == [[0, 100], [0, 100]]
    good(both.run(state="restored"))
    assert both.spec()["http"][0] == {**cnn()["spec"]["http"][0], "timeout": "5s"}


def test_a_change_during_a_hold_is_told_and_not_overwritten(both: Both) -> None:
    def judge() -> str:
        if both.weights()[0] == [50, 50]:
            both.apis["source"].items["VirtualService", "shop", "cnn"]["spec"]["http"][0]["route"][0]["weight"] = 51
        return PASS

    done = both.run(gates=[gate(judge)], hold=12.0)
    problem = failed(done)
    assert "somebody changed its weights" in problem.message and "look at the VirtualServices now" in problem.what
    assert both.weights()[0] == [51, 50]
    assert any("could not be adapted" in text for text in done.warnings)


def test_another_migration_s_weights_are_left_alone(both: Both) -> None:
    both.meta()["annotations"] = {_routes.MARK: "bank 0123"}
    with pytest.raises(MigrationError) as caught:
        both.run()
    assert "the migration bank moves its weights" in caught.value.why and both.writes == []


def test_what_mesh_config_copied_stays_known_as_its_own(both: Both) -> None:
    """Else its own way back would take the copy for somebody else's work."""
    item = both.apis["target"].items["VirtualService", "shop", "cnn"]
    item["metadata"].update(labels={MANAGED_BY: "shop"}, annotations={CONTENT: digest(item)})
    good(both.run())
    assert both.meta("target")["annotations"][CONTENT] == digest(both.apis["target"].items["VirtualService", "shop", "cnn"])
    good(both.run(state="restored"))
    assert both.meta("target")["annotations"] == {CONTENT: digest(both.apis["target"].items["VirtualService", "shop", "cnn"])}


# --- who gets traffic -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ({"host": "nobody.istio-system.svc.cluster.local"}, "no Service istio-system/nobody"),
        ({"host": NEW, "port": 81}, "no port 81"),
        ({"host": NEW, "subset": "v9"}, "subset v9"),
        ({"host": "edition.example.com"}, "ServiceEntry"),
    ],
)
def test_a_destination_that_cannot_take_it_gets_nothing(both: Both, target: Object, why: str) -> None:
    done = both.run(routes=[{**ROUTE, "target": target}])
    assert why in failed(done).why and both.weights() == [[100], [100]]
    told = good(both.run(routes=[{**ROUTE, "target": target}], check=True))
    assert any(why in text for text in told.warnings)


def test_no_way_back_to_a_source_that_is_down(both: Both) -> None:
    good(both.run())
    both.service("istio-egressgateway", pods=0)
    done = both.run(state="restored")
    assert "has no ready pod" in failed(done).why
    assert both.weights() == [[0, 100], [0, 100]]


def test_a_new_gateway_without_the_route_gets_nothing_until_it_has_it(both: Both) -> None:
    both.proxies.ignorant = 3
    good(both.run(wait_timeout=5.0))
    assert both.proxies.ignorant == -2  # three times no; then once for each mesh, at the first step only
    good(both.run(state="restored"))
    both.proxies.ignorant = 1000
    assert "no route for edition.cnn.com" in failed(both.run()).why
    assert both.weights() == [[100], [100]]


def test_proxies_that_cannot_be_asked_are_found_before_the_first_write(both: Both) -> None:
    both.proxies.mute = True
    assert "cannot be asked" in failed(both.run()).what
    assert both.weights() == [[100], [100]]


def test_a_mesh_without_proxies_goes_by_what_is_stored_and_a_note_says_so(both: Both) -> None:
    both.proxies.absent = True
    done = good(both.run())
    assert done.result["steps"][-1]["observed"] == 100 and done.warnings == []
    assert sum("no proxy of its mesh has it" in note for note in done.plan.notes) == 2


def test_proxies_that_are_late_are_waited_for(both: Both) -> None:
    both.proxies.late = 1
    good(both.run(wait_timeout=5.0))
    assert both.proxies.asked > 8


def test_proxies_that_never_take_it_fail_the_step(both: Both) -> None:
    both.proxies.late = 1000
    done = both.run()
    assert "still sends 0 % to the target" in failed(done).message
    assert both.weights() == [[100, 0], [100, 0]]


def test_without_proxies_what_is_stored_counts(both: Both) -> None:
    both.proxies = None
    done = good(both.run())
    assert done.result["steps"][-1]["observed"] == 100 and done.warnings == []


# --- which routes ---------------------------------------------------------------------------------------------------------------


def test_other_destinations_keep_their_weights(both: Both) -> None:
    three = {"name": "part", "route": [destination(OLD, 30), destination("own", 60), destination("more", 10)]}
    for api in both.apis.values():
        api.put(virtual_service(three))
    done = good(both.run(steps=[50, 100]))
    assert both.weights() == [[0, 60, 10, 30]] * 2
    assert [step["planned"] for step in done.result["steps"]] == [50, 100]


def test_tls_and_tcp_routes_move_too(both: Both) -> None:
    tls = {"match": [{"port": 443, "sniHosts": ["a.test", "b.test"]}], "route": [destination(OLD, port=443)]}
    tcp = {"match": [{"port": 27017}], "route": [destination(OLD, port=27017)]}
    for api in both.apis.values():
        api.put(virtual_service(tls=[tls], tcp=[tcp], http=[]))
    both.proxies = None
    service = both.apis["source"].items["Service", "istio-system", "istio-asm-egress"]
    service["spec"]["ports"] += [{"port": 443}, {"port": 27017}]
    one = {**ROUTE, "match": {"sniHosts": ["b.test"]}}
    good(both.run(routes=[one], steps=[40]))
    assert [_routes.weights_of(entry) for entry in (*both.spec()["tls"], *both.spec()["tcp"])] == [[60, 40], [100]]
    good(both.run(steps=[40, 100]))
    assert [_routes.weights_of(entry) for entry in (*both.spec()["tls"], *both.spec()["tcp"])] == [[0, 100], [0, 100]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"route": "none"}, "no such route"),
        ({"match": {"port": 81}}, "no such route"),
        ({"source": {"host": "x"}}, "no such route"),
        ({"name": "gone"}, "not there"),
    ],
)
def test_a_route_that_is_not_there_is_named(both: Both, change: Object, words: str) -> None:
    with pytest.raises(MigrationError) as caught:
        both.run(routes=[{**ROUTE, **change}])
    assert words in caught.value.message and both.writes == []


@pytest.mark.parametrize(
    "options",
    [
        {"routes": []},
        {"routes": [ROUTE, ROUTE]},
        {"routes": [{**ROUTE, "target": {"host": OLD, "port": 80}}]},
        {"steps": []},
        {"steps": [50, 1]},
        {"drain_seconds": -1.0},
        {"proof_sample": -1},
        {"objects": [{"mesh": "source", "definition": {"kind": "ServiceEntry"}}]},
        {"objects": [{"mesh": "source", "definition": {**cnn(), "apiVersion": "v1", "kind": "Secret"}}]},
        {"objects": [{"mesh": "source", "definition": cnn()}] * 2},
    ],
)
def test_options_that_cannot_be_right(both: Both, options: Object) -> None:
    with pytest.raises(InputError):
        both.run(**options)
    assert both.writes == [] and not (both.folder / "shop").exists()


# --- objects --------------------------------------------------------------------------------------------------------------------


def entry(name: str = "cnn-entry", **spec: t.Any) -> Object:
    body = {"hosts": ["edition.cnn.com"], "resolution": "DNS", **spec}
    meta = {"name": name, "namespace": "shop"}
    return {"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": meta, "spec": body}


def given(mesh: str, definition: Object) -> Object:
    return {"mesh": mesh, "definition": definition}


def keys(both: Both, mesh: str) -> set[tuple[str, str, str]]:
    return {key for key in both.apis[mesh].items if key[0] != "ConfigMap"}


def test_objects_are_made_before_the_first_step_and_taken_away_exactly(both: Both) -> None:
    there = {mesh: keys(both, mesh) for mesh in both.apis}
    del both.apis["target"].items["VirtualService", "shop", "cnn"]
    route = virtual_service({"match": [{"gateways": ["asm"]}], "route": [destination("edition.cnn.com")]}, name="asm-out")
    objects = [given("target", cnn()), given("target", entry()), given("target", route), given("source", entry())]
    planned = good(both.run(objects=objects, check=True))
    assert [change.action for change in planned.plan.changes[:4]] == ["create"] * 4 and both.writes == []
    assert [step["asked"] for step in planned.result["steps"]] == [1, 50, 100]
    done = good(both.run(objects=objects))
    assert [row["action"] for row in done.result["objects"]] == ["create"] * 4
    assert both.meta("target")["labels"] == {MANAGED_BY: "shop"} and both.weights() == [[0, 100], [0, 100]]
    again = good(both.run(objects=objects))
    assert not again.plan.changed and {row["action"] for row in again.result["objects"]} == {"same", "kept"}
    now = both.clock.now
    back = good(both.run(state="restored"))
    assert both.clock.now - now >= 10  # drained
    assert sum(" delete " in what for what in both.writes) == 4
    assert keys(both, "source") == there["source"]
    assert keys(both, "target") == there["target"] - {("VirtualService", "shop", "cnn")}
    assert [change.action for change in back.plan.changes] == ["set_route_weights"] * 2 + ["delete"] * 4
    assert both.journal().originals() == {}


def test_objects_that_are_there_and_differ_are_refused_and_equal_ones_never_taken_away(both: Both) -> None:
    both.apis["source"].put(entry(location="MESH_EXTERNAL"))  # as a schema's default makes it
    good(both.run(objects=[given("source", entry())]))
    with pytest.raises(MigrationError) as caught:
        both.run(objects=[given("source", entry(resolution="STATIC")), given("source", entry("second"))])
    assert "was not made by this migration" in caught.value.why
    assert ("ServiceEntry", "shop", "second") not in both.apis["source"].items
    good(both.run(state="restored"))
    assert ("ServiceEntry", "shop", "cnn-entry") in both.apis["source"].items


def test_what_somebody_changed_in_an_object_stays(both: Both) -> None:
    good(both.run(objects=[given("source", entry())]))
    both.apis["source"].items["ServiceEntry", "shop", "cnn-entry"]["spec"]["location"] = "MESH_INTERNAL"
    with pytest.raises(MigrationError, match="cannot be made"):
        both.run(objects=[given("source", entry())])
    back = good(both.run(state="restored"))
    assert any("somebody changed it" in note for note in back.plan.notes)
    assert ("ServiceEntry", "shop", "cnn-entry") in both.apis["source"].items


def test_a_changed_definition_is_written_again(both: Both) -> None:
    good(both.run(objects=[given("source", entry())]))
    done = good(both.run(objects=[given("source", entry(resolution="STATIC"))]))
    assert [row["action"] for row in done.result["objects"]] == ["update"]
    assert both.apis["source"].items["ServiceEntry", "shop", "cnn-entry"]["spec"]["resolution"] == "STATIC"


def test_nothing_is_taken_away_while_weights_could_not_be_put_back(both: Both) -> None:
    good(both.run(objects=[given("source", entry())]))
    both.spec("target")["http"][0]["route"][0]["weight"] = 3
    done = both.run(state="restored")
    assert "cannot be put back" in failed(done).what
    assert both.weights() == [[100], [3, 100]]
    assert ("ServiceEntry", "shop", "cnn-entry") in both.apis["source"].items
