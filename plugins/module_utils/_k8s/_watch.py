# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What changes while something else is done: the events of a kind, read by a thread of their own."""

from __future__ import annotations

import contextlib
import threading
import time

from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster, Object
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._wire import Answer

_LASTS = 60  # seconds; a connection that is silent for longer may have been forgotten by something on the way


class Watch:
    """Events (metadata only) of one kind after a resourceVersion, from now until ``events`` is called."""

    def __init__(self, cluster: Cluster, kind: Kind, version: str) -> None:
        self._cluster, self._kind, self._version = cluster, kind, version
        self._began = time.monotonic()
        self._answer: Answer | None = None
        self._data = b""
        self._ended = False
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(Exception):  # whatever ended it: ``events`` asks again and tells
            self._answer = self._cluster.watch(self._kind, self._version, seconds=_LASTS, quiet=None)
            for part in self._answer.stream():
                self._data += part
        self._ended = True

    def events(self, seconds: float = 0.2) -> list[Object]:
        """Those that came, at least ``seconds`` after the beginning. Ends the watch. Raises MigrationError."""
        left = self._began + seconds - time.monotonic()
        if left > 0:
            time.sleep(left)
        ended, answer, data = self._ended, self._answer, self._data
        self.close()
        if not ended and answer is not None and time.monotonic() - self._began < _LASTS:
            return self._cluster.events_of(self._kind, answer.status, data)
        return self._cluster.events_since(self._kind, self._version)

    def close(self) -> None:
        """Let the thread end."""
        if self._answer is not None:
            self._answer.close()
