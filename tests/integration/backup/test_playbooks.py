# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks as a user runs them, and what they leave behind: planted secrets are found nowhere."""

from __future__ import annotations

import base64
import io
import json
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyrage
import pytest
import yaml
import zstandard

from ansible_collections.servicemesh.migration.plugins.module_utils._backup._archive import Reader
from dev.paths import ROOT, environment
from tests.integration.backup.world import VIRTUAL_SERVICE, Object, World, make, secret, service, vs


def planted(value: str) -> list[Object]:
    """Objects with a secret in every place where people put one."""
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "web:1", "env": [{"name": "PLAIN", "value": value}]}]},
            },
        },
    }
    annotated = vs("annotated")
    annotated["metadata"]["annotations"] = {"note": value}
    header = vs("header", http=[{"route": [{"destination": {"host": "web"}, "headers": {"request": {"set": {"x-k": value}}}}]}])
    patch = {"operation": "ADD", "value": {"name": "lua", "code": f'local k = "{value}"\n'}}
    envoy_filter = {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": "literal", "namespace": "shop"},
        "spec": {"workloadSelector": {"labels": {"app": "web"}}, "configPatches": [{"applyTo": "HTTP_FILTER", "patch": patch}]},
    }
    gateway = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "gw", "namespace": "shop"},
        "spec": {
            "selector": {"app": "web"},
            "servers": [
                {
                    "hosts": ["*"],
                    "port": {"name": "https", "number": 443, "protocol": "HTTPS"},
                    "tls": {"mode": "SIMPLE", "credentialName": "cert"},
                }
            ],
        },
    }
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c", "namespace": "shop"},
        "data": {"a": f"b={value}"},
    }
    return [service("web"), deployment, annotated, header, envoy_filter, gateway, config, secret("cert", value)]


class Runs:
    """Plays of this collection, and everything that they say or leave."""

    def __init__(self, folder: Path, source: World, target: World) -> None:
        self.folder, self.said = folder, ""
        self.vars: dict[str, Any] = {
            "mesh_backup_source": source.options,
            "mesh_backup_target": target.options,
            "mesh_backup_dest": str(folder / "backups"),
        }

    def play(self, name: str, *words: str, runner: bool = False, **options: Any) -> tuple[int, str]:
        variables = self.folder / "vars.json"
        variables.write_text(json.dumps({**self.vars, **options}))
        env = {**environment(), "HOME": str(self.folder / "home"), "ANSIBLE_LOG_PATH": str(self.folder / "ansible.log")}
        env |= {"ANSIBLE_HOME": str(self.folder / "home/.ansible"), "PATH": f"{Path(sys.executable).parent}:{env['PATH']}"}
        playbook = name if name.endswith(".yml") else f"servicemesh.migration.{name}"
        extra = ["-e", f"@{variables}", "-i", "localhost,", "-vvv", "--diff", *words]
        if runner:
            (self.folder / "pdd/project").mkdir(parents=True, exist_ok=True)
            line = ["ansible-runner", "run", str(self.folder / "pdd"), "-p", playbook, "--cmdline", " ".join(extra)]
        else:
            line = ["ansible-playbook", playbook, *extra]
        done = subprocess.run(
            line, env=env, capture_output=True, text=True, check=False, cwd=self.folder, stdin=subprocess.DEVNULL
        )
        self.said += done.stdout + done.stderr
        return done.returncode, done.stdout + done.stderr

    def archive(self) -> str:
        (found,) = (self.folder / "backups").glob("*.tar.zst")
        return str(found)

    def everything(self, besides: set[str]) -> dict[str, bytes]:
        """All output, and all files below the folder, archives unpacked."""
        found = {"stdout and stderr": self.said.encode()}
        for path in self.folder.rglob("*"):
            if path.is_file() and path.name not in besides:
                data = path.read_bytes()
                if path.name.endswith(".tar.zst"):
                    data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
                found[str(path.relative_to(self.folder))] = data
        return found


