# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Many items at once, an answer for each, and nothing lost when one of them fails."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import MigrationError

I = t.TypeVar("I")  # noqa: E741
R = t.TypeVar("R")


@dataclasses.dataclass
class Answer(t.Generic[I, R]):
    """The result of one item: either a value or an error."""

    item: I
    value: R | None = None
    error: MigrationError | None = None


def each(items: t.Sequence[I], call: t.Callable[[I], R], workers: int = 8) -> list[Answer[I, R]]:
    """Call for each item with at most ``workers`` threads; answers in the order of the items."""

    if len(items) <= 1 or workers <= 1:
        return [_answer(item, call) for item in items]
    with concurrent.futures.ThreadPoolExecutor(min(workers, len(items))) as pool:
        return list(pool.map(lambda item: _answer(item, call), items))


def flow(items: t.Iterable[I], call: t.Callable[[I], R], workers: int = 8) -> t.Iterator[Answer[I, R]]:
    """As ``each`` for a stream: a bounded number of items is under way, and memory does not grow with their number."""
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        under_way: collections.deque[concurrent.futures.Future[Answer[I, R]]] = collections.deque()
        for item in items:
            under_way.append(pool.submit(_answer, item, call))
            while len(under_way) > 4 * workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def _answer(item: I, call: t.Callable[[I], R]) -> Answer[I, R]:
    try:
        return Answer(item, value=call(item))
    except MigrationError as error:
        return Answer(item, error=error)


def values(answers: t.Sequence[Answer[I, R]]) -> list[R]:
    """All values; the first error is raised when there is one."""
    for answer in answers:
        if answer.error is not None:
            raise answer.error
    return [t.cast(R, answer.value) for answer in answers]
