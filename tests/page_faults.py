"""What a page of a report must be, seen in a browser: quiet, closed, readable for all, the same without scripts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from browser import DESK, Browser, Page

HOSTILE_TEXTS = (
    "<script>document.title='harmed'</script>",
    "</script><script>document.title='harmed'</script>",
    '"><img src=harmed.png onerror="document.title=1">',
    "'quotes' & \"quotes\" &lt;",
    "{{ 7 * 7 }} {% raw %}",
    "javascript:alert(1)",
    "\N{DOG FACE} \N{WAVING HAND SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-4} \N{SNOWMAN}\N{VARIATION SELECTOR-16}",
    "\u05e9\u05dc\u05d5\u05dd (\u0645\u0631\u062d\u0628\u0627) left",
    "a-long-name-without-any-blank-" * 6,
)
"""Names of classes and ids of rows as nobody should choose them; a page shows each as it is."""

_PHONE = (360, 740)
_RULES_OF_COLOUR = ("color-contrast", "link-in-text-block")  # the others say the same in the dark


def check_page(
    browser: Browser, file: Path, *, texts: Sequence[str] = (), fragment: str = "", scripted: str = "button"
) -> None:
    """Fail with all that `page_faults` finds."""
    faults = page_faults(browser, file, texts=texts, fragment=fragment, scripted=scripted)
    assert not faults, f"{file}:\n" + "\n".join(faults)


def page_faults(
    browser: Browser, file: Path, *, texts: Sequence[str] = (), fragment: str = "", scripted: str = "button"
) -> list[str]:
    """What is wrong with a page, empty where nothing is.

    Looked at: errors on the console; requests that leave the page; what its own policy refuses; `texts` (hostile ones
    too) shown as they are; axe-core's serious and critical findings, light and dark; width on a phone of 360 px; all
    text there without JavaScript, but for what lies in `scripted` (a selector of what only a script can serve). What
    shows only where `#fragment` leads is looked at there.
    """
    page = browser.open(file, fragment=fragment)
    faults = [*_faults_of_loading(page), *_missing(page, texts, "not shown as text")]
    shown = _open_details_and_read(page, scripted)
    faults += _faults_for_people(page, "light", ())
    page.emulate(dark=True)
    page.settle()
    faults += _faults_for_people(page, "dark", _RULES_OF_COLOUR)
    page.resize(*_PHONE)
    page.settle()
    faults += [f"wider than 360 px: {name}" for name in page.overflow()]
    faults += [fault for fault in _faults_of_loading(page) if fault not in faults]  # what came of all this
    page.resize(*DESK)
    page.emulate()
    page.load(javascript=False)
    faults += [fault for fault in _faults_of_loading(page) if fault not in faults]
    faults += _missing(page, [*shown, *texts], "not there without JavaScript")
    page.close()
    return faults


def _faults_of_loading(page: Page) -> list[str]:
    return [
        *(f"error: {text}" for text in page.errors),
        *(f"request: {url}" for url in page.foreign_requests),
        *(f"refused by the page's policy: {text}" for text in page.csp_violations),
    ]


def _faults_for_people(page: Page, scheme: str, rules: Sequence[str]) -> list[str]:
    return [f"{scheme}: {finding}" for finding in page.axe(rules) if finding.impact in ("critical", "serious")]


def _open_details_and_read(page: Page, scripted: str) -> list[str]:
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    page.settle()
    return page.texts(without=scripted)


def _missing(page: Page, texts: Sequence[str], fault: str) -> list[str]:
    shown = "\n".join(_open_details_and_read(page, ""))
    return [f"{fault}: {text}" for text in dict.fromkeys(texts) if " ".join(text.split()) not in shown]
