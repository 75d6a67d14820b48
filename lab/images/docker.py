# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docker-archive files: a tar of layers, the image's configuration and manifest.json (what `docker save` writes)."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import platform
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from lab.images.catalog import TAGS, Image, image
from lab.images.layer import Directory, Entry, File, write_layer
from lab.state import Lab, write_atomic

FORMAT = 1  # raise it when the same content would give other bytes
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def archive(lab: Lab, name: str) -> Path:
    """The archive of an image (pause, echo, proxyv2, istiod, coredns), built when it is not in the cache.

    :raises LabError: unknown name; a program or library that goes in is missing or does not build.
    """
    content, tags = image(name), TAGS[name]
    folder = lab.cache / "images"
    folder.mkdir(parents=True, exist_ok=True)
    with _Hashes(folder / "hashes.json") as hashes:
        target = folder / f"{name}-{_key(content, tags, hashes)}.tar"
    if target.exists():
        return target
    with _locked(folder / f".{name}.lock"):
        if not target.exists():
            _build(target, content, tags)
    return target


class _Hashes:
    """sha256 of files, remembered by path, size and time: 300 MB need not be read again at every `lab up`."""

    def __init__(self, file: Path) -> None:
        self._file, self._known, self._new = file, dict[str, str](), dict[str, str]()

    def __enter__(self) -> _Hashes:
        with contextlib.suppress(OSError, ValueError):
            self._known = json.loads(self._file.read_text())
        return self

    def __exit__(self, *_: object) -> None:
        if self._new:
            write_atomic(self._file, json.dumps(self._known | self._new, indent=0), 0o644)

    def of(self, path: Path) -> str:
        stat = path.stat()
        key = f"{path}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ino}"
        if key not in self._known:
            with open(path, "rb") as stream:
                self._known[key] = self._new[key] = hashlib.file_digest(stream, "sha256").hexdigest()
        return self._known[key]


def _key(content: Image, tags: list[str], hashes: _Hashes) -> str:
    def describe(entry: Entry) -> list[Any]:
        if isinstance(entry, File):
            digest = hashlib.sha256(entry.content).hexdigest() if isinstance(entry.content, bytes) else hashes.of(entry.content)
            return ["file", entry.path, entry.mode, digest]
        if isinstance(entry, Directory):
            return ["directory", entry.path, entry.mode, entry.uid]
        return ["link", entry.path, entry.target]

    layers = [[describe(entry) for entry in layer] for layer in content.layers]
    text = json.dumps([FORMAT, _architecture(), layers, content.entrypoint, content.user, content.env, tags])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _architecture() -> str:
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def _build(target: Path, content: Image, tags: list[str]) -> None:
    with contextlib.ExitStack() as stack:
        layers = []
        for entries in content.layers:
            stream = stack.enter_context(tempfile.TemporaryFile(dir=target.parent))
            write_layer(stream, entries)
            stream.seek(0)
            layers.append((hashlib.file_digest(stream, "sha256").hexdigest(), stream))
        config = json.dumps(
            {
                "architecture": _architecture(),
                "os": "linux",
                "created": "1970-01-01T00:00:00Z",
                "config": {
                    "Entrypoint": content.entrypoint,
                    "Env": [f"{key}={value}" for key, value in sorted(content.env.items())],
                    "User": content.user,
                    "WorkingDir": "/",
                },
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest, _ in layers]},
                "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "lab"} for _ in layers],
            },
            sort_keys=True,
        ).encode()
        name = hashlib.sha256(config).hexdigest() + ".json"
        manifest = [{"Config": name, "RepoTags": tags, "Layers": [f"{digest}/layer.tar" for digest, _ in layers]}]
        temp = target.with_suffix(f".{os.getpid()}.tmp")
        try:
            with tarfile.open(temp, "w", format=tarfile.USTAR_FORMAT) as tar:
                for digest, stream in layers:
                    _add(tar, f"{digest}/layer.tar", stream)
                _add(tar, name, io.BytesIO(config))
                _add(tar, "manifest.json", io.BytesIO(json.dumps(manifest).encode()))
            temp.replace(target)
        finally:
            temp.unlink(missing_ok=True)


def _add(tar: tarfile.TarFile, name: str, stream: IO[bytes]) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = stream.seek(0, io.SEEK_END), 0o644, 0
    stream.seek(0)
    tar.addfile(info, stream)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
