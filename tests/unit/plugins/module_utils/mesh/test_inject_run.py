# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""sidecar_inject against a cluster in memory: waves, rollouts, failures, the exact way back, kills, and the number of calls."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _sidecar_proof
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._sidecar_proof import Facts
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic import _inject_run
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gates import FAIL, PASS, Verdict
from tests.unit.plugins.module_utils.mesh.inject_world import LABEL, Api, Killed, inject, shop


@pytest.fixture
def api() -> Api:
    return shop()


ALL = {"a", "b", "c", "one", "data", "node"}


def test_all_kinds_move_and_a_second_run_changes_nothing(api: Api, tmp_path: Path) -> None:
    before = api.templates()
    planned = inject(api, tmp_path, check=True)
    assert api.templates() == before and not list(tmp_path.iterdir())
    done = inject(api, tmp_path)
    assert done.failed is None, done.failed.message
    assert api.moved() == ALL
    assert {change.target for change in done.plan.changes} == {change.target for change in planned.plan.changes}
    edits = {change.target: (change.before, change.after) for change in planned.plan.changes}
    assert edits["source/shop/Deployment/b"] == (
        {"labels": {"istio.io/rev": "default", LABEL: None}},
        {"labels": {"istio.io/rev": None, LABEL: "true"}},
    )
    assert {change.target: (change.before, change.after) for change in done.plan.changes} == edits
    assert [wave["verdict"] for wave in done.result["waves"]] == ["pass", "pass"]
    assert min(api.lowest.values()) >= 1
    patches = sum(number for what, number in api.calls.items() if what.startswith("patch") and "ConfigMap" not in what)
    again = inject(api, tmp_path)
    assert not again.plan.changed and again.result["share"] == 100
    assert patches == sum(n for what, n in api.calls.items() if what.startswith("patch") and "ConfigMap" not in what)


def test_the_way_back_is_byte_equal_and_ends_where_it_began(api: Api, tmp_path: Path) -> None:
    before = api.templates()
    inject(api, tmp_path, annotations={"note": "中文"})
    assert api.templates() != before
    back = inject(api, tmp_path, state="restored")
    assert back.failed is None and api.templates() == before and api.moved() == set()
    assert min(api.lowest.values()) >= 1
    again = inject(api, tmp_path, state="restored")
    assert not again.plan.changed


def test_one_wave_is_taken_back(api: Api, tmp_path: Path) -> None:
    inject(api, tmp_path, waves=[{"name": "first", "kinds": ["StatefulSet"]}, {"name": "rest"}])
    back = inject(api, tmp_path, state="restored", undo_waves=["first"])
    assert back.failed is None and api.moved() == ALL - {"data"}


def test_the_way_back_does_not_need_the_disk(api: Api, tmp_path: Path) -> None:
    before = api.templates()
    inject(api, tmp_path / "one")
    assert inject(api, tmp_path / "other", state="restored").failed is None
    assert api.templates() == before


def test_a_value_that_somebody_else_set_since_is_not_overwritten(api: Api, tmp_path: Path) -> None:
    inject(api, tmp_path)
    labels = api.items["Deployment", "shop", "b"]["spec"]["template"]["metadata"]["labels"]
    labels["istio.io/rev"] = "canary"
    back = inject(api, tmp_path, state="restored")
    assert labels["istio.io/rev"] == "canary" and labels[LABEL] == "true"
    assert "b is not taken back" in back.warnings[0] and "canary" in back.warnings[0]
    assert api.moved() == {"b"}


