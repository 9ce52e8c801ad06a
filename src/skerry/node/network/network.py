"""The network of a node: slots for its sandboxes, the firewall around them, and DNS for them."""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from ipaddress import IPv4Address
from typing import ParamSpec, TypeVar

from skerry.model.errors import ConflictError, Error, ResourceExhaustedError
from skerry.model.ids import SandboxId
from skerry.model.specs import HostAccess
from skerry.node.network import exemptions
from skerry.node.network.dns import Forwarder, Resolvers
from skerry.node.network.firewall import Exemption
from skerry.node.network.kernel import delete_device
from skerry.node.network.machine import Machine
from skerry.node.network.plan import Plan
from skerry.node.network.settings import NetworkSettings, Tell, log
from skerry.node.network.slots import Slot
from skerry.node.network.watch import ChainWatch, RouteWatch

_EXEMPTIONS_EVERY_S = 300.0
_LOOK_EVERY_S = 60.0
# The older iptables does not tell of changes; a look takes some 3 ms of a processor.
_LOOK_AT_SILENT_EVERY_S = 10.0
# A reload of another firewall is many changes: one look for all, and for at most a tenth of the time.
_REST_S = 0.1
_REST_PER_LOOK = 10
# How long the opening of a slot waits for the first answers about the machine's indexes; later ones come when they do.
_FIRST_EXEMPTIONS_S = 2.0
# How long it waits for the names of its own indexes and proxies; what is not known then stays out of reach.
_OWN_EXEMPTIONS_S = 3.0
_TRIES = 16

P = ParamSpec("P")
T = TypeVar("T")


