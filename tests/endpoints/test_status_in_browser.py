"""
The status page in a real Chromium, as people see it: without a script, live, small, dark and light, by keyboard and by ear.

One browser and one program for all of them; both run on a loop of their own in a thread, where `Stage.run` puts coroutines.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from shockproof.endpoints import status_page, status_view
from shockproof.views.status import id_of

sys.path.insert(0, str(Path(__file__).parent))
try:
    from status_scene import TOKEN, Scene, scene
finally:
    del sys.path[0]

CHROMIUM = shutil.which("chromium")
PATIENT = 60.0
"""Real seconds; only a hang takes that long."""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


class Stage:
    """A program with its page, and a browser before it."""

    def __init__(self, one: Scene, url: str, browser: Browser) -> None:
        self.scene, self.url, self.browser = one, url, browser
        self.loop = asyncio.get_running_loop()

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run *main* where program and browser are."""
        asyncio.run_coroutine_threadsafe(asyncio.wait_for(main, PATIENT), self.loop).result(PATIENT + 10.0)

    @contextlib.asynccontextmanager
    async def page(self, path: str = "/status", **options: Any) -> AsyncIterator[Page]:
        """A page of a fresh visitor, who may not ask anybody else for anything, and has seen no complaint."""
        context = await self.browser.new_context(**options)
        context.set_default_timeout(PATIENT * 1000)
        page = await context.new_page()
        asked: list[str] = []
        complaints: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda message: complaints.append(message.text) if "Content Security" in message.text else None,
        )
        await page.goto(self.url + path)
        yield page
        assert complaints == []
        assert [url for url in asked if not url.startswith(f"{self.url}/status")] == []
        await context.close()

    @contextlib.asynccontextmanager
    async def live(self, path: str = "/status", **options: Any) -> AsyncIterator[Page]:
        """The same, when the page has heard from the program."""
        async with self.page(path, **options) as page:
            await page.wait_for_selector("#live[data-state=live]")
            yield page


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Started once: a browser takes its time."""
    stages: list[Stage] = []
    is_up = threading.Event()
    over = asyncio.Event()
    failed: list[BaseException] = []

    async def main() -> None:
        async with scene() as (one, url), async_playwright() as playwright:
            browser = await playwright.chromium.launch(
                executable_path=CHROMIUM,
                args=["--no-sandbox", "--disable-dev-shm-usage"],
                timeout=PATIENT * 1000,
            )
            expect.set_options(timeout=PATIENT * 1000)
            stages.append(Stage(one, url, browser))
            is_up.set()
            await over.wait()
            await browser.close()

    def live() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised where the tests are
            failed.append(error)
        finally:
            is_up.set()

    with pytest.MonkeyPatch.context() as patched:
        for module in (status_page, status_view):
            patched.setattr(module, "EVERY", 0.1)
        patched.setattr(
            status_page, "_LIFE", 1.5
        )  # so that pages go on in the next stream, as they do all day
        thread = threading.Thread(target=live, name="a browser and a program")
        thread.start()
        is_up.wait(2 * PATIENT)
        if stages:
            yield stages[0]
            stages[0].loop.call_soon_threadsafe(over.set)
        thread.join(PATIENT)
    if failed:
        raise failed[0]
    assert not thread.is_alive()


def test_everything_can_be_read_without_a_script(stage: Stage) -> None:
    """Who reads it in a terminal's browser, or behind a policy, sees the same, and it reloads by itself."""

    async def main() -> None:
        async with stage.page(java_script_enabled=False) as page:
            await expect(page.get_by_role("heading", name="shockproof")).to_be_visible()
            for name in ("Services", "Errors", "Latency", "Event loop lag", "Pending operations"):
                await expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()
            await expect(page.get_by_role("row", name="news.sentiment")).to_contain_text(
                "503 Service Unavailable"
            )
            await expect(page.locator("#errors li")).to_have_count(50)
            await expect(page.locator("#pending")).to_contain_text("rebalance")
            await expect(page.locator("#stalls")).to_contain_text(
                "1.7 s strategy.py:41 in rank_universe task prices"
            )
            assert await page.locator("noscript meta[http-equiv=refresh]").count() == 1
            await page.get_by_role("searchbox").fill("kraken")
            await page.get_by_role("button", name="Show").click()
            await expect(page.locator("#rows tr")).to_have_count(1)

    stage.run(main())


