# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Canonical YAML: one text for one value, readable by people and by every YAML parser, written and read at the speed of JSON.

Keys are sorted, texts of several lines are literal blocks, everything that a YAML 1.1 parser could take for something else
is quoted. ``parse`` reads back only what ``dump`` writes (PyYAML needs 2 ms for an object, this 0.1 ms), and says so otherwise.
"""

from __future__ import annotations

import json
import math
import re
import typing as t

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*(?:[ :][A-Za-z0-9_./-]+)*")
_WORDS = frozenset(("true", "false", "yes", "no", "on", "off", "null", "y", "n"))
# What a YAML parser would not take as it is: DEL, C1, line separators, byte order mark, no characters.
_NO = "\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff"
_ODD = re.compile(f"[{_NO}]")
_LITERAL = re.compile(f"[^\\s\x00-\x1f{_NO}][^\x00-\x08\x0a-\x1f{_NO}]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?P<real>\.[0-9]+(?:e[+-][0-9]+)?)?")
_CACHE = 10_000  # of each: what is kept of a large mesh takes no more room than what is kept of a middling one
_SHAPES = 5_000

_seen: dict[str, str] = {}  # texts that have none of MARKED in them
# What `_rows` made, by the keys as they come, at one place of a document.
_Shapes = dict[tuple[str, ...], "_Rows"]
# A key, what stands before its value and before one in the same line, the _Shapes of a mapping and of a list's mappings below.
_Rows = tuple[tuple[str, str, str, t.Any, t.Any], ...]
_top: _Shapes = {}
_shapes = [0]  # how many there are
_pairs: dict[str, tuple[str, t.Any]] = {}  # lines of mappings that were there before, without their indent
_SIMPLE = frozenset((str, int, float, bool, type(None)))
_read: dict[str, t.Any] = {"true": True, "false": False, "null": None, "{}": {}, "[]": []}


# Near them a secret may be. `marked` tells whether one of them is in a text: nearly for nothing, because most texts come again.
MARKED = ("pass", "secret", "token", "key", "private", "bearer", "authorization:", "-----", "eyj", "@")
_MARK = re.compile("|".join(map(re.escape, MARKED)))


def dump(value: t.Mapping[str, t.Any]) -> str:
    """The canonical text of a mapping of plain JSON data. Raises ValueError for anything else."""
    return marked(value)[0]


def marked(value: t.Mapping[str, t.Any]) -> tuple[str, bool]:
    """As `dump`, and whether a word of MARKED may be in it, in small or large letters. Never no when it is."""
    if not value:
        return "{}\n", False
    out: list[str] = [""]  # the first one is no text: it is set when a word of MARKED went by
    if _shapes[0] > _SHAPES:
        _top.clear()
        _shapes[0] = 0
    _mapping(value, "\n", "\n", _top, out)
    out.append("\n")
    found, out[0] = out[0], ""
    return "".join(out)[1:], bool(found)


def _is_marked(text: str) -> bool:
    return _MARK.search(text.lower()) is not None


def _rows(value: t.Mapping[str, t.Any], indent: str, lead: str, known: _Shapes, out: list[str]) -> _Rows:
    """The keys sorted, each with all that stands before its value. Most mappings have the keys of one that was there before."""
    made: list[tuple[str, str, str, _Shapes, _Shapes]] = []
    odd = False
    for key in sorted(value):
        before = f"{lead}{_seen.get(key) or _scalar(key, out)}:"
        odd = odd or _is_marked(f"{key}:")
        made.append((key, before, before + " ", {}, {}))
        lead = indent
    if odd:
        out[0] = "marked"
    else:
        known[tuple(value)] = tuple(made)
        _shapes[0] += 1
    return tuple(made)


def _mapping(value: t.Mapping[str, t.Any], indent: str, lead: str, known: _Shapes, out: list[str]) -> None:
    """``indent`` begins a line; ``lead`` the first one, which is another one when the mapping is an item of a list."""
    for key, before, spaced, below, items in known.get(tuple(value)) or _rows(value, indent, lead, known, out):
        item = value[key]
        kind = type(item)
        if kind is str:
            out.append(spaced)
            out.append(_seen.get(item) or _text(item, indent, out))
        elif kind is dict:
            if item:
                out.append(before)
                deeper = indent + "  "
                _mapping(item, deeper, deeper, below, out)
            else:
                out.append(f"{before} {{}}")
        elif kind is list:
            if item:
                out.append(before)
                _sequence(item, indent, indent + "- ", items, out)
            else:
                out.append(f"{before} []")
        else:
            out.append(spaced)
            out.append(str(item) if kind is int else _other(item))


def _sequence(value: t.Sequence[t.Any], indent: str, lead: str, known: _Shapes, out: list[str]) -> None:
    """``known``: of the mappings in it, whose first lines all begin alike."""
    deeper, next_lead = indent + "  ", indent + "- "
    for item in value:
        kind = type(item)
        if kind is dict and item:
            # only in a list in a list the first item begins otherwise than the others
            _mapping(item, deeper, lead, known if lead is next_lead or lead == next_lead else {}, out)
        elif kind is str:
            out.append(f"{lead}{_seen.get(item) or _text(item, indent, out)}")
        elif kind is list and item:
            _sequence(item, deeper, lead + "- ", {}, out)
        elif kind is dict or kind is list:
            out.append(f"{lead}{'{}' if kind is dict else '[]'}")
        else:
            out.append(f"{lead}{_other(item)}")
        lead = next_lead


def _other(value: t.Any) -> str:
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        text = repr(value)
        return text if "." in text else text.replace("e", ".0e")  # YAML 1.1 takes 1e+16 for a text
    raise ValueError(f"{type(value).__name__} is no JSON data")


def _scalar(text: str, out: list[str]) -> str:
    """One line: plain when no parser can misread it, else in double quotes as JSON has them."""
    if not isinstance(text, str):
        raise ValueError(f"a key is {type(text).__name__}, not text")
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        made = text
    else:
        made = _ODD.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))
    if _is_marked(text):
        out[0] = "marked"
    elif len(text) < 100:
        if len(_seen) >= _CACHE:
            _seen.clear()
        _seen[text] = made
    return made


def _text(text: str, indent: str, out: list[str]) -> str:
    """A value: several lines as a literal block where that is exact."""
    body = text[:-1] if text.endswith("\n") else text
    lines = body.split("\n")
    if len(lines) < 2 and body is text:
        return _scalar(text, out)
    if not lines[0] or lines[0][0] == " " or not lines[-1]:
        return _scalar(text, out)
    for line in lines:
        if line and not _LITERAL.fullmatch(line.lstrip(" ")):
            return _scalar(text, out)
    if _is_marked(text):
        out[0] = "marked"
    newline = body is not text
    return "".join(["|" if newline else "|-", *(f"{indent}  {line}" if line else "\n" for line in lines)])


# -- reading -----------------------------------------------------------------------------------------------------


_raw_decode = json.JSONDecoder().raw_decode


def _quoted(line: str) -> tuple[str, int]:
    value, end = _raw_decode(line)
    return str(value), end


def _wrong(at: int, why: str = "it is not as this collection writes it") -> ValueError:
    return ValueError(f"line {at + 1}: {why}")


def parse(text: str) -> dict[str, t.Any]:
    """The value of a canonical text. Raises ValueError, with the line, for everything else."""
    if text == "{}\n":
        return {}
    if not text.endswith("\n"):
        raise ValueError("the last line has no end")
    lines = text.split("\n")
    lines.pop()
    value, at = _parse_mapping(lines, 0, "")
    if at != len(lines):
        raise _wrong(at)
    return value


# Each of these takes the number of a line, and returns the number of the one behind what it read.


def _parse_mapping(lines: list[str], at: int, space: str) -> tuple[dict[str, t.Any], int]:
    made: dict[str, t.Any] = {}
    depth, end = len(space), len(lines)
    while at < end:
        line = lines[at]
        if depth:
            if not line.startswith(space):
                break
            line = line[depth:]
        known = _pairs.get(line)
        if known is not None and known[0] not in made:
            made[known[0]] = known[1]
            at += 1
            continue
        if not line or line[0] == " " or line.startswith("- "):
            break
        if line[0] == '"':
            try:
                key, stop = _quoted(line)
            except ValueError:
                raise _wrong(at) from None
            rest = line[stop:]
            if rest == ":":
                rest = ""
            elif rest.startswith(": "):
                rest = rest[2:]
            else:
                raise _wrong(at)
        else:
            key, colon, rest = line.partition(": ")
            if not colon:
                if key[-1] != ":":
                    raise _wrong(at)
                key, rest = key[:-1], ""
        if key in made:
            raise _wrong(at, f"the key {key!r} is there twice")
        at += 1
        if rest:
            value, at = _parse_value(lines, at, rest, space)
            made[key] = value
            if type(value) in _SIMPLE and rest[0] != "|" and len(line) < 100 and len(_pairs) < _CACHE:
                _pairs[line] = key, value
        elif at == end:
            raise _wrong(at)
        elif lines[at].startswith("- ", depth) and lines[at].startswith(space):
            made[key], at = _parse_sequence(lines, at, space)
        else:
            made[key], at = _parse_mapping(lines, at, space + "  ")
    if not made:
        raise _wrong(at)
    return made, at


def _parse_sequence(lines: list[str], at: int, space: str) -> tuple[list[t.Any], int]:
    made: list[t.Any] = []
    lead, deeper, end = space + "- ", space + "  ", len(lines)
    while at < end and lines[at].startswith(lead):
        rest = lines[at][len(lead) :]
        item: t.Any
        if rest.startswith("- "):
            lines[at] = deeper + rest
            item, at = _parse_sequence(lines, at, deeper)
        elif rest in _pairs or _is_key(rest):
            lines[at] = deeper + rest
            item, at = _parse_mapping(lines, at, deeper)
        else:
            item, at = _parse_value(lines, at + 1, rest, space)
        made.append(item)
    return made, at


def _is_key(rest: str) -> bool:
    """Whether an item of a list begins a mapping: a plain text never holds ``: `` and never ends with ``:``."""
    if rest[:1] != '"':
        return ": " in rest or rest.endswith(":")
    try:
        return _quoted(rest)[1] < len(rest)
    except ValueError:
        return False


def _parse_value(lines: list[str], at: int, rest: str, space: str) -> tuple[t.Any, int]:
    """What stands behind a key or a dash in the line before ``at``."""
    value = _read.get(rest, lines)
    if value is not lines:
        return (value if type(value) not in (dict, list) else type(value)()), at
    first = rest[0] if rest else ""
    if first == "|":
        return _parse_literal(lines, at, rest, space + "  ")
    if first == '"':
        try:
            value = json.loads(rest)
        except ValueError:
            raise _wrong(at - 1) from None
    else:
        number = _NUMBER.fullmatch(rest)
        if number:
            value = float(rest) if number["real"] else int(rest)
        elif _PLAIN.fullmatch(rest):
            value = rest
        else:
            raise _wrong(at - 1)
    if len(rest) < 100 and len(_read) < _CACHE:
        _read[rest] = value  # most values of a mesh are those of one that was there before
    return value, at


def _parse_literal(lines: list[str], at: int, rest: str, space: str) -> tuple[str, int]:
    if rest not in ("|", "|-"):
        raise _wrong(at - 1)
    made = []
    while at < len(lines) and (not lines[at] or lines[at].startswith(space)):
        made.append(lines[at][len(space) :])
        at += 1
    return "\n".join(made) + ("\n" if rest == "|" else ""), at
