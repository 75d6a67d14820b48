# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""tar inside zstd, as strict as a proof needs it: every byte of a header follows from name and size, and is checked.

Every tool that knows tar and zstd reads these files. This reader takes only what this writer makes: regular files with
relative, unique names, nothing between them, nothing behind them. Behind the zstd frame stands a skippable frame with the
SHA-256 of all bytes before it: an archive that was cut or changed anywhere is known before anything of it is used.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import tarfile
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError

BLOCK = 512
_SKIPPABLE = struct.pack("<I", 0x184D2A5D)
_PREFIX = b"sha256:"
TRAILER = 8 + len(_PREFIX) + 64
_LEVEL = 3
_WINDOW = 1 << 24
_KINDS = {b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"5": "a folder", b"6": "a pipe"}


class ArchiveError(MigrationError):
    """The file is no whole archive of this collection."""


def zstandard() -> t.Any:
    """The Python package of that name."""
    try:
        import zstandard as found  # pylint: disable=import-outside-toplevel
    except ImportError as error:
        raise InputError(
            "The Python package zstandard is missing where this module runs", why=str(error), todo="pip install zstandard"
        ) from error
    return found


def _template() -> bytearray:
    info = tarfile.TarInfo("")
    info.mode = 0o600
    head = bytearray(info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict"))
    head[124:136] = b" " * 12  # the size, and ...
    head[148:156] = b" " * 8  # ... the checksum, which counts itself as blanks
    return head


_END = bytes(BLOCK)
_HEAD = bytes(_template())
_HEAD_SUM = sum(_HEAD) - 12 * 32
# What stands between name, size, checksum and prefix.
_TO_SIZE, _TO_SUM, _TO_PREFIX, _TO_END = _HEAD[100:124], _HEAD[136:148], _HEAD[155:345], _HEAD[500:]


def header(name: str, size: int) -> bytes:
    """The header of a regular file of mode 0600, of nobody, of no time."""
    raw, prefix = name.encode(), b""
    if len(raw) > 100 and len(raw) <= 255:
        cut = raw.find(b"/", len(raw) - 101)
        if 0 < cut <= 155:
            prefix, raw = raw[:cut], raw[cut + 1 :]
    if len(raw) > 100 or not name.isascii():
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o600
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
    octal = b"%011o\0" % size
    total = b"%06o\0" % (_HEAD_SUM + sum(raw) + sum(octal) + sum(prefix))
    return b"".join((raw.ljust(100, b"\0"), _TO_SIZE, octal, _TO_SUM, total, _TO_PREFIX, prefix.ljust(155, b"\0"), _TO_END))


class TarWriter:
    """Writes members one after the other into a binary file, which stays open."""

    def __init__(self, file: t.BinaryIO) -> None:
        self._file = _Hashed(file)
        # zstd's own checksum of what went in is what ``prove`` stands on.
        library = zstandard().ZstdCompressor(level=_LEVEL, write_checksum=True)
        self._stream = library.stream_writer(self._file, closefd=False)
        self.size = 0
        self._held: list[bytes] = []
        self._holds = 0

    def add(self, name: str, data: bytes) -> None:
        parts = (header(name, len(data)), data, bytes(-len(data) % BLOCK))
        self._held += parts
        self._holds += BLOCK + len(data) + BLOCK
        if self._holds >= 1 << 18:
            self._flush()

    def add_file(self, name: str, file: t.BinaryIO, size: int) -> None:
        """A member that may be large, from a file."""
        self._held.append(header(name, size))
        while chunk := file.read(1 << 18):
            self._held.append(chunk)
            self._flush()
        self._held.append(bytes(-size % BLOCK))
        self._flush()

    def _flush(self) -> None:
        data = b"".join(self._held)
        self.size += len(data)
        self._stream.write(data)
        self._held, self._holds = [], 0

    def close(self) -> str:
        """End of tar, end of zstd, trailer. Returns the SHA-256 of everything before the trailer."""
        self._held.append(bytes(2 * BLOCK))
        self._flush()
        self._stream.close()
        digest = self._file.digest.hexdigest()
        payload = _PREFIX + digest.encode()
        self._file.write(_SKIPPABLE + struct.pack("<I", len(payload)) + payload)
        return digest

    def prove(self, file: t.BinaryIO, path: str) -> None:
        """After ``close``: the file has the bytes that were written, and they become what was added. Raises ArchiveError."""
        seen_whole(file, path)
        file.seek(0)
        library, left = zstandard(), self.size
        reader = library.ZstdDecompressor().stream_reader(file, read_across_frames=True, closefd=False)
        try:
            while data := reader.read(1 << 18):
                left -= len(data)
        except library.ZstdError as error:  # the checksum is another one, too
            raise ArchiveError("A backup cannot be read back", where=path, why=str(error), todo="check the disk") from error
        if left:
            raise ArchiveError("A backup cannot be read back as it was written", where=path, todo="check the disk")


class _Hashed:
    """A file to write to that knows the hash of what was written."""

    def __init__(self, file: t.BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def seen_whole(file: t.BinaryIO, path: str) -> None:
    """The file has its trailer, and the trailer is right. Raises ArchiveError."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TRAILER))
    trailer = file.read(TRAILER)
    if not trailer.startswith(_SKIPPABLE + struct.pack("<I", TRAILER - 8) + _PREFIX):
        raise ArchiveError(
            "An archive is not whole", where=path, why="its end is missing: it was cut, or it is another kind of file"
        )
    digest, left = hashlib.sha256(), size - TRAILER
    file.seek(0)
    while left:
        data = file.read(min(left, 1 << 20))
        if not data:
            raise ArchiveError("An archive changes while it is read", where=path)
        digest.update(data)
        left -= len(data)
    if digest.hexdigest().encode() != trailer[-64:]:
        raise ArchiveError("An archive is damaged", where=path, why="its bytes have not the hash that stands at its end")


class TarReader:
    """Iterates over ``(name, content)``.

    :arg limit: bytes that a single member may have.
    :arg sinks: members that may be larger: their content goes there in pieces, and they are given as empty.
    """

    def __init__(
        self, file: t.BinaryIO, path: str, limit: int, sinks: t.Mapping[str, t.Callable[[bytes], t.Any]] | None = None
    ) -> None:
        file.seek(0)
        self._path, self._limit, self._sinks = path, limit, dict(sinks or {})
        library = zstandard()
        self._broken = library.ZstdError
        reader = library.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(file, read_across_frames=True, closefd=False)
        self._stream = io.BufferedReader(reader, 1 << 18)
        self.last = "its first member"

    def error(self, member: str, why: str, what: str = "An archive is refused") -> ArchiveError:
        return ArchiveError(what, where=f"{self._path}: {member}", why=why, todo="use another archive")

    def _take(self, size: int) -> bytes:
        try:
            data = self._stream.read(size)
        except self._broken as error:
            raise self.error(self.last, f"it is damaged here or right behind: {error}") from error
        if len(data) != size:
            raise self.error(self.last, "the archive ends in it or right behind it")
        return data

    def __iter__(self) -> t.Iterator[tuple[str, bytes]]:
        """``(name, content)`` of every member. Raises ArchiveError with the member's name."""
        while True:
            head = self._take(BLOCK)
            if head == _END:
                break
            name, size = self._plain(head) or self._odd(head)
            self.last = name
            if size > self._limit and name not in self._sinks:
                raise self.error(name, f"it says that it has {size} bytes")
            if name in self._sinks:
                data, sink, left = b"", self._sinks[name], size
                while left:
                    chunk = self._take(min(left, 1 << 18))
                    sink(chunk)
                    left -= len(chunk)
            else:
                data = self._take(size)
            if any(self._take(-size % BLOCK)):
                raise self.error(name, "there is something between it and the next member")
            yield name, data
        if any(self._take(BLOCK)):
            raise self.error(self.last, "the end of the archive is damaged")
        try:
            more = self._stream.read(1)
        except self._broken:
            more = b"?"
        if more:
            raise self.error(self.last, "there is something behind the end of the archive")

    def _plain(self, head: bytes) -> tuple[str, int] | None:
        """Name and size of nearly every header; None when it is another one, or wrong."""
        try:
            prefix, name = head[345:500].rstrip(b"\0").decode("ascii"), head[:100].rstrip(b"\0").decode("ascii")
            size = int(head[124:135], 8)
        except ValueError:
            return None
        name = f"{prefix}/{name}" if prefix else name
        return (name, size) if size >= 0 and header(name, size) == head else None

    def _odd(self, head: bytes) -> tuple[str, int]:
        """Name and size; long names are in a pax header before it. Raises ArchiveError for what is not written here."""
        raw, long = head, ""
        info = self._info(head)
        if info.type == tarfile.XHDTYPE:
            if info.size > 4096:
                raise self.error(info.name, "its name is too long")
            body = self._take(info.size + -info.size % BLOCK)
            head = self._take(BLOCK)
            long = body[: info.size].decode("utf-8", "replace").partition("path=")[2].rstrip("\n")
            raw += body + head
            info = self._info(head)
        name = long or info.name
        if info.type != tarfile.REGTYPE:
            raise self.error(name, f"it is {_KINDS.get(info.type, 'no regular file')}")
        if raw != header(name, info.size) or info.size < 0:
            raise self.error(name, "its header is not one that this collection writes")
        return name, info.size

    def _info(self, head: bytes) -> tarfile.TarInfo:
        try:
            return tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError) as error:
            raise self.error(self.last, f"the header behind it is no header: {error}") from error
