# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""SIGTERM and SIGINT as a flag that long work looks at, instead of a death in the middle of a write."""

from __future__ import annotations

import contextlib
import signal
import threading
import typing as t


class Interrupt:
    """True once a signal came."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep at most ``seconds``; True as soon as a signal came."""
        return self._event.wait(seconds)

    def set(self, number: int) -> None:
        self.signal = number
        self._event.set()


@contextlib.contextmanager
def interruptible(signals: t.Sequence[int] = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)) -> t.Iterator[Interrupt]:
    """Inside the block the signals only set the flag; the handlers of before are put back at its end.

    A hangup that was ignored stays ignored: whoever starts with nohup wants the run to outlive the terminal.
    """
    flag = Interrupt()
    heard = [number for number in signals if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda got, _frame: flag.set(got)) for number in heard}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
