"""Registering the built-in data set must not import what draws it."""

import json
import subprocess
import sys

from helpers import REPOSITORY

LIST_MODULES = "import json, sys; {}; print(json.dumps(sorted(sys.modules)))"


def modules_after(statement):
    result = subprocess.run(
        [sys.executable, "-c", LIST_MODULES.format(statement)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_importing_the_package_imports_no_drawing():
    modules = modules_after("import facenet_d2, detectron2")
    assert "facenet_d2.data.datasets.synthetic_aerial" in modules
    assert {m for m in modules if m.startswith("facenet_d2.synthetic.")} == set()
    assert {m for m in modules if m.startswith("facenet_d2.checking")} == set()
    assert "shapely" not in modules
    assert "matplotlib.pyplot" not in modules


def test_preparing_a_data_set_imports_no_checks():
    modules = modules_after("import facenet_d2.preparing.published, facenet_d2.preparing.patches")
    assert {m for m in modules if m.startswith("facenet_d2.checking")} == set()
    assert "shapely" not in modules
    assert "matplotlib.pyplot" not in modules
