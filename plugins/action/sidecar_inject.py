# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""As traffic_shift: runs the module and shows its progress lines meanwhile."""

from __future__ import annotations

from ansible_collections.servicemesh.migration.plugins.action.traffic_shift import ActionModule as Shown


class ActionModule(Shown):
    """See the module's documentation for options and results."""
