#!/usr/bin/python
# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mesh configuration, copied to the target's API server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mesh_config
short_description: Copies mesh configuration from the source to the target API server, and compares both
version_added: 0.1.0
author:
  - the servicemesh.migration authors (@servicemesh-migration)
description:
  - Copies objects of all kinds of Istio (networking, security, telemetry, extensions), in the version that the target serves. By
    default these are the objects that the gateways need. That is the Gateways that select their pods, the VirtualServices bound
    to these Gateways and those that they delegate to, the DestinationRules and ServiceEntries of their hosts, and filters and
    policies that act on the pods. O(scope=all) takes all objects.
  - Selectors that choose the source gateway's pods are rewritten so that they choose the target gateway's pods.
  - Each object is compared by its meaning. It is only in the source, or the same, or different, or only in the target. What the
    target has otherwise is a conflict. It is listed with its differences, and never overwritten unless O(on_conflict=update).
    What only the target has is listed and left alone.
  - The target checks every write before the first one is done (server-side dry run; in check mode see O(rehearse)). What it does
    not take is listed in RV(items), each with the reason. These are kinds that it does not serve, fields that it would drop,
    objects that its API server or its webhooks refuse, and EnvoyFilters for other versions of the proxy. Nothing is written then,
    unless O(on_refused=skip).
  - Objects are written in the order of their dependencies, several at the same time.
  - What was written is marked with the label C(servicemesh.migration/managed-by) and a hash of its content.
  - Secrets are not copied. Those that the Gateways serve TLS with are listed in RV(secrets).
extends_documentation_fragment:
  - servicemesh.migration._attributes
  - servicemesh.migration._attributes.actiongroup
  - servicemesh.migration._clusters.source
  - servicemesh.migration._clusters.target
  - servicemesh.migration._alibaba
  - servicemesh.migration._gateways
  - servicemesh.migration._state
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
      - V(present) copies.
      - V(absent) removes what this migration wrote and nobody changed since, and puts back what it overwrote. It refuses while a
        target gateway has traffic. Namespaces that this migration made are removed when nothing else is in them.
    type: str
    choices: [present, absent]
    default: present
  scope:
    description:
      - V(gateway) takes what the gateways need; V(all) takes all objects of all kinds of Istio that the source serves.
      - O(kinds), O(namespaces), O(names) and O(label_selector) narrow either.
    type: str
    choices: [gateway, all]
    default: gateway
  kinds:
    description:
      - Only these kinds. All kinds when it is empty.
    type: list
    elements: str
    choices:
      - AuthorizationPolicy
      - DestinationRule
      - EnvoyFilter
      - Gateway
      - PeerAuthentication
      - ProxyConfig
      - RequestAuthentication
      - ServiceEntry
      - Sidecar
      - Telemetry
      - TrafficExtension
      - VirtualService
      - WasmPlugin
      - WorkloadEntry
      - WorkloadGroup
    default: []
  namespaces:
    description:
      - Only objects of these namespaces.
    type: list
    elements: str
    default: []
  names:
    description:
      - Only objects with one of these names, in which C(*) stands for anything.
    type: list
    elements: str
    default: []
  label_selector:
    description:
      - Only objects of the source that this label selector chooses, like V(team=shop).
    type: str
  target_selector:
    description:
      - The labels that choose the target gateway's pods. By default this is the label C(istio) with the name of the IstioGateway,
        which the ASM controller sets.
    type: dict
    default: {}
  target_version:
    description:
      - The version of Istio that the target's proxies have, like V(1.24.6). With it an EnvoyFilter of which no patch is for this
        version (C(match.proxy.proxyVersion)) is refused. Without it such filters are told in RV(notes).
    type: str
  on_conflict:
    description:
      - What happens when the target has an object otherwise, and this migration did not write it or somebody changed it since.
      - V(fail) writes nothing at all. V(skip) leaves these objects and writes the others. V(update) overwrites them, and keeps a
        copy for O(state=absent).
    type: str
    choices: [fail, skip, update]
    default: fail
  on_refused:
    description:
      - What happens when the target does not take an object.
      - V(fail) writes nothing at all. V(skip) leaves these objects out, tells them in a warning, and writes the others.
    type: str
    choices: [fail, skip]
    default: fail
  create_namespaces:
    description:
      - Whether namespaces that the target does not have are created.
    type: bool
    default: true
  rehearse:
    description:
      - About how many objects the target is asked in check mode, by server-side dry runs. A run that writes asks about every
        object before its first write, whatever this says.
      - V(sample) asks about all objects when there are no more than 200. Of more, it asks about 200 that together have each kind,
        each namespace and each field that is used, about everything that would overwrite an object of the target, and about all
        objects of a kind of which the target does not take one. RV(rehearsal) and a warning say how many those were. Whether the
        target takes the others is not known then.
      - V(all) asks about every object.
      - With O(state=absent) all that is put back is asked about.
    type: str
    choices: [all, sample]
    default: sample
