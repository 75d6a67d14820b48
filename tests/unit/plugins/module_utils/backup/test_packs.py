# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects that go into one vault together: each comes back under its name, and what was changed is refused without the key."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyrage
import pytest
import yaml
import zstandard
from ansible.parsing.vault import VaultLib, VaultSecret

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _archive
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._archive import Reader, Writer
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._seal import Age, SealError, Vault
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._tar import ArchiveError
from tests.unit.plugins.module_utils.backup.test_archive import Members, Object, named, repack, secret, thing, write


class OldVault(Vault):
    """As archives of version 1 were written: a vault for each object."""

    slow = False


def mixed(count: int = 40) -> list[tuple[Object, bool]]:
    """Objects that are encrypted among others that are not."""
    text = "a\n---\nb: |\n" * 9
    return [(secret(f"s{i}") if i % 3 else thing(f"t{i}", spec={"text": text}), bool(i % 3)) for i in range(count)]


def pack(path: Path, key: Any, objects: list[tuple[Object, bool]]) -> Object:
    with Writer(path, key) as writer:
        for number, (obj, sealed) in enumerate(objects):
            writer.add(obj, secret=sealed, uid=f"u{number}", resource_version="1")
        return writer.close({})


def test_many_objects_go_into_one_vault_and_come_back_each_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_archive, "_PACK", 900)
    calls: list[bytes] = []
    real = Vault._keys

    def counted(self: Vault, salt: bytes) -> tuple[bytes, bytes, bytes]:
        calls.append(salt)
        return real(self, salt)

    monkeypatch.setattr(Vault, "_keys", counted)
    path, key, objects = tmp_path / "b", Vault("k"), mixed()
    manifest = pack(path, key, objects)
    sealed = sum(secret for _obj, secret in objects)
    assert 2 < len(calls) == len(set(calls)) < sealed / 3, "each pack has a salt of its own"
    assert (manifest["version"], manifest["objects"], manifest["sealed"]) == (2, len(objects), {"vault": sealed})
    reader = Reader(path, key)
    assert sorted((entry.name, obj) for entry, obj in reader.objects()) == sorted(
        (obj["metadata"]["name"], obj) for obj, _secret in objects
    )
    chosen = {"s1", "s2", "t3"}
    assert {entry.name for entry, obj in reader.objects(lambda entry: entry.name in chosen) if obj} == chosen
    assert list(reader.entries()) == [entry for entry, _obj in reader.objects()]
    assert reader.opens() and not Reader(path, Vault("another")).opens() and not Reader(path).opens()
    with pytest.raises(SealError, match=r"password is another one") as found:
        list(Reader(path, Vault("another")).objects())
    assert "packs/000001.yaml.vault" in found.value.where


def test_ansible_opens_a_pack(tmp_path: Path) -> None:
    path = tmp_path / "b"
    pack(path, Vault("pw"), mixed(9))
    plain = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(path.read_bytes())).read()
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        member = tar.extractfile("packs/000001.yaml.vault")
        assert member is not None
        text = VaultLib([("default", VaultSecret(b"pw"))]).decrypt(member.read())
    assert [obj["metadata"]["name"] for obj in yaml.safe_load_all(text)] == ["s1", "s2", "s4", "s5", "s7", "s8"]


def test_an_archive_with_a_vault_for_each_object_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "b"
    assert pack(path, OldVault("k"), mixed())["version"] == 1
    reader = Reader(path, Vault("k"))
    assert [obj for _entry, obj in reader.objects()] == [obj for obj, _secret in mixed()]
    assert {entry.path.rpartition(".")[2] for entry in reader.entries() if entry.sealed} == {"vault"} and reader.opens()


def test_without_a_vault_an_archive_is_one_that_older_readers_take(tmp_path: Path) -> None:
    assert write(tmp_path / "b")["version"] == 1
    identity = pyrage.x25519.Identity.generate()
    assert pack(tmp_path / "c", Age([str(identity.to_public())]), mixed(3))["version"] == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda m, i: m.__setitem__(i, (m[i][0], m[i + 1][1])), "has not the hash"),
        (lambda m, i: m.insert(i, m[i]), "there twice|the index has"),
        (lambda m, i: m.pop(i), "the index has"),
        (lambda m, i: m.insert(i, named("packs/000009.yaml.vault")), "does not belong there"),
    ],
)
def test_a_pack_that_was_changed_is_refused_without_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Members, int], None], why: str
) -> None:
    monkeypatch.setattr(_archive, "_PACK", 900)
    path = tmp_path / "b"
    pack(path, Vault("k"), mixed())

    def at_first_pack(members: Members) -> None:
        change(members, next(i for i, (info, _data) in enumerate(members) if info.name.startswith("packs/")))

    repack(path, at_first_pack)
    with pytest.raises(ArchiveError, match=why):
        Reader(path)


def test_a_pack_that_holds_other_objects_than_the_index_says_is_refused(tmp_path: Path) -> None:
    path, key = tmp_path / "b", Vault("k")
    pack(path, key, mixed(9))
    reader = Reader(path, key)
    ((entries, data),) = [(entries, data) for entries, data in reader._members() if entries[0].pack]
    with pytest.raises(ArchiveError, match="6 objects, and the index has 5"):
        reader._texts(entries[:-1], data)


def test_packs_in_an_archive_of_version_1_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "b"
    pack(path, Vault("k"), mixed(3))
    repack(path, lambda m: m.__setitem__(0, (m[0][0], m[0][1].replace(b'"version": 2', b'"version": 1'))))
    with pytest.raises(ArchiveError, match="does not belong there"):
        Reader(path)