class Network:
    """The network of one node. Between `start` and `stop`, or `leave`, it gives out slots.

    All work in the kernel is done by one thread, in the order in which it was asked for. Only devices are deleted by
    another one: the kernel takes 20 to 40 ms for each, waiting, and nothing else should wait with it.
    """

    def __init__(self, settings: NetworkSettings, *, tell: Tell = log.info) -> None:
        self.settings = settings
        self._tell = tell
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="skerry-network")
        self._remover = ThreadPoolExecutor(max_workers=1, thread_name_prefix="skerry-network-remover")
        self._machine: Machine | None = None
        self._slots: dict[int, Slot] = {}
        self._free: deque[int] = deque()
        self._mtu = 0
        self._resolvers = Resolvers(settings.resolv_conf)
        self._forwarder: Forwarder | None = None
        self._watches: list[RouteWatch | ChainWatch] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._releases: dict[int, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._chains_changed = asyncio.Event()
        self._exemptions_known = asyncio.Event()
        self._exemptions_awaited_until = 0.0
        self._names: exemptions.Resolver | None = None
        self._destinations: Collection[exemptions.Destination] = ()
        self._askers: set[str] = set()

    @property
    def plan(self) -> Plan:
        return self._started.plan

    async def start(self) -> None:
        """Take a range, write the firewall, forward packets and DNS.

        Slots of an earlier node stay as they are, until `adopt` or `sweep` decides about them.
        """
        machine = Machine(self.settings, self._tell)
        self._machine = machine
        try:
            await self._do(machine.begin, self._resolvers.addresses())
            await self._listen()
        except BaseException:
            await self._end(machine.undo if not machine.found else machine.leave)
            raise

    async def stop(self) -> None:
        """Remove every slot and undo what was changed on the machine."""
        await self._end(self._started.undo)

    async def leave(self) -> None:
        """Let go without undoing anything: the slots go on without DNS until a successor starts."""
        await self._end(self._started.leave)

    async def slot(self, sandbox: SandboxId) -> Slot:
        """Return a new slot for `sandbox`, closed; raises ResourceExhaustedError if the range is full."""
        kernel = self._started.kernel
        for _ in range(_TRIES):
            index = self._take_index()
            making = self._thread.submit(kernel.make_slot, self.plan, index, sandbox, self._mtu)
            try:
                namespace = await self._result(making, index)
            except OSError as exc:
                if exc.errno != errno.EEXIST:
                    self._free.append(index)
                    raise
                continue  # a device of this name is there already; the sweep will deal with it
            slot = Slot(self, sandbox=sandbox, index=index, mtu=self._mtu, namespace=namespace)
            self._slots[index] = slot
            return slot
        raise ConflictError(
            f"cannot make a slot for {sandbox}: devices named {self.plan.prefix}<number> exist already; see: ip link"
        )

    async def adopt(self, sandbox: SandboxId) -> Slot | None:
        """Return the slot that an earlier node made for `sandbox`, as open as it was, or None if there is none."""
        found = self._started.found.pop(sandbox, None)
        if found is None:
            return None
        slot = Slot(self, sandbox=sandbox, index=found.index, mtu=self._mtu, namespace=None)
        slot.is_open, slot.exemptions = found.open, self._started.own_exemptions.get(found.index, frozenset())
        self._slots[found.index] = slot
        if found.open:
            self._askers.add(str(slot.address))
        return slot

    async def sweep(self, keep: Collection[SandboxId] = ()) -> Sequence[str]:
        """Remove the slots that belong neither to a sandbox in `keep` nor to one of this node; a line for each."""
        kept = {*keep, *(slot.sandbox for slot in self._slots.values())}
        gone = await self._do(self._started.kernel.sweep, self.plan, kept)
        await self._do(self._started.others.settle)
        for found in gone:
            self._started.found.pop(found.sandbox, None)
            self._free.append(found.index)
            self._tell("network.swept", sandbox=found.sandbox, device=self.plan.device(found.index))
        return [f"network slot {self.plan.device(found.index)} of {found.sandbox or 'nobody'}" for found in gone]

    # What slots ask for

    async def exemptions_of(self, access: HostAccess) -> frozenset[Exemption]:
        """Return the exemptions for the indexes and proxies that a caller's machine uses."""
        assert self._names is not None
        destinations = exemptions.destinations_of_environment(access.env)
        return await self._names.exemptions(destinations, fresh=False, within=_OWN_EXEMPTIONS_S)

    async def packet_socket(self, namespace: int) -> int:
        opening = self._thread.submit(self._started.kernel.packet_socket, namespace)
        try:
            return await asyncio.shield(asyncio.wrap_future(opening))
        except asyncio.CancelledError:
            opening.add_done_callback(lambda done: os.close(done.result()))
            raise

    async def open_slot(self, slot: Slot, exemptions: frozenset[Exemption]) -> None:
        self._require(slot)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._exemptions_awaited_until):
                await self._exemptions_known.wait()
        slot.exemptions |= exemptions
        slot.is_open = True
        self._askers.add(str(slot.address))
        await self._do(self._started.open_slot, slot.index, slot.sandbox, exemptions, len(self._askers))

    async def close_slot(self, slot: Slot) -> None:
        self._require(slot)
        self._askers.discard(str(slot.address))
        await self._do(self._started.kernel.close_slot, self.plan, slot.index, slot.sandbox, slot.exemptions)
        slot.is_open, slot.exemptions = False, frozenset()

    async def release_slot(self, slot: Slot) -> None:
        if self._slots.get(slot.index) is not slot:
            return
        if slot.index not in self._releases:
            self._releases[slot.index] = asyncio.get_running_loop().create_task(self._release(slot))
        await asyncio.shield(self._releases[slot.index])

    def local_names(self) -> Mapping[str, IPv4Address]:
        """Return the indexes and proxies that only this machine's /etc/hosts knows, which DNS would not find."""
        named = exemptions.addresses_in_hosts(self.settings.hosts_file)
        return {each.host: named[each.host] for each in self._destinations if each.host in named}

    # The inside

    async def _release(self, slot: Slot) -> None:
        try:
            await self.close_slot(slot)
            # Before the device is deleted: with the sandbox gone, the kernel may be quicker in removing the namespace.
            slot.drop_namespace()
            await asyncio.wrap_future(self._remover.submit(delete_device, slot.device))
            self._free.append(slot.index)
        finally:
            # Also when it failed: the sweep then finds a slot of nobody and tries again.
            del self._slots[slot.index]
            del self._releases[slot.index]

    @property
    def _started(self) -> Machine:
        if self._machine is None:
            raise ConflictError("the node's network is not started, or has ended; start it first")
        return self._machine

    def _require(self, slot: Slot) -> None:
        if self._slots.get(slot.index) is not slot:
            raise ConflictError(f"the network slot of {slot.sandbox} was released; make a new one")

    def _take_index(self) -> int:
        if not self._free:
            raise ResourceExhaustedError(
                f"all {len(self._slots)} network slots of {self.plan.network} are in use; end sandboxes, or name a "
                "larger range"
            )
        return self._free.popleft()

    async def _listen(self) -> None:
        machine = self._started
        plan = machine.plan
        self._mtu = machine.mtu
        in_use = {found.index for found in machine.found.values()}
        self._free = deque(index for index in plan.indexes if index not in in_use)
        self._names = exemptions.Resolver(never=(plan.network,))
        self._destinations = self.settings.destinations()
        self._forwarder = Forwarder(
            str(plan.gateway), resolvers=self._resolvers, knows=self._askers.__contains__, port=self.settings.dns_port
        )
        await self._forwarder.start()
        self._watches = [RouteWatch(self._changed.set), ChainWatch(self._chains_changed.set)]
        loop = asyncio.get_running_loop()
        self._exemptions_awaited_until = loop.time() + _FIRST_EXEMPTIONS_S
        following = (self._follow_routes(), self._follow_names(), self._follow_firewalls())
        self._keepers = [loop.create_task(each) for each in following]

    async def _follow_routes(self) -> None:
        """Follow which networks the machine is connected to."""
        while True:
            self._changed.clear()
            try:
                await self._do(self._started.follow_routes)
            except (Error, OSError) as exc:
                self._tell("network.refresh_failed", what="connected networks", error=str(exc))
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._changed.wait()

    async def _follow_firewalls(self) -> None:
        """Follow what other firewalls drop: their reload takes our accepts away, and they may come and go."""
        loop = asyncio.get_running_loop()
        while True:
            self._chains_changed.clear()
            began = loop.time()
            try:
                await self._do(self._started.others.settle)
            except (Error, OSError) as exc:
                self._tell("network.refresh_failed", what="other firewalls", error=str(exc))
            await asyncio.sleep(_REST_S + _REST_PER_LOOK * (loop.time() - began))
            every_s = _LOOK_AT_SILENT_EVERY_S if self._started.others.silent else _LOOK_EVERY_S
            with suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await self._chains_changed.wait()
            await asyncio.sleep(_REST_S)

    async def _follow_names(self) -> None:
        """Follow where the names of the exemptions lead: let through what they lead to now and led to in the last
        round, so that no download is cut."""
        assert self._names is not None
        before = frozenset[Exemption]()
        while True:
            now = await self._names.exemptions(self._destinations, fresh=True)
            try:
                await self._do(self._started.replace_exemptions, now | before)
            except (Error, OSError) as exc:
                self._tell("network.refresh_failed", what="exemptions", error=str(exc))
            before = now
            self._exemptions_known.set()
            await asyncio.sleep(_EXEMPTIONS_EVERY_S)

    async def _result(self, making: Future[int], index: int) -> int:
        """Return the namespace that is being made; if the caller gives up, it is removed when it is there."""
        try:
            return await asyncio.shield(asyncio.wrap_future(making))
        except asyncio.CancelledError:
            loop = asyncio.get_running_loop()
            making.add_done_callback(lambda done: self._discard(done, index, loop))
            raise

    def _discard(self, made: Future[int], index: int, loop: asyncio.AbstractEventLoop) -> None:
        """Remove a slot that nobody wants any more; in the network's thread, where the callback runs."""
        if not made.cancelled() and made.exception() is None:
            os.close(made.result())
            with suppress(OSError, Error):
                self._started.kernel.remove_slot(self.plan, index)
        with suppress(RuntimeError):  # the loop has ended, and the network with it
            loop.call_soon_threadsafe(self._free.append, index)

    async def _do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in the network's thread; it is carried through even if the caller gives up."""
        future = self._thread.submit(work, *args, **kwargs)
        return await asyncio.shield(asyncio.wrap_future(future))

    async def _end(self, ending: Callable[[], None]) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, *self._releases.values(), return_exceptions=True)
        for watch in self._watches:
            watch.close()
        if self._forwarder is not None:
            await self._forwarder.stop()
        self._keepers, self._watches, self._forwarder = [], [], None
        try:
            await self._do(ending)
        finally:
            for slot in self._slots.values():
                slot.drop_namespace()
            self._slots.clear()
            self._askers.clear()
            self._machine = None
            self._thread.shutdown(wait=False)
            self._remover.shutdown(wait=False)
