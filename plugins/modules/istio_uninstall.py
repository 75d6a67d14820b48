#!/usr/bin/python
# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of Istio in a cluster, and its return."""

from __future__ import annotations

DOCUMENTATION = r"""
module: istio_uninstall
short_description: Removes an Istio that nothing uses any more, or brings it back
version_added: 0.1.0
author:
  - the servicemesh.migration authors (@servicemesh-migration)
description:
  - Removes the control plane of a self-managed Istio, its webhooks, gateways, rights and configuration, object by object, when it
    is proven that nothing uses it.
  - It is refused, before the first write, while a pod has a sidecar of Istio or is in its ambient mode, a gateway of Istio can be
    reached through a load balancer or node port or has clients, a route of the target leads to what would be removed, a proxy is
    connected to istiod, a webhook or Service that is not of the installation needs istiod, or a workload without pods counts on
    Istio's injection.
  - Whose a proxy is, is told by what it is (O(target_proxy)), not by labels.
  - What is removed is what C(istioctl uninstall --dry-run) names (O(istioctl)), or what Istio's own labels and its helm release
    say. What ASM owns or shares stays, each in RV(left) with its reason. Those are CustomResourceDefinitions, the namespace, all
    Secrets, Services of type LoadBalancer, what ASM's gateways and proxies use, and components that all control planes share.
    What is not known is listed and left.
  - C(istioctl uninstall --purge) is never run, and istioctl never removes anything.
  - Webhooks go first, so that no pod fails to be made for want of an istiod. Then the pods are looked at once more. Then what
    runs goes, and when its pods have ended the rest. Every object is named in RV(plan) and removed by its UID, and a whole copy
    of it is kept before.
  - In the end all of it is gone and the target's pods that were ready are ready.
notes:
  - A run that was killed anywhere is continued by running it again.
  - Secrets are never read. Those that hold a mesh's root, C(cacerts) and C(istio-ca-secret), stay for the way back.
extends_documentation_fragment:
  - servicemesh.migration._attributes
  - servicemesh.migration._attributes.actiongroup
  - servicemesh.migration._clusters.source
  - servicemesh.migration._clusters.target
  - servicemesh.migration._state
  - servicemesh.migration._state.wait
attributes:
  check_mode:
    support: full
    details:
      - What an earlier step of the migration would have moved away is a warning in check mode. Gateways are looked at once.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  state:
    description:
      - V(absent) removes Istio.
      - V(restored) brings back what this migration removed, in the other order, with the webhooks when istiod is ready, and sees
        by a dry run that Istio injects again.
    type: str
    choices: [absent, restored]
    default: absent
  namespace:
    description:
      - The namespace of Istio's control plane.
    type: str
    default: istio-system
  revisions:
    description:
      - Only these revisions of Istio (C(istio.io/rev)). What they share with others stays. All of them when it is empty.
    type: list
    elements: str
    default: []
  istioctl:
    description:
      - Path of an istioctl of the installed version, where this module runs. It is asked what it would remove (C(--dry-run)), and
        only that is removed. It needs O(source.kubeconfig).
      - Without it Istio's labels, and the helm release of istiod, say what is Istio's.
    type: path
  target_proxy:
    description:
      - What the proxies of the target are known by. When nothing is set, a proxy with any C(ASM_ID) in its environment is one.
        Every other proxy counts as Istio's.
    type: dict
    default: {}
    suboptions:
      asm_id:
        description:
          - The id of the ASM instance, in C(ASM_ID) of its proxies.
        type: str
      discovery_address:
        description:
          - The address of the control plane, like V(istiod-1-24.istio-system.svc). Port and cluster domain do not count.
        type: str
      image:
        description:
          - A part of the proxy's image, like V(/acs/proxyv2:).
        type: str
  proof:
    description:
      - V(proxies) also asks istiod who is connected to it, and the gateways that would be removed what they do, through the API
        server (C(pods/portforward)). V(pods) believes what the pods and Services are.
    type: str
    choices: [proxies, pods]
    default: proxies
  quiet_seconds:
    description:
      - So long a gateway that would be removed must pass on nothing.
    type: float
    default: 10
  dormant:
    description:
      - What is done when CronJobs, or workloads that are scaled to 0, would get their next sidecar from Istio's webhooks and from
        no other. V(refuse) removes nothing. V(ignore) goes on; they are in RV(proof.dormant).
    type: str
    choices: [refuse, ignore]
    default: refuse
seealso:
  - module: servicemesh.migration.sidecar_inject
  - module: servicemesh.migration.gateway_retire
  - module: servicemesh.migration.asm_migration
"""

