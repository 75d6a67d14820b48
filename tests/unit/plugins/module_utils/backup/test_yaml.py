# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Canonical YAML means the same to PyYAML and to our own reader, whatever is in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _scope, _yaml

text = st.text(st.characters(exclude_categories=["Cs"]))
odd = st.sampled_from(
    [
        "yes",
        "No",
        "null",
        "~",
        "1.0",
        "0x1",
        "1:30",
        "2020-01-01",
        "a: b",
        "a #b",
        "- a",
        "|",
        "a:",
        "",
        "\n",
        "a\nb",
        "a\n\nb\n",
        " a\nb",
        "a\n b\n\n",
        "\ta\nb",
        "a\r\nb",
        "中文\n好\n",
        "=",
        "<<",
        "a\n---\nb",
        "a\n\tb",
        "*x",
        "&x",
        "!x",
        "%",
        "@",
        "`",
        "\x85",
    ]
)
leaf = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text | odd
key = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | odd
value = st.recursive(leaf, lambda some: st.lists(some, max_size=4) | st.dictionaries(key, some, max_size=4), max_leaves=12)


def same(left: Any, right: Any) -> bool:
    """1, 1.0 and True are not the same here."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(key, value, max_size=4))
def test_both_readers_give_what_was_written(data: dict[str, Any]) -> None:
    written = _yaml.dump(data)
    assert same(_yaml.parse(written), data)
    assert same(yaml.safe_load(written), data)
    assert _yaml.dump(_yaml.parse(written)) == written


@settings(max_examples=200, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), value, max_size=3), min_size=2, max_size=4))
def test_what_was_written_before_changes_nothing(documents: list[dict[str, Any]]) -> None:
    """The same keys at the same place, once as a mapping, once in a list, once in a list in a list."""
    for data in documents:
        wrapped = [{"a": data}, {"a": [data, data]}, {"a": [[data], data, [[data, 1]]]}]
        assert all(same(yaml.safe_load(_yaml.dump(one)), one) for one in wrapped)


word = st.sampled_from(["password", "API_KEY", "Authorization", "eyJhbGciOiJIUzI1NiJ9.e30", "https://u:p@x", "-----BEGIN", "x"])


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(key | word, value | word | st.builds("{}\n{}".format, text, word), max_size=4))
def test_a_word_near_a_secret_is_never_overlooked(data: dict[str, Any]) -> None:
    wrapped = {"kind": "VirtualService", "spec": [data, {"one": data}]}
    for _turn in range(2):  # the second time most of it is known
        written, marked = _yaml.marked(wrapped)
        assert written == _yaml.dump(wrapped)
        assert _scope.may_hold_secret("VirtualService", written, marked) == _scope.may_hold_secret("VirtualService", written)


def test_most_objects_need_no_second_look() -> None:
    assert _yaml.marked({"spec": {"hosts": ["a.example.com"]}})[1] is False


def test_people_can_read_it() -> None:
    obj = {"kind": "EnvoyFilter", "spec": {"lua": "function f()\n  return 1\nend\n", "hosts": ["a.example.com", "*"], "on": "on"}}
    assert _yaml.dump(obj) == (
        'kind: EnvoyFilter\nspec:\n  hosts:\n  - a.example.com\n  - "*"\n  lua: |\n    function f()\n      return 1\n    end\n'
        '  "on": "on"\n'
    )


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "a",
        "a: 1",
        "a:\n",
        "a: b\na: c\n",
        "a: {b: c}\n",
        "a: &x 1\n",
        "a: *x\n",
        "- a\n",
        "a: 'b'\n",
        "a: 01\n",
        " a: 1\n",
        "a: >\n  b\n",
        "a: 1 # no\n",
        "---\na: 1\n",
        "a: !!str 1\n",
        'a: "b\n',
        "a:\n    b: 1\n",
        "a: 1\n\nb: 2\n",
    ],
)
def test_anything_else_is_refused_with_its_line(wrong: str) -> None:
    with pytest.raises(ValueError):
        _yaml.parse(wrong)


@pytest.mark.parametrize("wrong", [{"a": object()}, {"a": float("nan")}, {"a": float("inf")}, {1: "a"}, {"a": (1,)}])
def test_what_is_no_json_is_not_written(wrong: Any) -> None:
    with pytest.raises(ValueError):
        _yaml.dump(wrong)
