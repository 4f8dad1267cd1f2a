#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Serving on the CPU beside llama-server, in one run.

    compare_serving.py --model FILE.gguf --ours BUILD/src/cli/qwen3-mlx \\
        --llama-server FILE [--streams 16] [--input 128] [--output 128] \\
        [--requests 32] [--rounds 5] [--threads 2] [--out FILE]

Both servers hold the same file and stand ready throughout; they take turns under
load (scripts/bench_serve.py), so that what else happens on the machine meets
both alike. Figures are medians over the rounds. Then, ours alone: the pauses of
running streams while a prompt of 4,000 tokens arrives, beside the time of one of
its chunks, and the second turn of a chat of 2,000 tokens.
"""

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOAD = ROOT / "scripts/bench_serve.py"
SHOWN = ("output_tokens_per_second", "ttft_ms_p50", "ttft_ms_p95", "inter_token_ms_p50",
         "inter_token_ms_p99")


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Server:
    """A server's process for the length of a with block."""

    def __init__(self, command):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [*map(str, command), "--port", str(self.port)]

    def __enter__(self):
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            if self.process.poll() is not None:
                raise SystemExit(f"{self.command[0]} ended with {self.process.returncode}")
            try:
                with urllib.request.urlopen(self.url + "/health", timeout=5) as reply:
                    if reply.status == 200:
                        return self
            except OSError:
                time.sleep(0.1)
        raise SystemExit(f"{self.command[0]} does not answer")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)


def load(server, *options):
    """The figures of one run of scripts/bench_serve.py, and what it printed."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        shown = subprocess.run(
            [sys.executable, LOAD, "--url", server.url, "--json", file.name, *map(str, options)],
            check=True, text=True, stdout=subprocess.PIPE).stdout
        return json.loads(Path(file.name).read_text(encoding="utf-8")), shown


def first_token(server, messages, **fields):
    """Milliseconds to the first piece of an answer, the answer, cached tokens and the prompt's."""
    body = {"messages": messages, "max_tokens": 64, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}, **fields}
    request = urllib.request.Request(
        server.url + "/v1/chat/completions", json.dumps(body).encode(),
        {"Content-Type": "application/json"})
    begun, first, text, usage = time.perf_counter(), None, "", {}
    with urllib.request.urlopen(request, timeout=600) as reply:
        for line in reply:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                piece = choice["delta"].get("content") or ""
                if piece and first is None:
                    first = (time.perf_counter() - begun) * 1e3
                text += piece
    cached = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
    return {"ttft_ms": first, "prompt_tokens": usage["prompt_tokens"], "cached_tokens": cached}, text


def second_turn(server):
    words = "The river runs past the old mill and the seven houses of the village. "
    messages = [{"role": "user", "content": "Remember this. " + words * 128}]
    first, text = first_token(server, messages)
    messages += [{"role": "assistant", "content": text},
                 {"role": "user", "content": "How many houses has the village?"}]
    second, _ = first_token(server, messages)
    return {"first": first, "second": second, "ratio": second["ttft_ms"] / first["ttft_ms"]}


def compare(servers, options):
    """{name: [figures of each round]}; a short round before warms both."""
    rounds = {name: [] for name in servers}
    shape = ("--streams", options.streams, "--input", options.input, "--output", options.output)
    for server in servers.values():
        load(server, *shape, "--requests", options.streams, "--seed", 1000)
    for number in range(options.rounds):
        for name, server in servers.items():
            figures, _ = load(server, *shape, "--requests", options.requests, "--seed", number)
            if figures["failed"]:
                raise SystemExit(f"{name}: {figures['failed']} requests failed")
            rounds[name].append(figures)
    return rounds


def print_comparison(rounds):
    medians = {name: {key: statistics.median(figures[key] for figures in rows) for key in SHOWN}
               for name, rows in rounds.items()}
    ours, theirs = medians["qwen3-mlx"], medians["llama-server"]
    print("| | qwen3-mlx | llama-server | ratio |\n|---|---|---|---|")
    for key in SHOWN:
        print(f"| {key} | {ours[key]:.1f} | {theirs[key]:.1f} | {ours[key] / theirs[key]:.2f} |")
    return medians


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--ours", required=True)
    parser.add_argument("--llama-server", required=True)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--input", type=int, default=128)
    parser.add_argument("--output", type=int, default=128)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--out")
    options = parser.parse_args()
    ours = Server([options.ours, "serve", "--model", options.model, "-t", options.threads,
                   "-b", options.chunk, "--max-num-seqs", max(64, options.streams)])
    context = options.streams * (options.input + options.output + 64)
    theirs = Server([options.llama_server, "-m", options.model, "-np", options.streams, "-cb",
                     "-t", options.threads, "-tb", options.threads, "-c", context])
    result = {}
    with ours:
        with theirs:
            rounds = compare({"qwen3-mlx": ours, "llama-server": theirs}, options)
        result["medians"] = print_comparison(rounds)
        result["rounds"] = rounds
        figures, shown = load(ours, "--streams", options.streams, "--requests", options.streams,
                              "--output", 256, "--intruder", 4000)
        chunks = -(-4000 // options.chunk)
        print(f"\nA prompt of 4,000 tokens ({chunks} chunks) beside {options.streams} streams: "
              f"longest pause {figures['longest_pause_beside_intruder_ms']:.0f} ms, "
              f"{figures['intruder_ttft_ms'] / chunks:.0f} ms a chunk on average; each stream got "
              f"{figures['fewest_tokens_beside_intruder']} tokens or more meanwhile")
        print(shown[shown.index("between tokens"):])
        result["intruder"] = figures
        turns = second_turn(ours)
        result["turns"] = turns
        print("second turn: {second[ttft_ms]:.0f} ms after {first[ttft_ms]:.0f} ms = {ratio:.3f} "
              "({second[cached_tokens]} of {second[prompt_tokens]} tokens cached)".format(**turns))
    if options.out:
        Path(options.out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
