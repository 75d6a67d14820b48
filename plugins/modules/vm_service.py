#!/usr/bin/python
# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services of virtual machines in the mesh: registration, routes, canaries, faults."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_service
short_description: Registers virtual machines as services of the mesh, with their routes, canaries and faults
version_added: 0.1.0
author:
  - the servicemesh.migration authors (@servicemesh-migration)
description:
  - Describes services that run on virtual machines (VMs) to the mesh, many in one call. A service is one entry of O(services).
  - Three parts of it can be written alone (O(parts)). These are its VMs, the service itself, and its routes.
  - What is not described any more is taken away again, exactly. Objects that the module made are deleted. A VirtualService or a
    DestinationRule of the user that wishes were put into gets its old spec back.
  - Nothing of somebody else's is overwritten. An object that is there and differs is a conflict, and so is one of ours that
    somebody changed. All conflicts of all services are told at once.
  - No route is written that sends requests to VMs of which none is registered and healthy, and no VM is taken away that is the
    last one for a route, unless O(allow_unserved) says so.
  - The API server checks every write before the first one is done (server-side dry run).
  - Objects are written in the order that loses no request. What routes need comes first, then the routes, and what they needed
    before goes last.
extends_documentation_fragment:
  - servicemesh.migration._attributes
  - servicemesh.migration._attributes.actiongroup
  - servicemesh.migration._clusters.source
  - servicemesh.migration._clusters.target
  - servicemesh.migration._vm_services
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
  target:
    description:
      - The API server that holds the configuration of the mesh (the kinds of Istio), when this is another one than O(source).
        Without O(target.kubeconfig), O(target.host) and O(target.in_cluster) it is O(source).
      - Services are always in O(source).
  state:
    description:
      - V(present) makes the services as they are described.
      - V(absent) takes away what this migration made for them, and puts back what it wrote into. Of a service only
        O(services[].name), O(services[].namespace), O(services[].selector), O(services[].group) and O(services[].workloads) count
        then. With O(services[].workloads) only these VMs leave, and the part V(service) stays while other VMs are registered.
    type: str
    choices: [present, absent]
    default: present
  parts:
    description:
      - What of the services is looked at and written. What is not named stays as it is.
      - V(workloads) is the VMs (WorkloadEntry).
      - V(service) is Service, ServiceEntry and WorkloadGroup.
      - V(routes) is DestinationRule, VirtualServices, Gateways and the Services in front of these.
    type: list
    elements: str
    choices: [workloads, service, routes]
    default: [workloads, service, routes]
  on_conflict:
    description:
      - What happens when a service cannot be made as it is described.
      - V(fail) writes nothing at all. V(skip) leaves these services as they are, tells them in a warning, and writes the others.
    type: str
    choices: [fail, skip]
    default: fail
  allow_unserved:
    description:
      - Whether routes may send requests to VMs of which none is registered and healthy, and whether what is still sent to may go.
    type: bool
    default: false
  settle_seconds:
    description:
      - Seconds between what routes need and the routes, and between the routes and what they needed before. Proxies hear of both
        separately.
    type: float
    default: 2
seealso:
  - module: servicemesh.migration.vm_preflight
  - module: servicemesh.migration.route_weight
"""

EXAMPLES = r"""
- name: A service on two VMs, the second with a new version that gets a fifth of the requests
  servicemesh.migration.vm_service:
    migration: vms
    source:
      kubeconfig: ~/.kube/cce
    services:
      - name: forecast
        namespace: vmns
        service_account: vmsa
        ports:
          - {port: 8080, name: http}
        workloads:
          - {address: 192.168.1.3, labels: {version: v1}}
          - {address: 192.168.1.4, labels: {version: v2}}
        subsets:
          - {name: v1, labels: {version: v1}}
          - {name: v2, labels: {version: v2}}
        weights: {v1: 80, v2: 20}
        canaries:
          - subset: v2
            match: {headers: {end-user: {exact: tester}}}

- name: The same service without the second version, with a fault for what comes from the mesh
  servicemesh.migration.vm_service:
    migration: vms
    source:
      kubeconfig: ~/.kube/cce
    parts: [routes]
    services:
      - name: forecast
        namespace: vmns
        ports:
          - {port: 8080, name: http}
        subsets:
          - {name: v1, labels: {version: v1}}
        faults:
          - abort: {http_status: 599}
            match: {gateways: [mesh]}

- name: Take everything away
  servicemesh.migration.vm_service:
    migration: vms
    source:
      kubeconfig: ~/.kube/cce
    services:
      - {name: forecast, namespace: vmns}
    state: absent
"""

RETURN = r"""
services:
  description: The answer for each service.
  returned: success
  type: list
  elements: dict
  contains:
    service:
      description: Its namespace and name, like V(vmns/forecast).
      type: str
      returned: always
    objects:
      description:
        - What became of each object, with C(kind), C(namespace), C(name), C(action), C(reason) and C(differences) (path, present
          value, wanted value).
        - C(action) is V(create), V(update), V(edit) (wishes put into an object of the user's), V(restore), V(delete), V(same),
          V(kept), V(conflict) or V(refused).
      type: list
      elements: dict
      returned: always
    workloads:
      description:
        - Each VM that was named, with C(address), C(name) of its entry, C(registration) (V(made), V(auto) or nothing when it has
          no entry) and C(healthy) (null when nobody checks it).
      type: list
      elements: dict
      returned: always
    problems:
      description: Why nothing of it was written, with O(on_conflict=skip).
      type: list
      elements: str
      returned: always
plan:
  description: What was changed, or would be changed in check mode, in this order.
  returned: always
  type: list
  elements: dict
  contains:
    action:
      description: V(create), V(update), V(edit), V(restore) or V(delete).
      type: str
      returned: always
    target:
      description: The object, like V(source/vmns/VirtualService/forecast).
      type: str
      returned: always
    before:
      description: Its spec before.
      type: raw
      returned: always
    after:
      description: Its spec after.
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
error:
  description: What went wrong, as data (what, where, why, todo, done, not_done, details).
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
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._service_run import vm_service
from ansible_collections.servicemesh.migration.plugins.module_utils._vm._service_spec import vm_service_spec


def main() -> None:
    """Options, and one call."""
    module = AnsibleModule(
        argument_spec={**source_spec(), **target_spec(), **state_spec(), **wait_spec(), **vm_service_spec()},
        supports_check_mode=True,
    )
    run(module, vm_service)


if __name__ == "__main__":
    main()
