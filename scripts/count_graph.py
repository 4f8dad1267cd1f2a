#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Counts the primitives of one decode step per layer, ours and mlx-lm's.

usage: count_graph.py GRAPH_COUNT [cpu|gpu]

GRAPH_COUNT is the program of benchmarks/graph. Both graphs are built for
random weights of two and of three layers, 4-bit, and subtracted. Views (which
run nothing on a GPU) are counted apart from what runs.
"""
import collections
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import cache as mlx_lm_cache
from mlx_lm.utils import _get_classes

VIEWS = {
    "AsStrided", "Broadcast", "BroadcastAxes", "ExpandDims", "Flatten", "Full",
    "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unflatten", "Copy",
}
DENSE = {
    "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
    "rms_norm_eps": 1e-6, "vocab_size": 1024, "max_position_embeddings": 40960,
    "rope_theta": 1000000.0, "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
MOE = DENSE | {
    "model_type": "qwen3_moe", "num_experts": 16, "num_experts_per_tok": 8,
    "moe_intermediate_size": 256, "norm_topk_prob": True,
    "decoder_sparse_step": 1, "mlp_only_layers": [],
}
QUANTIZATION = {"group_size": 64, "bits": 4}


def mlx_lm_counts(config):
    model_class, args_class = _get_classes(config)
    model = model_class(args_class.from_dict(config))
    model.set_dtype(mx.bfloat16)
    nn.quantize(model, **QUANTIZATION)
    mx.eval(model.parameters())
    cache = mlx_lm_cache.make_prompt_cache(model)
    mx.eval(model(mx.zeros((1, 8), mx.uint32), cache=cache))
    mx.eval([c.state for c in cache])
    logits = model(mx.zeros((1, 1), mx.uint32), cache=cache)
    with tempfile.NamedTemporaryFile("r", suffix=".dot") as dot:
        mx.export_to_dot(dot.name, logits)
        text = dot.read()
    names = re.findall(r'label ?="(\w+)", shape=rectangle', text)
    return collections.Counter(names)


def our_counts(program, config, device):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config | {"quantization": QUANTIZATION}))
        out = subprocess.run(
            [program, str(path), device], check=True, capture_output=True
        ).stdout
    return collections.Counter(json.loads(out))


def per_layer(count, config):
    two = count(config | {"num_hidden_layers": 2})
    three = count(config | {"num_hidden_layers": 3})
    three.subtract(two)
    return +three


def main():
    program = sys.argv[1]
    device = sys.argv[2] if len(sys.argv) > 2 else "gpu"
    mx.set_default_device(mx.cpu if device == "cpu" else mx.gpu)
    failed = False
    for name, config in (("dense", DENSE), ("MoE", MOE)):
        counts = {
            "qwen3-mlx": per_layer(
                lambda c: our_counts(program, c, device), config
            ),
            "mlx-lm": per_layer(mlx_lm_counts, config),
        }
        print(f"{name}: primitives of one layer in one decode step ({device})")
        totals = {}
        for who, counter in counts.items():
            kernels = sum(n for k, n in counter.items() if k not in VIEWS)
            totals[who] = (kernels, sum(counter.values()))
            listing = ", ".join(f"{k} {n}" for k, n in sorted(counter.items()))
            print(f"  {who:10} {kernels:3} that run, {totals[who][1]:3} in all")
            print(f"             {listing}")
        failed |= not all(
            a < b for a, b in zip(totals["qwen3-mlx"], totals["mlx-lm"])
        )
    print("fewer than mlx-lm in every count" if not failed else "NOT fewer")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
