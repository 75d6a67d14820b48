# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Named steps with their seconds."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


class StepFailed(Exception):
    """A step did not succeed; the text says what to do."""


@contextmanager
def step(name: str, hint: str = "") -> Iterator[None]:
    """Say that a step begins, and how long it took when it is over (or how long until it failed)."""
    print(f"== {name}{f' ({hint})' if hint else ''}", flush=True)
    start = time.monotonic()
    try:
        yield
    except BaseException:
        print(f"== {name}: FAILED after {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
        raise
    print(f"== {name}: {time.monotonic() - start:.1f} s", flush=True)


def run(argv: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None, attempts: int = 1) -> None:
    """Run a command with closed input; its output goes where ours goes. Raises StepFailed when all attempts fail."""
    for attempt in range(1, attempts + 1):
        try:
            code = subprocess.run(argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, check=False).returncode
        except FileNotFoundError as missing:
            raise StepFailed(f"there is no {missing.filename}") from missing
        if code == 0:
            return
        if attempt < attempts:
            print(f"   attempt {attempt} of {attempts} ended with {code}; again in {5 * attempt} s", file=sys.stderr, flush=True)
            time.sleep(5 * attempt)
    raise StepFailed(f"this command ended with {code}: {' '.join(argv)}")
