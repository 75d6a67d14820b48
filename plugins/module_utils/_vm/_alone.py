# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""One run at a time on one VM. The kernel lets the lock go when a run dies, and nothing is left of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError

FOLDER = pathlib.Path("/run")
PATIENCE = 15.0  # seconds


@contextlib.contextmanager
def alone(module: str, about: str) -> t.Iterator[None]:
    """While the block runs, no other run of the module works on ``about``. Raises MigrationError when one does and goes on."""
    path = FOLDER / f"servicemesh-migration-{module}.lock"
    end = time.monotonic() + PATIENCE
    try:
        while (descriptor := _take(path)) is None:
            if time.monotonic() > end:
                raise MigrationError(
                    "Another run works on this machine",
                    where=about,
                    why=f"it holds {path}",
                    todo="wait for it to end; two plays must not change one machine at once",
                    transient=True,
                )
            time.sleep(0.1)
    except OSError as error:
        raise MigrationError("The lock of this module cannot be taken", where=str(path), why=str(error)) from error
    try:
        yield
    finally:
        with contextlib.closing(os.fdopen(descriptor)):
            path.unlink(missing_ok=True)


def _take(path: pathlib.Path) -> int | None:
    """The lock, held as long as the descriptor is open; None while somebody else has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # whoever had it may have taken the file away meanwhile: then a lock on it is one of nothing
        if path.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None
