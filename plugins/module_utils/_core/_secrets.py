# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Nothing secret may reach a journal, a diff, a report or a message."""

from __future__ import annotations

import copy
import re
import typing as t

MASK = "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"

_SECRET_KEYS = frozenset(
    {"api_key", "access_key_secret", "security_token", "password", "token", "client_key_data", "authorization"}
)

#: Near these a secret may be: for what is encrypted, or not shown, rather once too often.
NEAR = r"passw|secret|token|api[-_]?key|access[-_]?key|private|bearer|authorization:|-----begin"
#: These are one, whatever stands around them: a JSON web token, and a password in a URL.
SURE = r"eyj[a-z0-9_-]{12,}\.|://[^/\s:@\"]+:[^/\s@\"]+@"
_WORD = r"(?:passw(?:or)?d|passphrase|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|authorization|credentials?)"
_SURE = re.compile(rf"{SURE}|-----begin (?!certificate|public key|trusted certificate)", re.I)
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.S)
_SCHEME = re.compile(r"\b(?:bearer|basic)\s+([\w.~+/=-]{6,})", re.I)
# `token = "x"`, `add("authorization", "x")`, `"api_key":"x"`, and the same in JSON within JSON.
_GIVEN = re.compile(rf"""{_WORD}([\w-]*)[\\"'\]\s]*(?:[:=,]|=>)\s*\(?\s*\\*["']([^"'\s\\]{{4,}})\\*["']""", re.I)
_FLAG = re.compile(rf"--[\w-]*{_WORD}([\w-]*)=(\S{{4,}})", re.I)
_KEY = re.compile(rf".*{_WORD}([\w-]*)", re.I)
_HINT = re.compile(rf"{_WORD}|bearer|basic|-----begin|eyj|://", re.I)
# What such a word is the name of, when it stands before one of these.
_NO_VALUE = re.compile(
    r".*(names?|refs?|paths?|files?|types?|ur[il]s?|headers?|prefix|audiences?|locations?|issuers?|policy|provider|mounts?|seconds)",
    re.I,
)
# Of kinds, and in fields, that hold programs: long words that nobody thought of.
_PROGRAMS, _PROGRAM = ("EnvoyFilter", "WasmPlugin"), ("inlineCode", "inline_code", "inlineString", "inline_string")
_LONG = re.compile(r"(?<![0-9a-z:])[0-9a-f]{32,}(?![0-9a-z])|(?<![\w+/=.-])[A-Za-z0-9+/_-]{24,}={0,2}(?![\w+/=.-])", re.I)
_MATCHES = ("exact", "prefix", "suffix", "regex")
_HASHES = ("sha256", "uid", "image", "url", "resourceVersion", "name", "namespace")


def holds_secret(text: str, program: bool = False) -> bool:
    """Whether a secret stands in a text, by what it looks like. Public certificates are none.

    :arg program: somebody's code, where a long word of letters and digits that means nothing is taken for one, too.
    """
    if not program and not _HINT.search(text):
        return False
    text = _CERTIFICATE.sub("", text)
    if _SURE.search(text) or any(_is_random(found) for found in _SCHEME.findall(text)):
        return True
    given = [*_GIVEN.findall(text), *_FLAG.findall(text)]
    if any(not _NO_VALUE.fullmatch(after) and not _is_elsewhere(value) for after, value in given):
        return True
    return program and any(_is_random(found, 24) for found in _LONG.findall(text))


def _is_random(word: str, least: int = 0) -> bool:
    """Whether letters and digits mean nothing. :arg least: a word that stands for itself is as long, and has both."""
    digits, mixed = re.search(r"[0-9]", word) is not None, word[1:] != word[1:].lower() and word != word.upper()
    if least:
        return len(word) >= least and digits and (mixed or re.fullmatch(r"[0-9a-fA-F]+", word) is not None)
    return digits or (mixed and len(word) >= 10)


def _is_elsewhere(value: str) -> bool:
    """A path, a template or a word of a schema in the place of a value."""
    return value.startswith(("/", "file:", "$", "{", "%")) or value.lower() in ("true", "false", "null", "none")


def concealed(value: t.Any, program: bool = False, above: str = "") -> t.Any:
    """A copy of plain data in which what looks like a secret is masked, each text as a whole. See holds_secret; ``scrub`` goes by
    what was said to be secret, and by names alone.

    :arg above: the key that this is the value of.
    """
    if isinstance(value, t.Mapping):
        program = program or value.get("kind") in _PROGRAMS
        # {name: DB_PASSWORD, value: x}, {key: x-api-key, value: x}, {x-api-key: {exact: x}}
        named = {"value": value.get("name") or value.get("key") or "value", **dict.fromkeys(_MATCHES, above)}
        clean: dict[str, t.Any] = {}
        for key, item in value.items():
            if isinstance(item, str) and item:
                secret = _is_given(str(named.get(key, key)), item)
                clean[key] = MASK if secret or holds_secret(item, key in _PROGRAM or (program and key not in _HASHES)) else item
            else:
                clean[key] = concealed(item, program, str(key))
        return clean
    if isinstance(value, (list, tuple)):
        return [concealed(item, program) for item in value]
    return MASK if isinstance(value, str) and holds_secret(value, program) else value


def _is_given(key: str, value: str) -> bool:
    found = _KEY.fullmatch(key)
    return found is not None and not _NO_VALUE.fullmatch(found[1]) and not _is_elsewhere(value)


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
