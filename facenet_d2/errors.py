"""The one exception that means "your input is wrong, and this is how to mend it"."""

from __future__ import annotations


class UserError(Exception):
    """Bad input of the user's: one sentence that names the file or key, the value and the way out.

    The commands print the sentence, without a stack trace, and exit with code 2. A data loader's
    worker process passes an exception on as text with its trace inside; the sentence is cut out of
    that again.
    """

    def __init__(self, message: str) -> None:
        _, _, tail = message.rpartition(f"{type(self).__name__}: ")
        super().__init__(tail.strip())
