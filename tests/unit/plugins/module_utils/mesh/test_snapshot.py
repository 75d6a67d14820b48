# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies: exact, whole or not at all, private, and never with a secret in the journal."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._secrets import concealed
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _snapshot
from tests.unit.plugins.module_utils.mesh import gateway_objects as have

KEY = f"source/{have.NAMESPACE}/Service/{have.SOURCE}"


def content(**more: Any) -> dict[str, Any]:
    return {"objects": {KEY: _snapshot.stable(have.service())}, "clb": {have.LB_ID: {"groups": []}}, "secrets": [], **more}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(str(tmp_path), "shop")


def again(journal: Journal) -> Journal:
    return Journal(str(journal.directory.parent), "shop")


def test_a_snapshot_is_private_whole_and_found_again(journal: Journal) -> None:
    path = _snapshot.write(journal, content())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (path.parent, path.parent.parent)} == {0o700}
    assert _snapshot.load(path)["content"] == content()
    assert _snapshot.holds(again(journal), KEY, f"uid-{have.SOURCE}") == str(path)
    assert _snapshot.holds(again(journal), KEY, "another uid") == ""


def test_the_same_content_is_not_saved_twice(journal: Journal) -> None:
    path = _snapshot.write(journal, content())
    present, damaged = _snapshot.whole_ones(journal)
    assert (damaged, list(present.values())) == ([], [str(path)])
    assert not _snapshot.plan(content(), present, path.parent).changed
    assert _snapshot.plan(content(secrets=["x"]), present, path.parent).changed


def test_a_damaged_snapshot_does_not_count(journal: Journal) -> None:
    path = _snapshot.write(journal, content())
    path.write_text(path.read_text().replace("30021", "30022"))
    with pytest.raises(MigrationError, match="damaged"):
        _snapshot.load(path)
    assert _snapshot.whole_ones(journal)[0] == {}
    path.write_text("{")
    assert len(_snapshot.whole_ones(journal)[1]) == 1


def test_a_fresh_container_knows_of_a_snapshot_by_the_journal(journal: Journal) -> None:
    path = _snapshot.write(journal, content())
    path.unlink()
    assert _snapshot.holds(again(journal), KEY, f"uid-{have.SOURCE}") == str(path)


