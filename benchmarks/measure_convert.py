#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Speed and memory of `qwen3-mlx convert`, against what they must be.

    measure_convert.py PROGRAM MODEL.gguf [--rounds 3] [--folder DIR]

The model is dequantized to bfloat16 and float32 and then converted in several
ways, with one thread and with two; the best of the rounds counts. The input is
in the page cache, the output is synced, and the disk's own speed is that of as
many bytes, written and synced. Exit status 1 where a line does not hold:

 - memory: at most twice the largest tensor and 512 MB;
 - speed: at least 70 % of the disk's write speed, or 500 MB/s of bfloat16 input
   for each core in use.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

MB = 1e6
DISK_BYTES = 256 << 20
CASES = (
    ("bfloat16", "-q", ("-q",)),
    ("bfloat16", "-q --q-bits 8", ("-q", "--q-bits", "8")),
    ("bfloat16", "-q --q-mode mxfp4", ("-q", "--q-mode", "mxfp4")),
    ("bfloat16", "-q --q-mode mxfp8", ("-q", "--q-mode", "mxfp8")),
    ("bfloat16", "-q --q-mode nvfp4", ("-q", "--q-mode", "nvfp4")),
    ("float32", "-q", ("-q",)),
    ("float32", "--dtype bfloat16", ("--dtype", "bfloat16")),
    ("bfloat16", "--gguf-type q8_0", ("--to", "gguf", "--gguf-type", "q8_0")),
    ("bfloat16", "--gguf-type q4_0", ("--to", "gguf", "--gguf-type", "q4_0")),
    ("bfloat16", "--gguf-type bf16", ("--to", "gguf", "--gguf-type", "bf16")),
)


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()))


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def largest_tensor(folder: Path) -> int:
    """In bytes, of the input."""
    data = (folder / "model.safetensors").open("rb")
    header = json.loads(data.read(int.from_bytes(data.read(8), "little")))
    header.pop("__metadata__", None)
    return max(info["data_offsets"][1] - info["data_offsets"][0] for info in header.values())


def disk_speed(folder: Path) -> float:
    """Bytes a second, written in pieces of 4 MiB and synced."""
    path, piece = folder / "disk", os.urandom(4 << 20)
    began = time.monotonic()
    with path.open("wb", buffering=0) as file:
        for _ in range(DISK_BYTES // len(piece)):
            file.write(piece)
        os.fsync(file.fileno())
    seconds = time.monotonic() - began
    path.unlink()
    return DISK_BYTES / seconds


def measure(words) -> tuple[float, float, int]:
    """Wall seconds, CPU seconds, peak bytes of a process."""
    began = time.monotonic()
    child = os.posix_spawn(words[0], words, os.environ, file_actions=[
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)])
    _, status, usage = os.wait4(child, 0)
    if status != 0:
        sys.exit(f"failed: {' '.join(words)}")
    return time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="on the disk to measure; default: the temporary directory")
    options = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        for dtype in ("bfloat16", "float32"):
            measure([options.program, "convert", "--model", options.model, "-o", str(folder / dtype),
                     "-d", "--dtype", dtype])
        disk = max(disk_speed(folder) for _ in range(options.rounds))
        print(f"disk: {disk / MB:.0f} MB/s written and synced\n")
        print("| input | options | threads | wall | CPU | input, MB/s a core | output, MB/s | peak, MB | holds |")
        print("|---|---|---|---|---|---|---|---|---|")
        for dtype, label, words in CASES:
            source, target = folder / dtype, folder / "target"
            n_bytes, largest = size_of(source), largest_tensor(source)
            bound = 2 * largest + 512 * MB
            for threads in (1, 2):
                runs = []
                for _ in range(options.rounds):
                    remove(target)
                    runs.append(measure([options.program, "convert", "--model", str(source), "-o", str(target),
                                         "--threads", str(threads), *words]))
                wall, cpu, peak = min(runs)
                # Cores are what is busy: the disk may leave some idle.
                as_bf16 = n_bytes / (2 if dtype == "float32" else 1)
                per_core, written = as_bf16 / cpu, size_of(target) / wall
                holds = peak <= bound and (per_core >= 500 * MB or written >= 0.7 * disk)
                good &= holds
                print(f"| {dtype} | `{label}` | {threads} | {wall:.2f} s | {cpu:.2f} s | {per_core / MB:.0f} | "
                      f"{written / MB:.0f} | {peak / MB:.0f} of {bound / MB:.0f} | {'yes' if holds else 'no'} |",
                      flush=True)
    sys.exit(not good)


if __name__ == "__main__":
    main()
