# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Which of many objects a target is asked about, so that what concerns a whole kind, a namespace or a field is found. Pure.

The same objects give the same sample.
"""

from __future__ import annotations

import typing as t

Object = dict[str, t.Any]
# A kind, a namespace, and what a user writes into the object.
Candidate = tuple[str, str, t.Mapping[str, t.Any]]
Tree = dict[str, t.Any]


def sample(candidates: t.Sequence[Candidate], most: int) -> list[int]:
    """Indices of at most ``most`` candidates, in their order; all of them when there are no more.

    One of each kind comes first, then one of each kind in each namespace, then objects with a field that none before them
    has, and then the same number of each kind in each namespace, as far as they go.
    """
    if len(candidates) <= most:
        return list(range(len(candidates)))
    chosen: dict[int, None] = {}
    for choose in (_kinds, _places, _fields, _turns):
        for index in choose(candidates):
            if len(chosen) >= most:
                return sorted(chosen)
            chosen.setdefault(index)
    return sorted(chosen)


def _kinds(candidates: t.Sequence[Candidate]) -> t.Iterator[int]:
    first: dict[str, int] = {}
    for index, candidate in enumerate(candidates):
        first.setdefault(candidate[0], index)
    yield from first.values()


def _places(candidates: t.Sequence[Candidate]) -> t.Iterator[int]:
    first: dict[tuple[str, str], int] = {}
    for index, (kind, namespace, _payload) in enumerate(candidates):
        first.setdefault((kind, namespace), index)
    yield from first.values()


def _fields(candidates: t.Sequence[Candidate]) -> t.Iterator[int]:
    """A schema that lacks a field drops it, wherever it is used: so each field is asked about once."""
    known: dict[str, Tree] = {}
    for index, (kind, _namespace, payload) in enumerate(candidates):
        if _is_new(payload, known.setdefault(kind, {})):
            yield index


def _is_new(value: t.Any, tree: Tree) -> bool:
    """Whether the value has a path that the tree does not have yet; then it has it."""
    found = False
    if isinstance(value, dict):
        for key, item in value.items():
            branch = tree.get(key)
            if branch is None:
                branch = tree[key] = {}
                found = True
            if isinstance(item, (dict, list)) and _is_new(item, branch):
                found = True
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, (dict, list)) and _is_new(item, tree):
                found = True
    return found


def _turns(candidates: t.Sequence[Candidate]) -> t.Iterator[int]:
    groups: dict[tuple[str, str], list[int]] = {}
    for index, (kind, namespace, _payload) in enumerate(candidates):
        groups.setdefault((kind, namespace), []).append(index)
    turn = 0
    while groups:
        for key in list(groups):
            if turn >= len(groups[key]):
                del groups[key]
            else:
                yield groups[key][turn]
        turn += 1
