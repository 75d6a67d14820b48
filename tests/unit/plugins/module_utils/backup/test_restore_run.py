# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a restore does with an object that changes while it works, and what it shows of one. The rest needs an API server."""

from __future__ import annotations

import copy
import types
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _info_run
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._entry import Entry
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._info_run import Live
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._restore import Choice, RestorePlan
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._restore_run import Restore
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import kind_of
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._meaning import fingerprint

Object = dict[str, Any]
KIND = kind_of("networking.istio.io/v1", "VirtualService")
KEY = "networking.istio.io/VirtualService/shop/a"


def thing(**spec: Any) -> Object:
    meta = {"name": "a", "namespace": "shop", "uid": "u", "resourceVersion": "1"}
    return {"apiVersion": KIND.api_version, "kind": KIND.kind, "metadata": meta, "spec": {"hosts": ["a"], **spec}}


class World:
    """One object, which somebody changes right before it is deleted."""

    def __init__(self, *changes: Object) -> None:
        self.now: Object | None = thing()
        self.changes = list(changes)

    def get(self, _kind: Any, _name: str, _namespace: str) -> Object | None:
        return copy.deepcopy(self.now)

    def delete(self, _kind: Any, _name: str, _namespace: str, *, uid: str, version: str) -> None:
        if self.now is not None and self.changes:
            change = self.changes.pop(0)
            meta = {**self.now["metadata"], **change.get("metadata", {})}
            meta["resourceVersion"] = str(int(meta["resourceVersion"]) + 1)
            self.now = {**self.now, **change, "metadata": meta}
        if self.now is None:
            return
        if self.now["metadata"]["uid"] != uid or (version and self.now["metadata"]["resourceVersion"] != version):
            raise MigrationError("No", why="Precondition failed", details={"status": 409})
        self.now = None


def restore(world: Any) -> Restore:
    made: Restore = object.__new__(Restore)
    made.cluster, made.plan, made.copies = world, RestorePlan(), {KEY: ("1", fingerprint(thing()))}
    made.live, made.choice = Live({}, {("networking.istio.io", "VirtualService"): KIND}), Choice((), (), {})
    return made


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ([], True),
        ([{"status": {"x": 1}}], True),
        ([{"status": {"x": 1}}, {"status": {"x": 2}}], True),
        ([{"spec": {"hosts": ["b"]}}], False),
        ([{"status": {"x": 1}}, {"spec": {"hosts": ["b"]}}], False),
        ([{"metadata": {"uid": "another"}}], False),
    ],
)
def test_what_changed_since_its_copy_is_not_pruned(changes: list[Object], gone: bool) -> None:
    world = World(*changes)
    _verb, _key, why = restore(world)._delete((KEY, "u"))
    assert (world.now is None) == gone
    assert why == "" if gone else "run again" in why


BEARER = {"http": [{"headers": {"request": {"set": {"x-api": "Bearer planted"}}}}]}


@pytest.mark.parametrize(("archived", "live"), [(thing(), thing(**BEARER)), (thing(**BEARER), thing())])
def test_a_secret_on_either_side_is_not_shown(archived: Object, live: Object) -> None:
    entry = Entry(KIND.api_version, KIND.kind, "a", "0" * 64, 1, "shop")
    world = types.SimpleNamespace(get=lambda *_args: copy.deepcopy(live), uid=lambda: "x")
    lines = restore(world)._differences(entry, archived, KIND)
    assert lines and "planted" not in str(lines)
    reader = types.SimpleNamespace(
        entries=lambda: [entry], objects=lambda: [(entry, copy.deepcopy(archived))], manifest={"scope": {}, "cluster": {}}
    )
    objects = {entry.key: ("u", "2", fingerprint(live))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_info_run, "read_live", lambda *_args: Live(dict(objects), {("networking.istio.io", KIND.kind): KIND}))
        patch.setattr(_info_run, "served_kinds", lambda *_args: {})
        found = _info_run.compare(reader, world)  # type: ignore[arg-type]
    assert found["counts"]["differs"] == 1 and found["items"][0]["differences"] and "planted" not in str(found)


def test_a_difference_without_a_secret_is_shown() -> None:
    entry = Entry(KIND.api_version, KIND.kind, "a", "0" * 64, 1, "shop")
    world = types.SimpleNamespace(get=lambda *_args: thing(hosts=["b"]))
    (line,) = restore(world)._differences(entry, thing(), KIND)
    assert line.startswith("spec.hosts") and '"b"' in line and '"a"' in line
