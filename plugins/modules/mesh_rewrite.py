#!/usr/bin/python
# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects of a mesh, rewritten for another mesh by rules, and back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mesh_rewrite
short_description: Rewrites the objects of a backup for another mesh, and back
version_added: 0.1.0
author:
  - the servicemesh.migration authors (@servicemesh-migration)
description:
  - Renames namespaces, hosts, subsets, labels, ports, Gateways, classes, annotations and versions of APIs in an archive of
    M(servicemesh.migration.mesh_backup), in YAML files or in plain objects, by a set of typed rules.
  - A rule changes names where the types of Istio, of the Gateway API and of Kubernetes say that such a name stands, in all forms
    that it may have there. It never replaces text.
  - Every rule reports its hits. A rule without one is an error, unless it is optional. Then everything is searched for the old
    names; one that is left is an error, unless the rule set allows its place.
  - The inverse is exact. It is computed for every object before anything is written, and what the inverse rules cannot give back
    is kept in the manifest of the new archive, encrypted where the object is. O(inverse=true) gives the very same files again.
  - All reasons against the output are told at once, and nothing is written then.
  - The rules are described in C(docs/rewrite.md).
extends_documentation_fragment:
  - servicemesh.migration._attributes
  - servicemesh.migration._attributes.actiongroup
  - servicemesh.migration._clusters.target
  - servicemesh.migration._backup_keys
attributes:
  check_mode:
    support: full
    details:
      - Everything is rewritten, searched and checked, and nothing is written.
  diff_mode:
    support: full
    details:
      - Of objects that are encrypted or may hold a secret, and of annotations, only the paths are shown.
  idempotent:
    support: full
requirements:
  - zstandard (Python package) >= 0.21.0
  - pyrage (Python package) >= 1.1.0
  - cryptography (Python package) >= 3.3
  - jsonschema (Python package) >= 4.0
