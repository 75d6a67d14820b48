# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""sidecar_inject restarts workloads so that their proxies take the trust of two meshes, before any of them is moved."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic import _inject_run
from tests.unit.plugins.module_utils.mesh.inject_world import Api, Killed, inject, shop


@pytest.fixture
def api() -> Api:
    return shop()


ALL = {"a", "b", "c", "one", "data", "node"}


def test_a_restart_gives_new_proxies_and_leaves_the_move_a_way_back(api: Api, tmp_path: Path) -> None:
    early = inject(api, tmp_path, state="restarted")
    assert early.failed is not None and "SetupIstioForMigrate" in early.failed.message
    assert api.old_trust() == ALL and not api.calls["patch Deployment"]
    api.prepared = True
    assert {change.target for change in inject(api, tmp_path, state="restarted", check=True).plan.changes} == {
        change.target for change in inject(api, tmp_path, check=True).plan.changes
    }
    done = inject(api, tmp_path, state="restarted")
    assert done.failed is None, done.failed.message
    assert api.old_trust() == api.moved() == set() and min(api.lowest.values()) >= 1
    assert not inject(api, tmp_path, state="restarted").plan.changed
    before = api.templates()
    assert inject(api, tmp_path).failed is None and api.moved() == ALL
    assert not inject(api, tmp_path, state="restarted").plan.changed  # those of ASM need none
    assert inject(api, tmp_path, state="restored").failed is None
    assert api.templates() == before and api.moved() == set()


def test_a_restart_that_was_killed_goes_on_with_the_same_mark(api: Api, tmp_path: Path) -> None:
    api.prepared, count = True, itertools.count()

    def kill(what: str) -> None:
        if what.startswith("patch") and "ConfigMap" not in what and next(count) == 2:
            raise Killed

    api.on_call = kill
    with pytest.raises(Killed):
        inject(api, tmp_path, state="restarted", waves=["100%"])
    api.on_call = lambda _what: None
    assert inject(api, tmp_path, state="restarted", waves=["100%"]).failed is None
    items = [item for key, item in api.items.items() if key[0] in ("Deployment", "StatefulSet", "DaemonSet")]
    marks = {item["spec"]["template"]["metadata"]["annotations"][_inject_run.RESTARTED] for item in items}
    assert len(marks) == 1 and api.old_trust() == set()
    # When somebody needs another one, it has a mark of its own.
    for key, item in api.items.items():
        if key[0] == "Pod":
            item["spec"]["containers"][0]["env"] = []
    assert inject(api, tmp_path, state="restarted").failed is None and api.old_trust() == set()


def test_a_restart_that_fails_takes_nothing_back(api: Api, tmp_path: Path) -> None:
    api.prepared = True
    api.refuse["c"] = MigrationError("The API server answered PATCH with 403", why="no right", details={"status": 403})
    done = inject(api, tmp_path, state="restarted", waves=["100%"], on_fail="zero")
    assert done.failed is not None and done.result["rolled_back"] is None and api.old_trust() == {"c"}
