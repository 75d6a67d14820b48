# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An archive is whole or refused, with the member's name; what is sealed is opened by other tools too."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import random
import shutil
import stat
import struct
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyrage
import pytest
import zstandard
from ansible.parsing.vault import VaultLib, VaultSecret

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _archive, _tar
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._archive import Reader, Writer
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._entry import Entry
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._seal import Age, SealError, Vault
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._tar import ArchiveError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError

Object = dict[str, Any]


def thing(name: str, kind: str = "VirtualService", namespace: str = "shop", **more: Any) -> Object:
    meta = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": meta, "spec": {"hosts": [name]}, **more}


def secret(name: str = "tls") -> Object:
    meta = {"name": name, "namespace": "shop"}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": {"key": "cGxhbnRlZA=="}}


OBJECTS = [
    thing("a"),
    thing("网关"),
    thing("n" * 253),
    thing("cluster-wide", "GatewayClass", ""),
    thing("b", spec={"x": "y\n" * 99}),
]


def write(path: Path, objects: Sequence[Object] = tuple(OBJECTS)) -> Object:
    with Writer(path) as writer:
        for obj in objects:
            writer.add(obj, uid="u-" + obj["metadata"]["name"][:8], resource_version="7")
        return writer.close({"created": "2026-01-01T00:00:00Z"})


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "b.tar.zst"
    write(path)
    return path


# --- round trip ---


def test_everything_comes_back(whole: Path) -> None:
    with Reader(whole) as reader:
        assert [obj for _entry, obj in reader.objects()] == OBJECTS
        assert reader.manifest["counts"] == {"networking.istio.io/VirtualService": 4, "networking.istio.io/GatewayClass": 1}
        assert [entry.name for entry in reader.entries()] == [obj["metadata"]["name"] for obj in OBJECTS]
        assert {entry.resource_version for entry in reader.entries()} == {"7"}


def test_the_same_objects_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("x", "y"):
        write(tmp_path / name)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_only_the_owner_can_read_it_and_nothing_else_is_left(whole: Path) -> None:
    assert stat.S_IMODE(whole.stat().st_mode) == 0o600
    assert list(whole.parent.iterdir()) == [whole]


