import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_safety_layer.egress import dns

label = st.from_regex(r"[a-z0-9_-]{1,20}", fullmatch=True)


def question(
    name: str, kind: int = dns.A, *, ident: int = 7, flags: int = 0x0100, edns: bool = False, klass: int = 1
) -> bytes:
    wire = b"".join(bytes([len(part)]) + part.encode("latin-1") for part in name.split(".") if part) + b"\0"
    opt = b"\0\0\x29\x04\xd0\0\0\0\0\0\0" if edns else b""
    return struct.pack("!6H", ident, flags, 1, 0, 0, int(edns)) + wire + struct.pack("!HH", kind, klass) + opt


@given(
    st.lists(label, min_size=1, max_size=5), st.integers(0, 65535), st.integers(0, 65535), st.booleans(), st.booleans()
)
def test_a_question_is_read_back(labels: list[str], kind: int, ident: int, recursion: bool, edns: bool) -> None:
    name = ".".join(labels)
    packet = question(name, kind, ident=ident, flags=0x0100 * recursion, edns=edns)
    query = dns.parse_query(packet)
    assert query is not None
    assert (query.id, query.name, query.type, query.recursion, query.extended) == (ident, name, kind, recursion, edns)
    answer = dns.reply(query, dns.NXDOMAIN)
    assert answer[:2] == packet[:2]
    assert query.question in answer
    assert dns.parse_query(answer) is None, "an answer is no question"


@given(st.binary(max_size=600))
def test_noise_never_raises(packet: bytes) -> None:
    query = dns.parse_query(packet)
    if query is not None:
        assert len(dns.reply(query, dns.SERVFAIL)) >= 12 + len(query.question)


@given(st.integers(0, 60), st.integers(0, 255))
def test_a_damaged_question_never_raises(at: int, byte: int) -> None:
    packet = bytearray(question("api.example.com", edns=True))
    packet[at % len(packet)] = byte
    dns.parse_query(bytes(packet))
    dns.parse_query(bytes(packet[:at]))


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        question("example.com")[:-1],
        question("example.com", flags=0x8100),
        question("example.com", flags=0x2800),
        question("example.com", klass=3),
        question("example.com")[:4] + b"\0\2" + question("example.com")[6:],
        question("example.com")[:12] + b"\xc0\x0c\0\1\0\1",
        question(".".join(["a" * 63] * 5)),
    ],
)
def test_what_is_no_ordinary_question_is_dropped(packet: bytes) -> None:
    assert dns.parse_query(packet) is None
    assert dns.parse_query(question("example.com")) is not None


def test_an_answer_on_the_wire() -> None:
    query = dns.parse_query(question("a.test", ident=0x1234))
    assert query
    answer = dns.reply(query, dns.NOERROR, (socket.inet_aton("198.18.1.0"),))
    assert answer.hex() == ("1234818000010001000000000161047465737400000100" + "01c00c000100010000003c0004c6120100")


def test_the_reason_is_told_to_those_who_can_read_it() -> None:
    extended, plain = dns.parse_query(question("a.test", edns=True)), dns.parse_query(question("a.test"))
    assert extended
    assert plain
    assert b"\0\x0f\0\x09\0\x0fnetwork" in dns.reply(extended, dns.NXDOMAIN, blocked="network")
    assert b"network" not in dns.reply(plain, dns.NXDOMAIN, blocked="network")


@given(st.lists(st.binary(max_size=300), max_size=6), st.integers(1, 50))
def test_frames_survive_any_cut(messages: list[bytes], step: int) -> None:
    stream = b"".join(map(dns.framed, messages))
    frames = dns.Frames()
    found = [m for at in range(0, len(stream), step) for m in frames.feed(stream[at : at + step])]
    assert found == messages
