#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Load on a server with OpenAI's /v1/completions: throughput, time to the
first token and time between tokens.

    bench_serve.py --url http://127.0.0.1:8080 [--streams 16] [--requests 64]
                   [--input 128] [--output 128] [--rate R] [--processes N] [--json FILE]

Closed loop: --streams clients, each of which asks again when it has its answer.
With --rate, requests come at random (Poisson), R a second. One process reads
some 10,000 tokens a second; --processes shares the clients among several. Needs nothing but
Python. Prompts are token ids drawn at random below --vocab, none like another.
With --intruder N, a prompt of N tokens arrives in the middle, and the longest
pause of the others around it is printed with a histogram, and how many tokens
the one that got fewest had until the intruder's first.
"""

import argparse
import asyncio
import json
import multiprocessing
import random
import time
from urllib.parse import urlparse


def percentile(values, share):
    if not values:
        return 0.0
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]


async def stream(url, body):
    """Times at which tokens arrived, and how many there were."""
    target = urlparse(url)
    reader, writer = await asyncio.open_connection(target.hostname, target.port)
    data = json.dumps(body).encode()
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    begun = time.perf_counter()
    status = (await reader.readline()).split()[1]
    times, count, error = [], 0, None
    async for line in reader:
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            if event.get("error"):
                error = event["error"]
            elif event.get("choices") and event["choices"][0].get("text"):
                times.append(time.perf_counter())
            if event.get("usage"):
                count = event["usage"]["completion_tokens"]
    writer.close()
    if status != b"200" or error:
        raise RuntimeError(f"status {status.decode()} {error or ''}")
    return begun, times, count


def summary(results, seconds):
    first = [(times[0] - begun) * 1e3 for begun, times, _ in results if times]
    gaps = [(b - a) * 1e3 for _, times, _ in results for a, b in zip(times, times[1:])]
    tokens = sum(count for _, _, count in results)
    row = {"requests": len(results), "seconds": seconds, "output_tokens": tokens,
           "output_tokens_per_second": tokens / seconds}
    for name, values in (("ttft_ms", first), ("inter_token_ms", gaps)):
        for label, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1)):
            row[f"{name}_{label}"] = percentile(values, share)
    return row, gaps


def histogram(gaps):
    bounds = [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, float("inf")]
    low = 0
    for bound in bounds:
        count = sum(low <= gap < bound for gap in gaps)
        if count:
            print(f"  {low:>5.0f} - {bound:>6.0f} ms  {count:>7}  {'#' * max(1, round(60 * count / len(gaps)))}")
        low = bound


async def run(options, number):
    """Results and failures of process `number`'s share, and the intruder."""
    rng = random.Random(options.seed * 1000 + number)
    results, failures = [], []

    def body(length, output):
        return {"prompt": [rng.randrange(options.low, options.vocab) for _ in range(length)],
                "max_tokens": output, "temperature": 0, "ignore_eos": True, "stream": True,
                "stream_options": {"include_usage": True}}

    async def one():
        try:
            results.append(await stream(options.url, body(options.input, options.output)))
        except Exception as error:  # counted and shown
            failures.append(str(error))

    async def client(share):
        for _ in range(share):
            await one()

    if options.rate:
        tasks = []
        for _ in range(number, options.requests, options.processes):
            tasks.append(asyncio.create_task(one()))
            await asyncio.sleep(rng.expovariate(options.rate / options.processes))
    else:
        tasks = [asyncio.create_task(client(len(range(i, options.requests, options.streams))))
                 for i in range(number, options.streams, options.processes)]
    intruder = None
    if options.intruder and number == 0:
        await asyncio.sleep(options.intruder_after)
        intruder = await stream(options.url, body(options.intruder, 1))
    await asyncio.gather(*tasks)
    return results, failures, intruder


def run_process(work):
    return asyncio.run(run(*work))


def beside(results, intruder):
    """What the other streams had while the intruder waited for its first token."""
    start, arrived, _ = intruder
    end = arrived[0]
    pauses = [(b - a) * 1e3 for _, times, _ in results for a, b in zip(times, times[1:])
              if a < end and b > start]
    tokens = [sum(start < time < end for time in times) for _, times, _ in results
              if times[0] < start and times[-1] > end]
    return {"intruder_ttft_ms": (end - start) * 1e3,
            "longest_pause_beside_intruder_ms": max(pauses, default=0),
            "fewest_tokens_beside_intruder": min(tokens, default=0)}


def measure(options):
    begun = time.perf_counter()
    work = [(options, number) for number in range(options.processes)]
    if options.processes == 1:
        parts = [run_process(work[0])]
    else:
        with multiprocessing.Pool(options.processes) as pool:
            parts = pool.map(run_process, work, chunksize=1)
    results = [result for part in parts for result in part[0]]
    failures = [failure for part in parts for failure in part[1]]
    begun = min((result[0] for result in results), default=begun)
    end = max((result[1][-1] for result in results if result[1]), default=begun)
    row, gaps = summary(results, max(end - begun, 1e-9))
    row["failed"] = len(failures)
    if parts[0][2]:
        row.update(beside(results, parts[0][2]))
    for name, value in row.items():
        print(f"{name:<36}{value:>12.1f}" if isinstance(value, float) else f"{name:<36}{value:>12}")
    for failure in sorted(set(failures))[:5]:
        print("failed:", failure)
    print("between tokens:")
    histogram(gaps)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump(row, out, indent=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--input", type=int, default=128)
    parser.add_argument("--output", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--low", type=int, default=1000)
    parser.add_argument("--vocab", type=int, default=40000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--intruder", type=int, default=0)
    parser.add_argument("--intruder-after", type=float, default=3)
    parser.add_argument("--json")
    measure(parser.parse_args())


main()
