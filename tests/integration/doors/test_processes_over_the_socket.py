"""Processes over the WebSocket of the real door."""

from __future__ import annotations

from doorway import Door


async def test_exec_brings_output_exit_and_an_end_for_each_channel(door: Door) -> None:
    sandbox = await door.sandbox()
    async with door.connect() as client:
        end, out, err = await client.run(sandbox, "echo", "hello")
    assert (end["code"], end["signal"], end["reason"]) == (0, None, "exited")
    assert (out, err) == (b"hello\n", b"")
