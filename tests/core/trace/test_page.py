"""The report, as a browser shows it: complete, inert to hostile names, usable by keyboard, fast with many events."""

import base64
import re
from html.parser import HTMLParser

import pytest

from agent_safety_layer.events import Event
from agent_safety_layer.trace.page import html
from agent_safety_layer.trace.page.digest import BUCKETS, Timeline, digest
from agent_safety_layer.trace.reader import TraceReader
from tests.core.replay.scenes import STATEFUL, judged, policy, write

HOSTILE = [
    "</script><script>window.owned=1</script>",
    "<img src=x onerror=window.owned=1>",
    '" onmouseover="window.owned=1',
    "' style='background:url(http://evil.example/)",
    "<!--",
    "]]>",
    "\x1b[2J\u202e\u200b",
    "${window.owned=1}",
    "&lt;b&gt;",
    "javascript:window.owned=1",
    "a\nb\u2028c",
]


def events():
    yield Event("process.exec", 1, 1, 0, "/usr/bin/python3", "execve", path="/usr/bin/bash", argv=("bash", "-c", "x"))
    yield Event("process.exec", 2, 2, 1, "/usr/bin/bash", "execve", path="/usr/bin/cat", argv=("cat", "/etc/hosts"))
    yield Event("file.read", 2, 2, 1, "/usr/bin/cat", "openat", path="/etc/hosts")
    yield Event("file.read", 2, 2, 1, "/usr/bin/cat", "openat", path="/home/u/.ssh/id")
    yield Event("net.connect", 2, 2, 1, "/usr/bin/cat", "connect", host="api.example.com", ip="1.2.3.4", port=443)
    yield Event("net.connect", 2, 2, 1, "/usr/bin/cat", "connect", ip="10.0.0.1", port=80)
    for name in HOSTILE:
        yield Event("file.read", 1, 1, 0, f"/bin/{name}", "openat", path=f"/home/u/.ssh/{name}")
        yield Event("process.exec", 1, 1, 0, "", "execve", path=f"/x/{name}", argv=("sudo", name))
        yield Event("net.connect", 1, host=name, port=80, detail=name)
    yield Event("process.exit", 2, 2, 1, "/usr/bin/cat")


def made(folder, happened, most=100_000, name="t"):
    own = policy(STATEFUL)
    path = write(folder / f"{name}.jsonl", own, judged(own, list(happened)), wall_s=2.0)
    with TraceReader(path) as reader:
        text = html.page(digest(reader, most), "intact", True)
    (folder / f"{name}.html").write_text(text)
    return text, str(folder / f"{name}.html")


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.attributes = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs


def test_the_verdict_stands_first_and_needs_no_script(tmp_path):
    text, _ = made(tmp_path, events())
    body = text[text.index("<body>") : text.index('<script type="application/json"')]
    plain = re.sub(r"<[^>]+>", " ", body)
    assert re.search(r"\d+ operations blocked", plain[:400])
    assert "/home/u/.ssh/id" in plain
    assert "files.block" in plain
    assert "policy.yaml:7" in plain
    quiet, _ = made(tmp_path, [Event("file.read", 1, path="/etc/hosts")], name="quiet")
    assert "Nothing was blocked" in quiet


def test_names_are_never_markup(tmp_path):
    text, _ = made(tmp_path, events())
    found = Tags(text)
    assert found.tags.count("script") == 2
    assert "img" not in found.tags
    assert not [name for name, _ in found.attributes if name.startswith("on") or name in ("style", "src")]
    assert not re.search(r"https?://(?!evil)", text.replace("http-equiv", ""))
    assert all(c.isprintable() or c == "\n" for c in text)


def test_the_timeline_keeps_every_event_and_few_stretches():
    timeline = Timeline()
    for number in range(10_000):
        timeline.add(number * 0.37, "file", number % 7 == 0)
    assert sum(bucket.get("file", 0) for bucket in timeline.buckets) == 10_000
    assert sum(bucket.get("block", 0) for bucket in timeline.buckets) == 1429
    assert BUCKETS / 2 < len(timeline.buckets) <= 2 * BUCKETS


def test_what_is_listed_of_too_many_events(tmp_path):
    happened = [Event("file.read", 1, path="/etc/hosts")] * 50 + [Event("file.read", 1, path="/home/u/.ssh/id")]
    own = policy(STATEFUL)
    path = write(tmp_path / "t.jsonl", own, judged(own, happened))
    with TraceReader(path) as reader:
        found = digest(reader, 10)
    assert [line.entry.seq for line in found.events] == [*range(1, 10), 51]
    assert found.tally.events == 51


def test_what_processes_and_the_tree_used_is_shown(page, tmp_path):
    own = policy(STATEFUL + "\nlimits: {memory: 64MiB}\n")
    usage = {
        "processes": [{"pid": 2, "began": 1000.1, "cpu_user_seconds": 1.25, "peak_memory_bytes": 3 << 20}],
        "samples": [[0.0, 0.0, 0, 1], [1.0, 0.5, 48 << 20, 3], [2.0, 1.5, 1 << 20, 2]],
    }
    path = write(tmp_path / "t.jsonl", own, judged(own, list(events())), wall_s=2.0, usage=usage)
    with TraceReader(path) as reader:
        (tmp_path / "t.html").write_text(html.page(digest(reader), "intact", True))
    page.open(str(tmp_path / "t.html"))
    assert page.complaints() == []
    rows = page.value("[...document.querySelectorAll('.proc')].map((row) => row.querySelector('.used').textContent)")
    assert rows == ["", "1.25 s, 3.0 MiB"]
    told = page.value("[...document.querySelectorAll('.curves figcaption')].map((one) => one.textContent)")
    assert told == ["CPU time 1.50 s", "Memory 48.0 MiB of 64.0 MiB", "Processes 3"]
    assert page.value("document.querySelectorAll('.curves .limit').length") == 1