seealso:
  - module: servicemesh.migration.asm_gateway
"""

EXAMPLES = r"""
- name: Copy what the gateway needs to ASM
  servicemesh.migration.mesh_config:
    migration: shop
    source:
      kubeconfig: ~/.kube/ack
    target:
      kubeconfig: ~/.kube/asm
    gateways:
      - target_gateway: ingressgateway-asm

- name: Only the routes of two namespaces, and let the source win
  servicemesh.migration.mesh_config:
    migration: shop
    gateways:
      - target_gateway: ingressgateway-asm
    kinds: [VirtualService, DestinationRule]
    namespaces: [shop, checkout]
    on_conflict: update

- name: See how the configuration of both meshes differs, all kinds, two teams
  servicemesh.migration.mesh_config:
    migration: shop
    gateways:
      - target_gateway: ingressgateway-asm
    scope: all
    label_selector: team in (shop, checkout)
    rehearse: all
  check_mode: true
  register: compared

- name: Copy the configuration of the whole mesh, but for what the target does not take
  servicemesh.migration.mesh_config:
    migration: shop
    gateways:
      - target_gateway: ingressgateway-asm
    scope: all
    target_version: 1.24.6
    on_refused: skip

- name: Take away what was copied
  servicemesh.migration.mesh_config:
    migration: shop
    gateways:
      - target_gateway: ingressgateway-asm
    state: absent
"""

RETURN = r"""
plan:
  description:
    - What was changed, or would be changed in check mode, in this order.
    - Of more than 500 objects, those that are created are counted by namespace and kind, and of those that are updated the
      differences are shown.
  returned: always
  type: list
  elements: dict
  contains:
    action:
      description: V(create), V(update), V(delete) or V(restore).
      type: str
      returned: always
    target:
      description: The object, like V(target/shop/VirtualService/shop).
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
items:
  description: The answer for each object.
  returned: when the objects could be read
  type: list
  elements: dict
  contains:
    kind:
      description: Its kind.
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
    action:
      description:
        - V(create), V(update), V(delete), V(restore) are writes. V(same) and V(kept) need none.
        - V(conflict) is in the way, V(refused) is not taken by the target. V(extra) is only in the target, and stays there.
      type: str
      returned: always
    comparison:
      description: V(only_in_source), V(same), V(differs) or V(only_in_target); empty with O(state=absent).
      type: str
      returned: always
    reason:
      description: Why.
      type: str
      returned: always
    differences:
      description: Paths that differ, as C(path, present value, wanted value); at most 20.
      type: list
      elements: str
      returned: always
    asked:
      description: Whether the target was asked about this write. A V(create) that it was not asked about may be refused later.
      type: bool
      returned: always
rehearsal:
  description: About how many of the writes the target was asked, by server-side dry runs.
  returned: when the objects could be read
  type: dict
  contains:
    asked:
      description: About so many it was asked.
      type: int
      returned: always
    of:
      description: So many are created, updated or put back, or were refused.
      type: int
      returned: always
    complete:
      description: Whether it was asked about all of them. Always so when something is written.
      type: bool
      returned: always
counts:
  description: How many objects are V(only_in_source), V(same), V(differs), V(only_in_target); empty with O(state=absent).
  returned: when the objects could be read
  type: dict
namespaces:
  description: Namespaces that are created.
  returned: when the objects could be read
  type: list
  elements: str
secrets:
  description: Secrets that the Gateways serve TLS with, and whether they are there. Their content is never read.
  returned: when the objects could be read
  type: list
  elements: dict
  contains:
    namespace:
      description: The namespace of the gateway's pods.
      type: str
      returned: always
    name:
      description: C(credentialName) of a Gateway.
      type: str
      returned: always
    exists:
      description: Whether it is there.
      type: bool
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
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._config_run import config_spec, run_module


def main() -> None:
    """Options, and one call."""
    module = AnsibleModule(
        argument_spec={
            **source_spec(),
            **target_spec(),
            **alibaba_spec(),
            **gateways_spec(),
            **state_spec(),
            **config_spec(),
        },
        supports_check_mode=True,
    )
    run(module, run_module)


if __name__ == "__main__":
    main()
