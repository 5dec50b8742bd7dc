"""Headless Chromium for the tests of pages: the browser, and what they all ask of a page."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
needed = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed (Debian: chromium chromium-driver)"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def wait(browser: Any, script: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not browser.execute_script(f"return {script}"):
        assert time.monotonic() < deadline, f"never came true: {script}"
        time.sleep(0.05)


def opened(browser: Any, uri: str) -> None:
    """Go to a page with a table, and wait until its script has drawn that."""
    browser.get(uri)
    wait(browser, "document.readyState === 'complete' && (document.querySelector('#count')?.textContent ?? '') !== ''")


def click(browser: Any, selector: str) -> None:
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def draw_all(browser: Any) -> None:
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    wait(browser, "[...document.querySelectorAll('.plot')].every(p => p.dataset.ready)")


LINES = """
const plot = document.querySelector(".plot");
return [...plot.querySelectorAll("svg .mark-line path")].map((p) => p.getAttribute("d") || "")
"""
"""The course of every line that the first figure draws."""

CONTRAST = """
const parse = (text) => text.match(/[\\d.]+/g).slice(0, 3).map((v) => {
  const c = v / 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; });
const light = (rgb) => 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2];
const back = light(parse(getComputedStyle(document.body).backgroundColor));
return ["body", "a", ".soft", "td", ".bad"].map((selector) => {
  const ink = light(parse(getComputedStyle(document.querySelector(selector)).color));
  return (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05); })
"""


@contextmanager
def sized(browser: Any, width: int, height: int = 844, *, mobile: bool = False) -> Iterator[None]:
    """A window of this size."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@contextmanager
def scheme(browser: Any, value: str) -> Iterator[None]:
    """light or dark."""
    media = {"features": [{"name": "prefers-color-scheme", "value": value}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def complaints(browser: Any) -> list[Any]:
    """Errors and warnings since the last call."""
    return [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def requests(browser: Any) -> list[str]:
    """Addresses that were asked for since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def unnamed(browser: Any) -> list[str]:
    """What a screen reader could not name, or would read wrongly: controls and links without a name, tables without
    header cells, cells of a row without a header, an image without a text, a page without title, language or main,
    headings that skip a level, an id that is there twice."""
    found: list[str] = browser.execute_script(
        """const wrong = [];
        const seen = (e) => e.checkVisibility();
        const named = (e) => (e.getAttribute("aria-label") || e.textContent || e.title || "").trim()
          || (e.labels && [...e.labels].some((l) => l.textContent.trim()));
        for (const e of document.querySelectorAll("a[href], button, input, select, summary"))
          if (seen(e) && !named(e) && !e.closest(".vega-embed")) wrong.push(`no name: ${e.outerHTML.slice(0, 80)}`);
        for (const t of document.querySelectorAll("table")) {
          if (!t.querySelector("thead th[scope=col]")) wrong.push("a table without headers of columns");
          if ([...t.querySelectorAll("tbody tr")].some((r) => !r.querySelector("th[scope=row]")))
            wrong.push("a row without a header");
        }
        for (const e of document.querySelectorAll("img, [role=img], [role=region], [role=group]"))
          if (!e.closest(".vega-embed") && !(e.getAttribute("alt") || e.getAttribute("aria-label")))
            wrong.push(`no text: ${e.outerHTML.slice(0, 80)}`);
        if (!document.title) wrong.push("no title");
        if (!document.documentElement.lang) wrong.push("no language");
        if (document.querySelectorAll("main").length !== 1) wrong.push("not one main part");
        if (document.querySelectorAll("h1").length !== 1) wrong.push("not one first heading");
        let level = 0;
        for (const h of document.querySelectorAll("h1, h2, h3, h4")) if (seen(h)) {
          if (+h.tagName[1] > level + 1) wrong.push(`${h.tagName} after H${level}: ${h.textContent}`);
          level = +h.tagName[1];
        }
        const ids = [...document.querySelectorAll("[id]")].filter((e) => !e.closest("svg")).map((e) => e.id);
        for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) wrong.push(`twice: #${id}`);
        for (const a of document.querySelectorAll('a[href^="#"]'))
          if (!a.closest(".vega-embed") && !document.getElementById(a.hash.slice(1)))
            wrong.push(`leads nowhere: ${a.hash}`);
        return wrong"""
    )
    return found
