# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When an archive that is there already is taken for the backup of today; and how a check reads."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyrage
import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _collect
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._archive import Writer
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._backup_run import (
    _encryption,
    _warnings,
    same_as_before,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._scope import Part
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._seal import Age, Seal, Vault
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind, kind_of

FIRST, SECOND = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()


def save(folder: Path, seal: Seal | None) -> str:
    """An archive as mesh_backup names it; gives the hash of its content."""
    obj: dict[str, Any] = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tls", "namespace": "shop"}, "data": {}}
    with Writer(folder / "half.tar.zst", seal) as writer:
        writer.add(obj, uid="u", resource_version="1", secret=seal is not None)
        digest = writer.content_sha256
        writer.path = folder / f"mesh-20260101T000000Z-{digest[:12]}.tar.zst"
        writer.close({"encryption": _encryption(seal)})
    return digest


def test_a_password_that_was_changed_makes_a_new_archive(tmp_path: Path) -> None:
    """Else the way back could only be opened with the old one."""
    digest = save(tmp_path, Vault("old"))
    assert found(tmp_path, digest, Vault("old")) is not None
    assert found(tmp_path, digest, Vault("new")) is None


def found(folder: Path, digest: str, seal: Seal | None) -> Path | None:
    return same_as_before(folder, "mesh", digest, {"encryption": _encryption(seal)}, seal)


@pytest.mark.parametrize(
    "of",
    [
        lambda key: Age([str(key.to_public())]),
        lambda key: Age((), str(key)),  # who reads writes for himself
        lambda key: Age([str(key.to_public())], str(key)),
    ],
)
def test_another_recipient_makes_a_new_archive(tmp_path: Path, of: Any) -> None:
    digest = save(tmp_path, of(FIRST))
    assert found(tmp_path, digest, of(FIRST)) is not None
    assert found(tmp_path, digest, of(SECOND)) is None
    assert found(tmp_path, digest, None) is None


def test_without_a_key_nothing_is_asked_of_one(tmp_path: Path) -> None:
    digest = save(tmp_path, None)
    assert found(tmp_path, digest, None) is not None
    assert found(tmp_path, digest, Vault("pw")) is None


def test_what_could_not_be_watched_is_a_warning() -> None:
    drift = {"changes": 0, "kinds": [], "unknown": ["networking.istio.io/VirtualService"]}
    (told,) = _warnings({"drift": drift, "left_out": []}, SimpleNamespace(exposed=[]))  # type: ignore[arg-type]
    assert "not known" in told and "VirtualService" in told


class Api:
    """An API server with one VirtualService; it notes at which moment lists are asked for, and in which pieces."""

    host, uid, version = "https://x", staticmethod(lambda: "u"), staticmethod(lambda: "v1")

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, int]] = []

    def page(self, kind: Kind, _namespace: str = "", *, limit: int, token: str = "", at: str = "") -> dict[str, Any]:
        self.asked.append((kind.kind, at, limit))
        obj = {"metadata": {"name": "a", "namespace": "shop", "uid": "u", "resourceVersion": "3"}, "spec": {"hosts": ["a"]}}
        return {"metadata": {"resourceVersion": "9"}, "items": [obj] if kind.kind == "VirtualService" else []}

    def part(self, kind: Kind, namespace: str = "", **query: Any) -> tuple[dict[str, Any], Any]:
        page = self.page(kind, namespace, **query)
        return page["metadata"], iter(page["items"])

    def where(self, kind: Kind) -> str:
        return f"source/{kind.kind}"

    def list_all(self, _kind: Kind) -> list[dict[str, Any]]:
        return []


