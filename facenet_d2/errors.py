"""The exception for invalid user input."""

from __future__ import annotations


class UserError(Exception):
    """Raised for invalid user input.

    The message is one sentence that names the file or key, the value, and how to fix it. Commands
    print it without a traceback and exit with code 2.
    """


def user_message(error: BaseException) -> str:
    """Return the message of a :class:`UserError`, also from another process.

    Data loader workers and spawned training processes pass an exception on as text, with their
    traceback; the message is what follows the last ``UserError:`` in it.
    """
    text = str(error)
    if "Traceback (most recent call last)" in text:
        text = text.rpartition(f"{UserError.__name__}: ")[2]
    return " ".join(text.split())
