"""The browser of the tests catches each kind of bad page, and passes a good one."""

from __future__ import annotations

import html
import struct
from pathlib import Path

import pytest
from browser import Browser, BrowserError, find_chromium

from tests.page_faults import HOSTILE_TEXTS, check_page, page_faults

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #eee; --paper: #111; } }
body { color: var(--ink); background: var(--paper); overflow-wrap: anywhere; }
"""
DOT = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="


def write_page(folder: Path, body: str, *, policy: str = POLICY, style: str = "") -> Path:
    """A good page around a body."""
    path = folder / "page.html"
    path.write_text(
        f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Page</title>
        <meta http-equiv="Content-Security-Policy" content="{policy}">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <style>{STYLE}{style}</style></head><body><main><h1>Title</h1>{body}</main></body></html>""",
        encoding="utf-8",
    )
    return path


def test_a_good_page_has_no_fault(browser: Browser, tmp_path: Path) -> None:
    """Pictures in the page, details, a wide table in a box that scrolls, a button that only scripts serve."""
    body = f"""<p>Text</p><img alt="dot" src="{DOT}"><details><summary>More</summary><p>inside</p></details>
    <div tabindex="0" style="overflow-x: auto"><table style="width: 2000px"><tr><td>wide</td></tr></table></div>
    <script>document.querySelector('main').append(document.createElement('button'));
    document.querySelector('button').textContent = 'Sort'</script>"""
    check_page(browser, write_page(tmp_path, body), texts=["Title", "inside", "wide"])


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("<script>nothing.at.all()</script>", "error: uncaught: ReferenceError: nothing is not defined"),
        ("<script>setTimeout(() => { throw 'late' }, 0)</script>", "error: uncaught: late"),
        ("<script>Promise.reject(new Error('broken'))</script>", "error: uncaught: Error: broken"),
        ("<script>console.error('bad', 3)</script>", "error: console.error: bad 3"),
        ("<script>alert('hello')</script>", "error: alert dialog: hello"),
        ("<script>document.querySelector('h1').hidden = true</script>", "not shown as text: Title"),
        ("<script>document.querySelector('main').append('written')</script>", "not there without JavaScript: written"),
        ("<div style='width: 500px'>wide</div>", "wider than 360 px: div wide"),
        ("<p id=pale>pale</p><style>#pale { color: #999; background: #fff }</style>", "light: serious color-contrast"),
        ("<p style='color: #222'>black</p>", "dark: serious color-contrast"),
        ("<input>", "light: critical label"),
    ],
)
def test_each_kind_of_fault_is_caught(browser: Browser, tmp_path: Path, body: str, fault: str) -> None:
    """Each of these pages has one fault, and it is named."""
    faults = page_faults(browser, write_page(tmp_path, body), texts=["Title"])
    assert [name for name in faults if name.startswith(fault)], faults


def test_a_page_that_forgets_phones_is_too_wide(browser: Browser, tmp_path: Path) -> None:
    """Without a viewport line a phone lays the page out as on a desk."""
    path = write_page(tmp_path, "")
    path.write_text(path.read_text(encoding="utf-8").replace('name="viewport"', 'name="other"'), encoding="utf-8")
    assert browser.open(path, width=360).overflow()
    assert browser.open(path, width=1100).overflow() == []


def test_every_request_that_leaves_the_page_is_seen(browser: Browser, tmp_path: Path) -> None:
    """To a host, to a file beside the page, by a script; also those that its policy then refuses."""
    body = """<link rel="stylesheet" href="https://h1.invalid/a.css"><script src="https://h2.invalid/a.js"></script>
    <img alt="" src="https://h3.invalid/a.png"><img alt="" src="beside.png"><iframe title="f" src="https://h4.invalid/">
    </iframe><script>fetch('https://h5.invalid/').catch(() => 0); navigator.sendBeacon('https://h6.invalid/', 'x');
    try { new WebSocket('wss://h7.invalid/') } catch {}; new Worker(URL.createObjectURL(new Blob(['1'])))</script>
    <link rel="preconnect" href="https://h8.invalid/">"""
    hosts = [f"https://h{number}.invalid/" for number in (1, 2, 3, 4, 5, 6, 8)] + ["wss://h7.invalid/"]
    neighbours = [(tmp_path / "beside.png").as_uri(), "blob:"]
    page = browser.open(write_page(tmp_path, body, policy="img-src *"))
    asked = "\n".join(page.foreign_requests)
    assert [url for url in [*hosts, *neighbours] if url not in asked] == []
    refused = browser.open(write_page(tmp_path, body))
    asked = "\n".join([*refused.foreign_requests, *refused.csp_violations])
    assert [url for url in hosts if url not in asked] == []


def test_what_the_pages_policy_refuses_is_a_fault(browser: Browser, tmp_path: Path) -> None:
    """A script, a style and a handler in the page, where its policy allows none."""
    body = "<script>1</script><p style='color: red'>a</p><button onclick='1'>b</button><script>eval('1')</script>"
    page = browser.open(write_page(tmp_path, body, policy="default-src 'none'"))
    page.click("button")
    kinds = {text.partition(":")[0] for text in page.csp_violations}
    assert kinds >= {"script-src-elem", "style-src-elem", "style-src-attr", "script-src-attr"}


def test_hostile_texts_are_texts_where_they_are_escaped(browser: Browser, tmp_path: Path) -> None:
    """Each is shown as it is; as markup most of them are not."""
    escaped = "".join(f"<p>{html.escape(text)}</p>" for text in HOSTILE_TEXTS)
    check_page(browser, write_page(tmp_path, escaped), texts=HOSTILE_TEXTS)
    raw = "".join(f"<p>{text}</p>" for text in HOSTILE_TEXTS)
    faults = page_faults(browser, write_page(tmp_path, raw), texts=HOSTILE_TEXTS)
    assert f"not shown as text: {HOSTILE_TEXTS[0]}" in faults
    assert f"request: {(tmp_path / 'harmed.png').as_uri()}" in faults


