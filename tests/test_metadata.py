"""Versions and file names that more than one file contains."""

import re

import yaml
from helpers import REPOSITORY

import facenet_d2

PACKAGE = REPOSITORY / "facenet_d2"


def test_files_in_the_architecture_page_exist():
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
