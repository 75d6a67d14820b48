# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lease: two runs with state folders of their own exclude each other, a killed one is waited for, and nothing hangs on it."""

from __future__ import annotations

import copy
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._lease import LEASE, Lease, holder_of

Object = dict[str, t.Any]


def error(status: int) -> MigrationError:
    return MigrationError("The API server answered", why=f"status {status}", details={"status": status})


class Api:
    """One Lease with the API server's optimistic concurrency."""

    def __init__(self) -> None:
        self.item: Object | None = None
        self.until: float | None = None
        self.calls: list[str] = []
        self.limits: list[float | None] = []
        self.fails: dict[str, int] = {}
        self.before_write: t.Callable[[], None] = lambda: None

    def where(self, kind: t.Any, name: str, namespace: str) -> str:
        return f"source/{namespace}/{kind.kind}/{name}"

    def _called(self, verb: str) -> None:
        self.calls.append(verb)
        self.limits.append(self.until)
        if verb in self.fails:
            raise error(self.fails[verb])

    def get(self, kind: t.Any, name: str, namespace: str) -> Object | None:
        assert (kind, namespace) == (LEASE, "istio-system") and name == "servicemesh-migration-shop"
        self._called("get")
        return copy.deepcopy(self.item)

    def create(self, _kind: t.Any, body: Object) -> Object:
        self._called("create")
        self.before_write()
        if self.item is not None:
            raise error(409)
        return self._store(body)

    def patch(self, _kind: t.Any, _name: str, _namespace: str, body: Object) -> Object:
        self._called("patch")
        self.before_write()
        if self.item is None:
            raise error(404)
        assert body["metadata"]["resourceVersion"], "a write without a guard"
        if body["metadata"]["resourceVersion"] != self.item["metadata"]["resourceVersion"]:
            raise error(409)
        made = copy.deepcopy(self.item)
        made["metadata"].setdefault("annotations", {}).update(body["metadata"].get("annotations") or {})
        made["spec"] = {key: value for key, value in {**made["spec"], **body["spec"]}.items() if value is not None}
        return self._store(made)

    def _store(self, body: Object) -> Object:
        version = int(self.item["metadata"]["resourceVersion"]) + 1 if self.item else 1
        self.item = copy.deepcopy(body)
        self.item["metadata"]["resourceVersion"] = str(version)
        return copy.deepcopy(self.item)

    @property
    def holder(self) -> str:
        return str(t.cast(Object, self.item)["spec"].get("holderIdentity") or "")


def begin(run: Run) -> None:
    """It has the lease, and never gives it back: it is at work elsewhere, or was killed."""
    run.lease._mine = holder_of(run.folder)
    assert run.lease._take(0, False)


class Run:
    """A run with a state folder of its own, and time that passes when it waits; ``meanwhile`` happens then."""

    def __init__(self, api: Api, folder: Path, meanwhile: t.Callable[[], None] = lambda: None) -> None:
        self.now, self.meanwhile, self.folder = 0.0, meanwhile, folder
        folder.mkdir(exist_ok=True)
        self.lease = Lease(
            t.cast(t.Any, api), "shop", folder, "r1", every=3600.0, monotonic=lambda: self.now, sleep=self._sleep
        )

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        assert self.now < 1000, "it waits for ever"
        self.meanwhile()


def test_it_is_held_and_given_back(tmp_path: Path) -> None:
    api = Api()
    run = Run(api, tmp_path / "a")
    with run.lease.held(wait=30):
        assert api.holder == holder_of(tmp_path / "a")
        spec = t.cast(Object, api.item)["spec"]
        assert spec["leaseDurationSeconds"] == 30 and spec["renewTime"] == spec["acquireTime"]
        time.strptime(spec["renewTime"], "%Y-%m-%dT%H:%M:%S.%fZ")
    assert api.holder == "" and run.lease.warnings == [] and run.now == 0
    with Run(api, tmp_path / "b").lease.held(wait=30):
        assert api.holder == holder_of(tmp_path / "b") != holder_of(tmp_path / "a")


def test_a_second_run_elsewhere_is_refused_with_who_holds_it_and_until_when(tmp_path: Path) -> None:
    api = Api()
    first = Run(api, tmp_path / "a")
    with first.lease.held(wait=30):
        second = Run(api, tmp_path / "b")
        second.meanwhile = lambda: first.lease.renew() if second.now % 5 == 0 else None
        with pytest.raises(MigrationError) as caught, second.lease.held(wait=30):
            pytest.fail("two runs at once")
        assert second.now == 30
        message = caught.value.message
        assert "Another run of this migration is at work elsewhere" in message and str(tmp_path / "a") in message
        assert "source/istio-system/Lease/servicemesh-migration-shop" in message and "Nothing has been changed" in message
        assert caught.value.details["until"] in message and caught.value.details["until"] > spec_of(api)["renewTime"]
        assert api.holder == holder_of(tmp_path / "a")


def spec_of(api: Api) -> Object:
    return t.cast(Object, t.cast(Object, api.item)["spec"])


