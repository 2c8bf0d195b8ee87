import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_safety_layer.egress import protocol as p

text = st.text(max_size=60).filter(lambda t: "\0" not in t and t.isprintable())
number = st.integers(0, 2**63)
messages = st.one_of(
    st.builds(p.Ready, number),
    st.builds(p.Failed, text, text, text),
    st.builds(p.Ask, number, text, text, text, number, text),
    st.builds(p.Answer, number, text, text, number),
    st.builds(p.Open, number, text, number, text),
    st.builds(p.Release, number, text, number, text),
    st.builds(p.Opened, number, number),
    st.builds(p.Resolve, number, text, number, text),
    st.builds(p.Resolved, number, text, text, text),
    st.builds(p.Named, text, text, text),
    st.builds(p.Happened, text, text, text, number, text, text, text, number, number),
    st.builds(p.Lost, number),
)


@given(messages)
def test_round_trip(message: p.Message) -> None:
    again = p.decode(p.encode(message))
    assert type(again) is type(message)
    assert again == message


@given(st.text(max_size=3000), st.text(max_size=3000))
def test_any_text_makes_one_whole_datagram(reason: str, host: str) -> None:
    datagram = p.encode(p.Happened("net.connect", host, "", 1, "tcp", "", reason, 0, 0))
    assert isinstance(p.decode(datagram), p.Happened)


@pytest.mark.parametrize("datagram", [b"", b"Nothing", b"Ready", b"Ready\0x", b"Ready\x001\x002", b"\xff"])
def test_what_is_no_message_is_an_error(datagram: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        p.decode(datagram)
