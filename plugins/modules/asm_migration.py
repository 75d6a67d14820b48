#!/usr/bin/python
# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module asm_migration. The thought is in module_utils/_mesh/_asm_steering.py and _asm_migration.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: asm_migration
short_description: Takes a migration from Istio to ASM from one state to the next
version_added: 0.1.0
author:
  - the servicemesh.migration authors (@servicemesh-migration)
description:
  - An ASM instance to which a cluster with Istio was added steers the migration by the resource C(ASMMigrateFromIstio) named
    C(default). This module asks for one of its states, and waits until ASM says that it is reached.
  - The order is V(Init), V(SetupIstioForMigrate), V(Migrating), V(Finished). A state can neither be jumped over nor taken back;
    the module refuses both before it writes.
  - ASM checks something at each state. When a check fails, the module fails with ASM's own message. Run it again when the cause
    is mended; it then raises C(spec.retryCounter) by one, which makes ASM check again.
  - What the vendor's procedure asks for before a state is looked at in the source cluster first, when O(source) is named. For
    V(SetupIstioForMigrate) these are the versions of Kubernetes (1.21) and Istio (1.10), for V(Migrating) that every proxy of
    Istio has C(PROXY_CONFIG_XDS_AGENT), for V(Finished) that no pod has a proxy of Istio.
  - Every write is guarded by the version of the resource that was read, so that a change of somebody else is never overwritten.
notes:
  - A run that was killed anywhere is continued by running it again.
  - The vendor's example for clusters with an east-west gateway sets C(disableIstioSystemLabelReconciliation), a field that is in
    no published type; an API server drops it without a word. O(keep_istio_system_injection) sets the field of the type,
    C(stopIstioSystemInjectionDisabling), and the module proves that it was kept.
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
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  state:
    description:
      - The state that the migration shall be in.
    type: str
    required: true
    choices: [Init, SetupIstioForMigrate, Migrating, Finished]
  passed:
    description:
      - What to do when more than O(state) was asked for already.
      - With V(true) that is success, and a note says so. With V(false) it is refused, because there is no way back.
    type: bool
    default: false
  retry:
    description:
      - Whether a check that failed is asked for again. With V(false) the module fails at once with what ASM said last.
    type: bool
    default: true
  keep_istio_system_injection:
    description:
      - Sets C(spec.advancedOptions.stopIstioSystemInjectionDisabling). With V(true) ASM does not switch off the injection in
        C(istio-system), which Istio's east-west gateway needs. The label C(istio-injection) that ASM wrote before has to be
        removed by hand.
      - When it is not set it is left as it is.
    type: bool
  check_workloads:
    description:
      - Look at versions and pods of O(source) before a state is asked for. ASM makes checks of its own in any case.
    type: bool
    default: true
seealso:
  - module: servicemesh.migration.asm_cluster
  - module: servicemesh.migration.asm_network
"""

EXAMPLES = r"""
- name: Let ASM prepare Istio for two meshes that trust each other
  servicemesh.migration.asm_migration:
    migration: shop
    source:
      kubeconfig: ~/.kube/ack
    target:
      kubeconfig: ~/.kube/asm
    state: SetupIstioForMigrate

- name: Begin to move workloads, when all of them were restarted
  servicemesh.migration.asm_migration:
    migration: shop
    source:
      kubeconfig: ~/.kube/ack
    target:
      kubeconfig: ~/.kube/asm
    state: Migrating
    passed: true
"""

RETURN = r"""
migration_state:
  description: The resource as it was seen last; C(keep) is the advanced option.
  returned: success
  type: dict
  sample: {"desired": "Migrating", "state": "Migrating", "counter": 1, "done_counter": 1, "message": "", "keep": null}
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
    source_spec,
    state_spec,
    target_spec,
    wait_spec,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._asm_migration import run_module


def main() -> None:
    """Options, and one call."""
    spec = {
        **source_spec(),
        **target_spec(),
        **state_spec(),
        **wait_spec(),
        "state": {"type": "str", "required": True, "choices": ["Init", "SetupIstioForMigrate", "Migrating", "Finished"]},
        "passed": {"type": "bool", "default": False},
        "retry": {"type": "bool", "default": True},
        "keep_istio_system_injection": {"type": "bool"},
        "check_workloads": {"type": "bool", "default": True},
    }
    run(AnsibleModule(argument_spec=spec, supports_check_mode=True), run_module)


if __name__ == "__main__":
    main()
