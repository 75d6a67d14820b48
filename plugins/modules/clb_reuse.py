#!/usr/bin/python
# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module clb_reuse. The thought is in module_utils/_mesh/_reuse*.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: clb_reuse
short_description: Makes the CLB of a gateway usable by a second gateway, and gives it back
version_added: 0.1.0
author:
  - the servicemesh.migration authors (@servicemesh-migration)
description:
  - A classic load balancer (CLB) that the cloud-controller-manager (CCM) made for a Service cannot be used by a second Service.
    This module makes it usable, in the one order that every version of the CCM survives with traffic on it.
  - "The order is: annotate the source's Service while the load balancer still has the CCM's tags, so that the CCM stops at it;
    set weighted schedulers; rename the vServer groups; remove exactly two tags, C(kubernetes.do.not.delete) and
    C(ack.aliyun.com); make the CCM look again, and wait until the load balancer shows that it works."
  - Each step is proven by reading the load balancer before the next one. An event C(EnsuredLoadBalancer) is no proof.
  - O(state=absent) goes the same way back, and restores annotations, tags, names of vServer groups, schedulers and the protection
    as they were. When the journal is lost, they are derived from the Service and from what the CCM wrote into the load balancer.
  - Everything that would break is refused before the first write, with all reasons at once.
notes:
  - A run that was killed anywhere is continued by running it again, with O(state=present) or O(state=absent).
  - Rights of the access key are checked before the first write, by writing values that are there already.
extends_documentation_fragment:
  - servicemesh.migration._attributes
  - servicemesh.migration._attributes.actiongroup
  - servicemesh.migration._alibaba
  - servicemesh.migration._clusters.source
  - servicemesh.migration._clusters.target
  - servicemesh.migration._gateways
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
  state:
    description:
      - V(present) makes the load balancers of all O(gateways) reusable.
      - V(absent) gives them back to the CCM. The target gateway must be gone first.
    type: str
    choices: [present, absent]
    default: present
  ccm_version:
    description:
      - The version of the cloud-controller-manager, like V(v2.11.2).
      - By default it is read from the image of C(cloud-controller-manager) in C(kube-system). A managed cluster hides it; then
        the strictest rules of all versions are used.
    type: str
seealso:
  - module: servicemesh.migration.clb_info
  - module: servicemesh.migration.asm_gateway
  - module: servicemesh.migration.clb_weight
"""

EXAMPLES = r"""
- name: Let a second gateway use the load balancer of Istio's ingress gateway
  servicemesh.migration.clb_reuse:
    migration: shop
    source:
      kubeconfig: ~/.kube/ack
    alibaba:
      region: cn-hangzhou
    gateways:
      - target_gateway: ingressgateway-asm

- name: Give it back
  servicemesh.migration.clb_reuse:
    migration: shop
    source:
      kubeconfig: ~/.kube/ack
    alibaba:
      region: cn-hangzhou
    gateways:
      - target_gateway: ingressgateway-asm
    state: absent
"""

RETURN = r"""
gateways:
  description: How far each gateway is.
  returned: success
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
    address:
      description: Its address.
      type: str
    ccm_version:
      description: The version whose rules were used, V(unknown) for the strictest ones.
      type: str
    reusable:
      description: Whether a second gateway can use it.
      type: bool
    delete_protection:
      description: V(on) or V(off).
      type: str
    groups:
      description: The vServer group of each port.
      type: dict
      sample: {"80": "rsp-bp1kaqd000000", "443": "rsp-bp1jyz0000000"}
    schedulers:
      description: The scheduler of each listener.
      type: dict
      sample: {"80": "wrr", "443": "wrr"}
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
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._reuse_module import clb_reuse


def main() -> None:
    """Entry point."""
    spec = {
        **source_spec(),
        **target_spec(),
        **alibaba_spec(),
        **state_spec(),
        **wait_spec(),
        **gateways_spec(),
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "ccm_version": {"type": "str"},
    }
    run(AnsibleModule(argument_spec=spec, supports_check_mode=True), clb_reuse)


if __name__ == "__main__":
    main()
