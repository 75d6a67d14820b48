# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Killed anywhere, a full disk, missing rights, an API server that restarts, a kind that vanishes: clear, and nothing half."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _collect
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._archive import Reader
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from tests.integration.backup.world import (
    CRD,
    SERVICE,
    VIRTUAL_SERVICE,
    World,
    backup,
    established,
    info,
    make,
    restore,
    service,
    vs,
    wait,
)

# Runs a module's logic and kills its own process with SIGKILL at the n-th thing that it does to the world: a request (before
# it is sent, or after it was answered), a member of an archive, a sync, a rename.
KILLED = """
import json, os, signal, sys
from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _archive, _backup_run, _restore_run, _tar
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster

at, count = int(sys.argv[1]), 0

def counted(call):
    def inner(*args, **kwargs):
        point()
        found = call(*args, **kwargs)
        point()
        return found
    return inner

def point():
    global count
    count += 1
    if count == at:
        os.kill(os.getpid(), signal.SIGKILL)

Cluster._once = counted(Cluster._once)
_tar.TarWriter.add = counted(_tar.TarWriter.add)
os.fsync, os.replace = counted(os.fsync), counted(os.replace)
run = {"backup": _backup_run, "restore": _restore_run}[sys.argv[2]].run_module
outcome = run(json.loads(sys.argv[3]), False)
print(json.dumps({"points": count, "failed": outcome.failed and outcome.failed.message, "result": outcome.result}))
"""


