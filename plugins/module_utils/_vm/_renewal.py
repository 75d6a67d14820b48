# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""The timer by which a VM renews its token without Ansible, and the one right that it needs for that in the cluster.

The VM holds a second token, for the API server itself. Its Role allows to make tokens of this one service account and nothing
else, so it renews both: its own, and the proxy's.
"""

from __future__ import annotations

import json
import typing as t

UNIT = "asm-proxy-token"
HALF = ".token.*"  # files that the program below has not finished
MANAGED_BY, MANAGER = "servicemesh.migration/managed-by", "vm_identity"
Object = dict[str, t.Any]

# Its words go to the journal of systemd: a time, a place, a reason, and never a token.
SCRIPT = r'''#!/usr/bin/env python3
"""Renews the tokens of the mesh proxy of this VM when half of their life is over. Made by servicemesh.migration.vm_identity."""
import base64, json, os, ssl, sys, tempfile, time, urllib.error, urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(HERE, "renewal.json")) as stream:
    CONFIG = json.load(stream)


def claims(path):
    try:
        with open(path) as stream:
            body = stream.read().strip().split(".")[1]
        return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (OSError, IndexError, ValueError):
        return {}


def due(path):
    found = claims(path)
    life = found.get("exp", 0) - found.get("iat", 0)
    return "--now" in sys.argv or time.time() > found.get("exp", 0) - life / 2


def ask(bearer, audiences):
    spec = {"expirationSeconds": CONFIG["expiration_seconds"]}
    if audiences:
        spec["audiences"] = audiences
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    url = "%s/api/v1/namespaces/%s/serviceaccounts/%s/token" % (
        CONFIG["server"], CONFIG["namespace"], CONFIG["service_account"])
    headers = {"Authorization": "Bearer " + bearer, "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    context = ssl.create_default_context(cafile=os.path.join(HERE, "api-ca.pem"))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    with opener.open(request, timeout=30) as answer:
        return json.load(answer)["status"]["token"]


def write(path, text, uid, gid):
    fd, temp = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".token.")
    try:
        with os.fdopen(fd, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fchmod(fd, 0o600)
            os.fchown(fd, uid, gid)
            os.fsync(fd)
        os.rename(temp, path)
    except BaseException:
        os.unlink(temp)
        raise


def main():
    proxy, own = os.path.join(HERE, "certs", "istio-token"), os.path.join(HERE, "api-token")
    wanted = [one for one in ((own, [], 0, 0), (proxy, [CONFIG["audience"]], CONFIG["uid"], CONFIG["gid"])) if due(one[0])]
    for path, audiences, uid, gid in wanted:
        with open(own) as stream:
            bearer = stream.read().strip()
        try:
            token = ask(bearer, audiences)
        except urllib.error.HTTPError as error:
            hint = ""
            if error.code == 401:
                hint = "; the VM was off for too long or the account is gone: run the playbook that joins it again"
            sys.exit("%s is not renewed: the API server answered %s%s" % (path, error.code, hint))
        except (OSError, ValueError, KeyError) as error:
            sys.exit("%s is not renewed: %s" % (path, error))
        write(path, token, uid, gid)
        print("%s is renewed, until %s" % (path, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(claims(path).get("exp", 0)))))


main()
'''


def units(python: str, folder: str, interval: int) -> dict[str, str]:
    """Service and timer. A VM that was off asks two minutes after its start, when the network is there."""
    return {
        f"{UNIT}.service": f"""[Unit]
Description=Renew the token of the mesh proxy
After=network-online.target
Wants=network-online.target

[Service]
Type=oneshot
UMask=0077
ExecStart={python} {folder}/renew-token
""",
        f"{UNIT}.timer": f"""[Unit]
Description=Renew the token of the mesh proxy in time

[Timer]
OnBootSec=2min
OnUnitActiveSec={interval}s
RandomizedDelaySec={max(1, interval // 10)}s

[Install]
WantedBy=timers.target
""",
    }


def interval(expiration_seconds: int) -> int:
    """Seconds between two looks: often enough to have several tries in the second half of a token's life."""
    return max(60, min(3600, expiration_seconds // 10))


def config(server: str, namespace: str, account: str, audience: str, expiration_seconds: int, owner: tuple[int, int]) -> str:
    return (
        json.dumps(
            {
                "server": server,
                "namespace": namespace,
                "service_account": account,
                "audience": audience,
                "expiration_seconds": expiration_seconds,
                "uid": owner[0],
                "gid": owner[1],
            },
            indent=1,
            sort_keys=True,
        )
        + "\n"
    )


def role_name(account: str) -> str:
    return f"asm-proxy-token-{account}"


def rights(namespace: str, account: str) -> list[Object]:
    """Role and RoleBinding: tokens of this account, by this account, and nothing else."""
    name = role_name(account)
    group = "rbac.authorization.k8s.io"
    meta = {"name": name, "namespace": namespace, "labels": {MANAGED_BY: MANAGER}}
    rule = {"apiGroups": [""], "resources": ["serviceaccounts/token"], "resourceNames": [account], "verbs": ["create"]}
    return [
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": meta, "rules": [rule]},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
        },
    ]
