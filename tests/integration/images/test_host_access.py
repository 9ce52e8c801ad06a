"""What this machine uses to reach package indexes: in sandboxes and builds by default, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from realserver import Server

from skerry import Image, Sandbox

pytestmark = pytest.mark.timeout(300)

MARK = "skerry-mark.example"
PASSWORD = "hunter2-skerry"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nU0tFUlJZTUFSS1NLRVJSWU1BUks=\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nU0VDUkVUS0VZU0VDUkVUS0VZ\n-----END PRIVATE KEY-----\n"
TRUST = "/.skerry/trust/ca-certificates.crt"

# Prints the environment of a command in a sandbox of `image`, which the test defines.
PROGRAM = """
import sys
import skerry
image = skerry.Image.debian_slim()
{steps}
with skerry.Sandbox.create(image=image{options}) as sandbox:
    process = sandbox.exec("sh", "-c", {command!r})
    print(process.stdout.read(), end="")
    sys.exit(process.wait())
"""


@pytest.fixture
def machine(tmp_path: Path, server: Server) -> dict[str, str]:
    """The variables of a machine behind a company's mirror, its credentials among them."""
    own = tmp_path / "own.pem"
    own.write_text(f"# ours\n{KEY}{CERTIFICATE}")
    kept = {name: value for name, value in os.environ.items() if not _is_access(name)}
    return kept | {
        "SKERRY_URL": server.url,
        "PIP_INDEX_URL": f"https://bob:{PASSWORD}@{MARK}/simple",
        "UV_DEFAULT_INDEX": f"https://{PASSWORD}@{MARK}/uv",
        "no_proxy": f"localhost,{MARK}",
        "SSL_CERT_FILE": str(own),
        "SECRET_OF_THIS_MACHINE": PASSWORD,
    }


def _is_access(name: str) -> bool:
    return name.startswith(("PIP_", "UV_", "SKERRY_")) or name.lower().endswith("_proxy") or "CERT" in name


def run(machine: Mapping[str, str], command: str, *, steps: str = "", options: str = "") -> str:
    """Return what a command prints in a sandbox that a program makes on that machine."""
    program = PROGRAM.format(steps=steps, options=options, command=command)
    told = subprocess.run(
        [sys.executable, "-c", program], env=dict(machine), capture_output=True, text=True, timeout=120
    )
    assert told.returncode == 0, told.stderr
    assert PASSWORD not in told.stderr
    return told.stdout


def places(server: Server, needle: bytes) -> set[str]:
    """Return the files of a server that hold some bytes, by folder and kind; what processes print is their own."""
    files = [path for root in (server.data, server.runtime) for path in root.rglob("*") if path.is_file()]
    output = [path for path in files if path.suffix in (".1", ".2")]
    assert {path.parts[-3] for path in output} <= {"output"}
    return {f"{path.parent.name}/{path.suffix}" for path in files if path not in output and needle in path.read_bytes()}


@pytest.fixture
def clean(server: Server) -> Iterator[None]:
    """At the end nothing that the server has written holds what it must not."""
    yield
    assert places(server, PASSWORD.encode()) == set()
    assert places(server, b"U0VDUkVUS0VZ") == set()
    assert places(server, MARK.encode()) == set()
    assert places(server, b"U0tFUlJZTUFSS") <= {"trust/.erofs"}


# What reaches them


def test_indexes_and_certificates_reach_a_sandbox_without_credentials(machine: dict[str, str], clean: None) -> None:
    env = dict(line.split("=", 1) for line in run(machine, "env").splitlines())
    assert env["PIP_INDEX_URL"] == f"https://{MARK}/simple"
    assert env["UV_DEFAULT_INDEX"] == f"https://{MARK}/uv"
    assert env["no_proxy"] == f"localhost,{MARK}"
    assert {env[name] for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO")} == {TRUST}
    assert "SECRET_OF_THIS_MACHINE" not in env


def test_the_certificates_are_there_for_every_user_and_nobody_can_write_them(
    machine: dict[str, str], clean: None
) -> None:
    told = run(machine, f"cat {TRUST}; echo x 2>&1 >{TRUST} || echo refused; su user -c 'test -r {TRUST}' && echo read")
    assert CERTIFICATE in told
    assert "PRIVATE KEY" not in told
    assert told.endswith("refused\nread\n")


def test_they_reach_the_steps_of_a_build_and_stay_out_of_its_image(
    machine: dict[str, str], server: Server, clean: None
) -> None:
    # The step's own text would be in the rows, so it looks for the mark by its length.
    steps = (
        "image = image.run_commands("
        f"'test ${{#PIP_INDEX_URL}} = {len(f'https://{MARK}/simple')} && test -s {TRUST} && env >/dev/null')"
    )
    assert run(machine, f"test -s {TRUST} && echo here", steps=steps) == "here\n"
    bare = machine | {"SKERRY_HOST_ACCESS": "0"}
    # The same image, found by its key: how the machine reaches its indexes is no part of that.
    assert (
        run(bare, f"test ! -e {TRUST} && ! grep -rl {MARK[:11]} /etc /root /usr/local && echo none", steps=steps)
        == "none\n"
    )


@pytest.mark.parametrize("off", ["option", "variable"])
def test_nothing_reaches_them_when_it_is_turned_off(machine: dict[str, str], clean: None, off: str) -> None:
    options = ", host_access=False" if off == "option" else ""
    env = run(machine | ({"SKERRY_HOST_ACCESS": "0"} if off == "variable" else {}), "env", options=options)
    assert MARK not in env
    assert TRUST not in env


def test_they_are_still_there_after_a_restart_of_the_server(
    machine: dict[str, str], server: Server, clean: None
) -> None:
    command = "import skerry; print(skerry.Sandbox.create().object_id)"
    told = subprocess.run([sys.executable, "-c", command], env=machine, capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr
    with Sandbox.from_id(told.stdout.strip()) as sandbox:
        # The record of a live sandbox is where a successor finds what new processes start with; it has no credentials.
        assert places(server, MARK.encode()) == {"records/.json"}
        server.kill9()
        server.start()
        process = sandbox.exec("sh", "-c", f"echo $PIP_INDEX_URL; cat {TRUST}")
        assert process.stdout.read().startswith(f"https://{MARK}/simple\n{CERTIFICATE}")


# What they are for


def test_pip_works_in_a_sandbox_as_on_this_machine(server: Server, python_index: None) -> None:
    with Sandbox.create(image=Image.debian_slim()) as sandbox:
        for user, command in (("user", "pip"), ("root", "pip"), ("user", "sudo -n pip")):
            argv = [*command.split(), "install", "--no-cache-dir", "--force-reinstall", "six==1.16.0"]
            process = sandbox.exec(*argv, user=user)
            assert "Successfully installed six-1.16.0" in process.stdout.read(), process.stderr.read()
