# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""As traffic_shift: runs the module and shows its progress lines meanwhile."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleActionFail

from ansible_collections.servicemesh.migration.plugins.action.traffic_shift import ActionModule as Shown


class ActionModule(Shown):
    """See the module's documentation for options and results."""

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        if self._task.async_val:
            raise AnsibleActionFail(
                "servicemesh.migration.route_weight does not run with async: nobody would see its progress or its end. "
                "Remove async and poll from the task; it is bounded in time by its own holds."
            )
        return super().run(tmp, task_vars)
