#!/usr/bin/python
# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module asm_cluster. The thought is in module_utils/_mesh/_asm_cluster.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: asm_cluster
short_description: Adds a cluster to an ASM instance, or removes it, and fetches the kubeconfig of the instance
version_added: 0.1.0
author:
  - the servicemesh.migration authors (@servicemesh-migration)
description:
  - Adds an ACK or registered cluster to an instance of Alibaba Cloud Service Mesh (ASM), and waits until the cluster works in it.
  - Before the first write it is refused when the instance is not running or older than 1.24, when the cluster is unknown, not
    running, older than 1.21 or in another mesh, and when ASM itself says that the cluster may not join, with the reason.
  - The namespace C(istio-system) is never removed from a cluster that leaves a mesh.
  - A cluster is removed only when no pod of it has a proxy of the mesh; O(source) is needed to see that.
  - With O(kubeconfig_path) the kubeconfig of the instance's API server is written into a file with mode V(0600). Its content is
    in no result, diff, journal or message; a fingerprint of it is.
  - A file that is not a kubeconfig of the same API server is never overwritten.
notes:
  - A run that was killed anywhere is continued by running it again.
  - ASM answers before it has done what it was asked for. A join that fails is reported with the reason that ASM gives.
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
      - The id of the ASM instance. Needed, but with O(state=restored), which finds it in the journal.
    type: str
  cluster_id:
    description:
      - The id of the ACK cluster, as its console shows it. Needed, but with O(state=restored).
    type: str
  state:
    description:
      - V(present) adds the cluster to the mesh.
      - V(absent) removes it.
      - V(restored) removes it when this migration added it. It knows that from the journal. Without O(mesh_id) and O(cluster_id),
        ASM is asked nothing when the journal names no cluster.
      - V(queried) leaves it as it is, and tells how it is.
    type: str
    choices: [present, absent, restored, queried]
    default: present
  ignore_namespace_check:
    description:
      - Add the cluster though it has a namespace C(istio-system). A migration from Istio in the same cluster needs this.
    type: bool
    default: false
  discovery_only:
    description:
      - Add the cluster for service discovery only.
    type: bool
    default: false
  kubeconfig_path:
    description:
      - Where the kubeconfig of the ASM instance is written.
    type: path
  kubeconfig_private:
    description:
      - Ask for the kubeconfig with the address inside of the VPC.
    type: bool
    default: false
seealso:
  - module: servicemesh.migration.asm_migration
  - module: servicemesh.migration.asm_network
"""

EXAMPLES = r"""
- name: Add the cluster that has Istio to the mesh, and keep the mesh's kubeconfig
  servicemesh.migration.asm_cluster:
    migration: shop
    alibaba:
      region: cn-hangzhou
    mesh_id: cb8963379255149cb98c8686f274x0000
    cluster_id: c80f45444b3da447da60a911390c20000
    ignore_namespace_check: true
    kubeconfig_path: ~/.kube/asm

- name: See how the cluster is
  servicemesh.migration.asm_cluster:
    migration: shop
    alibaba:
      region: cn-hangzhou
    mesh_id: cb8963379255149cb98c8686f274x0000
    cluster_id: c80f45444b3da447da60a911390c20000
    state: queried

- name: Take the cluster out of the mesh again
  servicemesh.migration.asm_cluster:
    migration: shop
    source:
      kubeconfig: ~/.kube/ack
    alibaba:
      region: cn-hangzhou
    mesh_id: cb8963379255149cb98c8686f274x0000
    cluster_id: c80f45444b3da447da60a911390c20000
    state: absent
"""

RETURN = r"""
mesh:
  description: The ASM instance.
  returned: success
  type: dict
  sample: {"id": "cb89...", "name": "prod", "state": "running", "version": "v1.24.6.64-g5c8f1f4b-aliyun"}
cluster:
  description: The cluster in the mesh; its state is V(absent) when it is not in it.
  returned: success
  type: dict
  sample: {"id": "c80f...", "name": "shop", "state": "running", "version": "v1.30.1-aliyun.1", "error": ""}
kubeconfig:
  description: Where the kubeconfig lies, its API servers, and when its certificate ends. Never its content.
  returned: success
  type: dict
  sample:
    path: ~/.kube/asm
    servers: ["https://203.0.113.7:6443"]
    expires: "2029-01-01 00:00:00"
    fingerprint: 9f86d081884c7d65
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
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._asm_cluster import run_module


def main() -> None:
    """Options, and one call."""
    spec = {
        **source_spec(),
        **alibaba_spec(),
        **state_spec(),
        **wait_spec(),
        "mesh_id": {"type": "str"},
        "cluster_id": {"type": "str"},
        "state": {"type": "str", "choices": ["present", "absent", "restored", "queried"], "default": "present"},
        "ignore_namespace_check": {"type": "bool", "default": False},
        "discovery_only": {"type": "bool", "default": False},
        "kubeconfig_path": {"type": "path"},
        "kubeconfig_private": {"type": "bool", "default": False},
    }
    run(AnsibleModule(argument_spec=spec, supports_check_mode=True), run_module)


if __name__ == "__main__":
    main()
