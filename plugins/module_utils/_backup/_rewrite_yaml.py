# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""YAML that people and tools write, read strictly: what Kubernetes takes, a key twice is refused with its line."""

from __future__ import annotations

import functools
import math
import re
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)$|0x[0-9a-fA-F]+$|0[0-7]+$")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$|[-+]?[0-9]+[eE][-+]?[0-9]+$")
_NODES = 5_000_000
_LOST = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


@functools.cache
def _library() -> tuple[t.Any, t.Any]:
    """PyYAML, and a loader without dates and numbers with colons or underscores: texts stay texts, as in Kubernetes."""
    try:
        import yaml  # pylint: disable=import-outside-toplevel
    except ImportError as error:
        raise InputError(
            "The Python package PyYAML is missing where this module runs", why=str(error), todo="pip install PyYAML"
        ) from error

    class Loader(yaml.SafeLoader):
        """Refuses a key that is there twice."""

        def construct_mapping(self, node: t.Any, deep: bool = False) -> dict[t.Any, t.Any]:
            seen: set[t.Any] = set()
            for key_node, _value in node.value if isinstance(node, yaml.MappingNode) else ():
                if key_node.tag == "tag:yaml.org,2002:merge":
                    continue
                key = self.construct_object(key_node, deep=True)
                if not isinstance(key, (str, int, float, bool, type(None))):
                    raise yaml.constructor.ConstructorError(None, None, "a key is no text", key_node.start_mark)
                if key in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is there twice", key_node.start_mark)
                seen.add(key)
            return super().construct_mapping(node, deep=deep)

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in found if tag not in _LOST]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
    return yaml, Loader


def load_text(text: str, name: str) -> list[t.Any]:
    """The documents of a text, as JSON data; empty ones are left out. Raises InputError with the line."""
    yaml, loader = _library()
    try:
        found = [document for document in yaml.load_all(text, loader) if document is not None]
        for document in found:
            _plain(document, 0, [_NODES])
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}, line {mark.line + 1}" if mark else name
        raise InputError("A YAML file cannot be read", where=where, why=error.problem or "it is no YAML") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        why = str(error).split("\n", 1)[0] or type(error).__name__
        raise InputError("A YAML file cannot be read", where=name, why=why) from None
    return found


def _plain(value: t.Any, depth: int, left: list[int]) -> None:
    """JSON data only; ValueError otherwise. An anchor can hold itself, or make a little text very large."""
    left[0] -= 1
    if depth > 200 or left[0] < 0:
        raise ValueError("it is nested too deeply, or its anchors make too much of it")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"the key {key!r} is no text: put it in quotes")
            _plain(item, depth + 1, left)
    elif isinstance(value, list):
        for item in value:
            _plain(item, depth + 1, left)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number is not finite")
    elif not isinstance(value, (str, int, float, bool, type(None))):
        raise ValueError(f"{type(value).__name__} is no JSON data")
