# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When an archive that is there already is taken for the backup of today."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyrage
import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._backup._archive import Writer
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._backup_run import (
    _encryption,
    _warnings,
    same_as_before,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._seal import Age, Seal, Vault

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
