"""The rules that confine sandboxes, as text for nftables. Pure: `kernel.py` carries them out.

Every rule has a comment that names it; the tests take rules away by that name. The order of hooks: `guard` stands
before defragmentation and connection tracking, so a packet that is refused costs no memory. It sees the address that a
guest wrote; a rule of the machine (REDIRECT, DNAT) may put another in its place afterwards, so such connections are
refused where packets are forwarded and delivered, except to an exemption (a proxy that a container publishes is one).
The forwarder's DNS is not tracked and so never redirected.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from skerry.model import limits
from skerry.node.network.plan import Plan

# What is not the public internet, after the IANA registry of special-purpose addresses (RFC 6890 and its updates).
UNREACHABLE: Mapping[str, str] = {
    "0.0.0.0/8": "this network",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "shared with a provider",
    "127.0.0.0/8": "loopback",
    "168.63.129.16": "Azure's platform service",
    "169.254.0.0/16": "link-local, cloud metadata",
    "172.16.0.0/12": "private",
    "192.0.0.0/24": "protocol assignments",
    "192.0.2.0/24": "documentation",
    "192.88.99.0/24": "former 6to4 relays",
    "192.168.0.0/16": "private",
    "198.18.0.0/15": "benchmarks",
    "198.51.100.0/24": "documentation",
    "203.0.113.0/24": "documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved, broadcast",
}

NEW_CONNECTIONS_PER_S = 256
NEW_CONNECTIONS_BURST = 1024
# A query costs the node some 0.1 ms of its one thread: at this rate, 1% of a core for each sandbox that floods it.
DNS_PACKETS_PER_S = 100
DNS_PACKETS_BURST = 400
# Closed connections leave the count at once but stay in the kernel's table: 120 s by default, which at full rate would
# be 30,000 entries for one sandbox.
TIME_WAIT_S = 10
CLOSE_S = 5
# What a sandbox can hold of the kernel's table: open connections, a burst of closed ones, and the rate times its stay.
ENTRIES_MAX = limits.CONNECTIONS_MAX + NEW_CONNECTIONS_BURST + NEW_CONNECTIONS_PER_S * TIME_WAIT_S
_SLOTS_MAX = 65536


@dataclass(frozen=True, order=True)
class Exemption:
    """An address and port that sandboxes may reach although the address is not public."""

    address: IPv4Address
    protocol: str
    port: int


@dataclass(frozen=True)
class Standing:
    """What the table holds when it is written anew: open slots, exemptions, neighbours, devices kept apart."""

    open: Sequence[int] = ()
    exemptions: Sequence[Exemption] = ()
    own_exemptions: Mapping[int, Collection[Exemption]] = field(default_factory=dict)
    connected: Sequence[IPv4Network] = ()
    apart: Sequence[str] = ()
    connections: int = limits.CONNECTIONS_MAX
    brief_timeouts: bool = True


def ruleset(plan: Plan, standing: Standing) -> str:
    """Return the commands that replace the whole table in one transaction: no packet sees it half made."""
    return f"""
