# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""sidecar_inject at night: pauses, full disks, autoscalers, a silent cluster, and another run that ends just now."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core import _journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _sidecar_proof
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic import _inject_run
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gates import FAIL, PASS
from tests.unit.plugins.module_utils.mesh.inject_world import Api, Killed, inject, shop
from tests.unit.plugins.module_utils.mesh.test_inject_run import ALL, Judge
from tests.unit.plugins.module_utils.traffic.stairs_world import FakeClock


@pytest.fixture
def api() -> Api:
    return shop()


@pytest.mark.parametrize("broken", [False, True], ids=["gate", "failure"])
def test_a_pause_does_not_hold_up_what_has_to_be_taken_back(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    before = api.templates()
    if broken:
        api.broken.add("b")
    order = tmp_path / "shop" / "control"

    def state() -> str:
        if "b" not in api.moved():
            return PASS
        order.write_text("pause")
        return FAIL

    def at_patch(what: str) -> None:
        if broken and what == "patch Deployment":
            order.write_text("pause")

    api.on_call = at_patch
    limited_sleep(monkeypatch)
    monkeypatch.setattr(_inject_run, "build_gates", lambda _given, _allow: [Judge(state)])
    done = inject(api, tmp_path, waves=[{"names": ["b"]}])
    assert done.failed is not None and done.result["verdict"] == ("error" if broken else "fail")
    assert api.templates() == before and api.moved() == set()


def test_a_pause_holds_up_a_way_back_that_was_asked_for(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert inject(api, tmp_path).failed is None
    (tmp_path / "shop" / "control").write_text("pause")
    limited_sleep(monkeypatch)
    with pytest.raises(AssertionError, match="waits for ever"):
        inject(api, tmp_path, state="restored")
    assert api.moved() == ALL


def limited_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(clock: FakeClock, seconds: float) -> None:
        clock.now += seconds
        assert clock.now < 100_000, "it waits for ever"

    monkeypatch.setattr(FakeClock, "sleep", sleep)


@pytest.mark.parametrize("broken", [False, True], ids=["well", "failed"])
def test_a_cluster_that_is_silent_at_the_end_hides_nothing_of_what_was_done(api: Api, tmp_path: Path, *, broken: bool) -> None:
    if broken:
        api.broken.add("c")

    def silent(what: str) -> None:
        # The first look, that before the failed one is put back, that before its wave is, the last look.
        if what == "list Namespace" and api.calls[what] == (4 if broken else 2):
            raise MigrationError("The API server of source gave no answer to GET", transient=True, details={"status": 0})

    api.on_call = silent
    done = inject(api, tmp_path, waves=[1, {"names": ["b", "c"]}])
    assert any("how it ended could not be read" in text and "gave no answer" in text for text in done.warnings)
    assert done.result["waves"][0]["verdict"] == PASS
    if broken:
        assert done.failed is not None and "shop/Deployment/a moved" in done.failed.done
    else:
        assert done.failed is None and done.result["verdict"] == PASS
    written = {"source/shop/Deployment/a", "source/shop/Deployment/b", "source/shop/Deployment/c"}
    assert {change.target for change in done.plan.changes} == written


def test_a_way_back_whose_end_cannot_be_read_says_what_it_did(api: Api, tmp_path: Path) -> None:
    assert inject(api, tmp_path).failed is None
    before, api.calls["list Namespace"] = api.moved(), 0
    api.refuse["b"] = MigrationError("The API server answered PATCH with 403", why="no right", details={"status": 403})

    def silent(what: str) -> None:
        if what == "list Namespace" and api.moved() != before:
            raise MigrationError("The API server of source gave no answer to GET", transient=True, details={"status": 0})

    api.on_call = silent
    back = inject(api, tmp_path, state="restored")
    assert back.failed is not None and "shop/Deployment/a is back" in back.failed.done and "no right" in back.failed.message
    assert any("how it ended could not be read" in text for text in back.warnings)
    assert "source/shop/Deployment/a" in {change.target for change in back.plan.changes}


ABSOLUTE = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 2}}


def scale(api: Api, name: str, replicas: int) -> None:
    """As an autoscaler does it."""
    item = api.items["Deployment", "shop", name]
    item["spec"]["replicas"] = replicas
    for pod in api.pods(item)[replicas:]:
        del api.items["Pod", "shop", pod["metadata"]["name"]]
    api._status(item)


