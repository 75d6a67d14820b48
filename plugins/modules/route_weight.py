#!/usr/bin/python
# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The routes of VirtualServices, moved step by step while gates judge it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: route_weight
short_description: Moves routes of VirtualServices from one destination to another step by step, judged by gates, and back
version_added: 0.1.0
author:
  - the servicemesh.migration authors (@servicemesh-migration)
description:
  - Moves the weights of routes from one destination to another, like from Istio's egress gateway to ASM's, in the same steps,
    with the same gates, orders and progress lines as M(servicemesh.migration.traffic_shift).
  - A VirtualService can be on several API servers, one of each mesh. All of them are moved in the same step (O(routes[].meshes)).
  - Only the weights of the two destinations change. A destination that is not in the route yet is added to it, with the header
    rules of the other. Further destinations of a route keep their weights.
  - No destination gets traffic that has nobody to take it. A Service must have a ready pod, another host a ServiceEntry, and a
    subset its DestinationRule.
  - A step counts as moved when the proxies have it (O(proof)), not when it is stored.
  - Weights that somebody else changed meanwhile are never overwritten; the task says who should be asked and stops. It knows
    them by the annotation C(servicemesh.migration/route-weights) of the VirtualService.
  - Objects that the new way needs (ServiceEntry, Gateway, VirtualService, DestinationRule, IstioGateway) can be given in
    O(objects). They are made before the first step. What is there already and differs is refused.
  - O(state=restored) puts the original weights back, byte for byte, and takes away exactly what was made.
  - It begins where the traffic is. A run that was killed is continued by the same task.
  - Only one run of a migration moves traffic at a time; it holds a lock in O(state_dir).
extends_documentation_fragment:
  - servicemesh.migration._attributes
  - servicemesh.migration._attributes.actiongroup
  - servicemesh.migration._clusters.source
  - servicemesh.migration._clusters.target
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
  state:
    description:
      - V(moved) goes through the steps.
      - V(restored) puts back the original weights of all VirtualServices that this migration wrote to, in one step, and takes
        away what it made from O(objects). It knows both from the journal or its mirror in the cluster. O(routes), O(objects),
        O(steps) and O(gates) are not used then.
    type: str
    choices: [moved, restored]
    default: moved
  routes:
    description:
      - What is moved. Needed with O(state=moved).
      - Without O(routes[].route) and O(routes[].match), all routes of a VirtualService that send to one of the two destinations.
    type: list
    elements: dict
    default: []
    suboptions:
      namespace:
        description: Namespace of the VirtualService.
        type: str
        required: true
      name:
        description: Name of the VirtualService.
        type: str
        required: true
      route:
        description: Only the HTTP route with this name. Routes of TLS and TCP have none.
        type: str
      match:
        description:
          - Only routes (HTTP, TLS or TCP) with a match that has at least these fields, like C(port) or C(sniHosts).
        type: dict
      source:
        description: The destination that has the traffic.
        type: dict
        required: true
        suboptions:
          host:
            description: The host as in the VirtualService. A short name is a Service of the VirtualService's namespace.
            type: str
            required: true
          subset:
            description: The subset. No subset when it is not set.
            type: str
          port:
            description:
              - The port number. Any when it is not set. A destination that is added then gets the port of the other one.
            type: int
      target:
        description: The destination that gets the traffic.
        type: dict
        required: true
        suboptions:
          host:
            description: The host as in the VirtualService. A short name is a Service of the VirtualService's namespace.
            type: str
            required: true
          subset:
            description: The subset. No subset when it is not set.
            type: str
          port:
            description:
              - The port number. Any when it is not set. A destination that is added then gets the port of the other one.
            type: int
      meshes:
        description: On which meshes' API servers the VirtualService is moved.
        type: list
        elements: str
        choices: [source, target]
        default: [source, target]
  objects:
    description:
      - Objects that are made before the first step, in the order of their kinds, and that O(state=restored) takes away.
      - They get the label C(servicemesh.migration/managed-by). An object that is there and means the same is left as it is.
    type: list
    elements: dict
    default: []
    suboptions:
      mesh:
        description: The mesh for whose API server it is.
        type: str
        choices: [source, target]
        required: true
      definition:
        description: The whole object. Kinds of Istio's API groups and IstioGateways can be given.
        type: dict
        required: true
  steps:
    default: [1, 10, 50, 100]
    required: false
    description:
      - The shares of the traffic, in percent, that the target is to get, one after the other.
      - A step is a number, or a dictionary with C(share), C(hold) and C(max_hold) (in seconds; as O(hold) and O(max_hold) when
        they are not set).
      - Weights are whole numbers, and source and target have 100 together when a route has no other destination. Else they share
        what they have, and RV(steps[].planned) is the nearest that can be had.
    type: list
    elements: raw
  proof:
    description:
      - V(proxies) asks a sample of the proxies of each mesh, through the API server (C(pods/portforward)), until they have the
        weights. V(stored) believes what the API servers store.
    type: str
    choices: [proxies, stored]
    default: proxies
  proof_sample:
    description:
      - So many proxies of each mesh are asked, those in the namespace of the VirtualService first. 0 asks all.
    type: int
    default: 5
  drain_seconds:
    description:
      - Seconds between the original weights and the removal of what was made, for requests that are still under way.
    type: float
    default: 10
  wait_timeout:
    description:
      - Seconds that one move may take until the proxies have it.