def test_a_footer_of_nonsense_spoils_nothing(tmp_path):
    own = policy(STATEFUL)
    for usage in (7, {"processes": 3, "samples": "x"}, {"samples": [[1], ["a", 2, 3, 4], [1, 2, 3, 4]]}):
        path = write(tmp_path / f"{id(usage)}.jsonl", own, judged(own, list(events())), usage=usage)
        with TraceReader(path) as reader:
            assert (
                "curves"
                not in html.page(digest(reader), "intact", True).partition("</style>")[2].partition("<script")[0]
            )


@pytest.fixture
def opened(page, tmp_path):
    _, path = made(tmp_path, events())
    page.open(path)
    return page


def test_it_loads_nothing_and_complains_of_nothing(opened):
    assert opened.value("document.body.dataset.ready") == "true"
    requested = [request["request"]["url"] for request in opened.of("Network.requestWillBeSent")]
    assert [url for url in requested if not url.startswith(("file://", "data:"))] == []
    assert opened.complaints() == []


def test_hostile_names_are_shown_and_do_nothing(opened):
    assert opened.value("typeof window.owned") == "undefined"
    assert opened.value("document.scripts.length") == 2
    assert opened.value("document.images.length") == 0
    shown = opened.text("body")
    assert "</script><script>window.owned=1</script>" in shown
    assert "&lt;b&gt;" in shown
    assert r"\x1b[2J\u202e\u200b" in shown
    opened.value("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert opened.value("typeof window.owned") == "undefined"


def test_the_process_tree_files_and_hosts(opened):
    names = opened.value("[...document.querySelectorAll('.proc')].map((row) => row.querySelector('b').textContent)")
    assert names[1] == "cat"
    depth = "[...document.querySelectorAll('.proc .name')].map((name) => name.style.getPropertyValue('--depth'))"
    assert opened.value(depth) == ["0", "1"]
    assert opened.value("document.querySelectorAll('.proc .denial').length") > 0
    assert "1 refused" in opened.text("#files")
    assert "10.0.0.1:80" in opened.text("#hosts")
    opened.value("document.querySelectorAll('.proc')[1].click()")
    assert "of process 2" in opened.text("#matches")


def test_search_and_filters(opened):
    def search(text):
        opened.value(
            f"(() => {{ const box = document.querySelector('#search'); box.value = {text!r};"
            " box.dispatchEvent(new Event('input')); return new Promise((done) => setTimeout(done, 200)); })()"
        )
        return opened.text("#matches")

    total = 6 + 3 * len(HOSTILE) + 1
    assert opened.text("#matches") == f"{total} events"
    assert search("etc/hosts") == f"2 of {total} events"
    assert search("hosts file.read") == f"1 of {total} events"
    assert search("no-such-thing") == f"0 of {total} events"
    search("")
    choose = (
        "(() => {{ const one = document.querySelector('#{}');"
        " one.value = [...one.options].find((option) => option.text === '{}').value;"
        " one.dispatchEvent(new Event('change')); }})()"
    )
    opened.value(choose.format("kind", "net.connect"))
    opened.value(choose.format("action", "block"))
    assert "10.0.0.1:80" in opened.text("#space")
    assert "/etc/hosts" not in opened.text("#space")


def test_it_is_used_by_keyboard(opened):
    opened.press("/", "/")
    assert opened.value("document.activeElement.id") == "search"
    opened.press("Escape")
    opened.value("document.querySelector('#viewport').focus()")
    opened.press("ArrowDown")
    opened.press("ArrowDown")
    assert "cat /etc/hosts" in opened.text("#details")
    opened.press("End")
    assert "process.exit" in opened.text("#details")
    opened.press("Home")
    assert "bash -c x" in opened.text("#details")


def test_dark_and_light(opened):
    paper = "getComputedStyle(document.body).backgroundColor"
    for scheme in ("light", "dark"):
        opened.look(scheme=scheme)
        first = opened.value(paper)
        opened.value("document.querySelector('#theme').click()")
        second = opened.value(paper)
        assert {first, second} == {"rgb(246, 247, 249)", "rgb(18, 21, 27)"}
        assert (first == "rgb(18, 21, 27)") == (scheme == "dark")
        opened.value("document.querySelector('#theme').click()")
        opened.value("delete document.documentElement.dataset.theme")


def test_it_prints(opened):
    data = base64.b64decode(opened.call("Page.printToPDF")["data"])
    assert data.startswith(b"%PDF")
    assert len(data) > 20_000


def test_a_hundred_thousand_events_stay_quick(page, tmp_path):
    happened = [Event("file.read", n % 300 + 2, 0, 1, path=f"/usr/lib/{n % 900}/{n % 7919}") for n in range(100_000)]
    text, path = made(tmp_path, happened)
    assert len(text) < 12_000_000
    page.open(path)
    assert page.text("#matches") == "100,000 events"
    assert page.value("document.querySelectorAll('#space .row').length") < 100
    took = page.value(
        "(() => { const box = document.querySelector('#search'), began = performance.now(); box.value = 'lib/89';"
        " document.querySelector('#kind').dispatchEvent(new Event('change')); return performance.now() - began; })()"
    )
    assert took < 2000
    assert page.value("document.querySelector('#viewport').scrollTop = 1e9, true")
    assert "events" in page.text("#matches")