def test_what_a_fragment_opens_is_looked_at_there(browser: Browser, tmp_path: Path) -> None:
    """A panel that a link opens: its texts, and its faults."""
    style = ".panel { display: none; color: #999; background: #fff } .panel:target { display: block }"
    path = write_page(
        tmp_path, '<a href="#more">more</a><section class="panel" id="more">inside</section>', style=style
    )
    assert page_faults(browser, path, texts=["inside"])[0] == "not shown as text: inside"
    faults = page_faults(browser, path, texts=["inside"], fragment="more")
    assert [fault.partition(":")[0] for fault in faults] == ["light", "dark"]


def test_a_page_may_load_itself_anew(browser: Browser, tmp_path: Path) -> None:
    """As live pages do: no foreign request, and axe looks at what is there now."""
    path = write_page(tmp_path, "<p>before</p>")
    page = browser.open(path)
    page.axe()
    write_page(tmp_path, "<input>")
    page.evaluate("setTimeout(() => location.reload(), 0), 0")
    page.wait_for("document.querySelector('input')")
    assert [finding.rule for finding in page.axe()] == ["label"]
    assert page.requests.count(page.url) >= 2 and not page.foreign_requests


def test_mouse_and_keys_do_what_a_persons_do(browser: Browser, tmp_path: Path) -> None:
    """A click, Enter, a letter, arrows and text reach what has the focus; a covered button can't be clicked."""
    body = """<button id="a" onclick="this.textContent = 'clicked'">A</button><input id="b" aria-label="B">
    <div style="position: relative"><button id="c">C</button>
    <p style="position: absolute; inset: 0; margin: 0">lid</p></div>
    <script>addEventListener('keydown', event => document.title += ' ' + event.key)</script>"""
    page = browser.open(write_page(tmp_path, body))
    page.click("#a")
    assert page.focused() == "button#a clicked"
    page.evaluate("a.textContent = 'A'")
    page.press("Enter")
    assert page.focused() == "button#a clicked"
    page.press("ArrowDown")
    page.press("Shift+Tab")
    page.click("#b")
    page.press("x")
    page.type("yz")
    assert page.evaluate("b.value") == "xyz"
    assert page.evaluate("document.title") == "Page Enter ArrowDown Tab x"
    with pytest.raises(BrowserError, match="covered by p lid"):
        page.click("#c")
    with pytest.raises(BrowserError, match="no such element"):
        page.click("#d")


def test_the_order_of_tab_is_that_of_the_page(browser: Browser, tmp_path: Path) -> None:
    """From the first element on, wherever the focus was; what can't be reached is not in it."""
    body = """<a href="#x">first</a><button id="s">second</button><button disabled>no</button>
    <span tabindex="-1">no</span><span tabindex="0">third</span>"""
    page = browser.open(write_page(tmp_path, body))
    page.click("#s")
    assert page.tab_order() == ["a first", "button#s second", "span third"]


def test_a_page_is_seen_as_it_was_asked_for(browser: Browser, tmp_path: Path) -> None:
    """Width, dark, print and scripts each change what is shown."""
    style = """.dark, .print, .narrow { display: none }
    @media (prefers-color-scheme: dark) { .dark { display: block } }
    @media print { .print { display: block } }
    @media (width < 500px) { .narrow { display: block } }"""
    body = """<p class="dark">dark</p><p class="print">print</p><p class="narrow">narrow</p>
    <noscript>off</noscript><script>document.querySelector('main').append('on')</script>"""
    path = write_page(tmp_path, body, style=style)
    assert browser.open(path).texts() == ["Title", "on"]
    assert browser.open(path, dark=True, javascript=False).texts() == ["Title", "dark", "off"]
    assert browser.open(path, print=True, width=400).texts() == ["Title", "print", "narrow", "on"]


def test_pictures_and_prints_are_of_the_whole_page(browser: Browser, tmp_path: Path) -> None:
    """The picture is as high as the content, the print has as many sheets as it needs."""
    page = browser.open(write_page(tmp_path, "<div style='height: 3000px'></div>"), width=400)
    page.screenshot(tmp_path / "page.png")
    width, height = struct.unpack(">II", (tmp_path / "page.png").read_bytes()[16:24])
    assert width == 400 and height > 3000
    assert page.pdf(tmp_path / "page.pdf") == 3


def test_a_page_leaves_nothing_to_the_next(browser: Browser, tmp_path: Path) -> None:
    """What the first stored, the second does not read."""
    path = write_page(tmp_path, "")
    browser.open(path).evaluate("localStorage.setItem('a', '1')")
    assert browser.open(path).evaluate("localStorage.getItem('a')") is None


def test_a_browser_that_leaves_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    """A program that is no browser does not hang the tests."""
    program = tmp_path / "chromium"
    program.write_text("#!/bin/sh\necho no display >&2\n", encoding="utf-8")
    program.chmod(0o755)
    with pytest.raises(BrowserError, match="no display"):
        Browser(str(program))


def test_no_file_and_thrown_errors_are_reported(browser: Browser, tmp_path: Path) -> None:
    """A page that is not there, and an expression that throws."""
    with pytest.raises(BrowserError, match="ERR_FILE_NOT_FOUND"):
        browser.open(tmp_path / "none.html")
    with pytest.raises(BrowserError, match="TypeError"):
        browser.open(write_page(tmp_path, "")).evaluate("null.x")


def test_without_chromium_a_test_is_skipped_but_never_in_ci(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The reason says what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install chromium"):
        find_chromium()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install chromium"):
        find_chromium()
