#!/usr/bin/python
# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is in a backup, whether it is whole, and how a cluster differs from it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mesh_backup_info
short_description: Proves a backup, and compares it with a cluster
version_added: 0.1.0
author:
  - the servicemesh.migration authors (@servicemesh-migration)
description:
  - Reads an archive of M(servicemesh.migration.mesh_backup) and proves every member of it. An archive that was cut, changed or
    made by something else is refused with the name of the first wrong member.
  - With O(compare=true) it tells what is otherwise in the cluster than in the archive. Objects are compared by their meaning.
    What the API server adds, defaults, the order of sets, and different spellings of a duration are no difference.
extends_documentation_fragment:
  - servicemesh.migration._attributes
  - servicemesh.migration._attributes.actiongroup
  - servicemesh.migration._attributes.info_module
  - servicemesh.migration._clusters.source
  - servicemesh.migration._backup_keys
requirements:
  - zstandard (Python package) >= 0.21.0
  - pyrage (Python package) >= 1.1.0
  - cryptography (Python package) >= 3.3
options:
  archive:
    description:
      - The archive.
    type: path
    required: true
  compare:
    description:
      - Whether the archive is compared with the cluster in O(source).
      - Encrypted objects are compared when a key is given. Without one, only those that nobody wrote to since are known to be the
        same.
    type: bool
    default: false
  list:
    description:
      - Whether the objects of the archive are listed.
    type: bool
    default: false
seealso:
  - module: servicemesh.migration.mesh_backup
  - module: servicemesh.migration.mesh_restore
"""

EXAMPLES = r"""
- name: Prove that the backup is whole
  servicemesh.migration.mesh_backup_info:
    archive: /srv/backups/mesh-20260101T000000Z-0123456789ab.tar.zst

- name: See what changed since
  servicemesh.migration.mesh_backup_info:
    source:
      kubeconfig: ~/.kube/ack
    archive: /srv/backups/mesh-20260101T000000Z-0123456789ab.tar.zst
    compare: true
    age_identity_file: ~/.config/age/key.txt
  register: since
  failed_when: not since.comparison.same
"""

RETURN = r"""
archive:
  description: The archive.
  returned: success
  type: str
whole:
  description: True. An archive that is not whole is an error.
  returned: success
  type: bool
manifest:
  description: What the archive says of itself (C(created), C(cluster), C(scope), C(counts), C(left_out), C(drift), C(sealed)).
  returned: success
  type: dict
objects:
  description: The objects as C(group/kind/namespace/name). The group of Services is empty.
  returned: when O(list=true)
  type: list
  elements: str
comparison:
  description: How the cluster differs from the archive.
  returned: when O(compare=true)
  type: dict
  contains:
    same:
      description: Whether nothing differs.
      type: bool
      returned: always
    counts:
      description:
        - How many objects are C(same), how many are there otherwise (C(differs)), are not there (C(missing)), or are in the
          cluster only (C(extra)).
        - C(unreadable) ones cannot be compared without a key, and C(not_served) ones have a kind that the cluster has not.
      type: dict
      returned: always
    items:
      description:
        - Objects that are not the same (C(group), C(kind), C(namespace), C(name), C(state), C(differences)); at most 200.
      type: list
      elements: dict
      returned: always
plan:
  description: Always empty. This module only reads.
  returned: always
  type: list
  elements: dict
notes:
  description: Always empty.
  returned: always
  type: list
  elements: str
error:
  description: What went wrong, as data (what, where, why, todo).
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.servicemesh.migration.plugins.module_utils._backup._backup_run import key_spec
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._info_run import run_module
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import run
from ansible_collections.servicemesh.migration.plugins.module_utils._core._specs import source_spec


def main() -> None:
    """Options, and one call."""
    module = AnsibleModule(
        argument_spec={
            **source_spec(),
            **key_spec(),
            "archive": {"type": "path", "required": True},
            "compare": {"type": "bool", "default": False},
            "list": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    run(module, run_module)


if __name__ == "__main__":
    main()