@pytest.mark.skipif(not shutil.which("zstd"), reason="needs zstd")
def test_a_line_of_the_index_is_plain_json() -> None:
    odd = Entry("a.example.com/v1", "Kind", 'q"\\\u00e9\u7f51', "0" * 64, 12, "ns", "u", "7", "vault", 3)
    for entry in (odd, dataclasses.replace(odd, namespace="", uid="", resource_version="", sealed="", pack=0)):
        fields = {key: value for key, value in dataclasses.asdict(entry).items() if value not in ("", 0)}
        assert entry.line() == json.dumps(fields, sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\n"


def test_other_tools_read_it(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    tar = subprocess.run(["zstd", "-dcq", str(whole)], capture_output=True, check=True).stdout
    subprocess.run(["tar", "-xf", "-", "-C", str(out)], input=tar, check=True)
    text = (out / "objects/networking.istio.io/VirtualService/shop/a.yaml").read_text()
    assert text.startswith("apiVersion: networking.istio.io/v1\nkind: VirtualService\n")
    assert (out / "objects/networking.istio.io/GatewayClass/_cluster/cluster-wide.yaml").is_file()
    assert json.loads((out / "manifest.json").read_text())["objects"] == len(OBJECTS)
    assert all(len(path.name.encode()) <= 255 for path in out.rglob("*"))


def test_the_header_of_a_member_is_what_tar_writes() -> None:
    for name in ("a", "objects/x/y.yaml", "o" * 100, "objects/networking.istio.io/VirtualService/ns/" + "n" * 90 + ".yaml"):
        info = tarfile.TarInfo(name)
        info.size, info.mode = 4711, 0o600
        assert _tar.header(name, 4711) == info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")


def test_a_size_below_nothing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd"
    path.write_bytes(zstandard.compress(_tar.header("a", -10) + bytes(4096)))
    with path.open("rb") as file, pytest.raises(ArchiveError, match="not one that this collection writes"):
        list(_tar.TarReader(file, str(path), 1 << 20))


def test_memory_does_not_hold_the_objects(tmp_path: Path) -> None:
    import tracemalloc

    def peak(count: int) -> int:
        tracemalloc.start()
        with Writer(tmp_path / str(count)) as writer:
            for i in range(count):
                writer.add(thing(f"n{i}", spec={"text": os.urandom(20000).hex()}))
            writer.close({})
        for _entry, _obj in Reader(tmp_path / str(count)).objects():
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    # 8 MB of objects more may cost no more than their lines in the index
    assert peak(220) - peak(20) < 2_500_000


# --- half-written ---


def test_nothing_is_left_of_a_backup_that_broke_off(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Writer(tmp_path / "b") as writer:
        writer.add(thing("a"))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_half_file_of_a_dead_writer_is_swept_and_one_of_a_living_stays(tmp_path: Path) -> None:
    dead = tmp_path / ".old.tar.zst.1.half"
    dead.write_bytes(b"x")
    living = Writer(tmp_path / "one")
    write(tmp_path / "two")
    assert not dead.exists()
    assert [path.name for path in tmp_path.glob(".*.half")] == [f".one.{os.getpid()}.half"]
    living.abort()


def test_an_object_twice_is_refused(tmp_path: Path) -> None:
    with Writer(tmp_path / "b") as writer:
        writer.add(thing("a"))
        with pytest.raises(MigrationError, match="there twice"):
            writer.add(thing("a"))


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "a\0b", ""])
def test_a_name_that_is_a_path_is_never_written(tmp_path: Path, name: str) -> None:
    with Writer(tmp_path / "b") as writer, pytest.raises(MigrationError, match="cannot be saved"):
        writer.add(thing(name))


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match="No space left"), Writer(None) as writer:
        writer._tar._file._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
        for i in range(2000):
            writer.add(thing(f"n{i}", spec={"text": os.urandom(300).hex()}))
        writer.close({})


# --- damaged ---


def test_an_archive_cut_anywhere_is_refused(whole: Path) -> None:
    data = whole.read_bytes()
    for size in [*range(0, len(data), 61), *range(len(data) - 90, len(data))]:
        whole.write_bytes(data[:size])
        with pytest.raises(ArchiveError) as found:
            Reader(whole)
        assert str(whole) in found.value.where


def test_an_archive_with_any_changed_byte_is_refused(whole: Path) -> None:
    data = bytearray(whole.read_bytes())
    random.seed(1)
    for at in range(0, len(data), 13):
        bit = 1 << random.randrange(8)
        data[at] ^= bit
        whole.write_bytes(data)
        with pytest.raises(ArchiveError):
            Reader(whole)
        data[at] ^= bit


def test_something_behind_the_archive_is_refused(whole: Path) -> None:
    data = whole.read_bytes()
    for more in (b"\0", b"x" * 300, data):
        whole.write_bytes(data + more)
        with pytest.raises(ArchiveError):
            Reader(whole)


def test_a_folder_or_nothing_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ArchiveError, match="cannot be read"):
            Reader(path)


