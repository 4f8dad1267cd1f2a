#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What calibration recovers of the perplexity that quantizing costs: the default
model dequantized, then quantized with and without a text.

    compare_calibration.py PROGRAM MODEL.gguf [--bits 3 4] [--targets 3.5]
                           [--json FILE]

Perplexity is that of the first 56,000 bytes of English news in the PyPI package
gensim (lee_background.cor), which no calibration reads: one text is the
program's own, the other the news behind them. The exit status says whether at 3
bits both recover 30 % of what rounding to nearest loses. Needs what
make_reference.py needs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import make_reference

CALIBRATION_BYTES = 84_000
GROUP_SIZE = 64
LEAST_RECOVERED = 0.3


def texts(folder: Path) -> tuple[Path, Path]:
    data = make_reference.tokenizer_downloads.member("gensim", make_reference.TEXT_MEMBER)
    cut = make_reference.TEXT_BYTES
    held_out, calibration = folder / "held-out.txt", folder / "calibration.txt"
    for path, part in (held_out, data[:cut]), (calibration, data[cut:][:CALIBRATION_BYTES]):
        path.write_text(part.decode("utf-8", errors="ignore"))
    return held_out, calibration


class Comparison:
    def __init__(self, options, folder: Path):
        self.options, self.folder = options, folder
        self.held_out, self.news = texts(folder)
        self.figures = {}
        self.convert("float", options.model, "--dequantize", "--dtype", "float16")

    def convert(self, name, model, *words) -> None:
        began = time.monotonic()
        done = subprocess.run(
            [self.options.program, "convert", "--model", model, "--mlx-path",
             self.folder / name, *words], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stderr)
        seconds = time.monotonic() - began
        done = subprocess.run(
            [self.options.program, "perplexity", "--model", self.folder / name, "--exact",
             "--json", self.held_out], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stderr)
        figure = self.figures[name] = {
            "perplexity": json.loads(done.stdout)["perplexity"], "seconds": seconds,
            "bytes": sum(f.stat().st_size for f in (self.folder / name).glob("*.safetensors"))}
        print(f"{name:24} perplexity {figure['perplexity']:8.4f}, "
              f"{figure['bytes'] / 1e6:6.1f} MB, {seconds:5.1f} s", flush=True)

    def quantize(self, name, *words) -> None:
        self.convert(name, self.folder / "float", "-q", "--q-group-size", str(GROUP_SIZE), *words)

    def recovered(self, name, nearest) -> float:
        exact, lost = (self.figures[key]["perplexity"] for key in ("float", nearest))
        share = (lost - self.figures[name]["perplexity"]) / (lost - exact)
        self.figures[name]["recovered"] = share
        print(f"  {name}: {share:.1%} of the loss of {nearest} recovered", flush=True)
        return share


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--bits", type=int, nargs="*", default=[3, 4])
    parser.add_argument("--targets", type=float, nargs="*", default=[3.5],
                        help="bits per weight on average, scales included")
    parser.add_argument("--json", help="write the figures here")
    options = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as name:
        comparison = Comparison(options, Path(name))
        for bits in options.bits:
            width = ("--q-bits", str(bits))
            comparison.quantize(f"{bits}-nearest", *width)
            for text, words in ("own", ()), ("news", (comparison.news,)):
                comparison.quantize(f"{bits}-{text}", *width, "--calibrate", *words)
                share = comparison.recovered(f"{bits}-{text}", f"{bits}-nearest")
                good &= bits != 3 or share >= LEAST_RECOVERED
        for target in options.targets:
            comparison.quantize(
                f"{target}-average", "--target-bits", str(target), "--calibrate", comparison.news)
    if options.json:
        Path(options.json).write_text(json.dumps(comparison.figures, indent=1) + "\n")
    sys.exit(not good)


if __name__ == "__main__":
    main()
