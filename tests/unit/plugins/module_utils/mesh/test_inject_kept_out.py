# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""sidecar_inject on its way back from a target that takes every pod, or where the source injects none any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.plugins.module_utils.mesh.inject_world import LABEL, Api, inject

NAMES = {"a", "b", "data"}


@pytest.fixture
def api() -> Api:
    made = Api()
    made.workload("a")
    made.workload("b", template={"istio.io/rev": "default"})
    made.workload("data", "StatefulSet", replicas=3)
    return made


def test_from_a_target_that_takes_all_pods_it_goes_back_in_two_steps(api: Api, tmp_path: Path) -> None:
    before = api.templates()
    inject(api, tmp_path)
    api.takes_all = True
    out = inject(api, tmp_path, state="restored")
    assert out.failed is None and api.moved() == set() and len(out.result["kept_out"]) == len(NAMES)
    assert "when the cluster has left the target" in out.warnings[0]
    again = inject(api, tmp_path, state="restored")
    assert again.failed is None and not again.plan.changed and again.result["kept_out"] == out.result["kept_out"]
    api.takes_all = False
    back = inject(api, tmp_path / "without the disk", state="restored")
    assert back.failed is None and api.templates() == before and api.moved() == set()
    assert back.result["kept_out"] == [] and min(api.lowest.values()) >= 1
    assert not inject(api, tmp_path / "without the disk", state="restored").plan.changed


def test_a_kept_out_workload_loses_a_label_that_it_never_had(api: Api, tmp_path: Path) -> None:
    before = api.templates()
    inject(api, tmp_path, labels={LABEL: "true"})
    api.takes_all = True
    options = {"state": "restored", "opt_out": {LABEL: "false", "another": "no"}}
    assert inject(api, tmp_path, **options).failed is None
    api.takes_all = False
    assert inject(api, tmp_path, **options).failed is None and api.templates() == before


@pytest.mark.parametrize("why", ["the target's", "no sidecar at all"])
def test_nothing_goes_back_when_it_would_not_get_its_old_sidecar(api: Api, tmp_path: Path, why: str) -> None:
    inject(api, tmp_path)
    moved, templates = api.moved(), api.templates()
    api.takes_all, api.source_injects = why == "the target's", why == "the target's"
    done = inject(api, tmp_path, state="restored", opt_out={})
    assert done.failed is not None and why in done.failed.message and "none of them is restarted" in done.failed.message
    assert (api.moved(), api.templates()) == (moved, templates) and not done.plan.changed


def test_a_way_back_of_nothing_asks_only_for_labels_that_it_may_have_forgotten(api: Api, tmp_path: Path) -> None:
    api.calls.clear()
    done = inject(api, tmp_path, state="restored", target_proxy={"asm_id": "c0asm"})
    assert not done.plan.changed and done.failed is None
    lists = {"list Deployment": 1, "list StatefulSet": 1, "list DaemonSet": 1}
    assert {what: number for what, number in api.calls.items() if what != "get ConfigMap"} == lists