def test_one_that_ends_while_it_is_waited_for_is_no_hindrance(tmp_path: Path) -> None:
    api = Api()
    first = Run(api, tmp_path / "a")
    block = first.lease.held(wait=30)
    block.__enter__()
    second = Run(api, tmp_path / "b")
    second.meanwhile = lambda: block.__exit__(None, None, None) if second.now == 5 else None
    with second.lease.held(wait=30):
        assert second.now == 5 and api.holder == holder_of(tmp_path / "b")


@pytest.mark.parametrize("lasts", [60, 20, 10**6])
def test_the_lease_of_a_killed_run_ends_by_itself(tmp_path: Path, lasts: int) -> None:
    """By what is seen of it, whatever the clocks say: nobody renews it. One that would last for ever is not believed."""
    api = Api()
    begin(Run(api, tmp_path / "a"))
    spec_of(api).update(leaseDurationSeconds=lasts, renewTime="2096-01-01T00:00:00.000000Z")
    second = Run(api, tmp_path / "b")
    with second.lease.held(wait=30):
        assert second.now == min(lasts, 300) and api.holder == holder_of(tmp_path / "b")
        assert spec_of(api)["leaseTransitions"] == 1


def test_the_same_state_folder_takes_over_at_once(tmp_path: Path) -> None:
    api = Api()
    begin(Run(api, tmp_path / "a"))
    again = Run(api, tmp_path / "a")
    with again.lease.held(wait=30):
        assert again.now == 0
    assert api.holder == ""


def test_of_two_that_come_at_once_one_has_it(tmp_path: Path) -> None:
    for there in (False, True):
        api = Api()
        if there:
            with Run(api, tmp_path / "old").lease.held(wait=0):
                pass
        other = Run(api, tmp_path / "other")

        def faster(api: Api = api, other: Run = other) -> None:
            api.before_write = lambda: None
            begin(other)

        api.before_write = faster
        run = Run(api, tmp_path / "a", lambda other=other: other.lease.renew())
        with pytest.raises(MigrationError, match="at work elsewhere"), run.lease.held(wait=5):
            pytest.fail("two runs at once")


@pytest.mark.parametrize("verb", ["get", "create"])
@pytest.mark.parametrize("status", [403, 404, 0])
def test_where_it_cannot_be_had_a_warning_says_so_and_the_run_goes_on(tmp_path: Path, verb: str, status: int) -> None:
    api = Api()
    api.fails = {verb: status}
    run = Run(api, tmp_path / "a")
    with run.lease.held(wait=30):
        pass
    (told,) = run.lease.warnings
    assert "only this state_dir is locked" in told and f"status {status}" in told and run.now == 0
    assert "patch" not in api.calls


def test_one_that_was_taken_over_is_lost_and_not_given_back(tmp_path: Path) -> None:
    api = Api()
    first = Run(api, tmp_path / "a")
    with first.lease.held(wait=30):
        second = Run(api, tmp_path / "b")
        with second.lease.held(wait=30):
            first.lease.renew()
            assert str(tmp_path / "b") in first.lease.lost and "not renewed in time" in first.lease.lost
            assert second.lease.lost == "" and api.holder == holder_of(tmp_path / "b")
            first.lease._release()
            assert api.holder == holder_of(tmp_path / "b")


def test_an_answer_that_was_lost_is_no_lease_that_is(tmp_path: Path) -> None:
    api = Api()
    run = Run(api, tmp_path / "a")
    with run.lease.held(wait=30):
        t.cast(Object, api.item)["metadata"]["resourceVersion"] = "7"  # our own write, of which we did not hear
        run.lease.renew()
        assert run.lease.lost == ""
        api.fails = {"patch": 500}
        with pytest.raises(MigrationError):
            run.lease.renew()
        assert run.lease.lost == ""
    assert api.holder == holder_of(tmp_path / "a"), "it ends by itself"


def test_it_is_renewed_beside_the_run_and_the_end_waits_for_no_repeated_call(tmp_path: Path) -> None:
    api = Api()
    (tmp_path / "a").mkdir()
    lease = Lease(t.cast(t.Any, api), "shop", tmp_path / "a", "r1", every=0.01)
    with lease.held(wait=30):
        until = time.monotonic() + 10
        while api.calls.count("patch") < 3:
            assert time.monotonic() < until, "it is not renewed"
            time.sleep(0.01)
    assert api.calls[-1] == "patch" and any(limit is not None for limit in api.limits[-3:]) and api.until is None


def test_several_slices_of_a_job_are_among_themselves_and_not_beside_another_run(tmp_path: Path) -> None:
    api = Api()
    with Run(api, tmp_path / "a").lease.held(wait=0, among=True), Run(api, tmp_path / "b").lease.held(wait=0, among=True):
        assert api.item is None
    first = Run(api, tmp_path / "a")
    with first.lease.held(wait=0):
        second = Run(api, tmp_path / "b", first.lease.renew)
        with pytest.raises(MigrationError, match="at work elsewhere"), second.lease.held(wait=5, among=True):
            pytest.fail("beside another run")
