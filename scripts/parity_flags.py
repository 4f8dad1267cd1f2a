# SPDX-License-Identifier: MIT
"""Small random tokenizers: every flag of added tokens, split patterns,
post-processors and merge layouts that the real vocabularies do not use."""

import json
import os
import random
import sys
import tempfile
from pathlib import Path

import tokenizers
from make_qwen_tokenizers import QWEN_SPLIT, byte_alphabet, byte_level, tokenizer_json
from tokenizer_pipe import TokenizerPipe

LETTERS = r"\p{L}"
SPLITS = {
    "qwen2": QWEN_SPLIT,
    "qwen3.5": QWEN_SPLIT.replace(r"]?\p{L}+", r"]?[\p{L}\p{M}]+").replace(
        r"[^\s\p{L}\p{N}]+", r"[^\s\p{L}\p{M}\p{N}]+"),
    "llama-3": QWEN_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|"),
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}
CONTENTS = ["<X>", "<XY>", "<a", "tok", "tok en", " lead", "trail ", "é", "e\u0301", "ab", "\n", "<|s|>"]
PARTS = ["<X>", "<XY", ">", "<a", "tok", "en", " ", "  ", "\n", "\t", "\u3000", "é", "e", "\u0301",
         "a", "b", "ab", "_", "1", "12", "345", "6789", "'s", "'S", "'Ll", "!", "!!", "你好", "\u0e31",
         "नि", "<|s|>", "lead", "trail", "x", "\r\n", "ſ", "'ſ", "\u0bcd"]


def random_model(rng: random.Random) -> dict:
    chars = byte_alphabet()
    vocab = {char: idx for idx, char in enumerate(chars)}
    if rng.random() < 0.2:
        for char in rng.sample(chars, 20):
            del vocab[char]
        vocab = {char: idx for idx, char in enumerate(vocab)}
    merges = []
    for _ in range(rng.randrange(60)):
        left, right = rng.choice(list(vocab)[-80:]), rng.choice(list(vocab))
        if rng.random() < 0.7:
            left, right = (rng.choice([c for c in vocab if c[0] in "abtok<Xé'ĠÃ©"] or [left])
                           for _ in range(2))
        if left + right not in vocab:
            vocab[left + right] = len(vocab)
            merges.append([left, right])
    rng.shuffle(merges)
    if rng.random() < 0.5:
        merges = [" ".join(pair) for pair in merges]
    unk = rng.choice([None, None, list(vocab)[0]])
    return {"type": "BPE", "dropout": None, "unk_token": unk,
            "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": rng.random() < 0.5, "byte_fallback": False,
            "ignore_merges": rng.random() < 0.4, "vocab": vocab, "merges": merges}


def random_tokenizer(rng: random.Random) -> dict:
    model = random_model(rng)
    size = len(model["vocab"])
    flag = lambda: rng.random() < 0.3  # noqa: E731
    added = [{"id": size + idx, "content": content, "single_word": flag(), "lstrip": flag(),
              "rstrip": flag(), "normalized": flag(), "special": flag()}
             for idx, content in enumerate(
                 c for c in rng.sample(CONTENTS, rng.randrange(6)) if c not in model["vocab"])]
    for token in added:
        # tokenizers decodes such a token as its normalized content, and then does
        # not know that it is special; ours decodes what the file says.
        token["normalized"] &= token["content"] != "e\u0301"
    split = {"type": "Split", "pattern": {"Regex": rng.choice(list(SPLITS.values()))},
             "behavior": "Isolated", "invert": flag()}
    digits = {"type": "Digits", "individual_digits": flag()}
    parts = [part for part in (split, digits) if rng.random() < 0.5]
    rng.shuffle(parts)
    parts.append(byte_level(flag(), flag(), flag()))
    pre = parts[0] if len(parts) == 1 else {"type": "Sequence", "pretokenizers": parts}
    normalizer = rng.choice([None, {"type": "NFC"},
                             {"type": "Sequence", "normalizers": [{"type": "NFC"}]}])
    bos = {"SpecialToken": {"id": "<bos>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    template = {"type": "TemplateProcessing", "single": rng.choice([[bos, text], [text, bos], [text]]),
                "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<bos>": {"id": "<bos>", "ids": [3, 5], "tokens": ["a", "b"]}}}
    post = rng.choice([None, byte_level(), template,
                       {"type": "Sequence", "processors": [byte_level(), template]}])
    return tokenizer_json(added, normalizer, pre, post, byte_level(True, True, True), model)


def encode_or_none(oracle: tokenizers.Tokenizer, text: str) -> list[int] | None:
    """None where tokenizers panics: a token that swallows white space before one
    that begins with it."""
    try:
        return oracle.encode(text).ids
    except BaseException as error:  # PanicException is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        return None


def check_flags(program: Path, seed: int, count: int) -> str:
    """`count` texts over as many tokenizers as 40 texts each need."""
    os.environ["RUST_BACKTRACE"] = "0"
    rng = random.Random(seed)
    num_tokenizers = max(count // 40, 1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        for _ in range(num_tokenizers):
            value = random_tokenizer(rng)
            file.write_text(json.dumps(value), "utf-8")
            oracle = tokenizers.Tokenizer.from_file(str(file))
            ours = TokenizerPipe(program, file)
            texts = ["".join(rng.choices(PARTS, k=rng.randrange(1, 14))) for _ in range(40)]
            for plain in (False, True):
                oracle.encode_special_tokens = plain
                answers = ours.encode([t.encode() for t in texts], add_special=True,
                                      plain_special=plain)
                for text, left in zip(texts, answers):
                    right = encode_or_none(oracle, text)
                    if right is None:
                        continue
                    skip = rng.random() < 0.5
                    decoded = ours.decode([left], skip_special=skip)[0].decode()
                    if left.tolist() != right or decoded != oracle.decode(
                            right, skip_special_tokens=skip):
                        del value["model"]["vocab"]
                        sys.exit(f"DIFFERENT: {json.dumps(value)}\n  text   {text!r}\n  ours   "
                                 f"{left.tolist()} {decoded!r}\n  theirs {right} "
                                 f"{oracle.decode(right, skip_special_tokens=skip)!r}")
            ours.close()
    return f"random tokenizers: {num_tokenizers:,} with every flag, {40 * num_tokenizers:,} texts, equal"
