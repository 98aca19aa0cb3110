"""The rules of docs/ARCHITECTURE.md, and versions that stand in more than one file."""

import ast
import re

import pytest
import yaml
from helpers import REPOSITORY

import facenet_d2

PACKAGE = REPOSITORY / "facenet_d2"
# The folders that a folder may import from.
ALLOWED = {
    "structures": set(),
    "synthetic": set(),
    "visualization": set(),
    "data": {"structures", "synthetic"},
    "modeling": {"structures"},
    "model_zoo": set(),
    "evaluation": {"data"},
    "preparing": {"data", "structures"},
    "analysis": {"modeling", "structures"},
    "checking": {"data", "modeling", "structures", "visualization"},
    "engine": {"data", "evaluation", "modeling", "structures"},
    "experiments": {"data", "engine", "evaluation"},
}


def imported_folders(file):
    """Folders of the package that a module imports from by relative imports."""
    parts = file.relative_to(PACKAGE).parts
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parts[: len(parts) - node.level]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            for name in names:
                yield (*base, *name.split("."))[0]


@pytest.mark.parametrize("folder", sorted(p.parent.name for p in PACKAGE.glob("*/__init__.py")))
def test_imports_point_in_one_direction(folder):
    allowed = ALLOWED[folder] | {folder}
    for file in (PACKAGE / folder).rglob("*.py"):
        imported = {name for name in imported_folders(file) if (PACKAGE / name).is_dir()}
        assert imported <= allowed, file


def test_the_package_imports_no_commands():
    for file in PACKAGE.rglob("*.py"):
        assert not re.search(
            r"^\s*(from|import) (tools|demo|train_net|facenet_d2)\b", file.read_text()
        )


def test_named_files_exist():
    text = (REPOSITORY / "docs" / "ARCHITECTURE.md").read_text()
    files = re.findall(r"`([\w/]+\.(?:py|yaml))\b", text)
    assert len(files) > 40
    for file in files:
        assert (PACKAGE / file).is_file() or (REPOSITORY / file).is_file(), file


def test_versions_agree():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert str(citation["version"]) == facenet_d2.__version__
    assert f"## [{facenet_d2.__version__}]" in (REPOSITORY / "CHANGELOG.md").read_text()
    (ruff,) = re.findall(r"^ruff==(\S+)", (REPOSITORY / "constraints.txt").read_text(), re.M)
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())
    assert hooks["repos"][0]["rev"] == f"v{ruff}"


def test_lowest_versions_are_the_declared_ones():
    pyproject = (REPOSITORY / "pyproject.toml").read_text()
    lowest = (REPOSITORY / ".ci" / "constraints-lowest.txt").read_text()
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)", lowest, re.M))
    declared = dict(
        re.findall(r'^    "([\w-]+)>=([\w.]+)', pyproject.split("[project.opt")[0], re.M)
    )
    assert "torch" in declared
    for name, version in declared.items():
        assert f"{pinned[name]}.".startswith(f"{version}."), name
