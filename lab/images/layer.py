# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A layer of an image: a tar that comes out the same, byte by byte, from the same files."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO


@dataclass(frozen=True)
class File:
    """A regular file, from bytes or from a file of this host. Owned by root."""

    path: str
    content: bytes | Path
    mode: int = 0o644


@dataclass(frozen=True)
class Directory:
    """A folder; those above a path are made by themselves (0755, root)."""

    path: str
    mode: int = 0o755
    uid: int = 0


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    path: str
    target: str


Entry = File | Directory | Link


def _parents(entries: Iterable[Entry]) -> list[Directory]:
    made = {entry.path for entry in entries if isinstance(entry, Directory)}
    above = {str(parent) for entry in entries for parent in PurePosixPath(entry.path).parents if str(parent) != "."}
    return [Directory(path) for path in above - made]


def _info(path: str, kind: bytes, mode: int, uid: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type, info.mode, info.uid, info.gid, info.mtime = kind, mode, uid, uid, 0
    return info


def write_layer(stream: IO[bytes], entries: list[Entry]) -> None:
    """Write a layer (uncompressed USTAR): sorted by path, times 0, so parents come before what is in them.

    :raises ValueError: a path given twice, absolute or with "..".
    """
    everything = [*entries, *_parents(entries)]
    paths = [entry.path for entry in everything]
    wrong = {path for path in paths if paths.count(path) > 1 or path.startswith("/") or ".." in PurePosixPath(path).parts}
    if wrong:
        raise ValueError(f"not a list of distinct relative paths: {sorted(wrong)}")
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for entry in sorted(everything, key=lambda entry: PurePosixPath(entry.path).parts):
            if isinstance(entry, Directory):
                tar.addfile(_info(entry.path, tarfile.DIRTYPE, entry.mode, entry.uid))
            elif isinstance(entry, Link):
                info = _info(entry.path, tarfile.SYMTYPE, 0o777)
                info.linkname = entry.target
                tar.addfile(info)
            elif isinstance(entry.content, bytes):
                info = _info(entry.path, tarfile.REGTYPE, entry.mode)
                info.size = len(entry.content)
                tar.addfile(info, io.BytesIO(entry.content))
            else:
                info = _info(entry.path, tarfile.REGTYPE, entry.mode)
                with open(entry.content, "rb") as source:
                    info.size = source.seek(0, io.SEEK_END)
                    source.seek(0)
                    tar.addfile(info, source)