@pytest.mark.parametrize(
    ("method", "encrypt"),
    [  # each way to encrypt and each amount once in every run, all pairs with LAB_THOROUGH=1
        ("age", "secrets"),
        ("vault", "all"),
        pytest.param("age", "all", marks=pytest.mark.thorough),
        pytest.param("vault", "secrets", marks=pytest.mark.thorough),
    ],
)
def test_planted_secrets_are_found_nowhere(source: World, target: World, tmp_path: Path, encrypt: str, method: str) -> None:
    # a password is not always called one: `secrets` has to see it by its form
    value = f"planted-passwd-{secrets.token_hex(12)}" if encrypt == "secrets" else f"pl-{secrets.token_hex(16)}"
    password = f"vault-{secrets.token_hex(8)}"
    make(source, *planted(value))
    make(target, *planted("other"))
    runs = Runs(tmp_path, source, target)
    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "key.txt").write_text(str(identity))
    keys = {"mesh_backup_age_recipients": [str(identity.to_public())], "mesh_backup_age_identity_file": str(tmp_path / "key.txt")}
    if method == "vault":
        keys = {"mesh_backup_vault_password": password}
    runs.vars |= {"mesh_backup_secrets": "all", "mesh_backup_config_maps": "all", "mesh_backup_encrypt": encrypt, **keys}
    runner = shutil.which("ansible-runner", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") is not None
    code, text = runs.play("backup", runner=runner)
    assert code == 0, text[-3000:]
    runs.vars["mesh_backup_archive"] = runs.archive()
    source.cluster.patch(VIRTUAL_SERVICE, "header", "shop", {"spec": {"hosts": ["else.example.com"]}})
    assert runs.play("compare", runner=runner)[0] == 0
    code, text = runs.play("restore", runner=runner)
    assert code != 0 and "it is left as it is" in text, "what differs is refused, with the paths"
    assert runs.play("restore", "--check", mesh_backup_existing="update")[0] == 0
    code, text = runs.play("restore", runner=runner, mesh_backup_existing="update")
    assert code == 0, text[-3000:]
    there = target.cluster.get(VIRTUAL_SERVICE, "annotated", "shop")
    assert there and there["metadata"]["annotations"]["note"] == value, "it was there to be leaked"
    assert runs.play(
        "restore", mesh_backup_vault_password="wrong", mesh_backup_age_identity_file="", mesh_backup_existing="update"
    )[0]
    places = runs.everything({"vars.json", "key.txt"})
    # Each place is there, so that it can be searched: what runs print and log, ansible-runner's events, both kinds of archives.
    assert {"stdout and stderr", "ansible.log"} <= set(places)
    assert runner and sum("job_events" in name for name in places) > 10
    assert sum(name.startswith("backups/") for name in places) == 1
    assert any("/undo/" in name and name.endswith(".tar.zst") for name in places), "copies of what was overwritten"
    assert b"manifest.json" in places[str(Path(runs.archive()).relative_to(tmp_path))], "it was unpacked"
    assert "--diff" in runs.said or "+++ after" in runs.said, "differences were shown"
    for needle in (value, base64.b64encode(value.encode()).decode().rstrip("=")[:-2], str(identity), password):
        assert [name for name, data in places.items() if needle.encode() in data] == []


def test_without_a_key_only_the_archive_holds_what_people_wrote(source: World, target: World, tmp_path: Path) -> None:
    value = f"planted-passwd-{secrets.token_hex(12)}"
    make(source, *(obj for obj in planted(value) if obj["kind"] != "Secret"))
    make(target, *(obj for obj in planted(f"passwd-{secrets.token_hex(12)}") if obj["kind"] != "Secret"))
    runs = Runs(tmp_path, source, target)
    runs.vars |= {"mesh_backup_config_maps": "all"}
    code, text = runs.play("backup", runner=True)
    assert code == 0 and "look as if they held secrets" in text, text[-3000:]
    runs.vars["mesh_backup_archive"] = runs.archive()
    assert runs.play("restore", runner=True)[0] != 0, "what differs is refused, with the paths"
    code, text = runs.play("restore", runner=True, mesh_backup_existing="update")
    assert code == 0, text[-3000:]
    assert runs.play("compare", runner=True)[0] == 0
    found = {name for name, data in runs.everything({"vars.json"}).items() if value.encode() in data}
    assert found == {str(Path(runs.archive()).relative_to(tmp_path))}, "mode 0600, and a warning names the objects"


def test_the_role_saves_compares_and_puts_back(source: World, target: World, tmp_path: Path) -> None:
    make(source, service("web"), vs("a"), vs("b"))
    runs = Runs(tmp_path, source, target)
    assert runs.play("backup", "--check")[0] == 0 and not (tmp_path / "backups").exists()
    code, text = runs.play("backup")
    assert code == 0 and "changed=1" in text
    code, text = runs.play("backup")
    assert code == 0 and "changed=0" in text
    runs.vars["mesh_backup_archive"] = runs.archive()
    assert runs.play("compare", mesh_backup_fail_on_drift=True)[0] == 0
    source.remove(VIRTUAL_SERVICE, "a", "shop")
    code, text = runs.play("compare", mesh_backup_fail_on_drift=True)
    assert code != 0 and '"missing": 1' in text
    code, text = runs.play("restore", "--check")
    assert code == 0 and "changed=1" in text and target.cluster.get(VIRTUAL_SERVICE, "a", "shop") is None
    code, text = runs.play("restore")
    assert code == 0 and "changed=1" in text and target.cluster.get(VIRTUAL_SERVICE, "a", "shop") is not None
    code, text = runs.play("restore")
    assert code == 0 and "changed=0" in text


def test_the_archive_of_a_migration_is_of_the_mesh_before_it(source: World, tmp_path: Path) -> None:
    """The task of ack_to_asm behind gateway_snapshot, which needs a load balancer, with what that says."""
    role = ROOT / "roles" / "ack_to_asm"
    tasks = yaml.safe_load((role / "tasks" / "backup.yml").read_text())
    assert [next(key for key in task if "." in key).rpartition(".")[2] for task in tasks] == ["gateway_snapshot", "mesh_backup"]
    defaults = yaml.safe_load((role / "defaults" / "main.yml").read_text())
    names = {"ack_to_asm_name": "m", "ack_to_asm_state_dir": str(tmp_path / "state"), "ack_to_asm_source": source.options}
    given = {**defaults, **names, "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": given, "tasks": tasks[1:]}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    make(source, service("web"), vs("a"), secret("cert", "x"))
    runs = Runs(tmp_path, source, source)
    folder = tmp_path / "state" / "m" / "archives"

    def changed(*words: str, begun: bool = False, **options: Any) -> tuple[bool, int]:
        code, text = runs.play(str(tmp_path / "play.yml"), *words, ack_to_asm_backup_result={"begun": begun}, **options)
        assert code == 0, text[-3000:]
        return "changed=1" in text, len(list(folder.glob("*.tar.zst")))

    assert changed("--check") == (True, 0)
    assert changed(ack_to_asm_backup_archive="false") == (False, 0)
    assert changed() == (True, 1)
    assert changed() == (False, 1), "the same needs no second one"
    make(source, vs("b"))
    assert changed(begun=True) == (False, 1), "what a migration changed is no state to go back to"
    assert changed() == (True, 2), "a change before it begins makes another one, beside the first"
    assert changed(ack_to_asm_backup_vault_password="pw", ack_to_asm_backup_namespaces=["shop"]) == (True, 3)
    sealed = [path for path in folder.glob("*.tar.zst") if Reader(path).manifest["sealed"]]
    assert len(sealed) == 1
