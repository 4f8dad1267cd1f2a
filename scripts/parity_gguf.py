#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs this program on tiny GGUF files of every tensor type it reads, and
compares with a numpy forward pass over the weights that the gguf package
dequantizes, on the CPU in float32.

    parity_gguf.py [--program build/release/src/cli/qwen3-mlx] [-v]

Needs numpy and gguf.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

import llama_numpy
import parity
import tiny_cases
import tiny_weights

TYPES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0")
PROMPT_LENGTH = 12

# llama.cpp's names of what tiny_cases calls otherwise.
RENAMES = (
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
    ("model.layers", "blk"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
)


def gguf_name(name: str) -> str:
    for ours, theirs in RENAMES:
        name = name.replace(ours, theirs)
    return name


def permute(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """The rows of a head's halves interleaved, as the converter writes them."""
    rows, columns = weight.shape
    halves = weight.reshape(n_heads, 2, rows // n_heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def write_gguf(path: Path, config: dict, seed: int, type_name: str, split: int = 0):
    """In parts of `split` tensors where it is not 0."""
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=split)
    hidden_size, n_heads = config["hidden_size"], config["num_attention_heads"]
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(hidden_size)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(hidden_size // n_heads)
    writer.add_vocab_size(config["vocab_size"])
    kind = gguf.GGMLQuantizationType[type_name]
    for tensor in tiny_cases.tensors(config):
        values = tiny_weights.fill(tensor, seed)
        if ".q_proj" in tensor["name"]:
            values = permute(values, n_heads)
        if ".k_proj" in tensor["name"]:
            values = permute(values, config["num_key_value_heads"])
        name = gguf_name(tensor["name"])
        if values.ndim == 1:  # norms stay float32, as converters leave them
            writer.add_tensor(name, values)
        else:
            packed = gguf.quants.quantize(values, kind)
            writer.add_tensor(name, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def run_numpy(path: Path, prompt_ids: list[int]) -> parity.Reference:
    model = llama_numpy.Llama(path, np.float64)
    step, ids, rows = prompt_ids, [], []
    for _ in range(parity.NUM_TOKENS):
        logits = model(step)
        row = logits - logits.max()
        rows.append(row - np.log(np.exp(row).sum()))
        ids.append(int(row.argmax()))
        step = ids[-1:]
    return parity.Reference(prompt_ids, ids, rows)


def check_split(program: parity.Program) -> str:
    """The model in parts gives the logits of the model in one file."""
    config = tiny_cases.dense("llama")
    prompt_ids = tiny_weights.random_ids("prompt", 1, PROMPT_LENGTH, config["vocab_size"])
    with tempfile.TemporaryDirectory() as folder:
        whole, parts = Path(folder) / "whole.gguf", Path(folder) / "parts.gguf"
        write_gguf(whole, config, 1, "Q8_0")
        write_gguf(parts, config, 1, "Q8_0", split=4)
        files = sorted(Path(folder).glob("parts-*.gguf"))
        expected, found = (program.generate(path, prompt_ids) for path in (whole, files[0]))
        if any(expected[key] != found[key] for key in ("ids", "logprobs")):
            raise RuntimeError("parts and whole give different answers")
        return f"{len(files)} parts as the whole"


def check(type_name: str, program: parity.Program) -> str:
    # Both kinds of output head occur.
    config = tiny_cases.dense("llama", tie_word_embeddings=type_name == "Q8_0")
    for seed in range(1, parity.MAX_SEEDS + 1):
        prompt_ids = tiny_weights.random_ids(
            "prompt", seed, PROMPT_LENGTH, config["vocab_size"]
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.gguf"
            write_gguf(path, config, seed, type_name)
            reference = run_numpy(path, prompt_ids)
            if reference.is_clear():
                return program.compare(path, reference)
    raise RuntimeError(f"no seed up to {parity.MAX_SEEDS} has a clear margin")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parity.add_arguments(parser)
    arguments = parser.parse_args()
    program = parity.Program(arguments.program, arguments.kernels)
    checks = [(name, lambda name=name: check(name, program)) for name in TYPES]
    checks.append(("split", lambda: check_split(program)))
    sys.exit(parity.run_checks(checks, arguments))


if __name__ == "__main__":
    main()