def test_it_moves_with_the_program_and_keeps_what_one_is_doing(stage: Stage) -> None:
    """A circuit that opens moves up, an error appears, and neither the focus nor what is typed is lost."""

    async def main() -> None:
        recovery = stage.scene.recovery
        recovery.service("zebra")
        async with stage.live() as page:
            row = page.locator(f"#s-{id_of('zebra')}")
            await expect(row).to_contain_text("closed")
            await page.get_by_role("searchbox").fill("half a na")
            await row.get_by_role("link", name="Hold open zebra").focus()
            recovery.set_circuit_mode("zebra", "forced-open", "moved by a test")
            await expect(row).to_contain_text("held open")
            await expect(row).to_contain_text("moved by a test")
            await expect(page.locator("#happenings li").first).to_contain_text("zebra")
            await expect(page.get_by_role("searchbox")).to_have_value("half a na")
            # What had the focus is gone; it is in the same row still, and not on something else by accident.
            await expect(row.get_by_role("link", name="Release zebra")).to_be_focused()
            recovery.set_circuit_mode("zebra", "normal")
            await expect(row).to_contain_text("closed")
            recovery.retire_service("zebra")
            await expect(row).to_have_count(0)

    stage.run(main())


def test_a_program_that_is_silent_is_told_and_one_that_is_back_goes_on(stage: Stage) -> None:
    """A page that stands still looks as if all were well."""

    async def main() -> None:
        async with stage.live() as page:
            await page.clock.install()
            await page.route("**/status/events*", lambda route: route.abort())
            await page.reload()
            await page.clock.run_for(7_000)
            await expect(page.locator("#live:is([data-state=late], [data-state=lost])")).to_contain_text(
                "no word for"
            )
            await page.unroute("**/status/events*")
            await page.clock.run_for(20_000)
            await expect(page.locator("#live[data-state=live]")).to_be_visible()

    stage.run(main())


CONTRAST = """
() => {
  const parse = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = (text) => {
    const [r, g, b] = parse(text).map((one) => { one /= 255; return one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor;
      if (!/, 0\\)$/.test(color)) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const worst = [];
  for (const element of document.querySelectorAll("body *")) {
    if (![...element.childNodes].some((one) => one.nodeType === 3 && one.data.trim())) continue;
    if (!element.checkVisibility() || element.closest("svg, .hidden, noscript, script")) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) worst.push(`${element.className || element.tagName} ${element.textContent.trim()}: ${ratio.toFixed(2)}`);
  }
  return worst;
}
"""


OVERLAPS = """
() => [...document.querySelectorAll("#rows tr")].flatMap((row) => {
  const boxes = [...row.children].map((cell) => [cell.dataset.label, cell.getBoundingClientRect(), cell.scrollWidth - cell.clientWidth]);
  return boxes.flatMap(([name, box, over], place) => [
    ...(over > 1 ? [`${name} is too wide by ${over}`] : []),
    ...boxes.slice(place + 1).filter(([, other]) =>
      other.width && box.left < other.right - 1 && other.left < box.right - 1 && box.top < other.bottom - 1 && other.top < box.bottom - 1
    ).map(([other]) => `${name} lies upon ${other}`),
  ]);
})
"""


EMPTIED = """
() => {
  const list = document.getElementById("pending"), before = getComputedStyle(list).display;
  list.replaceChildren("\\n\\n");
  return [before, getComputedStyle(list).display];
}
"""


HOLES = """
() => [...document.querySelectorAll(".right-column > section")].flatMap(section => {
  const last = section.lastElementChild, empty = section.getBoundingClientRect().bottom - last.getBoundingClientRect().bottom;
  return last.matches(".figure") && empty > 20 ? [`${section.innerText}: ${empty}`] : [];
}).concat([...document.querySelectorAll("thead th.p95")].filter(head => head.offsetWidth).flatMap(head => {
  const words = document.createRange();
  words.selectNodeContents(head);
  const spark = document.querySelector(".spark").getBoundingClientRect().left;
  return words.getBoundingClientRect().right > spark ? ["p95 stands over the picture"] : [];
}))
"""
"""Pictures with nothing below them, and the head of a column that is not over its numbers."""


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_it_can_be_read_on_a_phone_and_on_a_desk_dark_and_light(stage: Stage, scheme: Any) -> None:
    """
    Nothing has to be pushed aside, what is to be pressed is large enough for a thumb, and text stands out by at least
    4.5 to 1, which is AA of the accessibility guidelines.
    """

    async def main() -> None:
        phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
        async with stage.page(color_scheme=scheme, **phone) as page:
            background = await page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert background == ("rgb(11, 14, 19)" if scheme == "dark" else "rgb(243, 245, 248)")
            assert await page.evaluate(CONTRAST) == []
            assert await page.evaluate("document.documentElement.scrollWidth") == 360
            hold = page.get_by_role("link", name="Hold open news.sentiment")
            size = await hold.bounding_box()
            assert size is not None
            assert size["height"] >= 24
            for width in (700, 1060, 1300, 1400):  # at each of which it is laid out differently
                await page.set_viewport_size({"width": width, "height": 740})
                assert await page.evaluate("document.documentElement.scrollWidth") == width
                # No cell of a row lies upon the next one.
                assert await page.evaluate(OVERLAPS) == []
                assert await page.evaluate(HOLES) == []
            assert await page.evaluate(CONTRAST) == []
            await page.set_viewport_size(phone["viewport"])
            await hold.click()
            await page.wait_for_selector("#token")
            assert await page.evaluate("document.documentElement.scrollWidth") == 360
            assert await page.evaluate(CONTRAST) == []

    stage.run(main())


