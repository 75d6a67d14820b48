# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds the rule set on the controller, as ``copy`` finds its source, and gives its text to the module."""

from __future__ import annotations

import pathlib
import re
import typing as t

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase

# Rule sets that come with the collection; playbooks/files is where a collection keeps the files of its playbooks.
SHIPPED = pathlib.Path(__file__).resolve().parents[2] / "playbooks" / "files" / "rulesets"


class ActionModule(ActionBase):  # type: ignore[misc] # ansible has no types
    """See the module's documentation for options and results."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        rules = arguments.get("rules")
        if isinstance(rules, str) and "\n" not in rules:
            arguments["rules"] = self._text(rules)
        return dict(self._execute_module(module_args=arguments, task_vars=task_vars))

    def _text(self, name: str) -> str:
        """The text of a rule set by its name or its file."""
        try:
            if re.fullmatch(r"[a-z0-9_]+", name):
                shipped = SHIPPED / f"{name}.yml"
                if not shipped.is_file():
                    there = ", ".join(sorted(path.stem for path in SHIPPED.glob("*.yml")))
                    raise AnsibleActionFail(f"There is no rule set {name}. The collection has {there}; a file has a suffix.")
                return shipped.read_text(encoding="utf-8")
            found = self._loader.get_real_file(self._find_needle("files", name))
            return pathlib.Path(found).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError, AnsibleError) as error:
            if isinstance(error, AnsibleActionFail):
                raise
            raise AnsibleActionFail(f"The rule set {name} cannot be read: {error}") from error
