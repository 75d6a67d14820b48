# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The archive of a backup: what is in it, how it is written whole or not at all, and how it is proven before it is used.

A ``.tar.zst`` file of mode 0600, members in this order::

    format.json                                              what this file is
    objects/<group>/<kind>/<namespace or _cluster>/<name>.yaml   one canonical YAML file an object; ``core`` is the group of v1
    index.jsonl                                              one line an object: Entry
    manifest.json                                            cluster, versions, counts, what was left out, hashes

An encrypted object has the suffix ``.age`` or ``.vault`` behind ``.yaml``; other tools open it too. The hash of such a
member is the hash of the encrypted bytes, so the archive is proven without the key, and tells nothing about them.
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
import functools
import hashlib
import json
import json.encoder
import os
import pathlib
import tempfile
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _yaml
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
VERSION = 1
FIRST, INDEX, MANIFEST = "format.json", "index.jsonl", "manifest.json"
CLUSTER = "_cluster"
# More than an API server stores in one object, with room for encryption as text.
_MEMBER_LIMIT = 64 << 20
_LINES = 500
_LINE = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode
_quote = json.encoder.encode_basestring
_short = hash  # 8 bytes that stand for a member's name in this process: nobody knows the key by which Python hashes


@dataclasses.dataclass(frozen=True)
class Entry:
    """One object of an archive.

    :arg api_version: the version it was read in. :arg sha256: of the member's bytes. :arg size: of the member, in bytes.
    :arg uid, resource_version: of the object in the cluster when it was read; empty when it never was in one.
    :arg sealed: empty, ``age`` or ``vault``.
    """

    api_version: str
    kind: str
    name: str
    sha256: str
    size: int
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    sealed: str = ""

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]

    @property
    def key(self) -> str:
        """``group/kind/namespace/name``: unique in an archive; the group of v1 is empty."""
        return f"{self.group}/{self.kind}/{self.namespace}/{self.name}"

    @property
    def where(self) -> str:
        """``namespace/kind/name`` for messages."""
        return "/".join(filter(None, (self.namespace, self.kind, self.name)))

    @property
    def path(self) -> str:
        """The member's name. A name too long for a file system is cut, and told apart by its hash; it is whole in the index."""
        suffix = f".yaml.{self.sealed}" if self.sealed else ".yaml"
        stem = self.name
        if len(stem.encode()) + len(suffix) > 255:
            digest = hashlib.sha256(stem.encode()).hexdigest()[:32]
            stem = stem.encode()[: 255 - len(suffix) - 33].decode("utf-8", "ignore") + "~" + digest
        return f"{_folder(self.api_version, self.kind, self.namespace)}/{stem}{suffix}"

    def line(self) -> str:
        """The entry as a line of the index: JSON, its keys sorted, without those that are empty."""
        made = f'{{"api_version":{_quote(self.api_version)},"kind":{_quote(self.kind)},"name":{_quote(self.name)},'
        made += f'"namespace":{_quote(self.namespace)},' if self.namespace else ""
        made += f'"resource_version":{_quote(self.resource_version)},' if self.resource_version else ""
        made += f'"sealed":{_quote(self.sealed)},' if self.sealed else ""
        made += f'"sha256":{_quote(self.sha256)},"size":{self.size}'
        return made + (f',"uid":{_quote(self.uid)}}}\n' if self.uid else "}\n")


@functools.lru_cache(1000)
def _folder(api_version: str, kind: str, namespace: str) -> str:
    """Where objects of a kind and a namespace are."""
    return f"objects/{api_version.rpartition('/')[0] or 'core'}/{kind}/{namespace or CLUSTER}"


def digest_of(document: t.Mapping[str, t.Any]) -> str:
    """SHA-256 of plain data in its one JSON form."""
    return hashlib.sha256(_LINE(document).encode()).hexdigest()


_fine: set[tuple[str, str, str]] = set()  # most objects are in the namespaces of others


def check_parts(api_version: str, kind: str, namespace: str, name: str) -> None:
    """Refuse names that are no parts of a path (Kubernetes forbids them too). Raises ValueError."""
    known = (api_version, kind, namespace)
    if known not in _fine:
        _check_part("group", api_version.replace("/", "", 1))
        _check_part("kind", kind)
        _check_part("namespace", namespace or "x")
        if len(_fine) < 10_000:
            _fine.add(known)
    _check_part("name", name)


