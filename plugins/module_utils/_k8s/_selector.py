# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Label selectors, in the words of kubectl and as objects hold them. Pure."""

from __future__ import annotations

import dataclasses
import re
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError

_KEY = r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?"
_EQUAL = re.compile(rf"({_KEY})\s*(==|=|!=)\s*([A-Za-z0-9._-]*)")
_SET = re.compile(rf"({_KEY})\s+(in|notin)\s*\(([^()]*)\)")
_EXISTS = re.compile(rf"(!?)\s*({_KEY})")
_COMMA = re.compile(r",(?![^()]*\))")


@dataclasses.dataclass(frozen=True)
class Requirement:
    """``operator``: In, NotIn, Exists or DoesNotExist."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def met(self, labels: t.Mapping[str, str]) -> bool:
        if self.operator == "In":
            return labels.get(self.key) in self.values
        if self.operator == "NotIn":
            return labels.get(self.key) not in self.values
        return (self.key in labels) == (self.operator == "Exists")


Selector = tuple[Requirement, ...]


def parse_selector(text: str | None) -> Selector:
    """``a=b,c!=d,e in (f, g),h,!i``; an empty text selects everything. Raises InputError."""
    found = []
    for part in _COMMA.split((text or "").strip()) if (text or "").strip() else []:
        word = part.strip()
        if match := _EQUAL.fullmatch(word):
            found.append(Requirement(match[1], "NotIn" if match[3] == "!=" else "In", (match[4],)))
        elif match := _SET.fullmatch(word):
            values = tuple(sorted(value.strip() for value in match[4].split(",")))
            found.append(Requirement(match[1], "In" if match[3] == "in" else "NotIn", values))
        elif match := _EXISTS.fullmatch(word):
            found.append(Requirement(match[2], "DoesNotExist" if match[1] else "Exists"))
        else:
            raise InputError(
                f"The label selector {text!r} cannot be read",
                why=f"{word!r} is no requirement",
                todo="write it as for kubectl -l: app=shop,tier!=test,track in (a, b)",
            )
    return tuple(found)


def selector_of(given: t.Mapping[str, t.Any] | None) -> Selector | None:
    """A LabelSelector as objects hold it. None selects nothing, an empty one everything."""
    if given is None:
        return None
    found = [Requirement(key, "In", (str(value),)) for key, value in sorted((given.get("matchLabels") or {}).items())]
    for item in given.get("matchExpressions") or []:
        found.append(Requirement(item["key"], item["operator"], tuple(item.get("values") or ())))
    return tuple(found)


def selects(selector: Selector | None, labels: t.Mapping[str, str] | None) -> bool:
    return selector is not None and all(item.met(labels or {}) for item in selector)