def test_a_circuit_is_held_open_and_released_by_keyboard_alone(stage: Stage) -> None:
    """Skip to the services, find the link, confirm with the token, and come back; a wrong token changes nothing."""

    async def main() -> None:
        recovery = stage.scene.recovery
        async with stage.live("/status?q=ledger") as page:
            await page.keyboard.press("Tab")
            await expect(page.get_by_role("link", name="To the services")).to_be_focused()
            await page.keyboard.press("Enter")
            for _ in range(20):
                await page.keyboard.press("Tab")
                if "Hold open" in await page.evaluate("document.activeElement.textContent"):
                    break
            await expect(page.get_by_role("link", name="Hold open ledger")).to_be_focused()
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("heading", name="Hold the circuit of ledger open?")).to_be_visible()
            await page.keyboard.press("Tab")
            await expect(page.get_by_label("Reason")).to_be_focused()
            await page.keyboard.type("by keyboard")
            await page.keyboard.press("Tab")
            await expect(page.get_by_label("Token")).to_be_focused()
            await page.keyboard.type("not-the-token-at-all")
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("alert")).to_contain_text("not the token")
            assert not recovery.is_circuit_open("ledger")
            await expect(page.get_by_label("Reason")).to_have_value("by keyboard")
            await page.get_by_label("Token").focus()
            await page.keyboard.type(TOKEN)
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("status")).to_contain_text("forced open")
            assert recovery.is_circuit_open("ledger")
            await expect(page.get_by_role("link", name="Back to the status")).to_be_focused()
            await page.keyboard.press("Enter")
            await expect(page.locator(f"#s-{id_of('ledger')}")).to_contain_text("by keyboard")
            recovery.set_circuit_mode("ledger", "normal")

    stage.run(main())


def test_a_screen_reader_hears_names_tables_and_what_the_pictures_show(stage: Stage) -> None:
    """Regions, headings, a table with its headers, links that say whose they are, pictures in words."""

    async def main() -> None:
        async with stage.live("/status?q=news") as page:
            heard = await page.locator("body").aria_snapshot()
            for words in (
                '- heading "shockproof" [level=1]',
                "- status:",
                '- region "Services":',
                '- columnheader "Last 15 min"',
                '- region "Errors":',
                'link "Reset news.sentiment"',
                'link "Hold open news.sentiment"',
                'img "circuit of news.sentiment: ',
                'img "How long all calls took in the last 15 min',
                'img "Lag of the event loop in the last 15 min: at worst ',
                'img "Calls in the last 15 min:',
                'searchbox "Filter"',
            ):
                assert words in heard, f"{words}\n{heard}"
            # Each cell of a row belongs to its header, and its service is what the row is called.
            row = page.locator("#rows tr").first
            await expect(row.get_by_role("rowheader")).to_contain_text("news.sentiment")
            cells = await row.get_by_role("cell").count()
            assert 1 + cells == await page.get_by_role("columnheader").count()
            # Where a list has nothing to scroll through the keyboard does not stop.
            assert await page.evaluate(EMPTIED) == ["block", "none"]

    stage.run(main())


def test_markup_of_others_is_shown_and_never_run(stage: Stage) -> None:
    """In a name, an error, a reason; drawn by the server, and by the script that exchanges parts."""

    async def main() -> None:
        recovery = stage.scene.recovery
        async with stage.live() as page:
            recovery.service(EVIL)
            recovery.set_circuit_mode(EVIL, "forced-open", EVIL)
            await expect(page.locator(f"#s-{id_of(EVIL)}")).to_contain_text(EVIL)
            await expect(page.locator("#happenings li").first).to_contain_text(EVIL)
            assert await page.locator("img").count() == 0
            assert await page.title() == "shockproof: status"
            await page.reload()
            await expect(page.locator(f"#s-{id_of(EVIL)}")).to_contain_text(EVIL)
            await page.get_by_role("link", name=f"Release {EVIL}").click()
            await expect(page.get_by_role("heading")).to_contain_text(EVIL)
            assert await page.locator("img").count() == 0
        recovery.retire_service(EVIL)

    stage.run(main())
