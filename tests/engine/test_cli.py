"""Exit codes and error messages of commands."""

import pytest

from facenet_d2 import UserError
from facenet_d2.engine import run_command
from facenet_d2.engine.cli import TRACEBACK, user_errors
from facenet_d2.errors import user_message


def fail(error):
    raise error


def test_a_user_error_is_one_line(capsys, monkeypatch):
    monkeypatch.delenv(TRACEBACK, raising=False)
    assert run_command(lambda: fail(UserError("a.yaml is empty."))) == 2
    assert capsys.readouterr().err == "error: a.yaml is empty.\n"


def test_the_traceback_on_request(capsys, monkeypatch):
    monkeypatch.setenv(TRACEBACK, "1")

    def command():
        with user_errors("the model cannot be built"):
            fail(ValueError("depth is 7"))

    assert run_command(command) == 2
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert "ValueError: depth is 7" in printed
    assert "UserError: the model cannot be built: depth is 7 (ValueError)." in printed


@pytest.mark.parametrize("error", [AttributeError("x"), TypeError("x"), NameError("x")])
def test_a_bug_keeps_its_type(error):
    with pytest.raises(type(error)):
        run_command(lambda: fail(error))
    with pytest.raises(type(error)), user_errors("the model cannot be built"):
        fail(error)


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), AssertionError("x")])
def test_a_wrong_value_is_a_user_error(error):
    with (
        pytest.raises(UserError, match="the model cannot be built: x"),
        user_errors("the model cannot be built"),
    ):
        fail(error)


def test_the_message_of_another_process():
    plain = "the file says UserError: nothing."
    assert user_message(UserError(plain)) == plain
    text = (
        "Caught UserError in DataLoader worker process 0.\nOriginal Traceback (most recent call "
        'last):\n  File "a.py", line 1\nfacenet_d2.errors.UserError: image a.png is damaged.\n'
    )
    assert user_message(UserError(text)) == "image a.png is damaged."
