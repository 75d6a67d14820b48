# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""One call of Alibaba Cloud's OpenAPI through the vendor's SDK, and its errors as an operator can use them.

The SDK signs, knows the endpoint of each region and the chain of credentials. It does not retry, and its errors come in
several classes with the code in an attribute: both are mended here. Answers stay plain dictionaries, so that no field is lost
that this version of the SDK has no attribute for.
"""

from __future__ import annotations

import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._cloud._later import imported
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._retry import retry

Answer = dict[str, t.Any]
VERSION = "2014-05-15"

# Codes that mean "come back later", besides HTTP 429 and 5xx.
_BUSY = ("Throttling", "ServiceUnavailable", "InternalError", "OperationBusy", "SystemBusy", "ServiceIsConfiguring")
_KEYS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "IncompleteSignature", "InvalidCredentials", "MissingAccessKeyId")
_TOKEN = ("InvalidSecurityToken", "SecurityTokenExpired", "InvalidStsToken")
_FORBIDDEN = ("Forbidden", "NoPermission", "Unauthorized", "UnauthorizedOperation")
_MISSING = (
    "InvalidLoadBalancerId",
    "LoadBalancerNotFound",
    "ResourceNotFound",
    "InvalidVServerGroupId",
    "VServerGroupIdNotFound",
)


class Api:
    """Calls of product SLB in one region. Safe for several threads. A subclass speaks to another product.

    :arg options: the option O(alibaba) of the modules.
    Raises MigrationError with ``details`` = {"code", "status", "action"}; status 0 means that no answer came.
    """

    PRODUCT, VERSION, PACKAGE, ENDPOINT = "slb", VERSION, "alibabacloud_slb20140515", "slb_endpoint"
    THINGS = "the load balancers"

    def __init__(self, options: t.Mapping[str, t.Any]) -> None:
        self.region = str(options.get("region") or "")
        if not self.region:
            raise InputError(
                f"The region of {self.THINGS} is not known",
                why="neither alibaba.region nor the environment variable ALIBABA_CLOUD_REGION_ID is set",
                todo="set alibaba.region, like cn-hangzhou",
            )
        self._attempts = int(options.get("attempts") or 8)
        self.until: float | None = None  # a time.monotonic() after which no call is repeated
        try:
            client = imported(f"{self.PACKAGE}.client", "aiohttp", f"{self.PACKAGE}.models").Client
            from alibabacloud_tea_openapi import utils_models  # pylint: disable=import-outside-toplevel
            from darabonba.runtime import RuntimeOptions  # pylint: disable=import-outside-toplevel
        except ImportError as error:
            raise InputError(
                f"The Python package {self.PACKAGE} is missing where this module runs",
                why=str(error),
                todo=f"pip install {self.PACKAGE} (for the Python in ansible_python_interpreter)",
            ) from error
        milliseconds = int(float(options.get("request_timeout") or 10) * 1000)
        config: dict[str, t.Any] = {
            "region_id": self.region,
            "protocol": options.get("protocol") or "https",
            "read_timeout": milliseconds,
            "connect_timeout": min(milliseconds, 5000),
            "max_idle_conns": 32,
            **self._credentials(options),
        }
        if options.get(self.ENDPOINT):
            config["endpoint"] = options[self.ENDPOINT]
        self._models = utils_models
        self._runtime = RuntimeOptions
        self._client = client(utils_models.Config(**config))
        self.endpoint = str(getattr(self._client, "_endpoint", "") or options.get(self.ENDPOINT) or "")

    @staticmethod
    def _credentials(options: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        key, secret = options.get("access_key_id"), options.get("access_key_secret")
        if key and secret:
            token = options.get("security_token")
            return {"access_key_id": key, "access_key_secret": secret, **({"security_token": token} if token else {})}
        if key or secret:
            raise InputError(
                "Half of an access key is not enough",
                why=f"alibaba.access_key_{'secret' if key else 'id'} is not set, the other half is",
                todo="set both, or none of them to use the credential chain of the SDK",
            )
        from alibabacloud_credentials.client import Client  # pylint: disable=import-outside-toplevel

        try:
            return {"credential": Client()}
        except Exception as error:
            raise InputError(
                "No credentials for Alibaba Cloud were found",
                why=str(error),
                todo="set alibaba.access_key_id and alibaba.access_key_secret, or one of the places that the SDK looks at",
            ) from error

    def call(self, action: str, *, where: str, idempotent: bool = True, **params: t.Any) -> Answer:
        """One action; lists become ``Name.N``. Repeated on throttling, 5xx and broken connections, when ``idempotent``."""
        if not idempotent:
            return self._once(action, where, params)
        return retry(lambda: self._once(action, where, params), attempts=self._attempts, deadline=self.until)

    def _once(self, action: str, where: str, params: t.Mapping[str, t.Any]) -> Answer:
        request = self._request({key: value for key, value in params.items() if value is not None})
        shape = self._models.Params(
            action=action,
            version=self.VERSION,
            protocol="HTTPS",
            pathname="/",
            method="POST",
            auth_type="AK",
            style="RPC",
            req_body_type="formData",
            body_type="json",
        )
        try:
            answer = self._client.call_api(shape, request, self._runtime())
        except Exception as error:  # the SDK raises its own, requests' and plain ones: all become one
            raise self._explain(action, where, error) from error
        body = answer.get("body")
        if isinstance(body, dict) and body.get("RequestId"):  # every answer of Alibaba Cloud has one
            return body
        raise MigrationError(
            f"The answer to {action} is not one of Alibaba Cloud",
            where=f"{where} at {self.endpoint}",
            why=f"it has no RequestId; it begins with {str(body)[:80]!r}, and nothing is taken for absent by it",
            todo=f"check alibaba.{self.ENDPOINT} and the proxy: something else may answer there",
            transient=True,
            details={"code": "", "status": 0, "action": action},
        )

    def _request(self, params: dict[str, t.Any]) -> t.Any:
        """The parameters of SLB go into the query, with the region."""
        from alibabacloud_tea_openapi.utils import Utils  # pylint: disable=import-outside-toplevel

        return self._models.OpenApiRequest(query=Utils.query({"RegionId": self.region, **params}))

    def _explain(self, action: str, where: str, error: Exception) -> MigrationError:
        code = str(getattr(error, "code", None) or "")
        status = int(getattr(error, "status_code", None) or 0)
        message = str(getattr(error, "message", None) or error)
        details = {"code": code, "status": status, "action": action}
        if not status:
            return self._no_answer(action, where, code, message, details)
        what, todo, transient = f"Alibaba Cloud refused {action}", "", False
        if status == 429 or status >= 500 or code.startswith(_BUSY):
            what, transient = f"Alibaba Cloud could not do {action} now", True
            todo = "run again later; if it throttles often, raise alibaba.attempts"
        elif code.startswith(_TOKEN):
            todo = "the temporary token is expired or wrong: get a new one and set alibaba.security_token (and its key)"
        elif code.startswith(_KEYS):
            todo = "check alibaba.access_key_id and alibaba.access_key_secret"
        elif code.startswith(_FORBIDDEN):
            todo = f"grant the RAM user or role the action {self.PRODUCT}:{action}; docs/rbac.md lists all that are needed"
        elif code.startswith(_MISSING) or ".NotFound" in code or status == 404:
            todo = f"check the id and the region: this was asked in {self.region}"
            details["not_found"] = True
        return MigrationError(
            what,
            where=where,
            why=f"{code or 'no code'} (HTTP {status}): {message}",
            todo=todo,
            transient=transient,
            details=details,
        )

    def _no_answer(self, action: str, where: str, code: str, message: str, details: dict[str, t.Any]) -> MigrationError:
        if code.startswith("InvalidCredentials") or "redential" in message.split(":")[0]:
            return MigrationError(
                f"There are no credentials for {action}",
                where=where,
                why=message,
                todo="set alibaba.access_key_id and alibaba.access_key_secret, or one of the places that the SDK looks at",
                details=details,
            )
        wrong_tls = "CERTIFICATE_VERIFY_FAILED" in message or "SSLError" in message
        return MigrationError(
            f"Alibaba Cloud gave no answer to {action}",
            where=f"{where} at {self.endpoint}",
            why=message,
            todo=f"check alibaba.region, alibaba.{self.ENDPOINT}, the network and the proxy",
            transient=not wrong_tls,
            details=details,
        )
