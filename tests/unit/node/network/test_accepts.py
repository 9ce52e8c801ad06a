from __future__ import annotations

from ipaddress import IPv4Network

from skerry.node.network.accepts import FilterTable, accepts, changes
from skerry.node.network.plan import Plan

PLAN = Plan("sk", IPv4Network("10.213.0.0/16"))
OPEN = "-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n"
STRICT = OPEN.replace("FORWARD ACCEPT", "FORWARD DROP")


def test_a_table_that_drops_nothing_is_left_alone() -> None:
    assert changes(FilterTable(OPEN), PLAN.table, accepts(PLAN)) == []


def test_an_accept_stands_behind_the_owners_rules_and_before_what_drops_the_rest() -> None:
    listing = OPEN + "-A FORWARD -d 1.2.3.4/32 -j DROP\n-A FORWARD -j REJECT --reject-with icmp-port-unreachable\n"
    lines = changes(FilterTable(listing), PLAN.table, accepts(PLAN))
    assert [line.split(" -")[0] for line in lines] == ["-I FORWARD 2", "-I FORWARD 3"]


def test_an_accept_names_devices_range_and_the_mark_of_our_own_table() -> None:
    leaving, _ = changes(FilterTable(STRICT), PLAN.table, accepts(PLAN))
    mark = f"{PLAN.mark(0):#x}/0xffff0000"
    assert leaving.startswith(f"-I FORWARD 1 -s 10.213.0.0/16 -i sk+ -m connmark --mark {mark} -m comment")
    assert all("-s 10.213.0.0/16 -i sk+" in a.rule or "-d 10.213.0.0/16 -o sk+" in a.rule for a in accepts(PLAN))
    untracked = [accept for accept in accepts(PLAN) if mark not in accept.rule]
    assert all(f" {PLAN.gateway}/32 " in accept.rule and "port 53 " in accept.rule for accept in untracked)


def test_what_stands_right_is_not_touched_and_what_stands_wrong_is_put_right() -> None:
    ours = [accept.rule for accept in accepts(PLAN) if accept.hook == "FORWARD"]
    right = STRICT + "-A FORWARD -j DOCKER-USER\n" + "".join(f"-A FORWARD {rule}\n" for rule in ours)
    assert changes(FilterTable(right), PLAN.table, accepts(PLAN)) == []
    wrong = right + "-A FORWARD -s 9.9.9.9/32 -j DROP\n"
    lines = changes(FilterTable(wrong), PLAN.table, accepts(PLAN))
    assert [line.split(" -")[0] for line in lines] == ["-D FORWARD", "-D FORWARD", "-I FORWARD 3", "-I FORWARD 4"]


def test_accepts_that_are_no_longer_needed_or_have_another_range_go() -> None:
    old = Plan("sk", IPv4Network("10.151.0.0/16"))
    rules = [f"-A FORWARD {accept.rule}" for accept in accepts(old) if accept.hook == "FORWARD"]
    gone = [rule.replace("-A", "-D", 1) for rule in rules]
    assert changes(FilterTable(OPEN + "\n".join(rules)), PLAN.table, accepts(PLAN)) == gone
    assert changes(FilterTable(STRICT + "\n".join(rules)), PLAN.table, accepts(PLAN))[:2] == gone


def test_accepts_of_another_node_are_left_alone() -> None:
    other = Plan("sku", IPv4Network("10.151.0.0/16"))
    rules = [f"-A FORWARD {accept.rule}" for accept in accepts(other) if accept.hook == "FORWARD"]
    assert changes(FilterTable(OPEN + "\n".join(rules)), PLAN.table, ()) == []
