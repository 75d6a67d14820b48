# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Plan and Change: what a module would do. Check mode, diff and ``changed`` all come from this one object."""

from __future__ import annotations

import dataclasses
import json
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._secrets import concealed, scrub


@dataclasses.dataclass(frozen=True)
class Change:
    """One write to the outside.

    :arg action: the verb, like ``create``, ``annotate``, ``rename``, ``set_weight``, ``delete``.
    :arg target: the object, as ``cluster/namespace/kind/name`` or ``clb/<id>/<part>``.
    :arg before: present value (plain data; ``None`` = absent).
    :arg after: wanted value (plain data; ``None`` = absent).
    :arg reason: why this change is in the plan.
    """

    action: str
    target: str
    before: t.Any
    after: t.Any
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.action} {self.target}"

    def as_dict(self) -> dict[str, t.Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass
class Plan:
    """An ordered list of changes, and what the reader should know about it (notes)."""

    changes: list[Change] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def add(self, action: str, target: str, before: t.Any, after: t.Any, reason: str = "") -> Change:
        change = Change(action, target, before, after, reason)
        self.changes.append(change)
        return change

    @property
    def changed(self) -> bool:
        return bool(self.changes)

    def as_list(self) -> list[dict[str, t.Any]]:
        return [change.as_dict() for change in self.changes]

    def diff(self) -> dict[str, str]:
        """Ansible's diff: the objects before and after all changes, as YAML.

        Several changes of one object and action fold into one entry: first before, last after.
        """
        before: dict[str, t.Any] = {}
        after: dict[str, t.Any] = {}
        for change in self.changes:
            key = str(change)
            before.setdefault(key, change.before)
            after[key] = change.after
        return {"before": _text(before), "after": _text(after)}


def _text(data: dict[str, t.Any]) -> str:
    if not data:
        return ""
    from ansible.module_utils.common.yaml import yaml_dump  # pylint: disable=import-outside-toplevel

    plain = scrub(concealed(json.loads(json.dumps(data, default=str))))
    return str(yaml_dump(plain, sort_keys=True, allow_unicode=True, default_flow_style=False, width=140))
