# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module mesh_rewrite, run on archives and files: there, back, refused, and nothing half-written."""

from __future__ import annotations

import importlib
import json
import stat
from pathlib import Path
from typing import Any

import pyrage
import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _archive, _rewrite, _rewrite_rules
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._archive import Reader, Writer
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._seal import Age, Seal, Vault

Object = dict[str, Any]
PLANTED = "planted-c29tZXRoaW5n"
RULES: Object = {
    "name": "test",
    "rules": [
        {"kind": "namespace", "from": "shop", "to": "store"},
        {"kind": "host", "from": "web.shop", "to": "front.store"},
        {"kind": "subset", "host": "web.shop", "from": "v1", "to": "stable"},
        {"kind": "annotation", "from": {"old.example.com/owner": "*"}, "to": {"new.example.com/owner": "*"}},
        {"kind": "label", "from": {"version": "old"}, "to": {}},
    ],
}


def thing(kind: str, name: str, spec: Object, group: str = "networking.istio.io/v1", **meta: Any) -> Object:
    return {"apiVersion": group, "kind": kind, "metadata": {"name": name, "namespace": "shop", **meta}, "spec": spec}


def objects() -> list[Object]:
    destination = {"host": "web", "subset": "v1", "port": {"number": 80}}
    routes = [{"destination": {"host": "web.shop"}}]
    large = [{"match": [{"uri": {"prefix": f"/{i}/" + "x" * 900}}], "route": routes} for i in range(950)]
    filter_spec = {"configPatches": [{"patch": {"value": {"inline_code": f"-- {PLANTED}\nfunction f()\n\nend\n"}}}]}
    namespace = {"name": "shop", "labels": {"kubernetes.io/metadata.name": "shop"}}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": namespace},
        thing("Service", "web", {"selector": {"app": "web"}, "ports": [{"port": 80}]}, "v1"),
        thing("DestinationRule", "web", {"host": "web.shop.svc.cluster.local", "subsets": [{"name": "v1"}]}),
        thing("VirtualService", "网关", {"hosts": ["web"], "http": [{"route": [{"destination": destination}]}]}),
        thing("VirtualService", "n" * 200, {"hosts": ["x.example.com"]}, annotations={"old.example.com/owner": PLANTED}),
        thing("VirtualService", "large", {"hosts": ["web"], "http": large}),
        thing("VirtualService", "elsewhere", {"hosts": ["api"]}, labels={"version": "old"}),
        thing("VirtualService", "odd", {"hosts": ["a\r\nb", "*", ""], "nobodyKnows": {"deep": [1, 1.5, None, True, {}, []]}}),
        thing("EnvoyFilter", "free", filter_spec, "networking.istio.io/v1alpha3"),
    ]


def save(path: Path, found: list[Object], seal: Seal | None = None) -> Path:
    with Writer(path, seal) as writer:
        for number, obj in enumerate(found):
            writer.add(obj, uid=f"u-{number}", resource_version=str(number), secret=seal is not None)
        facts = {"created": "2026-01-01T00:00:00Z", "cluster": {"uid": "c"}, "scope": {"namespaces": ["shop"]}}
        writer.close(facts)
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return save(tmp_path / "in.tar.zst", objects())


def run(capsys: pytest.CaptureFixture[str], check: bool = False, **options: Any) -> Object:
    """Run the module in this process."""
    module = importlib.import_module("ansible_collections.servicemesh.migration.plugins.modules.mesh_rewrite")
    given = {**options, "_ansible_check_mode": check, "_ansible_diff": True}
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    with patch_module_args(plain), pytest.raises(SystemExit):
        module.main()
    answer: Object = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    answer.pop("invocation", None)
    assert PLANTED not in json.dumps(answer) and "Traceback" not in json.dumps(answer)
    return answer


def contents(path: Path, seal: Seal | None = None) -> dict[str, Any]:
    with Reader(path, seal) as reader:
        return {entry.key: obj for entry, obj in reader.objects()}


# --- there and back ---


