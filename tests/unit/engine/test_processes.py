from __future__ import annotations

import pytest
from engine_world import World

from skerry.model.errors import InvalidError, NotFoundError, SandboxEndedError
from skerry.model.exits import ProcessExit, ProcessReason
from skerry.model.ids import SandboxId
from skerry.model.specs import ExecSpec

PROCESS = "pr_" + "0" * 19 + "1"


async def test_an_exec_with_the_same_id_finds_the_process_instead_of_starting_another(world: World) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec())
        first = await engine.processes.exec(view.id, PROCESS, ExecSpec(argv=("cat",)))
        again = await engine.processes.exec(view.id, PROCESS, ExecSpec(argv=("cat",)))
        assert first is again
        assert len(engine.processes.list(view.id)) == 1


@pytest.mark.parametrize("process", ["", "1", "sb_00000000000000000001", "pr_../x", "entrypoint"])
async def test_an_id_that_is_none_is_refused(world: World, process: str) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec())
        with pytest.raises(InvalidError, match="process id"):
            await engine.processes.exec(view.id, process, ExecSpec(argv=("true",)))


async def test_exec_in_an_ended_sandbox_says_that_it_has_ended(world: World) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec("exit", "0"))
        await engine.sandboxes.wait(view.id)
        with pytest.raises(SandboxEndedError):
            await engine.processes.exec(view.id, PROCESS, ExecSpec(argv=("true",)))


async def test_the_entrypoint_is_found_by_its_name_after_the_end_too(world: World) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec("exit", "5"))
        await engine.sandboxes.wait(view.id)
        handle = engine.processes.get(view.id, "entrypoint")
    assert handle.view.exit == ProcessExit(reason=ProcessReason.EXITED, code=5)


async def test_a_sandbox_without_a_command_has_no_process_of_that_name(world: World) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec())
        with pytest.raises(NotFoundError, match="without a command"):
            engine.processes.get(view.id, "entrypoint")


async def test_waiting_returns_the_exit_of_a_killed_process(world: World) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec())
        await engine.processes.exec(view.id, PROCESS, ExecSpec(argv=("cat",)))
        await engine.processes.signal(view.id, PROCESS, 9)
        ended = await engine.processes.wait(view.id, PROCESS)
    assert ended.exit == ProcessExit(reason=ProcessReason.KILLED, signal=9)


async def test_the_end_of_a_sandbox_is_the_end_of_its_processes(world: World) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec())
        await engine.processes.exec(view.id, PROCESS, ExecSpec(argv=("cat",)))
        await engine.sandboxes.terminate(view.id)
        ended = await engine.processes.wait(view.id, PROCESS)
    assert ended.exit is not None
    assert ended.exit.reason is ProcessReason.SANDBOX_ENDED


async def test_a_signal_is_sent_once_for_each_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skerry.engine.processes.SENT_MAX", 2)
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec("cat"))
        handle = engine.processes.get(view.id, "entrypoint")
        sent: list[int] = []

        async def remember(number: int) -> None:
            sent.append(number)

        monkeypatch.setattr(handle, "signal", remember)
        for key in ("a", "a", "b", None, None, "c", "a"):  # the third key drops the first
            await engine.processes.signal(view.id, "entrypoint", 10, idempotency_key=key)
    assert len(sent) == 6


@pytest.mark.parametrize("number", [0, 65, -1])
async def test_a_signal_that_does_not_exist_is_refused(world: World, number: int) -> None:
    async with world.engine() as engine:
        view = await engine.sandboxes.create(world.spec("cat"))
        with pytest.raises(InvalidError, match="signal"):
            await engine.processes.signal(view.id, "entrypoint", number)


async def test_processes_of_an_unknown_sandbox_are_not_found(world: World) -> None:
    async with world.engine() as engine:
        with pytest.raises(NotFoundError):
            engine.processes.list(SandboxId("sb_none"))