@pytest.mark.parametrize("check", [True, False])
def test_a_backup_is_of_one_moment_and_a_check_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: bool) -> None:
    """A check keeps nothing, and the past costs an API server ten times as much as the present."""
    parts = [Part(kind_of("networking.istio.io/v1", "VirtualService")), Part(kind_of("v1", "Secret"), "referred")]
    monkeypatch.setattr(_collect.Scope, "parts", lambda _self, _cluster: parts)
    watched: list[str] = []
    event = {"type": "MODIFIED", "object": {"metadata": {"name": "a", "namespace": "shop"}}}

    def watch(_cluster: object, kind: Kind, version: str) -> SimpleNamespace:
        watched.append(kind.kind)
        return SimpleNamespace(version=version, events=lambda: [event], close=lambda: None)

    monkeypatch.setattr(_collect, "Watch", watch)
    scope, api = _collect.Scope([], [], [], [], "none", "none", "none", "none", "none"), Api()
    with Writer(None if check else tmp_path / "half.tar.zst", None) as writer:
        collector = _collect.Collector(api, scope, writer, "none", check)  # type: ignore[arg-type]
        facts = collector.run()
    moment, many = ("", 5000) if check else ("9", 500)
    assert sorted(one for one in api.asked if one[0] != "Namespace") == [
        ("Secret", moment, 500),
        ("VirtualService", moment, many),
    ]
    assert facts["lists"][0]["saved"] == 1 and facts["lists"][0]["resource_version"] == "9"
    # What a backup holds may have changed meanwhile; a check holds nothing.
    assert (watched, facts["drift"]["changes"]) == (([], 0) if check else (["VirtualService"], 1))


class Paged(Api):
    """5 VirtualServices in pages of 2, and what the API server says of them with the first page."""

    def __init__(self, says: int) -> None:
        super().__init__()
        self.says = says

    def page(self, kind: Kind, _namespace: str = "", *, limit: int, token: str = "", at: str = "") -> dict[str, Any]:
        if kind.kind != "VirtualService":
            return super().page(kind, limit=limit, token=token, at=at)
        begin = int(token or 0)
        items = [
            {"metadata": {"name": f"vs-{i}", "namespace": "shop", "uid": f"{i}", "resourceVersion": "3"}, "spec": {}}
            for i in range(begin, min(begin + 2, 5))
        ]
        more = {"continue": str(begin + 2), "remainingItemCount": self.says - begin - 2} if begin + 2 < 5 else {}
        return {"metadata": {"resourceVersion": "9", **more}, "items": items}


def collect(monkeypatch: pytest.MonkeyPatch, api: Api, *kinds: Kind, watched: Any = lambda _kind: None) -> dict[str, Any]:
    monkeypatch.setattr(_collect.Scope, "parts", lambda _self, _cluster: [Part(kind) for kind in kinds])

    def watch(_cluster: object, kind: Kind, _version: str) -> SimpleNamespace:
        watched(kind)
        return SimpleNamespace(events=list, close=lambda: None)

    monkeypatch.setattr(_collect, "Watch", watch)
    scope = _collect.Scope([], [], [], [], "none", "none", "none", "none", "none")
    with Writer(None, None) as writer:
        return _collect.Collector(api, scope, writer, "none").run()  # type: ignore[arg-type]


def test_pages_are_counted_against_what_the_api_server_says(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = kind_of("networking.istio.io/v1", "VirtualService")
    assert collect(monkeypatch, Paged(says=5), kind)["lists"][0]["saved"] == 5
    with pytest.raises(MigrationError, match="not complete") as told:
        collect(monkeypatch, Paged(says=6), kind)
    assert "5 objects were read, the API server says that it has 6" in told.value.why and told.value.transient


def test_a_kind_is_watched_before_the_kinds_in_front_of_it_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events need a moment to come: that moment is not added to the end of the backup."""
    first, second = kind_of("networking.istio.io/v1", "VirtualService"), kind_of("networking.istio.io/v1", "Gateway")
    watched = threading.Event()
    monkeypatch.setattr(Writer, "add", lambda *_words, **_more: watched.wait(20) or pytest.fail("not watched yet"))

    class Two(Api):
        def part(self, kind: Kind, namespace: str = "", **query: Any) -> tuple[dict[str, Any], Any]:
            meta, _items = super().part(kind, namespace, **query)
            obj = {"metadata": {"name": "a", "namespace": "shop"}, "spec": {}}
            return meta, iter([obj] if kind in (first, second) else [])

    facts = collect(monkeypatch, Two(), first, second, watched=lambda kind: watched.set() if kind == second else None)
    assert [entry["saved"] for entry in facts["lists"][:2]] == [1, 1]
