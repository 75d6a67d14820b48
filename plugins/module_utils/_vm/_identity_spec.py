# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Options of vm_identity, for its two halves."""

from __future__ import annotations

import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._core._specs import Spec, source_spec


def identity_spec() -> Spec:
    def words(**more: t.Any) -> Spec:
        return {"type": "str", **more}

    return {
        **source_spec(),
        "state": words(choices=["present", "absent"], default="present"),
        "path": {"type": "path", "default": "/opt/asm_proxy"},
        "name": words(),
        "namespace": words(required=True),
        "service_account": words(required=True),
        "create_service_account": {"type": "bool", "default": True},
        "remove_service_account": {"type": "bool", "default": False},
        "labels": {"type": "dict", "default": {}},
        "address": words(),
        "istio_namespace": words(default="istio-system"),
        "revision": words(),
        "istiod": {
            "type": "dict",
            "apply_defaults": True,
            "options": {
                "host": words(),
                "port": {"type": "int", "default": 15012},
                "addresses": {"type": "list", "elements": "str", "default": []},
                "find": words(choices=["service", "pods"], default="service"),
            },
        },
        "cluster_id": words(),
        "mesh_id": words(),
        "network": words(),
        "service_cidr": words(),
        "auto_register_group": words(),
        "dns_capture": {"type": "bool", "default": False},
        "env": {"type": "dict", "default": {}},
        "proxy_config": {"type": "dict", "default": {}},
        "hosts_entry": {"type": "bool", "default": True},
        "hosts": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "address": words(required=True),
                "names": {"type": "list", "elements": "str", "required": True},
            },
        },
        "hosts_file": {"type": "path", "default": "/etc/hosts"},
        "owner": words(default="1337"),
        "group": words(default="1337"),
        "audience": words(default="istio-ca"),
        "expiration_seconds": {"type": "int", "default": 2592000},
        "renew_before": {"type": "int", "default": 864000},
        "keep_certificates": {"type": "bool", "default": True},
        "renewal": {
            "type": "dict",
            "apply_defaults": True,
            "options": {"method": words(choices=["none", "timer"], default="none"), "server": words()},
        },
        "facts": {"type": "dict"},
        "token": words(no_log=True),
        "renewal_token": words(no_log=True),
    }
