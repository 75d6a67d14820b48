# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cloud's API as the CCM speaks to it: POST / with everything in the query, the way of Alibaba's older SDK."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import urllib3
from urllib3.exceptions import HTTPError

from lab.ccm.names import CcmError, Object

API_VERSIONS = {"slb": "2014-05-15", "ecs": "2014-05-26", "vpc": "2016-04-28"}


class ApiError(CcmError):
    """An error that the API answered. Its text is what the CCM puts into its log; events keep the Message only."""

    def __init__(self, action: str, code: str, request_id: str, message: str) -> None:
        super().__init__(f"[SDKError] API: {action}, ErrorCode: {code}, RequestId: {request_id}, Message: {message}")
        self.code = code


class Cloud(Protocol):
    """What the controller needs of a cloud; tests bring one in memory."""

    def call(self, product: str, action: str, **params: Any) -> Object:
        """One call; the decoded answer. Parameters are as on the wire (`Tag.1.Key` given as Tag_1_Key), empty ones left out."""
        ...


def flat(params: Mapping[str, Any]) -> dict[str, str]:
    """`Name=[a, b]` becomes `Name.1`, `Name.2`; `Tag=[{"Key": k}]` becomes `Tag.1.Key`. None and "" are left out."""
    out: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, (list, tuple)):
            for index, item in enumerate(value, 1):
                if isinstance(item, Mapping):
                    out.update({f"{name}.{index}.{key}": str(part) for key, part in item.items()})
                else:
                    out[f"{name}.{index}"] = str(item)
        elif value is not None and value != "":
            out[name] = str(value)
    return out


class RpcCloud:
    """Kept connections, no retry, signed as signature version 1.0 asks (HMAC-SHA1 over the sorted query)."""

    def __init__(self, endpoint: str, region: str, key_id: str, secret: str, *, timeout: float = 10.0) -> None:
        self._url = f"http://{endpoint}/"
        self._region = region
        self._key_id = key_id
        self._secret = (secret + "&").encode()
        self._pool = urllib3.PoolManager(num_pools=1, maxsize=32, retries=False)
        self._timeout = urllib3.Timeout(connect=5.0, read=timeout)
        self._nonce = threading.local()

    def call(self, product: str, action: str, **params: Any) -> Object:
        query = {
            "Action": action,
            "Version": API_VERSIONS[product],
            "RegionId": self._region,
            "Format": "JSON",
            "AccessKeyId": self._key_id,
            "SignatureMethod": "HMAC-SHA1",
            "SignatureVersion": "1.0",
            "SignatureType": "",
            "SignatureNonce": uuid.uuid4().hex,
            "Timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **flat(params),
        }
        query["Signature"] = self._signature(query)
        try:
            answer = self._pool.request("POST", self._url + "?" + urlencode(query), timeout=self._timeout)
        except HTTPError as error:
            raise CcmError(f"{action}: {error}") from error
        try:
            body = json.loads(answer.data)
        except ValueError:
            body = {}
        if answer.status >= 400:
            message = body.get("Message") or answer.data[:200].decode(errors="replace")
            raise ApiError(action, str(body.get("Code") or answer.status), str(body.get("RequestId") or ""), str(message))
        return body if isinstance(body, dict) else {}

    def _signature(self, query: Mapping[str, str], method: str = "POST") -> str:
        ordered = urlencode(sorted(query.items()), quote_via=quote, safe="~")
        text = f"{method}&{quote('/', safe='')}&{quote(ordered, safe='~')}"
        return base64.b64encode(hmac.new(self._secret, text.encode(), hashlib.sha1).digest()).decode()
