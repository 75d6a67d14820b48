# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""sidecar_inject's way back when the journal's disk and its mirror are lost: that is not told as "nothing was moved"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from tests.unit.plugins.module_utils.mesh.inject_world import LABEL, Api, inject, shop
from tests.unit.plugins.module_utils.mesh.test_inject_run import ALL

MIRROR = ("ConfigMap", "istio-system", "servicemesh-migration-shop")


@pytest.fixture
def api() -> Api:
    return shop()


def note(api: Api, *names: str, manager: str = "servicemesh.migration", part: str = "f:labels", key: str = LABEL) -> None:
    """As an API server notes who set a label of a template last."""
    fields: Any = {"f:spec": {"f:template": {"f:metadata": {part: {f"f:{key}": {}}}}}}
    for kind, _namespace, name in list(api.items):
        if kind in ("Deployment", "StatefulSet", "DaemonSet") and name in names:
            meta = api.items[kind, "shop", name]["metadata"]
            others = [{"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {"f:replicas": {}}}}, {"manager": "x"}]
            meta["managedFields"] = [*others, {"manager": manager, "operation": "Update", "fieldsV1": fields}]


def patches(api: Api) -> int:
    return sum(number for what, number in api.calls.items() if what.startswith("patch") and "ConfigMap" not in what)


@pytest.mark.parametrize("check", [False, True])
def test_a_way_back_without_any_memory_is_no_success(api: Api, tmp_path: Path, *, check: bool) -> None:
    assert inject(api, tmp_path / "one").failed is None and api.moved() == ALL
    note(api, *ALL)
    del api.items[MIRROR]
    moved, before = api.templates(), patches(api)
    back = inject(api, tmp_path / "other", state="restored", check=check)
    assert back.failed is not None and not back.plan.changed
    told = back.failed.message
    assert f"{len(ALL)} workloads were moved, and what they were before is not known any more" in told
    assert "shop/DaemonSet/node" in told and f"{LABEL}: true" in told
    assert str(tmp_path / "other" / "shop" / "journal.jsonl") in told
    assert "ConfigMap istio-system/servicemesh-migration-shop" in told
    assert "Nothing has been changed by this call" in told and "What to do: run with the migration and the state_dir" in told
    assert back.failed.details["workloads"] == sorted(back.failed.details["workloads"]) and len(back.failed.not_done) == len(ALL)
    assert api.templates() == moved and patches(api) == before


def test_annotations_that_were_set_tell_it_too(api: Api, tmp_path: Path) -> None:
    wish = {"labels": {}, "annotations": {"mesh": "asm"}}
    api.items["Deployment", "shop", "a"]["spec"]["template"]["metadata"]["annotations"] = {"mesh": "asm"}
    note(api, "a", part="f:annotations", key="mesh")
    back = inject(api, tmp_path, state="restored", **wish)
    assert back.failed is not None and back.failed.not_done == ["shop/Deployment/a"]


@pytest.mark.parametrize("others", ["back too", "back before"])
def test_what_was_deleted_since_is_not_remembered_for_ever(api: Api, tmp_path: Path, others: str) -> None:
    assert inject(api, tmp_path).failed is None
    if others == "back before":
        inject(api, tmp_path, state="restored", undo_waves=[])
        assert inject(api, tmp_path, waves=[{"names": ["a", "b"]}]).failed is None
        assert set(keys(tmp_path)) == {"a", "b"}
    for name in ("a", "b"):
        for pod in api.pods(api.items["Deployment", "shop", name]):
            del api.items["Pod", "shop", pod["metadata"]["name"]]
        del api.items["Deployment", "shop", name]
    api.workload("b")["metadata"]["uid"] = "made-anew"
    assert inject(api, tmp_path, state="restored", check=True).failed is None and {"a", "b"} <= set(keys(tmp_path))
    assert inject(api, tmp_path, state="restored", namespaces=["bank"]).failed is None and {"a", "b"} <= set(keys(tmp_path))
    back = inject(api, tmp_path, state="restored")
    assert back.failed is None and keys(tmp_path) == []
    mirrored = api.items[MIRROR]["data"]
    assert "inject/" not in str(mirrored["originals.json"])


def test_what_has_no_sidecar_just_now_is_not_forgotten(api: Api, tmp_path: Path) -> None:
    """Somebody scaled it to nothing and opted it out: it is no workload to move, but it is there."""
    assert inject(api, tmp_path).failed is None
    item = api.items["Deployment", "shop", "a"]
    item["spec"]["template"]["metadata"]["labels"] = {"app": "a", "sidecar.istio.io/inject": "false"}
    item["spec"]["replicas"] = 0
    for pod in api.pods(item):
        del api.items["Pod", "shop", pod["metadata"]["name"]]
    api._status(item)
    assert inject(api, tmp_path, state="restored").failed is None
    assert keys(tmp_path) == ["a"]


def keys(folder: Path) -> list[str]:
    """Names of the workloads that the journal remembers."""
    return sorted(key.split("/")[3] for key in Journal(str(folder), "shop").originals("inject/"))


def test_where_nothing_was_moved_the_way_back_is_a_success(api: Api, tmp_path: Path) -> None:
    back = inject(api, tmp_path, state="restored")
    assert back.failed is None and not back.warnings and not back.plan.changed and back.result["kept_out"] == []
    note(api, "a")  # taken back since: only other keys of the template are ours
    assert inject(api, tmp_path, state="restored").failed is None


def test_what_was_taken_back_already_is_a_success(api: Api, tmp_path: Path) -> None:
    before = api.templates()
    inject(api, tmp_path)
    note(api, *ALL)
    assert inject(api, tmp_path, state="restored").failed is None and api.templates() == before
    again = inject(api, tmp_path, state="restored")
    assert again.failed is None and not again.warnings


def test_labels_that_somebody_else_set_are_told_and_stay(api: Api, tmp_path: Path) -> None:
    api.items["Deployment", "shop", "a"]["spec"]["template"]["metadata"]["labels"][LABEL] = "true"
    note(api, "a", manager="argocd-controller")
    before = api.templates()
    back = inject(api, tmp_path, state="restored")
    assert back.failed is None and api.templates() == before
    assert back.warnings == [
        f"1 workloads have the target's labels ({LABEL}: true), by somebody else's hand, and stay as they are: shop/Deployment/a"
    ]


def test_what_another_migration_remembers_is_left_to_it(api: Api, tmp_path: Path) -> None:
    inject(api, tmp_path / "one")
    note(api, *ALL)
    other = api.items.pop(MIRROR)
    other["metadata"]["name"] = "servicemesh-migration-first"
    api.add(other)
    back = inject(api, tmp_path / "other", state="restored")
    assert back.failed is None and not back.warnings and api.moved() == ALL
    other["data"] = {"originals.json": "no JSON"}
    assert inject(api, tmp_path / "other", state="restored").failed is not None


def test_only_the_namespaces_that_are_named_are_looked_at(api: Api, tmp_path: Path) -> None:
    inject(api, tmp_path / "one")
    note(api, *ALL)
    del api.items[MIRROR]
    assert inject(api, tmp_path / "other", state="restored", namespaces=["bank"]).failed is None
    assert inject(api, tmp_path / "other", state="restored", namespaces=["bank", "a", "b", "shop"]).failed is not None


def test_who_may_not_look_is_told_so(api: Api, tmp_path: Path) -> None:
    def forbidden(what: str) -> None:
        if what == "list StatefulSet":
            raise MigrationError("The API server of source answered GET with 403", details={"status": 403})

    api.on_call = forbidden
    back = inject(api, tmp_path, state="restored")
    assert back.failed is None and "whether there are any could not be seen" in back.warnings[0]
    assert "answered GET with 403" in back.warnings[0]
