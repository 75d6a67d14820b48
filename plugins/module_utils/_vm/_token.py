# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What a service account's token says of itself, and whether it must be replaced. Nothing here proves a signature."""

from __future__ import annotations

import base64
import dataclasses
import json
import time
import typing as t

SHORTEST, LONGEST = 600, 2**32  # what the TokenRequest API takes


@dataclasses.dataclass(frozen=True)
class Claims:
    """The readable part of a token. Times are seconds since 1970; 0 when they are missing."""

    subject: str
    audiences: tuple[str, ...]
    issued: int
    expires: int
    account_uid: str = ""

    def as_dict(self) -> dict[str, t.Any]:
        return {"subject": self.subject, "audiences": list(self.audiences), "expires": iso(self.expires)}


def iso(seconds: float) -> str:
    """A time as people and programs read it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def read(token: str) -> Claims | None:
    """The claims; None for what is no token."""
    try:
        body = token.strip().split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        audience = found.get("aud") or []
        audiences = (audience,) if isinstance(audience, str) else tuple(str(one) for one in audience)
        account = (found.get("kubernetes.io") or {}).get("serviceaccount") or {}
        times = (int(found.get("iat") or 0), int(found.get("exp") or 0))
        return Claims(str(found.get("sub") or ""), audiences, *times, str(account.get("uid") or ""))
    except (IndexError, ValueError, AttributeError, TypeError):
        return None


def subject(namespace: str, account: str) -> str:
    return f"system:serviceaccount:{namespace}:{account}"


def stale(
    claims: Claims | None, wanted_subject: str, audience: str, renew_before: float, now: float, account_uid: str = ""
) -> str:
    """Why a token must be replaced; empty when it may stay. ``account_uid``: the service account as it is now, if it is known.

    The horizon is at most half of its life: an API server that gives shorter tokens than asked would else be asked at each run.
    """
    if claims is None:
        return "there is no token yet, or the file holds none"
    if claims.subject != wanted_subject:
        return f"it is one of {claims.subject or 'nobody'}"
    if audience not in claims.audiences:
        return f"it is for {', '.join(claims.audiences) or 'nobody'} and not for {audience}"
    if account_uid and claims.account_uid and account_uid != claims.account_uid:
        return "its service account was deleted and made anew since"
    if not claims.expires:
        return "it does not say when it expires"
    left = claims.expires - now
    if left <= 0:
        return f"it expired at {iso(claims.expires)}"
    horizon = min(renew_before, (claims.expires - claims.issued) / 2) if claims.issued else renew_before
    if left < horizon:
        return f"it expires at {iso(claims.expires)}, sooner than in {horizon:.0f} seconds"
    return ""
