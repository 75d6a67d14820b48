#!/usr/bin/python
# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A proven archive of everything that a mesh is made of."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mesh_backup
short_description: Saves everything that a service mesh is made of
version_added: 0.1.0
author:
  - the servicemesh.migration authors (@servicemesh-migration)
description:
  - Finds all kinds of Istio, of the Gateway API and of the vendors' groups by discovery, and saves all their objects. Services,
    workloads and ServiceAccounts that these refer to are saved too, and the namespaces that they live in. Secrets and ConfigMaps
    are saved when they are asked for.
  - Everything is read as it was at one moment (one resourceVersion for all kinds). Lists of several pages are counted against the
    API server. What changed while the backup was made is told in RV(drift).
  - The archive is a C(.tar.zst) file with one YAML file an object, an index with a hash for each, and a manifest. The same
    objects give the same files. It has mode V(0600), and gets its name only after all of it was read back and proven. A run that
    is killed leaves nothing that could be taken for a backup.
  - What the cluster or another tool makes by itself is left out, and told in RV(left_out).
  - When a whole archive with the very same content, for the same key, is in O(dest) already, no new one is made.
extends_documentation_fragment:
  - servicemesh.migration._attributes
  - servicemesh.migration._attributes.actiongroup
  - servicemesh.migration._clusters.source
  - servicemesh.migration._backup_keys
attributes:
  check_mode:
    support: full
    details:
      - Everything is read and counted, and nothing is written. Each kind is read as it is at that moment, not all kinds as they
        were at one.
  diff_mode:
    support: full
  idempotent:
    support: full
requirements:
  - zstandard (Python package) >= 0.21.0
  - pyrage (Python package) >= 1.1.0
  - cryptography (Python package) >= 3.3
