#!/usr/bin/python
# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that would go wrong, found before anything is changed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: migration_preflight
short_description: Checks clusters, gateways and load balancers before a migration
version_added: 0.1.0
author:
  - the servicemesh.migration authors (@servicemesh-migration)
description:
  - Reads both API servers and the load balancers, and runs all checks. None stops another, and what cannot be read is a finding
    too.
  - It changes nothing, in no cluster and in no load balancer.
extends_documentation_fragment:
  - servicemesh.migration._attributes
  - servicemesh.migration._attributes.info_module
  - servicemesh.migration._attributes.actiongroup
  - servicemesh.migration._clusters.source
  - servicemesh.migration._clusters.target
  - servicemesh.migration._alibaba
  - servicemesh.migration._gateways
  - servicemesh.migration._state
options:
  steps:
    description:
      - The steps that M(servicemesh.migration.traffic_shift) will be given. The share that each would really give is in the
        findings. Shares in percent, or dictionaries with C(share).
    type: list
    elements: raw
    default: [1]
  ccm_version:
    description:
      - The version of the cloud-controller-manager, like V(v2.14.0). Detected when it is empty, as far as it can be seen.
    type: str
    default: ""
  cluster_id:
    description:
      - The id of the ACK cluster, as for M(servicemesh.migration.asm_gateway).
    type: str
  mesh_id:
    description:
      - The id of the ASM instance. With it and O(workloads), ASM is asked for the network of O(cluster_id) when Istio has that
        cluster in one.
    type: str
  networks:
    description:
      - What M(servicemesh.migration.asm_network) will be given before the first workload moves. It counts instead of what ASM
        has now.
    type: list
    elements: dict
    default: []
  workloads:
    description:
      - Also check what a move of workloads needs. The versions of Kubernetes and Istio, namespaces that are injected by revision,
        quotas that leave no room for one more pod, EnvoyFilters, Istio's root certificate, the network of the cluster, and all of
        Istio's configuration instead of the gateways' alone. Which workload would not move, and why, says
        M(servicemesh.migration.sidecar_inject) in check mode.
    type: bool
    default: false
  fail_on:
    description:
      - From which severity on a finding makes the module fail.
    type: str
    choices: [error, warning, never]
    default: error
seealso:
  - module: servicemesh.migration.clb_info
"""

EXAMPLES = r"""
- name: Find all that would go wrong
  servicemesh.migration.migration_preflight:
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

- name: Only look
  servicemesh.migration.migration_preflight:
    migration: shop
    gateways:
      - target_gateway: ingressgateway-asm
    fail_on: never
  register: look
"""

RETURN = r"""
findings:
  description: What was found, errors first.
  returned: when the options name clusters and gateways
  type: list
  elements: dict
  contains:
    id:
      description: The check, like V(scheduler).
      type: str
      returned: always
    severity:
      description: V(error) (the migration would fail or do harm), V(warning) (look at it) or V(info).
      type: str
      returned: always
    subject:
      description: The object that it is about.
      type: str
      returned: always
    message:
      description: What is so.
      type: str
      returned: always
    hint:
      description: What to do about it.
      type: str
      returned: always
passed:
  description: Checks without an error or a warning.
  returned: when the options name clusters and gateways
  type: list
  elements: str
skipped:
  description: Checks whose facts could not be read; why is in RV(findings).
  returned: when the options name clusters and gateways
  type: list
  elements: str
summary:
  description: Numbers of findings by severity, and of the checks that passed and were skipped.
  returned: when the options name clusters and gateways
  type: dict
  sample: {error: 0, warning: 1, info: 9, passed: 16, skipped: 0}
error:
  description: What went wrong, as data (what, where, why, todo, done, not_done).
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.servicemesh.migration.plugins.module_utils._audit._preflight import run_module
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import run
from ansible_collections.servicemesh.migration.plugins.module_utils._core._specs import (
    alibaba_spec,
    gateways_spec,
    source_spec,
    state_spec,
    target_spec,
)


def main() -> None:
    """Options, and one call."""
    module = AnsibleModule(
        argument_spec={
            **source_spec(),
            **target_spec(),
            **alibaba_spec(),
            **gateways_spec(),
            **state_spec(),
            "steps": {"type": "list", "elements": "raw", "default": [1]},
            "ccm_version": {"type": "str", "default": ""},
            "cluster_id": {"type": "str"},
            "mesh_id": {"type": "str"},
            "networks": {"type": "list", "elements": "dict", "default": []},
            "workloads": {"type": "bool", "default": False},
            "fail_on": {"type": "str", "choices": ["error", "warning", "never"], "default": "error"},
        },
        supports_check_mode=True,
    )
    run(module, run_module)


if __name__ == "__main__":
    main()
