# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""A marked block in a file of lines such as /etc/hosts, which can be taken out again byte for byte."""

from __future__ import annotations

import typing as t

BEGIN, END = "# BEGIN servicemesh.migration", "# END servicemesh.migration"
_NO_NEWLINE = " (the line before ended without a newline)"


def block(entries: t.Sequence[tuple[str, t.Sequence[str]]]) -> list[str]:
    """Lines of (address, names)."""
    return [f"{address} {' '.join(names)}" for address, names in entries]


def without(text: str) -> str:
    """The text without the block: what it was before. A block that somebody cut in half is left alone."""
    lines = text.splitlines(keepends=True)
    begin = next((i for i, line in enumerate(lines) if line.startswith(BEGIN)), None)
    if begin is None:
        return text
    end = next((i for i, line in enumerate(lines) if i > begin and line.startswith(END)), None)
    if end is None:
        return text
    before, after = "".join(lines[:begin]), "".join(lines[end + 1 :])
    if _NO_NEWLINE in lines[begin] and not after:
        before = before[:-1]
    return without(before + after)


def broken(text: str) -> bool:
    """Whether there is a beginning without an end."""
    return _begins(without(text)) >= 0


def _begins(text: str) -> int:
    """Where the first line stands that begins a block; -1 when there is none."""
    at = 0
    for line in text.splitlines(keepends=True):
        if line.startswith(BEGIN):
            return at
        at += len(line)
    return -1


def with_block(text: str, lines: t.Sequence[str]) -> str:
    """The text with the block at its end, or in the place where it is."""
    base = without(text)
    if not lines:
        return base
    if base != text:
        at = _begins(text)
        if text[:at] == base[:at]:  # replace it where it stands
            head = text[at : text.index("\n", at) + 1]
            return base[:at] + head + "".join(f"{line}\n" for line in lines) + f"{END}\n" + base[at:]
    gap = _NO_NEWLINE if base and not base.endswith("\n") else ""
    return base + ("\n" if gap else "") + f"{BEGIN}{gap}\n" + "".join(f"{line}\n" for line in lines) + f"{END}\n"
