# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this doc fragment is **PRIVATE** to the collection. It can have breaking changes at any time.
from __future__ import annotations


class ModuleDocFragment:
    """Where a migration is remembered, and how long something is waited for."""

    DOCUMENTATION = r"""
options:
  migration:
    description:
      - The name of the migration. It names the journal, which keeps the original values for the way back.
      - Lower case letters, digits and V(-), at most 63 characters.
    type: str
    required: true
  state_dir:
    description:
      - The folder of the journals. It is made with mode V(0700).
      - The journal is also mirrored to the ConfigMap C(servicemesh-migration-<migration>) of the source cluster, so that a run
        in a fresh container goes on where the last one stopped.
      - When it is not set, the environment variable E(SERVICEMESH_MIGRATION_STATE_DIR) is used.
    type: path
    default: ~/.ansible/servicemesh-migration
"""

    WAIT = r"""
options:
  wait_timeout:
    description:
      - Seconds that the effect of all changes may take until it is seen. The module fails when it is not seen by then.
    type: float
    default: 300
"""
