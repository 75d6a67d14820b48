# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documents: commands, links and paths that they name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "roles").glob("*/README.md"))]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def headings(text: str) -> set[str]:
    """The anchors that a Markdown file offers, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_exist(document: Path) -> None:
    for block in blocks(document.read_text(), "(?:bash|sh|console)"):
        for target in re.findall(r"(?:^|[;&|] *)\$? *make((?: [a-zA-Z_=,0-9-]+)*)", block, re.M):
            named = {word for word in target.split() if "=" not in word and not word.startswith("-")}
            assert named <= TARGETS, f"no such target: {named - TARGETS}"
        for path in re.findall(r"(?:^|\s)((?:bin|dev|docs|playbooks|\.ci)/[\w./-]+)", block):
            assert (ROOT / path).exists(), f"no such file: {path}"
        for playbook in re.findall(r"servicemesh\.migration\.(ack_to_asm\w*)", block):
            places = [ROOT / "playbooks" / f"{playbook}.yml", ROOT / "roles" / playbook]
            assert any(place.exists() for place in places), f"no such playbook: {playbook}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        name, anchor = [*link.split("#", 1), ""][:2]
        goal = (document.parent / name).resolve() if name else document
        assert goal.exists(), f"{link}: no such file"
        if anchor and goal.suffix == ".md":
            assert anchor in headings(goal.read_text()), f"{link}: no such heading"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_yaml_blocks_are_yaml(document: Path) -> None:
    for block in blocks(document.read_text(), "ya?ml"):
        assert yaml.safe_load(block), "an empty or wrong YAML block"


def test_migration_examples_use_options_of_the_role() -> None:
    """Every variable ack_to_asm_* in a document is one that the role knows."""
    specs = yaml.safe_load((ROOT / "roles" / "ack_to_asm" / "meta" / "argument_specs.yml").read_text())
    known = set(specs["argument_specs"]["main"]["options"])
    shown = [block for document in DOCUMENTS for block in blocks(document.read_text(), "ya?ml")]
    used = {name for block in shown for name in re.findall(r"^(ack_to_asm_\w+):", block, re.M)}
    assert used - known == set()
    assert used, "no document shows a migration"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    pages = {path.name for path in DOCUMENTS if path.parent.name == "docs"} - {"index.md"}
    assert {page for page in pages if f"({page})" not in index} == set()