def test_a_workload_that_was_scaled_down_between_two_waves_keeps_its_last_ready_pod(tmp_path: Path) -> None:
    api = Api()
    api.workload("a")
    api.workload("b", replicas=6, strategy=ABSOLUTE)
    before = api.templates()

    def autoscaler(what: str) -> None:
        if what == "patch Deployment" and api.calls[what] == 1:
            scale(api, "b", 2)

    api.on_call = autoscaler
    done = inject(api, tmp_path, waves=[1, "100%"], on_fail="hold")
    assert api.lowest.get(("Deployment", "shop", "b"), 2) == 2 and api.moved() == {"a"}
    assert done.failed is not None
    assert "b: its last ready pod would go (2 of 2 ready, up to 2 away at once), and that for 60 s" in done.failed.message
    assert {key: text for key, text in api.templates().items() if text != before[key]}.keys() == {"Deployment/shop/a"}
    # It was scaled up again: the same task goes on.
    api.on_call = lambda _what: None
    api.items["Deployment", "shop", "b"]["spec"]["replicas"] = 6
    for _number in range(4):
        api._pod(api.items["Deployment", "shop", "b"], ready=True)
    api._status(api.items["Deployment", "shop", "b"])
    api.lowest.clear()
    assert inject(api, tmp_path, waves=[1, "100%"]).failed is None and api.lowest["Deployment", "shop", "b"] == 4


def test_a_workload_that_was_scaled_down_between_two_waves_is_guarded(tmp_path: Path) -> None:
    api = Api()
    api.workload("a")
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 2}}
    api.workload("b", replicas=6, strategy=strategy)
    before = api.templates()

    def autoscaler(what: str) -> None:
        if what == "patch Deployment" and api.calls[what] == 1:
            scale(api, "b", 2)

    api.on_call = autoscaler
    assert inject(api, tmp_path, waves=[1, "100%"]).failed is None
    assert api.lowest["Deployment", "shop", "b"] == 2 and api.moved() == {"a", "b"}
    assert api.items["Deployment", "shop", "b"]["spec"]["strategy"] == strategy
    assert inject(api, tmp_path, state="restored").failed is None and api.templates() == before


def test_one_that_must_wait_does_not_hold_up_the_others(tmp_path: Path) -> None:
    api = Api()
    api.workload("a", replicas=6, strategy=ABSOLUTE)
    api.workload("b")

    def autoscaler(what: str) -> None:
        if what == "rehearse Pod":
            scale(api, "a", 2)

    api.on_call = autoscaler
    done = inject(api, tmp_path, waves=["100%"], concurrency=1, on_fail="hold")
    assert done.failed is not None and api.moved() == {"b"} and api.lowest["Deployment", "shop", "a"] == 2


def test_a_guard_that_became_needed_after_a_kill_is_put_back_too(tmp_path: Path) -> None:
    api = Api()
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 2}}
    api.workload("b", replicas=6, strategy=strategy)
    before = api.templates()

    def kill(what: str) -> None:
        if what == "patch Deployment":
            raise Killed

    api.on_call = kill
    with pytest.raises(Killed):
        inject(api, tmp_path)
    api.on_call = lambda _what: None
    scale(api, "b", 2)
    assert inject(api, tmp_path).failed is None and api.moved() == {"b"}
    assert api.items["Deployment", "shop", "b"]["spec"]["strategy"] == strategy
    assert inject(api, tmp_path, state="restored").failed is None and api.templates() == before


def test_a_label_that_was_set_between_two_waves_comes_back(tmp_path: Path) -> None:
    api = Api()
    api.workload("a")
    api.workload("b", template={"istio.io/rev": "default"})

    def somebody(what: str) -> None:
        if what == "patch Deployment" and api.calls[what] == 1:
            api.items["Deployment", "shop", "b"]["spec"]["template"]["metadata"]["labels"]["istio.io/rev"] = "canary"

    api.on_call = somebody
    assert inject(api, tmp_path, waves=[1, "100%"]).failed is None
    assert inject(api, tmp_path, state="restored").failed is None
    assert api.items["Deployment", "shop", "b"]["spec"]["template"]["metadata"]["labels"]["istio.io/rev"] == "canary"


