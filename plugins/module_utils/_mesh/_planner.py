# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What becomes of an object that is to be in a target: the words, the first decision, and how a plan tells many writes.

A copy from another API server and a restore from an archive decide by these functions, so the same object gets the same answer
from both. Pure.
"""

from __future__ import annotations

import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import Kind

# How the wanted object and the target's stand to each other.
SAME, CREATE, DIFFERS, CONFLICT, REFUSED, NOT_SERVED, EXTRA = (
    "same",
    "create",
    "differs",
    "conflict",
    "refused",
    "not_served",
    "extra",
)
# Marks of an object of the target that nobody may write to.
TERMINATING, OWNED = "terminating", "owned"
# Owners that make their objects again when these change or go.
MAKERS = frozenset(("ReplicaSet", "Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "Gateway", "IstioGateway"))
# More creates than this are counted, not named.
_NAMED = 500


def made_by_owner(obj: t.Mapping[str, t.Any]) -> bool:
    """Whether a controller makes this object from another one."""
    owners = obj["metadata"].get("ownerReferences") or ()
    return any(owner.get("controller") and owner.get("kind") in MAKERS for owner in owners)


def mark_of(obj: t.Mapping[str, t.Any]) -> str:
    """TERMINATING, OWNED, or empty for an object that can be written to."""
    if obj["metadata"].get("deletionTimestamp"):
        return TERMINATING
    return OWNED if made_by_owner(obj) else ""


def judge(kind: Kind | None, there: bool, mark: str, equal: t.Callable[[], bool]) -> tuple[str, str]:
    """The first decision, before the target is asked: a state, and the reason when it stands in the way.

    :arg kind: how the target serves it. :arg there: whether the target has one; ``mark`` of it. :arg equal: whether both mean the
        same; only called when it matters.
    """
    if kind is None:
        return NOT_SERVED, "the target does not serve this kind"
    if not there:
        return CREATE, ""
    if mark == TERMINATING:
        return CONFLICT, "the target's is being deleted: run again when it is gone"
    if equal():
        return SAME, ""
    if mark == OWNED:
        return CONFLICT, "a controller of the target owns it and would undo the change"
    return DIFFERS, ""


class Creates:
    """The creates of a plan: each one named, or, when they are many, counted by kind and namespace. Holds few names."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._names: dict[str, None] = {}

    def add(self, key: str) -> None:
        """``key``: a path that ends with ``/name``."""
        place = key.rpartition("/")[0]
        self._counts[place] = self._counts.get(place, 0) + 1
        if len(self._names) <= _NAMED:
            self._names[key] = None

    def drop(self, key: str) -> None:
        """The target does not take it."""
        self._counts[key.rpartition("/")[0]] -= 1
        self._names.pop(key, None)

    @property
    def few(self) -> bool:
        return len(self._names) == sum(self._counts.values()) <= _NAMED

    def tell(self, made: Plan, origin: str, reason: str) -> None:
        """Into a plan. ``origin``: where they come from, like ``as in the archive``."""
        if self.few:
            for key in self._names:
                made.add("create", f"target/{key.lstrip('/')}", None, origin, reason)
            return
        for place, count in self._counts.items():
            if count:
                made.add("create", f"target/{place.lstrip('/')}", None, f"{count} objects {origin}", reason)
