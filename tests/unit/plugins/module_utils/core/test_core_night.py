# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Terminals that end at night, and what must not be in the journal in the morning."""

from __future__ import annotations

import os
import pathlib
import re
import signal

from ansible_collections.servicemesh.migration.plugins.module_utils._core import _run
from ansible_collections.servicemesh.migration.plugins.module_utils._core._interrupt import interruptible
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import secrets_of


def test_every_option_that_is_not_logged_is_a_secret_of_the_journal_too() -> None:
    """Ansible masks them in what it prints; what is written to the journal and its ConfigMap it does not see."""
    root = pathlib.Path(_run.__file__).parents[2]
    found = {
        name
        for path in [*root.glob("module_utils/**/*.py"), *root.glob("modules/*.py")]
        for name in re.findall(r'"(\w+)": [^\n]*no_log(?:": |=)True', path.read_text(encoding="utf-8"))
    }
    assert {"token", "api_key", "registry_password"} <= found
    assert sorted(secrets_of(dict(zip(sorted(found), sorted(found), strict=True)))) == sorted(found)


def test_a_hangup_that_nohup_ignores_does_not_end_a_run() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible() as flag:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not flag
            os.kill(os.getpid(), signal.SIGTERM)
            assert flag and flag.signal == signal.SIGTERM
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
