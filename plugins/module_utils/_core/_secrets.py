# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Nothing secret may reach a journal, a diff, a report or a message."""

from __future__ import annotations

import copy
import typing as t

MASK = "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"

_SECRET_KEYS = frozenset(
    {"api_key", "access_key_secret", "security_token", "password", "token", "client_key_data", "authorization"}
)


def scrub(value: t.Any, secrets: t.Collection[str] = ()) -> t.Any:
    """A copy of plain data without secrets: known secret strings, well-known keys, and what a Secret holds.

    Bytes that are no UTF-8 (as ``surrogateescape`` keeps them) are shown as ``\\udce9``: Ansible refuses an answer that has them.
    """
    if isinstance(value, t.Mapping):
        is_secret = value.get("kind") == "Secret"
        clean: dict[str, t.Any] = {}
        for key, item in value.items():
            if str(key).lower() in _SECRET_KEYS and item:
                clean[key] = MASK
            elif is_secret and key in ("data", "stringData") and isinstance(item, t.Mapping):
                clean[key] = dict.fromkeys(item, MASK)
            else:
                clean[key] = scrub(item, secrets)
        return clean
    if isinstance(value, (list, tuple)):
        return [scrub(item, secrets) for item in value]
    if isinstance(value, str):
        for secret in secrets:
            if secret and secret in value:
                value = value.replace(secret, MASK)
        if not value.isascii():
            value = value.encode("utf-8", "backslashreplace").decode()
    return value


def unmasked(kept: t.Any, now: t.Any) -> t.Any:
    """A copy of scrubbed data in which what was masked is taken from the same place of the object as it is now.

    What the object has lost there stays masked, and must not be written.
    """
    if kept == MASK and now is not None:
        return copy.deepcopy(now)
    if isinstance(kept, t.Mapping):
        there = now if isinstance(now, t.Mapping) else {}
        return {key: unmasked(item, there.get(key)) for key, item in kept.items()}
    if isinstance(kept, (list, tuple)):
        rest = now if isinstance(now, (list, tuple)) else []
        return [unmasked(item, rest[place] if place < len(rest) else None) for place, item in enumerate(kept)]
    return kept


def masked(value: t.Any) -> bool:
    """Whether something is masked in it."""
    if isinstance(value, t.Mapping):
        return any(masked(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(masked(item) for item in value)
    return isinstance(value, str) and MASK in value
