# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The archive of a backup: what is in it, how it is written whole or not at all, and how it is proven before it is used.

A ``.tar.zst`` file of mode 0600, members in this order::

    format.json                                              what this file is
    objects/<group>/<kind>/<namespace or _cluster>/<name>.yaml   one canonical YAML file an object; ``core`` is the group of v1
    packs/<number>.yaml.vault                                many objects, encrypted together; ``---`` stands between them
    index.jsonl                                              one line an object: Entry
    manifest.json                                            cluster, versions, counts, what was left out, hashes

An encrypted object has the suffix ``.age`` behind ``.yaml``, or is in a pack: a vault needs 6 ms for a key, which is minutes for
thousands of objects. (Version 1 has no packs, but a ``.vault`` for each object.) Other tools open both. The hash of such a member
is the hash of the encrypted bytes, so the archive is proven without the key, and tells nothing about them.
The same objects give the same bytes, but for encrypted parts and the time in the manifest.

::

    with Writer(path) as writer:              # a temporary name; nothing is at ``path`` before close()
        writer.add(obj)
        manifest = writer.close({"cluster": {...}})
    reader = Reader(path, seal)               # proves everything; raises ArchiveError with the member's name
    reader.manifest; reader.entries(); reader.objects()
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import json
import os
import pathlib
import re
import tempfile
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _yaml
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._entry import PACKS, Content, Entry, check_parts
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._seal import Seal, SealError
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._tar import (
    ArchiveError,
    TarReader,
    TarWriter,
    seen_whole,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError

Object = dict[str, t.Any]
FORMAT = "servicemesh.migration/backup"
VERSION, PLAIN = 2, 1  # an archive without packs says that it is of version 1: older readers take it
FIRST, INDEX, MANIFEST = "format.json", "index.jsonl", "manifest.json"
# More than an API server stores in one object, with room for encryption as text.
_MEMBER_LIMIT = 64 << 20
_LINES = 500
_PACK = 512 << 10  # bytes of objects that are encrypted together
_BETWEEN = b"---\n"
# What an index may have: a hostile one would fill the disk on which it is read.
_INDEX_LIMIT, _LINE_LIMIT = 1 << 30, 1 << 20
_HALF = re.compile(r"\..+\.[0-9]+\.half")
_LINE = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode
_short = hash  # 8 bytes that stand for a member's name in this process: nobody knows the key by which Python hashes


def digest_of(document: t.Mapping[str, t.Any]) -> str:
    """SHA-256 of plain data in its one JSON form."""
    return hashlib.sha256(_LINE(document).encode()).hexdigest()


class Writer(contextlib.AbstractContextManager["Writer"]):
    """Writes an archive under a temporary name beside ``path``; ``close`` gives it its name. Memory does not grow with objects.

    :arg path: where the archive is to be; None writes nothing and only counts and hashes (check mode).
    :arg seal: encrypts objects that are added with ``secret=True``.
    """

    def __init__(self, path: pathlib.Path | None, seal: Seal | None = None) -> None:
        self.path, self._seal = path, seal
        self.counts: dict[str, int] = {}
        self.sealed: dict[str, int] = {}
        self.objects = 0
        self.bytes = 0
        self.content = Content()
        self._index_hash = hashlib.sha256()
        self._index_size = 0
        self._lines: list[bytes] = []  # of the index, until there are enough of them to be written
        self._keys: set[int] = set()
        self._pack: list[tuple[Entry, bytes]] = []  # waits for being encrypted
        self._packed = self._packs = 0
        self._version = VERSION if seal is not None and seal.slow else PLAIN
        self._files = contextlib.ExitStack()
        self._half: pathlib.Path | None = None
        self._file: t.BinaryIO
        try:
            if path is None:
                self._file = self._files.enter_context(open(os.devnull, "wb"))  # noqa: SIM115
            else:
                self._file = self._files.enter_context(self._begin(path))
            folder = path.parent if path is not None else None
            self._index = self._files.enter_context(tempfile.TemporaryFile(dir=folder))  # noqa: SIM115
        except OSError as error:
            self.abort()
            raise _cannot_write(path, error) from error
        self._tar = TarWriter(self._file)
        self._tar.add(FIRST, _json({"format": FORMAT, "version": self._version}))

    def _begin(self, path: pathlib.Path) -> t.BinaryIO:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep(path.parent)
        self._half = path.with_name(f".{path.name}.{os.getpid()}.half")
        fd = os.open(self._half, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)  # tells a later run whether the writer of a half file still lives
        return os.fdopen(fd, "w+b")

    def __exit__(self, *_exc: object) -> None:
        self.abort()

    def add(
        self, obj: t.Mapping[str, t.Any], *, uid: str = "", resource_version: str = "", secret: bool = False, text: str = ""
    ) -> Entry:
        """Add one object as it is (``text``: its canonical YAML, when it is known already).

        Raises MigrationError when it cannot be written, or is there already.
        """
        meta = obj["metadata"]
        namespace, name = meta.get("namespace") or "", meta["name"]
        where = f"{namespace}/{obj['kind']}/{name}"
        try:
            check_parts(obj["apiVersion"], obj["kind"], namespace, name)
            data = (text or _yaml.dump(obj)).encode()
        except ValueError as error:
            raise MigrationError("An object cannot be saved", where=where, why=str(error)) from error
        sealed, pack = "", 0
        if secret:
            if self._seal is None:
                raise MigrationError("A secret object is not saved without encryption", where=where, todo="give a key")
            sealed = self._seal.name
            if self._seal.slow:
                pack = self._packs + 1
            else:
                data = self._seal.seal(data)
        sha = "" if pack else hashlib.sha256(data).hexdigest()
        entry = Entry(obj["apiVersion"], obj["kind"], name, sha, len(data), namespace, uid, resource_version, sealed, pack)
        key = _short(entry.path)
        if key in self._keys:
            raise MigrationError(
                "An object is there twice", where=where, why="the API server listed it twice, or two names collide"
            )
        self._keys.add(key)
        try:
            if pack:
                self._hold(entry, data)
            else:
                self._put(data, entry)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        self.content.add(entry)
        kind = f"{entry.group or 'core'}/{entry.kind}"
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if sealed:
            self.sealed[sealed] = self.sealed.get(sealed, 0) + 1
        self.objects += 1
        self.bytes += len(data)
        return entry

    def _put(self, data: bytes, *entries: Entry) -> None:
        """A member, and the lines of what is in it."""
        self._tar.add(entries[0].member, data)
        self._lines += (entry.line().encode() for entry in entries)
        if len(self._lines) >= _LINES:
            self._write_lines()

    def _hold(self, entry: Entry, data: bytes) -> None:
        self._pack.append((entry, data))
        self._packed += len(data)
        if self._packed >= _PACK:
            self._close_pack()

    def _close_pack(self) -> None:
        """Encrypt what waits, as one text."""
        if self._pack and self._seal is not None:
            data = self._seal.seal(_BETWEEN.join(text for _entry, text in self._pack))
            sha = hashlib.sha256(data).hexdigest()
            self._put(data, *(dataclasses.replace(entry, sha256=sha, size=len(data)) for entry, _text in self._pack))
            self._pack, self._packed, self._packs = [], 0, self._packs + 1

    def _write_lines(self) -> None:
        data = b"".join(self._lines)
        self._lines.clear()
        self._index.write(data)
        self._index_hash.update(data)
        self._index_size += len(data)

    def holds(self, api_version: str, kind: str, namespace: str, name: str) -> bool:
        """Whether such an object was added."""
        ways = ("", self._seal.name if self._seal else "")
        return any(_short(Entry(api_version, kind, name, "", 0, namespace, sealed=s).path) in self._keys for s in ways)

    @property
    def content_sha256(self) -> str:
        """The same for the same objects."""
        return self.content.sha256

    def close(self, facts: t.Mapping[str, t.Any]) -> Object:
        """Write index and manifest (``facts`` and the writer's own), sync, rename, prove. Returns the manifest."""
        try:
            self._close_pack()
            self._write_lines()
            manifest: Object = {**facts, "format": FORMAT, "version": self._version}
            manifest.update(objects=self.objects, bytes=self.bytes)
            manifest.update(counts=self.counts, sealed=self.sealed, content_sha256=self.content_sha256)
            manifest["index_sha256"] = self._index_hash.hexdigest()
            manifest["sha256"] = digest_of(manifest)
            self._index.seek(0)
            self._tar.add_file(INDEX, t.cast(t.BinaryIO, self._index), self._index_size)
            self._tar.add(MANIFEST, _json(manifest))
            self._tar.close()
            self._file.flush()
            if self.path is not None and self._half is not None:
                os.fsync(self._file.fileno())
                self._tar.prove(self._file, str(self.path))
                os.replace(self._half, self.path)
                self._half = None
                _sync_folder(self.path.parent)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        finally:
            self.abort()
        return manifest

    def abort(self) -> None:
        """Leave nothing behind, unless the archive has its name already."""
        with contextlib.suppress(OSError):  # what is still in a buffer has no room on a full disk
            self._files.close()
        if self._half is not None:
            self._half.unlink(missing_ok=True)
            self._half = None


class Reader(contextlib.AbstractContextManager["Reader"]):
    """A whole, proven archive. Opening reads it twice (1 s for 50,000 objects), and raises ArchiveError with the member's name.

    :arg seal: opens encrypted objects; without it they are listed, and ``objects`` gives None for them.
    """

    def __init__(self, path: str | pathlib.Path, seal: Seal | None = None) -> None:
        self.path, self._seal = pathlib.Path(path), seal
        self.manifest: Object = {}
        self._proven = False
        self._folders: tuple[str, ...] = ("objects/",)
        try:
            self._file = open(self.path, "rb")  # noqa: SIM115 - closed with the reader
        except OSError as error:
            raise ArchiveError("An archive cannot be read", where=str(path), why=str(error)) from error
        try:
            damaged: ArchiveError | None = None
            try:
                seen_whole(self._file, str(self.path))
            except ArchiveError as error:
                damaged = error  # the members are read all the same: the operator is told which one it is
            self._index = self._find_index()
            for _entry, _data in self._members():
                pass
            if damaged is not None:
                raise damaged
            self._proven = True
        except OSError as error:
            self.close()
            raise ArchiveError("An archive cannot be read", where=str(path), why=str(error)) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._file.close()

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _tar(self, sink: t.Callable[[bytes], t.Any]) -> TarReader:
        return TarReader(self._file, str(self.path), _MEMBER_LIMIT, {INDEX: sink})

    def _find_index(self) -> t.BinaryIO:
        """Manifest and index stand at the end: found first, in a file without a name, so that memory stays flat."""
        index = tempfile.TemporaryFile()  # noqa: SIM115
        sha, before = hashlib.sha256(), ""
        size = line = 0  # of the index so far, and of its line that has no end yet
        room = _LINE_LIMIT  # a line of the index is not much larger than what it is about

        def sink(chunk: bytes) -> None:
            nonlocal size, line
            first, size = chunk.find(b"\n"), size + len(chunk)
            if size > min(room, _INDEX_LIMIT) or line + (first if first >= 0 else len(chunk)) > _LINE_LIMIT:
                raise tar.error(INDEX, "it is larger than an index of these objects can be")
            line = line + len(chunk) if first < 0 else len(chunk) - 1 - chunk.rfind(b"\n")
            index.write(chunk)
            sha.update(chunk)

        tar = self._tar(sink)
        for name, data in tar:
            room += 8 * (1024 + len(data))
            if not before:
                self._check_first(tar, name, data)
            elif name.startswith(self._folders) and before in (FIRST, "objects/"):
                name = "objects/"
            elif name == INDEX and before in (FIRST, "objects/"):
                pass  # it went into the sink
            elif name == MANIFEST and before == INDEX:
                self.manifest = self._check_manifest(tar, data, sha.hexdigest())
            else:
                raise tar.error(name, _stranger(name))
            before = name
        if before != MANIFEST:
            raise tar.error(tar.last, "the manifest is missing behind it")
        return t.cast(t.BinaryIO, index)

    def _check_first(self, tar: TarReader, name: str, data: bytes) -> None:
        if name != FIRST:
            raise tar.error(name, f"{_stranger(name)}; the first member is not {FIRST}: it was not written by this collection")
        if data == _json({"format": FORMAT, "version": VERSION}):
            self._folders = ("objects/", PACKS)
        elif data != _json({"format": FORMAT, "version": PLAIN}):
            raise tar.error(name, f"it is not {FORMAT} version {VERSION} or {PLAIN}")

    def _check_manifest(self, tar: TarReader, data: bytes, index_sha: str) -> Object:
        try:
            manifest = json.loads(data)
            right = manifest.pop("sha256") == digest_of(manifest)
        except (ValueError, KeyError, TypeError, AttributeError):
            right = False
        if right and not {"index_sha256", "content_sha256"} <= set(manifest):
            right = False
        if not right or data != _json({**manifest, "sha256": digest_of(manifest)}):
            raise tar.error(MANIFEST, "it has not the hash that is written in it")
        if manifest["index_sha256"] != index_sha:
            raise tar.error(INDEX, "it has not the hash that is written in the manifest")
        return t.cast(Object, manifest)

    def entries(self) -> t.Iterator[Entry]:
        """All objects, in the order of the archive."""
        offset = 0
        while True:
            self._index.seek(offset)  # several iterations may run in turns
            lines = self._index.readlines(1 << 16)
            if not lines:
                return
            offset += sum(map(len, lines))
            yield from map(self._entry, lines)

    def _entry(self, line: bytes) -> Entry:
        try:
            entry = Entry(**json.loads(line))
            if self._proven:  # the index is a file that only this process has
                return entry
            check_parts(entry.api_version, entry.kind, entry.namespace, entry.name)
            if entry.line().encode() != line or (entry.pack and not entry.sealed):
                raise ValueError("a line is not as it is written")
        except (ValueError, TypeError, AttributeError) as error:
            raise ArchiveError("An archive is refused", where=f"{self.path}: {INDEX}", why=str(error)) from error
        return entry

    def _members(self) -> t.Iterator[tuple[list[Entry], bytes]]:
        """Members against the index, one by one: name, size, hash. Those of a pack are in the order in which they stand in it."""
        tar, groups = self._tar(lambda chunk: None), itertools.groupby(self.entries(), lambda entry: entry.member)
        seen: set[int] = set()
        number = 0
        for name, data in tar:
            if name in (FIRST, INDEX, MANIFEST):
                continue
            member, entries = next(groups, ("", iter(())))
            if _short(name) in seen:
                raise tar.error(name, "it is there twice")
            if member != name:
                raise tar.error(name, f"{_stranger(name)}; the index has {member or 'nothing'} in its place")
            digest, those = hashlib.sha256(data).hexdigest(), list(entries)
            if any(entry.size != len(data) or entry.sha256 != digest for entry in those):
                raise tar.error(name, "it has not the hash that is written in the index")
            seen.add(_short(name))
            for entry in those if those[0].pack else ():
                if _short(entry.path) in seen:
                    raise tar.error(entry.path, "it is there twice")
                seen.add(_short(entry.path))
            number += len(those)
            yield those, data
        missing, _rest = next(groups, ("", iter(())))
        if missing or number != self.manifest.get("objects"):
            raise tar.error(missing or MANIFEST, "it is in the index and not in the archive")

    def objects(self, wanted: t.Callable[[Entry], bool] | None = None) -> t.Iterator[tuple[Entry, Object | None]]:
        """``(entry, object)`` of all (or the wanted) objects; None for an encrypted one when no key was given.

        Raises ArchiveError when a file is not canonical or holds another object than it says, SealError for a wrong key.
        """
        for entries, data in self._members():
            chosen = [wanted is None or wanted(entry) for entry in entries]
            if not any(chosen):
                continue
            for entry, take, text in zip(entries, chosen, self._texts(entries, data)):  # noqa: B905 - not in Python 3.9
                if take:
                    yield entry, None if text is None else self._object(entry, text)

    def opens(self) -> bool:
        """Whether the key is that of the first encrypted object, if there is one."""
        for entries, data in self._members():
            if entries[0].sealed:
                try:
                    return self._texts(entries, data)[0] is not None
                except SealError:
                    return False
        return True

    def _texts(self, entries: list[Entry], data: bytes) -> list[bytes | None]:
        """The texts of a member's objects, opened; None without a key."""
        first = entries[0]
        if not first.sealed:
            return [data]
        if self._seal is None:
            return [None] * len(entries)
        where = f"{self.path}: {first.member}"
        if self._seal.name != first.sealed:
            raise SealError("An encrypted part cannot be opened", where=where, why=f"it needs a key of {first.sealed}")
        try:
            data = self._seal.open(data)
        except SealError as error:
            error.where = where
            raise
        texts = data.split(b"\n" + _BETWEEN) if first.pack else [data]
        if len(texts) != len(entries):
            why = f"it holds {len(texts)} objects, and the index has {len(entries)}"
            raise ArchiveError("An archive is refused", where=where, why=why)
        return [*(text + b"\n" for text in texts[:-1]), texts[-1]]

    def _object(self, entry: Entry, data: bytes) -> Object:
        where = f"{self.path}: {entry.path}"
        try:
            obj = _yaml.parse(data.decode())
            meta = obj["metadata"]
            found = (obj["apiVersion"], obj["kind"], meta.get("namespace") or "", meta["name"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ArchiveError("An archive is refused", where=where, why=f"it is no object: {error}") from error
        if found != (entry.api_version, entry.kind, entry.namespace, entry.name):
            raise ArchiveError("An archive is refused", where=where, why=f"it holds another object: {'/'.join(map(str, found))}")
        return obj


def read_manifest(path: str | pathlib.Path) -> Object:
    """The manifest of a proven archive."""
    with Reader(path) as reader:
        return reader.manifest


def _stranger(name: str) -> str:
    """Why a name may not be there, in words."""
    parts = name.split("/")
    if name.startswith("/"):
        return "its name is absolute"
    if ".." in parts or "." in parts:
        return "its name leads out of the archive"
    return "it does not belong there"


def _json(document: t.Mapping[str, t.Any]) -> bytes:
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def _sweep(folder: pathlib.Path) -> None:
    """Remove half files whose writers are dead."""
    for half in (path for path in folder.glob(".*.half") if _HALF.fullmatch(path.name)):
        with contextlib.suppress(OSError):
            fd = os.open(half, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                half.unlink()
            finally:
                os.close(fd)


def _sync_folder(folder: pathlib.Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _cannot_write(path: pathlib.Path | None, error: OSError) -> MigrationError:
    todo = "make room or choose another folder, then run again"
    what = "The backup cannot be written; nothing half-written is left"
    return MigrationError(what, where=str(path), why=str(error), todo=todo)