@pytest.mark.parametrize("name", ["b", "data"])
@pytest.mark.parametrize(("on_fail", "stays"), [("hold", "others"), ("previous", "first"), ("zero", "none")])
def test_a_workload_that_does_not_start_is_put_back_and_the_wave_ends(
    api: Api, tmp_path: Path, name: str, on_fail: str, stays: str
) -> None:
    before = api.templates()
    api.broken.add(name)
    done = inject(api, tmp_path, on_fail=on_fail, waves=[{"number": 1, "names": ["a"]}, 3, "100%"])
    assert done.failed is not None and done.result["verdict"] == "error"
    assert f"shop/{'Deployment' if name == 'b' else 'StatefulSet'}/{name}: pod {name}-" in done.failed.message
    assert "ImagePullBackOff" in done.failed.message
    assert min(api.lowest.values()) >= 1
    now = api.templates()
    assert {key for key in now if key.endswith(f"/{name}")} and all(
        now[key] == before[key] for key in now if key.endswith(f"/{name}")
    )
    assert name not in api.moved()
    if stays == "none":
        assert now == before
    elif stays == "first":
        # What earlier waves moved stays: b is in the second wave, data in the third.
        assert api.moved() == ({"a"} if name == "b" else {"a", "b", "c", "one"})
    else:
        assert "a" in api.moved() and len(api.moved()) > 1
    # The cause is mended: the same task ends what it began.
    api.broken.clear()
    assert inject(api, tmp_path, on_fail=on_fail, waves=[{"number": 1, "names": ["a"]}, 3, "100%"]).failed is None
    assert api.moved() == ALL


def test_a_patch_that_is_refused_loses_nothing_of_the_others(api: Api, tmp_path: Path) -> None:
    api.refuse["c"] = MigrationError("The API server answered PATCH with 403", why="no right", details={"status": 403})
    done = inject(api, tmp_path, waves=["100%"], on_fail="hold")
    assert done.failed is not None and "shop/Deployment/c" in done.failed.message
    assert api.moved() == ALL - {"c"}
    results = {row["name"]: row.get("result") for row in done.result["workloads"]}
    assert results.pop("c") == "failed" and set(results.values()) == {"done"}


def test_a_guard_is_put_back(api: Api, tmp_path: Path) -> None:
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}
    api.workload("risky", replicas=1, strategy=rolling)
    done = inject(api, tmp_path, waves=[{"names": ["risky"]}])
    assert done.failed is None and api.moved() == {"risky"}
    assert api.lowest["Deployment", "shop", "risky"] == 1
    assert api.items["Deployment", "shop", "risky"]["spec"]["strategy"] == rolling
    assert not inject(api, tmp_path, waves=[{"names": ["risky"]}]).plan.changed


