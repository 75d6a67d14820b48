# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role as its users run it: all molecule scenarios, in the lab that the other tests share."""

from __future__ import annotations

import pytest

from dev.checks import molecule
from dev.steps import StepFailed
from lab.state import Lab


@pytest.mark.timeout(900)
def test_scenarios(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_NAME", lab.name)
    monkeypatch.setenv("LAB_KEEP", "1")  # the scenario `default` leaves this lab to the session that made it
    try:
        molecule()
    except StepFailed as failure:
        pytest.fail(f"{failure}\nSee the output above; `make molecule` runs it alone.", pytrace=False)
