# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook rewrite, run by Ansible: rule sets of the collection by name, those of the user as files on the controller."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.servicemesh.migration.plugins.module_utils._backup._archive import Reader, Writer
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_rules import rule_set
from dev.paths import ROOT, environment

RULESETS = sorted((ROOT / "playbooks" / "files" / "rulesets").glob("*.yml"))


def gateway() -> dict[str, Any]:
    spec = {"selector": {"app": "istio-ingressgateway", "istio": "ingressgateway"}, "servers": [{"hosts": ["*"]}]}
    meta = {"name": "gw", "namespace": "shop"}
    return {"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": meta, "spec": spec}


def play(tmp_path: Path, **variables: Any) -> subprocess.CompletedProcess[str]:
    given = {f"mesh_rewrite_{name}": value for name, value in variables.items()}
    command = ["ansible-playbook", "servicemesh.migration.rewrite", "-e", json.dumps(given)]
    env = {**environment(), "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local"), "ANSIBLE_REMOTE_TEMP": str(tmp_path / "remote")}
    return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    with Writer(tmp_path / "in.tar.zst") as writer:
        writer.add(gateway())
        writer.close({"cluster": {"uid": "u"}})
    return tmp_path / "in.tar.zst"


def test_a_rule_set_of_the_collection_and_back(archive: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "out.tar.zst", tmp_path / "again.tar.zst"
    done = play(tmp_path, archive=str(archive), dest=str(out), rules="asm", variables={"target_gateway": "new"})
    assert done.returncode == 0, done.stdout + done.stderr
    with Reader(out) as reader:
        ((_entry, obj),) = reader.objects()
    assert obj and obj["spec"]["selector"] == {"istio": "new"}
    done = play(tmp_path, archive=str(out), dest=str(again), inverse=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert again.read_bytes() == archive.read_bytes()


def test_a_file_of_the_user_and_one_that_is_not_there(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yml").write_text("rules:\n- {kind: namespace, from: shop, to: store}\n")
    done = play(tmp_path, archive=str(archive), dest=str(tmp_path / "out"), rules=str(tmp_path / "mine.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
    done = play(tmp_path, archive=str(archive), dest=str(tmp_path / "out2"), rules="amz")
    assert done.returncode != 0 and "There is no rule set amz. The collection has asm" in done.stdout + done.stderr


@pytest.mark.parametrize("path", RULESETS, ids=lambda path: path.stem)
def test_rule_sets_of_the_collection_are_right(path: Path) -> None:
    variables = yaml.safe_load(path.read_text()).get("variables") or {}
    found = rule_set(path.read_text(), {name: value or name for name, value in variables.items()})
    assert found.name == path.stem and found.inverse().rules
