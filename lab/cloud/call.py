# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One API call: its parameters and the helpers that read them; and the table of actions.

An action is a function ``(Context, Call) -> dict`` that checks everything first and changes the world last, so that a
call that fails has changed nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .errors import ApiError, invalid, missing
from .model import World


@dataclass
class Call:
    """``parameters`` are the strings sent by the client, from query and form, without signature and credentials."""

    service: str
    action: str
    parameters: dict[str, str]
    style: str = "query"
    access_key: str = ""
    region: str = ""
    _folded: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # The two SDKs differ in case and underscores for a few names (healthCheckInterval, XForwardedFor_proto).
        self._folded = {fold(k): v for k, v in self.parameters.items()}

    def get(self, name: str, default: str = "") -> str:
        return self._folded.get(fold(name), default)

    def has(self, name: str) -> bool:
        return fold(name) in self._folded

    def need(self, name: str) -> str:
        value = self.get(name)
        if value == "":
            raise missing(name)
        return value

    def integer(self, name: str, default: int | None = None, low: int | None = None, high: int | None = None) -> int:
        text = self.get(name)
        if text == "":
            if default is None:
                raise missing(name)
            return default
        if not re.fullmatch(r"-?\d{1,9}", text):
            raise invalid(name)
        value = int(text)
        if (low is not None and value < low) or (high is not None and value > high):
            raise invalid(name)
        return value

    def flag(self, name: str) -> bool:
        return self.get(name).lower() == "true"

    def items(self, name: str) -> list[str]:
        """``Name.1``, ``Name.2``, ... in order; also a single ``Name``."""
        found: list[tuple[int, str]] = []
        for key, value in self.parameters.items():
            match = re.fullmatch(re.escape(name) + r"\.(\d+)", key, re.IGNORECASE)
            if match:
                found.append((int(match.group(1)), value))
        if not found and self.get(name):
            return [self.get(name)]
        return [v for _, v in sorted(found)]

    def tags(self, name: str = "Tag") -> list[tuple[str, str | None]]:
        """``Tag.N.Key`` / ``Tag.N.Value``; a value of None was not given."""
        found: dict[int, dict[str, str]] = {}
        for key, value in self.parameters.items():
            match = re.fullmatch(re.escape(name) + r"\.(\d+)\.(?:Tag)?(Key|Value)", key, re.IGNORECASE)
            if match:
                found.setdefault(int(match.group(1)), {})[match.group(2).lower()] = value
        return [(t["key"], t.get("value")) for _, t in sorted(found.items()) if t.get("key")]

    def json_tags(self, name: str = "Tags") -> list[tuple[str, str | None]]:
        """``Tags=[{"TagKey":..,"TagValue":..}]``, the older form."""
        text = self.get(name)
        if not text:
            return []
        try:
            raw = json.loads(text)
            return [(str(t["TagKey"]), t.get("TagValue")) for t in raw]
        except (ValueError, KeyError, TypeError) as error:
            raise invalid(name) from error

    def json_list(self, name: str) -> list[str]:
        text = self.get(name)
        if not text:
            return []
        try:
            raw = json.loads(text)
        except ValueError:
            raw = text.split(",")
        if not isinstance(raw, list):
            raise invalid(name)
        return [str(x) for x in raw]


def fold(name: str) -> str:
    return name.replace("_", "").lower()


@dataclass
class Context:
    """What an action may use: the world, and the health that the data plane sees (server address -> state)."""

    world: World
    health: dict[tuple[str, str], str] = field(default_factory=dict)
    address_pool: str = "198.51.100.0/24"
    intranet_pool: str = "10.10.200.0/24"


Action = Callable[[Context, Call], dict[str, Any]]


@dataclass(frozen=True)
class Entry:
    run: Action
    writes: bool


ACTIONS: dict[tuple[str, str], Entry] = {}


def action(service: str, *names: str, writes: bool = False) -> Callable[[Action], Action]:
    def register(function: Action) -> Action:
        for name in names:
            ACTIONS[(service, name)] = Entry(function, writes)
        return function

    return register


def page(call: Call, items: list[Any], default_size: int = 50) -> tuple[list[Any], int, int]:
    """PageNumber / PageSize (1..100): the items of the page, the number and the size."""
    number = call.integer("PageNumber", 1, low=1)
    size = call.integer("PageSize", default_size, low=1, high=100)
    return items[(number - 1) * size : number * size], number, size


def token_page(call: Call, items: list[Any], default_size: int, most: int) -> tuple[list[Any], str, int]:
    """MaxResults / NextToken: the items, the next token (empty at the end) and the size. A token is an offset."""
    size = call.integer("MaxResults", default_size, low=1, high=most)
    token = call.get("NextToken")
    if token and not token.isdigit():
        raise ApiError("InvalidParameter", "The specified NextToken is invalid.", 400)
    start = int(token or 0)
    following = start + size
    return items[start:following], (str(following) if following < len(items) else ""), size


def tag_list(tags: dict[str, str]) -> dict[str, Any]:
    return {"Tag": [{"TagKey": k, "TagValue": v} for k, v in tags.items()]}


def tags_match(have: dict[str, str], wanted: list[tuple[str, str | None]]) -> bool:
    """Every wanted tag is there; one without a value (or with an empty one) matches any value."""
    return all(k in have and (not v or have[k] == v) for k, v in wanted)
