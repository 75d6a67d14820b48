# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Retries and waits: bounded in time, jittered, and honest about what they waited for."""

from __future__ import annotations

import contextlib
import random
import time
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError

T = t.TypeVar("T")


def retry(
    call: t.Callable[[], T],
    *,
    attempts: int = 8,
    base: float = 0.05,
    cap: float = 2.0,
    deadline: float | None = None,
) -> T:
    """Call until it succeeds, or a MigrationError that is not transient comes, or attempts or time run out.

    Only idempotent calls may be given. The pause doubles from ``base`` to ``cap`` seconds, with full jitter.
    ``deadline`` is a time.monotonic() value.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            return call()
        except MigrationError as error:
            pause = random.uniform(0.5, 1.0) * min(cap, base * 2 ** (attempt - 1))
            late = deadline is not None and time.monotonic() + pause > deadline
            if not error.transient or attempt >= attempts or late:
                if attempt > 1:
                    error.details.setdefault("attempts", attempt)
                raise
            time.sleep(pause)


class Repeating(t.Protocol):
    """An API whose calls are repeated, but never after ``until``, a time.monotonic(); None: as often as it does."""

    until: float | None


@contextlib.contextmanager
def repeated_until(until: float | None, *apis: Repeating) -> t.Iterator[None]:
    """No call inside is repeated after this time.monotonic(): a server that hangs keeps nobody from hearing gates and orders.

    With None there is no such limit inside, as on a way back, which waits for the answer anyway.
    """
    before = [one.until for one in apis]
    for one in apis:
        one.until = until
    try:
        yield
    finally:
        for one, was in zip(apis, before):  # noqa: B905
            one.until = was


def wait_until(
    check: t.Callable[[], T | None],
    *,
    timeout: float,
    what: str,
    where: str = "",
    todo: str = "",
    interval: float = 0.05,
    max_interval: float = 1.0,
    explain: t.Callable[[], str] | None = None,
    progress: t.Callable[[float], None] | None = None,
) -> T:
    """Poll ``check`` until it returns something other than None, and return that.

    Fast at first (``interval``), slower later (``max_interval``). Transient errors of the check count as "not yet".
    On time-out raises a MigrationError that says ``what`` did not come true, with ``explain()`` as the why.
    """
    start = time.monotonic()
    pause = interval
    last = ""
    while True:
        try:
            found = check()
            if found is not None:
                return found
            last = ""
        except MigrationError as error:
            if not error.transient:
                raise
            last = error.message
        elapsed = time.monotonic() - start
        if elapsed >= timeout:
            why = last or (explain() if explain else "")
            raise MigrationError(
                f"Waited {timeout:g} s in vain: {what}", where=where, why=why or "it did not happen in time", todo=todo
            )
        if progress:
            progress(elapsed)
        time.sleep(min(pause, max(0.0, timeout - elapsed)))
        pause = min(max_interval, pause * 1.3)
