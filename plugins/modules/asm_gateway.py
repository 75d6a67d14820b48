#!/usr/bin/python
# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ASM gateway beside Istio's, behind the same load balancer, without traffic."""

from __future__ import annotations

DOCUMENTATION = r"""
module: asm_gateway
short_description: Builds an ASM gateway like a running Istio gateway, behind the same CLB, without traffic
version_added: 0.1.0
author:
  - the servicemesh.migration authors (@servicemesh-migration)
description:
  - Makes an IstioGateway that is a clone of the source gateway. Ports, target ports, traffic policy, resources, autoscaling or
    replicas, readiness probe, affinity, tolerations, node selector, environment, lifecycle, rollout, volumes, and the user's own
    labels and annotations are carried over. What IstioGateway has no field for is listed in RV(notes).
  - The IstioGateway joins the vServer groups of the source's load balancer with weight 0, and with listeners left alone
    (C(force-override-listeners) is always written as V(false); ASM's own default overrides listeners).
  - The module waits until the pods are ready and the backends are in every vServer group with weight 0, and proves that no
    listener changed. It fails as soon as a pod cannot start, with the pod's own reason.
  - The weight of an IstioGateway that exists is never touched; M(servicemesh.migration.clb_weight) owns it.
  - The source must have been made reusable by M(servicemesh.migration.clb_reuse) before. In check mode that is assumed, with a
    warning.
  - IstioGateway is written in version V(v1beta1) of its API group, the one in ASM's documentation, when it is served, and
    otherwise in the version that the API server prefers.
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
      - V(present) makes the gateways, or mends what differs from the source gateway.
      - V(absent) removes the gateways that this migration made. It refuses while one has traffic. It makes sure that the Service
        cannot take listeners with it, lets clients leave (O(drain_seconds)) and the pods end their connections first, waits until
        the backends are gone, and proves that the listeners are what they were.
    type: str
    choices: [present, absent]
    default: present
  drain_seconds:
    description:
      - Seconds that clients with a kept connection have to leave by themselves before the pods are removed (O(state=absent)).
      - It ends earlier when all pods say that they have no connection any more.
    type: float
    default: 60
  cluster_id:
    description:
      - The id of the ACK cluster, for C(spec.clusterIds). By default it is read from what the cloud-controller-manager wrote into
        the load balancer.
    type: str
  overrides:
    description:
      - Fields of the IstioGateway's C(spec), merged last into the clone of every gateway of this call. V(null) removes a field.
      - Ports, type, cluster, and the annotations of load balancer, groups, weight and listeners cannot be overridden.
    type: dict
    default: {}
seealso:
  - module: servicemesh.migration.clb_reuse
  - module: servicemesh.migration.clb_weight
  - module: servicemesh.migration.mesh_config
"""

EXAMPLES = r"""
- name: Build the ASM gateway beside Istio's, without traffic
  servicemesh.migration.asm_gateway:
    migration: shop
    source:
      kubeconfig: ~/.kube/ack
    target:
      kubeconfig: ~/.kube/asm
    alibaba:
      region: cn-hangzhou
    gateways:
      - target_gateway: ingressgateway-asm

- name: The same, with more memory than Istio's gateway has
  servicemesh.migration.asm_gateway:
    migration: shop
    gateways:
      - source_service: istio-ingressgateway
        target_gateway: ingressgateway-asm
    overrides:
      resources:
        limits:
          memory: 4Gi

- name: Remove it again; the listeners stay
  servicemesh.migration.asm_gateway:
    migration: shop
    gateways:
      - target_gateway: ingressgateway-asm
    state: absent
"""

RETURN = r"""
plan:
  description: What was changed, or would be changed in check mode; each with RV(plan[].action), target, before, after and reason.
  returned: always
  type: list
  elements: dict
  contains:
    action:
      description: V(create), V(update), V(annotate), V(empty) or V(delete).
      type: str
      returned: always
    target:
      description: The object, like V(target/istio-system/IstioGateway/ingressgateway-asm).
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
  description: What could not be carried over, and other things to know.
  returned: always
  type: list
  elements: str
api_version:
  description: The version in which IstioGateway is written; V(null) when the target does not serve it.
  returned: success
  type: str
  sample: istio.alibabacloud.com/v1beta1
gateways:
  description: The answer for each gateway, in the order of the option.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The name of the IstioGateway.
      type: str
      returned: always
    namespace:
      description: Its namespace.
      type: str
      returned: always
    action:
      description: V(create), V(update), V(delete) or V(none).
      type: str
      returned: always
    seen:
      description:
        - What was seen at the end; empty in check mode. C(pods) that are available, C(shares) in percent by port, and the
          C(seconds) that it took. After a removal also C(drained), V(true) when no pod had a connection any more, V(false) when
          some had at the end of C(drain_seconds), V(null) when the pods could not be asked.
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
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._gateway_run import run_module


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
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "drain_seconds": {"type": "float", "default": 60},
            "cluster_id": {"type": "str"},
            "overrides": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    run(module, run_module)


if __name__ == "__main__":
    main()