def test_a_full_disk_does_not_stop_the_way_back(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = api.templates()

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    def state() -> str:
        if "b" not in api.moved():
            return PASS
        monkeypatch.setattr(_journal.os, "fsync", full)
        return FAIL

    monkeypatch.setattr(_inject_run, "build_gates", lambda _given, _allow: [Judge(state)])
    done = inject(api, tmp_path, waves=[{"names": ["b"]}])
    assert done.failed is not None and done.result["verdict"] == "fail"
    assert "everything is back in the source mesh" in done.failed.message and api.templates() == before
    assert any("No space left on device" in text for text in done.warnings)


def test_what_a_run_did_that_was_waited_for_is_taken_back_too(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The move is interrupted, the way back is started at once, and waits for the last rollouts of the other."""
    before, real = api.templates(), _inject_run.only_one

    @contextlib.contextmanager
    def after_the_other(path: Path, *, wait: float) -> Iterator[None]:
        monkeypatch.setattr(_inject_run, "only_one", real)
        assert inject(api, tmp_path).failed is None and api.moved() == ALL
        with real(path, wait=wait):
            yield

    monkeypatch.setattr(_inject_run, "only_one", after_the_other)
    back = inject(api, tmp_path, state="restored")
    assert back.failed is None and api.moved() == set() and api.templates() == before


def test_proxies_that_are_slow_to_answer_keep_no_gate_unheard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tunnel from the API server to the nodes is down: each question ends after its ten seconds, and there are hundreds."""
    api = Api()
    for number in range(100):
        api.workload(f"w{number:03}")
    clocks: list[FakeClock] = []
    real = FakeClock.__init__

    def remembered(clock: FakeClock) -> None:
        real(clock)
        clocks.append(clock)

    def hang(*_all: object) -> tuple[None, str]:
        clocks[-1].now += 10 / 8  # eight are asked at once
        return None, "no answer in 10 s"

    monkeypatch.setattr(FakeClock, "__init__", remembered)
    monkeypatch.setattr(_sidecar_proof, "prove", hang)
    monkeypatch.setattr(_inject_run, "can_ask", lambda *_all: None)
    done = inject(api, tmp_path, proof="proxies", waves=["100%"], concurrency=100, on_fail="hold", restore_failed=False)
    assert done.failed is not None and "no answer in 10 s" in done.failed.message
    assert done.result["timings"]["longest_verdict_gap_s"] < 60
    assert {row["result"] for row in done.result["workloads"]} == {"failed"}


@pytest.mark.parametrize(("status", "moves"), [(500, False), (403, True), (400, True)])
def test_a_webhook_that_does_not_answer_restarts_nothing(api: Api, tmp_path: Path, *, status: int, moves: bool) -> None:
    """With failurePolicy Fail no pod can be made; rollouts would take old pods away. That a dry run is refused tells nothing."""
    before = api.templates()

    def webhook(what: str) -> None:
        if what == "rehearse Pod":
            raise MigrationError("answered", why='failed calling webhook "istio"', details={"status": status})

    api.on_call = webhook
    done = inject(api, tmp_path)
    if moves:
        assert done.failed is None and "could not be rehearsed in shop" in done.warnings[0] and api.moved() == ALL
    else:
        assert done.failed is not None and "A new pod could not be made now, so nothing is restarted" in done.failed.message
        assert "failed calling webhook" in done.failed.message
        assert api.templates() == before and api.calls["patch Deployment"] == 0


def test_a_webhook_that_does_not_answer_does_not_stop_the_way_back(api: Api, tmp_path: Path) -> None:
    before = api.templates()
    assert inject(api, tmp_path).failed is None

    def webhook(what: str) -> None:
        if what == "rehearse Pod":
            raise MigrationError("answered", why='failed calling webhook "istio"', details={"status": 500})

    api.on_call = webhook
    assert inject(api, tmp_path, state="restored").failed is None and api.templates() == before


@pytest.mark.parametrize(("before", "crashes"), [(True, False), (False, False), (True, True)], ids=["was", "never", "crashes"])
def test_only_a_pod_that_never_was_ready_is_deleted_on_the_way_back(tmp_path: Path, *, before: bool, crashes: bool) -> None:
    """Pods of a database lose their readiness for a moment when a peer goes. To delete such a one costs the quorum."""
    api = Api()
    item = api.workload("data", "StatefulSet", replicas=3)
    assert inject(api, tmp_path).failed is None

    def peers(what: str) -> None:
        ill = [pod for pod in api.pods(item) if "startTime" in pod["status"]]
        if what == "patch StatefulSet":
            status = api.pods(item)[0]["status"]
            since = "2026-11-30T02:10:00Z" if before else "2026-11-30T02:00:01Z"
            status.update(startTime="2026-11-30T02:00:00Z")
            if crashes:
                loop = {"name": "app", "restartCount": 5, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
                status.update(containerStatuses=[loop])
            status["conditions"] = [{"type": "Ready", "status": "False", "lastTransitionTime": since}]
        elif ill and what == "list StatefulSet" and api.calls[what] > asked + 20:
            ill[0]["status"]["conditions"] = [{"type": "Ready", "status": "True"}]

    asked = api.calls["list StatefulSet"]
    api.on_call = peers
    assert inject(api, tmp_path, state="restored").failed is None and api.moved() == set()
    assert api.calls["delete Pod"] == (0 if before and not crashes else 1)
