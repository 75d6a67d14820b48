# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Logic of vm_preflight: read this VM, check, and say it all at once."""

from __future__ import annotations

import ipaddress
import re
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._audit._finding import judged, run_checks
from ansible_collections.servicemesh.migration.plugins.module_utils._audit._vm_checks import VM_CHECKS
from ansible_collections.servicemesh.migration.plugins.module_utils._audit._vm_facts import read
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome


def vm_preflight_spec() -> dict[str, t.Any]:
    """The options of vm_preflight."""
    texts = {"type": "list", "elements": "str", "default": []}
    numbers = {"type": "list", "elements": "int", "default": []}
    return {
        "controller_time": {"type": "float"},
        "istiod_host": {"type": "str", "default": "istiod.istio-system.svc"},
        "istiod_port": {"type": "int", "default": 15012},
        "istiod_addresses": texts,
        "istiod_version": {"type": "str", "default": ""},
        "proxy_version": {"type": "str", "default": ""},
        "reach": texts,
        "app_ports": numbers,
        "ssh_ports": numbers,
        "mode": {"type": "str", "choices": ["REDIRECT", "TPROXY"], "default": "REDIRECT"},
        "ipv6": {"type": "bool", "default": False},
        "name": {"type": "str", "default": "asm-proxy"},
        "path": {"type": "path", "default": "/opt/asm_proxy"},
        "redirect_state_dir": {"type": "path", "default": "/var/lib/servicemesh-migration/redirect"},
        "engine_socket": {"type": "path"},
        "audience": {"type": "str", "default": "istio-ca"},
        "namespace": {"type": "str", "default": ""},
        "service_account": {"type": "str", "default": ""},
        "fail_on": {"type": "str", "choices": ["error", "warning", "never"], "default": "error"},
    }


def check_input(params: t.Mapping[str, t.Any]) -> None:
    """Raises InputError for options that cannot be right."""
    for option in ("app_ports", "ssh_ports"):
        for port in params[option]:
            _port(option, port)
    _port("istiod_port", params["istiod_port"])
    for address in params["istiod_addresses"]:
        try:
            ipaddress.ip_address(address)
        except ValueError as error:
            raise InputError(
                f"{address!r} is no IP address", where="istiod_addresses", why=str(error), todo="give IP addresses"
            ) from error
    for target in params["reach"]:
        host, _colon, port = target.rpartition(":")
        if not host or not port.isdigit():
            raise InputError(f"{target!r} cannot be reached", where="reach", why="it is no host:port", todo="write host:port")
        _port("reach", int(port))
    for option in ("istiod_version", "proxy_version"):
        if params[option] and not re.match(r"v?\d+\.\d+", params[option]):
            raise InputError(f"{params[option]!r} is no version", where=option, todo="give a version like 1.18.7")


def _port(option: str, port: int) -> None:
    if not 0 < port < 65536:
        raise InputError(f"{port} is no port", where=option, todo="give a number from 1 to 65535")


def vm_preflight(params: t.Mapping[str, t.Any], check_mode: bool) -> Outcome:
    """The same in check mode: it only reads."""
    del check_mode
    check_input(params)
    return judged(run_checks(VM_CHECKS, read(params)), params["fail_on"], "this VM")
