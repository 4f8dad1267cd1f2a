#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What the server promises about load, time and its own end: a full line, a
deadline, signs of life, signals, a prefix cache that outlives it.

    policies.py --model FOLDER

A tiny model makes it fast: build/release/tests/testing/write_tiny_chat_model
FOLDER writes one.
"""

import argparse
import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from harness import Checks, Server, find_program

TEXT = "/v1/completions"
LONG = {"prompt": "a", "max_tokens": 4000, "ignore_eos": True, "n": 8}


def soon(condition, seconds=5):
    end = time.time() + seconds
    while not condition():
        if time.time() > end:
            return False
        time.sleep(0.01)
    return True


class Stream(threading.Thread):
    """A streamed answer, as far as it comes."""

    def __init__(self, server, body):
        super().__init__(daemon=True)
        self.link = http.client.HTTPConnection(server.host, server.port, timeout=60)
        self.link.request("POST", TEXT, json.dumps({**body, "stream": True}),
                          {"Content-Type": "application/json"})
        self.text = ""
        self.status = None
        self.start()

    def run(self):
        response = self.link.getresponse()
        self.status = response.status
        for line in response:
            self.text += line.decode()

    def events(self):
        return [line[6:] for line in self.text.splitlines() if line.startswith("data: ")]

    def leave(self):
        self.link.sock.shutdown(socket.SHUT_RDWR)
        self.join(5)


def line_is_bounded(program, model, checks):
    options = ("--max-num-seqs", "8", "--max-queue", "1", "--sse-ping-interval", "0.05")
    with Server(program, model, *options) as server:
        running = Stream(server, LONG)
        checks.check(soon(lambda: server.metric("sequences_running") == 8), "eight texts run")
        waiting = Stream(server, {"prompt": "b", "max_tokens": 2})
        checks.check(soon(lambda: server.metric("sequences_waiting") == 1), "one waits")
        begun = time.time()
        status, headers, body = server.request(
            "POST", TEXT, json.dumps({"prompt": "c"}), {"Content-Type": "application/json"})
        took = time.time() - begun
        checks.check(status == 503 and headers.get("Retry-After") == "1" and took < 0.5,
                     "a full line is told at once", (status, headers, body, took))
        checks.check(soon(lambda: ":" in waiting.text and not waiting.events()), "who waits gets signs of life", waiting.text)
        running.leave()
        waiting.join(10)
        checks.check(waiting.events()[-1:] == ["[DONE]"], "and is answered when there is room", waiting.text[-200:])
        status, body = server.json("POST", TEXT, {**LONG, "timeout": 0.2})
        checks.check(status == 408 and body["error"]["code"] == "timeout", "a deadline ends a request", (status, body))
        checks.check(server.metric("sequences_running") == 0, "and frees its places")
        status, body = server.json("POST", TEXT, {"prompt": [1] * 5000, "max_tokens": 1})
        message = body["error"]["message"]
        checks.check(status == 400 and "5000" in message and "4096" in message, "a prompt beyond the context is refused with the numbers", body)
        status, body = server.json("POST", TEXT, {"prompt": [1] * 4090, "max_tokens": 100, "ignore_eos": True})
        checks.check(status == 200 and body["choices"][0]["finish_reason"] == "length"
                     and body["usage"]["total_tokens"] == 4096, "a text ends at the context", body)


def memory_is_planned(program, model, checks):
    done = subprocess.run([program, "serve", "--model", model, "--port", "0", "--max-memory", "1M"],
                          capture_output=True, text=True, timeout=30)
    checks.check(done.returncode == 1 and "MiB" in done.stderr, "too little memory is told with the numbers", done.stderr)


def ends(program, model, checks):
    with Server(program, model, "--drain-time", "20") as server:
        link = http.client.HTTPConnection(server.host, server.port, timeout=10)
        link.request("GET", "/health")
        link.getresponse().read()
        stream = Stream(server, {"prompt": "a", "max_tokens": 1500, "ignore_eos": True})
        checks.check(soon(lambda: len(stream.events()) > 3), "a stream runs")
        server.process.send_signal(signal.SIGTERM)
        refused = soon(lambda: not is_open(server), 2)
        checks.check(refused, "no new client is taken")
        stream.join(20)
        checks.check(stream.events()[-1:] == ["[DONE]"] and '"length"' in stream.text, "what runs may end", stream.text[-200:])
        checks.check(server.process.wait(5) == 0, "then the server ends well", server.process.returncode)
    with Server(program, model, "--drain-time", "0.3") as server:
        half = socket.create_connection((server.host, server.port), 10)
        half.sendall(b"GET /hea")
        stream, whole = Stream(server, LONG), Stream(server, {**LONG, "stream": False})
        checks.check(soon(lambda: len(stream.events()) > 3), "another stream runs")
        begun = time.time()
        server.process.send_signal(signal.SIGTERM)
        stream.join(10)
        last = json.loads((stream.events() or ["{}"])[-1])
        checks.check("shutting down" in last.get("error", {}).get("message", ""), "what takes too long is told", stream.text[-300:])
        code = server.process.wait(10)
        checks.check(code == 0 and time.time() - begun < 6, "and nobody holds the server up", (code, time.time() - begun))
        half.close()
        whole.join(5)
    with Server(program, model, "--drain-time", "60") as server:
        stream = Stream(server, LONG)
        checks.check(soon(lambda: len(stream.events()) > 3), "a third stream runs")
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        begun = time.time()
        server.process.send_signal(signal.SIGINT)
        server.process.wait(10)
        checks.check(time.time() - begun < 3, "a second signal ends it at once", time.time() - begun)


def is_open(server):
    try:
        socket.create_connection((server.host, server.port), 1).close()
        return True
    except OSError:
        return False


def cache_outlives(program, model, checks):
    body = {"prompt": list(range(1, 201)), "max_tokens": 1, "temperature": 0}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prefixes"

        def cached(*options):
            with Server(program, model, "--prompt-cache-file", file, *options) as server:
                status, answer = server.json("POST", TEXT, body)
                usage = answer["usage"]["prompt_tokens_details"]
                return status, answer["choices"][0]["text"], usage["cached_tokens"]

        first, second = cached(), cached()
        checks.check(first[2] == 0 and second[2] == 192, "prompts are found again after a restart", (first, second))
        checks.check(first[:2] == second[:2], "with the same answer", (first, second))
        checks.check(stat.S_IMODE(file.stat().st_mode) == 0o600, "the file is its owner's", oct(file.stat().st_mode))
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        third = cached()
        checks.check(third == (first[0], first[1], 0), "a damaged file is ignored", third)
        fourth = cached("--kv-bits", "8", "--kv-group-size", "32")
        checks.check(fourth[0] == 200 and fourth[2] == 0, "and one of another kind", fourth)
        checks.check(os.listdir(folder) == ["prefixes"], "nothing else is left there", os.listdir(folder))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    arguments = parser.parse_args()
    checks = Checks()
    program = str(find_program())
    for part in (line_is_bounded, memory_is_planned, ends, cache_outlives):
        part(program, arguments.model, checks)
    sys.exit(0 if checks.report("policies") else 1)


main()
