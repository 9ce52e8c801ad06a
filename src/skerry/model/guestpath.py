"""Paths inside a sandbox, as a caller may name them."""

from __future__ import annotations

import posixpath

from skerry.model.errors import InvalidError
from skerry.model.limits import PATH_BYTES


def parse_guest_path(raw: str | bytes, *, what: str = "path") -> str:
    """Return `raw` as a normalised absolute path; raises InvalidError naming `what` and the mistake.

    `..` is resolved textually: it is the sandbox's own tree, so nothing is protected by it.
    """
    text = raw.decode("utf-8", "surrogateescape") if isinstance(raw, bytes) else raw
    if not text.startswith("/"):
        raise InvalidError(f"{what} {text!r} is relative; give an absolute path, such as {'/' + text!r}")
    if "\0" in text:
        raise InvalidError(f"{what} {text!r} holds a NUL character; no file system allows one")
    path = posixpath.normpath(text)
    path = "/" + path.lstrip("/")
    if len(path.encode("utf-8", "surrogateescape")) > PATH_BYTES:
        raise InvalidError(f"{what} is longer than {PATH_BYTES} bytes, which Linux allows at most")
    return path