def test_a_rewrite_and_back_is_the_same_file(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, again = tmp_path / "out.tar.zst", tmp_path / "again.tar.zst"
    done = run(capsys, archive=archive, dest=out, rules=RULES)
    assert done["changed"] and not done.get("failed"), done.get("msg")
    assert done["counts"]["objects"] == 9 and done["unused"] == [] and stat.S_IMODE(out.stat().st_mode) == 0o600
    found = contents(out)
    assert "/Service/store/front" in found and "//" not in [key for key in found if key.startswith("v")]
    assert found["networking.istio.io/VirtualService/store/网关"]["spec"]["http"][0]["route"][0]["destination"] == {
        "host": "front",
        "subset": "stable",
        "port": {"number": 80},
    }
    with Reader(out) as reader:
        assert reader.manifest["scope"] == {"namespaces": ["store"]}
        assert all("~" in entry.resource_version for entry in reader.entries())
    back = run(capsys, archive=out, dest=again, inverse=True)
    assert back["changed"] and again.read_bytes() == archive.read_bytes()


def test_the_second_run_changes_nothing(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.tar.zst"
    run(capsys, archive=archive, dest=out, rules=RULES)

    def identity() -> tuple[int, int]:
        return out.stat().st_ino, out.stat().st_mtime_ns

    before = identity()
    again = run(capsys, archive=archive, dest=out, rules=RULES)
    assert again["changed"] is False and identity() == before
    other = {"rules": [{**RULES["rules"][0], "to": "elsewhere"}]}
    refused = run(capsys, archive=archive, dest=out, rules=other)
    assert refused["failed"] and "Another archive" in refused["msg"] and identity() == before
    forced = run(capsys, archive=archive, dest=out, rules=other, force=True)
    assert forced["changed"] and not forced.get("failed")


def test_check_mode_writes_nothing(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run(capsys, check=True, archive=archive, dest=tmp_path / "sub" / "out.tar.zst", rules=RULES)
    assert done["changed"] and [path.name for path in tmp_path.iterdir()] == ["in.tar.zst"]
    assert "front" in done["diff"]["after"]


@pytest.mark.parametrize("method", ["age", "vault"])
def test_encrypted_archives(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    identity = pyrage.x25519.Identity.generate()
    seal: Seal = Age([str(identity.to_public())], str(identity)) if method == "age" else Vault("pw")
    key = {"age_identity": str(identity)} if method == "age" else {"vault_password": "pw"}
    found = [*objects(), {**thing("Secret", "tls", {}, "v1"), "data": {"key": PLANTED}, "spec": {}}]
    found[-1].pop("spec")
    found[4]["metadata"]["annotations"]["gone.example.com/x"] = PLANTED
    rules = {"rules": [*RULES["rules"], {"kind": "annotation", "from": {"gone.example.com/x": "*"}, "to": {}}]}
    archive, out, again = save(tmp_path / "in", found, seal), tmp_path / "out", tmp_path / "again"
    without = run(capsys, archive=archive, dest=out, rules=rules)
    assert without["failed"] and "without its key" in without["msg"] and not out.exists()
    done = run(capsys, archive=archive, dest=out, rules=rules, **key)
    assert not done.get("failed"), done["msg"]
    told = {value for change in done["plan"][1:] for name, value in change["after"].items() if name != "key"}
    assert told == {"VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"}, "of encrypted objects only the paths"
    assert PLANTED.encode() not in out.read_bytes()
    with Reader(out) as reader:
        assert {entry.sealed for entry in reader.entries()} == {method}
        assert PLANTED not in json.dumps(reader.manifest)
    assert run(capsys, archive=archive, dest=out, rules=rules, **key)["changed"] is False
    assert "encrypted" in run(capsys, archive=out, dest=again, inverse=True)["msg"]
    assert not run(capsys, archive=out, dest=again, inverse=True, **key).get("failed")
    assert list(contents(again, seal).values()) == found


@pytest.mark.parametrize("slow", [True, False])
def test_a_vault_of_some_objects_is_rewritten_and_comes_back(
    slow: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encrypted objects are packed, and so come behind others; names of another length fill a pack earlier or later."""
    monkeypatch.setattr(_archive, "_PACK", 700)
    found = [one for i in range(12) for one in (thing("VirtualService", f"v{i}", {"hosts": ["web.shop"]}), secret(i))]
    with monkeypatch.context() as patch:
        patch.setattr(Vault, "slow", slow)  # an archive of version 1 has a vault for each object
        with Writer(tmp_path / "in", Vault("pw")) as writer:
            for number, obj in enumerate(found):
                writer.add(obj, uid=f"u-{number}", resource_version="1", secret=obj["kind"] == "Secret")
            assert writer.close({})["version"] == (2 if slow else 1)
    rules = {"rules": [{"kind": "namespace", "from": "shop", "to": "a-much-longer-name-of-a-namespace"}]}
    key, out, again = {"vault_password": "pw"}, tmp_path / "out", tmp_path / "again"
    assert not run(capsys, archive=tmp_path / "in", dest=out, rules=rules, **key).get("failed")
    done = run(capsys, archive=out, dest=again, inverse=True, **key)
    assert not done.get("failed"), done["msg"]
    before, after = contents(tmp_path / "in", Vault("pw")), contents(again, Vault("pw"))
    assert before == after and len(after) == len(found)


def secret(number: int) -> Object:
    meta = {"name": f"s{number}", "namespace": "shop"}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": {"key": PLANTED}}


def test_another_password_is_another_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive, out = save(tmp_path / "in", objects(), Vault("pw")), tmp_path / "out"
    assert run(capsys, archive=archive, dest=out, rules=RULES, vault_password="pw")["changed"]
    other = save(tmp_path / "other", objects(), Vault("new"))
    told = run(capsys, archive=other, dest=out, rules=RULES, vault_password="new")
    assert told["failed"] and "Another archive" in told["msg"]
    forced = run(capsys, archive=other, dest=out, rules=RULES, vault_password="new", force=True)
    assert forced["changed"] and len(contents(out, Vault("new"))) == len(objects())


def test_the_way_back_of_another_engine_is_refused(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.tar.zst"
    run(capsys, archive=archive, dest=out, rules=RULES)
    monkeypatch.setattr(_rewrite_rules, "ENGINE", 99)
    done = run(capsys, archive=out, dest=tmp_path / "again", inverse=True)
    assert done["failed"] and "another version" in done["msg"] and not (tmp_path / "again").exists()


def test_a_way_back_that_ends_elsewhere_is_refused(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.tar.zst"
    run(capsys, archive=archive, dest=out, rules=RULES)
    monkeypatch.setattr(_rewrite, "put_back", lambda obj, _originals: obj)
    done = run(capsys, archive=out, dest=tmp_path / "again", inverse=True)
    assert done["failed"] and "does not end where" in done["msg"] and not (tmp_path / "again").exists()


def test_definitions_of_kinds_are_left_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crd = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "x"}}
    archive = save(tmp_path / "in", [*objects(), {**crd, "spec": {"description": "a shop is web.shop"}}])
    assert not run(capsys, archive=archive, dest=tmp_path / "out", rules=RULES).get("failed")


def test_a_cut_archive_is_refused(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive.write_bytes(archive.read_bytes()[:-100])
    done = run(capsys, archive=archive, dest=tmp_path / "out", rules=RULES)
    assert done["failed"] and str(archive) in done["msg"] and not (tmp_path / "out").exists()


# --- refused ---


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([{"kind": "namespace", "from": "shpo", "to": "x"}], "did you mean shop?"),
        ([{"kind": "host", "from": "wbe.shop", "to": "x.shop"}], "did you mean web.shop?"),
        ([RULES["rules"][0], {"kind": "host", "from": "other.shop", "to": "x.y"}], "without a hit"),
    ],
)
def test_a_rule_without_a_hit(
    rules: list[Object], words: str, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(capsys, archive=archive, dest=tmp_path / "out", rules={"rules": rules})
    assert done["failed"] and words in done["msg"] and done["changed"] is False
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tar.zst"]


def test_an_old_name_in_free_text_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = {"configPatches": [{"patch": {"value": {"inline_code": "call('web.shop.svc.cluster.local')"}}}]}
    found = [*objects(), thing("EnvoyFilter", "lua", code, "networking.istio.io/v1alpha3")]
    archive = save(tmp_path / "in", found)
    done = run(capsys, archive=archive, dest=tmp_path / "out", rules=RULES)
    assert done["failed"] and {entry["path"] for entry in done["residue"]} == {"spec.configPatches[0].patch.value.inline_code"}
    allowed = [{"kinds": ["EnvoyFilter"], "path": "spec.*inline_code", "reason": "it is rewritten by hand"}]
    assert not run(capsys, archive=archive, dest=tmp_path / "out", rules={**RULES, "allowed": allowed}).get("failed")


def test_an_unknown_kind_is_listed_and_strict_refuses_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vendor = thing("Thing", "t", {"backend": "web.shop"}, "example.com/v1")
    archive = save(tmp_path / "in", [*objects(), vendor])
    done = run(capsys, archive=archive, dest=tmp_path / "out", rules=RULES)
    assert done["failed"] and done["not_understood"] == ["example.com/Thing/shop/t"]
    fields = [{"group": "example.com", "kind": "Thing", "paths": {"spec.backend": "host"}}]
    done = run(capsys, archive=archive, dest=tmp_path / "out", rules={**RULES, "fields": fields})
    assert not done.get("failed"), done["msg"]
    assert contents(tmp_path / "out")["example.com/Thing/store/t"]["spec"] == {"backend": "front.store"}


def test_two_objects_do_not_become_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = thing("VirtualService", "a", {"hosts": ["x.example.com"]})
    twin = {**other, "metadata": {**other["metadata"], "namespace": "store"}}
    archive = save(tmp_path / "in", [other, twin])
    rules = [{"kind": "namespace", "from": "shop", "to": "store", "merge": True}]
    done = run(capsys, archive=archive, dest=tmp_path / "out", rules={"rules": rules})
    assert done["failed"] and "there twice" in done["msg"]
    assert not (tmp_path / "out").exists()


# --- files and plain objects ---

WRITTEN = """\
apiVersion: networking.istio.io/v1\r
kind: DestinationRule\r
metadata: {name: anchors, namespace: shop}\r
spec:\r
  host: web\r
  subsets:\r
  - name: v1\r
    labels: &labels {version: v1, at: 2020-01-01, n: "1"}\r
  - {name: v2, labels: *labels}\r
---\r
"""


def test_files_with_anchors_and_windows_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(WRITTEN, newline="")
    rules = {"rules": [{"kind": "subset", "host": "web.shop", "from": "v1", "to": "stable"}]}
    done = run(capsys, files=[str(tmp_path / "a.yaml")], dest=tmp_path / "out", rules=rules)
    assert not done.get("failed"), done["msg"]
    (found,) = contents(tmp_path / "out").values()
    assert [subset["name"] for subset in found["spec"]["subsets"]] == ["stable", "v2"]
    assert found["spec"]["subsets"][1]["labels"] == {"version": "v1", "at": "2020-01-01", "n": "1"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "line 4"),
        ("a: [\n", "line"),
        ("a: 1\n", "no object of Kubernetes"),
        ("a: &a [*a]\n", "nested too deeply"),
        ("1: x\n", "is no text"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: x}\n", "has no namespace"),
        ("a: .nan\n", "a.yaml"),
        ("a: !!python/object:os.system x\n", "a.yaml"),
    ],
)
def test_files_that_are_refused(text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(text)
    done = run(capsys, files=[str(tmp_path)], dest=tmp_path / "out", rules=RULES)
    assert done["failed"] and words in done["msg"] and "a.yaml" in done["msg"]


def test_plain_objects_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    rules = {"rules": [{"kind": "host", "from": "web.shop", "to": "front.shop"}]}
    given = thing("VirtualService", "a", {"hosts": ["web", "web.shop.svc.cluster.local"]})
    done = run(capsys, objects=[given], rules=rules)
    assert done["objects"][0]["spec"]["hosts"] == ["front", "front.shop.svc.cluster.local"]
    back = run(capsys, objects=done["objects"], rules=rules, inverse=True)
    assert back["objects"] == [given]
    secret = run(capsys, objects=[{**thing("Secret", "s", {}, "v1")}], rules=rules)
    assert secret["failed"] and "Secrets" in secret["msg"]
