# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of the cloud's API, with the codes, messages and HTTP statuses that the vendor documents.

Source: the SLB page "Common error codes" and the error tables of the single actions; CCM and SDK code that match on
the message ("The specified LoadBalancerId does not exist" is looked for by the CCM when it cleans up).
"""

from __future__ import annotations


class ApiError(Exception):
    """An answer with ``{Code, Message, RequestId, HostId}`` and a status of 400 or more."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


def load_balancer_not_found() -> ApiError:
    return ApiError("InvalidLoadBalancerId.NotFound", "The specified LoadBalancerId does not exist.", 404)


def vserver_group_not_found() -> ApiError:
    return ApiError("InvalidParameter", "The specified VServerGroupId does not exist.", 404)


def listener_not_found() -> ApiError:
    return ApiError("InvalidParameter", "The specified resource does not exist.", 400)


def listener_exists() -> ApiError:
    return ApiError("ListenerAlreadyExists", "A listener with the specified port already exists.", 400)


def missing(name: str) -> ApiError:
    return ApiError(f"Missing{name}", f"{name} is mandatory for this action.", 400)


def invalid(name: str, why: str = "") -> ApiError:
    detail = f" {why}" if why else ""
    return ApiError("InvalidParameter", f"The specified {name} is invalid.{detail}", 400)


def too_many_backends(limit: int) -> ApiError:
    return ApiError("TooManyBackendServers", f"The total number of input real servers exceeds max supported number: {limit}", 400)


def backend_unknown() -> ApiError:
    return ApiError(
        "ObtainIpFail",
        "The specified BackendServers is invalid; some of the specified backend servers do not exist or are not running.",
        400,
    )


def vserver_group_in_use() -> ApiError:
    return ApiError("RspoolVipExist", "there are vips associating with this vServer group.", 400)


def delete_protection_on() -> ApiError:
    return ApiError(
        "OperationDenied.DeleteProtectionIsOn", "The loadbalancer can't be deleted due to DeleteProtection is enabled.", 400
    )


def unsupported_action(action: str) -> ApiError:
    return ApiError("InvalidAction.NotFound", f"Specified api is not found, please check your url and method. ({action})", 404)
