#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Times our tokenizer, Python `tokenizers` and `tiktoken` side by side.

    python3 scripts/bench_tokenizer.py --program build/release/tests/tokenizer/tokenizer_pipe

One run prints all ratios: encoding on one thread by kind of text, decoding,
a batch on all cores, loading, memory, and texts made to be slow. Rounds of the
rivals are interleaved and the fastest of each counts. What the rivals do on one
thread is timed in CPU seconds, so that a busy machine does not slow them.
Texts come from this Python's own packages.
"""

import argparse
import base64
import os
import platform
import random
import subprocess
import sys
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tiktoken  # noqa: E402
import tokenizers  # noqa: E402
from make_qwen_tokenizers import QWEN_SPLIT, TIKTOKEN  # noqa: E402
from parity_texts import real_texts  # noqa: E402
from tokenizer_downloads import cache_dir, member  # noqa: E402
from tokenizer_pipe import TokenizerPipe  # noqa: E402


def cjk_share(text: str) -> float:
    return sum("\u3040" <= char <= "\ud7a3" for char in text) / max(len(text), 1)


def kind_of(text: str) -> str | None:
    """English, code or mixed, by the share of characters."""
    if len(text) < 2000:
        return None
    ascii_share = sum(char < "\x80" for char in text) / len(text)
    if ascii_share < 0.97:
        return "mixed"
    if ascii_share < 0.999:
        return None
    symbols = sum(char in "{}();=_" for char in text) / len(text)
    return "code" if symbols > 0.04 else "english" if symbols < 0.012 else None


def corpora(max_bytes: int) -> dict[str, list[str]]:
    result = {"english": [], "code": [], "cjk": [], "mixed": []}
    sizes = dict.fromkeys(result, 0)
    for text in real_texts(200_000_000):
        text = text.replace("\0", "\n")  # Compiled translations.
        if sizes["cjk"] < max_bytes and cjk_share(text) > 0.02:
            # Translations hold the English, too.
            lines = "\n".join(line for line in text.split("\n") if cjk_share(line) > 0.4)
            result["cjk"].append(lines)
            sizes["cjk"] += len(lines.encode())
        kind = kind_of(text)
        if kind and sizes[kind] < max_bytes:
            result[kind].append(text)
            sizes[kind] += len(text.encode())
        if min(sizes.values()) >= max_bytes:
            break
    rng = random.Random(1)
    pieces = [text[:4000] for texts in result.values() for text in texts]
    result["mixed"] += rng.sample(pieces, min(len(pieces), 100))
    return {kind: texts for kind, texts in result.items() if texts}


def tiktoken_encoding() -> tiktoken.Encoding:
    ranks = {}
    for line in member("dashscope", TIKTOKEN).splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    return tiktoken.Encoding("qwen", pat_str=QWEN_SPLIT, mergeable_ranks=ranks,
                             special_tokens={"<|endoftext|>": len(ranks)})


def seconds(function, clock=time.process_time) -> float:
    start = clock()
    function()
    return clock() - start


def row(name: str, ours: float, theirs: dict[str, float], unit: str, scale=1.0) -> None:
    cells = "".join(f"  {rival} {scale / value:9.1f} {unit} ({value / ours:6.1f} x)"
                    for rival, value in theirs.items())
    print(f"{name:22} ours {scale / ours:9.1f} {unit}{cells}", flush=True)


def encode_rows(pipe, oracle, rival, texts_by_kind, rounds) -> None:
    for kind, texts in texts_by_kind.items():
        data = [text.encode() for text in texts]
        megabytes = sum(map(len, data)) / 1e6
        ours, theirs, other = [], [], []
        for _ in range(rounds):
            ours.append(pipe.seconds(data, rounds=3))
            theirs.append(seconds(lambda: [oracle.encode(t, add_special_tokens=False) for t in texts]))
            other.append(seconds(lambda: [rival.encode_ordinary(t) for t in texts]))
        row(f"encode {kind}", min(ours), {"tokenizers": min(theirs), "tiktoken": min(other)},
            "MB/s", megabytes)


def batch_row(pipe, folder, texts_by_kind, rounds) -> None:
    texts = [text for texts in texts_by_kind.values() for text in texts]
    data = [text.encode() for text in texts]
    megabytes = sum(map(len, data)) / 1e6
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    oracle = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ours = [pipe.seconds(data, rounds=2, all_cores=True) for _ in range(rounds)]
    theirs = [seconds(lambda: oracle.encode_batch_fast(texts, add_special_tokens=False), time.perf_counter)
              for _ in range(rounds)]
    row(f"batch, {os.cpu_count()} cores", min(ours), {"tokenizers": min(theirs)}, "MB/s", megabytes)


def load_rows(program: Path, folder: Path, rounds: int) -> None:
    """Loads in fresh processes, with the file in the page cache."""
    ours, theirs = [], []
    file = str(folder / "tokenizer.json")
    script = ("import time, tokenizers; w, c = time.perf_counter(), time.process_time(); "
              f"tokenizers.Tokenizer.from_file({file!r}); "
              "print(1e3 * (time.perf_counter() - w), 1e3 * (time.process_time() - c))")
    for _ in range(rounds):
        answer = subprocess.run([program, "load", folder], check=True, capture_output=True, text=True)
        ours.append(list(map(float, answer.stdout.split())))
        answer = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
        theirs.append(list(map(float, answer.stdout.split())))
    for idx, name in enumerate(("wall", "CPU")):
        left, right = (min(times[idx] for times in side) for side in (ours, theirs))
        print(f"{f'load, {name} time':22} ours {left:9.1f} ms    tokenizers {right:9.1f} ms "
              f"({right / left:6.1f} x)", flush=True)


def memory_row(program: Path, folder: Path, texts_by_kind) -> None:
    """The most that a process takes to load and to encode all texts, one by one."""
    pipe = TokenizerPipe(program, folder)
    status = Path(f"/proc/{pipe.process.pid}/status")
    if status.exists():
        for texts in texts_by_kind.values():
            for text in texts:
                pipe.encode([text.encode()])
        kilobytes = next(int(line.split()[1]) for line in status.read_text().splitlines()
                         if line.startswith("VmHWM"))
        print(f"{'memory':22} ours {kilobytes / 1024:9.1f} MiB at most, to load and encode these texts")
    pipe.close()


def hostile_rows(pipe) -> None:
    for name, unit in (("letters", "a"), ("spaces", " "), ("newlines", "\n"), ("marks", "\u0301"),
                       ("joined emoji", "\U0001F468\u200D\U0001F469\u200D\U0001F467\u200D"),
                       ("ideographs", "\u4F60")):
        data = unit.encode()
        text = (data * (1_000_000 // len(data) + 1))[: 1_000_000 // len(data) * len(data)]
        print(f"1 MB of {name:14} ours {pipe.seconds([text], rounds=3) * 1e3:9.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=Path, required=True, help="tokenizer_pipe")
    parser.add_argument("--tokenizers", type=Path, default=cache_dir() / "tokenizers")
    parser.add_argument("--megabytes", type=float, default=2.0, help="of each kind of text")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    folder = args.tokenizers / "qwen3"
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; "
          f"Qwen3; tokenizers {tokenizers.__version__}, tiktoken {tiktoken.__version__}; "
          f"fastest of {args.rounds} rounds; (n x) = we are n times as fast", flush=True)
    load_rows(args.program, folder, args.rounds)
    pipe = TokenizerPipe(args.program, folder)
    texts = corpora(int(args.megabytes * 1e6))
    oracle = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    encode_rows(pipe, oracle, tiktoken_encoding(), texts, args.rounds)
    batch_row(pipe, folder, texts, args.rounds)
    memory_row(args.program, folder, texts)
    hostile_rows(pipe)
    pipe.close()


if __name__ == "__main__":
    main()
