"""Pages in a real browser: opened, listened to, and held against what all of them must keep to."""

from __future__ import annotations

import base64
from collections.abc import Collection
from typing import Literal

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

PATIENCE = 30_000.0  # milliseconds for whatever a page waits for, on a machine that does other things too


class OpenPage:
    """Opens addresses, each in a browser that knows nothing yet, and notes what their pages complain of."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self.contexts: list[BrowserContext] = []
        self.complaints: list[str] = []

    def __call__(
        self, url: str, *, width: int = 1440, dark: bool = False, refusals: Collection[int] = (), cut_off: bool = False
    ) -> Page:
        """The page at `url`. What the browser may complain of, since the test provokes it: `refusals`, statuses of
        answers; `cut_off`, a service that is not there for a while.
        """
        scheme: Literal["dark", "light"] = "dark" if dark else "light"
        context = self._browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(PATIENCE)
        self.contexts.append(context)
        page = context.new_page()

        def note(message: ConsoleMessage) -> None:
            provoked = any(f"responded with a status of {status} " in message.text for status in refusals)
            provoked |= cut_off and "net::ERR_" in message.text
            if message.type in ("error", "warning") and not provoked:
                self.complaints.append(f"{message.text} ({message.location})")

        page.on("console", note)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(url)
        return page


def assert_accessible(page: Page) -> None:
    """No violation of WCAG 2.1 A and AA that axe finds, and nothing wider than the screen."""
    rules = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}
    found = Axe().run(page, options=rules).response["violations"]
    told = [(each["id"], [node["html"][:200] for node in each["nodes"][:5]]) for each in found]
    assert not told, told
    wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wider <= 0, f"the page is {wider} pixels wider than the screen"


def assert_not_pressed(page: Page) -> None:
    """Each chart is as wide as its place, also where that has become narrower by another chart beside it."""
    page.wait_for_function(
        "[...document.querySelectorAll('canvas')].every(one => Math.abs(one.clientWidth - one.width) < 2)"
    )


def drop(page: Page, name: str, content: bytes, more: int = 0) -> None:
    """Drop a file on the page, as a mouse does: `content`, and so many zeros behind it."""
    make = """([name, bytes, more]) => {
      const data = new DataTransfer();
      const content = Uint8Array.from(atob(bytes), (one) => one.charCodeAt(0));
      data.items.add(new File([content, new Uint8Array(more)], name));
      return data;
    }"""
    data = page.evaluate_handle(make, [name, base64.b64encode(content).decode(), more])
    page.dispatch_event(".drop", "drop", {"dataTransfer": data})
