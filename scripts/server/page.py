#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Drives the chat page in headless Chromium as a person would: sends, watches
the answer come, stops, reloads, edits; on a phone, in the dark, by keyboard
alone; and shows it answers with thinking and code, and answers that try to run
scripts.

    page.py [--model FILE] [--screenshots FOLDER]

Needs chromium and chromium-driver on the PATH.
"""

import argparse
import http.client
import json
import shutil
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from harness import Checks, Server, default_model, find_program

# Each would set `attacked`, fetch from elsewhere or leave the page.
HOSTILE = r"""<script>window.attacked = 1</script>
<img src=x onerror="window.attacked = 2"> <svg onload="window.attacked = 3"></svg>
<iframe srcdoc="<script>parent.attacked = 4</script>"></iframe>
<form action="http://elsewhere.example/"><input name=a><button>Send</button></form>
<style>body { display: none }</style><base href="http://elsewhere.example/">
[link](javascript:window.attacked=5) [data](data:text/html,<script>attacked=6</script>)
[vb](vbscript:attacked) [spaced](java&#x09;script:window.attacked=7)
![picture](http://elsewhere.example/picture.png "onerror=attacked=8")
<http://elsewhere.example/plain> [ok](https://example.com "\" onmouseover=\"window.attacked=9")

```html" onmouseover="window.attacked=10
<script>window.attacked = 11</script>
```

```html
<script>window.attacked = 12</script>
```

`<b onclick=attacked>` &lt;script&gt;window.attacked = 13&lt;/script&gt; </div></article></main>
"""


# Shows what Markdown and code look like.
RICH = """A short answer with **bold**, *italic*, `code` and [a link](https://example.com/).

```cpp
// Adds two numbers.
template <typename T>
T add(T a, T b) { return a + b; } // and a line that is longer than the page is wide, so that it has to scroll
const char* text = "forty-two: " "42"; const double x = 4.2e1;
```

```html
<p class="note">Text &amp; more</p>
```

| name | value | meaning |
|---|---:|---|
| one | 1 | the first |
| twenty | 20 | a larger number |

1. A list
2. of two

> What somebody said.
"""
THOUGHTS = "First I look at what was asked.\n\nThen I think of an answer. " * 8


class FakeModel(ThreadingHTTPServer):
    """The real server's page, with an answer of our own, `pause` seconds between
    its pieces of a few characters: every unfinished state is shown."""

    def __init__(self, server, reasoning, content, pause=0):
        self.server = server
        self.fields = (("reasoning_content", reasoning), ("content", content))
        self.pause = pause
        super().__init__(("127.0.0.1", 0), FakeAnswers)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class FakeAnswers(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        real = self.server.server
        link = http.client.HTTPConnection(real.host, real.port, timeout=30)
        link.request("GET", self.path)
        response = link.getresponse()
        body = response.read()
        self.send_response(response.status)
        for name in ("Content-Type", "Content-Security-Policy", "X-Content-Type-Options"):
            if response.headers.get(name):
                self.send_header(name, response.headers[name])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for field, text in self.server.fields:
            for at in range(0, len(text), 7):
                event = {"choices": [{"index": 0, "delta": {field: text[at:at + 7]}}]}
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                time.sleep(self.server.pause)
        self.wfile.write(b"data: [DONE]\n\n")


class Page:
    """The page in a browser of its own."""

    def __init__(self, url):
        options = webdriver.ChromeOptions()
        for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage",
                       "--disable-gpu", "--window-size=1200,800"):
            options.add_argument(option)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
        self.browser = webdriver.Chrome(options=options, service=service)
        self.url = url
        self.browser.get(url)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.browser.quit()

    def find(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def script(self, text, *arguments):
        return self.browser.execute_script(text, *arguments)

    def wait(self, condition, seconds=60):
        try:
            WebDriverWait(self.browser, seconds, poll_frequency=0.02,
                          ignored_exceptions=[Exception]).until(lambda _: condition())
            return True
        except Exception:
            return False

    def send(self, text):
        self.one("#input").send_keys(text, Keys.ENTER)

    def is_idle(self):
        return self.one("#send").is_displayed() and not self.one("#stop").is_displayed()

    def answer(self):
        return self.script("return document.querySelector('article:last-child .text')?.textContent ?? ''")

    def prefer(self, scheme):
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "features": [{"name": "prefers-color-scheme", "value": scheme}]})

    def contrast(self, selector):
        """WCAG's ratio of the element's text to what is behind it."""
        return self.script("""
            const light = (color) => {
              const parts = color.match(/[\\d.]+/g).slice(0, 3).map((part) => {
                const value = part / 255;
                return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
              });
              return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
            };
            const node = document.querySelector(arguments[0]);
            let behind = node;
            const isClear = (each) => /rgba\\(.*, 0\\)|transparent/.test(getComputedStyle(each).backgroundColor);
            while (behind.parentElement && isClear(behind)) behind = behind.parentElement;
            const ground = isClear(behind) ? "rgb(255,255,255)" : getComputedStyle(behind).backgroundColor;
            const values = [light(getComputedStyle(node).color), light(ground)].sort((a, b) => b - a);
            return (values[0] + 0.05) / (values[1] + 0.05);""", selector)

    def requests(self):
        """Addresses that the page asked for."""
        out = []
        for entry in self.browser.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                out.append(message["params"]["request"]["url"])
        return out


def talk(page, server, checks, shoot):
    page.one("#settings summary").click()
    page.one("#temperature").send_keys("0")
    page.one("#settings summary").click()
    page.send("What is the capital of France?")
    checks.check(page.wait(lambda: page.is_idle() and page.answer()), "an answer ends")
    checks.check("Paris" in page.answer(), "the answer is right", page.answer())
    checks.check(page.one("#input").get_attribute("value") == "", "Enter leaves nothing behind")
    checks.check("tokens/s" in page.one("article:last-child .tools").text, "tokens/s are shown")
    shoot("answer")

    page.send("Write a very long story about a river.")
    lengths = set()

    def has_grown():
        lengths.add(len(page.answer()))
        return len(lengths) > 3 and max(lengths) > 40

    checks.check(page.wait(has_grown), "the answer comes piece by piece", lengths)
    page.one("#stop").click()
    checks.check(page.wait(page.is_idle, 5), "Stop stops")
    kept = page.answer()
    time.sleep(0.5)
    checks.check(page.answer() == kept, "nothing comes after Stop")
    checks.check(page.wait(lambda: server.metric("sequences_running") == 0, 5), "the server stops too")

    page.browser.refresh()
    checks.check(page.wait(lambda: len(page.find("article")) == 4), "a reload keeps the conversation")
    checks.check(page.answer() == kept, "with the answer as it was stopped")
    checks.check(page.find("#conversations li")[0].text.startswith("What is the capital"), "and its title")
    checks.check(page.one("#temperature").get_attribute("value") == "0", "and the settings")

    page.find("article.assistant")[0].find_element(By.XPATH, ".//button[text()='Regenerate']").click()
    checks.check(page.wait(lambda: page.is_idle() and "Paris" in page.answer()), "Regenerate answers again")
    checks.check(len(page.find("article")) == 2, "and drops what came after")
    page.find("article.user")[0].find_element(By.XPATH, ".//button[text()='Edit']").click()
    checks.check(page.one("#input").get_attribute("value").startswith("What is"), "Edit gives the message back")
    page.one("#input").clear()
    page.send("Count from one to a thousand in words.")
    checks.check(page.wait(lambda: len(page.answer()) > 20), "an edited message is answered")
    page.one("#input").send_keys(Keys.ESCAPE)
    checks.check(page.wait(page.is_idle, 5), "Escape stops")

    page.one("#new").click()
    checks.check(len(page.find("article")) == 0, "a new conversation is empty")
    page.find("#conversations li:nth-child(2) button")[0].click()
    checks.check(len(page.find("article")) == 2, "the old one is still there")


def look(page, checks, shoot):
    outside = [url for url in page.requests() if not url.startswith((page.url, "data:,"))]
    checks.check(not outside, "nothing is asked from elsewhere", outside)
    errors = [entry["message"] for entry in page.browser.get_log("browser")
              if entry["level"] == "SEVERE"]
    checks.check(not errors, "no error in the console", errors)
    page.script("document.querySelector('#settings').open = true")
    for control in page.find("button, input, textarea, summary"):
        name = control.accessible_name or control.get_attribute("textContent")
        checks.check(name.strip(), "a control has a name", control.get_attribute("outerHTML"))
    grounds = set()
    for scheme in ("light", "dark"):
        page.prefer(scheme)
        time.sleep(0.3)
        grounds.add(page.script("return getComputedStyle(document.body).backgroundColor"))
        for selector in ("article:last-child .text", "article h2", "#send", "#input", "label", "#conversations button"):
            contrast = page.contrast(selector)
            checks.check(contrast >= 4.5, f"{selector} can be read, {scheme}", f"{contrast:.2f}")
        shoot(scheme)
    checks.check(len(grounds) == 2, "dark differs from light", grounds)
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": 375, "height": 667, "deviceScaleFactor": 2, "mobile": True})
    time.sleep(0.3)
    checks.check(page.script("return document.documentElement.scrollWidth <= 375"), "a phone scrolls up and down only")
    checks.check(page.one("#menu").is_displayed() and not page.one("#new").is_displayed(), "a phone has a menu")
    shoot("phone")
    page.one("#menu").click()
    checks.check(page.wait(lambda: page.one("#new").is_displayed(), 3), "the menu opens")
    checks.check(page.one("#menu").get_attribute("aria-expanded") == "true", "and says so")
    shoot("phone menu")
    page.find("#conversations li button")[0].click()
    checks.check(not page.one("#new").is_displayed() and page.one("#menu").get_attribute("aria-expanded") == "false",
                 "and closes when a conversation is chosen")


def read(url, checks, shoot):
    """Thinking, Markdown and code."""
    with Page(url) as page:
        page.send("What is the answer?")
        is_open = "return document.querySelector('article details')?.open"
        checks.check(page.wait(lambda: page.script(is_open)), "thinking is shown while it goes on")
        page.one("article summary").click()
        checks.check(not page.script(is_open), "and can be folded meanwhile")
        time.sleep(0.3)
        checks.check(not page.script(is_open), "and stays so")
        page.one("article summary").click()
        checks.check(page.wait(lambda: page.is_idle() and "somebody" in page.answer()), "the answer ends")
        checks.check(page.script(is_open), "what the reader opened stays open")
        page.send("And now?")
        checks.check(page.wait(lambda: len(page.find("article")) == 4 and page.answer()), "an answer begins")
        last = "return document.querySelector('article:last-child details').open"
        checks.check(not page.script(last), "thinking is folded when the answer begins")
        checks.check(page.wait(page.is_idle), "it ends")
        checks.check(page.find("article:last-child table td") and page.find("article:last-child pre code span"),
                     "tables and code are shown as such")
        left = "return document.querySelector(arguments[0]).getBoundingClientRect().left"
        checks.check(abs(page.script(left, "article:last-child .text") - page.script(left, "#input")) <= 1,
                     "texts and form are in line")
        aligned = page.script("return getComputedStyle(document.querySelector('article:last-child td:nth-child(2)')).textAlign")
        checks.check(aligned == "right", "columns are aligned as the model says", aligned)
        page.script("document.querySelector('article:last-child').scrollIntoView()")
        shoot("thinking folded", page)
        for scheme in ("light", "dark"):
            page.prefer(scheme)
            time.sleep(0.3)
            classes = page.script("""return [...new Set([...document.querySelectorAll('article:last-child pre span')]
                .map((node) => '.' + [...node.classList].join('.')))]""")
            for selector in (*classes, ".text a", ".text code", ".thinking", "summary"):
                contrast = page.contrast("article:last-child " + selector)
                checks.check(contrast >= 4.5, f"{selector} can be read, {scheme}", f"{contrast:.2f}")
            page.script("document.querySelector('#messages').scrollTop = 1e6")
            shoot(f"code {scheme}", page)
        page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": 375, "height": 667, "deviceScaleFactor": 2, "mobile": True})
        page.browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
        time.sleep(0.3)
        checks.check(page.script("return document.documentElement.scrollWidth <= 375"), "code scrolls by itself on a phone")
        small = page.script("""return [...document.querySelectorAll('main button')].map((node) => [node.textContent, node.getBoundingClientRect().height])
            .filter(([, height]) => height > 0 && height < 24)""")
        checks.check(not small, "what fingers press is large enough", small)
        shoot("code phone", page)


def resist(url, checks, shoot):
    with Page(url) as page:
        page.one("#input").send_keys(HOSTILE.replace("\n", " "))
        page.one("#send").click()
        checks.check(page.wait(lambda: page.is_idle() and "onclick" in page.answer()), "a hostile answer is shown")
        for details in page.find("article details"):
            page.script("arguments[0].open = true", details)
        for node in page.find("article *"):
            page.script("arguments[0].dispatchEvent(new MouseEvent('mouseover', {bubbles: true}))", node)
        time.sleep(0.5)
        checks.check(page.script("return window.attacked === undefined"), "no script of an answer runs",
                     page.script("return window.attacked"))
        made = page.script("""return [...document.querySelectorAll("#messages *")].filter((node) =>
            ["SCRIPT", "IMG", "SVG", "IFRAME", "FORM", "STYLE", "BASE", "INPUT", "OBJECT", "EMBED"]
              .includes(node.tagName.toUpperCase()) ||
            [...node.attributes].some((each) => each.name.startsWith("on") || each.name === "style"))
            .map((node) => node.outerHTML)""")
        checks.check(not made, "no HTML of an answer is kept", made)
        links = page.script("return [...document.querySelectorAll('#messages a')].map((link) => link.href)")
        checks.check(links and all(link.startswith(("http://", "https://")) for link in links),
                     "links lead to sites only", links)
        outside = [each for each in page.requests() if not each.startswith((url, "data:,"))]
        checks.check(not outside, "an answer fetches nothing", outside)
        checks.check(page.one("#input").is_displayed(), "the page is still there")
        shoot("hostile", page)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=None)
    parser.add_argument("--screenshots", type=Path, default=None)
    arguments = parser.parse_args()
    checks = Checks()
    with Server(find_program(), arguments.model or default_model(), "--max-memory", "2G") as server:
        with Page(server.url) as page:
            def shoot(name, of=page):
                if arguments.screenshots:
                    arguments.screenshots.mkdir(parents=True, exist_ok=True)
                    of.browser.save_screenshot(str(arguments.screenshots / f"{name}.png"))

            talk(page, server, checks, shoot)
            look(page, checks, shoot)
            read(FakeModel(server, THOUGHTS, RICH, pause=0.02).url, checks, shoot)
            resist(FakeModel(server, HOSTILE, HOSTILE).url, checks, shoot)
        policy = server.request("GET", "/")[1].get("Content-Security-Policy", "")
        checks.check("default-src 'none'" in policy and "unsafe" not in policy, "a strict policy", policy)
    sys.exit(0 if checks.report("chat page") else 1)


main()