options:
  dest:
    description:
      - The folder of the archives, on the host that the module runs on. It is made with mode V(0700).
    type: path
    required: true
  name:
    description:
      - What the archive's name begins with. The time and a part of its hash follow.
    type: str
    default: mesh
  namespaces:
    description:
      - Only objects of these namespaces. All namespaces when it is empty. Kinds that have no namespace are saved in any case.
    type: list
    elements: str
    default: []
  groups:
    description:
      - The API groups whose kinds are all saved, in which V(*) stands for anything. Name the groups of other vendors here.
    type: list
    elements: str
    default: ["*.istio.io", gateway.networking.k8s.io, istio.alibabacloud.com, servicemesh.alibabacloud.com]
  more_kinds:
    description:
      - Further kinds of which all objects are saved, as V(policy/PodDisruptionBudget), or V(Endpoints) for the core group.
    type: list
    elements: str
    default: []
  skip_kinds:
    description:
      - Kinds that are not saved, written as in O(more_kinds).
    type: list
    elements: str
    default: []
  services:
    description:
      - Which Services are saved. V(referred) are those that mesh objects name as a host or a backend, and those of gateways.
    type: str
    choices: [none, referred, all]
    default: referred
  workloads:
    description:
      - Which Deployments, StatefulSets and DaemonSets are saved. V(referred) are those behind the saved Services, those that mesh
        objects choose by labels, and those that ask for a sidecar themselves. Their ServiceAccounts are saved with them.
      - V(all) saves all ServiceAccounts, too.
    type: str
    choices: [none, referred, all]
    default: referred
  secrets:
    description:
      - Which Secrets are saved. V(referred) are those that gateways serve TLS with.
      - They are saved with encryption only, so a key must be given.
    type: str
    choices: [none, referred, all]
    default: none
  config_maps:
    description:
      - Whether ConfigMaps are saved.
    type: str
    choices: [none, all]
    default: none
  crds:
    description:
      - Which CustomResourceDefinitions are saved. V(referred) are those of the kinds of which something is saved.
      - M(servicemesh.migration.mesh_restore) writes them only when its option O(servicemesh.migration.mesh_restore#module:crds)
        says so.
    type: str
    choices: [none, referred]
    default: referred
  encrypt:
    description:
      - What is encrypted when a key is given. Without a key nothing is.
      - V(all) encrypts every object. V(secrets) encrypts Secrets, all kinds that hold free text (workloads, ConfigMaps,
        EnvoyFilters, WasmPlugins) and objects with something that looks like a secret. The other files can be read by anybody
        who has the archive.
      - Ansible Vault takes 6 milliseconds an object, age 0.1.
    type: str
    choices: [all, secrets]
    default: all
  age_recipients:
    description:
      - Public keys of age (V(age1...)) or SSH. The archive can be read with the private key of any of them.
    type: list
    elements: str
    default: []
seealso:
  - module: servicemesh.migration.mesh_backup_info
  - module: servicemesh.migration.mesh_restore
"""

EXAMPLES = r"""
- name: Save the mesh, encrypted for the operators' key
  servicemesh.migration.mesh_backup:
    source:
      kubeconfig: ~/.kube/ack
    dest: /srv/backups
    secrets: referred
    age_recipients:
      - age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p

- name: Two namespaces and the objects of another vendor
  servicemesh.migration.mesh_backup:
    dest: /srv/backups
    name: shop
    namespaces: [shop, checkout]
    groups: ["*.istio.io", "*.example.com"]
    more_kinds: [policy/PodDisruptionBudget]
"""

RETURN = r"""
plan:
  description: What was changed, or would be changed in check mode.
  returned: always
  type: list
  elements: dict
  contains:
    action:
      description: V(save).
      type: str
      returned: always
    target:
      description: The archive.
      type: str
      returned: always
    before:
      description: Its value before.
      type: raw
      returned: always
    after:
      description: What is in it.
      type: raw
      returned: always
    reason:
      description: Why it is made.
      type: str
      returned: always
notes:
  description: Things to know that are no change.
  returned: always
  type: list
  elements: str
archive:
  description: The archive with the present state. Empty in check mode when there is none yet.
  returned: success
  type: str
objects:
  description: How many objects are in it.
  returned: success
  type: int
counts:
  description: How many there are of each kind.
  returned: success
  type: dict
content_sha256:
  description: The hash of all objects. It is the same when the same is saved again.
  returned: success
  type: str
lists:
  description: What was read, kind by kind (C(kind), C(mode), C(listed), C(saved), C(resource_version)).
  returned: success
  type: list
  elements: dict
left_out:
  description: What is not in the archive (C(kind), C(why), C(count), and the first C(names)).
  returned: success
  type: list
  elements: dict
drift:
  description: What changed in the cluster while the backup was made. The archive holds the state before. In check mode there is
    no archive, and nothing is looked for.
  returned: success
  type: dict
  contains:
    changes:
      description: How many objects changed.
      type: int
      returned: always
    kinds:
      description: Which ones, kind by kind (C(kind), C(count), C(changes)).
      type: list
      elements: dict
      returned: always
    unknown:
      description: Kinds of which the API server could not tell.
      type: list
      elements: str
      returned: always
sealed:
  description: How many objects are encrypted, by the kind of key.
  returned: success
  type: dict
exposed:
  description: Objects that look as if they held secrets and are not encrypted, because no key is given (C(count), C(objects)).
  returned: success
  type: dict
error:
  description: What went wrong, as data (what, where, why, todo, done, not_done).
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.servicemesh.migration.plugins.module_utils._backup._backup_run import (
    backup_spec,
    key_spec,
    run_module,
)
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import run
from ansible_collections.servicemesh.migration.plugins.module_utils._core._specs import source_spec


def main() -> None:
    """Options, and one call."""
    module = AnsibleModule(argument_spec={**source_spec(), **key_spec(), **backup_spec()}, supports_check_mode=True)
    run(module, run_module)


if __name__ == "__main__":
    main()
