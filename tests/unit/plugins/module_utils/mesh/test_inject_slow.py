# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""sidecar_inject before an API server that hangs: each call ends after its 30 s, and a client may repeat it eight times.

Gates, orders and the way back are heard in between all the same.
"""

from __future__ import annotations

import itertools
import typing as t
from pathlib import Path

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic import _inject_run
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gates import FAIL, PASS
from tests.unit.plugins.module_utils.mesh.inject_world import Api, inject, shop
from tests.unit.plugins.module_utils.mesh.test_inject_run import ALL, Judge
from tests.unit.plugins.module_utils.traffic.stairs_world import FakeClock

# So long a call hangs, and as many times it is repeated where nothing says that somebody waits.
HANGS, ATTEMPTS = 30.0, 8


class Slow:
    """Hangs in the calls whose names are in ``what``, ``times`` times each; eight workers hang side by side."""

    def __init__(self, api: Api, monkeypatch: pytest.MonkeyPatch, *what: str, times: int = 10**6) -> None:
        self.api, self.left = api, dict.fromkeys(what, times)
        self.clocks: list[FakeClock] = []
        self.met = 0
        real = FakeClock.__init__

        def remembered(clock: FakeClock) -> None:
            real(clock)
            self.clocks.append(clock)

        monkeypatch.setattr(FakeClock, "__init__", remembered)
        api.on_call = self.call

    def call(self, what: str) -> None:
        if self.left.get(what, 0) > 0:
            self.left[what] -= 1
            self.met += 1
            together = 1 if what.startswith("list") else 8
            self.clocks[-1].now += HANGS * (ATTEMPTS if self.api.until is None else 1) / together
            raise MigrationError("The API server of source gave no answer", why="late", transient=True, details={"status": 0})


def many(number: int, *, apart: bool = False) -> Api:
    api = Api()
    for index in range(number):
        name = f"n{index:03}" if apart else "shop"
        if apart:
            api.namespace(name)
        api.workload(f"w{index:03}", namespace=name)
    return api


def gap(done: t.Any) -> float:
    return float(done.result["timings"]["longest_verdict_gap_s"])


@pytest.mark.parametrize("what", ["list Deployment", "list Pod", "patch Deployment", "get Deployment"])
def test_calls_of_the_way_there_are_not_repeated_beyond_their_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A look that hangs eight times is 240 s long; a wave of 100 patches that hang was 50 minutes."""
    api = many(9)
    slow = Slow(api, monkeypatch, *([] if what.startswith("list") else [what]), times=12)
    judged: list[float] = []

    def state() -> str:
        judged.append(slow.clocks[-1].now)
        if what.startswith("list") and api.calls["patch Deployment"] == 1:
            slow.left.setdefault(what, 12)  # only the looks at what rolls, not the first one
        return PASS

    monkeypatch.setattr(_inject_run, "build_gates", lambda _given, _allow: [Judge(state)])
    done = inject(api, tmp_path, waves=[1, "100%"], wait_timeout=600.0)
    assert done.failed is None and slow.met == 12, done.failed
    assert len(api.moved()) == 9
    assert gap(done) < 2 * HANGS
    assert max(later - earlier for earlier, later in itertools.pairwise(judged)) < 2 * HANGS


def test_a_gate_that_fails_is_heard_while_a_hundred_patches_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = many(101)
    before = api.templates()
    slow = Slow(api, monkeypatch, "patch Deployment", times=0)

    def state() -> str:
        if api.calls["patch Deployment"] >= 1 and not slow.left["patch Deployment"]:
            slow.left["patch Deployment"] = 10**6
        if slow.met:
            slow.left["patch Deployment"] = 0
            return FAIL
        return PASS

    monkeypatch.setattr(_inject_run, "build_gates", lambda _given, _allow: [Judge(state)])
    done = inject(api, tmp_path, waves=[1, "100%"], concurrency=100, on_fail="zero")
    assert done.failed is not None and done.result["verdict"] == "fail"
    assert slow.met <= 16 and api.templates() == before
    assert gap(done) < 2 * HANGS


