# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Option specs that several modules share; their documentation is in plugins/doc_fragments."""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import env_fallback

Spec = dict[str, t.Any]


def _cluster_spec(env: str) -> Spec:
    def option(name: str, kind: str = "str", **more: t.Any) -> Spec:
        return {"type": kind, "fallback": (env_fallback, [f"{env}_{name}"]), **more}

    return {
        "kubeconfig": option("KUBECONFIG", "path"),
        "context": option("CONTEXT"),
        "host": option("HOST"),
        "api_key": option("API_KEY", no_log=True),
        "ca_cert": option("SSL_CA_CERT", "path", aliases=["ssl_ca_cert"]),
        "client_cert": option("CERT_FILE", "path", aliases=["cert_file"]),
        "client_key": option("KEY_FILE", "path", no_log=False, aliases=["key_file"]),
        "validate_certs": option("VERIFY_SSL", "bool", aliases=["verify_ssl"]),
        "proxy": option("PROXY"),
        "in_cluster": {"type": "bool", "default": False},
        "cluster_uid": {"type": "str"},
        "request_timeout": {"type": "float", "default": 30},
    }


def source_spec() -> Spec:
    """The cluster that runs the source mesh (environment: K8S_AUTH_*)."""
    return {"source": {"type": "dict", "apply_defaults": True, "options": _cluster_spec("K8S_AUTH")}}


def target_spec() -> Spec:
    """The API server of the target mesh (environment: K8S_AUTH_TARGET_*)."""
    return {"target": {"type": "dict", "apply_defaults": True, "options": _cluster_spec("K8S_AUTH_TARGET")}}


def alibaba_spec() -> Spec:
    """Alibaba Cloud's OpenAPI. Without keys the SDK's own credential chain is used."""

    def option(name: str, kind: str = "str", **more: t.Any) -> Spec:
        return {"type": kind, "fallback": (env_fallback, [f"ALIBABA_CLOUD_{name}"]), **more}

    return {
        "alibaba": {
            "type": "dict",
            "apply_defaults": True,
            "options": {
                "region": option("REGION_ID"),
                "access_key_id": option("ACCESS_KEY_ID", no_log=False),
                "access_key_secret": option("ACCESS_KEY_SECRET", no_log=True),
                "security_token": option("SECURITY_TOKEN", no_log=True),
                "slb_endpoint": option("SLB_ENDPOINT"),
                "asm_endpoint": option("ASM_ENDPOINT"),
                "protocol": option("SLB_PROTOCOL", choices=["https", "http"], default="https"),
                "request_timeout": {"type": "float", "default": 10},
                "attempts": {"type": "int", "default": 8},
            },
        }
    }


def state_spec() -> Spec:
    """Where the journal lives."""
    return {
        "migration": {"type": "str", "required": True},
        "state_dir": {
            "type": "path",
            "default": "~/.ansible/servicemesh-migration",
            "fallback": (env_fallback, ["SERVICEMESH_MIGRATION_STATE_DIR"]),
        },
    }


def wait_spec(timeout: float = 300) -> Spec:
    return {"wait_timeout": {"type": "float", "default": timeout}}


def gateways_spec() -> Spec:
    """The gateways that are moved, each a pair of source Service and target IstioGateway behind one load balancer."""
    return {
        "gateways": {
            "type": "list",
            "elements": "dict",
            "required": True,
            "options": {
                "namespace": {"type": "str", "default": "istio-system"},
                "source_service": {"type": "str", "default": "istio-ingressgateway"},
                "target_gateway": {"type": "str", "required": True},
                "load_balancer_id": {"type": "str"},
            },
        }
    }
