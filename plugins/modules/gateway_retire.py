#!/usr/bin/python
# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of a source gateway, and its return."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gateway_retire
short_description: Removes a source gateway that has no traffic any more, or brings it back
version_added: 0.1.0
author:
  - the servicemesh.migration authors (@servicemesh-migration)
description:
  - Removes Service, Deployment, autoscaler and disruption budgets of a source gateway. The listeners of the load balancer stay.
  - It is done only with proof. The source has weight 0 and the target has 100 percent on every listener, the target is ready and
    healthy, a snapshot holds the gateway (M(servicemesh.migration.gateway_snapshot)), no other Service uses its pods, and the
    Service has the annotations with which the cloud-controller-manager takes only its own backends out.
  - Clients are given time to leave first. Then the pods go, with their own grace period, in which they answer what they have and
    close their connections. The Service goes last, with its annotations; its backends must leave every group, and the listeners
    are proven to be the same. A Service that went first would leave pods that answer their last clients with 404, because istiod
    finds the listener of a Gateway's port through the Service.
  - Every deletion is in RV(plan) by name and UID, and only that very object is deleted. A copy of each is kept before.
  - ServiceAccount, Role and RoleBinding are left alone.
extends_documentation_fragment:
  - servicemesh.migration._attributes
  - servicemesh.migration._attributes.actiongroup
  - servicemesh.migration._clusters.source
  - servicemesh.migration._clusters.target
  - servicemesh.migration._alibaba
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
      - V(retired) removes the source gateways.
      - V(restored) brings back what this migration removed. The pods come first; when they are ready the Service joins its groups
        with weight 0, without a change of listeners. M(servicemesh.migration.clb_weight) can give it traffic then.
    type: str
    choices: [retired, restored]
    default: retired
  drain_seconds:
    description:
      - Seconds that clients with a kept connection have to leave by themselves before the pods are removed.
      - It ends earlier when all pods say that they have no connection any more.
    type: float
    default: 60
seealso:
  - module: servicemesh.migration.gateway_snapshot
  - module: servicemesh.migration.clb_weight
"""

EXAMPLES = r"""
- name: Retire Istio's gateway; the listeners stay
  servicemesh.migration.gateway_retire:
    migration: shop
    source:
      kubeconfig: ~/.kube/ack
    target:
      kubeconfig: ~/.kube/asm
    alibaba:
      region: cn-hangzhou
    gateways:
      - target_gateway: ingressgateway-asm
    drain_seconds: 120

- name: Bring it back, without traffic
  servicemesh.migration.gateway_retire:
    migration: shop
    gateways:
      - target_gateway: ingressgateway-asm
    state: restored
"""

RETURN = r"""
plan:
  description: What was changed, or would be changed in check mode, in this order.
  returned: always
  type: list
  elements: dict
  contains:
    action:
      description: V(delete) or V(create).
      type: str
      returned: always
    target:
      description: The object, like V(source/istio-system/Service/istio-ingressgateway).
      type: str
      returned: always
    before:
      description: Its value before.
      type: raw
      returned: always
    after:
      description: Its value after.
      type: raw
      returned: always
    reason:
      description: Why it is changed.
      type: str
      returned: always
notes:
  description: Things to know that are no change.
  returned: always
  type: list
  elements: str
gateways:
  description: The answer for each gateway, in the order of the option.
  returned: success
  type: list
  elements: dict
  contains:
    namespace:
      description: Its namespace.
      type: str
      returned: always
    source_service:
      description: The name of the Service.
      type: str
      returned: always
    snapshot:
      description: The snapshot that holds it.
      type: str
      returned: always
    seen:
      description:
        - What was seen. C(drained) is V(true) when no pod had a connection any more, V(false) when some had at the end of
          C(drain_seconds), V(null) when the pods could not be asked. C(seconds) is how long a return took.
      type: dict
      returned: always
error:
  description: What went wrong, as data (what, where, why, todo, done, not_done).
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
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._retire_run import run_module


def main() -> None:
    """Options, and one call."""
    module = AnsibleModule(
        argument_spec={
            **source_spec(),
            **target_spec(),
            **alibaba_spec(),
            **gateways_spec(),
            **state_spec(),
            **wait_spec(),
            "state": {"type": "str", "choices": ["retired", "restored"], "default": "retired"},
            "drain_seconds": {"type": "float", "default": 60},
        },
        supports_check_mode=True,
    )
    run(module, run_module)


if __name__ == "__main__":
    main()
