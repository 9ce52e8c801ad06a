"""What is accepted for sandboxes in the filter tables of other firewalls, and where it stands in them. Pure.

A drop in any base chain is final, so a chain that drops what it does not know (Docker's and ufw's do) must be told of
the sandboxes. What is accepted is tied to the node's devices and range, and to the mark that the node's own table puts
on a connection which it lets through: where that table is gone, no new connection is accepted here.

An accept stands behind everything that the chain's owner has written, and before what drops the rest. So rules against
certain destinations go on to hold for sandboxes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from skerry.node.network.plan import Plan

HOOKS = ("INPUT", "FORWARD", "OUTPUT")
_MARK_OF_NODE = 0xFFFF0000  # the lower half is the slot's index
_FINAL = re.compile(r"-j (DROP|REJECT\b.*)")


@dataclass(frozen=True)
class Accept:
    """One accepted kind of packet: in which base chain, its name, and how iptables writes its condition."""

    hook: str
    name: str
    condition: str

    @property
    def rule(self) -> str:
        return f"{self.condition} -m comment --comment {self.name} -j ACCEPT"


def accepts(plan: Plan) -> list[Accept]:
    """Return all that is accepted for the sandboxes of a node."""
    mark = f"-m connmark --mark {plan.mark(0):#x}/{_MARK_OF_NODE:#x}"
    leaving = f"-s {plan.network} -i {plan.prefix}+"
    entering = f"-d {plan.network} -o {plan.prefix}+"
    # The forwarder's DNS is not tracked, so it has no mark.
    return [
        *(
            _accept(plan, "INPUT", f"query-{kind}", f"{leaving} -d {plan.gateway}/32 -p {kind} --dport 53")
            for kind in ("udp", "tcp")
        ),
        _accept(plan, "INPUT", "exempt", f"{leaving} {mark}"),
        _accept(plan, "FORWARD", "leaving", f"{leaving} {mark}"),
        _accept(plan, "FORWARD", "entering", f"{entering} {mark}"),
        *(
            _accept(plan, "OUTPUT", f"answer-{kind}", f"{entering} -s {plan.gateway}/32 -p {kind} --sport 53")
            for kind in ("udp", "tcp")
        ),
        _accept(plan, "OUTPUT", "exempt", f"{entering} {mark}"),
    ]


def _accept(plan: Plan, hook: str, name: str, condition: str) -> Accept:
    return Accept(hook, f"{plan.table}:{plan.network}:{name}", condition)


class FilterTable:
    """The filter table of one iptables, from what `iptables -S` shows of it."""

    def __init__(self, listing: str) -> None:
        self.policies: dict[str, str] = {}
        self.rules: dict[str, list[str]] = {}
        for line in listing.splitlines():
            verb, chain, rest = (*line.split(" ", 2), "", "")[:3]
            if verb in ("-P", "-N"):
                self.policies[chain] = rest
                self.rules.setdefault(chain, [])
            elif verb == "-A":
                self.rules.setdefault(chain, []).append(rest)

    def strict(self, hook: str) -> bool:
        """Tell whether a base chain drops what no rule of it accepts."""
        return self.policies.get(hook) == "DROP" or any(map(_FINAL.fullmatch, self.rules.get(hook, ())))

    def place(self, hook: str) -> tuple[str, int]:
        """Return the chain for an accept, and how many of its rules stand before it."""
        chain = self._chain(hook)
        rules = self.rules.get(chain, [])
        final = (position for position, rule in enumerate(rules) if _FINAL.fullmatch(rule))
        return chain, next(final, len(rules))

    def _chain(self, hook: str) -> str:
        """Return ufw's chain for the user's rules where ufw is at work: behind the base chain's jumps it would log each
        packet as blocked, and may have rejected it."""
        before, user = (f"ufw-{part}-{hook.lower()}" for part in ("before", "user"))
        in_use = f"-j {before}" in self.rules.get(hook, ()) and f"-j {user}" in self.rules.get(before, ())
        return user if in_use and user in self.rules else hook

    def without(self, owner: str) -> FilterTable:
        """Return the table as it would be without the accepts of one node."""
        bare = FilterTable("")
        bare.policies = dict(self.policies)
        bare.rules = {chain: [rule for rule in rules if not _named(rule, owner)] for chain, rules in self.rules.items()}
        return bare

    def accepted(self, owner: str) -> list[str]:
        """Return the chains in which accepts of a node stand."""
        return [chain for chain, rules in self.rules.items() if any(_named(rule, owner) for rule in rules)]


def changes(table: FilterTable, owner: str, wanted: Sequence[Accept]) -> list[str]:
    """Return the lines for `iptables-restore` that give a table the accepts it needs, and no others of this node."""
    bare = table.without(owner)
    lines = []
    placed = _placed(bare, wanted)
    for chain, rules in table.rules.items():
        position, due = placed.get(chain, (0, []))
        names = [*bare.rules[chain][:position], *(accept.name for accept in due), *bare.rules[chain][position:]]
        if [_named(rule, owner) or rule for rule in rules] == names:
            continue
        lines += [f"-D {chain} {rule}" for rule in rules if _named(rule, owner)]
        lines += [f"-I {chain} {position + number} {accept.rule}" for number, accept in enumerate(due, 1)]
    return lines


def _placed(bare: FilterTable, wanted: Sequence[Accept]) -> dict[str, tuple[int, list[Accept]]]:
    placed = {}
    for hook in HOOKS:
        due = [accept for accept in wanted if accept.hook == hook]
        if due and bare.strict(hook):
            chain, position = bare.place(hook)
            placed[chain] = (position, due)
    return placed


def _named(rule: str, owner: str) -> str:
    """Return the name of an accept of this node's, empty if the rule is none."""
    match = re.search(rf'--comment "?({re.escape(owner)}:[^" ]+)"? -j ACCEPT$', rule)
    return match[1] if match else ""
