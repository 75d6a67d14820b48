# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state file: the whole world as JSON, replaced atomically before a writing call is answered.

A rename is enough to survive ``kill -9`` of the server (the page cache outlives a process), so nothing is fsynced:
a lab does not have to survive a power cut.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from .model import World


class Store:
    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / "cloud.json"
        self._last = ""
        self.world = World()
        if self.path.exists():
            self._last = self.path.read_text(encoding="utf-8")
            self.world = World.from_json(json.loads(self._last))

    def save(self) -> bool:
        """Write the world if it changed; True if it did."""
        text = json.dumps(self.world.to_json(), separators=(",", ":"))
        if text == self._last:
            return False
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, self.path)
        self._last = text
        return True