add table inet {plan.table}
delete table inet {plan.table}
table inet {plan.table} {{
{_sets(plan, standing)}
{_timeouts(standing)}
{_guard(plan)}
{_tracked(standing)}
{_hooks(plan)}
}}
"""


def _sets(plan: Plan, standing: Standing) -> str:
    members = [_member(plan, index) for index in standing.open]
    marks = [_mark(plan, index) for index in standing.open]
    own = [
        _own_exemption(plan, index, exemption)
        for index in standing.open
        for exemption in standing.own_exemptions.get(index, ())
    ]
    return f"""
  set unreachable {{ type ipv4_addr; flags interval; {_elements(UNREACHABLE)} }}
  set connected {{ type ipv4_addr; flags interval; auto-merge; {_elements(map(str, standing.connected))} }}
  set exemptions {{ type ipv4_addr . inet_proto . inet_service; {_elements(map(_exemption, standing.exemptions))} }}
  set own_exemptions {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; {_elements(own)} }}
  set members {{ type ifname . ether_addr . ipv4_addr; {_elements(members)} }}
  map marks {{ type ipv4_addr : mark; {_elements(marks)} }}
  set apart {{ type ifname; {_elements(f'"{name}"' for name in standing.apart)} }}
  set queries {{ type ipv4_addr; size {_SLOTS_MAX}; flags dynamic; }}
  set openings {{ type ipv4_addr; size {_SLOTS_MAX}; flags dynamic; }}
  set flows {{ type ipv4_addr; size {_SLOTS_MAX}; flags dynamic; }}"""


def _timeouts(standing: Standing) -> str:
    if not standing.brief_timeouts:
        return ""
    return f"""
  ct timeout brief {{
    protocol tcp; l3proto ip; policy = {{ time_wait : {TIME_WAIT_S}, close : {CLOSE_S} }};
  }}"""


def _guard(plan: Plan) -> str:
    dns = f"ip daddr {plan.gateway} meta l4proto {{ tcp, udp }} th dport 53"
    rate = f"limit rate over {DNS_PACKETS_PER_S}/second burst {DNS_PACKETS_BURST} packets"
    return f"""
  chain from_slot {{
    meta nfproto != ipv4 drop comment "ipv6"
    iifname . ether saddr . ip saddr != @members drop comment "source"
    ip frag-off & 0x3fff != 0 drop comment "fragment"
    ip hdrlength != 5 drop comment "ip options"
    {dns} add @queries {{ ip saddr {rate} }} drop comment "query rate"
    {dns} notrack accept comment "dns"
    meta l4proto != {{ icmp, tcp, udp }} drop comment "protocol"
    ip daddr . meta l4proto . th dport @exemptions accept comment "exemptions"
    ip saddr . ip daddr . meta l4proto . th dport @own_exemptions accept comment "own exemptions"
    fib daddr type != unicast drop comment "this machine"
    ip daddr @unreachable drop comment "not public"
    ip daddr @connected drop comment "connected"
  }}
  chain guard {{
    type filter hook prerouting priority -450; policy accept;
    iifgroup {plan.group} goto from_slot
    ip saddr {plan.network} drop comment "posing as a sandbox"
    ip daddr {plan.gateway} drop comment "dns from elsewhere"
  }}"""


def _tracked(standing: Standing) -> str:
    rate = f"limit rate over {NEW_CONNECTIONS_PER_S}/second burst {NEW_CONNECTIONS_BURST} packets"
    brief = 'meta l4proto tcp ct timeout set "brief"' if standing.brief_timeouts else ""
    asked = "ct original ip daddr . meta l4proto . ct original proto-dst"
    # A connection is counted once: `ct state new` alone would also match each further packet of an unanswered one.
    return f"""
  chain leaving {{
    ct state invalid drop comment "invalid"
    ct status dnat jump redirected
    ct state new ct mark 0 goto opening
  }}
  chain redirected {{
    meta l4proto tcp {asked} @exemptions return comment "redirected exemptions"
    meta l4proto tcp ct original ip saddr . {asked} @own_exemptions return
    drop comment "redirected"
  }}
  chain opening {{
    add @openings {{ ip saddr {rate} }} drop comment "connection rate"
    add @flows {{ ip saddr ct count over {standing.connections} }} drop comment "connection count"
    {brief}
    ct mark set ip saddr map @marks
  }}
  chain entering {{
    ct state established,related accept
    drop comment "only answers enter"
  }}"""


def _hooks(plan: Plan) -> str:
    group = plan.group
    return f"""
  chain forward {{
    type filter hook forward priority -10; policy accept;
    iifgroup {group} jump leaving
    oifgroup {group} goto entering
    iifname @apart oifname @apart drop comment "not a router before"
  }}
  chain input {{
    type filter hook input priority -10; policy accept;
    iifgroup {group} jump leaving
  }}
  chain untracked {{
    type filter hook output priority -310; policy accept;
    oifgroup {group} ip saddr {plan.gateway} th sport 53 notrack
  }}
  chain output {{
    type filter hook output priority -10; policy accept;
    oifgroup {group} ct state new drop comment "the machine opens nothing"
  }}
  chain nat {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {plan.network} oifgroup != {group} masquerade
  }}"""


def open_slot(plan: Plan, index: int, exemptions: Iterable[Exemption] = ()) -> str:
    """Return the commands that let a slot's packets through. May be repeated, with further exemptions."""
    own = [_own_exemption(plan, index, exemption) for exemption in exemptions]
    lines = [_element("add", plan, "members", [_member(plan, index)])]
    lines += [_element("add", plan, "marks", [_mark(plan, index)])]
    lines += [_element("add", plan, "own_exemptions", own)] if own else []
    return "\n".join(lines)


def close_slot(plan: Plan, index: int, exemptions: Iterable[Exemption] = ()) -> str:
    """Return the commands that let nothing of a slot through, and forget what was counted for it.

    Each element is added before it is deleted, because older versions of nftables cannot delete what may be missing.
    """
    address = str(plan.address(index))
    own = [_own_exemption(plan, index, exemption) for exemption in exemptions]
    gone = {"members": [_member(plan, index)], "marks": [_mark(plan, index)]}
    gone |= {"own_exemptions": own} if own else {}
    gone |= {name: [address] for name in ("queries", "openings", "flows")}
    return "\n".join(_element(verb, plan, name, gone[name]) for name in gone for verb in ("add", "delete"))


def replace_exemptions(plan: Plan, exemptions: Iterable[Exemption]) -> str:
    return _refill(plan, "exemptions", [_exemption(exemption) for exemption in exemptions])


def replace_connected(plan: Plan, networks: Iterable[IPv4Network]) -> str:
    return _refill(plan, "connected", [str(network) for network in networks])


def remove(plan: Plan) -> str:
    return f"add table inet {plan.table}\ndelete table inet {plan.table}"


def _refill(plan: Plan, name: str, elements: Sequence[str]) -> str:
    lines = [f"flush set inet {plan.table} {name}"]
    lines += [_element("add", plan, name, elements)] if elements else []
    return "\n".join(lines)


def _element(verb: str, plan: Plan, name: str, elements: Sequence[str]) -> str:
    return f"{verb} element inet {plan.table} {name} {{ {', '.join(elements)} }}"


def _elements(items: Iterable[str]) -> str:
    joined = ", ".join(items)
    return f"elements = {{ {joined} }};" if joined else ""


def _member(plan: Plan, index: int) -> str:
    return f'"{plan.device(index)}" . {plan.mac(index)} . {plan.address(index)}'


def _mark(plan: Plan, index: int) -> str:
    return f"{plan.address(index)} : {plan.mark(index):#x}"


def _exemption(exemption: Exemption) -> str:
    return f"{exemption.address} . {exemption.protocol} . {exemption.port}"


def _own_exemption(plan: Plan, index: int, exemption: Exemption) -> str:
    return f"{plan.address(index)} . {_exemption(exemption)}"
