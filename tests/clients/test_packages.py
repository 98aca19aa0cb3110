"""Clients whose packages are missing."""

import importlib
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest
from programs import CONTEXT

from facenet_d2 import UserError

CLIENTS = {"sahi": "sahi", "supervision": "supervision", "cvat": "cvat_sdk", "fiftyone": "fiftyone"}


def import_clients():
    """Return the imported clients, and the error of each client without its package."""
    imported = [name for name in sys.modules if name.startswith("facenet_d2.clients")]
    for package in CLIENTS.values():
        sys.modules[package] = None
    errors = []
    for client in CLIENTS:
        try:
            module = importlib.import_module(f"facenet_d2.clients.{client}")
            if client == "fiftyone":
                module.add_results(None, [], [])
        except UserError as error:
            errors.append(str(error))
    return imported, errors


@pytest.fixture(scope="module")
def found():
    # A process that has imported nothing but the package.
    with ProcessPoolExecutor(1, mp_context=CONTEXT) as executor:
        return executor.submit(import_clients).result()


def test_the_package_imports_no_client(found):
    assert found[0] == []


@pytest.mark.parametrize(("number", "client"), enumerate(CLIENTS))
def test_a_missing_package_is_one_sentence(found, number, client):
    message = found[1][number]
    assert message.startswith("This client needs the package ")
    assert f"{CLIENTS[client]}" in message
    assert "install it with: pip install " in message
