# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The journal keeps what cluster and cloud forget: original values, decisions, observations, times.

JSON lines in ``<state_dir>/<migration>/journal.jsonl`` (directory 0700, file 0600), append-only, on disk before
each write to the outside and after it. A line is
``{"time": ISO 8601 UTC, "run": id, "event": str, ...}``; events are ``original`` (key, value), ``begin``, ``done``,
``failed`` (a Change), ``note`` and whatever a step observes. Mirrored, so that a fresh container finds it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import pathlib
import re
import threading
import typing as t
import uuid

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Change
from ansible_collections.servicemesh.migration.plugins.module_utils._core._secrets import concealed, scrub

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def make_private(folder: pathlib.Path) -> None:
    """Make a folder and all that is missing above it, each with mode 0700 (mkdir's ``parents`` would give those 0755)."""
    missing = [folder, *folder.parents]
    for path in reversed([path for path in missing if not path.exists()]):
        path.mkdir(mode=0o700, exist_ok=True)


@dataclasses.dataclass
class News:
    """What one run tells the mirror, which other runs (slices of one job) write as well.

    :arg originals: all that this run knows, for a mirror that is not there. :arg times: when each was kept, ISO 8601 UTC.
    :arg kept, dropped: keys whose originals the mirror has yet to take or to lose. :arg tail: the newest lines.
    """

    originals: dict[str, t.Any]
    times: dict[str, str]
    kept: set[str]
    dropped: set[str]
    tail: list[dict[str, t.Any]]

    def onto(self, there: dict[str, t.Any] | None) -> dict[str, t.Any]:
        """``{"originals", "times"}`` as they come into the mirror: what others kept stays, and the first value of a key wins."""
        if there is None:
            return {"originals": dict(self.originals), "times": dict(self.times)}
        made = {part: {k: v for k, v in there.get(part, {}).items() if k not in self.dropped} for part in ("originals", "times")}
        for key in sorted(self.kept - set(made["originals"])):
            made["originals"][key], made["times"][key] = self.originals[key], self.times[key]
        return made


class Mirror(t.Protocol):
    """A second home of the journal: originals whole, of the rest the newest lines."""

    def load(self) -> dict[str, t.Any]:
        """Return ``{"originals": {key: value}, "times": {key: when it was kept}}``, or an empty dict when there is none."""

    def save(self, news: News) -> None:
        """Write what ``news.onto`` the present makes, and the tail. Raises MigrationError."""


