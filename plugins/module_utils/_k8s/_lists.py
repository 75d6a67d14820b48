# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The objects of a LIST one after the other, each decoded when its turn comes. Pure.

A page as one value is ten megabytes of small objects: made, walked through once, and given back to the system, out of reach of
the processor's caches. One object at a time uses the same few kilobytes again, which takes two thirds of the time.
"""

from __future__ import annotations

import json
import typing as t

Object = dict[str, t.Any]

_decode = json.JSONDecoder().raw_decode


def split(data: bytes) -> tuple[Object, t.Iterator[Object]] | None:
    """The metadata of a list, and its objects. None for what is no list as API servers write them, without blanks between its
    parts: the caller decodes it as a whole.

    What stands before and behind the objects is looked at here; the iterator raises ValueError when the whole was no JSON, or
    an item is no object.
    """
    try:
        text = data.decode()
        before, begin = _members(text, 0, "{")
        if text[begin] != "[":
            return None
        # custom resources have their metadata behind the items, which nobody has walked through yet
        behind = _end(text, text.rindex("]") + 1)
    except (ValueError, IndexError):
        return None
    metadata = {**before, **behind}.get("metadata")
    if not isinstance(metadata, dict):
        return None
    return metadata, _objects(text, begin, before, metadata)


def _members(text: str, at: int, lead: str) -> tuple[Object, int]:
    """The members of an object, the first one behind ``lead``, and the place of the ``[`` of its items, or of what stands behind
    the last member. Raises ValueError, IndexError."""
    found: Object = {}
    while text[at] == lead:
        name, at = _decode(text, at + 1)
        if text[at] != ":" or not isinstance(name, str) or name in found:
            raise ValueError(f"no new member of a list at character {at}")
        if name == "items":
            return found, at + 1
        found[name], at = _decode(text, at + 1)
        lead = ","
    return found, at


def _end(text: str, at: int) -> Object:
    """The members behind the items. Raises ValueError, IndexError when they are not the end of the text."""
    found, at = _members(text, at, ",")
    if text[at:].rstrip() != "}":
        raise ValueError(f"the list does not end at character {at}")
    return found


def _objects(text: str, at: int, before: Object, metadata: Object) -> t.Iterator[Object]:
    lead, last = "[", text.startswith("[]", at)
    while not last:
        if text[at] != lead:
            raise ValueError(f"neither an item nor the end of the list at character {at}")
        item, at = _decode(text, at + 1)
        if not isinstance(item, dict):
            raise ValueError(f"an item that is no object ends at character {at}")
        yield item
        lead, last = ",", text.startswith("]", at)
    try:
        behind = _end(text, at + (2 if lead == "[" else 1))
    except IndexError:
        raise ValueError("the list has no end") from None
    if {**before, **behind}.get("metadata") != metadata:
        raise ValueError("the list has two ends")
