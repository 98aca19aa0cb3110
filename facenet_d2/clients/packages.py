"""The error for a client whose package is not installed."""

from __future__ import annotations

import shlex

from ..errors import UserError


def missing_package(package: str, error: ImportError) -> UserError:
    """Return the error for a missing package.

    Args:
        package: name of the package for pip, with a minimum version where there is one.
        error: the failed import.
    """
    return UserError(
        f"This client needs the package {package} ({error}); install it with: "
        f"pip install {shlex.quote(package)}"
    )
