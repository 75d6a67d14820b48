# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this doc fragment is **PRIVATE** to the collection. It can have breaking changes at any time.
from __future__ import annotations


class ModuleDocFragment:
    """The keys of backups."""

    DOCUMENTATION = r"""
options:
  age_identity:
    description:
      - The text of an age or SSH private key that opens what was encrypted for it.
    type: str
  age_identity_file:
    description:
      - A file with an age or SSH private key.
    type: path
  vault_password:
    description:
      - A password of Ansible Vault. C(ansible-vault view) opens each encrypted file of the archive with it. One holds many
        objects.
    type: str
  vault_password_file:
    description:
      - A file with a password of Ansible Vault. Programs are not run.
    type: path
"""