EXAMPLES = r"""
- name: See what would be removed, what would be left, and what still uses Istio
  servicemesh.migration.istio_uninstall:
    migration: shop
    source:
      kubeconfig: ~/.kube/ack
    target:
      kubeconfig: ~/.kube/asm
  check_mode: true
  diff: true
  register: planned

- name: Remove what the istioctl of the installed version names
  servicemesh.migration.istio_uninstall:
    migration: shop
    source:
      kubeconfig: ~/.kube/ack
    target:
      kubeconfig: ~/.kube/asm
    target_proxy:
      asm_id: "{{ asm_mesh_id }}"
    istioctl: /opt/istio-1.20.8/bin/istioctl

- name: Bring Istio back
  servicemesh.migration.istio_uninstall:
    migration: shop
    source:
      kubeconfig: ~/.kube/ack
    target:
      kubeconfig: ~/.kube/asm
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
      description: The object, like V(source/istio-system/Deployment/istiod).
      type: str
      returned: always
    before:
      description: Its UID, when it is removed.
      type: raw
      returned: always
    after:
      description: The object, when it is brought back.
      type: raw
      returned: always
    reason:
      description: By what it is known as Istio's.
      type: str
      returned: always
left:
  description: What looks like Istio's, or lies in its namespace, and stays.
  returned: success
  type: list
  elements: dict
  contains:
    object:
      description: The object.
      type: str
      returned: always
    reason:
      description: Why it stays.
      type: str
      returned: always
  sample:
    - {"object": "source/istio-system/Secret/cacerts", "reason": "no Secret is ever removed"}
proof:
  description: What was seen of the use of Istio.
  returned: success
  type: dict
  contains:
    sidecars:
      description: The number of pods with a sidecar of Istio.
      type: int
      returned: with O(state=absent)
    ambient:
      description: The number of pods in the ambient mode.
      type: int
      returned: with O(state=absent)
    gateways:
      description: Pods of gateways that go with Istio.
      type: list
      elements: str
      returned: with O(state=absent)
    other_gateways:
      description: Pods of gateways of Istio that are not of its installation.
      type: list
      elements: str
      returned: with O(state=absent)
    target:
      description: The number of pods with a proxy of the target.
      type: int
      returned: with O(state=absent)
    target_asm_id:
      description: The C(ASM_ID) by which they are known; empty for any.
      type: str
      returned: with O(state=absent)
    control_planes:
      description: istiod's Services that are removed, as C(name.namespace).
      type: list
      elements: str
      returned: with O(state=absent)
    istiod_clients:
      description: For each istiod the proxies that are connected to it, or why it could not be asked.
      type: dict
      returned: with O(state=absent)
    gateway_clients:
      description:
        - For each pod of RV(proof.gateways) what it said last, with C(clients) (connections, V(null) where it does not count
          them), C(connections) (with those of probes), C(active) and C(total) (requests that it passed on). Or why it could not
          be asked.
      type: dict
      returned: with O(state=absent)
    dormant:
      description: Workloads without pods that count on Istio's injection.
      type: list
      elements: str
      returned: with O(state=absent)
    target_pods:
      description:
        - The target's pods that were ready before (C(ready_before)), those of them that are still there, and those that are
          C(not_ready) now.
      type: dict
      returned: when something was removed
    injects:
      description: Whether a dry run showed that Istio injects again; V(null) when it could not be tried.
      type: bool
      returned: with O(state=restored), when something was removed before
seconds:
  description: How long it took.
  returned: success
  type: float
notes:
  description: Things to know that are no change.
  returned: always
  type: list
  elements: str
error:
  description: What went wrong, as data (what, where, why, todo, done, not_done). All refusals are in C(details.refusals).
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import run
from ansible_collections.servicemesh.migration.plugins.module_utils._core._specs import (
    source_spec,
    state_spec,
    target_spec,
    wait_spec,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._uninstall_run import run_module


def main() -> None:
    """Options, and one call."""
    known_by = {name: {"type": "str"} for name in ("asm_id", "discovery_address", "image")}
    module = AnsibleModule(
        argument_spec={
            **source_spec(),
            **target_spec(),
            **state_spec(),
            **wait_spec(),
            "state": {"type": "str", "choices": ["absent", "restored"], "default": "absent"},
            "namespace": {"type": "str", "default": "istio-system"},
            "revisions": {"type": "list", "elements": "str", "default": []},
            "istioctl": {"type": "path"},
            "target_proxy": {"type": "dict", "default": {}, "options": known_by},
            "proof": {"type": "str", "choices": ["proxies", "pods"], "default": "proxies"},
            "quiet_seconds": {"type": "float", "default": 10},
            "dormant": {"type": "str", "choices": ["refuse", "ignore"], "default": "refuse"},
        },
        supports_check_mode=True,
    )
    run(module, run_module)


if __name__ == "__main__":
    main()
