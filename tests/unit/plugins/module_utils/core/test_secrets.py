# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a text looks like decides whether it is a secret: no journal may have one, and what is none is needed for the undo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.servicemesh.migration.plugins.module_utils._core._journal import Journal
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Change, Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._secrets import MASK, concealed, holds_secret

KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\n"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIDXTCCAkWgAwIBAgIJAKL0UG9mN3rP\n-----END CERTIFICATE-----\n"
LUA = "function envoy_on_request(handle)\n  {}\nend"


def envoy_filter(line: str) -> dict[str, Any]:
    value = {"typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"}}
    value["typed_config"]["inlineCode"] = LUA.format(line)
    patch = {"operation": "INSERT_BEFORE", "value": {"name": "envoy.filters.http.lua", **value}}
    chain = {"filterChain": {"filter": {"name": "envoy.filters.network.http_connection_manager"}}}
    match = {"context": "GATEWAY", "listener": chain}
    spec = {
        "workloadSelector": {"labels": {"istio": "ingressgateway"}},
        "configPatches": [{"applyTo": "HTTP_FILTER", "match": match, "patch": patch}],
    }
    meta = {"name": "auth", "namespace": "istio-system", "uid": "f47ac10b-58cc-4372-a567-0e02b2c3d479"}
    return {"apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter", "metadata": meta, "spec": spec}


SECRETS = [
    'handle:headers():add("authorization", "Basic dXNlcjpwYXNzd29yZA==")',
    "handle:headers():replace('x-api-key', 'k-3f9a')",
    'handle:headers()["Authorization"] = "s3cr3t-value"',
    'local token = "hunter22"',
    "local api_key='abcd-efgh'",
    'handle:headers():add("x-auth", "Bearer abc123def")',
    'local jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln"',
    'handle:httpCall("https://user:hunter2@auth.example.com", {})',
    'local salt = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822c"',
    'local key = "q8Zt1mVbN4xR7sLp0WcYdA2fGh=="',
    f'local pem = "{KEY}"',
]
PLAIN = [
    'handle:headers():get("authorization")',
    'handle:headers():add("x-token-type", "bearer")',
    'handle:headers():add("x-mesh", "istio-ingressgateway-with-a-very-long-name")',
    "local token = handle:headers():get(name)",
    'if token == "" then return end',
    'handle:logInfo("Basic Authentication is not used here, and no bearer token either")',
    'local path = "/var/run/secrets/tokens/istio-token"',
    f'local root = "{CERTIFICATE}"',
]


@pytest.mark.parametrize("line", SECRETS)
def test_a_secret_in_a_program_is_seen(line: str) -> None:
    obj = envoy_filter(line)
    found = concealed(obj)
    value = found["spec"]["configPatches"][0]["patch"]["value"]
    assert value["typed_config"]["inlineCode"] == MASK
    value["typed_config"]["inlineCode"] = LUA.format(line)
    assert found == obj, "and nothing else is taken for one"
    # kubectl apply keeps the whole object in an annotation, as JSON.
    meta = {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": json.dumps(obj)}}
    assert MASK in str(concealed({"kind": "EnvoyFilter", "metadata": meta}))


@pytest.mark.parametrize("line", PLAIN)
def test_a_program_without_a_secret_stays_whole(line: str) -> None:
    obj = envoy_filter(line)
    assert concealed(obj) == obj


@pytest.mark.parametrize(
    "value",
    [
        {"env": [{"name": "DB_PASSWORD", "value": "hunter"}]},
        {"header": {"key": "x-api-key", "value": "hunter"}},
        {"headers": {"request": {"set": {"x-auth-token": "hunter"}}}},
        {"args": ["--admin-token=hunter"]},
        {"data": {"mesh": KEY}},
        {"annotations": {"note": "Authorization: Bearer 0a1b2c3d"}},
    ],
)
def test_values_are_known_by_their_names_too(value: Any) -> None:
    assert MASK in str(concealed(value))


@pytest.mark.parametrize(
    "value",
    [
        {"tls": {"credentialName": "shop-cert-2024", "mode": "SIMPLE", "privateKey": "/etc/certs/key.pem"}},
        {"secretName": "istio-ca-secret", "secretKeyRef": {"name": "x", "key": "token"}},
        {"env": [{"name": "ISTIO_META_CREDENTIAL_TYPE", "value": "x"}, {"name": "TOKEN_PATH", "value": "/var/run/x"}]},
        {"image": "proxyv2@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"},
        {"annotations": {"checksum/config": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}},
        {"serviceAccountToken": {"audience": "istio-ca", "expirationSeconds": 43200, "path": "istio-token"}},
        {"roleRef": {"kind": "Role"}, "rules": [{"resources": ["secrets", "tokenreviews"], "verbs": ["get"]}]},
        {"data": {"root-cert.pem": CERTIFICATE}},
        {"labels": {"app": "token-service", "istio.io/rev": "default"}},
        {"automountServiceAccountToken": "false"},
    ],
)
def test_names_of_secrets_and_hashes_are_none(value: Any) -> None:
    assert concealed(value) == value


def test_a_long_word_is_one_only_in_a_program() -> None:
    word = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822c"
    assert not holds_secret(word) and holds_secret(f"x = '{word}'", program=True)


@pytest.mark.parametrize("line", SECRETS)
def test_no_line_of_a_journal_and_no_diff_has_one(tmp_path: Path, line: str) -> None:
    journal, obj = Journal(str(tmp_path), "shop"), envoy_filter(line)
    with journal.around(Change("create", "target/x", obj, obj, "")):
        pass
    made = Plan()
    made.add("create", "target/x", None, obj)
    for text in (journal.path.read_text(), str(made.diff())):
        assert MASK in text and json.dumps(line)[1:-1] not in text and line not in text
