from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from skerry.client._core import host_access
from skerry.client._core.host_access import collect, parse_pip_options, without_credentials
from skerry.client.settings import HostSettings, host_access_wanted, pip_files
from skerry.model import variables

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB{}\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"


def files(**content: str) -> dict[str, bytes]:
    return {f"/{name}": text.encode() for name, text in content.items()}


def test_only_the_listed_variables_are_taken() -> None:
    environ = {"PIP_INDEX_URL": "https://index/simple", "https_proxy": "http://proxy:3128", "AWS_SECRET_KEY": "x"}
    assert collect(environ, {}, lambda _: None).env == {
        "PIP_INDEX_URL": "https://index/simple",
        "https_proxy": "http://proxy:3128",
    }


@pytest.mark.parametrize("name", variables.SENT)
def test_each_listed_variable_is_taken(name: str) -> None:
    assert collect({name: "http://a:81"}, {}, lambda _: None).env == {name: "http://a:81"}


@pytest.mark.parametrize("name", variables.CERTIFICATES)
def test_each_variable_that_names_certificates_is_followed(name: str) -> None:
    content = files(own=CERTIFICATE.format("a"))
    settings = collect({name: "/own"}, {}, content.get)
    assert (settings.bundle.decode(), settings.env) == (CERTIFICATE.format("a"), {})


@pytest.mark.parametrize(
    ("name", "value", "clean"),
    [
        ("PIP_INDEX_URL", "https://me:pass@index:8443/simple", "https://index:8443/simple"),
        ("PIP_EXTRA_INDEX_URL", "https://t@a/s https://u:p@b/s", "https://a/s https://b/s"),
        ("UV_INDEX", "own=https://u:p@b/s", "own=https://b/s"),
        ("GOPROXY", "https://u:p@a,https://b,direct", "https://a,https://b,direct"),
        ("https_proxy", "http://u:p%40x@proxy:3128", "http://proxy:3128"),
        ("HTTP_PROXY", "u:p@proxy:3128", "proxy:3128"),
        ("no_proxy", "localhost,.corp", "localhost,.corp"),
        ("PIP_INDEX_URL", "https://index/path@2/simple", "https://index/path@2/simple"),
        ("PIP_INDEX_URL", "https://u:p@ss@index/simple", "https://index/simple"),
    ],
)
def test_no_credentials_leave_the_machine(name: str, value: str, clean: str) -> None:
    assert without_credentials(name, value) == clean


def test_the_variables_that_held_credentials_are_named() -> None:
    settings = collect({"PIP_INDEX_URL": "https://u:p@index"}, {"extra-index-url": "https://t@b"}, lambda _: None)
    assert set(settings.stripped) == {"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"}
    assert settings.env == {"PIP_INDEX_URL": "https://index", "PIP_EXTRA_INDEX_URL": "https://b"}


def test_certificates_are_taken_once_each_and_keys_never() -> None:
    content = files(own=CERTIFICATE.format("a") + KEY + CERTIFICATE.format("b"), pip=CERTIFICATE.format("b"))
    settings = collect({"SSL_CERT_FILE": "/own"}, {"cert": "/pip"}, content.get)
    assert settings.bundle.decode() == CERTIFICATE.format("a") + CERTIFICATE.format("b")
    assert settings.digest == hashlib.sha256(settings.bundle).hexdigest()
    assert settings.wire() == {"env": {}, "ca_bundle_sha256": settings.digest}


def test_a_bundle_stays_within_what_the_server_takes() -> None:
    many = "".join(CERTIFICATE.format(f"{number:01000d}") for number in range(2000))
    assert len(collect({"SSL_CERT_FILE": "/own"}, {}, files(own=many).get).bundle) <= host_access.BUNDLE_BYTES_MAX


def test_without_settings_nothing_is_sent() -> None:
    assert collect({}, {}, lambda _: None).wire() == {"env": {}, "ca_bundle_sha256": None}


def test_pips_files_count_in_pips_order_and_variables_count_more() -> None:
    options = parse_pip_options(
        [
            "[global]\nindex-url = https://first\ncert = /c\n",
            "[global]\nindex_url = https://second\n[install]\nextra-index-url =\n  https://a\n  https://b\n",
            "this is no configuration",
        ]
    )
    assert options == {"index-url": "https://second", "cert": "/c", "extra-index-url": "https://a https://b"}
    assert collect({"PIP_INDEX_URL": "https://third"}, options, lambda _: None).env == {
        "PIP_INDEX_URL": "https://third",
        "PIP_EXTRA_INDEX_URL": "https://a https://b",
    }


def test_pips_file_of_the_user_is_read_and_credentials_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".config/pip").mkdir(parents=True)
    config = tmp_path / ".config/pip/pip.conf"
    config.write_text("[global]\nindex-url = https://me:secret@index/simple\n")
    settings = HostSettings({"HOME": str(tmp_path)})
    assert settings.current().env["PIP_INDEX_URL"] == "https://index/simple"
    config.write_text("[global]\nindex-url = https://me:secret@other/simple\n")
    assert settings.current().env["PIP_INDEX_URL"] == "https://other/simple"
    told = capsys.readouterr().err
    assert told.count("PIP_INDEX_URL") == 1
    assert "secret" not in told


def test_pips_files_can_be_named_or_turned_off() -> None:
    assert pip_files({"HOME": "/h", "PIP_CONFIG_FILE": "/own.conf"})[-1] == "/own.conf"
    assert pip_files({"HOME": "/h", "PIP_CONFIG_FILE": "/dev/null"}) == []


def test_an_option_or_a_variable_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert host_access_wanted(None)
    assert not host_access_wanted(False)
    monkeypatch.setenv("SKERRY_HOST_ACCESS", "0")
    assert not host_access_wanted(None)
    assert host_access_wanted(True)
