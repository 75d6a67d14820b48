#!/usr/bin/python
# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module clb_weight. The thought is in module_utils/_traffic/{_shares,_move_state,_mover}.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: clb_weight
short_description: Moves a share of the traffic between two gateways behind one CLB
version_added: 0.1.0
author:
  - the servicemesh.migration authors (@servicemesh-migration)
description:
  - Gives the target gateway the asked share of the traffic, by the weight annotations of the two Services behind a classic load
    balancer (CLB) that M(servicemesh.migration.clb_reuse) made usable for both.
  - A weight of an annotation is no percentage. The module plans the two integer weights that come nearest to the asked share for
    the nodes and pods that there are now, counted as the cloud-controller-manager (CCM) counts them, and says which share was
    asked, planned and observed.
  - The side that gets more is written first. The other side is lowered only after the load balancer shows weights over 0 and
    healthy backends of the first side in every vServer group. The sum of the weights is never 0.
  - It waits until the load balancer shows exactly the planned weights. When nodes or pods come or go meanwhile, it plans again.
  - Nothing is written when something would make the CCM misunderstand it, like a node without C(spec.providerID), a scheduler
    that does not look at weights, or listeners that the CCM may take over.
notes:
  - While a run of M(servicemesh.migration.traffic_shift) of the same migration moves the traffic it is refused after 30 seconds,
    because that run would take the share back a moment later. Give that run the order V(rollback) or V(abort) instead.
  - When the CCM takes all backends of a gateway away in the middle of a move, they are put back at once through the API of the
    load balancer, and the module fails.
  - On the way back (share 0) a load balancer that does not show the weights after 0.4 seconds gets them through its API too.
extends_documentation_fragment:
  - servicemesh.migration._attributes
  - servicemesh.migration._attributes.actiongroup
  - servicemesh.migration._alibaba
  - servicemesh.migration._clusters.source
  - servicemesh.migration._clusters.target
  - servicemesh.migration._state
  - servicemesh.migration._state.wait
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  share:
    description:
      - The percent of the traffic that the target is to get, V(0) to V(100). Fractions are allowed.
      - A share between V(0) and V(100) never takes all traffic away from one of the gateways.
      - V(0) is also right when there is no target gateway (any more).
    type: raw
  gateways:
    description:
      - The gateways, each a pair of a Service of the source mesh and an IstioGateway of the target mesh behind one load balancer.
      - All of them are moved at the same time, and the answer is given for each.
    type: list
    elements: dict
    required: true
    suboptions:
      namespace:
        description: The namespace of both.
        type: str
        default: istio-system
      source_service:
        description: The Service of type LoadBalancer of the source gateway.
        type: str
        default: istio-ingressgateway
      target_gateway:
        description: The name of the IstioGateway. Its Deployment and Service are named C(istio-<target_gateway>).
        type: str
        required: true
      load_balancer_id:
        description: The id of the load balancer; by default it is found through the Service.
        type: str
      share:
        description: The share of this gateway, instead of O(share).
        type: raw
  reason:
    description: A word on why, for the journal.
    type: str
seealso:
  - module: servicemesh.migration.clb_info
  - module: servicemesh.migration.clb_reuse
  - module: servicemesh.migration.traffic_shift
  - plugin: servicemesh.migration.share_plan
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Give the ASM gateway a quarter of the traffic
  servicemesh.migration.clb_weight:
    migration: shop
    source:
      kubeconfig: ~/.kube/ack
    target:
      kubeconfig: ~/.kube/asm
    alibaba:
      region: cn-hangzhou
    gateways:
      - target_gateway: ingressgateway-asm
    share: 25

- name: Take everything back
  servicemesh.migration.clb_weight:
    migration: shop
    source:
      kubeconfig: ~/.kube/ack
    target:
      kubeconfig: ~/.kube/asm
    alibaba:
      region: cn-hangzhou
    gateways:
      - target_gateway: ingressgateway-asm
    share: 0
"""

RETURN = r"""
gateways:
  description: The answer for each gateway, also when another one failed.
  returned: when the gateways could be read
  type: list
  elements: dict
  contains:
    namespace:
      description: The namespace.
      type: str
    source_service:
      description: The Service of the source.
      type: str
    target_gateway:
      description: The IstioGateway.
      type: str
    load_balancer_id:
      description: The load balancer.
      type: str
    mode:
      description: How the backends are made, V(cluster), V(local) or V(eni).
      type: str
    asked:
      description: The share that was asked, in percent.
      type: float
      sample: 5.0
    planned:
      description: The nearest share that weights can give.
      type: float
      sample: 4.761905
    observed:
      description: The share that the load balancer's weights give. Of several listeners the one that is farthest from the plan.
      type: float
      sample: 4.762
    shares:
      description: The observed share of each listener.
      type: dict
      sample: {"80": 4.762, "443": 4.762}
    source_weight:
      description: The weight in the annotation of the source's Service.
      type: int
    target_weight:
      description: The weight in the annotation of the target's Service.
      type: int
    planned_source_weight:
      description: The planned one.
      type: int
    planned_target_weight:
      description: The planned one.
      type: int
    source_backends:
      description: How many backends the source has.
      type: int
    target_backends:
      description: How many backends the target has.
      type: int
    writes:
      description: What was written, and when, in seconds since the move began.
      type: list
      elements: dict
      sample: [{"time": 0.08, "what": "weight 5 at target/istio-system/IstioGateway/ingressgateway-asm"}]
    seconds:
      description: How long it took until the load balancer showed it.
      type: float
    error:
      description: What failed for this gateway.
      type: dict
plan:
  description: What was (in check mode - what would be) changed, in this order.
  returned: always
  type: list
  elements: dict
  contains:
    action:
      description: The verb.
      type: str
    target:
      description: The object.
      type: str
    before:
      description: The value of before.
      type: raw
    after:
      description: The new value.
      type: raw
    reason:
      description: Why it is changed.
      type: str
notes:
  description: What the reader should know about the plan.
  returned: always
  type: list
  elements: str
error:
  description: What failed, where, why, and what to do; what was changed already and what not.
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
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._weight_module import clb_weight


def main() -> None:
    """Entry point."""
    spec = {
        **source_spec(),
        **target_spec(),
        **alibaba_spec(),
        **state_spec(),
        **wait_spec(),
        **gateways_spec(),
        "share": {"type": "raw"},
        "reason": {"type": "str"},
    }
    spec["gateways"]["options"]["share"] = {"type": "raw"}
    run(AnsibleModule(argument_spec=spec, supports_check_mode=True), clb_weight)


if __name__ == "__main__":
    main()
