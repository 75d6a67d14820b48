# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lists that are decoded object by object: the same as the whole, or an error where the whole is one."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import SERVICE
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._lists import split

META = {"continue": "eyJ2In0", "remainingItemCount": 4500, "resourceVersion": "7353"}
ITEMS: list[dict[str, Any]] = [
    {"metadata": {"name": "a", "labels": {"x": "],}"}}, "spec": {"hosts": ["a", "b"], "http": [[], [{}]], "n": 1.5}},
    {"metadata": {"name": "网格", "note": 'says "items":[{}],"metadata":{}}'}, "spec": {}},
    {},
]


def packed(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


# As the API server writes its own kinds, and custom resources.
BUILT_IN = packed({"kind": "ServiceList", "apiVersion": "v1", "metadata": META, "items": ITEMS})
CUSTOM = packed({"apiVersion": "networking.istio.io/v1", "items": ITEMS, "kind": "VirtualServiceList", "metadata": META})


@pytest.mark.parametrize("data", [BUILT_IN, CUSTOM, CUSTOM.rstrip()])
def test_the_two_forms_of_an_api_server(data: bytes) -> None:
    parts = split(data)
    assert parts is not None
    meta, items = parts
    assert meta == META
    assert next(items) == ITEMS[0]  # one at a time
    assert list(items) == ITEMS[1:]


@pytest.mark.parametrize("custom", [True, False])
def test_an_empty_list(custom: bool) -> None:
    one, two = {"metadata": {"resourceVersion": "9"}}, {"items": []}
    parts = split(packed({**two, **one} if custom else {**one, **two}))
    assert parts is not None
    assert (parts[0], list(parts[1])) == ({"resourceVersion": "9"}, [])


@pytest.mark.parametrize(
    "data",
    [
        json.dumps({"items": ITEMS, "metadata": META}).encode(),  # with blanks
        packed({"items": None, "metadata": META}),
        packed({"items": {}, "metadata": META}),
        packed({"metadata": META}),
        packed({"items": ITEMS}),
        packed({"items": ITEMS, "metadata": None}),
        packed({"items": ITEMS, "metadata": {"list": [1]}}),
        packed({"kind": "Status", "metadata": {}, "message": "no"}),
        b'{"metadata":{},"metadata":{},"items":[]}',
        b'{"items":[],"metadata":{},"items":[{}]}',
        b'{"items":[{}],"metadata":{}',
        b'{"items":[{}]',
        b"[]",
        b"{}",
        b"{",
        b"",
        b"\xff\xfe",
        b"<html>",
    ],
)
def test_what_is_written_otherwise_is_left_to_the_caller(data: bytes) -> None:
    assert split(data) is None


@pytest.mark.parametrize(
    "data",
    [
        b'{"items":[{},],"metadata":{}}',
        b'{"items":[{}{}],"metadata":{}}',
        b'{"items":[{},1],"metadata":{}}',
        b'{"items":[{}},{"a":[],"metadata":{}}',
        b'{"items":[{}],"metadata":{"a":1},"x":[],"metadata":{"a":2}}',
        b'{"items":[,{}],"metadata":{}}',
    ],
)
def test_what_is_wrong_among_the_items_is_an_error_when_it_is_met(data: bytes) -> None:
    parts = split(data)
    assert parts is not None
    with pytest.raises(ValueError, match=r"."):
        list(parts[1])


def test_another_array_of_the_list_is_none_of_its_items() -> None:
    parts = split(packed({"items": ITEMS, "more": [[1], 2], "metadata": META}))
    assert parts is not None
    assert (parts[0], list(parts[1])) == (META, ITEMS)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_anywhere_it_is_never_another_list(seed: int) -> None:
    """What json takes is what comes out; what it does not take is an error, or left to the caller, who finds the error."""
    dice = random.Random(seed)
    met = {"same": 0, "error": 0, "left": 0}
    for _turn in range(500):
        data = bytearray(dice.choice((BUILT_IN, CUSTOM)))
        at = dice.randrange(len(data))
        way = dice.randrange(4)
        if way == 0:
            del data[at : at + dice.randrange(1, 9)]
        elif way == 1:
            data[at] = dice.choice(b'[]{},:"x1\\')
        elif way == 2:
            data[at:at] = bytes(dice.choices(b'[]{},:"', k=dice.randrange(1, 3)))
        else:
            data[at:] = data[dice.randrange(len(data)) :]
        try:
            whole = json.loads(bytes(data))
        except ValueError:
            whole = None
        parts = split(bytes(data))
        if parts is None:
            met["left"] += 1
            continue
        try:
            items = list(parts[1])
        except ValueError:
            met["error"] += 1
            assert whole is None or not all(isinstance(item, dict) for item in whole["items"]) or _twice(data)
        else:
            met["same"] += 1
            assert whole is not None
            assert (parts[0], items) == (whole["metadata"], whole["items"])
    assert all(met.values()), met


def _twice(data: bytearray) -> bool:
    """Whether a name is there twice at the top, which json takes."""
    double: list[str] = []

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _value in found]
        double.extend(name for name in set(names) if names.count(name) > 1)
        return dict(found)

    json.loads(bytes(data), object_pairs_hook=pairs)
    return bool(double)


def test_an_operator_is_told_of_a_list_that_is_damaged_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster("source", {"host": "http://127.0.0.1:1"}, attempts=1)
    monkeypatch.setattr(cluster._wire, "request", lambda *_words: (200, b'{"metadata":{},"items":[{"metadata":{}},{]}'))
    items = cluster.list_all(SERVICE)
    assert next(items)["kind"] == "Service"
    with pytest.raises(MigrationError, match="list that is no JSON") as caught:
        next(items)
    assert caught.value.todo and "char 41" in caught.value.why
