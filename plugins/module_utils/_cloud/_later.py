# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""A package that others import and we never use: it is imported when something of it is used, and not before.

The vendor's SDK imports aiohttp for its asynchronous calls, and hundreds of classes of requests and answers, and names them in
annotations. Nobody uses either here, and they take half of the SDK's import: 0.14 s of CPU in each module that asks the cloud.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
import typing as t


class _Later(types.ModuleType):
    """Stands for a package. While ``quiet``, it has empty classes that annotations can name; later it has its own."""

    quiet = True

    def __getattr__(self, name: str) -> t.Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self.quiet:
            return type(name, (), {})
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def later(name: str) -> t.Iterator[None]:
    """What is imported within gets the package ``name`` only when it uses it. One that is imported already is taken as it is."""
    if name in sys.modules:
        yield
        return
    stand_in = sys.modules[name] = _Later(name)
    try:
        yield
    finally:
        stand_in.quiet = False
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]


def imported(name: str, *without: str) -> t.Any:
    """The module ``name``; the packages ``without``, which it imports, come later, where it allows that."""
    try:
        with contextlib.ExitStack() as stack:
            for package in without:
                stack.enter_context(later(package))
            return importlib.import_module(name)
    except Exception:  # pylint: disable=broad-exception-caught  # another version of it needs more of the packages
        return importlib.import_module(name)
