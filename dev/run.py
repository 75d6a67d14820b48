# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a command in the project's environment: `python3 -m dev.run pytest tests/unit`."""

from __future__ import annotations

import os
import sys

from dev.paths import environment, venv


def main() -> None:
    """Replace this process by the command, so that signals and the exit code are the command's own."""
    if not (venv() / ".complete").exists():
        sys.exit("dev.run: the tools are not installed yet; run `make setup`, or `make venv` for all but the lab")
    env = environment()
    os.environ["PATH"] = env["PATH"]  # execvpe looks up the command in the PATH of the new environment only from here
    try:
        os.execvpe(sys.argv[1], sys.argv[1:], env)
    except FileNotFoundError:
        sys.exit(f"dev.run: no command {sys.argv[1]!r}")


if __name__ == "__main__":
    main()