def repack(whole: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> None:
    """An archive with a right trailer made by somebody who knows the format."""
    plain = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(whole.read_bytes())).read()
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        members = [(info, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    change(members)
    out = io.BytesIO()
    for info, data in members:
        info.size = len(data) if info.isreg() else 0
        info.mode, info.pax_headers = 0o600, {}
        out.write(_tar.header(info.name, info.size) if info.isreg() else info.tobuf(tarfile.PAX_FORMAT))
        out.write(data + bytes(-len(data) % 512) if info.isreg() else b"")
    packed = zstandard.ZstdCompressor().compress(out.getvalue() + bytes(1024))
    trailer = b"sha256:" + hashlib.sha256(packed).hexdigest().encode()
    whole.write_bytes(packed + struct.pack("<II", 0x184D2A5D, len(trailer)) + trailer)


def named(name: str, data: bytes = b"{}\n", kind: bytes = tarfile.REGTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd" if kind != tarfile.REGTYPE else ""
    return info, data


def test_repacking_without_a_change_is_accepted(whole: Path) -> None:
    repack(whole, lambda members: None)
    assert len(list(Reader(whole).objects())) == len(OBJECTS)


Members = list[tuple[tarfile.TarInfo, bytes]]


@pytest.mark.parametrize(
    ("change", "member", "why"),
    [
        (lambda m: m.insert(2, named("objects/../../etc/cron.d/x")), "objects/../../etc/cron.d/x", "leads out"),
        (lambda m: m.insert(2, named("../x")), "../x", "leads out"),
        (lambda m: m.insert(2, named("/etc/passwd")), "/etc/passwd", "absolute"),
        (lambda m: m.insert(2, named("objects/x", b"", tarfile.SYMTYPE)), "objects/x", "symbolic link"),
        (lambda m: m.insert(2, named("objects/x", b"", tarfile.LNKTYPE)), "objects/x", "hard link"),
        (lambda m: m.insert(2, named("objects/x", b"", tarfile.CHRTYPE)), "objects/x", "device"),
        (lambda m: m.insert(2, named("objects/x", b"", tarfile.DIRTYPE)), "objects/x", "folder"),
        (lambda m: m.insert(2, m[1]), "objects/networking.istio.io/VirtualService/shop/a.yaml", "there twice"),
        (lambda m: m.insert(2, named("objects/core/Secret/x/y.yaml")), "objects/core/Secret/x/y.yaml", "does not belong"),
        (lambda m: m.insert(0, named("README.md")), "README.md", "not written by this collection"),
        (lambda m: m.append(named("more")), "more", "does not belong"),
        (lambda m: m.pop(1), "objects/networking.istio.io/VirtualService/shop/网关.yaml", "the index has"),
        (lambda m: m.pop(5), "shop/b.yaml", "in the index and not in the archive"),
        (lambda m: m.__setitem__(1, (m[1][0], m[1][1].replace(b"- a", b"- b"))), "shop/a.yaml", "has not the hash"),
        (lambda m: m.__setitem__(-1, (m[-1][0], m[-1][1].replace(b"2026", b"2025"))), "manifest.json", "has not the hash"),
        (lambda m: m.__setitem__(-2, (m[-2][0], m[-2][1] + b"{}\n")), "index.jsonl", "has not the hash"),
        (lambda m: m.pop(), "index.jsonl", "manifest is missing"),
        (lambda m: m.clear(), "first member", "manifest is missing"),
    ],
)
def test_a_made_up_archive_is_refused_with_the_members_name(
    whole: Path, change: Callable[[Members], None], member: str, why: str
) -> None:
    repack(whole, change)
    with pytest.raises(ArchiveError, match=why) as found:
        Reader(whole)
    assert member in found.value.where


# --- secrets ---


@pytest.fixture(params=["age", "ssh", "vault"])
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Any]:
    """What writes, what reads."""
    if request.param == "vault":
        return Vault("correct horse"), Vault("correct horse")
    if request.param == "ssh":
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "id")], check=True)
        return Age([(tmp_path / "id.pub").read_text()]), Age((), (tmp_path / "id").read_text())
    identity = pyrage.x25519.Identity.generate()
    return Age([str(identity.to_public())]), Age((), f"# created: today\n{identity}\n")


def test_a_secret_is_read_with_the_key_only(tmp_path: Path, keys: tuple[Any, Any]) -> None:
    path = tmp_path / "b"
    with Writer(path, keys[0]) as writer:
        writer.add(secret(), secret=True, uid="u", resource_version="1")
        writer.add(thing("a"))
        writer.close({})
    plain = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(path.read_bytes())).read()
    assert b"cGxhbnRlZA" not in plain and (b"packs/000001.yaml.vault" if keys[0].slow else b"Secret/shop/tls.yaml.age") in plain
    found = {entry.name: obj for entry, obj in Reader(path, keys[1]).objects()}
    assert found == {"tls": secret(), "a": thing("a")}
    assert {entry.name: obj for entry, obj in Reader(path).objects()} == {"tls": None, "a": thing("a")}


