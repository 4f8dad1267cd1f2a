#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What the server gives through HTTP at 1 to 256 streams, beside the bare model.

    serve_streams.py --program BUILD/src/cli/qwen3-mlx --model FOLDER [--random]
                     [--q-bits 4] [--streams 1 8 32 64 128 256] [--out FILE]
    serve_streams.py --plot FILE... --image FILE.svg

FOLDER is a checkpoint, or with --random a config.json and a tokenizer. Each
stream asks --rounds times in turn (scripts/bench_serve.py), 128 tokens in and 128 out;
"bare" is `qwen3-mlx bench` with a batch of that size: the tokens of the batch over
the time of its prompts and answers.
"""

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def serve(options, port):
    command = [options.program, "serve", "--model", options.model, "--port", str(port),
               "--max-num-seqs", str(max(options.streams)), "--no-prefix-cache",
               "--log-level", "warning", *model_options(options)]
    if options.prefill_step_size:
        command += ["--prefill-step-size", options.prefill_step_size]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    for _ in range(1200):
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return process
        except OSError:
            time.sleep(0.1)
    process.kill()
    raise SystemExit("the server does not answer")


def model_options(options):
    chosen = ["--random", "--q-bits", str(options.q_bits)] if options.random else []
    return chosen + (["--device", options.device] if options.device else [])


def load(options, port, streams, rounds):
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        subprocess.run(
            [sys.executable, ROOT / "scripts/bench_serve.py", "--url", f"http://127.0.0.1:{port}",
             "--streams", str(streams), "--requests", str(rounds * streams),
             "--input", str(options.input), "--output", str(options.output),
             "--processes", str(min(streams, options.processes)), "--json", file.name],
            check=True, stdout=subprocess.DEVNULL)
        return json.loads(Path(file.name).read_text(encoding="utf-8"))


def bare(options, streams):
    shown = subprocess.run(
        list(map(str, [options.program, "bench", "--model", options.model, *model_options(options),
                       "-b", streams, "-p", options.input, "-g", options.output, "-n", 2, "--json"])),
        check=True, text=True, stdout=subprocess.PIPE).stdout
    result = json.loads(shown)["average"]
    seconds = (streams * options.input / result["prompt_tps"] +
               streams * options.output / result["generation_tps"])
    return {"bare_tokens_per_second": streams * options.output / seconds,
            "bare_prompt_tps": result["prompt_tps"],
            "bare_generation_tps": result["generation_tps"]}


def measure(options):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    process = serve(options, port)
    rows = []
    try:
        for streams in options.streams:
            load(options, port, streams, 2)  # what is made once for this size
            rows.append({"streams": streams, **load(options, port, streams, options.rounds)})
    finally:
        process.terminate()
        process.wait(60)
    for row in rows:
        row.update(bare(options, row["streams"]))
    print("| streams | tokens/s | bare | share | TTFT p50 / p95, ms | between tokens p50 / p99, ms |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        share = row["output_tokens_per_second"] / row["bare_tokens_per_second"]
        print(f"| {row['streams']} | {row['output_tokens_per_second']:,.0f} | "
              f"{row['bare_tokens_per_second']:,.0f} | {share:.0%} | "
              f"{row['ttft_ms_p50']:.0f} / {row['ttft_ms_p95']:.0f} | "
              f"{row['inter_token_ms_p50']:.1f} / {row['inter_token_ms_p99']:.1f} |", flush=True)
    if options.out:
        result = {"model": Path(options.model).name, "rows": rows}
        Path(options.out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def plot(files, image):
    from plot_cpu import panel, svg  # the same drawing for all of the docs

    results = [json.loads(Path(file).read_text(encoding="utf-8")) for file in files]
    panels = []
    for key, name, unit in (("output_tokens_per_second", "Output", "tokens/s"),
                            ("ttft_ms_p95", "Time to first token, p95", "ms"),
                            ("inter_token_ms_p99", "Between tokens, p99", "ms")):
        series = {result["model"]: {row["streams"]: row[key] for row in result["rows"]}
                  for result in results}
        panels.append(panel(name, series, unit, "streams"))
    names = [result["model"] for result in results]
    note = "through HTTP, 128 tokens in and 128 out, random weights"
    Path(image).write_text(svg(panels, names, len(panels), note), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program")
    parser.add_argument("--model")
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--q-bits", type=int, default=4)
    parser.add_argument("--device")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32, 64, 128, 256])
    parser.add_argument("--input", type=int, default=128)
    parser.add_argument("--output", type=int, default=128)
    parser.add_argument("--processes", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--prefill-step-size", type=int)
    parser.add_argument("--out")
    parser.add_argument("--plot", nargs="+", metavar="FILE")
    parser.add_argument("--image")
    options = parser.parse_args()
    if options.plot:
        plot(options.plot, options.image)
    else:
        measure(options)


if __name__ == "__main__":
    main()
