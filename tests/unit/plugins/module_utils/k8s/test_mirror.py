# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal's ConfigMap: other runs write there too, and none takes another's originals away."""

from __future__ import annotations

import copy
import json
import pathlib
import typing as t
import uuid

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core import _journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s import _mirror
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._mirror import ConfigMapMirror

Object = dict[str, t.Any]


class Api:
    """One ConfigMap with optimistic locking. ``meanwhile`` runs once, between somebody's read and its write."""

    def __init__(self) -> None:
        self.found: Object | None = None
        self.meanwhile: t.Callable[[], None] | None = None
        self.version = 0
        self.writes = 0

    def get(self, *_place: t.Any) -> Object | None:
        found, self.meanwhile, then = copy.deepcopy(self.found), None, self.meanwhile
        if then:
            then()
        return found

    def where(self, *_place: t.Any) -> str:
        return "source/istio-system/servicemesh-migration-shop"

    def create(self, _kind: t.Any, body: Object) -> Object:
        if self.found is not None:
            raise MigrationError("it is there", details={"status": 409})
        return self._store(copy.deepcopy(body))

    def patch(self, _kind: t.Any, _name: str, _namespace: str, body: Object) -> Object:
        assert self.found is not None
        if body["metadata"]["resourceVersion"] != self.found["metadata"]["resourceVersion"]:
            raise MigrationError("somebody was first", details={"status": 409})
        return self._store({**self.found, "data": {**self.found["data"], **body["data"]}})

    def _store(self, obj: Object) -> Object:
        self.version, self.writes = self.version + 1, self.writes + 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        self.found = obj
        return obj

    def originals(self) -> Object:
        assert self.found is not None
        return t.cast(Object, json.loads(self.found["data"]["originals.json"]))


@pytest.mark.parametrize("first", [True, False], ids=["not there yet", "there"])
def test_a_run_between_read_and_write_loses_nothing(tmp_path: pathlib.Path, *, first: bool) -> None:
    api = Api()
    one, two = (
        Journal(str(tmp_path / name), "shop", mirror=ConfigMapMirror(t.cast(t.Any, api), "shop")) for name in ("one", "two")
    )
    if not first:
        one.keep_originals({"before": 0})
    api.meanwhile = lambda: two.keep_originals({"theirs": 2})
    one.keep_originals({"ours": 1})
    assert api.originals() == {"ours": 1, "theirs": 2} | ({} if first else {"before": 0})
    api.meanwhile = lambda: two.forget("theirs")
    one.forget("ours")
    assert api.originals() == ({} if first else {"before": 0})


def test_a_mirror_that_never_stands_still_is_told(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api()
    journal = Journal(str(tmp_path), "shop", mirror=ConfigMapMirror(t.cast(t.Any, api), "shop"))
    journal.keep_originals({"a": 1})

    def first(*_place: t.Any) -> Object:
        raise MigrationError("first", details={"status": 409})

    monkeypatch.setattr(_mirror, "_AGAIN", 3)
    monkeypatch.setattr(api, "patch", first)
    with pytest.raises(MigrationError, match="first"):
        journal.keep_originals({"b": 2})
    monkeypatch.undo()
    journal.sync()
    assert api.originals() == {"a": 1, "b": 2}


def test_newest_lines_take_what_the_originals_leave(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api()
    monkeypatch.setattr(_mirror, "_LIMIT", 2_000)
    journal = Journal(str(tmp_path), "shop", mirror=ConfigMapMirror(t.cast(t.Any, api), "shop"))
    for number in range(50):
        journal.write("note", number=number)
    journal.keep_originals({"a": "x" * 500})
    assert api.found is not None
    data = api.found["data"]
    assert sum(len(text) for text in data.values()) <= 2_000
    tail = [json.loads(line) for line in data["tail.jsonl"].splitlines()]
    assert tail[-1]["event"] == "original" and tail[-2]["number"] == 49 and tail[0].get("number", 0) > 30


def journal_of(api: Api, folder: pathlib.Path) -> Journal:
    return Journal(str(folder), "shop", mirror=ConfigMapMirror(t.cast(t.Any, api), "shop"))


def stored(api: Api) -> int:
    """Bytes of the ConfigMap, which the API server refuses above 1 MiB."""
    assert api.found is not None
    return sum(len(key) + len((text or "").encode()) for key, text in api.found["data"].items())


def test_more_originals_than_a_configmap_holds_are_packed(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five thousand workloads, each with its own UID: two megabytes as text."""
    api = Api()
    many = {
        f"inject/team-{number % 40}/Deployment/service-{number}/{uuid.UUID(int=number * 7919)}": {
            "uid": str(uuid.UUID(int=number * 7919)),
            "wave": "3",
            "edit": [["labels", "istio.io/rev", "default", None], ["labels", "sidecar.asm.aliyun.com/inject", None, "true"]],
            "guard": 0,
            "unavailable": "25%",
        }
        for number in range(5_000)
    }
    monkeypatch.setattr(_journal.os, "fsync", lambda _fd: None)  # five thousand lines, each on its own
    one = journal_of(api, tmp_path / "one")
    one.keep_originals({"first": 1})
    one.keep_originals(many)
    assert stored(api) < 1_000_000
    # A fresh container finds all of them, and adds its own.
    other = journal_of(api, tmp_path / "other")
    assert other.originals() == {"first": 1, **many}
    other.keep_originals({"theirs": 2})
    assert journal_of(api, tmp_path / "third").originals() == {"first": 1, **many, "theirs": 2}
    # When few are left they can be read by people again.
    last = journal_of(api, tmp_path / "fourth")
    last.forget("inject/")
    assert api.originals() == {"first": 1, "theirs": 2} and not (api.found or {})["data"].get("packed")
    assert journal_of(api, tmp_path / "fifth").originals() == {"first": 1, "theirs": 2}


def test_what_does_not_fit_even_so_is_told_before_anything_is_written(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = Api()
    monkeypatch.setattr(_mirror, "_LIMIT", 500)
    monkeypatch.setattr(_mirror, "_MOST", 600)
    journal = journal_of(api, tmp_path)
    with pytest.raises(MigrationError, match=r"does not fit.*under another name"):
        journal.keep_originals({str(number): str(uuid.UUID(int=number * 10**30)) for number in range(50)})
    assert api.writes == 0
