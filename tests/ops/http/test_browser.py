# SPDX-License-Identifier: MIT
"""A real browser: logging in, looking, acting, by mouse and by keyboard alone; and that it complains of nothing.

Needs chromium (tools/system-packages). Where it is missing they are skipped, and say so; where CI is set they fail.
The pictures are in build/screenshots.
"""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright
from tests.ops.http.rig import Served, fill, served

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PICTURES = Path(__file__).parents[3] / "build" / "screenshots"
pytestmark = [pytest.mark.slow, pytest.mark.interop]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        said = "chromium is missing: tools/system-packages installs it"
        if os.environ.get("CI"):
            pytest.fail(said)
        pytest.skip(said)
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("browser"), http="show_content = true\n") as door:
        yield door


@pytest.fixture
def door(opened: Served) -> Served:
    opened.relay.__init__()
    opened.lately.__init__(opened.sink, time.time)  # type: ignore[misc]
    fill(opened.relay, opened.lately, time.time())
    return opened


class Complaints:
    """What a browser says against a page: errors, refusals of its policy, and requests to other origins."""

    def __init__(self, door: Served, context: BrowserContext) -> None:
        self.found: list[str] = []
        self._door = door
        context.on("console", self._hear)
        context.on("weberror", lambda error: self.found.append(str(error.error)))
        context.on("request", self._see)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and "status of 4" not in message.text:
            self.found.append(message.text)

    def _see(self, request: Request) -> None:
        if not request.url.startswith((self._door.url + "/", "data:")):
            self.found.append(f"asked {request.url}")


def visit(browser: Browser, door: Served, **look: object) -> tuple[Page, Complaints]:
    """Open the login in a browser of its own."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **look})  # type: ignore[arg-type]
    context.set_default_timeout(20_000)
    complaints = Complaints(door, context)
    page = context.new_page()
    page.goto(door.url + "/")
    return page, complaints


def log_in(page: Page, door: Served, token: str = "all") -> None:
    page.fill("#token", door.tokens[token])
    page.click("button")
    page.wait_for_selector("h1#headline")


def test_an_operator_finds_what_waits_and_holds_and_releases_it(browser: Browser, door: Served) -> None:
    """Log in, see what is wrong, follow the reason to the mail, hold it with a reason, release it again."""
    page, complaints = visit(browser, door)
    log_in(page, door)
    assert "Delivering" in page.inner_text("h1")
    assert page.locator("svg[role=img]").count() == 2

    page.click("text=no host of its destination")
    page.select_option("#verb", "hold")
    page.click("text=See what would change")
    assert "14 recipients" in page.inner_text(".lead")
    assert not any(not change[2] for change in door.relay.changes), "nothing is changed by looking"
    page.fill("#reason", "their server is being moved")
    page.click("button.main")
    assert "hold: 13 recipients" in page.inner_text("[role=status]")

    page.goto(door.url + "/queue?state=held&destination=example.com")
    page.select_option("#verb", "release")
    page.click("text=See what would change")
    page.fill("#reason", "moved")
    page.click("button.main")
    page.wait_for_selector("[role=status]")
    done = [(verb, reason) for verb, _, dry, _, reason, _ in door.relay.changes if not dry]
    assert [("hold", "their server is being moved"), ("release", "moved")] == done
    assert [] == complaints.found
    page.context.close()


def test_everything_can_be_done_with_the_keyboard(browser: Browser, door: Served) -> None:
    """Tab, Enter and typing log in, skip to the content, filter the queue and open a story; focus is always seen."""
    page, complaints = visit(browser, door)
    page.keyboard.type(door.tokens["all"])  # the field has the focus
    page.keyboard.press("Enter")
    page.wait_for_selector("h1#headline")
    page.keyboard.press("Tab")
    assert "Skip to the content" == page.evaluate("document.activeElement.textContent")
    assert page.locator(".skip").bounding_box()["x"] >= 0, "it is seen when it has the focus"  # type: ignore[index]
    page.keyboard.press("Enter")
    assert "main" == page.evaluate("document.activeElement.id")

    page.goto(door.url + "/queue")
    page.focus("#f-destination")
    assert "solid" in page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    page.keyboard.type("example.com")
    page.keyboard.press("Enter")
    page.wait_for_url("**destination=example.com**")
    page.focus("table a.id >> nth=0")
    page.keyboard.press("Enter")
    page.wait_for_selector("#waiting")
    assert [] == complaints.found
    page.context.close()


def test_every_field_and_button_has_a_name(browser: Browser, door: Served) -> None:
    """A screen reader says what each is for; landmarks and one heading of the first level are there."""
    page, _ = visit(browser, door)
    log_in(page, door)
    for path in (
        "/",
        "/queue",
        f"/message/{door.relay.messages[1].id}",
        "/hosts",
        "/plan",
        "/suspensions",
        "/records",
        "/find",
    ):
        page.goto(door.url + path)
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll("input:not([type=hidden]), select, button, a, summary")].filter(
            each => !(each.labels && each.labels.length) && !each.ariaLabel && !each.textContent.trim()
            ).map(each => each.outerHTML)"""
        )
        assert [] == unnamed, path
        for each in ("main", "header", "nav", "h1", "html[lang]"):
            assert 1 == page.locator(each).count(), (path, each)
    page.context.close()


