# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is deleted is what was judged: an object that somebody changes in between stays. The rest needs an API server."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind, kind_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh import _config_run
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._config import ConfigPlan, Item
from ansible_collections.servicemesh.migration.plugins.module_utils._vm import _service_plan, _service_run

KIND = kind_of("networking.istio.io/v1", "VirtualService")
OBJECT: dict[str, Any] = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "VirtualService",
    "metadata": {"name": "a", "namespace": "shop", "uid": "u", "resourceVersion": "5"},
    "spec": {"hosts": ["a"]},
}


class Changed:
    """An API server where the object has another version by now."""

    name = "target"

    def delete(self, _kind: Kind, _name: str, _namespace: str = "", *, uid: str = "", version: str = "") -> None:
        assert uid == "u"
        if version:
            raise MigrationError("No", why="Precondition failed", details={"status": 409})
        pytest.fail("it was deleted as it is now")


def test_a_copy_that_somebody_changed_since_it_was_judged_stays(tmp_path: Path) -> None:
    made = ConfigPlan([Item("VirtualService", "shop", "a", "delete", "this migration made it", present=OBJECT)])
    with pytest.raises(MigrationError, match="could not be written") as found:
        _config_run.apply(Changed(), made, Journal(str(tmp_path), "m"), {"VirtualService": KIND}, "m")  # type: ignore[arg-type]
    assert found.value.done == [] and found.value.not_done == ["delete target/shop/VirtualService/a"]


def test_a_route_of_a_vm_that_somebody_changed_is_looked_at_again(tmp_path: Path) -> None:
    """A conflict: then the module observes and decides anew."""
    world: Any = types.SimpleNamespace(of=lambda _kind: Changed(), journal=Journal(str(tmp_path), "m"))
    observed: Any = types.SimpleNamespace(kinds={"VirtualService": KIND})
    place = ("shop/web", "routes", "networking.istio.io", "VirtualService", "shop", "a")
    item = _service_plan.Item(*place, "delete", "not wished any more", present=OBJECT)
    with pytest.raises(MigrationError) as found:
        _service_run._write(world, observed, False, item)
    assert found.value.details["status"] == 409
