"""The documents name everything that exists, and nothing that does not."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import skerry
from skerry.cli.commands import COMMANDS
from skerry.model import errors, variables
from skerry.model.exits import ProcessReason, SandboxReason
from skerry.model.sandboxes import SandboxState
from skerry.node.environment import TRUST_FILE, TRUST_MOUNT

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("changes/*.md"), *ROOT.glob("proto/**/*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

ERRORS = (DOCS / "reference/errors.md").read_text()
SETTINGS = (DOCS / "reference/settings.md").read_text()
CLI = (DOCS / "reference/cli.md").read_text()

LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
OURS = re.compile(r"`((?:src|tests|tools|agent|runtime|launcher|proto|docs|examples|benchmarks)/[\w./-]+)`")
# Folders of the machine that a page was written on. Those that a sandbox or every Debian has are fine.
OF_A_MACHINE = re.compile(r"(?<![\w.])/(?:home|Users|mnt|work/main|work/shared|root/\.|tmp/lab)\b[^\s)`'\"]*")


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.S)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.S)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# Links and paths


@pytest.mark.parametrize("name", NAMES)
def test_every_relative_link_leads_somewhere(name: str) -> None:
    page = ROOT / name
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        assert target.is_relative_to(ROOT), f"{link} leads out of the repository"
        assert not anchor or anchor in anchors(target), f"{link}: there is no such heading"


@pytest.mark.parametrize("name", NAMES)
def test_no_page_names_a_folder_of_the_machine_it_was_written_on(name: str) -> None:
    assert OF_A_MACHINE.findall((ROOT / name).read_text()) == []


def test_every_page_is_linked_from_another_one() -> None:
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in LINK.findall(page.read_text())
        if link[0] != "#"
    }
    pages = [page for page in DOCS.rglob("*.md") if "decisions" not in page.parts and page.name != "README.md"]
    assert [str(page.relative_to(DOCS)) for page in pages if page.resolve() not in linked] == []


def test_decisions_are_numbered_once_each_and_without_a_gap() -> None:
    files = sorted((DOCS / "decisions").glob("*.md"))
    assert [int(file.name[:4]) for file in files] == list(range(1, len(files) + 1))
    for file in files:
        assert file.read_text().startswith(f"# {int(file.name[:4])}. "), file.name


# Names


@pytest.mark.parametrize("kind", sorted(errors.BY_NAME))
def test_every_error_is_in_the_reference_with_its_code(kind: str) -> None:
    code = errors.BY_NAME[kind].code
    assert re.search(rf"^\| (?:- )*`{kind}` \| `{code}` \|", ERRORS, flags=re.M)


def test_the_reference_indents_an_error_under_what_it_is_caught_as() -> None:
    above: list[str] = []
    for dashes, name in re.findall(r"^\| ((?:- )*)`(\w+)` \| `\w+` \|", ERRORS, flags=re.M):
        depth = dashes.count("-")
        above = [*above[:depth], name]
        parent = above[-2] if depth else "Error"
        assert issubclass(errors.BY_NAME[name], errors.BY_NAME[parent]), name
        if name != "Error":
            assert errors.BY_NAME[parent] in errors.BY_NAME[name].__bases__, name


@pytest.mark.parametrize("reason", [*SandboxReason, *ProcessReason])
def test_every_reason_is_in_the_reference(reason: str) -> None:
    assert f"\n| `{reason}` | " in ERRORS


def test_every_state_is_in_the_glossary() -> None:
    glossary = (DOCS / "glossary.md").read_text()
    assert [state for state in SandboxState if f"`{state}`" not in glossary] == []


def test_the_glossary_is_in_order_and_says_each_word_once() -> None:
    words = re.findall(r"^\| ([a-z][^|]*) \|", (DOCS / "glossary.md").read_text(), flags=re.M)[1:]
    assert words == sorted(words)
    assert len(words) == len(set(words))


def settings() -> set[str]:
    """Return the variables that the code asks for."""
    sources = [*ROOT.glob("src/**/*.py"), *ROOT.glob("agent/src/*.rs")]
    asked = {name for path in sources for name in re.findall(r'"(SKERRY_[A-Z_]+[A-Z])"', path.read_text())}
    for path in ROOT.glob("tests/**/*.py"):
        asked |= set(re.findall(r'environ\.get\("(SKERRY_\w+)"', path.read_text()))
    return asked - {"SKERRY_SETUP", "SKERRY_STAND_INS"}  # mmdebstrap's hooks get their scripts in them


def test_every_setting_is_in_the_reference() -> None:
    assert {"SKERRY_URL", "SKERRY_NETWORK_RANGE", "SKERRY_FUZZ_SECONDS"} <= settings()
    assert [name for name in sorted(settings()) if f"| `{name}` |" not in SETTINGS] == []


def test_every_setting_in_the_reference_is_asked_for() -> None:
    assert [name for name in re.findall(r"^\| `(SKERRY_\w+)` \|", SETTINGS, flags=re.M) if name not in settings()] == []


def test_every_variable_that_goes_to_a_sandbox_is_in_the_reference() -> None:
    sent = {*variables.SENT, *variables.SANDBOX_CERTIFICATES}
    assert [name for name in sorted(sent) if f"`{name}`" not in SETTINGS] == []
    assert f"`{TRUST_MOUNT}/{TRUST_FILE}`" in SETTINGS


# Programs and commands in the pages


def python_blocks() -> Iterator[tuple[str, str]]:
    for page in (ROOT / "README.md", *DOCS.rglob("*.md")):
        for number, block in enumerate(blocks(page, "python"), start=1):
            yield f"{page.relative_to(ROOT)} {number}", block


@pytest.mark.parametrize(("name", "program"), list(python_blocks()))
def test_a_program_in_a_page_is_python_and_uses_names_that_exist(name: str, program: str) -> None:
    compile(program, name, "exec")
    for owner, used in re.findall(r"\b(skerry|aio|skerry\.exception)\.([A-Za-z_]\w*)", program):
        module = importlib.import_module(owner if owner.startswith("skerry") else f"skerry.{owner}")
        assert hasattr(module, used), f"{owner}.{used}"


def shell_calls() -> Iterator[str]:
    """Yield each call of `skerry` in the pages, up to where something else begins."""
    for page in (ROOT / "README.md", *DOCS.rglob("*.md")):
        for block in blocks(page, "sh"):
            for line in block.splitlines():
                yield from re.findall(r"(?:^|[\s(/])skerry ([^|;)#]*)", line.split(" # ")[0])


@pytest.mark.parametrize("call", list(shell_calls()))
def test_a_command_in_a_page_has_a_name_and_options_that_exist(call: str) -> None:
    name, *rest = call.split(" -- ")[0].split()
    assert name in COMMANDS
    if name == "run":  # what follows the file is the program's own
        rest = rest[:1]
    usage = re.search(rf"### skerry {name}\n(.*?)(?=\n### |\Z)", CLI, flags=re.S)
    assert usage is not None
    for option in re.findall(r"--[a-z-]+", " ".join(rest)):
        assert option in usage.group(1), option


def test_every_make_target_in_a_page_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    used = {
        target
        for page in PAGES
        for block in (*blocks(page, "sh"), *re.findall(r"`(make [a-z]+)", page.read_text()))
        for target in re.findall(r"^make ([a-z]+)", block, flags=re.M)
    }
    assert {"demo", "test"} <= used <= targets


def test_what_pages_call_a_file_of_the_repository_is_one() -> None:
    named = {(str(page.relative_to(ROOT)), path) for page in PAGES for path in OURS.findall(page.read_text())}
    assert [(page, path) for page, path in sorted(named) if not (ROOT / path).exists()] == []


def test_every_public_name_is_in_the_sdks_reference() -> None:
    text = (DOCS / "reference/sdk.md").read_text()
    assert [name for name in skerry.__all__ if not re.search(rf"(?<!\w){name}(?!\w)", text)] == []
