# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""Logic of mesh_rewrite: read, rewrite, judge, write whole or not at all; and the same way back."""

from __future__ import annotations

import base64
import json
import pathlib
import typing as t

from ansible_collections.servicemesh.migration.plugins.module_utils._backup import _yaml
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._archive import Object, Reader, Writer
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._entry import Content, Entry
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite import Done, Rewriter, group_of
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_fields import FIELDS
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_judge import Judge, key_of
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_rules import RuleSet, rule_set
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_schema import Schemas
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._rewrite_yaml import load_text
from ansible_collections.servicemesh.migration.plugins.module_utils._backup._seal import Seal, SealError, seal_of
from ansible_collections.servicemesh.migration.plugins.module_utils._core._errors import InputError, MigrationError
from ansible_collections.servicemesh.migration.plugins.module_utils._core._plan import Plan
from ansible_collections.servicemesh.migration.plugins.module_utils._core._run import Outcome
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._client import Cluster
from ansible_collections.servicemesh.migration.plugins.module_utils._k8s._kinds import kind_of

CRD = kind_of("apiextensions.k8s.io/v1", "CustomResourceDefinition")
_NO_NAMESPACE = ("CustomResourceDefinition", "GatewayClass", "IngressClass", "Namespace")
# What a Writer puts into a manifest by itself.
_WRITERS = ("format", "version", "counts", "objects", "bytes", "sealed", "index_sha256", "content_sha256", "sha256")
_SUFFIXES = (".yaml", ".yml", ".json")
MARK = "~"


def rewrite_spec() -> Object:
    """Options of mesh_rewrite, beside the target and the keys."""
    return {
        "archive": {"type": "path"},
        "files": {"type": "list", "elements": "path"},
        "objects": {"type": "list", "elements": "dict"},
        "dest": {"type": "path"},
        "rules": {"type": "raw"},
        "variables": {"type": "dict", "default": {}},
        "inverse": {"type": "bool", "default": False},
        "strict": {"type": "bool", "default": True},
        "force": {"type": "bool", "default": False},
        "crds": {"type": "list", "elements": "path", "default": []},
        "crds_from_target": {"type": "bool", "default": False},
        "istioctl": {"type": "path"},
        "istioctl_ignore": {"type": "list", "elements": "str", "default": []},
        "age_recipients": {"type": "list", "elements": "str", "default": []},
    }


class Item(t.NamedTuple):
    """One object of the input. ``entry`` is None when it is not from an archive."""

    obj: Object
    entry: Entry | None


# -- observe ---------------------------------------------------------------------------------------------------------------