def test_the_overview_renews_itself_and_stops_when_told(browser: Browser, door: Served) -> None:
    """New figures come without a reload and without losing what somebody has in hand."""
    page, complaints = visit(browser, door)
    log_in(page, door)
    door.relay.paused = True
    page.wait_for_selector("text=Paused", timeout=15_000)
    page.click("text=Hold it still")
    page.wait_for_selector("text=stands still")
    assert page.locator("script").count() == 0
    assert [] == complaints.found
    page.context.close()


def test_it_works_without_script(browser: Browser, door: Served) -> None:
    """Everything is drawn by the server; the page then reloads itself."""
    page, _ = visit(browser, door, java_script_enabled=False)
    page.fill("#token", door.tokens["all"])
    page.click("button")
    assert "Delivering" in page.inner_text("h1")
    page.goto(door.url + "/queue?destination=gmx.example")
    page.select_option("#verb", "retry")
    page.click("text=See what would change")
    assert "14 recipients" in page.inner_text(".lead")
    page.context.close()


def test_what_belongs_on_one_line_is_on_one_line(browser: Browser, door: Served) -> None:
    """The filters of the queue at 1280 px, also when one is set; the menu at 360 px, wherever one is."""
    tops = "selector => new Set([...document.querySelectorAll(selector)].map(e => e.getBoundingClientRect().top)).size"
    page, _ = visit(browser, door)
    log_in(page, door)
    for path in ("/queue", "/queue?destination=example.com"):
        page.goto(door.url + path)
        assert 1 == page.evaluate(tops, ".filters label"), path
        assert 1 == page.evaluate(tops, ".filters input, .filters select"), path
        assert 1 == page.evaluate(tops, ".filters > div:first-child, .filters > div:nth-child(6)"), path
        go, field = page.locator(".filters .go").bounding_box(), page.locator("#f-age").bounding_box()
        assert go is not None
        assert field is not None
        assert go["y"] < field["y"] + field["height"], "the button is beside the fields"
    page.set_viewport_size({"width": 360, "height": 740})
    for path in ("/", "/suspensions"):
        page.goto(door.url + path)
        assert 1 == page.evaluate(tops, "nav li"), path
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.context.close()


@pytest.mark.parametrize(
    ("name", "look"),
    [
        ("light", {}),
        ("dark", {"color_scheme": "dark"}),
        ("phone", {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2}),
        ("zoomed", {"viewport": {"width": 640, "height": 450}, "device_scale_factor": 2}),
    ],
)
def test_each_page_fits_and_is_pictured(name: str, look: dict[str, object], browser: Browser, door: Served) -> None:
    """Nothing runs out of the side at 360 px, nor at twice the size; no stranger's script runs; text has contrast."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    page, complaints = visit(browser, door, **look)
    page.screenshot(path=PICTURES / f"login-{name}.png")
    log_in(page, door)
    evil = next(each.id for each in door.relay.messages if each.recipients[0].domain == "evil.example")
    plain = next(each.id for each in door.relay.messages if each.recipients[0].domain == "example.com")
    paths = {
        "overview": "/",
        "queue": "/queue",
        "story": f"/message/{plain}",
        "story-hostile": f"/message/{evil}",
        "hosts": "/hosts",
        "plan": "/plan?address=bob@example.net",
        "records": "/records",
        "suspensions": "/suspensions",
    }
    for picture, path in paths.items():
        page.goto(door.url + path)
        page.screenshot(path=PICTURES / f"{picture}-{name}.png", full_page=True)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= page.viewport_size["width"], (path, width)  # type: ignore[index]
        assert [] == page.evaluate(_FAINT), path
    page.goto(door.url + "/queue?destination=gmx.example")
    page.select_option("#verb", "retry")
    page.click("text=See what would change")
    page.screenshot(path=PICTURES / f"preview-{name}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]  # type: ignore[index]
    assert [] == page.evaluate(_FAINT)
    assert [] == complaints.found
    page.context.close()


# Texts whose contrast with what is behind them is below 4.5 (WCAG 2.2, 1.4.3); opaque backgrounds only.
_FAINT = """() => {
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [.2126, .7152, .0722][n], 0);
  const behind = each => { for (let at = each; at; at = at.parentElement) {
    const [r, g, b, a = 1] = parse(getComputedStyle(at).backgroundColor);
    if (a === 1) return [r, g, b]; } return [255, 255, 255]; };
  const faint = new Set();
  for (const each of document.querySelectorAll("body *")) {
    if (![...each.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
    if (!each.checkVisibility()) continue;
    const a = light(parse(getComputedStyle(each).color)), b = light(behind(each));
    const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (contrast < 4.5) faint.add(`${each.tagName}.${each.className} ${contrast.toFixed(2)}`);
  }
  return [...faint];
}"""
