from __future__ import annotations

import math
from dataclasses import replace

import pytest

from skerry.engine.admission import admit, admit_exec, check_name, default_resources
from skerry.model import limits
from skerry.model.errors import InvalidError
from skerry.model.ids import ImageId, NodeId
from skerry.model.nodes import NodeView
from skerry.model.specs import ExecSpec, HostAccess, Resources, SandboxSpec, Terminal

MACHINE = NodeView(
    id=NodeId("no_1"),
    cpus=2.0,
    memory_mib=4096,
    reserved_cpus=0.0,
    reserved_memory_mib=0,
    sandboxes=0,
    sandboxes_max=10,
)
SPEC = SandboxSpec(image=ImageId("im_1"))


def refused(spec: SandboxSpec) -> str:
    with pytest.raises(InvalidError) as caught:
        admit(spec, MACHINE)
    return str(caught.value)


def with_resources(**fields: float) -> SandboxSpec:
    return replace(SPEC, resources=replace(Resources(), **fields))


def test_the_default_spec_is_admitted() -> None:
    assert admit(SPEC, MACHINE) == SPEC


@pytest.mark.parametrize("seconds", [0, -1, limits.LIFETIME_MAX_S + 1, math.nan, math.inf])
def test_a_lifetime_outside_its_bounds_is_refused_with_the_bounds(seconds: float) -> None:
    message = refused(replace(SPEC, lifetime_s=seconds))
    assert "lifetime_s" in message
    assert "86400" in message


def test_the_longest_lifetime_is_admitted() -> None:
    assert admit(replace(SPEC, lifetime_s=limits.LIFETIME_MAX_S), MACHINE).lifetime_s == limits.LIFETIME_MAX_S


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"memory_limit_mib": -5}, "memory_limit_mib is -5"),
        ({"memory_mib": 0}, "memory_mib is 0"),
        ({"memory_limit_mib": 8192}, "the machine has 4096"),
        ({"memory_mib": 3000}, "raise the limit"),
        ({"cpu_limit": 64.0}, "the machine has 2"),
        ({"cpu": math.nan}, "cpu is nan"),
        ({"cpu": 0.0}, "at least 0.01"),
        ({"cpu": 1.5, "cpu_limit": 1.0}, "raise the limit"),
        ({"disk_mib": 0}, "disk_mib is 0"),
        ({"tmp_mib": 5000}, "tmp_mib is 5000"),
        ({"processes": -1}, "processes is -1"),
    ],
)
def test_resources_that_the_machine_can_never_give_are_refused_by_name(fields: dict[str, float], named: str) -> None:
    assert named in refused(with_resources(**fields))


def test_many_processes_are_no_matter_of_memory() -> None:
    assert admit(with_resources(processes=100_000), MACHINE).resources.processes == 100_000


@pytest.mark.parametrize("key", ["", "A=B", "A\0"])
def test_an_environment_key_that_no_kernel_takes_is_refused(key: str) -> None:
    assert "rename it" in refused(replace(SPEC, env={key: "x"}))


def test_the_environment_of_the_callers_machine_is_checked_too() -> None:
    assert "PIP=" in refused(replace(SPEC, host_access=HostAccess(env={"PIP=": "x"})))


def test_an_environment_value_with_nul_is_refused_without_showing_the_value() -> None:
    message = refused(replace(SPEC, env={"TOKEN": "geheim\0"}))
    assert "TOKEN" in message
    assert "geheim" not in message


def test_arguments_of_exactly_64_kib_are_admitted_and_one_byte_more_is_not() -> None:
    fitting = ("x" * (limits.ARGV_BYTES - 1),)
    assert admit_exec(ExecSpec(argv=fitting)).argv == fitting
    with pytest.raises(InvalidError, match="write_text"):
        admit_exec(ExecSpec(argv=(*fitting, "")))


def test_two_mib_of_arguments_are_refused_with_the_next_step() -> None:
    assert "65,536" in refused(replace(SPEC, entrypoint=("python", "-c", "x" * 2 * limits.MIB)))


def test_an_environment_beyond_its_bound_is_refused() -> None:
    with pytest.raises(InvalidError, match="131,072"):
        admit_exec(ExecSpec(argv=("true",), env={"A": "x" * limits.ENV_BYTES}))


@pytest.mark.parametrize("argv", [(), ("a", "b\0c")])
def test_a_command_that_cannot_be_executed_is_refused(argv: tuple[str, ...]) -> None:
    with pytest.raises(InvalidError):
        admit_exec(ExecSpec(argv=argv))


def test_a_relative_workdir_is_refused_and_an_absolute_one_normalised() -> None:
    assert "relative" in refused(replace(SPEC, workdir="work"))
    assert admit_exec(ExecSpec(argv=("true",), workdir="/a/../b/")).workdir == "/b"


@pytest.mark.parametrize("seconds", [0.0, -1.0, limits.EXEC_TIMEOUT_MAX_S * 2])
def test_an_exec_timeout_outside_its_bounds_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidError, match="timeout_s"):
        admit_exec(ExecSpec(argv=("true",), timeout_s=seconds))


@pytest.mark.parametrize("user", ["", "a\nb", "x" * 300])
def test_a_user_that_cannot_be_one_is_refused(user: str) -> None:
    with pytest.raises(InvalidError, match="user"):
        admit_exec(ExecSpec(argv=("true",), user=user))


def test_an_unknown_kind_of_stdio_is_refused() -> None:
    with pytest.raises(InvalidError, match="stderr"):
        admit_exec(ExecSpec(argv=("true",), stderr="file"))


AT_A_TERMINAL = ExecSpec(argv=("true",), stderr="stdout", terminal=Terminal())


@pytest.mark.parametrize("side", [1, 24, 65_535])
def test_a_terminal_may_have_up_to_65535_rows_and_columns(side: int) -> None:
    terminal = Terminal(rows=side, columns=side, term="x" * limits.TERM_CHARS)
    assert admit_exec(replace(AT_A_TERMINAL, terminal=terminal)).terminal == terminal
    assert admit(replace(SPEC, terminal=terminal), MACHINE).terminal == terminal


@pytest.mark.parametrize("fields", [{"rows": 0}, {"columns": 65_536}, {"term": "x" * 65}, {"term": "a b"}])
def test_a_terminal_that_cannot_be_is_refused(fields: dict[str, object]) -> None:
    terminal = Terminal(**fields)  # type: ignore[arg-type]
    with pytest.raises(InvalidError, match="terminal"):
        admit_exec(replace(AT_A_TERMINAL, terminal=terminal))
    assert "terminal" in refused(replace(SPEC, terminal=terminal))


@pytest.mark.parametrize("fields", [{"stdin": "null"}, {"stdout": "null"}, {"stderr": "pipe"}])
def test_a_terminal_is_all_streams_of_its_process(fields: dict[str, str]) -> None:
    with pytest.raises(InvalidError, match="in one"):
        admit_exec(replace(AT_A_TERMINAL, **fields))


def test_default_limits_never_exceed_what_the_machine_has() -> None:
    small = default_resources(replace(MACHINE, cpus=1.0, memory_mib=1024))
    assert (small.cpu_limit, small.memory_limit_mib) == (1.0, 512)
    large = default_resources(replace(MACHINE, cpus=64.0, memory_mib=1 << 20))
    assert (large.cpu_limit, large.memory_limit_mib) == (2.0, 2048)


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "ä", "a/b"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidError, match="app"):
        check_name(name, what="app")


def test_names_may_hold_letters_digits_and_three_signs() -> None:
    assert check_name("My-app_1.0", what="app") == "My-app_1.0"
