#!/usr/bin/python
# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A copy of everything that the migration of gateways changes or removes."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gateway_snapshot
short_description: Saves everything that a migration of gateways changes or removes
version_added: 0.1.0
author:
  - the servicemesh.migration authors (@servicemesh-migration)
description:
  - Saves the source gateways (Service, Deployment, autoscaler, disruption budgets, ServiceAccount, Roles and RoleBindings), the
    IstioGateways that are there already, the mesh configuration of the gateways on both sides, and the configuration of the load
    balancers with all listeners, groups and backends.
  - It is one file of mode V(0600) in C(<state_dir>/<migration>/snapshots/), with a hash of its content. It is read again and
    compared after it was written.
  - When a whole snapshot has the very same content already, no new one is made.
  - When the migration has changed something since the last snapshot, that one stays the newest, because it holds the state of
    before.
  - The data of Secrets is never read; their names are listed.
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
  refresh:
    description:
      - Makes a snapshot of the present state although the migration is under way.
    type: bool
    default: false
seealso:
  - module: servicemesh.migration.gateway_retire
"""

EXAMPLES = r"""
- name: Save everything that this migration changes or removes
  servicemesh.migration.gateway_snapshot:
    migration: shop
    source:
      kubeconfig: ~/.kube/ack
    target:
      kubeconfig: ~/.kube/asm
    alibaba:
      region: cn-hangzhou
    gateways:
      - target_gateway: ingressgateway-asm
"""

RETURN = r"""
plan:
  description: What was changed, or would be changed in check mode, in this order.
  returned: always
  type: list
  elements: dict
  contains:
    action:
      description: V(save).
      type: str
      returned: always
    target:
      description: The object, like V(/root/.ansible/servicemesh-migration/shop/snapshots).
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
path:
  description:
    - The snapshot with the present state, or with the state of before the migration when that is under way.
    - Empty in check mode when there is none yet.
  returned: success
  type: str
begun:
  description: Whether the migration has changed something since the snapshot in RV(path).
  returned: success
  type: bool
sha256:
  description: The hash of the present state.
  returned: success
  type: str
objects:
  description: The objects in it, like V(source/istio-system/Service/istio-ingressgateway).
  returned: success
  type: list
  elements: str
load_balancers:
  description: Ids of the load balancers in it.
  returned: success
  type: list
  elements: str
secrets:
  description: Secrets that the Gateways serve TLS with (C(namespace), C(name)), and whether they are there (C(exists)).
  returned: success
  type: list
  elements: dict
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
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._snapshot_run import run_module


def main() -> None:
    """Options, and one call."""
    module = AnsibleModule(
        argument_spec={
            **source_spec(),
            **target_spec(),
            **alibaba_spec(),
            **gateways_spec(),
            **state_spec(),
            "refresh": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    run(module, run_module)


if __name__ == "__main__":
    main()
