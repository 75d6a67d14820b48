#!/usr/bin/python
# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The traffic of gateways, moved step by step while gates judge it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: traffic_shift
short_description: Moves live traffic to the target gateways step by step, judged by gates, and back when they fail
version_added: 0.1.0
author:
  - the servicemesh.migration authors (@servicemesh-migration)
description:
  - Goes through a staircase of shares in one process. For each step it moves the traffic of all gateways as
    M(servicemesh.migration.clb_weight) does, holds it, judges it by gates at least ten times a second, and goes on only when
    all of them pass.
  - A gate that fails ends the way up at once, and the traffic goes back by O(on_fail), within a second or so of the verdict.
    A step that is still undecided after its C(max_hold) ends in the same way. Nothing passes by silence.
  - Before the first step the gates must pass with the traffic as it is. When they do not, nothing is moved.
  - It begins where the traffic is. A run that was killed is continued by the same task. Steps that are reached are not repeated;
    the hold that was cut short is judged again.
  - While it runs, live lines are shown (connection C(local)), and written as JSON to
    C(<state_dir>/<migration>/progress.jsonl).
  - It takes orders while it runs. Write V(pause), V(resume), V(abort) (stay) or V(rollback) (back to 0) into the file
    C(<state_dir>/<migration>/control), or into the annotation C(servicemesh.migration/control) of a source Service. An order
    stands until it is taken away; V(abort) and V(rollback) refuse the next run too. Any other word pauses.
  - When pods or nodes of the gateways come or go during a hold, the weights are planned anew for the same share.
  - The task fails when not all steps passed; the result then says what was done, and which share is in effect.
  - Only one run of a migration moves traffic at a time; it holds a lock in O(state_dir).
extends_documentation_fragment:
  - servicemesh.migration._attributes
  - servicemesh.migration._attributes.actiongroup
  - servicemesh.migration._clusters.source
  - servicemesh.migration._clusters.target
  - servicemesh.migration._alibaba
  - servicemesh.migration._gateways
  - servicemesh.migration._stairs
  - servicemesh.migration._gates
  - servicemesh.migration._state
  - servicemesh.migration._state.wait
attributes:
  check_mode:
    support: full
    details:
      - All steps are planned, with their weights. Gates are not run.
  diff_mode:
    support: full
  idempotent:
    support: full
  async:
    description: Supports being used with the C(async) keyword.
    support: none
    details:
      - The task is long by nature and bounded in time; its progress can only be shown while it is waited for.
options:
  wait_timeout:
    description:
      - Seconds that one move may take until the load balancer shows it.
seealso:
  - module: servicemesh.migration.clb_weight
  - module: servicemesh.migration.clb_info
"""

EXAMPLES = r"""
- name: Move the traffic to ASM in five steps, judged from outside through the load balancer
  servicemesh.migration.traffic_shift:
    migration: shop
    source:
      kubeconfig: ~/.kube/ack
    target:
      kubeconfig: ~/.kube/asm
    alibaba:
      region: cn-hangzhou
    gateways:
      - target_gateway: ingressgateway-asm
    steps: [1, 5, 25, 50, 100]
    hold: 120
    gates:
      - name: shop over HTTPS
        probe:
          url: https://shop.example.com/healthz
          connect: 198.51.100.10
          min_success: 99.9
          window: 60
          min_requests: 500
    soak: 300

- name: Longer holds at small shares, and one step back when a gate fails
  servicemesh.migration.traffic_shift:
    migration: shop
    gateways:
      - target_gateway: ingressgateway-asm
    steps:
      - {share: 1, hold: 600, max_hold: 1200}
      - {share: 10, hold: 300}
      - {share: 100, hold: 60}
    on_fail: previous
    on_interrupt: rollback
    gates:
      - name: the target alone
        probe:
          url: http://shop.example.com/
          connect: 10.10.1.10:31380
          consecutive_failures: 3

- name: Give everything back to the source
  servicemesh.migration.traffic_shift:
    migration: shop
    gateways:
      - target_gateway: ingressgateway-asm
    steps: [0]
    hold: 0
    allow_down: true
    gates: []
    allow_without_gates: true
