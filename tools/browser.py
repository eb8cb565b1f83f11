"""Chromium, headless, for tests of pages: opens a file, and says what the page asked for, reported and shows.

It speaks the DevTools protocol over two pipes: no port, no driver, no package. page_faults.py says what a good page is.
`axe/` beside this file is axe-core as its authors publish it (MPL-2.0), which looks for what keeps people out.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

ADVICE = "chromium is not installed (apt-get install chromium fonts-dejavu-core fonts-noto-color-emoji)"
"""Why a test of pages can't run, and what to do."""

DESK = (1100, 800)
"""Width and height of a page's view, where nothing else is asked for."""

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",  # there is none for root, nor in most containers; the pages are our own
    "--disable-dev-shm-usage",  # /dev/shm of a container may have 64 MB
    "--disable-gpu",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # should a page ask, no name is looked up
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-breakpad",
    "--disable-sync",
    "--disable-extensions",
    "--disable-renderer-backgrounding",
    "--disable-background-timer-throttling",
    "--no-first-run",
    "--no-default-browser-check",
    "--password-store=basic",
    "--mute-audio",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--font-render-hinting=none",
    "--lang=en-US",
)
_ANSWER_S = 60.0  # a page of 1.5 MB takes axe some seconds on two busy cores; only a browser that hangs comes this far
_START_S = 120.0
_PHONE_PX = 600  # narrower views are a phone's: there the page's own viewport line counts
_KEYS = {  # name: key code, text
    "Tab": (9, ""),
    "Enter": (13, "\r"),
    "Escape": (27, ""),
    "Space": (32, " "),
    "PageUp": (33, ""),
    "PageDown": (34, ""),
    "End": (35, ""),
    "Home": (36, ""),
    "ArrowLeft": (37, ""),
    "ArrowUp": (38, ""),
    "ArrowRight": (39, ""),
    "ArrowDown": (40, ""),
}
_MODIFIERS = {"Alt": 1, "Control": 2, "Meta": 4, "Shift": 8}

# Two frames, so that styles are applied and observers have run; then the animations that have an end.
_SETTLE = """(async () => {
  const frame = () => new Promise(done => requestAnimationFrame(done));
  await document.fonts.ready; await frame(); await frame();
  const ends = a => a.effect && a.effect.getComputedTiming().endTime !== Infinity;
  await Promise.all(document.getAnimations().filter(ends).map(a => a.finished.catch(() => 0)));
})()"""

# Rendered text, one entry a text node; `checkVisibility` knows of display, visibility, `hidden` and closed details.
_TEXTS = """(skipped => {
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), texts = [];
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement, text = walk.currentNode.data.replace(/\\s+/g, ' ').trim();
    if (text && !element.closest(skipped) && element.checkVisibility({visibilityProperty: true, opacityProperty: true}))
      texts.push(text);
  }
  return texts;
})"""
_NEVER_SHOWN = "script, style, template, svg title, svg desc, svg metadata"

_NAME = """(element => {
  if (!element || element === document.body) return '';
  const label = element.getAttribute('aria-label') || element.textContent || element.value || '';
  const id = element.id ? '#' + element.id : '';
  return (element.localName + id + ' ' + label.replace(/\\s+/g, ' ').trim().slice(0, 60)).trim();
})"""

_TOO_WIDE = """(width => {
  const scrolls = e => e && e !== document.body && e !== document.documentElement
    && (getComputedStyle(e).overflowX !== 'visible' || scrolls(e.parentElement));
  const wide = [...document.body.querySelectorAll('*')].filter(
    e => e.getBoundingClientRect().right > width + 1 && !scrolls(e.parentElement));
  return wide.filter(e => !wide.some(other => other !== e && e.contains(other))).slice(0, 5).map(NAME);
})""".replace("NAME", _NAME)


_IMPACTS = ("critical", "serious", "moderate", "minor")


class BrowserError(Exception):
    """The browser did not start, left, hung, or can't do what was asked for."""


@dataclass(frozen=True)
class Finding:
    """One rule of axe-core that a page breaks, and where."""

    rule: str
    impact: str
    help: str
    places: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.impact} {self.rule}: {self.help}, at {', '.join(self.places[:5])}"


