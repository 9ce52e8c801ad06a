"""The other firewalls of a machine: what a node has to have accepted in them, and which it can only tell of. Blocking,
for one thread."""

from __future__ import annotations

from skerry.model.errors import InternalError
from skerry.node.network.accepts import HOOKS, FilterTable, accepts, changes
from skerry.node.network.iptables import KINDS, Iptables, has_legacy_filter
from skerry.node.network.kernel import Kernel
from skerry.node.network.nftables import Nftables, has_filter_of_iptables, strict_chains
from skerry.node.network.plan import Plan
from skerry.node.network.settings import Tell

_NFT_FILTER = "ip filter"
_REASON = "it drops what it does not know, and a drop is final: sandboxes may have no network"


class OtherFirewalls:
    """The accepts of one node in the filter tables of others."""

    def __init__(self, kernel: Kernel, plan: Plan, tell: Tell) -> None:
        self._kernel = kernel
        self._plan = plan
        self._tell = tell
        self._told: set[str] = set()
        self._helped: set[str] = set()

    @property
    def silent(self) -> bool:
        """Tell whether one of them changes without telling."""
        return has_legacy_filter()

    def settle(self) -> None:
        """Put accepts where they are needed, away where they are not, and tell of chains that cannot be helped."""
        failed = self._change(present=True)
        helpless = dict.fromkeys(set(self._kernel.strict_chains(self._plan)) - self._helped, _REASON)
        helpless |= {f"{_NFT_FILTER} {kind}": reason for kind, reason in failed.items()}
        for chain in sorted(helpless.keys() - self._told):
            self._tell("network.other_firewall", chain=chain, reason=helpless[chain])
        self._told = set(helpless)

    def remove(self) -> None:
        """Take every accept of this node out again."""
        for kind, reason in self._change(present=False).items():
            self._tell("network.accept_stays", firewall=f"iptables-{kind}", reason=reason)

    def _change(self, *, present: bool) -> dict[str, str]:
        """Return the kinds that could not be changed, with the reason."""
        failed = {}
        self._helped = set()
        for iptables in self._tables():
            try:
                table = iptables.filter()
                lines = changes(table, self._plan.table, accepts(self._plan) if present else ())
                if lines:
                    iptables.change(lines)
                    self._tell_change(iptables, table)
                if iptables.kind == "nft":
                    self._helped = {f"{_NFT_FILTER} {hook}" for hook in HOOKS if table.strict(hook)}
            except InternalError as exc:
                failed[iptables.kind] = str(exc)
        return failed

    def _tell_change(self, iptables: Iptables, before: FilterTable) -> None:
        was, now = before.accepted(self._plan.table), iptables.filter().accepted(self._plan.table)
        if set(was) - set(now):
            self._tell("network.accept_removed", firewall=iptables.name, chains=sorted(set(was) - set(now)))
        if now:
            self._tell("network.accept_added", firewall=iptables.name, chains=sorted(now))

    def _tables(self) -> list[Iptables]:
        return _tables(nft=self._kernel.has_filter_of_iptables())


def look_at_others() -> tuple[list[str], list[str]]:
    """Return the chains in which a node would have, or has, its sandboxes accepted, and those that it cannot change.
    Changes nothing."""
    nft = Nftables()
    helped, helpless = [], set(strict_chains(nft))
    for iptables in _tables(nft=has_filter_of_iptables(nft)):
        try:
            table = iptables.filter()
        except InternalError as exc:
            helpless.add(str(exc))
            continue
        strict = [hook for hook in HOOKS if table.strict(hook)]
        helped += [f"{iptables.name} {table.place(hook)[0]}" for hook in strict]
        helpless -= {f"{_NFT_FILTER} {hook}" for hook in strict} if iptables.kind == "nft" else set()
    nft.close()
    return helped, sorted(helpless)


def _tables(*, nft: bool) -> list[Iptables]:
    there = {"nft": nft, "legacy": has_legacy_filter()}
    return [Iptables(kind) for kind in KINDS if there[kind]]
