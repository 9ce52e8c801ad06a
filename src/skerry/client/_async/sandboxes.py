"""Sandboxes: created, found again, waited for, terminated; and the processes started in them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import asdict
from typing import Any, Literal, Self, overload

from skerry.client import logs, terminals, words
from skerry.client._async.apps import App
from skerry.client._async.filesystem import SandboxFilesystem
from skerry.client._async.images import Image
from skerry.client._async.logs import SandboxLogs
from skerry.client._async.processes import ContainerProcess, resize
from skerry.client._async.secrets import Secret, as_bodies, sources
from skerry.client._async.starts import Start, mounts, spec
from skerry.client._async.streams import StreamReader, StreamWriter
from skerry.client._async.volumes import Volume
from skerry.client._core import arguments, views
from skerry.client._core.timings import Stopwatch, Timings
from skerry.client.client import Client, resolve
from skerry.client.connection import path
from skerry.client.sessions import ProcessSession
from skerry.client.stream_type import StreamType
from skerry.model import limits
from skerry.model.errors import (
    InvalidError,
    NotFoundError,
    SandboxEndedError,
    SandboxTerminatedError,
    SandboxTimeoutError,
)
from skerry.model.exits import SandboxExit, SandboxReason
from skerry.model.ids import PROCESS, SANDBOX, is_id
from skerry.model.sandboxes import ProcessView, SandboxView
from skerry.model.text import printable
from skerry.model.usage import SandboxUsage
from skerry.wire import native
from skerry.wire.frames import STDERR, STDOUT

WAIT_S = 50.0
PAGE = 100
ENTRYPOINT = "entrypoint"

# Ends that came from outside. After the others the program's own return code says enough.
_ENDED_FROM_OUTSIDE = frozenset(
    {
        SandboxReason.TERMINATED,
        SandboxReason.IDLE_TIMEOUT,
        SandboxReason.EVICTED,
        SandboxReason.GUEST_BROKEN,
        SandboxReason.START_FAILED,
        SandboxReason.NODE_LOST,
    }
)
_default_image = Image.debian_slim()


class Sandbox:
    """A place to run code that nobody has reviewed."""

    def __init__(self, client: Client, view: SandboxView, *, timings: Timings | None = None) -> None:
        self._client = client
        self._view = view
        self._timings = timings or Timings(view.stages)
        self._filesystem = SandboxFilesystem(client, view.id)
        self._output: ProcessSession | None = None
        self._stdout: StreamReader[str] | None = None
        self._stderr: StreamReader[str] | None = None
        self._stdin: StreamWriter | None = None

    @staticmethod
    async def create(
        *args: str,
        app: App | None = None,
        name: str | None = None,
        tags: Mapping[str, str] | None = None,
        image: Image | None = None,
        env: Mapping[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        timeout: float | None = 300,
        idle_timeout: float | None = None,
        workdir: str | None = None,
        user: str | None = None,
        cpu: float | tuple[float, float] | None = None,
        memory: int | tuple[int, int] | None = None,
        block_network: bool = False,
        isolation: str = "gvisor",
        volumes: Mapping[Any, Volume] | None = None,
        pty: bool = False,
        pty_size: tuple[int, int] | None = None,
        host_access: bool | None = None,
        client: Client | None = None,
        **idle: object,
    ) -> Sandbox:
        """Return a running sandbox in which `args` were started.

        Its `name` is its own among the sandboxes of its app that have not ended, else AlreadyExistsError is raised; see
        `from_name`. `tags` are for `list`. What `secrets` hold is shown nowhere; later ones win, and `env` over all.

        Without `args` it waits for `exec` until its `timeout` (seconds; the sandbox's whole lifetime) is over, or until
        nobody has used it for `idle_timeout` seconds: no exec runs, no stream is open, no file is read or written.

        `cpu` (cores) and `memory` (MiB) are a request, or a pair of request and limit. With `pty` `args` run at a
        terminal, as in `exec`. `volumes` are mounted at their paths. `host_access=False` keeps this machine's package
        indexes, proxies and certificates out of the sandbox.
        """
        words.refuse_idle("Sandbox.create", idle, words.SANDBOX_IDLE)
        watch = Stopwatch(time.perf_counter)
        terminal = terminals.chosen(pty, pty_size, call="Sandbox.create")
        body = spec(args, env, timeout, idle_timeout, workdir, user, cpu, memory, block_network, isolation, terminal)
        body["name"] = arguments.sandbox_name(name, call="Sandbox.create")
        body["tags"] = arguments.tags(tags, call="Sandbox.create")
        body["secrets"] = as_bodies(sources(secrets, call="Sandbox.create"))
        chosen = resolve(client)
        connection = await chosen.connection()
        await connection.reach()
        watch.lap("connect")
        start = Start(chosen, connection, body, image or _default_image, app, host_access, mounts(volumes))
        await start.prepare()
        watch.lap("image")
        view = await start.finish()
        watch.lap_around("request", view.stages)
        return Sandbox(chosen, view, timings=watch.timings())

    @staticmethod
    async def from_id(sandbox_id: str, client: Client | None = None) -> Sandbox:
        """Return a sandbox that exists, running or ended; raises NotFoundError."""
        if not is_id(str(sandbox_id), SANDBOX):
            named = printable(str(sandbox_id)[:64], keep="")
            raise NotFoundError(f"there is no sandbox {named!r}; `skerry ls --all` shows the ids of those that exist")
        chosen = resolve(client)
        connection = await chosen.connection()
        return Sandbox(chosen, views.sandbox(await connection.call("GET", path("sandboxes", sandbox_id))))

    @staticmethod
    async def from_name(
        app_name: str | None,
        name: str,
        *,
        include_terminated: bool = False,
        client: Client | None = None,
        **idle: object,
    ) -> Sandbox:
        """Return the sandbox that has this name in an app and has not ended; raises NotFoundError.

        With `include_terminated` the one that ended last is returned where none runs. `None` means outside all apps.
        """
        words.refuse_idle("Sandbox.from_name", idle, words.ENVIRONMENT_IDLE)
        app_id = None if app_name is None else (await App.lookup(app_name, client=client)).app_id
        async for sandbox in Sandbox.list(app_id=app_id, name=name, include_ended=include_terminated, client=client):
            if sandbox.view.spec.app == app_id:
                return sandbox  # the newest: a name is given again only after an end
        where = "outside all apps" if app_name is None else f"in app {app_name!r}"
        raise NotFoundError(
            f"no sandbox named {name!r} {'is known' if include_terminated else 'runs'} {where}; "
            "`skerry ls --all` shows those that exist"
        )

    @staticmethod
    async def list(
        *,
        app_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        name: str | None = None,
        include_ended: bool = False,
        client: Client | None = None,
    ) -> AsyncIterator[Sandbox]:
        """Yield running sandboxes, the newest first: of one app with `app_id`, with at least these `tags`, of this
        `name`; ended ones too with `include_ended`."""
        call = "Sandbox.list"
        query: dict[str, object] = {
            "app": app_id,
            "name": arguments.sandbox_name(name, call=call),
            "tag": [f"{key}={value}" for key, value in arguments.tags(tags, call=call).items()],
            "include_ended": "true" if include_ended else None,
            "limit": PAGE,
        }
        chosen = resolve(client)
        connection = await chosen.connection()
        while True:
            answer = await connection.call("GET", path("sandboxes"), query=query)
            page = [views.sandbox(one) for one in answer["sandboxes"]]
            for view in page:
                yield Sandbox(chosen, view)
            if len(page) < PAGE:
                return
            query["before"] = repr(page[-1].created_at)

    @property
    def object_id(self) -> str:
        return self._view.id

    @property
    def view(self) -> SandboxView:
        """All that was last known of the sandbox, in the model's words."""
        return self._view

    @property
    def returncode(self) -> int | None:
        """The entrypoint's exit code once the end is known (by `wait`, `poll` or `terminate`), else None.

        128 + signal for a signal, 124 at the end of the lifetime, 137 for every other end from outside.
        """
        return None if self._view.exit is None else self._view.exit.returncode

    @property
    def exit(self) -> SandboxExit | None:
        """How the sandbox ended: the reason from a closed list, code or signal, the evidence; None while it runs."""
        return self._view.exit

    @property
    def timings(self) -> Timings:
        """Where the time of `create` went, stage by stage."""
        return self._timings

    @property
    def filesystem(self) -> SandboxFilesystem:
        return self._filesystem

    @property
    def logs(self) -> SandboxLogs:
        """What its processes have written, for as long as it is kept."""
        return SandboxLogs(self._client, self.object_id)

    @property
    def stdin(self) -> StreamWriter:
        """The entrypoint's input."""
        if self._stdin is None:
            self._stdin = StreamWriter(self._entrypoint(stdin=True))
        return self._stdin

    @property
    def stdout(self) -> StreamReader[str]:
        """The entrypoint's output."""
        if self._stdout is None:
            self._stdout = StreamReader(self._outputs(), STDOUT)
        return self._stdout

    @property
    def stderr(self) -> StreamReader[str]:
        """The entrypoint's error output."""
        if self._stderr is None:
            self._stderr = StreamReader(self._outputs(), STDERR)
        return self._stderr

    async def wait(self, raise_on_termination: bool = True) -> None:
        """Return once the sandbox has ended.

        Raises SandboxTimeoutError at the end of its lifetime, and SandboxTerminatedError when it was ended from outside
        and `raise_on_termination` is set.
        """
        while self._view.exit is None:
            await self._refresh("wait", query={"timeout": WAIT_S})
        _raise_for(self.object_id, self._view.exit, raise_on_termination)

    async def usage(self) -> SandboxUsage:
        """Return what it takes from the machine now: CPU time, memory, files, processes, traffic; it has to run."""
        connection = await self._client.connection()
        for sample in views.usage(await connection.call("GET", "/v1/usage", query={"sandbox": self.object_id})):
            return sample
        raise SandboxEndedError(f"sandbox {self.object_id} does not run, and takes nothing from the machine")

    async def processes(self) -> tuple[ProcessView, ...]:
        """Return what is known of its processes, running and ended, in the order of their start."""
        connection = await self._client.connection()
        return views.processes(await connection.call("GET", path("sandboxes", self.object_id, "processes")))

    async def resize_pty(self, rows: int, columns: int) -> None:
        """Resize the terminal of the entrypoint (`pty=True`), and tell what runs in it."""
        await resize(self._client, self.object_id, ENTRYPOINT, rows, columns)

    async def poll(self) -> int | None:
        """Return the exit code if the sandbox has ended, else None."""
        if self._view.exit is None:
            await self._refresh()
        return self.returncode

    async def get_tags(self) -> dict[str, str]:
        """Return the tags as they are now."""
        await self._refresh()
        return dict(self._view.spec.tags)

    async def set_tags(self, tags: Mapping[str, str], *, client: Client | None = None) -> None:
        """Replace all tags."""
        words.refuse_idle("Sandbox.set_tags", {"client": client}, words.SET_TAGS_IDLE)
        connection = await self._client.connection()
        body = {"tags": arguments.tags(tags, call="Sandbox.set_tags")}
        self._view = views.sandbox(await connection.call("PUT", path("sandboxes", self.object_id, "tags"), body=body))

    async def terminate(self, *, wait: bool = False) -> int | None:
        """End the sandbox; one that has ended keeps its exit. With `wait` the exit code is returned."""
        connection = await self._client.connection()
        self._view = views.sandbox(
            await connection.call("POST", path("sandboxes", self.object_id, "terminate"), body={})
        )
        self._client.created.pop(self.object_id, None)
        if not wait:
            return None
        while self._view.exit is None:
            await self._refresh("wait", query={"timeout": WAIT_S})
        return self.returncode

    @overload
    async def exec(
        self,
        *args: str,
        stdout: StreamType = StreamType.PIPE,
        stderr: StreamType = StreamType.PIPE,
        timeout: float | None = None,
        workdir: str | None = None,
        env: Mapping[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        user: str | None = None,
        pty: bool = False,
        pty_size: tuple[int, int] | None = None,
        text: Literal[True] = True,
        bufsize: Literal[-1, 0, 1] = -1,
        **idle: object,
    ) -> ContainerProcess[str]: ...

    @overload
    async def exec(
        self,
        *args: str,
        stdout: StreamType = StreamType.PIPE,
        stderr: StreamType = StreamType.PIPE,
        timeout: float | None = None,
        workdir: str | None = None,
        env: Mapping[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        user: str | None = None,
        pty: bool = False,
        pty_size: tuple[int, int] | None = None,
        text: Literal[False],
        bufsize: Literal[-1, 0, 1] = -1,
        **idle: object,
    ) -> ContainerProcess[bytes]: ...

    async def exec(
        self,
        *args: str,
        stdout: StreamType = StreamType.PIPE,
        stderr: StreamType = StreamType.PIPE,
        timeout: float | None = None,
        workdir: str | None = None,
        env: Mapping[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        user: str | None = None,
        pty: bool = False,
        pty_size: tuple[int, int] | None = None,
        text: bool = True,
        bufsize: Literal[-1, 0, 1] = -1,
        **idle: object,
    ) -> Any:
        """Return a process once it has started.

        At `timeout` (seconds) it is killed with everything that it left behind. Output is text, by lines when iterated;
        `bufsize=0` yields pieces as they come instead, `text=False` bytes.

        With `pty` the process runs at a terminal: stdout has all that it shows, stderr is empty, and what is written
        to stdin is typed. The terminal has `pty_size` (rows, columns), or the size of this program's own.
        """
        words.refuse_idle("Sandbox.exec", idle, words.EXEC_IDLE)
        terminal = terminals.chosen(pty, pty_size, call="Sandbox.exec")
        if not args:
            raise InvalidError("Sandbox.exec: name a command, such as sandbox.exec('python', '-c', 'print(1)')")
        _check_stdio(stdout=stdout, stderr=stderr, text=text, bufsize=bufsize)
        opening = native.OpenExec(
            sandbox=self.object_id,
            process=self._client.ids.new(PROCESS),
            argv=arguments.argv(args, call="Sandbox.exec"),
            env=terminals.with_colours(arguments.environment(env, call="Sandbox.exec"), terminal),
            secrets=sources(secrets, call="Sandbox.exec"),
            workdir=arguments.workdir(workdir, call="Sandbox.exec"),
            user=user,
            timeout_s=arguments.exec_timeout(timeout),
            stdin="pipe",
            stdout="null" if stdout is StreamType.DEVNULL and terminal is None else "pipe",
            stderr="stdout" if terminal is not None else "null" if stderr is StreamType.DEVNULL else "pipe",
            terminal=None if terminal is None else native.Terminal(**asdict(terminal)),
        )
        session = ProcessSession(self._client, opening)
        await session.start()
        return ContainerProcess(self._client, session, text=text, by_line=bufsize != 0, stdout=stdout, stderr=stderr)

    @overload
    async def process(
        self,
        process_id: str,
        *,
        tail: int | None = None,
        text: Literal[True] = True,
        bufsize: Literal[-1, 0, 1] = -1,
    ) -> ContainerProcess[str]: ...

    @overload
    async def process(
        self, process_id: str, *, tail: int | None = None, text: Literal[False], bufsize: Literal[-1, 0, 1] = -1
    ) -> ContainerProcess[bytes]: ...

    async def process(
        self, process_id: str, *, tail: int | None = None, text: bool = True, bufsize: Literal[-1, 0, 1] = -1
    ) -> Any:
        """Return a process that exists, running or ended: one that another program started, or left.

        Its output is read from the first byte that is kept, or from its last `tail` lines, at most 256 KiB of them, on.
        What is written to its stdin comes behind what others have written.
        """
        pipe = StreamType.PIPE
        _check_stdio(stdout=pipe, stderr=pipe, text=text, bufsize=bufsize)
        wanted = logs.Wanted(sandbox=self.object_id, process=process_id, tail=tail)
        session = await logs.attached(self._client, wanted)
        return ContainerProcess(self._client, session, text=text, by_line=bufsize != 0, stdout=pipe, stderr=pipe)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Terminate the sandbox."""
        await self.terminate()

    def __repr__(self) -> str:
        return f"<Sandbox {self.object_id} {self._view.state}>"

    async def _refresh(self, *parts: str, query: dict[str, object] | None = None) -> None:
        connection = await self._client.connection()
        answer = await connection.call("GET", path("sandboxes", self.object_id, *parts), query=query)
        self._view = views.sandbox(answer)

    def _outputs(self) -> ProcessSession:
        if self._output is None:
            self._output = self._entrypoint(stdin=False)
        return self._output

    def _entrypoint(self, *, stdin: bool) -> ProcessSession:
        opening = native.OpenProcess(sandbox=self.object_id, process=ENTRYPOINT, stdin=stdin)
        return ProcessSession(self._client, opening)


def _check_stdio(*, stdout: object, stderr: object, text: bool, bufsize: int) -> None:
    for name, value in (("stdout", stdout), ("stderr", stderr)):
        if not isinstance(value, StreamType):
            raise InvalidError(
                f"Sandbox.exec: {name}={value!r}: give StreamType.PIPE, StreamType.DEVNULL or StreamType.STDOUT"
            )
    if bufsize not in (-1, 0, 1):
        raise InvalidError(f"Sandbox.exec: bufsize={bufsize!r}: give -1 or 1 for lines, 0 for pieces as they come")
    if bufsize == 1 and not text:
        raise InvalidError("Sandbox.exec: bufsize=1 (lines) needs text=True; bytes come in pieces")


def _raise_for(sandbox: str, ended: SandboxExit, raise_on_termination: bool) -> None:
    """Raise what Modal raises for an end that was not the program's own."""
    evidence = f": {printable(ended.evidence)}" if ended.evidence else ""
    if ended.reason is SandboxReason.LIFETIME:
        raise SandboxTimeoutError(
            f"sandbox {sandbox} reached the end of its lifetime{evidence}; give Sandbox.create a longer timeout "
            f"(at most {limits.LIFETIME_MAX_S:.0f} s) if it needs more",
            exit=ended,
        )
    if raise_on_termination and ended.reason in _ENDED_FROM_OUTSIDE:
        raise SandboxTerminatedError(f"sandbox {sandbox} was ended from outside ({ended.reason}){evidence}", exit=ended)
