#!/usr/bin/env python3
"""Stop with a clear message, before anything is downloaded, if this platform is not supported."""

import sys

if sys.platform != "linux":
    sys.exit(f"error: FACENet is tested on Linux, not on {sys.platform}; WSL and containers work.")
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit(
        f"error: {sys.executable} is Python {sys.version.split()[0]}, but FACENet is tested with "
        "3.11, 3.12 and 3.13. Choose one of them, for example: make PYTHON=python3.12 ..."
    )
