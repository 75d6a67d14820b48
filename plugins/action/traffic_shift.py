# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the module and, when it runs on this host, shows its progress lines meanwhile. The result is the module's own."""

from __future__ import annotations

import json
import os
import pathlib
import threading
import time
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._control import CONTROLLER_ENV, process_token
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._progress import NAME, REPEATING, human

display = Display()
# Lines that only have newer numbers: not more often than this, unless a gate says something else. Seconds.
_EVERY = 5.0
_DEFAULT_STATE_DIR = "~/.ansible/servicemesh-migration"


class Tail(threading.Thread):
    """Follows the progress file of the run that begins now: a file that was there before is an older run's."""

    def __init__(self, path: pathlib.Path, show: t.Callable[[str], None]) -> None:
        super().__init__(name="progress", daemon=True)
        self._path = path
        self._show = show
        self._old = self._identity()
        self._ended = threading.Event()
        self._file: t.BinaryIO | None = None
        self._rest = b""
        self._shown = 0.0
        self._said: t.Any = None

    def run(self) -> None:
        try:
            while not self._ended.wait(0.2):
                self._read()
            self._read()
        except Exception as error:  # showing progress is never a reason to fail
            self._show(f"progress is not shown any more: {error}")
        finally:
            if self._file is not None:
                self._file.close()

    def end(self) -> None:
        self._ended.set()
        self.join(5)

    def _identity(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_ctime_ns

    def _read(self) -> None:
        if self._file is None:
            now = self._identity()
            if now is None or (self._old is not None and now[:2] == self._old[:2]):
                return
            try:
                self._file = open(self._path, "rb")  # noqa: SIM115 - closed at the end of run()
            except OSError:
                return
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in lines:
            try:
                self._tell(json.loads(line))
            except (ValueError, TypeError, AttributeError):
                continue

    def _tell(self, line: dict[str, t.Any]) -> None:
        said = (line.get("event"), line.get("step"), [gate.get("state") for gate in (line.get("gates") or {}).values()])
        now = time.monotonic()
        if line.get("event") in REPEATING and said == self._said and now - self._shown < _EVERY:
            return
        self._said, self._shown = said, now
        self._show(human(line))


class ActionModule(ActionBase):  # type: ignore[misc] # ansible has no types
    """See the module's documentation for options and results."""

    _supports_check_mode = True
    _supports_diff = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        if self._task.async_val:
            raise AnsibleActionFail(
                f"{self._task.action} does not run with async: nobody would see its progress or its end. "
                "Remove async and poll from the task; it is bounded in time by its own holds."
            )
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        local = self._connection.transport == "local"
        if local:
            # The module ends when this ansible-playbook is gone, instead of moving traffic that nobody watches.
            self._task.environment = [*(self._task.environment or []), {CONTROLLER_ENV: process_token(os.getppid())}]
        tail = self._tail(task_vars or {}) if local and not self._task.check_mode and not self._task.no_log else None
        if tail is not None:
            tail.start()
        try:
            result.update(self._execute_module(task_vars=task_vars))
        finally:
            if tail is not None:
                tail.end()
        return result

    def _tail(self, task_vars: dict[str, t.Any]) -> Tail | None:
        migration = str(self._task.args.get("migration") or "")
        if not migration or "/" in migration:
            return None  # the module says what is wrong with it
        given = self._task.args.get("state_dir") or os.environ.get("SERVICEMESH_MIGRATION_STATE_DIR") or _DEFAULT_STATE_DIR
        folder = pathlib.Path(os.path.expandvars(str(given))).expanduser() / migration
        host = str(task_vars.get("inventory_hostname") or "localhost")
        return Tail(folder / NAME, lambda text: display.display(f"[{host}] {text}"))