def test_what_never_answers_ends_by_the_wait_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = many(2)
    before = api.templates()
    slow = Slow(api, monkeypatch, "patch Deployment")
    done = inject(api, tmp_path, waves=["100%"], wait_timeout=60.0)
    assert done.failed is not None and "gave no answer" in done.failed.message and "and that for" in done.failed.message
    assert api.templates() == before and slow.met > 2
    api.on_call = lambda _what: None
    assert inject(api, tmp_path, waves=["100%"]).failed is None and api.moved() == {"w000", "w001"}


def test_the_way_back_may_repeat_its_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for their answers anyway: also the one that begins within a piece of the way there."""
    api = shop()
    before = api.templates()
    limits: list[tuple[str, bool]] = []
    api.broken.add("b")
    api.on_call = lambda what: limits.append((what, api.until is None))
    done = inject(api, tmp_path, on_fail="previous", waves=[{"names": ["b"]}])
    assert done.failed is not None and api.templates() == before
    assert [free for what, free in limits if what == "patch Deployment"] == [False, True]
    assert api.until is None


def test_many_namespaces_are_rehearsed_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = many(60, apart=True)
    slow = Slow(api, monkeypatch, "rehearse Pod")
    judged: list[int] = []
    monkeypatch.setattr(
        _inject_run, "build_gates", lambda _given, _allow: [Judge(lambda: judged.append(slow.met) or PASS)]  # type: ignore[func-returns-value]
    )
    done = inject(api, tmp_path, waves=["100%"], concurrency=100)
    assert done.failed is None and len(api.moved()) == 60
    assert gap(done) < 2 * HANGS
    assert slow.met == 60 and sum("could not be rehearsed" in text for text in done.warnings) == 60  # each once
    assert {8, 16, 24} <= set(judged)


def test_a_wrong_sidecar_in_the_last_namespace_is_found_before_anything_is_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = many(20, apart=True)
    before = api.templates()
    slow = Slow(api, monkeypatch, "rehearse Pod", times=16)

    def injects(what: str) -> None:
        api.injects = api.calls["rehearse Pod"] < 20
        slow.call(what)

    api.on_call = injects
    done = inject(api, tmp_path, waves=["100%"])
    assert done.failed is not None and "would not get a sidecar of the target" in done.failed.message
    assert api.templates() == before and api.calls["patch Deployment"] == 0


def test_a_way_back_does_not_wait_for_dry_runs_that_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = many(60, apart=True)
    before = api.templates()
    assert inject(api, tmp_path, waves=["100%"], concurrency=100).failed is None
    slow = Slow(api, monkeypatch, "rehearse Pod")
    back = inject(api, tmp_path, state="restored", concurrency=100)
    assert back.failed is None and api.templates() == before
    assert slow.met == 8 and api.until is None
    assert any("not asked, after 8 got no answer" in text for text in back.warnings)


def test_nothing_is_patched_before_the_mirror_has_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mirror gave no answer at the first try of a wave; the second one must not go on without it."""
    api = shop()
    failed: list[str] = []
    mirrored: list[bool] = []

    def once(what: str) -> None:
        if what == "patch ConfigMap" and not failed:
            failed.append(what)
            raise MigrationError("The API server of source gave no answer", transient=True, details={"status": 0})
        if what.startswith("patch") and what != "patch ConfigMap":
            data = api.items["ConfigMap", "istio-system", "servicemesh-migration-shop"]["data"]
            mirrored.append("inject/shop/" in str(data.get("originals.json")))

    api.on_call = once
    done = inject(api, tmp_path, waves=["100%"])
    assert done.failed is None and api.moved() == ALL and failed
    assert mirrored and all(mirrored)
