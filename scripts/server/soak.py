#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Many streams for a long time, with clients that leave at random: memory must
level out, no request may be lost, wrong or hang. Then slow-loris connections,
which send their requests a byte at a time, beside real clients.

    soak.py [--model FILE] [--minutes 10] [--streams 32] [--slow 500]
"""

import argparse
import json
import multiprocessing
import random
import socket
import sys
import threading
import time

from harness import Checks, Server, default_model, find_program

HEAD = (b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n")
SAMPLES = 300
PROMPTS = [f"A list of {word}: one," for word in
           ("rivers", "kings", "numbers", "colours", "songs", "trees", "towns", "stars")]


def body_of(rng):
    return {"prompt": rng.choice(PROMPTS) * rng.randint(1, 12), "seed": rng.randrange(4),
            "max_tokens": rng.choice([1, 8, 24]), "temperature": rng.choice([0, 0.8]),
            "stream": True}


def stream(server, body, most_events=None, timeout=120):
    """The text and how it ended; None where the client left."""
    data = json.dumps(body).encode()
    text, reason, count = "", None, 0
    with socket.create_connection((server.host, server.port), timeout) as link:
        link.sendall(HEAD % len(data) + data)
        for line in link.makefile("rb"):
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if event.get("error"):
                raise RuntimeError(event["error"])
            for choice in event.get("choices", []):
                text += choice.get("text") or ""
                reason = choice.get("finish_reason") or reason
            count += 1
            if most_events and count >= most_events:
                return None
    return text, reason


class Client(threading.Thread):
    """Asks again and again until the time is over."""

    def __init__(self, server, number, until, said, checks):
        super().__init__(daemon=True)
        self.rng = random.Random(number)
        self.server, self.until, self.said, self.checks = server, until, said, checks
        self.number_done = 0

    def run(self):
        while time.time() < self.until:
            body = body_of(self.rng)
            leaves = self.rng.randint(1, 4) if self.rng.random() < 0.2 else None
            try:
                answer = stream(self.server, body, leaves)
            except Exception as error:
                self.checks.check(False, "a request", repr(error))
                continue
            if answer:
                first = self.said.setdefault(json.dumps(body, sort_keys=True), answer)
                self.checks.check(answer == first and answer[1], "an answer is the same each time",
                                  (body, first, answer))
            self.number_done += 1


def slope(points):
    """Least squares of (minutes, MiB)."""
    n = len(points)
    mean_x = sum(x for x, _ in points) / n
    mean_y = sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def soak(server, arguments, checks):
    begun = time.time()
    until = begun + 60 * arguments.minutes
    said = {}
    clients = [Client(server, number, until, said, checks) for number in range(arguments.streams)]
    for client in clients:
        client.start()
    points = []
    while time.time() < until:
        time.sleep(2)
        points.append(((time.time() - begun) / 60, server.memory() / 2**20))
    for client in clients:
        client.join(180)
    checks.check(not any(client.is_alive() for client in clients), "no client hangs")
    # What is still filling, the prefix cache first of all, is warm-up.
    warm = [point for point in points if point[0] >= arguments.minutes / 3] or points
    growth = slope(warm)
    checks.check(growth <= 1, "memory levels out", f"{growth:.2f} MiB a minute")
    deadline = time.time() + 20
    while time.time() < deadline and server.metric("sequences_running"):
        time.sleep(0.1)
    checks.check(server.metric("sequences_running") == 0, "nothing runs on")
    checks.check(server.metric("kv_blocks_available") == server.metric("kv_blocks"), "no block is lost")
    print(f"{sum(client.number_done for client in clients)} requests in {arguments.minutes:g} minutes, "
          f"{server.metric('disconnects_total'):.0f} clients left; memory {warm[0][1]:.0f} -> {warm[-1][1]:.0f} MiB, "
          f"{growth:+.2f} MiB a minute", flush=True)


def first_token_times(server, count):
    times = []
    for number in range(count):
        begun = time.perf_counter()
        stream(server, {"prompt": f"{number} " + PROMPTS[0], "max_tokens": 1, "stream": True})
        times.append(time.perf_counter() - begun)
    return sorted(times)


def drip(host, port, count, opened):
    """Holds connections that send a byte of their header twice a second, evenly
    over that time."""
    links = []
    for _ in range(count):
        try:
            link = socket.create_connection((host, port), 5)
            link.setblocking(False)
            link.send(b"POST /v1/completions HTTP/1.1\r\nX-Slow: ")
            links.append(link)
        except OSError:
            pass
    opened.put(len(links))
    while True:
        for link in links:
            time.sleep(0.5 / len(links))
            try:
                link.send(b"X")
            except OSError:
                pass


def slow_loris(server, arguments, checks):
    first_token_times(server, 20)
    quiet = first_token_times(server, SAMPLES)
    # A process of its own: in this one it would hold up the clients' threads.
    opened = multiprocessing.Queue()
    slow = multiprocessing.Process(
        target=drip, args=(server.host, server.port, arguments.slow, opened), daemon=True)
    slow.start()
    try:
        count = opened.get(timeout=60)
        beside = first_token_times(server, SAMPLES)
    finally:
        slow.terminate()
        slow.join()
    alone, crowded = (times[int(0.99 * SAMPLES)] * 1e3 for times in (quiet, beside))
    print(f"{count} slow connections: time to first token, 99th percentile {alone:.1f} ms alone, "
          f"{crowded:.1f} ms beside them ({crowded / alone:.2f} x)", flush=True)
    checks.check(count == arguments.slow, "the slow connections stand", count)
    checks.check(server.alive, "the server lives")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=None)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--slow", type=int, default=500)
    arguments = parser.parse_args()
    checks = Checks()
    with Server(find_program(), arguments.model or default_model(), "--max-memory", "2G",
                "--max-num-seqs", "64", "--max-connections", "1024") as server:
        slow_loris(server, arguments, checks)
        soak(server, arguments, checks)
    sys.exit(0 if checks.report("soak") else 1)


main()
