import json
import os

import pytest

from agent_safety_layer.errors import TraceError
from agent_safety_layer.events import Decision, Event
from agent_safety_layer.trace import writer as writing
from agent_safety_layer.trace.encode import body
from agent_safety_layer.trace.reader import TraceReader
from agent_safety_layer.trace.verify import CHANGED, INTACT, TRUNCATED, verify, verify_lines
from agent_safety_layer.trace.writer import TraceWriter


@pytest.fixture
def lines(tmp_path, monkeypatch):
    """A small trace with two checkpoints and a footer, as lines."""
    monkeypatch.setattr(writing, "CHECKPOINT_EVENTS", 3)
    path = tmp_path / "small.jsonl"
    writer = TraceWriter(str(path), {"run": "r"})
    for number in range(7):
        event = Event("file.read", pid=7, path=f"/etc/{number}")
        writer.add(body(event, Decision("block", "files.block", "p.yaml:3"), "block", "EACCES"), 1700000000.0 + number)
        writer.flush()
    writer.close({"outcome": "exited"})
    lines = path.read_bytes().splitlines(keepends=True)
    kinds = [json.loads(line)["type"] for line in lines]
    assert kinds == ["header", "event", "event", "checkpoint", *["event"] * 3, "checkpoint", *["event"] * 2, "footer"]
    return lines


def verdict_of(lines):
    verdict = verify_lines(lines)
    return verdict.state, verdict.line


def test_an_untouched_trace_is_intact(lines):
    verdict = verify_lines(lines)
    assert (verdict.state, verdict.line, verdict.events, verdict.proven) == (INTACT, 11, 7, 11)


def test_each_changed_byte_is_found_and_its_line_named(lines):
    whole = b"".join(lines)
    position = 0
    for number, line in enumerate(lines, 1):
        for at in range(len(line)):
            for flip in (0x01, 0x20, 0x80):
                changed = bytearray(whole)
                changed[position + at] ^= flip
                verdict = verify_lines(bytes(changed).splitlines(keepends=True))
                assert (verdict.state, verdict.line) == (CHANGED, number), (number, at, flip, verdict)
        position += len(line)


def test_each_byte_made_a_newline_is_found_and_its_line_named(lines):
    whole = b"".join(lines)
    position = 0
    for number, line in enumerate(lines, 1):
        for at in range(len(line) - 1):
            changed = whole[: position + at] + b"\n" + whole[position + at + 1 :]
            assert verdict_of(changed.splitlines(keepends=True)) == (CHANGED, number)
        position += len(line)


def test_each_deleted_line_is_found(lines):
    for at in range(len(lines) - 1):
        state, line = verdict_of(lines[:at] + lines[at + 1 :])
        assert (state, line) == (CHANGED, at + 1)
    assert verdict_of(lines[:-1]) == (TRUNCATED, 10)  # what a kill just before the end leaves too


def test_each_repeated_line_is_found(lines):
    for at in range(len(lines)):
        assert verdict_of(lines[: at + 1] + lines[at:]) == (CHANGED, at + 2)


def test_each_pair_of_swapped_lines_is_found(lines):
    for a in range(len(lines)):
        for b in range(a + 1, len(lines)):
            swapped = list(lines)
            swapped[a], swapped[b] = swapped[b], swapped[a]
            state, line = verdict_of(swapped)
            assert state == CHANGED
            assert line in (a + 1, b + 1)


def test_inserted_lines_are_found(lines):
    for insert in (b"\n", b"{}\n", b'{"type":"event"}\n', b'{"type":"note"}\n', lines[0]):
        for at in range(len(lines) + 1):
            state, line = verdict_of([*lines[:at], insert, *lines[at:]])
            assert state == CHANGED
            assert line in (at + 1, at + 2)


