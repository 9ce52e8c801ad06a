"""A node's hold on the network of its machine: what `start` takes and `stop` gives back. Blocking, for one thread."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from ipaddress import IPv4Address, IPv4Network

from skerry.model.errors import ConflictError
from skerry.node.network import ledger
from skerry.node.network.firewall import ENTRIES_MAX, Exemption, Standing
from skerry.node.network.kernel import FoundSlot, Kernel
from skerry.node.network.ledger import Ledger
from skerry.node.network.others import OtherFirewalls
from skerry.node.network.plan import CANDIDATES, Plan, choose_range, taken_networks
from skerry.node.network.ranges import RangeRecord
from skerry.node.network.settings import NetworkSettings, Tell

# The table of connections is enlarged for so many sandboxes at once, so that it is seldom touched.
_ENLARGE_SLOTS = 64


class Machine:
    """The range, table and kernel settings of one node."""

    kernel: Kernel
    plan: Plan
    others: OtherFirewalls
    mtu: int

    def __init__(self, settings: NetworkSettings, tell: Tell) -> None:
        self.found: dict[str, FoundSlot] = {}
        self.own_exemptions: dict[int, frozenset[Exemption]] = {}
        self._settings = settings
        self._tell = tell
        self._record = RangeRecord(settings.machine_folder, settings.prefix)
        self._connected: Sequence[IPv4Network] = ()
        self._conntrack_base: int | None = None
        self._conntrack_told = False

    def begin(self, resolvers: Collection[IPv4Address]) -> None:
        """Take everything. Slots of an earlier node are in `found` afterwards, and as open as they were."""
        self._record.hold()
        self.kernel = Kernel()
        with self._record.choosing():
            plan = self._choose(resolvers)
            self._record.write(plan.network)
            self._ledger = Ledger(
                self._settings.machine_folder, plan.table, alive=self.kernel.has_table, tell=self._tell
            )
            self.plan = plan
            self.others = OtherFirewalls(self.kernel, plan, self._tell)
            self._take_over()
        self.mtu = self.kernel.mtu()

    def _take_over(self) -> None:
        slots = self.kernel.slots(self.plan)
        self.found = {slot.sandbox: slot for slot in slots}
        self.own_exemptions = self.kernel.own_exemptions(self.plan)
        self._take([slot.index for slot in slots if slot.open])

    def _take(self, open_slots: Sequence[int]) -> None:
        devices = self.kernel.devices()
        self._connected = self.kernel.connected()
        # The table first: there is no moment at which packets are forwarded and nothing confines them.
        apart = self._ledger.devices_before(ledger.FORWARDING, "1", devices)
        standing = Standing(
            open=open_slots,
            own_exemptions=self.own_exemptions,
            connected=self._connected,
            apart=apart,
            connections=self._settings.connections_max,
        )
        written = self.kernel.take_range(self.plan, standing)
        self._tell("network.table_made", table=self.plan.table, range=str(self.plan.network))
        if not written.brief_timeouts:
            self._tell("network.no_timeouts", reason="this kernel lacks CONFIG_NF_CONNTRACK_TIMEOUT")
        self._ledger.need(ledger.FORWARDING, "1", devices)
        self.others.settle()

    def undo(self) -> None:
        """Give everything back and tell what was."""
        if not self._record.held:
            return
        if hasattr(self, "plan"):
            self.others.remove()
            self.kernel.drop_range(self.plan)
            self._tell("network.table_removed", table=self.plan.table, range=str(self.plan.network))
            self._ledger.leave()
            self._record.remove()
        elif self._record.read() is None:
            self._record.remove()  # nothing was taken, now or by an earlier node
        self.leave()

    def leave(self) -> None:
        """Let go of the machine without undoing anything."""
        if hasattr(self, "kernel"):
            self.kernel.close()
        self._record.close()

    def follow_routes(self) -> None:
        """Make the networks that this machine is connected to unreachable, as they are now."""
        connected = self.kernel.connected()
        if connected != self._connected:
            self.kernel.replace_connected(self.plan, connected)
            self._connected = connected

    def replace_exemptions(self, exemptions: Collection[Exemption]) -> None:
        self.kernel.replace_exemptions(self.plan, sorted(exemptions))

    def open_slot(self, index: int, sandbox: str, exemptions: Collection[Exemption], open_slots: int) -> None:
        self._make_room(open_slots)
        self.kernel.open_slot(self.plan, index, sandbox, exemptions)

    def _make_room(self, open_slots: int) -> None:
        """Let the table of connections hold what the sandboxes may, on top of what it held for the machine."""
        current = int(ledger.read(ledger.CONNTRACK_MAX))
        if self._conntrack_base is None:
            self._conntrack_base = int(self._ledger.old_value(ledger.CONNTRACK_MAX) or current)
        if current >= self._conntrack_base + open_slots * ENTRIES_MAX or self._conntrack_told:
            return
        steps = -(-open_slots // _ENLARGE_SLOTS)
        wanted = self._conntrack_base + steps * _ENLARGE_SLOTS * ENTRIES_MAX
        try:
            self._ledger.need(ledger.CONNTRACK_MAX, str(wanted))
        except OSError as exc:  # it belongs to the whole machine: a container may only read it
            self._conntrack_told = True
            self._tell("network.conntrack_small", value=current, wanted=wanted, reason=exc.strerror)

    def _choose(self, resolvers: Collection[IPv4Address]) -> Plan:
        prefix, wanted, before = self._settings.prefix, self._settings.wanted_range(), self._record.read()
        if before is not None and self.kernel.slots(Plan(prefix, before)):
            if wanted in (None, before):
                return Plan(prefix, before)  # sandboxes have addresses in it
            raise ConflictError(
                f"sandboxes of an earlier node have addresses in {before}, and the range is to be {wanted}; end them, "
                f"or start with the range {before}"
            )
        if before is not None:
            self.kernel.drop_range(Plan(prefix, before))
            self._record.clear()
        links = self.kernel.links
        taken = [*self._record.others(), *taken_networks(links.addresses(), links.routes(), resolvers)]
        return Plan(prefix, choose_range(taken, CANDIDATES if wanted is None else (wanted,)))