def test_a_kill_at_any_call_is_continued_by_the_same_task(tmp_path: Path) -> None:
    """For every call to the API and every line of the journal: killed there, run again, all there, and back byte-equal."""

    def world() -> Api:
        made = Api()
        made.workload("a")
        made.workload("risky", replicas=1, strategy={"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}})
        made.workload("data", "StatefulSet")
        return made

    def killing(api: Api, at: int) -> None:
        count = [0]

        def step(_what: str = "") -> None:
            count[0] += 1
            if count[0] == at:
                raise Killed

        api.on_call = step

    tried = 0
    for at in range(1, 400):
        api = world()
        before = api.templates()
        killing(api, at)
        folder = tmp_path / str(at)
        try:
            inject(api, folder)
            assert tried > 20
            break
        except Killed:
            tried += 1
        api.on_call = lambda _what: None
        resumed = inject(api, folder)
        assert resumed.failed is None, (at, resumed.failed.message)
        assert api.moved() == {"a", "risky", "data"}, at
        assert min(api.lowest.values()) >= 1
        strategy = api.items["Deployment", "shop", "risky"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"]
        assert strategy == 1, at
        back = inject(api, folder, state="restored")
        assert back.failed is None and api.templates() == before, at
    else:
        pytest.fail("it never came through")


def dying(at: int) -> Any:
    """Journal.write that ends the run at its `at`-th call."""
    real, calls = Journal.write, itertools.count(1)

    def write(self: Journal, event: str, **fields: Any) -> Any:
        if next(calls) == at:
            raise Killed
        return real(self, event, **fields)

    return write


def test_a_kill_at_any_line_of_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Journal.write
    for at in range(1, 200):
        api = Api()
        api.workload("a")
        api.workload("risky", replicas=1, strategy={"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}})
        before = api.templates()
        folder = tmp_path / str(at)
        monkeypatch.setattr(Journal, "write", dying(at))
        try:
            inject(api, folder)
            killed = False
        except Killed:
            killed = True
        monkeypatch.setattr(Journal, "write", real)
        if not killed:
            assert at > 10
            break
        # Half of them are taken back from where they stopped, half go on first.
        if at % 2:
            assert inject(api, folder).failed is None and api.moved() == {"a", "risky"}, at
        assert inject(api, folder, state="restored").failed is None
        assert api.templates() == before, at
    else:
        pytest.fail("it never came through")


def test_500_deployments_in_one_call_ask_little(tmp_path: Path) -> None:
    api = Api()
    for number in range(500):
        api.workload(f"w{number:03}", replicas=1)
    done = inject(api, tmp_path, waves=["100%"], concurrency=100)
    assert done.failed is None and len(api.moved()) == 500
    assert api.calls["patch Deployment"] == 500
    lists = {what: number for what, number in api.calls.items() if what.startswith("list")}
    # Five batches of 100, each some ticks; two observations; nothing asked for one object alone, but for one rehearsal.
    assert lists["list Deployment"] <= 40 and lists["list Pod"] <= 20, lists
    assert sum(lists.values()) <= 90, lists
    assert api.calls["get Deployment"] == api.calls["rehearse Pod"] == 1
    assert api.calls["patch ConfigMap"] + api.calls["create ConfigMap"] <= 4


def test_a_wrong_label_restarts_nothing(api: Api, tmp_path: Path) -> None:
    api.injects = False
    before = api.templates()
    done = inject(api, tmp_path)
    assert done.failed is not None and "would not get a sidecar of the target" in done.failed.message
    assert api.templates() == before and api.calls["patch Deployment"] == 0
    assert api.calls["rehearse Pod"] == 1


@pytest.mark.parametrize("network", ["", "network-2"])
def test_a_sidecar_that_would_not_know_its_network_restarts_nothing(tmp_path: Path, network: str) -> None:
    api = Api()
    api.workload("first")  # older than the network
    api.networks = {False: "network-1", True: network}
    api.workload("web")
    before = api.templates()
    done = inject(api, tmp_path, waves=["100%"])
    assert done.failed is not None and "Deployment/web. Why: its sidecar is in network-1" in done.failed.message
    assert f"the new one is in {network or 'no network'}" in done.failed.message
    assert api.templates() == before and api.calls["patch Deployment"] == 0
    api.networks[True] = "network-1"
    assert inject(api, tmp_path).failed is None and len(api.moved()) == 2


class Judge:
    """A gate by a function of the cluster."""

    name = "shop"

    def __init__(self, state: Callable[[], str]) -> None:
        self._state = state

    def start(self) -> None:
        pass

    def verdict(self) -> Verdict:
        return Verdict(self._state(), "so it is")

    def stop(self) -> None:
        pass


@pytest.mark.parametrize(("on_fail", "left"), [("hold", {"a", "b"}), ("previous", {"a"}), ("zero", set())])
def test_a_gate_that_fails_in_a_hold_takes_the_wave_back(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_fail: str, left: set[str]
) -> None:
    before = api.templates()
    gate = Judge(lambda: FAIL if "b" in api.moved() else PASS)
    monkeypatch.setattr(_inject_run, "build_gates", lambda _given, _allow: [gate])
    done = inject(api, tmp_path, waves=[1, 1, "100%"], on_fail=on_fail)
    assert done.failed is not None and done.result["verdict"] == "fail"
    assert api.moved() == left and min(api.lowest.values()) >= 1
    assert {key.rsplit("/", 1)[1] for key, text in api.templates().items() if text != before[key]} == left


def test_gates_that_fail_before_the_first_wave_let_nothing_move(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_inject_run, "build_gates", lambda _given, _allow: [Judge(lambda: FAIL)])
    before = api.templates()
    done = inject(api, tmp_path)
    assert done.failed is not None and "before the first step" in done.failed.message
    assert api.templates() == before and not done.plan.changed


def test_abort_stays_and_rollback_takes_everything_back(api: Api, tmp_path: Path) -> None:
    before = api.templates()
    order = tmp_path / "shop" / "control"

    def at_patch(what: str) -> None:
        if what == "patch Deployment" and api.calls[what] == 2:
            order.write_text("abort")

    api.on_call = at_patch
    done = inject(api, tmp_path, waves=[1, 1, "100%"])
    assert done.result["verdict"] == "aborted" and done.failed is not None
    assert "a" in api.moved() and "c" not in api.moved()
    order.write_text("rollback")
    done = inject(api, tmp_path, waves=[1, 1, "100%"])
    assert done.result["verdict"] == "aborted" and api.templates() == before
    order.unlink()
    assert inject(api, tmp_path).failed is None and api.moved() == ALL


def test_what_cannot_be_moved_is_refused_and_the_others_move(api: Api, tmp_path: Path) -> None:
    api.workload("only", "StatefulSet", replicas=1)
    api.workload("all-at-once", strategy={"type": "Recreate"})
    api.workload("chosen", template={"istio.io/rev": "x"})
    service = {"kind": "Service", "metadata": {"name": "svc", "namespace": "shop"}, "spec": {"selector": {"istio.io/rev": "x"}}}
    api.add(service)
    api.budget("no", "data", 0)
    done = inject(api, tmp_path)
    assert done.failed is None and api.moved() == ALL - {"data"}
    refused = {row["name"]: row["refused"] for row in done.result["workloads"] if row["refused"]}
    assert set(refused) == {"only", "all-at-once", "chosen", "data"}
    assert "last ready pod" in refused["only"] and "Recreate" in refused["all-at-once"]
    assert "Service svc chooses its pods by the label istio.io/rev" in refused["chosen"] and "budget lets 0" in refused["data"]
    assert done.result["share"] == 100 and "4 workloads are not moved" in done.warnings[0]


def test_a_budget_is_shared_by_those_that_roll(tmp_path: Path) -> None:
    """Three StatefulSets under one budget that lets one pod go: never two of them at once."""
    api = Api()
    for name in ("x", "y", "z"):
        api.workload(name, "StatefulSet", replicas=2, template={"tier": "data"})
    budget = api.budget("data", "x", 1)
    budget["spec"]["selector"] = {"matchLabels": {"tier": "data"}}
    worst = [0]

    def watch(_what: str) -> None:
        mixed = [item for item in api.items.values() if item["kind"] == "StatefulSet" and item["status"]["updatedReplicas"] < 2]
        worst[0] = max(worst[0], len(mixed))

    api.on_call = watch
    assert inject(api, tmp_path, waves=["100%"]).failed is None
    assert api.moved() == {"x", "y", "z"} and worst[0] == 1


def test_a_run_that_was_killed_before_the_new_pods_were_ready_waits_for_them(tmp_path: Path) -> None:
    api = Api()
    item = api.workload("w", "StatefulSet", template={LABEL: "true"})
    for one in api.pods(item):
        one["status"]["conditions"][0]["status"] = "False"
    item["status"].update(readyReplicas=0, availableReplicas=0)
    done = inject(api, tmp_path, check=True)
    assert [row["state"] for row in done.result["workloads"]] == ["moving"]
    failed = inject(api, tmp_path)
    # It was moved by somebody else: there is nothing to put back, and nobody says so.
    assert failed.failed is not None and "0 have their old sidecar back" in failed.failed.message
    assert item["spec"]["template"]["metadata"]["labels"][LABEL] == "true"


def test_a_moved_workload_that_is_unwell_later_is_left_alone(tmp_path: Path) -> None:
    api = Api()
    item = api.workload("w", "StatefulSet")
    assert inject(api, tmp_path).failed is None
    sick = api.pods(item)[0]
    sick["status"]["conditions"][0]["status"] = "False"
    again = inject(api, tmp_path)
    assert again.failed is None and not again.plan.changed and api.moved() == {"w"}


def test_a_pod_that_comes_with_the_old_sidecar_does_not_count(api: Api, tmp_path: Path) -> None:
    before = api.templates()
    api.wrong.add("b")
    done = inject(api, tmp_path, waves=[{"names": ["b"]}])
    assert done.failed is not None and "it has no ASM_ID" in done.failed.message
    assert "1 have their old sidecar back" in done.failed.message and api.templates() == before


def test_nothing_new_is_started_after_a_failure(api: Api, tmp_path: Path) -> None:
    api.broken.add("b")
    done = inject(api, tmp_path, waves=["100%"], concurrency=1, on_fail="hold")
    assert done.failed is not None and api.moved() == {"a"}
    results = {row["name"]: row.get("result") for row in done.result["workloads"]}
    assert results == {"a": "done", "b": "failed", "c": "queued", "one": "queued", "data": "queued", "node": "queued"}


def test_proxies_are_asked_as_many_as_wanted(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(_cluster: Any, pod: Any, _timeout: float, paths: Any = ()) -> list[bytes]:
        asked.append(pod["metadata"]["name"])
        return [b"{}"] * (len(paths) or 3)

    facts = Facts("spiffe://cluster.local/ns/shop/sa/default", ("aa",), True, True)
    monkeypatch.setattr(_sidecar_proof, "ask", answer)
    monkeypatch.setattr(_sidecar_proof, "read_facts", lambda *_answers: facts)
    done = inject(api, tmp_path, proof="proxies", proof_sample=1)
    assert done.failed is None, done.failed.message
    # One proxy before anything is moved, then one of each workload.
    assert len(asked) == 1 + len(ALL)
    told = {row["name"]: row["proofs"] for row in done.result["workloads"]}
    assert told["data"][0]["proxy"]["identity"] == facts.identity and "proxy" not in told["data"][1] and len(told["data"]) == 3


def test_proxies_that_cannot_be_asked_let_nothing_move(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_all: Any) -> list[bytes]:
        raise MigrationError("no", why="forbidden", todo="grant pods/portforward", details={"status": 403})

    monkeypatch.setattr(_sidecar_proof, "ask", refused)
    before = api.templates()
    with pytest.raises(MigrationError, match=r"nothing is moved.*forbidden.*grant pods/portforward; or set proof: pods"):
        inject(api, tmp_path, proof="proxies")
    assert api.templates() == before and api.calls["patch Deployment"] == 0


def test_a_proxy_that_does_not_connect_sends_its_workload_back(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = api.templates()
    monkeypatch.setattr(_sidecar_proof, "ask", lambda *_all: [b"{}"] * 3)
    done = inject(api, tmp_path, proof="proxies", waves=[{"names": ["a"]}])
    assert done.failed is not None and "its certificate is for nobody" in done.failed.message
    assert api.templates() == before


def test_what_rolls_is_waited_for_and_nothing_is_started_beside_it(tmp_path: Path) -> None:
    api = Api()
    api.workload("a-bad")
    api.workload("b-slow", replicas=12, strategy={"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}})
    api.workload("c-later")
    api.broken.add("a-bad")
    done = inject(api, tmp_path, waves=["100%"], concurrency=2, on_fail="hold")
    assert {row["name"]: row["result"] for row in done.result["workloads"]} == {
        "a-bad": "failed",
        "b-slow": "done",
        "c-later": "queued",
    }
    assert api.moved() == {"b-slow"}


def test_a_budget_does_not_hold_up_the_way_back_of_a_broken_workload(tmp_path: Path) -> None:
    api = Api()
    item = api.workload("data", "StatefulSet", replicas=3)
    budget = api.budget("data", "data", 1)
    before = api.templates()
    api.broken.add("data")

    def disruption(_what: str) -> None:
        budget["status"]["disruptionsAllowed"] = max(0, 1 - (3 - item["status"]["readyReplicas"]))

    api.on_call = disruption
    done = inject(api, tmp_path, waves=["100%"])
    assert done.failed is not None and "1 have their old sidecar back" in done.failed.message
    assert api.templates() == before and api.moved() == set() and item["status"]["readyReplicas"] == 3
    assert api.lowest["StatefulSet", "shop", "data"] == 2


def test_a_second_run_writes_nothing_at_all(api: Api, tmp_path: Path) -> None:
    assert inject(api, tmp_path).failed is None
    api.calls.clear()
    assert inject(api, tmp_path).failed is None
    assert [what for what in api.calls if what.startswith(("patch", "create", "delete", "rehearse"))] == []


def test_the_error_says_everything_once(api: Api, tmp_path: Path) -> None:
    api.broken.add("c")
    done = inject(api, tmp_path, waves=[1, {"names": ["b", "c"]}])
    assert done.failed is not None
    told = done.failed.message
    assert told.startswith("The move was stopped in wave 2; the workloads of this wave are back in the source mesh.")
    assert (
        "1 of 2 workloads of wave 2 did not come to the target; 1 have their old sidecar back: shop/Deployment/c: pod c-" in told
    )
    assert [told.count(text) for text in ("What to do", "Changed already", "ImagePullBackOff")] == [1, 1, 1]
    assert done.failed.done == ["shop/Deployment/a moved", "shop/Deployment/b is back", "shop/Deployment/c is back"]
