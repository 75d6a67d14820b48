# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this doc fragment is **PRIVATE** to the collection. It can have breaking changes at any time.
from __future__ import annotations


class ModuleDocFragment:
    """The steps of a staircase, and what happens when one is not passed."""

    DOCUMENTATION = r"""
options:
  steps:
    description:
      - The shares of the traffic, in percent, that the target is to get, one after the other.
      - A step is a number, or a dictionary with C(share), C(hold) and C(max_hold) (in seconds; as O(hold) and O(max_hold) when
        they are not set).
      - A load balancer only has whole weights, so the share that can be had is often another one. RV(steps[].asked),
        RV(steps[].planned) and RV(steps[].observed) are three numbers; check mode shows the first two.
    type: list
    elements: raw
    required: true
  hold:
    description:
      - Seconds that each share is held and judged before the next step.
    type: float
    default: 60
  max_hold:
    description:
      - Seconds that a share is held at most while a gate is undecided. 60 more than the hold when it is not set.
    type: float
  allow_down:
    description:
      - Allows shares that fall from step to step, and a last share below the present one.
    type: bool
    default: false
  on_fail:
    description:
      - Where the traffic goes when a gate fails, when a step stays undecided, or when a move fails half way.
      - V(zero) gives all of it back to the source. V(previous) goes to the share before this step. V(hold) leaves it as it is.
    type: str
    choices: [zero, previous, hold]
    default: zero
  on_interrupt:
    description:
      - What is done on SIGTERM, SIGINT and SIGHUP, and when the C(ansible-playbook) that started the task is gone. A move that
        has begun is always finished first.
      - V(hold) leaves the share that is in effect. V(rollback) gives all traffic back to the source.
    type: str
    choices: [hold, rollback]
    default: hold
  baseline_timeout:
    description:
      - Seconds that the gates have to pass before the first step.
    type: float
    default: 30
  soak:
    description:
      - Seconds that the gates go on judging after the last step, and in a run that finds the last share reached already. When
        they fail, the traffic goes back by O(on_fail) too.
    type: float
    default: 0
  max_pause:
    description:
      - Seconds that all pauses of a run may last together. After them the run ends and the share stays.
    type: float
    default: 3600
"""