class Journal:
    """See the module's docstring. In check mode (``enabled=False``) it reads and never writes. Threads may share it.

    ``problem``: why a line is missing that the way back did without (a full disk).
    """

    TAIL = 200

    def __init__(
        self,
        state_dir: str,
        migration: str,
        *,
        mirror: Mirror | None = None,
        secrets: t.Collection[str] = (),
        enabled: bool = True,
        run: str | None = None,
    ) -> None:
        if not _NAME.fullmatch(migration):
            raise InputError(
                f"The migration's name {migration!r} cannot be used",
                why="it names a folder and a ConfigMap: lower case letters, digits and '-', at most 63 characters",
                todo="choose another value for the option migration",
            )
        self.directory = pathlib.Path(state_dir).expanduser() / migration
        self.path = self.directory / "journal.jsonl"
        self.migration = migration
        self.run = run or uuid.uuid4().hex[:8]
        self._mirror = mirror
        self._secrets = tuple(secret for secret in secrets if secret)
        self._enabled = enabled
        self.problem = ""
        #: What is kept, and not in the journal: sentences for the operator.
        self.withheld: list[str] = []
        self._lock = threading.RLock()  # of what follows; never held while the mirror is asked
        self._saving = threading.Lock()
        self._originals: dict[str, t.Any] = {}
        self._times: dict[str, str] = {}
        self._kept: set[str] = set()
        self._dropped: set[str] = set()
        self._tail: list[dict[str, t.Any]] = []
        self.reload()

    def reload(self) -> None:
        """Read mirror and disk anew: another run may have written to them since. The first value ever kept wins.

        A key that was forgotten here after the mirror took it is forgotten: the run was killed before it could say so there.
        """
        there = self._mirror.load() if self._mirror is not None else {}
        tail: list[dict[str, t.Any]] = []
        originals: dict[str, t.Any] = {}
        times: dict[str, str] = {}
        forgotten: dict[str, str] = {}
        for entry in self.entries():
            event, key, when = entry.get("event"), str(entry.get("key", "")), str(entry.get("time", ""))
            if event == "original" and key not in originals:
                originals[key], times[key] = entry["value"], when
            elif event == "forget":
                # A finished undo: the next migration of this name starts from the state of its own day.
                originals.pop(key, None)
                forgotten[key] = when
            tail.append(entry)
        mirrored: dict[str, t.Any] = there.get("originals", {})
        kept_at: dict[str, str] = there.get("times", {})
        dropped = {key for key in mirrored if forgotten.get(key, "") > kept_at.get(key, "")}
        for key in set(mirrored) - dropped:
            originals[key], times[key] = mirrored[key], kept_at.get(key, "")
        with self._lock:
            self._kept, self._dropped = set(originals) - (set(mirrored) - dropped), dropped
            self._originals, self._times, self._tail = originals, times, tail[-self.TAIL :]

    def entries(self) -> list[dict[str, t.Any]]:
        """All lines on disk. A half line at the end (the process was killed while writing) is left out."""
        found: list[dict[str, t.Any]] = []
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return found
        except OSError as error:
            raise MigrationError("The journal cannot be read", where=str(self.path), why=str(error)) from error
        # Line by line, and only at newlines: a half line may end inside of a character, a value may hold U+2028.
        for line in data.split(b"\n"):
            try:
                entry = json.loads(line.decode("utf-8"))
            except ValueError:
                continue
            if isinstance(entry, dict):
                found.append(entry)
        return found

    def write(self, event: str, **fields: t.Any) -> dict[str, t.Any]:
        """Append one line and wait until it is on the disk."""
        now = datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="milliseconds")
        fields = {key: concealed(value) if key in ("before", "after") else value for key, value in fields.items()}
        entry = scrub({"time": now, "run": self.run, "event": event, **fields}, self._secrets)
        if not self._enabled:
            return t.cast("dict[str, t.Any]", entry)
        line = json.dumps(entry, ensure_ascii=False, default=str) + "\n"
        try:
            make_private(self.directory)
            fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                size = os.fstat(fd).st_size
                # A process killed in the middle of its line left no newline: ours starts on a fresh one.
                if size and os.pread(fd, 1, size - 1) != b"\n":
                    line = "\n" + line
                rest = line.encode()
                while rest:  # a disk that fills up takes a part and refuses the next
                    rest = rest[os.write(fd, rest) :]
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise MigrationError(
                "The journal cannot be written, so nothing further is done",
                where=str(self.path),
                why=str(error),
                todo="make room or set another state_dir, then run again",
            ) from error
        with self._lock:
            self._tail = [*self._tail, entry][-self.TAIL :]
        return t.cast("dict[str, t.Any]", entry)

    def try_write(self, event: str, **fields: t.Any) -> None:
        """As write, for what must be done all the same: traffic that goes back does not wait for room on a disk."""
        try:
            self.write(event, **fields)
        except MigrationError as error:
            self.problem = f"the journal could not be written ({error.where}): {error.why}"

    def keep_original(self, key: str, value: t.Any) -> t.Any:
        """Remember a value as it was before this migration first touched it. Later calls keep the first value.

        Returns the value that counts as the original. It is on disk and in the mirror when this returns.
        """
        self.keep_originals({key: value})
        return self.original(key, value)

    def keep_originals(self, items: t.Mapping[str, t.Any], *, anew: bool = False) -> None:
        """As keep_original, for many keys with one write of the mirror.

        :arg anew: what is kept under these keys is of an earlier life of their objects, and goes.
        """
        with self._lock:
            fresh = {key: value for key, value in items.items() if anew or key not in self._originals}
            for key, value in fresh.items():
                if key in self._originals:
                    self.write("forget", key=key)
                entry = self.write("original", key=key, value=value)
                if self._enabled:
                    self._dropped |= {key} & set(self._originals)
                    self._originals[key], self._times[key] = entry["value"], entry["time"]
                    self._kept.add(key)
        if fresh and self._enabled:
            self.sync()

    def original(self, key: str, default: t.Any = None) -> t.Any:
        with self._lock:
            return self._originals.get(key, default)

    def originals(self, prefix: str = "") -> dict[str, t.Any]:
        with self._lock:
            return {key: value for key, value in self._originals.items() if key.startswith(prefix)}

    def forget(self, prefix: str) -> None:
        """Drop originals after an undo has put them back."""
        self.forget_keys(self.originals(prefix))

    def forget_keys(self, keys: t.Collection[str]) -> None:
        """As forget, for these very keys with one write of the mirror."""
        with self._lock:
            keys = [key for key in keys if key in self._originals]
            for key in keys:
                self.write("forget", key=key)
            for key in keys if self._enabled else ():
                del self._originals[key], self._times[key]
                self._kept.discard(key)
                self._dropped.add(key)
        if self._enabled and keys:
            self.sync()

    def try_forget(self, keys: t.Collection[str]) -> None:
        """As forget_keys, for what is back already: that it cannot be noted makes nothing of it undone."""
        try:
            self.forget_keys(keys)
        except MigrationError as error:
            self.problem = f"what is back could not be forgotten ({error.where}): {error.why}"

    @property
    def unsaved(self) -> bool:
        """Whether the mirror lacks originals that are kept here: it gave no answer when they were to go there."""
        with self._lock:
            return self._mirror is not None and self._enabled and bool(self._kept)

    def sync(self) -> None:
        """Bring the mirror up to date."""
        if self._mirror is None or not self._enabled:
            return
        with self._saving:
            with self._lock:
                originals, dropped = dict(self._originals), set(self._dropped)
                kept = self._kept & set(originals)
                news = News(originals, dict(self._times), kept, dropped, list(self._tail))
            self._mirror.save(news)
            with self._lock:
                self._kept -= kept
                self._dropped -= dropped

    @contextlib.contextmanager
    def around(self, change: Change, *, must: bool = True) -> t.Iterator[None]:
        """``begin`` before the body, ``done`` after it, ``failed`` when it raises.

        :arg must: without these lines the body is not carried out. False where that would be worse than a missing line.
        """
        write = self.write if must else self.try_write
        facts = {"action": change.action, "target": change.target}
        write("begin", **facts, before=change.before, after=change.after, reason=change.reason)
        try:
            yield
        except MigrationError as error:
            self.try_write("failed", **facts, error=error.message)  # the body's error is what has to be told
            raise
        write("done", **facts)
