"""CA bundles that callers' machines trust, by digest: a call names the digest, the bytes come once.

They are kept in memory only. Whoever names one that is gone is asked for the bytes again.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from typing import Final

from skerry.model import limits
from skerry.model.errors import ConflictError, InvalidError

BUNDLES_MAX: Final = 16
BUNDLE_BYTES: Final = limits.MIB

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Trust:
    """The CA bundles in use: at most 16 of at most 1 MiB; beyond that the one that was not used longest goes."""

    def __init__(self) -> None:
        self._bundles: OrderedDict[str, bytes] = OrderedDict()

    def put(self, digest: str, bundle: bytes) -> None:
        """Keep a bundle; raises InvalidError if the digest is not its own."""
        if len(bundle) > BUNDLE_BYTES:
            raise InvalidError(f"the CA bundle has {len(bundle):,} bytes, but at most {BUNDLE_BYTES:,} are allowed")
        if hashlib.sha256(bundle).hexdigest() != digest:
            raise InvalidError("the SHA-256 of the CA bundle is not the one in the address; send the bytes unchanged")
        self._bundles[digest] = bundle
        self._bundles.move_to_end(digest)
        while len(self._bundles) > BUNDLES_MAX:
            self._bundles.popitem(last=False)

    def get(self, digest: str) -> bytes:
        """Return a bundle; ConflictError with `details["trust"]` asks the caller to send it first."""
        if not _DIGEST.fullmatch(digest):
            raise InvalidError("ca_bundle_sha256 is no SHA-256; give 64 lower-case hexadecimal digits")
        bundle = self._bundles.get(digest)
        if bundle is None:
            raise ConflictError(
                f"the server does not have CA bundle {digest[:12]}…; send it with PUT /v1/trust/{digest} and repeat",
                trust=digest,
            )
        self._bundles.move_to_end(digest)
        return bundle
