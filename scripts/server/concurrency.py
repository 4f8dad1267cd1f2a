#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Many requests at once say what each says alone, byte for byte; canary words
never cross; the prefix cache changes nothing; clients that leave free what they
held.

    concurrency.py [--model FILE] [--requests 64] [--rounds 1] [--longest 4000]
                   [--kv-bits 8] [--device gpu --exact]

On a GPU that holds with --exact, its deterministic mode.
"""

import argparse
import json
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from harness import Checks, Server, default_model, find_program

WORDS = ("the a of river stone light house garden winter letter old small "
         "green open walks sings under over and but while never always").split()


def make_requests(count, longest, seed):
    rng = random.Random(seed)
    shared = " ".join(rng.choices(WORDS, k=600))
    requests = []
    for number in range(count):
        length = int(longest ** rng.random())
        own = " ".join(rng.choices(WORDS, k=max(1, length)))
        if rng.random() < 0.3:
            own = shared[: rng.randrange(len(shared))] + own
        canary = f"canary{rng.randrange(10**9)}"
        prompt = f"My secret word is {canary}. {own} My secret word is"
        body = {"prompt": prompt, "max_tokens": rng.randint(1, 32), "seed": number,
                "temperature": rng.choice([0, 0, 0.8, 1.2]), "top_p": rng.choice([1, 1, 0.9]),
                "top_k": rng.choice([0, 0, 30]), "stop": rng.choice([None, None, ["."], ["\n", " the"]]),
                "frequency_penalty": rng.choice([0, 0, 0.5])}
        requests.append((canary, body))
    return requests


def ask(server, body):
    status, _, text = server.request("POST", "/v1/completions", body, timeout=1800)
    if status != 200:
        return status, text.decode()
    choice = json.loads(text)["choices"][0]
    return status, choice["text"] + "|" + choice["finish_reason"]


def leave(server, body):
    """A client that goes away in the middle."""
    import socket
    data = json.dumps({**body, "max_tokens": 500, "stream": True, "stop": None}).encode()
    with socket.create_connection((server.host, server.port)) as link:
        link.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                     b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        link.settimeout(random.random() * 2)
        try:
            link.recv(1000)
        except TimeoutError:
            pass


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=None)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--longest", type=int, default=4000)
    parser.add_argument("--kv-bits", choices=["4", "8"])
    parser.add_argument("--device", choices=["cpu", "gpu"])
    parser.add_argument("--exact", action="store_true")
    arguments = parser.parse_args()
    model = arguments.model or default_model()
    checks = Checks()
    options = ["--max-memory", "3G", "--max-queue", "1000"]
    if arguments.kv_bits:
        options += ["--kv-bits", arguments.kv_bits]
    if arguments.device:
        options += ["--device", arguments.device]
    if arguments.exact:
        options += ["--exact"]
    program = find_program()
    with Server(program, model, *options) as server, \
            Server(program, model, *options, "--no-prefix-cache", "--max-num-seqs", "1") as alone:
        for number in range(arguments.rounds):
            requests = make_requests(arguments.requests, arguments.longest, number)
            with ThreadPoolExecutor(arguments.requests + 8) as pool:
                leavers = [pool.submit(leave, server, body) for _, body in requests[:8]]
                together = list(pool.map(lambda r: ask(server, r[1]), requests))
                for leaver in leavers:
                    leaver.result()
            solo = [ask(alone, body) for _, body in requests]
            canaries = [canary for canary, _ in requests]
            for place, (canary, body) in enumerate(requests):
                checks.check(together[place] == solo[place], f"round {number} request {place}",
                             (body["max_tokens"], together[place], solo[place]))
                foreign = [c for c in canaries if c != canary and c in together[place][1]]
                checks.check(not foreign, f"round {number} request {place} knows {foreign}")
            print(f"round {number + 1} of {arguments.rounds}: "
                  f"{sum(a == b for a, b in zip(together, solo))} of {len(solo)} alike", flush=True)
        deadline = time.time() + 20
        while time.time() < deadline and server.metric("sequences_running"):
            time.sleep(0.1)
        checks.check(server.metric("sequences_running") == 0, "nothing runs on")
        checks.check(server.metric("kv_blocks_available") == server.metric("kv_blocks"), "no block is lost")
        print(f"preemptions {server.metric('preemptions_total'):.0f}, cached tokens {server.metric('cached_tokens_total'):.0f}, "
              f"disconnects {server.metric('disconnects_total'):.0f}")
    sys.exit(0 if checks.report("together as alone") else 1)


main()
