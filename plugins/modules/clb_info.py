#!/usr/bin/python
# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module clb_info. The thought is in module_utils/_mesh/_clb_info.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: clb_info
short_description: Shows who gets which share of an Alibaba Cloud CLB
version_added: 0.1.0
author:
  - the servicemesh.migration authors (@servicemesh-migration)
description:
  - Reads classic load balancers (CLB) with their listeners, schedulers, vServer groups, backends, weights and health.
  - Says for every backend which Service owns it, as the cloud-controller-manager wrote it down, and for every listener which
    share of the new connections each owner gets.
extends_documentation_fragment:
  - servicemesh.migration._attributes
  - servicemesh.migration._attributes.info_module
  - servicemesh.migration._attributes.actiongroup
  - servicemesh.migration._alibaba
  - servicemesh.migration._clusters.source
options:
  load_balancer_ids:
    description:
      - The ids of load balancers.
      - At least one of O(load_balancer_ids) and O(gateways) is needed.
    type: list
    elements: str
    default: []
  gateways:
    description:
      - Gateways whose load balancers are shown. They are looked up in the cluster O(source).
    type: list
    elements: dict
    default: []
    suboptions:
      namespace:
        description: The namespace of the gateway.
        type: str
        default: istio-system
      source_service:
        description: The Service of type LoadBalancer of the source gateway.
        type: str
        default: istio-ingressgateway
      target_gateway:
        description: The name of the IstioGateway; its Service C(istio-<target_gateway>) is asked when the source's is gone.
        type: str
        required: true
      load_balancer_id:
        description: The id of its load balancer; by default it is found through the Service.
        type: str
seealso:
  - module: servicemesh.migration.clb_reuse
  - module: servicemesh.migration.clb_weight
"""

EXAMPLES = r"""
- name: Show the load balancer of the gateway
  servicemesh.migration.clb_info:
    source:
      kubeconfig: ~/.kube/ack
    alibaba:
      region: cn-hangzhou
    gateways:
      - target_gateway: ingressgateway-asm
  register: balancer

- name: Show the share of each owner on port 443
  ansible.builtin.debug:
    msg: "{{ (balancer.load_balancers[0].listeners | selectattr('port', 'eq', 443) | first).shares }}"
"""

RETURN = r"""
load_balancers:
  description: The load balancers, in the order in which they were asked for.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: The id.
      type: str
      sample: lb-bp1onpskfeceg00000000
    name:
      description: The name.
      type: str
      sample: a3f2504e04f8911d39a0c0305e82c330
    address:
      description: The address that it listens on.
      type: str
      sample: 198.51.100.10
    status:
      description: The status, like V(active).
      type: str
      sample: active
    delete_protection:
      description: V(on) or V(off).
      type: str
      sample: "on"
    modification_protection:
      description: V(ConsoleProtection) or V(NonProtection).
      type: str
      sample: ConsoleProtection
    tags:
      description: All tags.
      type: dict
      sample: {"kubernetes.reused.by.user": "true"}
    gateways:
      description: The gateways of O(gateways) that it belongs to.
      type: list
      elements: dict
      sample: [{"namespace": "istio-system", "source_service": "istio-ingressgateway", "target_gateway": "ingressgateway-asm"}]
    listeners:
      description:
        - Its listeners by port, each with C(port), C(protocol), C(scheduler), C(group_id), C(status), C(description),
          C(persistence) (empty when nothing keeps clients at a backend), C(drain), C(owner) and C(shares).
        - C(shares) is the percent of new connections by owner. With a scheduler that does not look at weights, the backends with
          a weight over 0 are counted instead, and there is a warning.
      type: list
      elements: dict
      sample:
        - port: 443
          protocol: tcp
          scheduler: wrr
          group_id: rsp-bp1jyz0000000
          status: running
          description: k8s/443/istio-ingressgateway/istio-system/c0a1
          persistence: ""
          drain: ""
          owner: istio-system/istio-ingressgateway
          shares: {"istio-system/istio-ingressgateway": 75.0, "istio-system/istio-ingressgateway-asm": 25.0}
    groups:
      description:
        - Its vServer groups, each with C(id), C(name), C(listeners) (ports) and C(backends).
        - A backend has C(server_id), C(server_ip), C(port), C(type), C(weight), C(description), C(owner) and C(health).
      type: list
      elements: dict
      sample:
        - id: rsp-bp1jyz0000000
          name: shared-443
          listeners: [443]
          backends:
            - server_id: i-bp1
              server_ip: ""
              port: 30443
              type: ecs
              weight: 50
              description: k8s/30443/istio-ingressgateway/istio-system/c0a1
              owner: istio-system/istio-ingressgateway
              health: normal
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import run
from ansible_collections.servicemesh.migration.plugins.module_utils._core._specs import (
    alibaba_spec,
    gateways_spec,
    source_spec,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._clb_info import clb_info


def main() -> None:
    """Entry point."""
    gateways = {**gateways_spec()["gateways"], "required": False, "default": []}
    spec = {
        **source_spec(),
        **alibaba_spec(),
        "gateways": gateways,
        "load_balancer_ids": {"type": "list", "elements": "str", "default": []},
    }
    run(AnsibleModule(argument_spec=spec, supports_check_mode=True), clb_info)


if __name__ == "__main__":
    main()
