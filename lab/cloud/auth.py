# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Access keys and signatures: ACS3-HMAC-SHA256 in headers (newer SDKs), HMAC-SHA1 in the query (older RPC SDKs).

Source: the vendor's pages "V3 request body and signature mechanism" and "V2 RPC signature". The access key must be
known and not expired. A signature that is there is checked against the key's secret; one that is missing is not asked
for, so that curl can be used against the lab.
Keys: ``{"<id>": {"secret": str, "readonly": bool, "deny": ["Action glob"], "tokens": {"<token>": "valid"|"expired"}}}``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qsl, quote

from .errors import ApiError


@dataclass
class Key:
    secret: str
    readonly: bool = False
    deny: list[str] = field(default_factory=list)
    tokens: dict[str, str] = field(default_factory=dict)


class Keys:
    def __init__(self, raw: Mapping[str, Mapping[str, Any]]) -> None:
        self.keys = {key: Key(**entry) for key, entry in raw.items()}

    def check(self, request: Request) -> str:
        """The id of the caller's access key, or an error as the vendor's gateway gives it."""
        key_id, signature = request.credential()
        if not key_id:
            raise ApiError("MissingAccessKeyId", "AccessKeyId is mandatory for this action.", 400)
        key = self.keys.get(key_id)
        if key is None:
            raise ApiError("InvalidAccessKeyId.NotFound", "Specified access key is not found.", 404)
        token = request.headers.get("x-acs-security-token") or request.query.get("SecurityToken", "")
        if token or key.tokens:
            state = key.tokens.get(token)
            if state == "expired":
                raise ApiError("InvalidSecurityToken.Expired", "Specified SecurityToken is expired.", 400)
            if state is None:
                raise ApiError("InvalidSecurityToken.Malformed", "Specified SecurityToken is malformed.", 400)
        if signature and not hmac.compare_digest(signature, request.expected(key.secret)):
            raise ApiError("SignatureDoesNotMatch", "Specified signature is not matched with our calculation.", 400)
        return key_id

    def authorize(self, key_id: str, service: str, action: str, writes: bool) -> None:
        key = self.keys[key_id]
        if (key.readonly and writes) or any(fnmatchcase(action, g) or fnmatchcase(f"{service}:{action}", g) for g in key.deny):
            raise ApiError(
                "Forbidden.RAM",
                "User not authorized to operate on the specified resource, or this API doesn't support RAM.",
                403,
            )


@dataclass
class Request:
    """The parts of an HTTP request that are signed."""

    method: str
    path: str
    raw_query: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    form: Mapping[str, str]

    def _authorization(self) -> dict[str, str]:
        text = self.headers.get("Authorization", "")
        if not text.startswith("ACS3-"):
            return {}
        return dict(re.findall(r"(Credential|SignedHeaders|Signature)=([^,\s]+)", text))

    def credential(self) -> tuple[str, str]:
        parts = self._authorization()
        if parts:
            return parts.get("Credential", ""), parts.get("Signature", "")
        return self.query.get("AccessKeyId", ""), self.query.get("Signature", "")

    def expected(self, secret: str) -> str:
        parts = self._authorization()
        return self._acs3(secret, parts.get("SignedHeaders", "")) if parts else self._rpc(secret)

    def _acs3(self, secret: str, signed: str) -> str:
        pairs = sorted(parse_qsl(self.raw_query, keep_blank_values=True))
        query = "&".join(f"{escape(k)}={escape(v)}" for k, v in pairs)
        names = signed.split(";")
        headers = "".join(f"{n}:{self.headers.get(n, '').strip()}\n" for n in names)
        payload = self.headers.get("x-acs-content-sha256", "")
        canonical = "\n".join([self.method, self.path, query, headers, signed, payload])
        digest = "ACS3-HMAC-SHA256\n" + hashlib.sha256(canonical.encode()).hexdigest()
        return hmac.new(secret.encode(), digest.encode(), hashlib.sha256).hexdigest()

    def _rpc(self, secret: str) -> str:
        pairs = sorted((k, v) for k, v in {**self.query, **self.form}.items() if k != "Signature")
        canonical = "&".join(f"{escape(k)}={escape(v)}" for k, v in pairs)
        text = f"{self.method}&%2F&{escape(canonical)}"
        method = self.query.get("SignatureMethod", "HMAC-SHA1").upper()
        digest = hashlib.sha256 if method == "HMAC-SHA256" else hashlib.sha1
        return base64.b64encode(hmac.new(f"{secret}&".encode(), text.encode(), digest).digest()).decode()


def escape(text: str) -> str:
    """RFC 3986: everything but letters, digits and ``-_.~``."""
    return quote(text, safe="-_.~")
