#!/usr/bin/python
# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module asm_network. The thought is in module_utils/_mesh/_asm_network.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: asm_network
short_description: Says in which network each cluster of an ASM instance is
version_added: 0.1.0
author:
  - the servicemesh.migration authors (@servicemesh-migration)
description:
  - Sets the network of clusters in an instance of Alibaba Cloud Service Mesh (ASM), and whether a cluster has a cross-cluster
    gateway. A mesh whose clusters are in several networks needs the names that Istio uses, and the gateways, before the first
    workload of such a cluster moves to ASM.
  - Clusters that are not named keep what they have; the module proves that.
  - O(state=restored) puts back what was there before this migration changed it first.
notes:
  - Every call names all clusters of the mesh that have a network, because it is not documented what the API does to others.
  - A run that was killed anywhere is continued by running it again.
extends_documentation_fragment:
  - servicemesh.migration._attributes
  - servicemesh.migration._attributes.actiongroup
  - servicemesh.migration._alibaba
  - servicemesh.migration._alibaba.asm
  - servicemesh.migration._clusters.source
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
  mesh_id:
    description:
      - The id of the ASM instance. With O(state=restored) it can be left out, for the journal knows it.
    type: str
  state:
    description:
      - V(present) sets O(networks).
      - V(restored) takes back what this migration set.
    type: str
    choices: [present, restored]
    default: present
  networks:
    description:
      - The clusters, each with its network. Needed with O(state=present).
      - What is not set stays as it is.
    type: list
    elements: dict
    suboptions:
      cluster_id:
        description:
          - The id of the ACK cluster.
        type: str
        required: true
      network:
        description:
          - The name of the network, the same as in Istio, like V(network-1).
        type: str
      enable_gateway:
        description:
          - Whether the cluster is reached through a cross-cluster gateway of ASM. It needs ASM 1.22.
        type: bool
      custom_gateway_address:
        description:
          - The address of a gateway of your own in front of the cluster, like V(192.0.2.7:15443).
        type: str
seealso:
  - module: servicemesh.migration.asm_cluster
  - module: servicemesh.migration.asm_migration
"""

EXAMPLES = r"""
- name: The networks of Istio, also in ASM
  servicemesh.migration.asm_network:
    migration: shop
    alibaba:
      region: cn-hangzhou
    mesh_id: cb8963379255149cb98c8686f274x0000
    networks:
      - cluster_id: c80f45444b3da447da60a911390c20000
        network: network-1
        enable_gateway: true
      - cluster_id: cf0ba3b5c6d7e8f90a1b2c3d4e5f60000
        network: network-2
        enable_gateway: true

- name: As it was
  servicemesh.migration.asm_network:
    migration: shop
    alibaba:
      region: cn-hangzhou
    mesh_id: cb8963379255149cb98c8686f274x0000
    state: restored
"""

RETURN = r"""
networks:
  description: The network of each cluster of the mesh, by the id of the cluster.
  returned: success
  type: dict
  sample:
    c80f45444b3da447da60a911390c20000:
      network: network-1
      enable_gateway: true
      custom_gateway_address: ""
      gateway_name: asm-cross-network-c80f45444b
seconds:
  description: How long it took.
  returned: success
  type: float
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
    source_spec,
    state_spec,
    wait_spec,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._asm_network import run_module


def main() -> None:
    """Options, and one call."""
    network = {
        "cluster_id": {"type": "str", "required": True},
        "network": {"type": "str"},
        "enable_gateway": {"type": "bool"},
        "custom_gateway_address": {"type": "str"},
    }
    spec = {
        **source_spec(),
        **alibaba_spec(),
        **state_spec(),
        **wait_spec(),
        "mesh_id": {"type": "str"},
        "state": {"type": "str", "choices": ["present", "restored"], "default": "present"},
        "networks": {"type": "list", "elements": "dict", "options": network},
    }
    module = AnsibleModule(
        argument_spec=spec, supports_check_mode=True, required_if=[("state", "present", ["mesh_id", "networks"])]
    )
    run(module, run_module)


if __name__ == "__main__":
    main()
