"""Looking at a page: it loads without an error on the console, without a request to another host, within its
Content-Security-Policy, and axe finds no serious fault. A screenshot is kept of each, if a folder for them is named.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request

# What axe calls these keeps somebody from using the page.
SERIOUS = {"serious", "critical"}
# Of what is well, axe need not say where it is.
_FAULTS_ONLY = {"resultTypes": ["violations"]}
_VIOLATIONS = """
    window.__violations = [];
    document.addEventListener("securitypolicyviolation", (event) => {
        window.__violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`);
    });
"""


@dataclass
class Looker:
    """A browser that notes what is wrong with the pages it is shown."""

    browser: Browser
    folder: Path | None = None
    faults: list[str] = field(default_factory=list)
    contexts: list[BrowserContext] = field(default_factory=list)
    _axe: Axe = field(default_factory=Axe)

    def window(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> Page:
        """A new window with nobody signed in."""
        context = self.browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        context.add_init_script(_VIOLATIONS)
        self.contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: self._hear(page, message))
        page.on("pageerror", lambda error: self.faults.append(f"{page.url}: {error}"))
        page.on("request", lambda request: self._watch(page, request))
        return page

    def over(self, page: Page, name: str, *, axe: bool = True) -> None:
        """Look the present page over and keep its picture as ``name``."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=self.folder / f"{re.sub(r'[^a-z0-9_-]+', '-', name.lower())}.png", full_page=True)
        self.faults += [f"{page.url}: policy: {each}" for each in page.evaluate("window.__violations")]
        if axe:
            found = self._axe.run(page, options=_FAULTS_ONLY).response["violations"]
            self.faults += [
                f"{page.url}: {fault['id']}: {fault['help']}: {fault['nodes'][0]['html'][:200]}"
                for fault in found
                if fault["impact"] in SERIOUS
            ]

    def visit(self, page: Page, address: str, *, name: str = "", axe: bool = True, status: int = 200) -> None:
        """Open an address and look it over."""
        answer = page.goto(address)
        assert answer is not None
        if answer.status != status:
            self.faults.append(f"{address}: {answer.status}")
        self.over(page, name or urlsplit(address).path.strip("/") or "root", axe=axe)

    def close(self) -> None:
        """Close every window."""
        for context in self.contexts:
            context.close()

    def _hear(self, page: Page, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.faults.append(f"{page.url}: {message.type} on the console: {message.text}")

    def _watch(self, page: Page, request: Request) -> None:
        asked = urlsplit(request.url)
        if asked.scheme not in {"data", "blob"} and asked.hostname not in {"127.0.0.1", "localhost"}:
            self.faults.append(f"{page.url}: asked {request.url}")