def child(at: int, what: str, params: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", KILLED, str(at), what, json.dumps(params)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=env)


def params_of(what: str, world: World, **options: Any) -> dict[str, Any]:
    from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _backup_run, _restore_run

    spec = {"backup": _backup_run.backup_spec, "restore": _restore_run.restore_spec}[what]()
    found = {name: option.get("default") for name, option in {**spec, **_backup_run.key_spec()}.items()}
    return {**found, "source": world.options, "target": world.options, **options}


@pytest.fixture
def shop(source: World) -> World:
    make(source, *(vs(f"v{i}") for i in range(25)), service("web"), service("other"))
    return source


def spread(points: int, count: int = 24) -> list[int]:
    return sorted({1 + round(i * (points - 1) / (count - 1)) for i in range(count)})


@pytest.mark.thorough
def test_a_backup_killed_anywhere_leaves_nothing_that_passes_for_one(shop: World, tmp_path: Path) -> None:
    whole = child(0, "backup", params_of("backup", shop, dest=str(tmp_path / "whole")))
    points = json.loads(whole.stdout)["points"]
    killed = spread(points)
    assert len(killed) >= 20
    folder = tmp_path / "b"
    for at in killed:
        assert child(at, "backup", params_of("backup", shop, dest=str(folder))).returncode == -9
        for path in folder.glob("*.tar.zst"):
            Reader(path)  # what has a name is whole
    done = backup(shop, folder, crds="referred")  # as the killed ones: what the last of them finished is not made again
    assert done.failed is None
    left = [path.name for path in folder.iterdir()]
    assert left == [Path(done.result["archive"]).name], "one archive, and no half file of a dead run"
    assert info(shop, done.result["archive"])["comparison"]["same"]


@pytest.mark.thorough
def test_a_restore_killed_anywhere_is_completed_by_the_next_and_nothing_is_doubled(
    shop: World, target: World, tmp_path: Path
) -> None:
    saved = backup(shop, tmp_path).result
    make(target, vs("v3", hosts=["old.example.com"]), vs("extra"))
    options = {"archive": saved["archive"], "undo_dir": str(tmp_path / "undo"), "existing": "update", "prune": True, "workers": 3}
    # as many points as a run that is never killed has; each killed run gets less to do than the one before
    total = json.loads(child(0, "restore", params_of("restore", target, **options)).stdout)["points"]
    target.wipe()
    make(target, vs("v3", hosts=["old.example.com"]), vs("extra"))
    killed = 0
    for at in spread(total, 26):
        done = child(at, "restore", params_of("restore", target, **options))
        killed += done.returncode == -9
        if done.returncode == 0:  # the work was done before this point came: begin anew
            assert json.loads(done.stdout)["failed"] is None
            target.wipe()
            make(target, vs("v3", hosts=["old.example.com"]), vs("extra"))
            killed += child(at, "restore", params_of("restore", target, **options)).returncode == -9
    assert killed >= 20
    last = restore(target, saved["archive"], existing="update", prune=True)
    assert last.failed is None
    names = [obj["metadata"]["name"] for obj in target.cluster.list_all(VIRTUAL_SERVICE)]
    assert sorted(names) == sorted(f"v{i}" for i in range(25))
    assert info(target, saved["archive"])["comparison"]["same"]
    kept = {entry.name for path in (tmp_path / "undo").glob("*.zst") for entry in Reader(path).entries()}
    assert {"v3", "extra"} <= kept, "what was overwritten and deleted has a copy"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_leaves_nothing(source: World, small_disk: Path) -> None:
    noise = [
        vs(f"v{i}", hosts=[f"{os.urandom(2000).hex()[n : n + 60]}.example.com" for n in range(0, 4000, 60)]) for i in range(60)
    ]
    make(source, *noise)
    with pytest.raises(MigrationError, match="No space left"):
        backup(source, small_disk)
    assert list(small_disk.iterdir()) == []


def test_a_full_disk_stops_a_restore_before_its_first_write(shop: World, small_disk: Path, tmp_path: Path) -> None:
    """What is overwritten needs a copy: without room for it nothing is overwritten, and no half copy stays."""
    saved = backup(shop, tmp_path).result["archive"]
    noise = [f"{os.urandom(2000).hex()[n : n + 60]}.example.com" for n in range(0, 4000, 60)]
    for i in range(25):
        shop.cluster.patch(VIRTUAL_SERVICE, f"v{i}", "shop", {"spec": {"hosts": [f"{i}.{host}"[:60] for host in noise]}})
    (small_disk / "full").write_bytes(bytes(50 << 10))
    shop.remove(SERVICE, "web", "shop")
    with pytest.raises(MigrationError, match="No space left"):
        restore(shop, saved, existing="update", undo_dir=str(small_disk))
    assert [path.name for path in small_disk.iterdir()] == ["full"]
    counts = info(shop, saved)["comparison"]["counts"]
    assert (counts["differs"], counts["missing"]) == (25, 1), "not even what was missing is written"


READ = [
    {"apiGroups": ["networking.istio.io", "security.istio.io", "telemetry.istio.io", "extensions.istio.io"], "resources": ["*"]},
    {
        "apiGroups": ["", "apps"],
        "resources": ["services", "namespaces", "serviceaccounts", "deployments", "daemonsets", "statefulsets"],
    },
]


def test_a_kind_that_may_not_be_read_is_named_and_can_be_left_out(shop: World, tmp_path: Path) -> None:
    rules = [{**rule, "verbs": ["get", "list", "watch"]} for rule in READ]
    rules[0]["resources"] = ["virtualservices", "gateways", "destinationrules"]
    options = shop.limited(*rules)
    with pytest.raises(MigrationError) as found:
        backup(options, tmp_path)
    assert found.value.details["status"] == 403 and "skip_kinds: [networking.istio.io/" in found.value.message
    assert not tmp_path.exists() or list(tmp_path.iterdir()) == []
    others = [
        f"networking.istio.io/{kind}" for kind in ("ServiceEntry", "WorkloadEntry", "WorkloadGroup", "ProxyConfig", "EnvoyFilter")
    ]
    others += ["networking.istio.io/Sidecar", "telemetry.istio.io/Telemetry", "extensions.istio.io/WasmPlugin"]
    others += ["extensions.istio.io/TrafficExtension"]
    others += [f"security.istio.io/{kind}" for kind in ("PeerAuthentication", "RequestAuthentication", "AuthorizationPolicy")]
    assert backup(options, tmp_path, skip_kinds=others).result["counts"]["networking.istio.io/VirtualService"] == 25


def test_a_kind_that_may_not_be_written_is_named_before_the_first_write(shop: World, target: World, tmp_path: Path) -> None:
    saved = backup(shop, tmp_path).result["archive"]
    every = ["get", "list", "watch"]
    rules = [{**rule, "verbs": every} for rule in READ]
    rules.append({"apiGroups": [""], "resources": ["services", "namespaces", "serviceaccounts"], "verbs": ["create"]})
    limited = target.limited(*rules)
    done = restore(target, saved, target=limited)
    assert done.failed is not None and "VirtualService/shop/v" in done.failed.message and "forbidden" in done.failed.message
    assert done.result["written"] == 0 and done.result["counts"]["refused"] == 25
    assert target.cluster.get(SERVICE, "web", "shop") is None
    rules[-1] = {"apiGroups": ["networking.istio.io", ""], "resources": ["*"], "verbs": ["create"]}
    assert restore(target, saved, target=target.limited(*rules)).failed is None


def test_a_kind_that_may_not_be_listed_in_the_target_is_named(shop: World, target: World, tmp_path: Path) -> None:
    saved = backup(shop, tmp_path).result["archive"]
    with pytest.raises(MigrationError) as found:
        restore(target, saved, target=target.limited({**READ[1], "verbs": ["get", "list"]}))
    assert found.value.details["status"] == 403 and "virtualservices" in found.value.message


def test_reading_rights_are_enough_for_a_backup(shop: World, tmp_path: Path) -> None:
    options = shop.limited(*({**rule, "verbs": ["get", "list", "watch"]} for rule in READ))
    assert backup(options, tmp_path).result["objects"] == 27


def test_an_api_server_that_restarts_in_the_middle(shop: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = backup(shop, tmp_path).result
    shop.wipe()
    create, began = Cluster.create, threading.Event()

    def slow(self: Cluster, kind: Any, body: Any, *, dry_run: bool = False, **more: Any) -> Any:
        if body["metadata"]["name"] == "v12" and not dry_run and not began.is_set():
            began.set()
            threading.Thread(target=shop.restart).start()
        return create(self, kind, body, dry_run=dry_run, **more)

    monkeypatch.setattr(Cluster, "create", slow)
    done = restore(shop, saved["archive"], workers=2)
    wait(shop._ready, "the API server is back")
    if done.failed is not None:  # it took longer than the calls are repeated: told, and continued by the next run
        assert "gave no answer" in done.failed.message
        done = restore(shop, saved["archive"])
    assert began.is_set() and done.failed is None
    assert info(shop, saved["archive"])["comparison"]["same"]


def test_an_api_server_that_restarts_while_it_is_read(shop: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two pages: either the same moment is read on, or it is told and there is no archive."""
    small_pages(monkeypatch)
    page, asked = Cluster.part, []

    def stop(self: Cluster, kind: Any, *args: Any, **more: Any) -> Any:
        if kind.kind == "VirtualService" and more.get("token") and not asked:
            asked.append(True)
            shop.restart()
        return page(self, kind, *args, **more)

    monkeypatch.setattr(Cluster, "part", stop)
    told = ""
    try:
        found = backup(shop, tmp_path)
    except MigrationError as error:
        told = error.message
    if told:
        assert "gave no answer" in told
        assert list(tmp_path.iterdir()) == []
    else:
        assert found.result["counts"]["networking.istio.io/VirtualService"] == 25
    monkeypatch.undo()
    wait(shop._ready, "the API server is back")
    assert asked and backup(shop, tmp_path).result["objects"] == 27
    assert info(shop, next(tmp_path.glob("*.zst")))["comparison"]["same"]


def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_collect, "PAGE", 10)


def test_a_kind_that_vanishes_between_two_pages_fails_the_backup(
    shop: World, target: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a kind is no backup of it."""
    small_pages(monkeypatch)
    name = "virtualservices.networking.istio.io"
    make(target, *(vs(f"v{i}") for i in range(25)), service("web"))
    crd = target.cluster.get(CRD, name)
    assert crd
    page = Cluster.part

    def vanish(self: Cluster, kind: Any, *args: Any, **more: Any) -> Any:
        if kind.kind == "VirtualService" and more.get("token"):
            target.remove(CRD, name)
            wait(lambda: target.cluster.get(CRD, name) is None, "the CRD is gone")
            wait(lambda: _code(lambda: page(self, kind)) == 404, "the kind is gone")
        return page(self, kind, *args, **more)

    monkeypatch.setattr(Cluster, "part", vanish)
    try:
        with pytest.raises(MigrationError, match="removed while it was read"):
            backup(target, tmp_path)
        assert list(tmp_path.iterdir()) == []
    finally:
        monkeypatch.undo()
        bring_back(target, crd)


def test_a_kind_that_vanishes_while_it_is_restored(
    shop: World, target: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the dry run, before the write: told, what was written is counted, and the next run completes it."""
    saved = backup(shop, tmp_path).result["archive"]
    name = "virtualservices.networking.istio.io"
    crd = target.cluster.get(CRD, name)
    assert crd
    create, gone = Cluster.create, threading.Event()

    def vanish(self: Cluster, kind: Any, body: Any, *, dry_run: bool = False, **more: Any) -> Any:
        if kind.kind == "VirtualService" and not dry_run and not gone.is_set():
            gone.set()
            target.remove(CRD, name)
            wait(lambda: target.cluster.get(CRD, name) is None, "the CRD is gone")
            wait(lambda: _code(lambda: target.cluster.page(VIRTUAL_SERVICE)) == 404, "the kind is gone")
        return create(self, kind, body, dry_run=dry_run, **more)

    monkeypatch.setattr(Cluster, "create", vanish)
    try:
        done = restore(target, saved, workers=1)
        assert done.failed is not None and "objects are written" in done.failed.message
        assert done.result["written"] < 28 and done.failed.not_done
    finally:
        monkeypatch.undo()
        bring_back(target, crd)
    again = restore(target, saved)
    assert again.failed is None, again.failed
    assert info(target, saved)["comparison"]["same"]


def _code(call: Callable[[], Any]) -> int:
    try:
        call()
    except MigrationError as error:
        return int(error.details.get("status") or 0)
    return 200


def bring_back(world: World, crd: dict[str, Any]) -> None:
    fresh = {key: value for key, value in crd.items() if key != "status"}
    fresh["metadata"] = {key: crd["metadata"][key] for key in ("name", "labels", "annotations") if key in crd["metadata"]}
    world.cluster.create(CRD, fresh)
    wait(lambda: established(world.cluster.get(CRD, crd["metadata"]["name"])), "the CRD is back")
    wait(lambda: _code(lambda: world.cluster.page(VIRTUAL_SERVICE)) == 200, "the kind is back")


def test_a_kind_that_vanishes_while_it_is_read(shop: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "telemetries.telemetry.istio.io"
    crd = shop.cluster.get(CRD, name)
    assert crd
    page = Cluster.part

    def vanish(self: Cluster, kind: Any, *args: Any, **more: Any) -> Any:
        if kind.kind == "Telemetry":
            shop.remove(CRD, name)
            wait(lambda: shop.cluster.get(CRD, name) is None, "the CRD is gone")
            wait(lambda: _code(lambda: page(self, kind)) == 404, "the kind is gone")
        return page(self, kind, *args, **more)

    monkeypatch.setattr(Cluster, "part", vanish)
    try:
        found = backup(shop, tmp_path)
        left = {entry["kind"]: entry["why"] for entry in found.result["left_out"]}
        assert "stopped serving" in left["telemetry.istio.io/Telemetry"]
        assert any("Telemetry is not in the backup" in warning for warning in found.warnings)
    finally:
        monkeypatch.undo()
        bring_back(shop, crd)