def test_the_journal_of_a_mesh_with_many_routes_is_small(journal: Journal) -> None:
    def route(number: int) -> dict[str, Any]:
        meta = {"name": f"r{number}", "namespace": "demo", "uid": f"{number:036}"}
        return {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": meta, "spec": {}}

    objects = content()["objects"] | {f"source/demo/VirtualService/r{number}": route(number) for number in range(2000)}
    path = _snapshot.write(journal, content(objects=objects))
    assert len(_snapshot.load(path)["content"]["objects"]) == 2001
    assert len(json.dumps(again(journal).originals())) < 2000
    assert _snapshot.holds(again(journal), KEY, f"uid-{have.SOURCE}") == str(path)


def test_while_the_migration_is_under_way_the_first_snapshot_stays(journal: Journal) -> None:
    gateways = [{"namespace": have.NAMESPACE, "source_service": have.SOURCE}]
    path = _snapshot.write(journal, content())
    assert _snapshot.begun(journal, gateways) == ""
    journal.keep_original("clb/lb-1/tags", {})
    assert _snapshot.begun(journal, gateways) == str(path)
    assert not _snapshot.plan(content(secrets=["x"]), {}, path.parent, begun=str(path)).changed
    assert _snapshot.begun(journal, [{"namespace": have.NAMESPACE, "source_service": "other"}]) == ""


def test_what_moves_by_itself_is_not_in_a_snapshot() -> None:
    first, second = have.deployment(), have.deployment(ready=False)
    second["metadata"].update(resourceVersion="9", managedFields=[{}], generation=4)
    assert _snapshot.stable(first) == _snapshot.stable(second)
    assert "status" in _snapshot.stable(have.service())
    with pytest.raises(ValueError, match="Secret"):
        _snapshot.stable({"kind": "Secret", "metadata": {}})


def test_an_object_comes_back_exactly(journal: Journal) -> None:
    _snapshot.keep(journal, "source/a", have.service())
    changed = have.service()
    changed["spec"]["type"] = "NodePort"
    _snapshot.keep(journal, "source/a", changed)
    assert _snapshot.kept(again(journal), "source/a") == have.service()
    (file,) = (journal.directory / "objects").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.unlink()
    assert _snapshot.kept(again(journal), "source/a") == have.service()
    assert _snapshot.kept(journal, "source/b") is None


@pytest.mark.parametrize(
    "change",
    [
        lambda obj: obj["spec"]["template"]["spec"]["containers"][0]["env"].append({"name": "DB_PASSWORD", "value": "hunter2"}),
        lambda obj: obj["metadata"].update(annotations={"token": "hunter2"}),
    ],
)
def test_what_may_be_secret_is_in_the_private_file_only(journal: Journal, change: Any) -> None:
    obj = have.deployment()
    change(obj)
    _snapshot.keep(journal, "source/a", obj)
    assert "hunter2" not in journal.path.read_text()
    assert _snapshot.kept(again(journal), "source/a") == obj
    for file in (journal.directory / "objects").iterdir():
        file.unlink()
    with pytest.raises(MigrationError, match="copy of an object is not here"):
        _snapshot.kept(again(journal), "source/a")


@pytest.mark.parametrize("size", [0, 50_000], ids=["small", "packed"])
def test_a_secret_in_a_program_is_in_the_private_file_only_and_that_is_told(journal: Journal, size: int) -> None:
    code = 'function envoy_on_request(handle) handle:headers():add("authorization", "Basic aHVudGVyMjpodW50ZXIy") end -- '
    patch = {"value": {"typed_config": {"inlineCode": code + "x " * size}}}
    meta = {"name": "auth", "namespace": "demo"}
    obj = {"apiVersion": "v1alpha3", "kind": "EnvoyFilter", "metadata": meta, "spec": {"configPatches": [{"patch": patch}]}}
    _snapshot.keep(journal, "target/a", obj)
    entry = journal.original("target/a")
    assert entry["object"] is None and "packed" not in entry and "aHVudGVyMjpodW50ZXIy" not in journal.path.read_text()
    (file,) = (journal.directory / "objects").iterdir()
    (told,) = journal.withheld
    assert told.startswith("target/a: it looks as if it held a secret") and str(file) in told and "archive of a backup" in told
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and _snapshot.kept(again(journal), "target/a") == obj
    file.unlink()
    with pytest.raises(MigrationError, match=r"copy of an object is not here.*mesh_restore"):
        _snapshot.kept(again(journal), "target/a")


@pytest.mark.parametrize("damage", [lambda text: text[:-40], lambda text: "!" + text[1:], lambda text: ""])
def test_a_damaged_copy_in_the_journal_is_no_matter_while_there_is_the_file(journal: Journal, damage: Any) -> None:
    obj = {**have.service(), "spec": {"text": "x" * 50_000}}
    _snapshot.keep(journal, "source/a", obj)
    entry = journal.original("source/a")
    entry["packed"] = damage(entry["packed"])
    assert _snapshot.kept(journal, "source/a") == obj
    (file,) = (journal.directory / "objects").iterdir()
    file.unlink()
    with pytest.raises(MigrationError, match="copy of an object is not here"):
        _snapshot.kept(journal, "source/a")


def test_a_copy_that_was_changed_is_not_used(journal: Journal) -> None:
    obj = have.deployment()
    obj["spec"]["template"]["spec"]["containers"][0]["env"].append({"name": "TOKEN", "value": "hunter2"})
    _snapshot.keep(journal, "source/a", obj)
    (file,) = (journal.directory / "objects").iterdir()
    file.write_text(json.dumps({"other": 1}))
    with pytest.raises(MigrationError, match="damaged"):
        _snapshot.kept(again(journal), "source/a")


def test_plans_do_not_show_values_that_look_secret() -> None:
    env = [{"name": "DB_PASSWORD", "value": "hunter2"}, {"name": "TZ", "value": "UTC"}]
    assert "hunter2" not in json.dumps(concealed({"env": env}))
    assert concealed({"env": env})["env"][1] == env[1]
    assert env[0]["value"] == "hunter2"