"""

RETURN = r"""
verdict:
  description:
    - How it ended. V(pass), V(fail) (a gate failed), V(inconclusive) (undecided for too long), V(aborted) (by an order),
      V(interrupted) (by a signal) or V(error) (a move failed).
  returned: when not in check mode
  type: str
  sample: pass
reason:
  description: Why it ended so.
  returned: when not in check mode
  type: str
share:
  description: The share in percent that is in effect now; as asked, or as it was found when nothing was moved.
  returned: success or after a step
  type: float
  sample: 100
steps:
  description: The steps that were begun, or (check mode) all that would be done.
  returned: always
  type: list
  elements: dict
  contains:
    step:
      description: Its place in O(steps), from 1.
      type: int
      returned: always
    asked:
      description: The share that was asked for, in percent.
      type: float
      returned: always
    planned:
      description: The share that the whole weights of the backends give, in percent. With several gateways the one farthest away.
      type: float
      returned: always
    observed:
      description: The share that the weights in the load balancer gave then, in percent. The listener farthest from the plan.
      type: float
      returned: when not in check mode
    gateways:
      description: For each gateway its weights and shares.
      type: list
      elements: dict
      returned: always
    moved:
      description: Whether the traffic had to be moved for this step, or was there already.
      type: bool
      returned: always
    started:
      description: When the step began, ISO 8601 UTC.
      type: str
      returned: when not in check mode
    ended:
      description: When the step was judged, ISO 8601 UTC.
      type: str
      returned: when not in check mode
    held_s:
      description: Seconds that it was held, without pauses.
      type: float
      returned: when not in check mode
    verdict:
      description: What the gates, or what ended the step, said.
      type: str
      returned: when not in check mode
    numbers:
      description: For each gate its state, reason and numbers at that time.
      type: dict
      returned: when not in check mode
    replans:
      description: How often the weights were planned anew because backends came or went.
      type: int
      returned: when not in check mode
soak:
  description: The judgement after the last step, with asked, held_s, verdict and numbers; V(null) when there was none.
  returned: when not in check mode
  type: dict
rolled_back:
  description: The way back, with C(to), C(ok), C(planned), C(observed), C(verdict_at) and C(error); V(null) when there was none.
  returned: when not in check mode
  type: dict
timings:
  description:
    - C(started), C(ended), C(seconds), C(baseline_s), C(longest_verdict_gap_s).
    - After a way back also C(verdict_at), and the seconds from the verdict to the first write (C(first_write_s)), to the last one
      (C(last_write_s)), and until the load balancer showed the weights (C(verdict_to_weights_s)).
  returned: when not in check mode
  type: dict
gateways:
  description: Each gateway as it is now, with weights, number of backends, and shares by listener.
  returned: always
  type: list
  elements: dict
plan:
  description: What was changed, or would be changed in check mode; each with action, target, before, after and reason.
  returned: always
  type: list
  elements: dict
notes:
  description: Other things to know.
  returned: always
  type: list
  elements: str
run:
  description: The id of this run in the journal and in the progress lines.
  returned: success or after a step
  type: str
progress:
  description: The file of the progress lines.
  returned: when not in check mode
  type: str
error:
  description: What went wrong, in parts, with C(what), C(where), C(why), C(todo), C(done) and C(not_done).
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import run
from ansible_collections.servicemesh.migration.plugins.module_utils._core._specs import (
    alibaba_spec,
    gateways_spec,
    source_spec,
    state_spec,
    target_spec,
    wait_spec,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gate_kinds import gates_spec
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._shift import shift
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._stairs import stairs_spec


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **source_spec(),
            **target_spec(),
            **alibaba_spec(),
            **gateways_spec(),
            **gates_spec(),
            **state_spec(),
            **wait_spec(),
            **stairs_spec(),
        },
        supports_check_mode=True,
    )
    run(module, shift)


if __name__ == "__main__":
    main()
