"""An agent's refusal becomes the caller's error: its kind, its words, and what to do next."""

from __future__ import annotations

import pytest

from skerry.model import errors
from skerry.node.agent_stream import StreamError
from skerry.node.failures import file_error, process_error


def test_a_file_error_names_the_path_the_cause_and_the_next_step() -> None:
    error = file_error("/etc", StreamError("is_directory", 'cannot read "/etc": Is a directory'))
    assert type(error) is errors.SandboxFilesystemIsADirectoryError
    assert error.message == '/etc: cannot read "/etc": Is a directory; list it with list_files, or name a file in it'
    assert error.details == {"path": "/etc"}


def test_a_process_error_names_the_cause_and_the_next_step() -> None:
    error = process_error(StreamError("failed_precondition", 'there is no user "x" in /etc/passwd'))
    assert type(error) is errors.ConflictError
    assert error.message.endswith("; make it in the sandbox first, or give another workdir or user")


@pytest.mark.parametrize("code", ["io", "what_nobody_knows"])
def test_a_code_without_a_next_step_keeps_the_agents_words(code: str) -> None:
    assert file_error("/a", StreamError(code, "it broke")).message == "/a: it broke"


def test_control_characters_of_a_guest_are_escaped() -> None:
    error = file_error("/a\x1b[2J", StreamError("not_found", "no \x1b[31mfile"))
    assert "\x1b" not in error.message
    assert "\x1b" not in process_error(StreamError("invalid_argument", "\x1b[0m")).message
