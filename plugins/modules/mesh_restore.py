#!/usr/bin/python
# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects of a backup, put back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mesh_restore
short_description: Puts the objects of a backup into a cluster
version_added: 0.1.0
author:
  - the servicemesh.migration authors (@servicemesh-migration)
description:
  - Compares an archive of M(servicemesh.migration.mesh_backup) with the target, and writes what is missing, in the order of
    dependencies. What means the same already is left alone, so a run that broke off is continued by running it again.
  - Before the first write the API server checks every write (server-side dry run). When it does not take one of them, or would
    drop a field of it, nothing is written, and each reason is in RV(items).
  - What is overwritten or deleted is saved before the first write, as an archive of its own (RV(undo)).
  - Addresses and ports that a cluster gives out are kept when the archive is from the same cluster, and left to the target
    otherwise. References to owners get the UIDs of the new owners; a reference to an owner that is not there is left out.
extends_documentation_fragment:
  - servicemesh.migration._attributes
  - servicemesh.migration._attributes.actiongroup
  - servicemesh.migration._clusters.target
  - servicemesh.migration._backup_keys
attributes:
  check_mode:
    support: full
    details:
      - The server-side dry run is done in check mode too, so the rights to write are needed.
  diff_mode:
    support: full
  idempotent:
    support: full
requirements:
  - zstandard (Python package) >= 0.21.0
  - pyrage (Python package) >= 1.1.0
  - cryptography (Python package) >= 3.3
options:
  archive:
    description:
      - The archive. It is proven as a whole before anything of it is used.
    type: path
    required: true
  existing:
    description:
      - What happens with objects that the target has otherwise.
      - V(refuse) writes nothing at all. V(skip) leaves them as they are and writes the others. V(update) overwrites them.
    type: str
    choices: [refuse, skip, update]
    default: refuse
  namespaces:
    description:
      - Only objects of these namespaces of the archive, and objects without a namespace.
    type: list
    elements: str
    default: []
  only:
    description:
      - Only objects with one of these names, written as C(group/kind/namespace/name), in which V(*) stands for anything.
    type: list
    elements: str
    default: []
  namespace_map:
    description:
      - Names of namespaces in the archive, and the names that they get in the target. Names inside of objects stay as they are.
    type: dict
    default: {}
  crds:
    description:
      - Whether CustomResourceDefinitions that the target lacks are made from the archive, before everything else. Those that it
        has are never touched, and neither are those of kinds that are not restored.
      - Each is checked by the API server first. In check mode, objects of these kinds cannot be checked.
      - Better install the target's control plane, which brings its own.
    type: bool
    default: false
  prune:
    description:
      - Whether objects are deleted that the target has and the archive has not. This concerns only kinds and namespaces that
        the archive holds as a whole. Each one is named in RV(plan) first; look at it in check mode.
      - Namespaces, and objects that a controller made, are never deleted, nor is one that somebody changed since its copy was
        kept.
      - What is there because of the target's own control plane is kept too, with the reason in RV(items). This is what has an
        owner, GatewayClasses of its controller, and EnvoyFilters and others of Istio's or the vendor's installation.
    type: bool
    default: false
  workers:
    description:
      - How many writes are under way at the same time, at most 32.
    type: int
    default: 32
  undo_dir:
    description:
      - The folder for copies of what is overwritten or deleted.
    type: path
    default: ~/.ansible/servicemesh-migration/undo
seealso:
  - module: servicemesh.migration.mesh_backup
  - module: servicemesh.migration.mesh_backup_info
"""

EXAMPLES = r"""
- name: See what a restore would do
  servicemesh.migration.mesh_restore:
    target:
      kubeconfig: ~/.kube/ack
    archive: /srv/backups/mesh-20260101T000000Z-0123456789ab.tar.zst
    existing: skip
  check_mode: true

- name: Bring back the routes of one namespace under another name
  servicemesh.migration.mesh_restore:
    target:
      kubeconfig: ~/.kube/asm
    archive: /srv/backups/mesh-20260101T000000Z-0123456789ab.tar.zst
    only: ["networking.istio.io/VirtualService/shop/*"]
    namespace_map:
      shop: shop-rehearsal
    vault_password_file: ~/.vault-password
"""

RETURN = r"""
plan:
  description:
    - What was changed, or would be changed in check mode, in this order. More than 500 creates are counted by kind and namespace.
  returned: always
  type: list
  elements: dict
  contains:
    action:
      description: V(create), V(update) or V(delete).
      type: str
      returned: always
    target:
      description: The object, like V(target/networking.istio.io/VirtualService/shop/web).
      type: str
      returned: always
    before:
      description: Its value before.
      type: raw
      returned: always
    after:
      description: What differs, as C(path, present value, wanted value). Of objects that may hold secrets only the paths.
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
counts:
  description:
    - How many objects are C(same), are created (C(create)), are there otherwise (C(differs)), or are in the target only
      (C(extra); C(kept), when they are its control plane's own).
    - C(conflict), C(refused), C(unreadable) and C(not_served) ones stand against the restore.
  returned: when the archive is whole
  type: dict
items:
  description: Objects that are not simply the same or created; at most 300 of those that stand against nothing.
  returned: when the archive is whole
  type: list
  elements: dict
  contains:
    key:
      description: C(group/kind/namespace/name) in the target.
      type: str
      returned: always
    group:
      description: Its API group.
      type: str
      returned: always
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
    state:
      description: One of the words of RV(counts).
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
namespaces:
  description: Namespaces that are created and are not in the archive themselves.
  returned: when the archive is whole
  type: list
  elements: str
crds:
  description: Names of the CustomResourceDefinitions that were made, or would be made in check mode.
  returned: success
  type: list
  elements: str
undo:
  description: An archive of what was overwritten or deleted. Empty when there was nothing.
  returned: when the archive is whole
  type: str
written:
  description: How many objects were written or deleted.
  returned: when the archive is whole
  type: int
error:
  description: What went wrong, as data (what, where, why, todo, done, not_done).
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.servicemesh.migration.plugins.module_utils._backup._backup_run import key_spec
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._restore_run import restore_spec, run_module
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import run
from ansible_collections.servicemesh.migration.plugins.module_utils._core._specs import target_spec


def main() -> None:
    """Options, and one call."""
    module = AnsibleModule(argument_spec={**target_spec(), **key_spec(), **restore_spec()}, supports_check_mode=True)
    run(module, run_module)


if __name__ == "__main__":
    main()
