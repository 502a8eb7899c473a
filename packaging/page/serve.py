#!/usr/bin/env python3
"""Serves the web page as a director does, with its security policy, and a canned status. Prints its port, then runs
until it is ended.

usage: serve.py PAGE.html PAGE.rs STATUS.json
"""

import http.server
import json
import re
import sys


def main():
    page, source, status = sys.argv[1:]
    with open(status, encoding="utf-8") as file:
        status = json.load(file)
    policy = policy_of(source)
    answers = 0

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            nonlocal answers
            if self.path == "/":
                with open(page, "rb") as file:
                    self.answer("text/html; charset=utf-8", file.read())
            elif self.path == "/status.json":
                answers += 1
                waver(status, answers)
                self.answer("application/json", json.dumps(status).encode())
            else:
                self.send_error(404)

        def answer(self, kind, body):
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", policy)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    print(server.server_port, flush=True)
    server.serve_forever()


def policy_of(source):
    """The constant of the Rust source, whose lines a backslash joins."""
    with open(source, encoding="utf-8") as file:
        literal = re.search(r'CONTENT_SECURITY_POLICY: &str = "(.*?)";', file.read(), re.S)[1]
    return re.sub(r"\\\n\s*", "", literal)


def waver(status, answers):
    """Rates change from answer to answer, so that sparklines have a shape."""
    factor = 1 + (answers * 7 % 5 - 2) / 20
    for vip in status["vips"]:
        for part in [vip, *vip["backends"]]:
            second = part["rates"]["second"]
            part["rates"]["second"] = {key: value * factor for key, value in second.items()}


main()
