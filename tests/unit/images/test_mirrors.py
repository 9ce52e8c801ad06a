"""Which of a machine's apt sources are Debian's own, and what of them goes into an image."""

from __future__ import annotations

from pathlib import Path

import pytest

from skerry.images import mirrors

KEYRING = f"/{mirrors.KEYRING}"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    (tmp_path / "etc" / "apt" / "sources.list.d").mkdir(parents=True)
    (tmp_path / "etc" / "os-release").write_text('ID=debian\nVERSION_CODENAME="bookworm"\n')
    return tmp_path / "etc"


def sources(machine: Path, suite: str = "bookworm") -> list[mirrors.Source]:
    return mirrors.sources_for(suite, apt=machine / "apt", os_release=machine / "os-release")


def test_the_one_line_form_is_read_with_its_options(machine: Path) -> None:
    (machine / "apt" / "sources.list").write_text(
        "# a comment\n"
        "deb [arch=amd64 trusted=yes] https://mirror.example/debian bookworm main contrib # own mirror\n"
        "deb-src https://mirror.example/debian bookworm main\n"
    )
    (source,) = sources(machine)
    assert source.uri == "https://mirror.example/debian"
    assert source.components == ("main", "contrib")
    assert source.options == {"trusted": "yes"}


def test_the_stanza_form_is_read_with_several_suites_and_folded_fields(machine: Path) -> None:
    (machine / "apt" / "sources.list.d" / "debian.sources").write_text(
        "Types: deb deb-src\n# a comment\nURIs: https://mirror.example/debian\nSuites: bookworm\n bookworm-updates\n"
        f"Components: main\nSigned-By: {KEYRING}\nCheck-Valid-Until: no\n\n"
        "Types: deb\nURIs: https://mirror.example/off\nSuites: bookworm\nComponents: main\nEnabled: no\n"
    )
    assert [source.suite for source in sources(machine)] == ["bookworm", "bookworm-updates"]
    assert sources(machine)[0].options == {"check-valid-until": "no"}


def test_a_third_partys_source_of_the_same_code_name_is_left_out(machine: Path) -> None:
    (machine / "apt" / "sources.list.d" / "tool.list").write_text(
        "deb [signed-by=/usr/share/keyrings/tool.gpg] https://tool.example/apt bookworm main\n"
        "deb https://other.example/apt bookworm stable\n"
    )
    assert sources(machine) == []


def test_another_release_is_asked_of_the_same_mirror(machine: Path) -> None:
    (machine / "apt" / "sources.list").write_text(
        "deb https://mirror.example/debian bookworm main\n"
        "deb https://mirror.example/security bookworm-security main\n"
        "deb https://mirror.example/debian bookworm-backports main\n"
    )
    assert [source.suite for source in sources(machine, "trixie")] == ["trixie", "trixie-security"]


def test_a_machine_that_names_its_release_stable_is_understood(machine: Path) -> None:
    (machine / "apt" / "sources.list").write_text("deb https://mirror.example/debian stable main\n")
    assert [source.suite for source in sources(machine)] == ["bookworm"]


def test_a_machine_of_another_distribution_has_no_debian_sources(machine: Path) -> None:
    (machine / "os-release").write_text("ID=ubuntu\nVERSION_CODENAME=noble\n")
    (machine / "apt" / "sources.list").write_text("deb https://mirror.example/ubuntu noble main\n")
    assert sources(machine) == []


def test_credentials_are_used_for_the_build_and_stay_out_of_the_image(machine: Path) -> None:
    (machine / "apt" / "sources.list").write_text("deb https://me:secret@mirror.example:8443/debian bookworm main\n")
    (source,) = sources(machine)
    assert "me:secret@" in source.line(KEYRING)
    assert "secret" not in source.stanza(KEYRING)
    assert "URIs: https://mirror.example:8443/debian\n" in source.stanza(KEYRING)


def test_a_stanza_that_was_written_is_read_back_the_same(machine: Path) -> None:
    (machine / "apt" / "sources.list").write_text("deb [check-date=no] https://mirror.example/debian bookworm main\n")
    written = sources(machine)
    (machine / "apt" / "sources.list").unlink()
    (machine / "apt" / "sources.list.d" / "debian.sources").write_text(written[0].stanza(KEYRING))
    assert sources(machine) == written
