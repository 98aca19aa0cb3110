"""Clients whose packages are missing."""

import subprocess
import sys

import pytest
from helpers import REPOSITORY

CLIENTS = {"sahi": "sahi", "supervision": "supervision", "cvat": "cvat_sdk", "fiftyone": "fiftyone"}
# Imports the clients without the packages, in one process because importing takes seconds.
SCRIPT = """
import importlib, sys
import facenet_d2
print([name for name in sys.modules if name.startswith("facenet_d2.clients")])
for package in {packages}:
    sys.modules[package] = None
for client in {clients}:
    try:
        module = importlib.import_module("facenet_d2.clients." + client)
        if client == "fiftyone":
            module.add_results(None, [], [])
    except facenet_d2.UserError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def printed():
    script = SCRIPT.format(packages=list(CLIENTS.values()), clients=list(CLIENTS))
    command = [sys.executable, "-c", script]
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def test_the_package_imports_no_client(printed):
    assert printed[0] == "[]"


@pytest.mark.parametrize(("number", "client"), enumerate(CLIENTS))
def test_a_missing_package_is_one_sentence(printed, number, client):
    assert printed[number + 1].startswith("This client needs the package ")
    assert f"{CLIENTS[client]}" in printed[number + 1]
    assert "install it with: pip install " in printed[number + 1]
