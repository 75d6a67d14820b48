# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""clb_weight beside a staircase of the same migration."""

from __future__ import annotations

import dataclasses
import typing as t
from pathlib import Path

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic import _weight_module
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._control import only_one
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._mover import GatewayState
from tests.unit.plugins import clb_world as world

GATEWAY = {"namespace": "istio-system", "source_service": "gw", "target_gateway": "gw-asm", "load_balancer_id": None}


class Empty:
    """A cluster without a journal."""

    def __init__(self, *_args: t.Any) -> None:
        pass

    def guard(self) -> None:
        pass

    def get(self, *_args: t.Any) -> None:
        return None


class Settled:
    """A mover whose gateway shows already what is asked for."""

    asked = 0

    def __init__(self, *_args: t.Any) -> None:
        pass

    def observe(self) -> list[GatewayState]:
        Settled.asked += 1
        return [world.moving(100, 0)]

    def plan(self, _share: t.Any, _states: t.Any) -> Plan:
        return Plan()


def test_a_running_staircase_refuses_a_share_that_it_would_take_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, stand_in in (("Cluster", Empty), ("Clb", Empty), ("Mover", Settled), ("_LOCK_WAIT", 0.0)):
        monkeypatch.setattr(_weight_module, name, stand_in)
    params = {"source": {}, "target": {}, "alibaba": {}, "migration": "shop", "state_dir": str(tmp_path), "share": 0}
    params.update(gateways=[GATEWAY], wait_timeout=1.0)
    lock = tmp_path / "shop" / "shift.lock"
    with only_one(lock, wait=0):
        with pytest.raises(MigrationError, match=r"Another run is moving the traffic.*write abort \(or rollback\)"):
            _weight_module.clb_weight(params, False)
        assert Settled.asked == 0
        assert _weight_module.clb_weight(params, True).failed is None
    # Several of these may run at once: each has gateways of its own.
    with only_one(lock, wait=0, among=True):
        assert _weight_module.clb_weight(params, False).failed is None
        with pytest.raises(MigrationError, match="Another run"), only_one(lock, wait=0):
            pass


def test_what_is_observed_is_the_listener_farthest_from_the_plan() -> None:
    """A gateway of which one port has not followed is not shown by the port that has."""
    state = world.moving(0, 100)
    groups = (state.view.groups[0], world.moving(100, 100).view.groups[1])
    half = dataclasses.replace(state, view=dataclasses.replace(state.view, groups=groups))
    assert half.shares == {80: 100.0, 443: 50.0}
    shown = _weight_module._shown(half, 100)
    assert (shown["observed"], shown["planned"]) == (50.0, 100.0)
    assert _weight_module._shown(half, 50)["observed"] == 100.0
