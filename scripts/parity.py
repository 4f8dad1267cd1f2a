# SPDX-License-Identifier: MIT
"""What the parity scripts share: running this program on token ids, and
comparing its tokens and log-probabilities with a reference's."""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

TOLERANCE = 1e-4  # of a log-probability
NUM_TOKENS = 24
NUM_TOP = 5
MIN_MARGIN = 2e-3  # greedy choices closer than that say nothing
MAX_SEEDS = 60


@dataclasses.dataclass
class Reference:
    """Greedy ids and the log-probabilities [V] that each was chosen from."""

    prompt_ids: list[int]
    ids: list[int]
    rows: list[np.ndarray]

    def margin(self) -> float:
        """The least distance between a chosen token and the next best."""
        best = (np.sort(row)[-2:] for row in self.rows)
        return min(float(first - second) for second, first in best)

    def is_clear(self) -> bool:
        return self.margin() >= MIN_MARGIN


@dataclasses.dataclass
class Program:
    path: Path
    kernels: str

    def generate(self, model: Path, prompt_ids: list[int]) -> dict:
        options = {
            "--model": model,
            "--prompt-ids": ",".join(map(str, prompt_ids)),
            "--max-tokens": NUM_TOKENS,
            "--temp": 0,
            "--top-logprobs": NUM_TOP,
            "--device": "cpu",
            "--kernels": self.kernels,
        }
        words = [str(word) for pair in options.items() for word in pair]
        done = subprocess.run(
            [str(self.path), "generate", "--json", "--exact", *words],
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise RuntimeError(f"exit status {done.returncode}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def compare(self, model: Path, reference: Reference) -> str:
        """What to print; raises on any difference."""
        output = self.generate(model, reference.prompt_ids)
        for key in ("prompt_ids", "ids"):
            expected = getattr(reference, key)
            if output[key] != expected:
                raise RuntimeError(f"{key} {output[key]}, expected {expected}")
        worst = worst_error(output, reference.rows)
        if not worst <= TOLERANCE:
            raise RuntimeError(f"log-probabilities differ by {worst:.1e}")
        margin = reference.margin()
        return f"worst log-probability error {worst:.1e}, margin {margin:.1e}"


def worst_error(output: dict, rows: list[np.ndarray]) -> float:
    worst = 0.0
    for entry, row in zip(output["logprobs"], rows, strict=True):
        if len(entry["top"]) != NUM_TOP:
            raise RuntimeError(f"expected {NUM_TOP} top entries: {entry}")
        for one in [entry, *entry["top"]]:
            worst = max(worst, abs(one["logprob"] - float(row[one["id"]])))
        # The same tokens, up to ties within the tolerance.
        least = min(float(row[one["id"]]) for one in entry["top"])
        worst = max(worst, float(np.sort(row)[-NUM_TOP]) - least)
    return worst


def add_arguments(parser: argparse.ArgumentParser):
    root = Path(__file__).resolve().parent.parent
    parser.add_argument(
        "--program", type=Path, default=root / "build/release/src/cli/qwen3-mlx"
    )
    parser.add_argument("--kernels", default="stock", help="stock or native")
    parser.add_argument("--only", help="cases whose name contains this")
    parser.add_argument("-v", "--verbose", action="store_true")


def run_checks(
    checks: list[tuple[str, Callable[[], str]]], arguments: argparse.Namespace
) -> int:
    """Runs named checks and prints their results; the exit status."""
    chosen = [c for c in checks if arguments.only is None or arguments.only in c[0]]
    failures = 0
    for name, check in chosen:
        try:
            # Libraries print what they do.
            with open(os.devnull, "w") as nowhere:
                stdout, sys.stdout = sys.stdout, nowhere
                try:
                    line = check()
                finally:
                    sys.stdout = stdout
        except Exception as error:
            failures += 1
            print(f"FAILED {name}: {error}", flush=True)
        else:
            if arguments.verbose:
                print(f"{name}: {line}", flush=True)
    print(f"{len(chosen) - failures} of {len(chosen)} cases agree")
    return 1 if failures or not chosen else 0
