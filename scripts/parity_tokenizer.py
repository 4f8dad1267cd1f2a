#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Compares our tokenizer with Python `tokenizers`, id for id.

    python3 scripts/parity_tokenizer.py --program build/text/tests/tokenizer/tokenizer_pipe
    python3 scripts/parity_tokenizer.py --program ... --whole

Needs what scripts/make_qwen_tokenizers.py writes. The short run is seeded and
for CI; --whole takes every code point, 1,000,000 random strings and 50 MB of
real text for each of the four vocabularies. Exits 1 on the first difference.
"""

import argparse
import random
import sys
import time
from pathlib import Path

import numpy as np
import tokenizers
from parity_flags import check_flags
from parity_texts import code_point_texts, random_texts, real_texts
from tokenizer_downloads import cache_dir, member
from tokenizer_pipe import TokenizerPipe

VOCABULARIES = ["qwen3", "smollm2", "qwen2.5", "qwen2"]
PARTS = ["vectors", "flags", "code-points", "random", "real", "special", "ids"]
SEED = 20240607
BATCH_BYTES = 1 << 20


def fail(what: str, text, ours, theirs) -> None:
    sys.exit(f"DIFFERENT: {what}\n  input  {text!r:.400}\n"
             f"  ours   {list(ours)!r:.400}\n  theirs {list(theirs)!r:.400}")


def batches(texts):
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text) + 16
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class Comparison:
    def __init__(self, program: Path, folder: Path):
        self.oracle = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.special = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.special.encode_special_tokens = True
        self.ours = TokenizerPipe(program, folder)
        self.name = folder.name

    def encode(self, what: str, texts, decode_too=True) -> str:
        """Encodes (and decodes) all texts on both sides."""
        num_texts = num_bytes = num_ids = 0
        start = time.time()
        for batch in batches(texts):
            data = [text.encode() for text in batch]
            ours = self.ours.encode(data)
            encoded = self.oracle.encode_batch_fast(batch, add_special_tokens=False)
            theirs = [np.asarray(encoding.ids, dtype=np.uint32) for encoding in encoded]
            for text, left, right in zip(batch, ours, theirs):
                if not np.array_equal(left, right):
                    fail(f"{self.name} encode, {what}", text, left, right)
            if decode_too:
                self.decode(what, theirs)
            num_texts += len(batch)
            num_bytes += sum(map(len, data))
            num_ids += sum(map(len, ours))
        return (f"{self.name:8} {what:15} {num_texts:>9,} texts {num_bytes:>12,} bytes "
                f"{num_ids:>11,} ids equal{', decoded too' if decode_too else ''} "
                f"({time.time() - start:.0f} s)")

    def decode(self, what: str, batch) -> None:
        lists = [ids.tolist() for ids in batch]
        for skip in (False, True):
            theirs = self.oracle.decode_batch(lists, skip_special_tokens=skip)
            ours = self.ours.decode(batch, skip_special=skip)
            for ids, left, right in zip(batch, ours, theirs):
                if left.decode() != right:
                    fail(f"{self.name} decode, {what}, skip_special_tokens={skip}",
                         ids.tolist(), [left.decode()], [right])

    def plain_special(self, count: int) -> str:
        texts = list(random_texts(SEED + 1, count))
        ours = self.ours.encode([text.encode() for text in texts], plain_special=True)
        for text, left in zip(texts, ours):
            right = self.special.encode(text, add_special_tokens=False).ids
            if left.tolist() != right:
                fail(f"{self.name} encode, special tokens as text", text, left, right)
        return f"{self.name:8} special as text {count:>9,} texts equal"

    def every_id(self) -> str:
        """Decodes each id of the vocabulary alone."""
        ids = range(self.oracle.get_vocab_size())
        self.decode("every id", [np.array([idx], dtype=np.uint32) for idx in ids])
        return f"{self.name:8} every id alone  {len(ids):>9,} decode equal"

    def random_ids(self, count: int) -> str:
        """Decodes ids that no text gives: broken UTF-8, padding rows."""
        rng = random.Random(SEED)
        limit = self.oracle.get_vocab_size()
        batch = [np.array([rng.randrange(limit) for _ in range(rng.randrange(1, 40))],
                          dtype=np.uint32) for _ in range(count)]
        self.decode("random ids", batch)
        for skip in (False, True):
            whole = self.ours.decode(batch, skip_special=skip)
            stream = self.ours.decode(batch, skip_special=skip, streaming=True)
            for ids, left, right in zip(batch, stream, whole):
                if left != right:
                    fail(f"{self.name} streaming decode", ids.tolist(), [left], [right])
        return f"{self.name:8} random ids      {count:>9,} lists decode and stream equal"


def llama_cpp_vectors(program: Path, folder: Path) -> str:
    """The public vectors of llama.cpp's qwen2 vocabulary."""
    models = "vendor/llama.cpp/models/ggml-vocab-qwen2.gguf"
    texts = member("llama_cpp", models + ".inp").decode().split("\n__ggml_vocab_test__\n")
    lines = member("llama_cpp", models + ".out").decode().splitlines()
    expected = [[int(value) for value in line.split()] for line in lines]
    gguf = cache_dir() / "downloads/ggml-vocab-qwen2.gguf"
    if not gguf.exists():
        gguf.write_bytes(member("llama_cpp", models))
    texts = texts[: len(expected)]
    for tokenizer in (folder / "qwen2", folder / "qwen2.5", folder / "qwen3", gguf):
        pipe = TokenizerPipe(program, tokenizer)
        for text, left, right in zip(texts, pipe.encode([t.encode() for t in texts]), expected):
            if left.tolist() != right:
                fail(f"llama.cpp vectors, {tokenizer.name}", text, left, right)
        pipe.close()
    return f"llama.cpp vectors: {len(expected)} equal for qwen2, qwen2.5, qwen3 and the GGUF"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=Path, required=True)
    parser.add_argument("--tokenizers", type=Path, default=cache_dir() / "tokenizers")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--vocabularies", nargs="+", default=VOCABULARIES)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    args = parser.parse_args()
    print(f"tokenizers {tokenizers.__version__}, seed {SEED}, "
          f"{'whole' if args.whole else 'short'} run", flush=True)
    if "vectors" in args.parts:
        print(llama_cpp_vectors(args.program, args.tokenizers), flush=True)
    if "flags" in args.parts:
        print(check_flags(args.program, SEED, 20_000 if args.whole else 2_000), flush=True)
    if args.whole:
        code_points, num_random, real_bytes = range(0x110000), 1_000_000, 50_000_000
    else:
        code_points = random.Random(SEED).sample(range(0x30000), 4_000)
        num_random, real_bytes = 8_000, 800_000
    mixed = list(random_texts(SEED, num_random))
    real = list(real_texts(real_bytes)) if "real" in args.parts else []
    for name in args.vocabularies:
        folder = args.tokenizers / name
        if not folder.exists():
            sys.exit(f"{folder} is missing: run scripts/make_qwen_tokenizers.py")
        both = Comparison(args.program, folder)
        checks = {
            # Their decoding is that of ids which every_id() takes one by one.
            "code-points": lambda: both.encode(
                "code points", code_point_texts(code_points, "<|im_start|>"),
                decode_too=False),
            "random": lambda: both.encode("random strings", mixed),
            "real": lambda: both.encode("real text", real),
            "special": lambda: both.plain_special(num_random // 10),
            "ids": lambda: both.random_ids(num_random // 10) + (
                "\n" + both.every_id() if args.whole else ""),
        }
        for part, check in checks.items():
            if part in args.parts:
                print(check(), flush=True)
        both.ours.close()
    print("all equal")


if __name__ == "__main__":
    main()
