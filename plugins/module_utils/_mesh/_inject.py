# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""sidecar_inject: what is changed in a workload, what is remembered of it, and the exact way back. Pure.

Only labels and annotations of the pod template are edited, each key named. Where a workload's own maxUnavailable would take too
much away, it is lowered in the same patch and put back as soon as the rollout has ended.
"""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._waves import Wave
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._workloads import (
    MOVING,
    SOURCE,
    Survey,
    Wish,
    Workload,
)

Object = dict[str, t.Any]


@dataclasses.dataclass(frozen=True)
class Original:
    """What the journal keeps of a workload before its first edit. ``edit``: (part, key, value before or None, value set or None).

    :arg unavailable: its maxUnavailable as it was written, when ``guard`` was put in its place.
    :arg out: labels that keep it out of the target for the time of its way back, see ``kept_out``.
    """

    uid: str
    wave: str
    edit: tuple[tuple[str, str, str | None, str | None], ...]
    guard: int | None = None
    unavailable: t.Any = None
    out: tuple[tuple[str, str], ...] = ()

    def as_value(self) -> Object:
        # Lists, so that no label's name is taken for the name of a secret.
        found = {**dataclasses.asdict(self), "edit": [list(item) for item in self.edit], "out": [list(item) for item in self.out]}
        return found if self.out else {key: value for key, value in found.items() if key != "out"}

    def before(self, part: str) -> dict[str, str | None]:
        return {key: old for name, key, old, _new in self.edit if name == part}

    def after(self, part: str) -> dict[str, str | None]:
        return {key: new for name, key, _old, new in self.edit if name == part}


def journal_key(one: Workload) -> str:
    """With the UID: a workload that was made anew has a past of its own."""
    return f"{one.trail}/{one.place}/{one.uid}"


def read_original(value: Object) -> Original:
    edit = tuple((str(item[0]), str(item[1]), item[2], item[3]) for item in value["edit"])
    out = tuple((str(key), str(label)) for key, label in value.get("out") or ())
    return Original(value["uid"], str(value["wave"]), edit, value.get("guard"), value.get("unavailable"), out)


def kept_out(one: Workload, known: Original, labels: t.Mapping[str, str]) -> Original:
    """What is remembered when a target that takes all pods has to be told to leave these alone, until the cluster has left it."""
    edited = {key for part, key, _old, _new in known.edit if part == "labels"}
    more = tuple(
        ("labels", key, one.template_labels.get(key), one.template_labels.get(key)) for key in labels if key not in edited
    )
    return dataclasses.replace(known, edit=(*known.edit, *more), out=tuple(sorted(labels.items())))


def inward(known: Original) -> Original:
    """The exact way back, once nothing has to be kept out."""
    return dataclasses.replace(known, out=())


def outward(known: Original) -> Original:
    """The same as the edit that brings a workload back and keeps it out."""
    out = dict(known.out)
    edit = tuple((part, key, out.get(key, old) if part == "labels" else old, new) for part, key, old, new in known.edit)
    return dataclasses.replace(known, edit=edit)


def original_of(one: Workload, wish: Wish, wave: str) -> Original:
    """What has to be remembered before this workload is edited."""
    edit = [
        (part, key, have.get(key), new)
        for part, wanted, have in (
            ("labels", wish.labels, one.template_labels),
            ("annotations", wish.annotations, one.template_annotations),
        )
        for key, new in sorted(wanted.items())
        if have.get(key) != new
    ]
    return Original(one.uid, wave, tuple(edit), one.guard, one.manners.raw if one.guard is not None else None)


def forward(one: Workload, known: Original) -> Object:
    """The merge patch that moves a workload."""
    return _patch(one, known.after("labels"), known.after("annotations"), one.guard)


def backward(one: Workload, known: Original) -> Object:
    """The merge patch that undoes it: the very inverse of ``forward``."""
    return _patch(one, known.before("labels"), known.before("annotations"), one.guard)


def settle(one: Workload, unavailable: t.Any) -> Object:
    """The merge patch that gives a workload its own maxUnavailable back."""
    return {"metadata": {"uid": one.uid}, "spec": {"strategy": {"rollingUpdate": {"maxUnavailable": unavailable}}}}


def _patch(one: Workload, labels: Object, annotations: Object, guard: int | None) -> Object:
    parts = {name: part for name, part in (("labels", labels), ("annotations", annotations)) if part}
    spec: Object = {"template": {"metadata": parts}} if parts else {}
    if guard is not None:
        spec["strategy"] = {"rollingUpdate": {"maxUnavailable": guard}}
    return {"metadata": {"uid": one.uid}, "spec": spec}


def guarded(one: Workload, known: Original | None) -> bool:
    """Whether our own maxUnavailable is still in place (the run was killed before it was put back)."""
    return known is not None and known.guard is not None and one.manners.raw == known.guard != known.unavailable


def unsettled(one: Workload, known: Original | None) -> bool:
    """Whether something of this workload is still to be waited for."""
    return one.state == MOVING or guarded(one, known)


def undone(one: Workload, known: Original) -> bool:
    """Whether all edited keys have the values of before."""
    return _has(one, known.before("labels"), known.before("annotations"))


def strange(one: Workload, known: Original) -> str:
    """Why the values of before are not put back: somebody else set others since."""
    for part, have in (("labels", one.template_labels), ("annotations", one.template_annotations)):
        for name, key, old, new in known.edit:
            ours = (old, new, dict(known.out).get(key, old)) if part == "labels" else (old, new)
            if name == part and have.get(key) not in ours:
                return f"somebody set the template's {part[:-1]} {key} to {have.get(key)!r} since; put it right by hand"
    return ""


def _has(one: Workload, labels: Object, annotations: Object) -> bool:
    pairs = ((labels, one.template_labels), (annotations, one.template_annotations))
    return all(have.get(key) == value for wanted, have in pairs for key, value in wanted.items())


def target_name(one: Workload) -> str:
    return f"source/{one.place}"


def shown(one: Workload, edit: Original) -> tuple[Object, Object]:
    """Before and after of the edited keys, as plan and diff show them."""
    before: Object = {}
    after: Object = {}
    for part, key, old, new in edit.edit:
        before.setdefault(part, {})[key] = old
        after.setdefault(part, {})[key] = new
    return before, after


def plan(waves: t.Sequence[Wave[Workload]], wish: Wish, originals: t.Mapping[str, Original]) -> Plan:
    """Every edit of every wave, in order."""
    found = Plan()
    for wave in waves:
        for one in wave.members:
            known = originals.get(journal_key(one))
            if one.state == SOURCE and not one.obstacle:
                edit = original_of(one, wish, wave.name)
                guard = f"; maxUnavailable is {one.guard} meanwhile, not {one.manners.raw}" if one.guard is not None else ""
                found.add("relabel", target_name(one), *shown(one, edit), f"wave {wave.name}{guard}")
            elif guarded(one, known) and known is not None:
                before, after = ({"maxUnavailable": value} for value in (known.guard, known.unavailable))
                found.add("settle", target_name(one), before, after, "its rollout has ended")
    return found


@dataclasses.dataclass(frozen=True)
class Return:
    """A workload that goes back, and what it was."""

    workload: Workload
    original: Original


def returns(
    seen: Survey, originals: t.Mapping[str, Original], waves: t.Collection[str]
) -> tuple[list[Return], list[tuple[Workload, str]], list[str]]:
    """``(what goes back, what cannot with the reason, journal keys of what is as it was already)``.

    :arg waves: only those that moved in these waves; empty for all.
    """
    back: list[Return] = []
    refused: list[tuple[Workload, str]] = []
    over: list[str] = []
    present = {journal_key(one): one for one in seen.workloads}
    for key, known in sorted(originals.items()):
        if waves and known.wave not in waves:
            continue
        one = present.get(key)
        if one is None:
            continue
        reason = strange(one, known)
        if reason:
            refused.append((one, reason))
        elif undone(one, known) and not guarded(one, known):
            over.append(key)
        else:
            back.append(Return(one, known))
    return back, refused, over


def gone(seen: Survey, keys: t.Collection[str]) -> list[str]:
    """Those journal keys whose workload is not there any more, or was made anew: nothing will ever be put back in it.

    Without a sidecar, or out of the selector, is not gone; what lies in other namespaces was not looked at.
    """
    if seen.there is None:
        return []
    looked = [key for key in keys if not seen.namespaces or key.split("/")[1] in seen.namespaces]
    return sorted(key for key in looked if key.partition("/")[2] not in seen.there)


def plan_back(back: t.Sequence[Return]) -> Plan:
    """Every edit of the way back."""
    found = Plan()
    for item in back:
        before, after = shown(item.workload, item.original)
        if not undone(item.workload, item.original):
            found.add("relabel", target_name(item.workload), after, before, f"back from wave {item.original.wave}")
    return found
