# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of one migration with state folders of their own, as two execution pods have them: one is at work, others are refused."""

from __future__ import annotations

import pathlib
import types
import typing as t

import pytest
from ansible.module_utils.basic import AnsibleModule

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._lease import LEASE, Lease, holder_of
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic import _inject_run, _route_run, _weight_module
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gates import PASS
from tests.unit.plugins.module_utils.mesh.inject_world import OPTIONS, Api, shop
from tests.unit.plugins.module_utils.mesh.test_inject_run import ALL, Judge
from tests.unit.plugins.module_utils.traffic import route_world
from tests.unit.plugins.module_utils.traffic.stairs_world import FakeClock
from tests.unit.plugins.modules.test_traffic_shift import Runner, World, fake_world

Object = dict[str, t.Any]
PLACE = ("Lease", "istio-system", "servicemesh-migration-shop")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    fake_world(monkeypatch, made)
    return made


@pytest.fixture
def shift(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(tmp_path, capsys)


def test_a_run_at_work_elsewhere_is_refused_before_anything_begins(
    world: World, shift: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _module, text: told.append(text))
    world.lease_held = True
    answer = shift()
    assert "at work elsewhere" in answer["msg"] and world.moves == [] and "gate starts" not in world.calls
    assert shift(check=True)["changed"] is True
    world.lease_held, world.lease_warnings[:] = False, ["only this state_dir is locked"]
    answer = shift()
    assert answer["verdict"] == PASS and "only this state_dir is locked" in told
    assert world.calls[-1] == "lease given back"


def test_a_lease_that_another_run_has_taken_ends_this_one_and_moves_nothing_back(world: World, shift: Runner) -> None:
    def judge(world: World) -> str:
        world.lease_lost = "the Lease, which another run has taken" if world.share == 5 else ""
        return PASS

    world.judge = judge
    answer = shift(on_interrupt="rollback")
    assert (answer["verdict"], answer["share"]) == ("aborted", 5) and world.moves == [5]
    assert "which another run has taken" in answer["msg"]


# --- sidecar_inject and route_weight, with a lease in a cluster in memory -------------------------------------------------------


def lease_in(api: t.Any, journal: Journal, now: list[float], meanwhile: t.Callable[[], None] = lambda: None) -> Lease:
    def sleep(seconds: float) -> None:
        now[0] += seconds
        meanwhile()

    return Lease(api, "shop", journal.directory, journal.run, every=3600.0, monotonic=lambda: now[0], sleep=sleep)


def inject(api: Api, folder: pathlib.Path, now: list[float], meanwhile: t.Callable[[], None] = lambda: None) -> t.Any:
    """A run with a state folder of its own; its warnings are in its outcome, as the module puts them there."""
    journal = Journal(str(folder), "shop")
    journal.directory.mkdir(parents=True, exist_ok=True)
    lease = lease_in(api, journal, now, meanwhile)
    made = _inject_run.World(t.cast(t.Any, api), journal, FakeClock(), lease)
    return _inject_run.run(_inject_run.read_options({**OPTIONS, "waves": ["100%"]}), made, False), lease


def begin(api: t.Any, folder: pathlib.Path) -> Lease:
    """Another run, which has it."""
    folder.mkdir(exist_ok=True)
    other = Lease(api, "shop", folder, "other", every=3600.0)
    other._mine = holder_of(folder)
    assert other._take(0.0, False)
    return other


def test_workloads_are_not_moved_beside_a_run_elsewhere(tmp_path: pathlib.Path) -> None:
    api, now = shop(), [0.0]
    other = begin(versioned(api), tmp_path / "other")
    with pytest.raises(MigrationError, match="at work elsewhere"):
        inject(api, tmp_path / "mine", now, other.renew)
    assert api.moved() == set() and now[0] == _inject_run._LOCK_WAIT
    done, lease = inject(api, tmp_path / "mine", now)  # it was killed: nobody renews it any more
    assert done.failed is None and api.moved() == ALL and lease.lost == ""


def test_workloads_stay_when_another_run_has_taken_the_lease(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = versioned(shop())
    taken: list[Lease] = []
    moved: set[str] = set()

    def state() -> str:
        if api.moved() and not taken:
            api.items[PLACE]["spec"]["holderIdentity"] = ""
            moved.update(api.moved())
            taken.append(begin(api, tmp_path / "other"))
            leases[0].renew()
        return PASS

    leases: list[Lease] = []
    real = Lease.held

    def noted(lease: Lease, **options: t.Any) -> t.Any:
        leases.append(lease)
        return real(lease, **options)

    monkeypatch.setattr(Lease, "held", noted)
    monkeypatch.setattr(_inject_run, "build_gates", lambda _given, _allow: [Judge(state)])
    done, _lease = inject(api, tmp_path / "mine", [0.0])
    assert done.failed is not None and done.result["verdict"] == "aborted"
    assert str(tmp_path / "other") in done.failed.message
    assert moved and moved <= api.moved(), "a way back, against the run that is at work now"
    assert api.items[PLACE]["spec"]["holderIdentity"] == holder_of(tmp_path / "other")


def versioned(api: Api) -> Api:
    """With the resourceVersion of a Lease, as an API server counts and guards it."""
    create, patch = api.create, api.patch

    def created(kind: t.Any, body: Object, **more: t.Any) -> Object:
        return create(kind, body, **more)

    def patched(kind: t.Any, name: str, namespace: str, body: Object, **more: t.Any) -> Object:
        if kind != LEASE:
            return patch(kind, name, namespace, body, **more)
        meta = api.items["Lease", namespace, name]["metadata"]
        if body["metadata"].get("resourceVersion") != meta["resourceVersion"]:
            raise MigrationError("conflict", details={"status": 409})
        more_meta = {**body["metadata"], "resourceVersion": str(int(meta["resourceVersion"]) + 1)}
        return patch(kind, name, namespace, {**body, "metadata": more_meta}, **more)

    api.create, api.patch = created, patched  # type: ignore[method-assign]
    return api


def test_routes_are_not_moved_beside_a_run_elsewhere(tmp_path: pathlib.Path) -> None:
    both, api = route_world.Both(tmp_path / "mine"), versioned(Api())
    other = begin(api, tmp_path / "other")
    journal = both.journal()
    journal.directory.mkdir(parents=True)
    lease = lease_in(api, journal, [0.0], other.renew)
    made = _route_run.World(t.cast(t.Any, both.apis), journal, both.clock, both.proxies, lease)
    with pytest.raises(MigrationError, match="at work elsewhere"):
        _route_run.run(_route_run.read_options(route_world.OPTIONS), made, False)
    assert both.writes == []


class Quiet:
    """An API server that knows nothing, and forbids leases."""

    def __init__(self, *_args: t.Any) -> None:
        self.name, self.until = "source", None

    def guard(self) -> None:
        pass

    def where(self, *_args: t.Any) -> str:
        return "source"

    def get(self, kind: t.Any, *_args: t.Any) -> None:
        if kind == LEASE:
            raise MigrationError("The API server of source answered GET with 403", details={"status": 403})


@pytest.mark.parametrize(
    ("module", "logic"), [(_inject_run, "inject"), (_route_run, "route_weight"), (_weight_module, "clb_weight")]
)
def test_a_cluster_that_forbids_leases_is_a_warning(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, module: t.Any, logic: str
) -> None:
    params = {"source": {}, "target": {}, "alibaba": {}, "gateways": [], "migration": "shop", "state_dir": str(tmp_path)}
    wanted = types.SimpleNamespace(scope=types.SimpleNamespace(trail=""), undo=None, back=False, sample=None, asks=[], objects=[])
    for name, stand_in in {
        "Cluster": Quiet,
        "Clb": Quiet,
        "read_options": lambda _params: wanted,
        "_wanted": lambda _params: [],
        "_move": lambda *_args: Outcome(),
    }.items():
        if hasattr(module, name):
            monkeypatch.setattr(module, name, stand_in)
    (told,) = getattr(module, logic)(params, False).warnings
    assert "only this state_dir is locked" in told and "403" in told