def _check_part(what: str, part: str) -> None:
    if not part or part in (".", "..") or "/" in part or not part.isprintable():
        raise ValueError(f"its {what} cannot be part of a path")


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
        self._content = hashlib.sha256()
        self._index_hash = hashlib.sha256()
        self._index_size = 0
        self._lines: list[bytes] = []  # of the index, until there are enough of them to be written
        self._keys: set[int] = set()
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
        self._tar.add(FIRST, _json({"format": FORMAT, "version": VERSION}))

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
        sealed = ""
        if secret:
            if self._seal is None:
                raise MigrationError("A secret object is not saved without encryption", where=where, todo="give a key")
            sealed, data = self._seal.name, self._seal.seal(data)
        sha = hashlib.sha256(data).hexdigest()
        entry = Entry(obj["apiVersion"], obj["kind"], name, sha, len(data), namespace, uid, resource_version, sealed)
        path = entry.path
        key = _short(path)
        if key in self._keys:
            raise MigrationError(
                "An object is there twice", where=where, why="the API server listed it twice, or two names collide"
            )
        self._keys.add(key)
        line = entry.line().encode()
        try:
            self._tar.add(path, data)
            self._lines.append(line)
            if len(self._lines) >= _LINES:
                self._write_lines()
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        # Encryption gives other bytes each time: what it stands for is known by its version in the cluster.
        self._content.update(f"{entry.key}\0{uid + resource_version if sealed else sha}\n".encode())
        kind = f"{entry.group or 'core'}/{entry.kind}"
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if sealed:
            self.sealed[sealed] = self.sealed.get(sealed, 0) + 1
        self.objects += 1
        self.bytes += len(data)
        return entry

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
        return self._content.hexdigest()

    def close(self, facts: t.Mapping[str, t.Any]) -> Object:
        """Write index and manifest (``facts`` and the writer's own), sync, rename, prove. Returns the manifest."""
        try:
            self._write_lines()
            manifest: Object = {**facts, "format": FORMAT, "version": VERSION, "objects": self.objects, "bytes": self.bytes}
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

        def sink(chunk: bytes) -> None:
            index.write(chunk)
            sha.update(chunk)

        tar = self._tar(sink)
        for name, data in tar:
            if not before:
                self._check_first(tar, name, data)
            elif name.startswith("objects/") and before in (FIRST, "objects/"):
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
        if data != _json({"format": FORMAT, "version": VERSION}):
            raise tar.error(name, f"it is not {FORMAT} version {VERSION}")

    def _check_manifest(self, tar: TarReader, data: bytes, index_sha: str) -> Object:
        try:
            manifest = json.loads(data)
            right = manifest.pop("sha256") == digest_of(manifest)
        except (ValueError, KeyError, TypeError, AttributeError):
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
            if entry.line().encode() != line:
                raise ValueError("a line is not as it is written")
        except (ValueError, TypeError, AttributeError) as error:
            raise ArchiveError("An archive is refused", where=f"{self.path}: {INDEX}", why=str(error)) from error
        return entry

    def _members(self) -> t.Iterator[tuple[Entry, bytes]]:
        """Objects against the index, one by one: name, size, hash."""
        tar, entries = self._tar(lambda chunk: None), self.entries()
        seen: set[int] = set()
        number = 0
        for name, data in tar:
            if name in (FIRST, INDEX, MANIFEST):
                continue
            entry = next(entries, None)
            key = _short(name)
            if key in seen:
                raise tar.error(name, "it is there twice")
            if entry is None or entry.path != name:
                raise tar.error(name, f"{_stranger(name)}; the index has {entry.path if entry else 'nothing'} in its place")
            if entry.size != len(data) or entry.sha256 != hashlib.sha256(data).hexdigest():
                raise tar.error(name, "it has not the hash that is written in the index")
            seen.add(key)
            number += 1
            yield entry, data
        missing = next(entries, None)
        if missing is not None or number != self.manifest.get("objects"):
            raise tar.error(missing.path if missing else MANIFEST, "it is in the index and not in the archive")

    def objects(self, wanted: t.Callable[[Entry], bool] | None = None) -> t.Iterator[tuple[Entry, Object | None]]:
        """``(entry, object)`` of all (or the wanted) objects; None for an encrypted one when no key was given.

        Raises ArchiveError when a file is not canonical or holds another object than it says, SealError for a wrong key.
        """
        for entry, data in self._members():
            if wanted is not None and not wanted(entry):
                continue
            yield entry, self._object(entry, data)

    def _object(self, entry: Entry, data: bytes) -> Object | None:
        where = f"{self.path}: {entry.path}"
        if entry.sealed:
            if self._seal is None:
                return None
            if self._seal.name != entry.sealed:
                raise SealError("An encrypted part cannot be opened", where=where, why=f"it needs a key of {entry.sealed}")
            try:
                data = self._seal.open(data)
            except SealError as error:
                error.where = where
                raise
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
    for half in folder.glob(".*.half"):
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
