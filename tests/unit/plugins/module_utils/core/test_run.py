# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""run(): how a module's process is set up. What it answers is in test_core.py."""

from __future__ import annotations

import gc
import typing as t
from types import SimpleNamespace

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome, run


class Over(Exception):
    """Instead of the end of the process."""


def test_a_module_does_not_look_for_cycles_all_the_time() -> None:
    before = gc.get_threshold()
    seen: list[tuple[bool, tuple[int, int, int]]] = []

    def logic(_params: dict[str, t.Any], _check: bool) -> Outcome:
        seen.append((gc.isenabled(), gc.get_threshold()))
        return Outcome()

    def end(**_answer: t.Any) -> None:
        raise Over

    try:
        with pytest.raises(Over):
            run(t.cast(t.Any, SimpleNamespace(params={}, check_mode=True, _diff=False, exit_json=end)), logic)
    finally:
        gc.set_threshold(*before)
    ((on, (young, _middle, _old)),) = seen
    assert on, "a module may run for hours"
    assert young >= 10_000
