# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signals that end a run in order."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._interrupt import interruptible


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_a_flag_and_wakes_who_waits(number: int) -> None:
    outside = signal.signal(number, signal.default_int_handler)  # also where the tests themselves were started with nohup
    before = signal.getsignal(number)
    with interruptible() as flag:
        assert not flag
        assert flag.wait(0.001) is False
        timer = threading.Timer(0.05, os.kill, (os.getpid(), number))
        timer.start()
        begun = time.monotonic()
        assert flag.wait(10) is True
        assert time.monotonic() - begun < 5
        timer.join()
        assert flag
        assert flag.signal == number
    assert signal.getsignal(number) is before
    signal.signal(number, outside)


def test_handlers_are_put_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="x"), interruptible():
        raise ValueError("x")
    assert signal.getsignal(signal.SIGTERM) is before
