#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What calibration recovers of the perplexity that quantizing costs: the default
model dequantized, then quantized with and without a text.

    compare_calibration.py PROGRAM MODEL.gguf [--bits 3 4]
                           [--targets 3.5 4.0 4.5] [--texts own news] [--json FILE]

Perplexity is that of the first 56,000 bytes of English news in the PyPI package
gensim (lee_background.cor), which no calibration reads: one text is the
program's own, the other the news behind them. Targets are average bits a weight,
scales included: --target-bits; 3.5 and 4.5 are the sizes of 3 and 4 bits for all.

The exit status says whether at 3 bits each text recovers 30 % of what rounding to
nearest loses, and whether each target is at least as good as the same text with
all at the widest bits that fit it. Needs what make_reference.py needs.
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
OVERHEAD = 2 * 16 / GROUP_SIZE  # bits a weight: scale and bias in float16
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

    def words(self, text) -> tuple:
        return (self.news,) if text == "news" else ()

    def is_no_worse(self, name, than) -> bool:
        ours, theirs = (self.figures[key]["perplexity"] for key in (name, than))
        print(f"  {name}: {ours:.2f}, {than}: {theirs:.2f}: {'no worse' if ours <= theirs else 'WORSE'}", flush=True)
        return ours <= theirs

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
    parser.add_argument("--targets", type=float, nargs="*", default=[3.5, 4.0, 4.5],
                        help="bits per weight on average, scales included")
    parser.add_argument("--texts", nargs="*", default=["own", "news"], choices=["own", "news"])
    parser.add_argument("--json", help="write the figures here")
    options = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as name:
        comparison = Comparison(options, Path(name))
        for bits in options.bits:
            width = ("--q-bits", str(bits))
            comparison.quantize(f"{bits}-nearest", *width)
            for text in options.texts:
                comparison.quantize(f"{bits}-{text}", *width, "--calibrate", *comparison.words(text))
                share = comparison.recovered(f"{bits}-{text}", f"{bits}-nearest")
                good &= bits != 3 or share >= LEAST_RECOVERED
        for target in options.targets:
            fitting = [bits for bits in options.bits if bits + OVERHEAD <= target]
            for text in options.texts:
                comparison.quantize(
                    f"{target}-average-{text}", "--target-bits", str(target), "--calibrate", *comparison.words(text))
                if fitting:
                    good &= comparison.is_no_worse(f"{target}-average-{text}", f"{max(fitting)}-{text}")
    if options.json:
        Path(options.json).write_text(json.dumps(comparison.figures, indent=1) + "\n")
    sys.exit(not good)


if __name__ == "__main__":
    main()
