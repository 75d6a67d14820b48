# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Options of vm_proxy."""

from __future__ import annotations

from ansible_collections.servicemesh.migration.plugins.module_utils._core._specs import Spec


def proxy_spec() -> Spec:
    words: Spec = {"type": "list", "elements": "str", "default": []}
    return {
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "name": {"type": "str", "default": "asm-proxy"},
        "path": {"type": "path", "default": "/opt/asm_proxy"},
        "image": {"type": "str"},
        "pull": {"type": "str", "choices": ["missing", "always", "never"], "default": "missing"},
        "registry_username": {"type": "str"},
        "registry_password": {"type": "str", "no_log": True},
        "remove_image": {"type": "bool", "default": False},
        "args": words,
        "entrypoint": words,
        "user": {"type": "str", "default": ""},
        "env": {"type": "dict", "default": {}},
        "volumes": words,
        "capabilities": {"type": "list", "elements": "str", "default": ["NET_ADMIN"]},
        "restart_policy": {"type": "str", "choices": ["always", "unless-stopped"], "default": "always"},
        "memory": {"type": "str"},
        "cpus": {"type": "float"},
        "log_driver": {"type": "str", "default": "json-file"},
        "log_max_size": {"type": "str", "default": "10m"},
        "log_max_files": {"type": "int", "default": 3},
        "stop_timeout": {"type": "int", "default": 10},
        "replace": {"type": "str", "choices": ["seamless", "restart"], "default": "seamless"},
        "drain_seconds": {"type": "float", "default": 30},
        "adopt": {"type": "bool", "default": False},
        "engine_socket": {"type": "path"},
        "wait_timeout": {"type": "float", "default": 120},
    }