def test_a_secret_is_never_saved_without_a_key(tmp_path: Path) -> None:
    with Writer(tmp_path / "b") as writer, pytest.raises(MigrationError, match="not saved without encryption"):
        writer.add(secret(), secret=True)


def test_a_wrong_key_is_told_and_not_repeated(tmp_path: Path) -> None:
    sealed = Vault("right").seal(b"x")
    with pytest.raises(SealError, match="password is another one"):
        Vault("wrong").open(sealed)
    identity = pyrage.x25519.Identity.generate()
    other = str(pyrage.x25519.Identity.generate())
    with pytest.raises(SealError):
        Age((), other).open(Age([str(identity.to_public())]).seal(b"x"))
    with pytest.raises(MigrationError) as found:
        Age((), "AGE-SECRET-KEY-1BROKEN")
    assert "BROKEN" not in found.value.message


def test_a_sealed_object_put_in_the_place_of_another_is_refused(tmp_path: Path) -> None:
    identity = pyrage.x25519.Identity.generate()
    for key in (Vault("k"), Age([str(identity.to_public())], str(identity))):
        path = tmp_path / key.name
        with Writer(path, key) as writer:
            writer.add(secret("one"), secret=True)
            writer.add(secret("two"), secret=True)
            writer.close({})
        reader = Reader(path, key)
        (first, _one), (_second, _two) = list(reader.objects())
        texts = [text for entries, data in reader._members() for text in reader._texts(entries, data)]
        with pytest.raises(ArchiveError, match="holds another object"):
            reader._object(first, texts[1] or b"")


def test_an_index_that_would_fill_the_disk_is_refused_before_it_does(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Any] = []
    real = _archive.tempfile.TemporaryFile

    def remembered(*args: Any, **more: Any) -> Any:
        written.append(real(*args, **more))
        return written[-1]

    monkeypatch.setattr(_archive.tempfile, "TemporaryFile", remembered)
    for bomb in (b"{}\n" * (8 << 20), b"x" * (8 << 20)):
        repack(whole, lambda m, bomb=bomb: m.__setitem__(-2, (m[-2][0], bomb)))  # type: ignore[misc]
        assert whole.stat().st_size < 20_000
        with pytest.raises(ArchiveError, match="larger than an index"):
            Reader(whole)
        assert written[-1].tell() < 4 << 20


def test_half_files_of_others_are_not_swept(tmp_path: Path) -> None:
    for name in (".mine.half", ".half", ".a.b.half"):
        (tmp_path / name).write_text("somebody's")
    write(tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.b.half", ".half", ".mine.half", "b"]


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 4000])
def test_ansible_opens_what_the_vault_seals_and_the_other_way(size: int) -> None:
    theirs = VaultLib([("default", VaultSecret(b"pw"))])
    data = os.urandom(size // 2).hex().encode()
    assert theirs.decrypt(Vault("pw").seal(data)) == data
    if data:
        assert Vault("pw").open(theirs.encrypt(data)) == data


@pytest.mark.skipif(not shutil.which("age"), reason="needs age")
def test_age_opens_what_is_sealed(tmp_path: Path) -> None:
    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "key").write_text(f"{identity}\n")
    sealed = Age([str(identity.to_public())]).seal(b"planted")
    done = subprocess.run(["age", "-d", "-i", str(tmp_path / "key")], input=sealed, capture_output=True, check=True)
    assert done.stdout == b"planted"


def test_the_format_is_named(whole: Path) -> None:
    assert _archive.read_manifest(whole)["format"] == "servicemesh.migration/backup"
