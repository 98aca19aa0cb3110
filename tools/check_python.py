#!/usr/bin/env python3
"""Say clearly, before anything is downloaded, that this Python is not supported."""

import sys

if sys.version_info[:2] not in ((3, 11), (3, 12)):
    sys.exit(
        f"error: {sys.executable} is Python {sys.version.split()[0]}; FACENet is tested on 3.11 "
        "and 3.12. Choose one: make PYTHON=python3.12 ..."
    )
