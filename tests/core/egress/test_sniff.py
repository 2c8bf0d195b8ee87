import ssl
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_safety_layer.egress.sniff import LIMIT, Sniffer


def client_hello(name: str | None) -> bytes:
    """What Python's ssl sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def in_records(hello: bytes, size: int) -> bytes:
    """The same handshake message, cut into records of *size*."""
    body = hello[5:]
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"\x16\x03\x01" + struct.pack("!H", len(part)) + part for part in parts)


def sniff(data: bytes, step: int = 0) -> tuple[list[str], Sniffer]:
    sniffer = Sniffer()
    names: list[str] = []
    for at in range(0, len(data), step or len(data)):
        names += sniffer.feed(data[at : at + (step or len(data))])
    return names, sniffer


@given(st.integers(1, 600), st.integers(1, 600))
def test_the_server_name_is_found_however_it_is_cut(record: int, step: int) -> None:
    names, sniffer = sniff(in_records(client_hello("API.Example.com"), record), step)
    assert names == ["api.example.com"]
    assert (sniffer.done, sniffer.fault, sniffer.protocol) == (True, "", "TLS")


def test_the_name_is_known_before_the_last_byte_of_the_hello_is_out() -> None:
    hello = client_hello("a.test")
    sniffer = Sniffer()
    assert sniffer.feed(hello[:-1]) == ()
    assert not sniffer.done
    assert sniffer.feed(hello[-1:]) == ("a.test",)


def test_tls_without_a_name_is_a_fault() -> None:
    names, sniffer = sniff(client_hello(None))
    assert names == []
    assert sniffer.fault == "TLS without a server name"


def test_two_server_names_are_both_found() -> None:
    hello = bytearray(client_hello("a.test"))
    entry = b"\0\0\x06a.test"
    at = hello.index(entry)
    evil = entry.replace(b"a.test", b"b.test")
    hello[at + len(entry) : at + len(entry)] = evil
    for where, width in ((3, 2), (6, 3)):  # record, handshake
        hello[where : where + width] = (int.from_bytes(hello[where : where + width], "big") + len(evil)).to_bytes(
            width, "big"
        )
    for back in (2, 4):  # list, extension
        grown = int.from_bytes(hello[at - back : at - back + 2], "big") + len(evil)
        hello[at - back : at - back + 2] = grown.to_bytes(2, "big")
    extensions = 5 + 4 + 34 + 1 + 32
    extensions += 2 + int.from_bytes(hello[extensions : extensions + 2], "big")
    extensions += 1 + hello[extensions]
    hello[extensions : extensions + 2] = (len(hello) - extensions - 2).to_bytes(2, "big")
    names, sniffer = sniff(bytes(hello))
    assert (names, sniffer.fault) == (["a.test", "b.test"], "")


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\xff\xff" + bytes(40),
        b"\x17\x03\x03\x00\x05hello",
        b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00",
        b"\x16\x03\x01\x00\x08\x01\x00\x00\x04\x03\x03\x00\x00",
        b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10",
    ],
)
def test_tls_that_hides_its_name_is_a_fault(data: bytes) -> None:
    _, sniffer = sniff(data)
    assert sniffer.done
    assert sniffer.fault


@pytest.mark.parametrize(
    ("head", "names"),
    [
        (b"GET / HTTP/1.1\r\nHost: A.test\r\n\r\n", ["a.test"]),
        (b"GET / HTTP/1.1\r\nX: 1\r\nhost:a.test:8080\r\n\r\n", ["a.test"]),
        (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n", ["a.test"]),
        (b"GET / HTTP/1.1\nHost: a.test.\n\n", ["a.test"]),
        (b"GET\t/ HTTP/1.1\r\nHost: a.test\r\n\r\n", ["a.test"]),
        (b"FROB / HTTP/1.1\r\nHost: a.test\r\n\r\n", ["a.test"]),
        (b"get / http/1.1\r\nHost: a.test\r\n\r\n", ["a.test"]),
        (b"GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n", ["a.test", "b.test"]),
        (b"GET / HTTP/1.1\r\nHost:\r\n b.test\r\n\r\n", ["b.test"]),
        (b"GET / HTTP/1.1\r\n Host: b.test\r\n\r\n", ["b.test"]),
        (b"GET / HTTP/1.1\r\nHost : b.test\r\n\r\n", ["b.test"]),
        (b"GET / HTTP/1.1\r\nX: 1\rHost: b.test\r\n\r\n", ["b.test"]),
        (b"GET / HTTP/1.1\r\r\nHost: b.test\r\n\r\n", ["b.test"]),
        (b"GET http://u:p@b.test:80/x?y HTTP/1.1\r\nHost: a.test\r\n\r\n", ["b.test", "a.test"]),
        (b"CONNECT b.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n", ["b.test", "a.test"]),
        (b"GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n", ["2001:db8::1"]),
        (b"GET / HTTP/1.0\r\n\r\n", []),
    ],
)
@pytest.mark.parametrize("step", [0, 1, 7])
def test_http_names(head: bytes, names: list[str], step: int) -> None:
    found, sniffer = sniff(head, step)
    assert found == names
    assert (sniffer.done, sniffer.fault, sniffer.protocol) == (False, "", "HTTP")


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 30\r\n\r\n" + b"GET / HTTP/1.1\nHost: c.test\n\n\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: a.test\r\n\r\n%b"
        % b"5;x=y\r\nHost:\r\n1d\r\nGET / HTTP/1.1\nHost: c.test\n\n\r\n0\r\nHost: c.test\r\n\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc",
        b"CONNECT a.test:80 HTTP/1.1\r\n\r\n",
    ],
)
@pytest.mark.parametrize("step", [0, 1, 7])
def test_a_later_request_names_its_host_as_well(first: bytes, step: int) -> None:
    found, sniffer = sniff(first + b"GET / HTTP/1.1\r\nHost: b.test\r\n\r\n", step)
    assert found == ["a.test", "b.test"]
    assert not sniffer.fault


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize(
    "data",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: h2c\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length : 3\r\n\r\n",
        b"POST / HTTP/1.1\r\nX: 1\rContent-Length: 3\r\n\r\n",
        b"POST / HTTP/1.1\r\n Content-Length: 3\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding:\r\n chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\nabc\r\n",
        b"GET / HTTP/1.1\r\n\r\nnoise\r\n\r\n",
    ],
)
def test_what_cannot_be_followed_is_a_fault(data: bytes, step: int) -> None:
    assert sniff(data, step)[1].fault


@pytest.mark.parametrize("opening", [b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\n\r\n"])
def test_behind_an_upgrade_or_a_tunnel_anything_may_come(opening: bytes) -> None:
    _, sniffer = sniff(opening + b"\x81\x85abcdhello")
    assert not sniffer.fault
    names, sniffer = sniff(opening + client_hello("b.test"))
    assert names[-1] == "b.test"


@pytest.mark.parametrize(
    "data", [b"SSH-2.0-x\r\n", b"EHLO me\r\n", b"PING\r\n", b"\0\0\0\x08\x04\xd2\x16\x2f", b"\x10\x0c\0\4MQTT"]
)
def test_other_protocols_are_let_go_at_once(data: bytes) -> None:
    names, sniffer = sniff(data)
    assert (names, sniffer.done, sniffer.fault, sniffer.protocol) == ([], True, "", "")


def test_openings_without_end_are_a_fault() -> None:
    for opening in (b"a" * 100, b"GET / HTTP/1.1\r\n" + b"X: 1\r\n" * 16):
        sniffer = Sniffer()
        fed = 0
        while not sniffer.done:
            sniffer.feed(opening)
            fed += len(opening)
        assert sniffer.fault
        assert fed <= LIMIT + len(opening)


@given(st.lists(st.binary(min_size=1, max_size=80), max_size=20))
def test_noise_never_raises(pieces: list[bytes]) -> None:
    sniffer = Sniffer()
    for piece in pieces:
        sniffer.feed(piece)


@given(st.binary(max_size=300))
def test_damaged_hellos_never_raise(noise: bytes) -> None:
    hello = client_hello("a.test")
    sniff(hello[:40] + noise + hello[40 + len(noise) :])
    sniff(b"\x16\x03\x01" + struct.pack("!H", len(noise) + 4) + b"\x01" + len(noise).to_bytes(3, "big") + noise)


@given(st.text(max_size=40).filter(lambda t: not set(t) & set("\r\n")), st.integers(1, 9))
def test_where_pieces_are_cut_makes_no_difference(value: str, step: int) -> None:
    head = f"GET / HTTP/1.1\r\nHost: a.test\r\nX: {value}\r\n\r\n".encode()
    assert sniff(head, step)[0] == sniff(head)[0]
