# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What a target does not take although its API server would store it. Pure."""

from __future__ import annotations

import re
import typing as t

Object = dict[str, t.Any]


def misfit(obj: Object, version: str) -> tuple[str, str]:
    """``(why it would do nothing in the target, what to know about it)``; both empty when there is nothing to say.

    An EnvoyFilter says by a regular expression for which versions of the proxy each of its patches is. It is stored whatever it
    says, and does nothing on other proxies, without a word.

    :arg version: of Istio, as the target's proxies tell it; empty when it is not known.
    """
    patches = (obj.get("spec") or {}).get("configPatches") or []
    if obj["kind"] != "EnvoyFilter" or not patches:
        return "", ""
    wanted = [((patch.get("match") or {}).get("proxy") or {}).get("proxyVersion") or "" for patch in patches]
    if not any(wanted):
        return "", ""
    told = ", ".join(sorted(set(filter(None, wanted))))
    if not version:
        return "", f"it acts on proxies of the version {told} only: set target_version to have that judged"
    try:
        fits = [not expression or bool(re.search(expression, version)) for expression in wanted]
    except re.error as error:
        return f"its proxyVersion {told} is no regular expression: {error}", ""
    if not any(fits):
        return f"none of its patches is for a proxy of the version {version}, but for {told}", ""
    if not all(fits):
        return "", f"{fits.count(False)} of its {len(fits)} patches are not for a proxy of the version {version}"
    return "", ""
