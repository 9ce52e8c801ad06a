from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.node.network.dns import (
    QUERY_BYTES,
    Resolvers,
    Shares,
    belongs,
    failure,
    parse_resolvers,
    question_end,
    refusal,
)

QUERY = dns.message.make_query("example.test.", "A", use_edns=True).to_wire()
END = 12 + len("example.test.") + 1 + 4


def test_the_end_of_a_question_is_found_before_what_follows() -> None:
    assert question_end(QUERY) == END


@given(st.binary(max_size=600))
def test_no_datagram_breaks_the_parser(data: bytes) -> None:
    end = question_end(data)
    assert end is None or 12 < end <= len(data) <= QUERY_BYTES


@given(st.integers(0, len(QUERY) - 1), st.integers(0, 255))
def test_a_query_with_one_wrong_byte_is_refused_or_answered_in_kind(at: int, byte: int) -> None:
    changed = QUERY[:at] + bytes([byte]) + QUERY[at + 1 :]
    end = question_end(changed)
    if end is not None:
        assert failure(changed, end)[12:] == changed[12:end]


def test_a_failure_repeats_id_and_question() -> None:
    answer = dns.message.from_wire(failure(QUERY, END))
    asked = dns.message.from_wire(QUERY)
    assert (answer.id, answer.question, answer.rcode()) == (asked.id, asked.question, dns.rcode.SERVFAIL)


@pytest.mark.parametrize("kind", ["A", "AAAA", "MX", "TXT", "HTTPS", "CAA", "ANY", "TYPE65280"])
def test_questions_for_records_are_passed_on(kind: str) -> None:
    query = dns.message.make_query("example.test.", kind).to_wire()
    assert refusal(query, END) is None


@pytest.mark.parametrize("kind", ["IXFR", "AXFR", "TKEY", "TSIG", "MAILB"])
def test_a_transfer_and_other_requests_that_are_no_records_are_refused(kind: str) -> None:
    query = dns.message.make_query("example.test.", kind).to_wire()
    assert refusal(query, END) == dns.rcode.REFUSED


@pytest.mark.parametrize("family", ["CH", "HS", "ANY", "NONE"])
def test_other_classes_than_the_internets_are_refused(family: str) -> None:
    query = dns.message.make_query("version.bind.", "TXT", rdclass=family).to_wire()
    end = question_end(query)
    assert end is not None
    assert refusal(query, end) == dns.rcode.REFUSED


@pytest.mark.parametrize("opcode", range(1, 16))
def test_updates_notifications_and_other_operations_are_not_passed_on(opcode: int) -> None:
    query = bytearray(QUERY)
    query[2] = query[2] & ~0x78 | opcode << 3
    assert refusal(bytes(query), END) == dns.rcode.NOTIMP


def test_an_answer_may_spell_the_name_in_other_letters() -> None:
    answer = dns.message.make_response(dns.message.from_wire(QUERY)).to_wire().replace(b"example", b"EXAMPLE")
    assert belongs(answer, QUERY, END)
    assert not belongs(answer.replace(b"EXAMPLE", b"EXAMPLF"), QUERY, END)


@given(st.binary(max_size=60))
def test_no_answer_breaks_the_comparison(data: bytes) -> None:
    assert not belongs(data, QUERY, END) or data[12:END].lower() == QUERY[12:END].lower()


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("nameserver 10.0.0.53\nsearch corp\nnameserver 1.1.1.1\n", ["10.0.0.53", "1.1.1.1"]),
        ("nameserver fe80::1%eth0\n", ["fe80::1%eth0"]),
        ("# nameserver 1.1.1.1\nnameserver nonsense\nnameserver\n", ["127.0.0.1"]),
        ("", ["127.0.0.1"]),
        ("".join(f"nameserver 10.0.0.{number}\n" for number in range(1, 9)), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
    ],
)
def test_resolvers_are_those_of_resolv_conf(text: str, hosts: list[str]) -> None:
    assert parse_resolvers(text) == [(host, 53) for host in hosts]


def test_a_changed_resolv_conf_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    resolvers = Resolvers(file)
    assert resolvers() == [("127.0.0.1", 53)]
    file.write_text("nameserver 1.1.1.1\n")
    assert resolvers() == [("1.1.1.1", 53)]
    fresh = tmp_path / "new"
    fresh.write_text("nameserver 2.2.2.2\nnameserver ::1\n")
    os.replace(fresh, file)
    assert resolvers() == [("2.2.2.2", 53), ("::1", 53)]
    assert [str(address) for address in resolvers.addresses()] == ["2.2.2.2"]


def test_a_share_is_bounded_for_each_and_for_all() -> None:
    shares = Shares(each=2, total=3)
    with ExitStack() as stack:
        granted = [stack.enter_context(shares.one(owner)) for owner in "aaabc"]
    assert granted == [True, True, False, True, False]
    with shares.one("c") as again:
        assert again
