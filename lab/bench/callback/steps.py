# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An Ansible callback of the benchmarks: how long each task took on each host, as JSON lines in the file LAB_BENCH_STEPS."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: steps
type: aggregate
short_description: Times of the benchmarks
description: [Writes how long each task took on each host.]
"""


class CallbackModule(CallbackBase):  # type: ignore[misc] # ansible has no types
    """A step runs from the start of its worker to its result: the wait for a free worker is not in it."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "steps"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._began: dict[tuple[str, str], float] = {}

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        self._began[host.name, task._uuid] = time.monotonic()

    def _ended(self, result: Any, **_more: Any) -> None:
        host, task = result._host.name, result._task
        began = self._began.pop((host, task._uuid), None)
        if began is not None:
            line = {"host": host, "task": task.get_name(), "id": task._uuid, "seconds": time.monotonic() - began}
            with open(os.environ["LAB_BENCH_STEPS"], "a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")

    v2_runner_on_ok = v2_runner_on_failed = v2_runner_on_skipped = v2_runner_on_unreachable = _ended
