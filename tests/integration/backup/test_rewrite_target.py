# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mesh_rewrite checks what it makes against the definitions that an API server has (``crds_from_target``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._backup._archive import Reader
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._backup_run import key_spec
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_run import rewrite_spec, run_module
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from tests.integration.backup.world import Object, World, backup, make, restore, service, vs

RULES = {"rules": [{"kind": "namespace", "from": "shop", "to": "store"}]}


def rewrite(world: World, **options: Any) -> Outcome:
    spec = {name: option.get("default") for name, option in {**rewrite_spec(), **key_spec()}.items()}
    given: Object = {**spec, "rules": RULES, "crds_from_target": True, "target": world.options, **options}
    return run_module(given, False)


def test_what_fits_the_targets_definitions_is_written_and_restored(source: World, target: World, tmp_path: Path) -> None:
    make(source, vs("a"), service("web"))
    dest = tmp_path / "out.tar.zst"
    done = rewrite(target, archive=backup(source, tmp_path / "in").result["archive"], dest=str(dest))
    assert done.failed is None and done.result["counts"]["invalid"] == 0
    with Reader(dest) as reader:
        assert {entry.namespace for entry in reader.entries() if entry.kind == "VirtualService"} == {"store"}
    put = restore(target, dest, check=True)
    assert put.failed is None and put.result["counts"]["create"] > 1, "the API server agrees"


def test_what_does_not_fit_is_named_with_its_path_and_a_suggestion(target: World, tmp_path: Path) -> None:
    wrong = vs("a", host=["a.example.com"])
    wrong["spec"]["http"][0]["timeout"] = 5
    done = rewrite(target, objects=[wrong, vs("b")], dest=str(tmp_path / "out.tar.zst"))
    assert done.failed is not None and not (tmp_path / "out.tar.zst").exists()
    assert "2 fields do not fit" in done.failed.message
    assert {(item["key"], item["path"]): item["why"] for item in done.result["invalid"]} == {
        ("networking.istio.io/VirtualService/store/a", "spec.host"): "the schema has no such field; did you mean hosts?",
        ("networking.istio.io/VirtualService/store/a", "spec.http[0].timeout"): "string is needed",
    }
    old = {**vs("c"), "apiVersion": "networking.istio.io/v1alpha9"}
    assert "the target serves v1, v1alpha3, v1beta1, not v1alpha9" in str(rewrite(target, objects=[old]).failed)


def test_definitions_that_may_not_be_read_are_an_error(target: World) -> None:
    options = target.limited({"apiGroups": ["networking.istio.io"], "resources": ["*"], "verbs": ["*"]})
    with pytest.raises(MigrationError, match="customresourcedefinitions"):
        rewrite(target, target=options, objects=[vs("a")])
