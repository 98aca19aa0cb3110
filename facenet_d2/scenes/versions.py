"""Versions of the files of a raster, to notice that one has changed."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from collections.abc import Sequence

from .sources import url_of

_TIMEOUT_SECONDS = 20


def version_of(path: str, files: Sequence[str]) -> str | None:
    """Return a text that changes with the content of a raster, or None if there is none.

    Args:
        path: name of the raster.
        files: the files that it consists of, such as the sources of a VRT and a sidecar mask.

    Returns:
        a digest of the sizes and times of modification of local files; of the ETag, size and time
        of modification that an http server reports; None for others.
    """
    url = url_of(path)
    if url is not None:
        return _remote_version(url)
    states = []
    for file in sorted(files):
        try:
            state = os.stat(file)
        except OSError:
            return None
        states.append(f"{os.path.basename(file)} {state.st_size} {state.st_mtime_ns}")
    return _digest(states) if states else None


def _remote_version(url: str) -> str | None:
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
            headers = [response.headers.get(key) for key in ("ETag", "Last-Modified")]
            size = response.headers.get("Content-Length")
    except (OSError, ValueError):
        return None
    return _digest([str(header) for header in (*headers, size)]) if any(headers) else None


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
