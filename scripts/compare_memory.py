#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Prints the memory of the Qwen3-0.6B shape in 4 bits beside bfloat16's.

usage: compare_memory.py QWEN3_MLX [more options of bench]

Weights are random; the program reads no checkpoint.
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

CONFIG = {
    "model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28,
    "intermediate_size": 3072, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-6,
    "vocab_size": 151936, "max_position_embeddings": 40960,
    "rope_theta": 1000000.0, "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}


def peak_gb(program, config, options):
    command = [
        program, "bench", "--random", "--json", "--model", config,
        "-p", "16", "-g", "8", "-n", "1", *options,
    ]
    out = subprocess.run(command, check=True, capture_output=True).stdout
    return json.loads(out)["average"]["peak_memory_bytes"] / 1e9


def main():
    program, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(CONFIG))
        plain = peak_gb(program, str(config), options)
        packed = peak_gb(program, str(config), ["--q-bits", "4", *options])
    print("Qwen3-0.6B shape, random weights, peak memory:")
    print(f"  bfloat16        {plain:.3f} GB")
    print(f"  4-bit group 64  {packed:.3f} GB, {packed / plain:.2f} of it")


if __name__ == "__main__":
    main()
