#!/usr/bin/env python3
"""Has a headless Chromium show the web page of a director and looks at what it shows.

The page and its security policy are those of the sources, the status is canned (serve.py); or both are those of a
running director. The browser is driven over a pipe by the DevTools protocol.

usage: check.py [FOLDER]            the canned status; pictures go to FOLDER
       check.py --live URL TEXT...  a director's page, which must show each text
"""

import base64
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
SOURCES = HERE.parent.parent / "src" / "api"
DEADLINE = 60  # seconds for each thing that is waited for; on two busy cores a browser takes ten to start

SHOWN = [
    "tunlb on lb1", "not ready", "203.0.113.10:443/tcp, ipip, ring 9f3a1c07", "3 of 3 healthy, 2 in the ring",
    "10.0.1.11", "10.0.1.12", "10.0.1.13", "66.7 %", "known flows only; draining",
    "changed by ann, for 16 min more (new kernel <b>tonight</b>)", "[2001:db8::53]:any/udp, gue port 6080",
    "<img src=x onerror=alert(1)>", "no_backend", "not sent: EPERM", "Dropped: too_big 3",
    "The last reload was refused: /etc/tunlb/tunlb.toml:12", "net.ipv4.ip_forward is 0",
    "18.2 k of 1.0 M", "3 overrides", "up 3 d 4 h",
]


def main():
    if sys.argv[1:2] == ["--live"]:
        with Browser() as browser:
            browser.open(sys.argv[2])
            for text in sys.argv[3:]:
                browser.wait_for_text(text)
            check_quiet(browser)
        print("page: shows a running director")
        return
    pictures = pathlib.Path(sys.argv[1]) if sys.argv[1:] else None
    arguments = [HERE / "serve.py", SOURCES / "page.html", SOURCES / "page.rs", HERE / "status.json"]
    server = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        with Browser() as browser:
            check_canned(browser, f"http://127.0.0.1:{server.stdout.readline().strip()}/", server, pictures)
    finally:
        server.kill()
        server.wait()
    print("page: rendered wide, dark and on a phone, and without a director")


def check_canned(browser, url, server, pictures):
    browser.screen(1280, 1000)
    browser.open(url)
    for text in SHOWN:
        browser.wait_for_text(text)
    expect(browser.value("document.querySelectorAll('img').length") == 0, "the name of a VIP became markup")
    browser.wait("three points on a sparkline",
                 "document.querySelector('article polyline').getAttribute('points').split(' ').length >= 3")
    shares = browser.value("[...document.querySelector('.bar').children].map((slice) => slice.offsetWidth)")
    expect(abs(shares[0] - 2 * shares[2]) < 5 and shares[1] == 0, f"slices of the ring: {shares}")
    browser.picture(pictures, "wide")
    light = browser.value("getComputedStyle(document.body).backgroundColor")
    browser.prefer("dark")
    expect(browser.value("getComputedStyle(document.body).backgroundColor") != light, "dark is as light")
    browser.picture(pictures, "dark")
    browser.prefer("light")
    check_filter(browser)
    browser.screen(390, 844)
    width = browser.value("document.documentElement.scrollWidth")
    expect(width <= 390, f"{width} pixels wide on a screen of 390")
    browser.picture(pictures, "phone")
    check_quiet(browser)
    server.kill()
    server.wait()
    browser.wait_for_text("The director does not answer: ")
    browser.wait_for_text("10.0.1.11")
    browser.wait("the title", "document.title === 'tunlb: no answer'")
    browser.picture(pictures, "gone")


def check_filter(browser):
    browser.value("document.getElementById('filter').value = '1::13'; "
                  "document.getElementById('filter').dispatchEvent(new Event('input'))")
    browser.wait_for_text("1 of 2 VIPs")
    expect(browser.value("document.querySelectorAll('article').length") == 1, "the filter does not filter")
    browser.value("document.getElementById('filter').value = ''; "
                  "document.getElementById('filter').dispatchEvent(new Event('input'))")
    browser.wait("both VIPs", "document.querySelectorAll('article').length === 2")


def check_quiet(browser):
    """The policy refused nothing, and no script failed."""
    expect(not browser.complaints, f"the browser complains: {browser.complaints}")


def expect(holds, text):
    if not holds:
        sys.exit(f"page: {text}")


class Browser:
    """A Chromium with one page. Messages are JSON, each ended by a zero byte (--remote-debugging-pipe)."""

    def __enter__(self):
        self.folder = tempfile.mkdtemp()
        to_browser, self.output = os.pipe()
        self.input, from_browser = os.pipe()
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                   "--hide-scrollbars", "--no-first-run", f"--user-data-dir={self.folder}",
                   "--remote-debugging-pipe", "about:blank"]

        def place_pipes():  # where the browser looks for them
            os.dup2(to_browser, 103)
            os.dup2(from_browser, 104)
            os.dup2(103, 3)
            os.dup2(104, 4)

        self.log = open(os.path.join(self.folder, "log"), "w+", encoding="utf-8", errors="replace")
        self.process = subprocess.Popen(command, preexec_fn=place_pipes, pass_fds=(3, 4), stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log, start_new_session=True)
        os.close(to_browser)
        os.close(from_browser)
        self.rest, self.number, self.session, self.complaints = b"", 0, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Log"]:
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        os.killpg(self.process.pid, 9)
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.output, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + DEADLINE
        while True:
            answer = self.read(end, method)
            if answer.get("id") == self.number:
                expect("error" not in answer, f"{method}: {answer.get('error')}")
                return answer["result"]
            self.note(answer)

    def read(self, end, waiting_for):
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.input], [], [], max(0, end - time.monotonic()))
            part = os.read(self.input, 1 << 20) if ready else b""
            if not part:
                self.log.seek(0)
                sys.exit(f"page: no answer of the browser to {waiting_for}\n{self.log.read()}")
            self.rest += part
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def note(self, event):
        """Failures of scripts and what the policy refused; not that a director does not answer."""
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(event["params"]["exceptionDetails"])
        if event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
            self.complaints.append(event["params"]["entry"]["text"])

    def open(self, url):
        self.call("Page.navigate", url=url)

    def screen(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 600)

    def prefer(self, scheme):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def value(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        expect("exceptionDetails" not in result, f"{expression}: {result}")
        return result["result"].get("value")

    def wait(self, what, expression):
        end = time.monotonic() + DEADLINE
        while not self.value(expression):
            expect(time.monotonic() < end, f"waited {DEADLINE} s for: {what}; {self.complaints}\n{self.text()}")
            time.sleep(0.05)

    def wait_for_text(self, text):
        self.wait(text, f"document.body !== null && document.body.innerText.includes({json.dumps(text)})")

    def text(self):
        return self.value("document.body.innerText")

    def picture(self, folder, name):
        if folder:
            data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
            (folder / f"{name}.png").write_bytes(base64.b64decode(data))


main()