def read_files(paths: t.Sequence[str]) -> list[Object]:
    """The objects of YAML files, and of all such files in folders; a List is its items. Raises InputError with the line."""
    found: list[Object] = []
    for name in paths:
        place = pathlib.Path(name).expanduser()
        files = [place]
        if place.is_dir():
            files = sorted(path for path in place.rglob("*") if path.suffix in _SUFFIXES and path.is_file())
        for path in files:
            try:
                text = path.read_bytes().decode("utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise InputError("A file cannot be read", where=str(path), why=str(error)) from error
            for number, document in enumerate(load_text(text, str(path)), start=1):
                parts = document.get("items") if isinstance(document, dict) and document.get("kind") == "List" else [document]
                for part in parts if isinstance(parts, list) else [parts]:
                    found.append(checked(part, f"{path}, document {number}"))
    return found


def checked(obj: t.Any, where: str) -> Object:
    """The same, when it is an object of Kubernetes. Raises InputError."""
    meta = obj.get("metadata") if isinstance(obj, dict) else None
    fields = (obj.get("apiVersion"), obj.get("kind"), meta.get("name")) if isinstance(meta, dict) else ()
    if not fields or not all(isinstance(field, str) and field for field in fields):
        raise InputError("This is no object of Kubernetes", where=where, why="apiVersion, kind and metadata.name are needed")
    known = (group_of(obj), obj["kind"]) in FIELDS and obj["kind"] not in _NO_NAMESPACE
    if known and not (t.cast(Object, meta).get("namespace") and isinstance(t.cast(Object, meta)["namespace"], str)):
        raise InputError("An object has no namespace", where=where, why="short names in it are those of its namespace")
    return t.cast(Object, obj)


def read_schemas(params: t.Mapping[str, t.Any]) -> Schemas | None:
    """The CRDs of files, archives and the target; None when none are asked for."""
    crds: list[Object] = []
    for name in params["crds"]:
        if name.endswith((".zst", ".tar")):
            with Reader(name, seal_of(params)) as reader:
                crds += [obj for _entry, obj in reader.objects(lambda entry: entry.kind == CRD.kind) if obj is not None]
        else:
            crds += [obj for obj in read_files([name]) if obj["kind"] == CRD.kind]
    if params["crds_from_target"]:
        cluster = Cluster("target", params["target"])
        cluster.guard()
        crds += [{**obj, "kind": CRD.kind} for obj in cluster.list_all(CRD)]
    return Schemas(crds) if params["crds"] or params["crds_from_target"] else None


# -- the two ways ------------------------------------------------------------------------------------------------------------


def facts_of(manifest: t.Mapping[str, t.Any]) -> Object:
    """What a manifest says beside what its Writer says."""
    return {key: value for key, value in manifest.items() if key not in _WRITERS}


class Rewrite:
    """One run: items in, objects out."""

    def __init__(self, params: t.Mapping[str, t.Any], seal: Seal | None) -> None:
        self.params, self.seal = params, seal
        self.originals: dict[str, list[t.Any]] = {}
        self.secret_originals: dict[str, list[t.Any]] = {}
        self.judge = Judge()
        self.objects: list[Object] = []

    def there(self, rules: RuleSet, items: t.Iterable[Item], writer: Writer | None) -> None:
        """Rewrite all items by the rules."""
        rewriter = Rewriter(rules)
        self.judge = Judge(rules, rewriter, read_schemas(self.params), keep_texts=bool(self.params["istioctl"]))
        for item in items:
            done = rewriter.apply(item.obj)
            sealed = bool(item.entry and item.entry.sealed)
            text = _yaml.dump(done.obj)
            self.judge.see(item.obj, done, text, sealed=sealed)
            key = key_of(done.obj)
            if done.originals:
                (self.secret_originals if sealed or item.obj["kind"] == "Secret" else self.originals)[key] = done.originals
            if writer is None:
                self.objects.append(done.obj)
            else:
                self._add(writer, item, done, text, rules.digest)

    @staticmethod
    def _add(writer: Writer, item: Item, done: Done, text: str, digest: str) -> None:
        entry = item.entry
        version = entry.resource_version if entry else ""
        if done.hits:
            # It is not what the cluster has under this version any more; of sealed objects it tells one rewrite from another.
            version = f"{version}{MARK}{digest[:16]}"
        uid = entry.uid if entry else ""
        writer.add(done.obj, uid=uid, resource_version=version, secret=bool(entry and entry.sealed), text=text)

    def back(self, rules: RuleSet, items: t.Iterable[Item], writer: Writer | None, record: t.Mapping[str, t.Any]) -> None:
        """Undo a rewrite by these rules."""
        originals = self._read_originals(record)
        rewriter = Rewriter(rules)
        self.judge = Judge()
        for item in items:
            obj = item.obj
            key = key_of(obj)
            try:
                before = rewriter.back(obj, originals.get(key, ()))
            except (KeyError, IndexError, TypeError) as error:
                raise MigrationError(
                    "The way back of an object is lost", where=key, why="it was changed since it was rewritten"
                ) from error
            self.judge.counted(before != obj)
            if writer is None:
                self.objects.append(before)
                continue
            entry = item.entry
            version = entry.resource_version.partition(MARK)[0] if entry else ""
            writer.add(
                before, uid=entry.uid if entry else "", resource_version=version, secret=bool(entry and entry.sealed)
            )

    def _read_originals(self, record: t.Mapping[str, t.Any]) -> dict[str, list[t.Any]]:
        found = dict(record.get("originals") or {})
        sealed = record.get("sealed_originals")
        if sealed:
            if self.seal is None:
                raise SealError("The way back is encrypted", why="no key is given", todo="give the key of the archive")
            found.update(json.loads(self.seal.open(base64.b64decode(sealed))))
        return found

    def record(self, rules: RuleSet, manifest: t.Mapping[str, t.Any]) -> Object:
        """What the manifest of the output keeps for the way back."""
        made: Object = {
            "rules": dict(rules.source),
            "digest": rules.digest,
            "before": {**facts_of(manifest), "content_sha256": manifest.get("content_sha256", "")},
            "source_sha256": manifest.get("sha256", ""),
            "originals": self.originals,
        }
        if self.secret_originals:
            if self.seal is None:
                raise InputError("Encrypted objects are rewritten with their key only", todo="give the key of the archive")
            text = json.dumps(self.secret_originals, sort_keys=True, ensure_ascii=False)
            made["sealed_originals"] = base64.b64encode(self.seal.seal(text.encode())).decode()
        return made


def _items(reader: Reader) -> t.Iterator[Item]:
    for entry, obj in reader.objects():
        if obj is None:
            raise SealError(
                "An encrypted object cannot be rewritten without its key",
                where=f"{reader.path}: {entry.path}",
                todo="set age_identity_file, vault_password or vault_password_file",
            )
        yield Item(obj, entry)


# -- plan and apply ----------------------------------------------------------------------------------------------------------


def _rules(params: t.Mapping[str, t.Any], manifest: t.Mapping[str, t.Any]) -> tuple[RuleSet, Object]:
    """The rules, and the record of an earlier rewrite when this is the way back."""
    record = manifest.get("rewrite") if params["inverse"] else None
    given = params["rules"]
    if record:
        rules = rule_set(record["rules"], name=f"the manifest of {params['archive']}")
        if rules.digest != record["digest"]:
            raise InputError(
                "The archive was rewritten by another version of this collection",
                where=str(params["archive"]),
                todo="use that version, or the archive that was rewritten",
            )
        if given is not None and rule_set(given, params["variables"]).digest != rules.digest:
            raise InputError("The archive was rewritten by other rules", todo="leave rules out: the archive knows its own")
        return rules, record
    if given is None:
        raise InputError("There are no rules", why="the input was not made by a rewrite that could be undone", todo="set rules")
    if not isinstance(given, (str, dict)):
        raise InputError("The option rules is no rule set", why="a name, a file, YAML text or a mapping is needed")
    rules = rule_set(given, params["variables"])
    if params["inverse"] and any(rule.merge for rule in rules.rules):
        raise InputError(
            "These rules alone do not lead back",
            why="rules with merge make one name of two, and what they were is in the archive that the rewrite wrote",
            todo="give that archive",
        )
    return rules, {}


def _same(path: pathlib.Path, facts: Object, writer: Writer, seal: Seal | None) -> bool:
    """Whether the archive that is there is the one that would be written. Encryption gives other bytes each time, but a vault
    that this password does not open is another one."""
    with Reader(path, seal) as reader:
        found = reader.manifest
        if seal is not None and seal.name == "vault" and not reader.opens():
            return False
    moving = ("sealed_originals",)
    old, new = facts_of(found), dict(facts)
    for side in (old, new):
        if isinstance(side.get("rewrite"), dict):
            side["rewrite"] = {key: value for key, value in side["rewrite"].items() if key not in moving}
    mine = {"content_sha256": writer.content_sha256, "counts": writer.counts, "sealed": writer.sealed}
    return json.loads(json.dumps(new)) == old and all(found.get(key) == value for key, value in mine.items())


def _mapped(facts: Object, rules: RuleSet) -> Object:
    """The scope of the output: its namespaces have their new names."""
    spaces = {rule.old: rule.new for rule in rules.rules if rule.kind == "namespace"}
    scope = facts.get("scope")
    if isinstance(scope, dict) and isinstance(scope.get("namespaces"), list):
        facts["scope"] = {**scope, "namespaces": sorted(spaces.get(name, name) for name in scope["namespaces"])}
    return facts


def run_module(params: t.Mapping[str, t.Any], check_mode: bool) -> Outcome:
    """Logic of mesh_rewrite. Raises MigrationError, or answers with one that has failed; then nothing is written."""
    if params["objects"] is not None:
        return _run_objects(params)
    if not params["dest"]:
        raise InputError("It is not said where the rewritten archive goes", todo="set dest")
    seal, dest = seal_of(params), pathlib.Path(params["dest"]).expanduser()
    if params["archive"] is None:
        objects = [Item(obj, None) for obj in read_files(params["files"])]
        if any(item.obj["kind"] == "Secret" for item in objects):
            raise InputError("Secrets are not taken from files", why="their archive is not encrypted", todo="leave them out")
        return _run(params, {}, objects, dest, seal, check_mode)
    if pathlib.Path(params["archive"]).expanduser().resolve() == dest.resolve():
        raise InputError("archive and dest are the same file", where=str(dest))
    with Reader(pathlib.Path(params["archive"]).expanduser(), seal) as reader:
        content = Content()
        for entry in reader.entries():
            content.add(entry)
        # as an archive that is written today says it: one of version 1 may say it otherwise
        return _run(params, {**reader.manifest, "content_sha256": content.sha256}, _items(reader), dest, seal, check_mode)


def _run(
    params: t.Mapping[str, t.Any],
    manifest: Object,
    items: t.Iterable[Item],
    dest: pathlib.Path,
    seal: Seal | None,
    check_mode: bool,
) -> Outcome:
    rules, record = _rules(params, manifest)
    work = Rewrite(params, seal)
    plan = Plan()
    with Writer(None if check_mode else dest, seal) as writer:
        if params["inverse"]:
            work.back(rules, items, writer, record)
            facts = {key: value for key, value in (record.get("before") or facts_of(manifest)).items() if key != "content_sha256"}
            _prove(record, writer)
        else:
            work.there(rules, items, writer)
            facts = {**_mapped(facts_of(manifest), rules), "rewrite": work.record(rules, manifest)}
        work.judge.analyze(params["istioctl"], params["istioctl_ignore"])
        failed = work.judge.verdict(params["strict"])
        result = {**work.judge.result(), "archive": str(dest), "content_sha256": writer.content_sha256}
        if failed is not None:
            return Outcome(Plan(), {**result, "archive": ""}, failed=failed)
        if dest.exists():
            if _same(dest, facts, writer, seal):
                plan.notes.append(f"{dest} is what these rules make of the input already")
                return Outcome(plan, result, work.judge.warnings)
            if not params["force"]:
                raise InputError("Another archive is in the place of the output", where=str(dest), todo="set force or dest")
        summary = {"objects": writer.objects, "rewritten": work.judge.changed, "content_sha256": writer.content_sha256}
        plan.add("write", str(dest), None, summary, "undo the rewrite" if params["inverse"] else f"rules of {rules.name}")
        work.judge.tell(plan)
        if not check_mode:
            writer.close(facts)
    return Outcome(plan, result, work.judge.warnings)


def _prove(record: t.Mapping[str, t.Any], writer: Writer) -> None:
    """The way back ended where the rewrite began."""
    wanted = (record.get("before") or {}).get("content_sha256")
    if wanted and wanted not in (writer.content_sha256, writer.content.in_order):
        raise MigrationError(
            "The way back does not end where the rewrite began",
            why="the hash of the objects is another one than before the rewrite",
            todo="report this as a bug, and use the archive that was rewritten",
        )


def _run_objects(params: t.Mapping[str, t.Any]) -> Outcome:
    """Plain objects in and out, nothing is written."""
    items = [Item(checked(obj, f"objects[{number}]"), None) for number, obj in enumerate(params["objects"])]
    if any(item.obj["kind"] == "Secret" for item in items):
        raise InputError("Secrets are not taken as plain objects", why="they would be in results and logs", todo="use archive")
    rules, record = _rules(params, {})
    work = Rewrite(params, None)
    if params["inverse"]:
        work.back(rules, items, None, record)
    else:
        work.there(rules, items, None)
        work.judge.analyze(params["istioctl"], params["istioctl_ignore"])
    failed = work.judge.verdict(params["strict"])
    plan = Plan()
    if failed is None:
        work.judge.tell(plan)
    result = {**work.judge.result(), "archive": "", "objects": [] if failed else work.objects}
    return Outcome(plan, result, work.judge.warnings, failed)
