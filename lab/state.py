# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where one lab keeps everything it knows: a folder, a small JSON file, and the names derived from the lab's name."""

from __future__ import annotations

import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?")


class LabError(Exception):
    """An operational error in plain words: printed without a traceback."""


def state_root() -> Path:
    """Folder of all labs of this user (LAB_STATE_DIR, else ~/.local/state/servicemesh-lab)."""
    return Path(os.environ.get("LAB_STATE_DIR") or Path.home() / ".local/state/servicemesh-lab").absolute()


def cache_root() -> Path:
    """Folder shared by all labs: binaries, image archives (LAB_CACHE, else ~/.cache/servicemesh-lab)."""
    return Path(os.environ.get("LAB_CACHE") or Path.home() / ".cache/servicemesh-lab").absolute()


def write_atomic(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file so that a reader, or a crash, sees the old text or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, temp = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "w") as stream:
            stream.write(text)
        os.chmod(temp, mode)
        os.replace(temp, path)
    except BaseException:
        Path(temp).unlink(missing_ok=True)
        raise


class Lab:
    """One lab. `data` is a JSON object shared by all steps; change it with `update` when others may write too."""

    def __init__(self, name: str) -> None:
        # a part "m" would make lab `a-m`'s namespace `cloud` and lab `a`'s machine `cloud` the same name
        if not NAME.fullmatch(name) or "m" in name.split("-"):
            rule = "1 to 20 characters of a-z, 0-9 and '-'; '-' neither first nor last; no part may be just 'm'"
            raise LabError(f"'{name}' is no name for a lab: {rule}")
        self.name = name
        self.dir = state_root() / name
        self.cache = cache_root()
        self.data: dict[str, Any] = self._load()

    @classmethod
    def current(cls) -> Lab:
        """The lab that LAB_NAME names (default `lab`)."""
        return cls(os.environ.get("LAB_NAME") or "lab")

    @property
    def file(self) -> Path:
        return self.dir / "lab.json"

    @property
    def logs(self) -> Path:
        return self.dir / "logs"

    def netns(self, part: str) -> str:
        """Name of a network namespace: part is "cloud", "net" or "m-<machine>"."""
        return f"sml-{self.name}-{part}"

    def _load(self) -> dict[str, Any]:
        try:
            data = json.loads(self.file.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise LabError(f"{self.file} is not JSON ({error}); run `lab down`, or remove the file") from error
        if not isinstance(data, dict):
            raise LabError(f"{self.file} does not hold a JSON object; run `lab down`, or remove the file")
        return data

    @contextmanager
    def lock(self, what: str = "data", *, wait: bool = True) -> Iterator[bool]:
        """Hold a lock between processes; gives False when wait is false and somebody else has it."""
        self.dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(self.dir / f".{what}.lock", "w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True

    def save(self) -> None:
        """Write `data` (JSON, atomic)."""
        write_atomic(self.file, json.dumps(self.data, indent=2, sort_keys=True) + "\n")

    def update(self, **values: Any) -> None:
        """Set keys of `data` although other threads or processes may be writing others."""
        with self.lock():
            self.data = self._load() | values
            self.save()
