"""Which licence a text is, and that what the wheel says of itself covers every one of them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import licences
import pytest

MIT = "Permission is hereby granted, free of charge, to any person\n"
TWO = "1. Redistributions of source code must retain\n2. Redistributions in binary form\n"


def test_the_metadata_names_every_licence_of_the_file() -> None:
    blocks = licences.TARGET.read_text().split("=" * 100 + "\n")[1:]
    found = {block.splitlines()[0] for block in blocks}
    said = tomllib.loads((licences.ROOT / "pyproject.toml").read_text())["project"]["license"]
    assert {"BSD-3-Clause", licences.LLVM} <= found
    assert {"Apache-2.0", *found} == set(said.split(" AND "))


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        (MIT, "MIT"),
        (TWO, "BSD-2-Clause"),
        (TWO + "3. Neither the name of\n", "BSD-3-Clause"),
        ("Apache License\n    Version 2.0, January 2004\n" + MIT, "Apache-2.0"),
    ],
)
def test_a_licence_is_told_by_its_text(text: str, licence: str) -> None:
    assert licences.licence_of(text, "it") == licence


def test_a_licence_that_nobody_has_read_is_refused_by_the_name_of_what_has_it() -> None:
    with pytest.raises(licences.LicenceError, match=r"the licence of example\.org/it is none that is known"):
        licences.licence_of("All rights reserved.", "example.org/it")


def test_a_module_without_a_licence_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("free for all")
    with pytest.raises(licences.LicenceError, match=re.escape(f"there is no licence in {tmp_path}")):
        licences.licence_texts(tmp_path)


def test_a_notice_is_handed_on_with_the_licence(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("text \n")
    (tmp_path / "NOTICE").write_text("of whom\n\n")
    assert licences.licence_texts(tmp_path) == ["text\n", "of whom\n"]


def test_a_crate_that_is_not_under_mit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text(MIT)
    crate = {"name": "it", "license": "GPL-3.0-only", "manifest_path": str(tmp_path / "Cargo.toml")}
    with pytest.raises(licences.LicenceError, match=r"it is not under MIT \(GPL-3\.0-only\)"):
        licences.mit_text(crate)
    assert licences.mit_text({**crate, "license": "MIT OR Apache-2.0"}) == MIT