options:
  archive:
    description:
      - The archive that is rewritten. It is proven as a whole first, and stays as it is.
      - Encrypted objects need their key, and are encrypted again.
    type: path
  files:
    description:
      - YAML or JSON files, and folders of them, in place of an archive. A key that is there twice is refused with its line.
      - Secrets are not taken.
    type: list
    elements: path
  objects:
    description:
      - Plain objects in place of an archive, for a look at what rules do. They come back in RV(objects). Secrets are not taken.
    type: list
    elements: dict
  dest:
    description:
      - The archive that is written. Needed for O(archive) and O(files).
    type: path
  rules:
    description:
      - The rule set. The name of one that comes with the collection (V(asm)), a file on the controller (looked up as
        M(ansible.builtin.copy) does it), its text, or a mapping.
      - Not needed to undo a rewrite, since the archive knows its rules.
    type: raw
  variables:
    description:
      - Values of variables of the rule set.
    type: dict
    default: {}
  inverse:
    description:
      - Whether the rewrite is undone. An archive that this module wrote gives back the files of the archive before it, byte for
        byte.
      - For other input the inverse rules are used alone. They must not C(merge) names.
    type: bool
    default: false
  strict:
    description:
      - Whether an object of a kind that neither the module nor the rule set knows is an error. They are listed in any case, and
        searched for old names.
    type: bool
    default: true
  force:
    description:
      - Whether an archive in O(dest) is overwritten that is not what these rules make of the input.
    type: bool
    default: false
  crds:
    description:
      - Files with CustomResourceDefinitions, or archives that hold some. Every rewritten object is checked against them. Fields
        that they do not know are errors, with a suggestion.
    type: list
    elements: path
    default: []
  crds_from_target:
    description:
      - Whether the CustomResourceDefinitions are read from O(target).
    type: bool
    default: false
  istioctl:
    description:
      - The program C(istioctl) of the target's version. C(istioctl analyze) is run over the output, without a cluster; errors
        that it finds are errors.
    type: path
  istioctl_ignore:
    description:
      - Messages of C(istioctl analyze) that do not count, as V(IST0101) or V(IST0101=VirtualService shop/*).
    type: list
    elements: str
    default: []
  age_recipients:
    description:
      - Public keys that encrypted objects are encrypted for. The public part of the key that opens them, when it is empty.
    type: list
    elements: str
    default: []
seealso:
  - module: servicemesh.migration.mesh_backup
  - module: servicemesh.migration.mesh_restore
"""

EXAMPLES = r"""
- name: See what the rules for ASM would do
  servicemesh.migration.mesh_rewrite:
    archive: /srv/backups/mesh-20260101T000000Z-0123456789ab.tar.zst
    dest: /srv/backups/mesh-for-asm.tar.zst
    rules: asm
    variables:
      target_gateway: ingressgateway-asm
    vault_password_file: ~/.vault-password
  check_mode: true
  diff: true

- name: A namespace, a Service and a subset under other names, checked against the target
  servicemesh.migration.mesh_rewrite:
    archive: /srv/backups/mesh-20260101T000000Z-0123456789ab.tar.zst
    dest: /srv/backups/mesh-renamed.tar.zst
    rules:
      rules:
        - {kind: namespace, from: shop, to: store}
        - {kind: host, from: web.shop, to: front.store}
        - {kind: subset, host: web.shop, from: v1, to: stable}
    crds: [/srv/istio/crd-all.gen.yaml]
    istioctl: /opt/istio-1.26/bin/istioctl

- name: Back again
  servicemesh.migration.mesh_rewrite:
    archive: /srv/backups/mesh-renamed.tar.zst
    dest: /srv/backups/mesh-as-before.tar.zst
    inverse: true
"""

RETURN = r"""
plan:
  description: The archive that is written, and the objects that change; at most 200, the others are counted in RV(notes).
  returned: always
  type: list
  elements: dict
  contains:
    action:
      description: V(write) for the archive, V(rewrite) for an object.
      type: str
      returned: always
    target:
      description: The archive, or the object as C(group/kind/namespace/name).
      type: str
      returned: always
    before:
      description: Paths that change, with their values before.
      type: raw
      returned: always
    after:
      description: The same paths, with their values after.
      type: raw
      returned: always
    reason:
      description: The rules.
      type: str
      returned: always
notes:
  description: Things to know that are no change.
  returned: always
  type: list
  elements: str
archive:
  description: The archive that was written, or was there already. Empty when nothing may be written.
  returned: when the input can be read
  type: str
content_sha256:
  description: The same for the same objects.
  returned: for O(archive) and O(files)
  type: str
objects:
  description: The objects, rewritten. Empty when something stands against them.
  returned: for O(objects)
  type: list
  elements: dict
rules:
  description: The rules.
  returned: when the input can be read
  type: list
  elements: dict
  contains:
    id:
      description: Its name.
      type: str
      returned: always
    kind:
      description: Its kind.
      type: str
      returned: always
    hits:
      description: How many places it changed.
      type: int
      returned: always
    places:
      description: The first 20 of them, as C(group/kind/namespace/name path).
      type: list
      elements: str
      returned: always
unused:
  description: Rules without a hit that are not optional.
  returned: when the input can be read
  type: list
  elements: str
problems:
  description: Places that cannot be rewritten (C(key), C(path), C(why)), such as a new name that is in use already.
  returned: when the input can be read
  type: list
  elements: dict
residue:
  description: Old names that are left (C(key), C(path), C(rule)).
  returned: when the input can be read
  type: list
  elements: dict
unsearched:
  description: Rules whose old name is also a new one, so that it may be anywhere.
  returned: when the input can be read
  type: list
  elements: str
not_understood:
  description: Objects of kinds that nobody knows the fields of, as C(group/kind/namespace/name).
  returned: when the input can be read
  type: list
  elements: str
invalid:
  description: What does not fit the target's schemas (C(key), C(path), C(why)).
  returned: when the input can be read
  type: list
  elements: dict
not_validated:
  description: How many objects of which kinds no given CustomResourceDefinition is for.
  returned: when the input can be read
  type: dict
analysis:
  description: Messages of C(istioctl analyze) (C(code), C(level), C(object), C(message)).
  returned: when the input can be read
  type: list
  elements: dict
counts:
  description: How many objects there are (C(objects)), how many changed (C(rewritten)), and how much stands against the output.
  returned: when the input can be read
  type: dict
error:
  description: What went wrong, as data (what, where, why, todo, details).
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.servicemesh.migration.plugins.module_utils._backup._backup_run import key_spec
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_run import rewrite_spec, run_module
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import run
from ansible_collections.servicemesh.migration.plugins.module_utils._core._specs import target_spec


def main() -> None:
    """Options, and one call."""
    module = AnsibleModule(
        argument_spec={**target_spec(), **key_spec(), **rewrite_spec()},
        mutually_exclusive=[("archive", "files", "objects")],
        required_one_of=[("archive", "files", "objects")],
        supports_check_mode=True,
    )
    run(module, run_module)


if __name__ == "__main__":
    main()