seealso:
  - module: servicemesh.migration.traffic_shift
  - module: servicemesh.migration.mesh_config
"""

EXAMPLES = r"""
- name: Move what leaves the mesh from Istio's egress gateway to ASM's, in both meshes
  servicemesh.migration.route_weight:
    migration: shop
    source:
      kubeconfig: ~/.kube/ack
    target:
      kubeconfig: ~/.kube/asm
    routes:
      - namespace: shop
        name: direct-cnn-through-egress-gateway
        source: {host: istio-egressgateway.istio-system.svc.cluster.local}
        target: {host: istio-asm-egress.istio-system.svc.cluster.local}
    steps: [1, 10, 50, 100]
    hold: 120
    gates:
      - name: orders reach the bank
        prometheus:
          url: http://prometheus.monitoring:9090
          success:
            good: sum(increase(istio_requests_total{destination_service="edition.cnn.com",response_code!~"5.."}[$window]))
            total: sum(increase(istio_requests_total{destination_service="edition.cnn.com"}[$window]))
            min_success: 99.9
            min_requests: 200

- name: Put the original weights back
  servicemesh.migration.route_weight:
    migration: shop
    source:
      kubeconfig: ~/.kube/ack
    target:
      kubeconfig: ~/.kube/asm
    gates: []
    state: restored
"""

RETURN = r"""
verdict:
  description:
    - How it ended. V(pass), V(fail), V(inconclusive), V(aborted), V(interrupted) or V(error), as in
      M(servicemesh.migration.traffic_shift).
  returned: when not in check mode, with O(state=moved)
  type: str
  sample: pass
reason:
  description: Why it ended so.
  returned: when not in check mode, with O(state=moved)
  type: str
share:
  description: The share in percent that is in effect now; of several routes the lowest, when nothing was moved.
  returned: success or after a step, with O(state=moved)
  type: float
  sample: 100
steps:
  description: The steps that were begun, or (check mode) all that would be done.
  returned: with O(state=moved)
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
      description: The share that the whole weights give, in percent. Of several routes the one farthest away.
      type: float
      returned: always
    observed:
      description:
        - The share that the proxies had then, in percent, the one farthest from the plan; as stored where no proxy that was asked
          has the route, or with O(proof=stored).
      type: float
      returned: when not in check mode
    routes:
      description: As RV(routes), then.
      type: list
      elements: dict
      returned: always
    moved:
      description: Whether the traffic had to be moved for this step, or was there already.
      type: bool
      returned: always
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
soak:
  description: The judgement after the last step, with asked, held_s, verdict and numbers; V(null) when there was none.
  returned: when not in check mode, with O(state=moved)
  type: dict
rolled_back:
  description: The way back, with C(to), C(ok), C(planned), C(observed), C(verdict_at) and C(error); V(null) when there was none.
  returned: when not in check mode, with O(state=moved)
  type: dict
timings:
  description: As in M(servicemesh.migration.traffic_shift).
  returned: when not in check mode, with O(state=moved)
  type: dict
routes:
  description: Each VirtualService as it is now.
  returned: with O(state=moved)
  type: list
  elements: dict
  contains:
    mesh:
      description: The mesh on whose API server it is.
      type: str
      returned: always
    namespace:
      description: Its namespace.
      type: str
      returned: always
    name:
      description: Its name.
      type: str
      returned: always
    routes:
      description: For each route C(protocol), C(index), C(name), C(source_weight), C(target_weight) and C(share).
      type: list
      elements: dict
      returned: always
restored:
  description: What became of each VirtualService that this migration wrote to.
  returned: when not in check mode, with O(state=restored) and something to put back
  type: list
  elements: dict
  contains:
    target:
      description: The VirtualService, as C(mesh/namespace/VirtualService/name).
      type: str
      returned: always
    state:
      description:
        - V(restored); V(as_before), when its weights were already; V(gone); V(not_restored); V(not_proven), when its weights are
          back and proxies were not seen to have taken them.
      type: str
      returned: always
    reason:
      description: Why, for the last two.
      type: str
      returned: always
objects:
  description:
    - What became of each of O(objects), or of what was made from it, with C(mesh), C(kind), C(namespace), C(name), C(action),
      C(reason) and C(differences).
  returned: success
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
  returned: when not in check mode, with O(state=moved)
  type: str
error:
  description: What went wrong, in parts, with C(what), C(where), C(why), C(todo), C(done) and C(not_done).
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
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._gate_kinds import gates_spec
from ansible_collections.servicemesh.migration.plugins.module_utils._traffic._route_run import route_spec, route_weight


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **source_spec(),
            **target_spec(),
            **gates_spec(),
            **state_spec(),
            **wait_spec(),
            **route_spec(),
        },
        supports_check_mode=True,
    )
    run(module, route_weight)


if __name__ == "__main__":
    main()
