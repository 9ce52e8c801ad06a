from __future__ import annotations

import hashlib

import pytest

from skerry.engine.trust import BUNDLE_BYTES, BUNDLES_MAX, Trust
from skerry.model.errors import ConflictError, InvalidError


def digest(bundle: bytes) -> str:
    return hashlib.sha256(bundle).hexdigest()


def test_a_bundle_is_found_by_its_digest() -> None:
    trust = Trust()
    trust.put(digest(b"PEM"), b"PEM")
    assert trust.get(digest(b"PEM")) == b"PEM"


def test_a_digest_that_was_never_sent_asks_for_the_bytes() -> None:
    with pytest.raises(ConflictError) as caught:
        Trust().get(digest(b"PEM"))
    assert caught.value.details == {"trust": digest(b"PEM")}


def test_bytes_with_another_digest_are_refused() -> None:
    with pytest.raises(InvalidError, match="SHA-256"):
        Trust().put(digest(b"PEM"), b"other")


@pytest.mark.parametrize("name", ["", "x" * 64, "A" * 64, "../" + "0" * 61])
def test_what_is_no_digest_is_refused(name: str) -> None:
    with pytest.raises(InvalidError, match="64"):
        Trust().get(name)


def test_a_bundle_beyond_its_bound_is_refused() -> None:
    large = b"x" * (BUNDLE_BYTES + 1)
    with pytest.raises(InvalidError, match="1,048,576"):
        Trust().put(digest(large), large)


def test_at_the_bound_the_bundle_that_was_not_used_longest_goes() -> None:
    trust = Trust()
    bundles = [str(number).encode() for number in range(BUNDLES_MAX)]
    for bundle in bundles:
        trust.put(digest(bundle), bundle)
    trust.get(digest(bundles[0]))
    trust.put(digest(b"new"), b"new")
    assert trust.get(digest(bundles[0])) == bundles[0]
    with pytest.raises(ConflictError):
        trust.get(digest(bundles[1]))