def find_chromium() -> str:
    """The path of this machine's chromium; without one the test is skipped, and fails where CI=true."""
    for name in _NAMES:
        if path := shutil.which(name):
            return path
    if os.environ.get("CI") == "true":
        pytest.fail(ADVICE)
    pytest.skip(ADVICE)


class Browser:
    """One running chromium; `open` gives a page of its own (no cookies, no storage, no cache of another)."""

    def __init__(self, program: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ens-chromium-", ignore_cleanup_errors=True)
        self._pid, self._write, self._read = _spawn(program, Path(self._folder.name))
        self._rest = bytearray()
        self._last = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._pages: dict[str, Page] = {}
        try:
            self.version: str = self.call("Browser.getVersion", timeout_s=_START_S)["product"]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def open(
        self,
        file: Path,
        *,
        width: int = DESK[0],
        height: int = DESK[1],
        dark: bool = False,
        javascript: bool = True,
        print: bool = False,
        fragment: str = "",
    ) -> Page:
        """Load a file (at `#fragment`) in a new page and wait until it is drawn; `print`: as the printer gets it."""
        page = Page(self, file, fragment)
        page.resize(width, height)
        page.emulate(dark=dark, print=print)
        page.load(javascript=javascript)
        return page

    def close_pages(self) -> None:
        """Close all pages; the browser stays."""
        for page in list(self._pages.values()):
            page.close()

    def close(self) -> None:
        """End the browser and remove what it wrote."""
        if self._pid:
            os.close(self._write)  # chromium leaves when its pipe ends
            os.close(self._read)
            _reap(self._pid)
            self._pid = 0
        self._folder.cleanup()

    def call(self, method: str, session: str = "", *, timeout_s: float = _ANSWER_S, **parameters: Any) -> Any:
        """Send a command of the protocol and give back its result; events that come meanwhile go to their pages."""
        number = self.send(method, session, **parameters)
        deadline = time.monotonic() + timeout_s
        while number not in self._answers:
            self.receive(deadline, method)
        answer = self._answers.pop(number)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error'].get('message')} {answer['error'].get('data', '')}".strip())
        return answer["result"]

    def send(self, method: str, session: str = "", **parameters: Any) -> int:
        """Send a command and give back its number, without waiting."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        data = memoryview(json.dumps(message).encode() + b"\0")
        try:
            while data:
                data = data[os.write(self._write, data) :]
        except OSError as error:
            raise BrowserError(f"{method}: the browser is gone; {self._log()}") from error
        return self._last

    def receive(self, deadline: float, waiting_for: str) -> None:
        """Read what the browser says next and hand it on; raise when nothing comes until the deadline."""
        if not select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise BrowserError(f"{waiting_for}: no answer in time; {self._log()}")
        data = os.read(self._read, 1 << 20)
        if not data:
            raise BrowserError(f"{waiting_for}: the browser left; {self._log()}")
        *messages, rest = (bytes(self._rest) + data).split(b"\0")
        self._rest = bytearray(rest)
        for message in map(json.loads, messages):
            if "id" in message:
                self._answers[message["id"]] = message
            elif page := self._pages.get(message.get("sessionId", "")):
                page.handle(message["method"], message["params"])

    def _log(self) -> str:
        lines = Path(self._folder.name, "log").read_text(encoding="utf-8", errors="replace").splitlines()
        return "its last lines: " + " | ".join(lines[-5:])


@dataclass
class Page:
    """A page of the browser, and all that it asked for and reported since it was opened."""

    browser: Browser
    file: Path
    fragment: str = ""
    errors: list[str] = field(default_factory=list)
    """Errors on the console, uncaught exceptions, dialogs."""
    requests: list[str] = field(default_factory=list)
    """Every address the page asked for, its own too; `data:` ones are cut."""
    csp_violations: list[str] = field(default_factory=list)
    """What the page's own content security policy refused."""

    def __post_init__(self) -> None:
        self._loaded: set[str] = set()
        self._javascript = True
        self._axe_world = 0
        self._context = self.browser.call("Target.createBrowserContext")["browserContextId"]
        target = self.browser.call("Target.createTarget", url="about:blank", browserContextId=self._context)["targetId"]
        self._session = self.browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.browser._pages[self._session] = self
        for domain in ("Page", "Runtime", "Network", "Log", "Audits", "DOM"):
            self.call(f"{domain}.enable")
        self.call("Page.setLifecycleEventsEnabled", enabled=True)
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)

    def call(self, method: str, **parameters: Any) -> Any:
        """A command of the protocol for this page."""
        return self.browser.call(method, self._session, **parameters)

    @property
    def url(self) -> str:
        """The address of the page's file."""
        return self.file.resolve().as_uri()

    @property
    def foreign_requests(self) -> list[str]:
        """Addresses other than the file itself and `data:`."""
        return [url for url in self.requests if url != self.url and not url.startswith("data:")]

    def load(self, *, javascript: bool = True) -> None:
        """Load the file (anew) and wait until it is drawn."""
        self._javascript = javascript
        self.call("Emulation.setScriptExecutionDisabled", value=not javascript)
        if self.fragment and self._loaded:
            self.call("Page.navigate", url="about:blank")  # to the same address with a fragment it would only scroll
        went = self.call("Page.navigate", url=f"{self.url}#{self.fragment}" if self.fragment else self.url)
        if went.get("errorText"):
            raise BrowserError(f"{self.file}: {went['errorText']}")
        deadline = time.monotonic() + _ANSWER_S
        while went["loaderId"] not in self._loaded:
            self.browser.receive(deadline, f"loading {self.file}")
        self.settle()
        # What these open early is no request in the browser's own books.
        hints = "link[rel~=preconnect], link[rel~=dns-prefetch]"
        self.requests += self.evaluate(f"[...document.querySelectorAll({json.dumps(hints)})].map(link => link.href)")

    def settle(self) -> None:
        """Wait until what was asked for is drawn and reported."""
        # Where scripts are off no callback ever runs. Then this is one round trip, behind which all events are in.
        self.evaluate(_SETTLE if self._javascript else "0")

    def emulate(self, *, dark: bool = False, print: bool = False) -> None:
        """Show the page as people with these settings see it."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="print" if print else "screen", features=[scheme])

    def resize(self, width: int, height: int) -> None:
        """Give the page another view; a narrow one is a phone's."""
        self._width = width
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < _PHONE_PX}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def evaluate(self, javascript: str) -> Any:
        """The value of an expression in the page, after its promise where it is one; raise what it throws."""
        return self._evaluate(javascript)

    def wait_for(self, javascript: str, *, timeout_s: float = 20) -> None:
        """Wait until an expression in the page is true; raise when it does not become so."""
        deadline = time.monotonic() + timeout_s
        while not self._holds(javascript):
            if time.monotonic() > deadline:
                raise BrowserError(f"{self.file.name}: never came true: {javascript}")
            time.sleep(0.02)
        self.settle()

    def texts(self, *, without: str = "") -> list[str]:
        """The texts a reader sees, one a text node, blanks made single; `without`: a selector of what is left out."""
        skipped = f"{_NEVER_SHOWN}, {without}" if without else _NEVER_SHOWN
        shown: list[str] = self.evaluate(f"{_TEXTS}({json.dumps(skipped)})")
        return shown

    def click(self, selector: str) -> None:
        """Click the middle of the first such element, as a mouse does; raise when something else lies over it."""
        x, y = self.hover(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        self.settle()

    def hover(self, selector: str) -> tuple[float, float]:
        """Move the mouse onto the first such element; its middle."""
        point = self.evaluate(f"""(() => {{
            const element = document.querySelector({json.dumps(selector)});
            if (!element) return 'no such element';
            element.scrollIntoView({{block: 'center', inline: 'center', behavior: 'instant'}});
            const box = element.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;
            const hit = document.elementFromPoint(x, y);
            if (element.contains(hit)) return [x, y];
            return hit ? 'covered by ' + ({_NAME}(hit) || 'body') : 'not shown';
        }})()""")
        if isinstance(point, str):
            raise BrowserError(f"{self.file.name}: {selector}: {point}")
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=point[0], y=point[1])
        self.settle()
        return point[0], point[1]

    def press(self, key: str) -> None:
        """Press a key: a letter, or a name as in `Enter`, `ArrowDown`, `Shift+Tab`."""
        *modifiers, name = key.split("+")
        code, text = _KEYS.get(name, (ord(name[0].upper()), name))
        bits = sum(_MODIFIERS[modifier] for modifier in modifiers)
        shared = {"key": " " if name == "Space" else name, "windowsVirtualKeyCode": code, "modifiers": bits}
        shared["code"] = name if name in _KEYS else f"Key{name.upper()}"
        typed = {"text": text} if text and bits in (0, _MODIFIERS["Shift"]) else {}
        self.call("Input.dispatchKeyEvent", type="keyDown" if typed else "rawKeyDown", **shared, **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **shared)
        self.settle()

    def type(self, text: str) -> None:
        """Enter a text where the focus is."""
        self.call("Input.insertText", text=text)
        self.settle()

    def focused(self) -> str:
        """Tag, id and label of what has the focus, as in `button#sort Sort`; empty where nothing has it."""
        name: str = self.evaluate(f"{_NAME}(document.activeElement)")
        return name

    def tab_order(self, limit: int = 100) -> list[str]:
        """What Tab reaches, in order, until it comes round."""
        # Tab goes on from where the focus was last, so it is put before everything.
        self.evaluate("""(() => {
            const start = document.createElement('span');
            start.tabIndex = -1; document.body.prepend(start); start.focus(); start.remove();
            window.ensTabbed = new Set();
        })()""")
        names: list[str] = []
        for _ in range(limit):
            self.press("Tab")
            # Two things may have one name, so the elements themselves are compared.
            if not self.evaluate(
                "(e => e !== document.body && !ensTabbed.has(e) && !!ensTabbed.add(e))(document.activeElement)"
            ):
                break
            names.append(self.focused())
        return names

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Write a PNG of the whole page, or of what the view shows."""
        shot = {"format": "png", "captureBeyondViewport": whole}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            shot["clip"] = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", **shot)["data"]))

    def pdf(self, path: Path) -> int:
        """Print the page on A4 with backgrounds; how many sheets."""
        size = {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": True}
        data = base64.b64decode(self.call("Page.printToPDF", **size)["data"])
        path.write_bytes(data)
        return data.count(b"/Type /Page\n") + data.count(b"/Type /Page ")

    def axe(self, rules: Sequence[str] = ()) -> list[Finding]:
        """What axe-core finds (by these rules alone), the worst first; the page does not notice it."""
        if not self._axe_world:
            frame = self.call("Page.getFrameTree")["frameTree"]["frame"]["id"]
            self._axe_world = self.call("Page.createIsolatedWorld", frameId=frame)["executionContextId"]
            source = (Path(__file__).parent / "axe" / "axe.min.js").read_text(encoding="utf-8")
            self._evaluate(f"{source};0", contextId=self._axe_world)
        options: dict[str, Any] = {"resultTypes": ["violations"], "preload": False}
        if rules:
            options["runOnly"] = {"type": "rule", "values": list(rules)}
        run = f"axe.run(document, {json.dumps(options)}).then(result => result.violations)"
        places = "v.nodes.map(n => n.target.flat().join(' '))"
        rows = f"{run}.then(all => all.map(v => [v.id, v.impact || 'minor', v.help, {places}]))"
        broken = self._evaluate(rows, contextId=self._axe_world)
        findings = [Finding(rule, impact, text, tuple(nodes)) for rule, impact, text, nodes in broken]
        return sorted(findings, key=lambda finding: (_IMPACTS.index(finding.impact), finding.rule))

    def overflow(self) -> list[str]:
        """What makes the page wider than its view, empty where it fits; what scrolls in a box of its own is fine."""
        # Against the width that was asked for: a phone's `innerWidth` grows with the content.
        content = self.evaluate("document.scrollingElement.scrollWidth")
        if content <= self._width:
            return []
        names: list[str] = self.evaluate(f"{_TOO_WIDE}({self._width})")
        return names or [f"{content} px of content"]

    def close(self) -> None:
        """Close the page and forget its storage."""
        if self.browser._pages.pop(self._session, None):
            self.browser.call("Target.disposeBrowserContext", browserContextId=self._context)

    def handle(self, method: str, event: dict[str, Any]) -> None:
        """Note an event of the protocol."""
        match method:
            case "Page.lifecycleEvent" if event["name"] == "load":
                self._loaded.add(event["loaderId"])
            case "Runtime.executionContextsCleared":  # it was loaded anew, by itself perhaps
                self._axe_world = 0
            case "Network.requestWillBeSent":
                self._note_request(event["request"]["url"])
            case "Page.frameRequestedNavigation":  # frames that the page's policy then refuses, forms, redirections
                self._note_request(event["url"])
            case "Network.webSocketCreated" | "Network.webTransportCreated":
                self._note_request(event["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(_exception_text(event["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if event["type"] in ("error", "assert"):
                words = [str(item.get("value", item.get("description", ""))) for item in event["args"]]
                self.errors.append(f"console.{event['type']}: {' '.join(words)}")
            case "Log.entryAdded" if event["entry"]["level"] == "error":
                self.errors.append(f"{event['entry']['source']}: {event['entry']['text']}")
            case "Audits.issueAdded" if details := event["issue"]["details"].get("contentSecurityPolicyIssueDetails"):
                blocked = details.get("blockedURL") or details["contentSecurityPolicyViolationType"]
                self.csp_violations.append(f"{details['violatedDirective']}: {blocked}")
            case "Page.javascriptDialogOpening":
                self.errors.append(f"{event['type']} dialog: {event['message']}")
                self.browser.send("Page.handleJavaScriptDialog", self._session, accept=True)
            case "Inspector.targetCrashed":
                raise BrowserError(f"{self.file}: the page crashed")

    def _note_request(self, url: str) -> None:
        self.requests.append(url[:60] if url.startswith("data:") else url.partition("#")[0])

    def _holds(self, javascript: str) -> bool:
        try:
            return bool(self.evaluate(f"Boolean({javascript})"))
        except BrowserError as error:
            if "navigated" in str(error) or "context" in str(error):  # it is being loaded anew
                return False
            raise

    def _evaluate(self, javascript: str, **where: Any) -> Any:
        answer = self.call(
            "Runtime.evaluate", expression=javascript, awaitPromise=True, returnByValue=True, userGesture=True, **where
        )
        if "exceptionDetails" in answer:
            raise BrowserError(f"{self.file.name}: {_exception_text(answer['exceptionDetails'])}")
        return answer["result"].get("value")


def _spawn(program: str, folder: Path) -> tuple[int, int, int]:
    """Start chromium with pipes at 3 (it reads) and 4 (it writes); its process and our two ends."""
    their_read, our_write = os.pipe()
    our_read, their_write = os.pipe()
    # High numbers first, or one copy could overwrite the other pipe's end.
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in (their_read, their_write)]
    log = (os.POSIX_SPAWN_OPEN, 2, str(folder / "log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        log,
        (os.POSIX_SPAWN_DUP2, 2, 1),
        (os.POSIX_SPAWN_DUP2, high[0], 3),
        (os.POSIX_SPAWN_DUP2, high[1], 4),
    ]
    # A home of its own: settings and caches of the person who runs the tests stay as they are.
    places = {name: str(folder) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")}
    words = [program, *_FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
    try:
        pid = os.posix_spawn(program, words, {**os.environ, **places}, file_actions=actions, setpgroup=0)
    finally:
        for end in (their_read, their_write, *high):
            os.close(end)
    return pid, our_write, our_read


def _reap(pid: int) -> None:
    """Wait for a process to end by itself, and kill it with all its children when it takes too long."""
    deadline = time.monotonic() + 5
    while not (ended := os.waitpid(pid, os.WNOHANG)[0]) and time.monotonic() < deadline:
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if not ended:
        os.waitpid(pid, 0)


def _exception_text(details: dict[str, Any]) -> str:
    exception = details.get("exception", {})
    text = exception.get("description") or exception.get("value") or details["text"]
    return f"uncaught: {text} (line {details['lineNumber'] + 1})"