def test_a_line_forged_with_its_crc_is_found_by_the_digest(lines):
    forged = [line.replace(b"/etc/1", b"/etc/9") for line in lines]
    from binascii import crc32

    seal = forged[3].replace(b"%08x" % crc32(lines[2]), b"%08x" % crc32(forged[2]))
    head, _, tail = seal.partition(b',"crc":"')
    forged[3] = head + b',"crc":"%08x' % crc32(head) + tail[8:]
    verdict = verify_lines(forged)
    assert (verdict.state, verdict.line) == (CHANGED, 4)
    assert "SHA-256" in verdict.message


def test_a_seal_that_lacks_its_fields_is_found(lines):
    from binascii import crc32

    for fields in (b'{"type":"checkpoint"', b'{"type":"checkpoint","lines":7', b'{"type":"checkpoint","lines":"xy"'):
        seal = fields + b',"crc":"%08x","sha256":"' % crc32(fields) + b"0" * 64 + b'"}\n'
        assert verdict_of([*lines[:3], seal]) == (CHANGED, 4)


def test_cut_at_every_byte_the_rest_stays_readable(lines, tmp_path):
    whole = b"".join(lines)
    path = tmp_path / "cut.jsonl"
    entries_before = [sum(b'"type":"event"' in line for line in lines[:n]) for n in range(len(lines) + 1)]
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        complete = whole[:size].count(b"\n")
        verdict = verify(path)
        assert (verdict.state, verdict.line) == (TRUNCATED, complete)
        assert verdict.message.startswith(f"truncated after line {complete}")
        if complete == 0:
            with pytest.raises(TraceError, match="before its header"):
                TraceReader(path)
            continue
        with TraceReader(path) as reader:
            assert [entry.seq for entry in reader] == list(range(1, entries_before[complete] + 1))
            assert reader.truncated_after == complete
            assert reader.footer is None


def test_what_no_checkpoint_vouches_for_is_said(lines):
    verdict = verify_lines(lines[:7])
    assert (verdict.state, verdict.proven, verdict.events) == (TRUNCATED, 4, 5)
    assert "lines 5 to 7" in verdict.message
    assert "unproven" not in verify_lines(lines[:8]).message


def test_a_gap_after_a_full_disk_is_not_tampering(tmp_path):
    import resource

    path = tmp_path / "t.jsonl"
    writer = TraceWriter(str(path), {}, on_full="gap")
    line = body(Event("file.read", path="/etc/hosts"), Decision("allow"), "allow")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        for _ in range(10):
            writer.add(line, 1.0)
        writer.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.add(line, 2.0)
    writer.close({})
    assert writer.lost > 0
    assert verify(path).state == INTACT
    kept = path.read_bytes().splitlines(keepends=True)
    gap = next(at for at, line in enumerate(kept) if b"session.gap" in line)
    state, where = verdict_of(kept[:gap] + kept[gap + 1 :])
    assert (state, where) == (CHANGED, gap + 1)


@pytest.mark.parametrize("content", [b"hello\n", b"hello", b"{}\n", b'{"type":"event"}\n', b"\xff\n", b"[]\n"])
def test_what_is_no_trace_is_said(tmp_path, content):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=r"Not a|Unknown line"):
        TraceReader(path)


def test_an_unreadable_trace_is_an_error(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(TraceError, match="Cannot read"):
            TraceReader(path)
        with pytest.raises(TraceError, match="Cannot read"):
            verify(path)


def test_another_schema_is_refused(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b'{"type":"header","schema":2}\n')
    with pytest.raises(TraceError, match=r"schema 1 wanted, 2 found") as caught:
        TraceReader(path)
    assert caught.value.remedy


def test_a_bad_line_in_the_middle_is_an_error_with_its_number(lines, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"".join([*lines[:4], b"garbage\n", *lines[4:]]))
    with TraceReader(path) as reader, pytest.raises(TraceError) as caught:
        list(reader)
    assert (caught.value.file, caught.value.line) == (os.fspath(path), 5)
