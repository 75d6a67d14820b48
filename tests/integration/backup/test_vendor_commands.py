# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of a vendor's migration guide (Huawei Cloud ASM 1.0, chapter 7), run literally, beside a backup of ours.

docs/backup.md shows this as a table. The file names are those of the guide, wrong ones included.
"""

from __future__ import annotations

from pathlib import Path

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _scope
from ansible_collections.servicemesh.migration.plugins.module_utils._mesh._istio_kinds import KINDS
from tests.integration.backup.world import SERVICE, World, backup, info, make, one_of_each, restore, service, vs

# `kubectl get <kind> --all-namespaces -o yaml > <file>`, in the guide's order
BACKUP = [
    ("Service", "all-svc"), ("Secret", "all-secret"), ("VirtualService", "all-vs"), ("DestinationRule", "all-dr"),
    ("Gateway", "all-gw"), ("ServiceEntry", "all-se"), ("ServiceEntry", "all-se"), ("Sidecar", "all-sidecar"),
    ("WorkloadEntry", "all-sidecar"), ("WorkloadGroup", "all-we"), ("PeerAuthentication", "all-ma"),
    ("RequestAuthentication", "all-ra"), ("AuthorizationPolicy", "all-ap"),
]  # fmt: skip
# `kubectl create -f <file>`, where the guide's text can be read
RESTORE = ["all-svc", "all-vs", "all-dr", "all-gw", "all-se", "all-ef", "all-sidecar", "all-wg", "all-na"]


def present(world: World) -> set[str]:
    found = set()
    for kind in [*_scope.find_kinds(world.cluster, ["*.istio.io"], []), SERVICE]:
        found |= {f"{kind.kind}/{obj['metadata']['name']}" for obj in world.cluster.list_all(kind, "shop")}
    return found


def test_what_the_guides_commands_lose_and_a_backup_does_not(source: World, tmp_path: Path) -> None:
    make(source, *one_of_each(source))
    before = present(source)
    archive = backup(source, tmp_path / "ours", services="all", secrets="all", vault_password="pw").result["archive"]
    for kind, file in BACKUP:
        (tmp_path / f"{file}.yaml").write_text(source.kubectl("get", kind, "--all-namespaces", "-o", "yaml"))
    files = {path.stem: path.read_text() for path in tmp_path.glob("*.yaml")}
    saved = {kind for kind in KINDS if any(f"kind: {kind}\n" in text for text in files.values())}
    assert set(KINDS) - saved == {"EnvoyFilter", "Sidecar", "Telemetry", "TrafficExtension", "WasmPlugin", "ProxyConfig"}
    assert "resourceVersion:" in files["all-vs"] and "clusterIP:" in files["all-svc"] and "  uid:" in files["all-vs"]
    assert "password: eA==" in files["all-secret"], "Secrets in plain text"
    assert (tmp_path / "all-secret.yaml").stat().st_mode & 0o044, "that anybody may read"
    source.wipe()
    for file in RESTORE:
        source.kubectl("create", "-f", str(tmp_path / f"{file}.yaml"), check=False)
    assert (len(before), len(present(source))) == (17, 7), "and the Secret is in no file that is restored"
    lost = {name.partition("/")[0] for name in before - present(source)}
    assert lost == {
        "EnvoyFilter", "Sidecar", "Telemetry", "TrafficExtension", "WasmPlugin", "ProxyConfig",  # never saved, or overwritten
        "WorkloadGroup", "PeerAuthentication", "RequestAuthentication", "AuthorizationPolicy",  # saved, not restored
    }  # fmt: skip
    source.wipe()
    done = restore(source, archive, vault_password="pw")
    assert done.failed is None and present(source) == before
    assert info(source, archive, vault_password="pw")["comparison"]["same"]


def test_what_is_there_already_stays_stale_after_kubectl_create(source: World, tmp_path: Path) -> None:
    make(source, service("web"), vs("a"))
    archive = backup(source, tmp_path).result["archive"]
    (tmp_path / "all-vs.yaml").write_text(source.kubectl("get", "VirtualService", "--all-namespaces", "-o", "yaml"))
    source.kubectl("-n", "shop", "patch", "vs", "a", "--type", "merge", "-p", '{"spec":{"hosts":["stale.example.com"]}}')
    source.kubectl("create", "-f", str(tmp_path / "all-vs.yaml"), check=False)
    assert "stale.example.com" in source.kubectl("-n", "shop", "get", "vs", "a", "-o", "yaml"), "`AlreadyExists: ignore`"
    assert restore(source, archive, existing="update").failed is None
    assert info(source, archive)["comparison"]["same"]
