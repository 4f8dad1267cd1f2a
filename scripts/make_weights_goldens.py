#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Remakes tests/goldens/gguf and tests/goldens/safetensors.

Small GGUF files with every storage type that the loader maps, random bytes and
all, beside what the `gguf` package dequantizes them to, under Hugging Face's
names and row order; and a safetensors file written by the `safetensors`
package. Needs scripts/requirements-goldens.txt.
"""

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from safetensors.numpy import save_file

GOLDENS = Path(__file__).resolve().parent.parent / "tests" / "goldens"
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB, EXPERTS = 64, 4, 2, 16, 96, 40, 3
SCALE_BYTES = {T.Q4_0: 1, T.Q4_1: 2, T.Q8_0: 1}


def random_blocks(rng, kind, shape):
    """Bytes of `shape` elements: every number may occur, scales of all sizes."""
    block, n_bytes = gguf.GGML_QUANT_SIZES[kind]
    rows = shape[:-1]
    data = rng.integers(0, 256, (*rows, shape[-1] // block, n_bytes), np.uint8)
    n_halves = SCALE_BYTES[kind]
    sizes = rng.choice([1e-7, 1e-4, 0.01, 1.0, 100.0], (*data.shape[:-1], n_halves))
    scales = (rng.standard_normal(sizes.shape) * sizes).astype(np.float16)
    data[..., : 2 * n_halves] = scales.view(np.uint8)
    return data.reshape(*rows, -1)


def to_bf16(x):
    return (x.view(np.uint32) >> 16).astype(np.uint16)


def make_tensor(rng, kind, shape):
    """(what goes into the file, its values in float32)"""
    if kind in SCALE_BYTES:
        data = random_blocks(rng, kind, shape)
        return data, gguf.quants.dequantize(data, kind)
    x = rng.standard_normal(shape).astype(np.float32)
    if kind == T.BF16:
        bits = to_bf16(x)
        values = (bits.astype(np.uint32) << 16).view(np.float32)
        return bits.view(np.uint8).reshape(*shape[:-1], -1), values
    if kind == T.F16:
        return x.astype(np.float16), x.astype(np.float16).astype(np.float32)
    return x, x


def unpermute(values, n_heads):
    """Hugging Face's row order from llama.cpp's, architecture llama."""
    rest = values.shape[1:]
    return (
        values.reshape(n_heads, -1, 2, *rest).swapaxes(1, 2).reshape(values.shape)
    )


def write(name, arch, tensors, metadata):
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(GOLDENS / "gguf" / f"{name}.gguf", arch)
    for key, value in metadata.items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"{arch}.{key}", value)
    writer.add_uint32("tokenizer.ggml.eos_token_id", 2)
    expected = {}
    for gguf_name, hf_name, kind, shape in tensors:
        data, values = make_tensor(rng, kind, shape)
        raw_dtype = None if kind in (T.F32, T.F16) else kind
        writer.add_tensor(gguf_name, data, raw_dtype=raw_dtype)
        if arch == "llama" and "attn_q." in gguf_name:
            values = unpermute(values, HEADS)
        if arch == "llama" and "attn_k." in gguf_name:
            values = unpermute(values, KV_HEADS)
        expected[hf_name] = np.ascontiguousarray(values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(expected, GOLDENS / "gguf" / f"{name}.safetensors")


COMMON = {
    "block_count": 1,
    "context_length": 128,
    "embedding_length": HIDDEN,
    "feed_forward_length": FFN,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV_HEADS,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 100000.0,
}


def make_llama():
    layer, kv = "model.layers.0.", KV_HEADS * HEAD_DIM
    attn = layer + "self_attn."
    write(
        "llama",
        "llama",
        [
            ("token_embd.weight", "model.embed_tokens.weight", T.Q8_0, (VOCAB, HIDDEN)),
            ("blk.0.attn_norm.weight", layer + "input_layernorm.weight", T.F32, (HIDDEN,)),
            ("blk.0.ffn_norm.weight", layer + "post_attention_layernorm.weight", T.F32, (HIDDEN,)),
            ("blk.0.attn_q.weight", attn + "q_proj.weight", T.Q4_1, (HIDDEN, HIDDEN)),
            ("blk.0.attn_k.weight", attn + "k_proj.weight", T.Q4_0, (kv, HIDDEN)),
            ("blk.0.attn_v.weight", attn + "v_proj.weight", T.Q4_1, (kv, HIDDEN)),
            ("blk.0.attn_output.weight", attn + "o_proj.weight", T.BF16, (HIDDEN, HIDDEN)),
            ("blk.0.ffn_gate.weight", layer + "mlp.gate_proj.weight", T.Q4_0, (FFN, HIDDEN)),
            ("blk.0.ffn_up.weight", layer + "mlp.up_proj.weight", T.F16, (FFN, HIDDEN)),
            ("blk.0.ffn_down.weight", layer + "mlp.down_proj.weight", T.Q8_0, (HIDDEN, FFN)),
            ("output_norm.weight", "model.norm.weight", T.F32, (HIDDEN,)),
        ],
        COMMON,
    )


def make_qwen3moe():
    layer, kv, ffn = "model.layers.0.", KV_HEADS * HEAD_DIM, 32
    attn, switch = layer + "self_attn.", layer + "mlp.switch_mlp."
    write(
        "qwen3moe",
        "qwen3moe",
        [
            ("token_embd.weight", "model.embed_tokens.weight", T.Q4_0, (VOCAB, HIDDEN)),
            ("output.weight", "lm_head.weight", T.Q8_0, (VOCAB, HIDDEN)),
            ("blk.0.attn_norm.weight", layer + "input_layernorm.weight", T.F32, (HIDDEN,)),
            ("blk.0.ffn_norm.weight", layer + "post_attention_layernorm.weight", T.F32, (HIDDEN,)),
            ("blk.0.attn_q_norm.weight", attn + "q_norm.weight", T.F32, (HEAD_DIM,)),
            ("blk.0.attn_k_norm.weight", attn + "k_norm.weight", T.F32, (HEAD_DIM,)),
            ("blk.0.attn_q.weight", attn + "q_proj.weight", T.Q8_0, (HIDDEN, HIDDEN)),
            ("blk.0.attn_k.weight", attn + "k_proj.weight", T.Q8_0, (kv, HIDDEN)),
            ("blk.0.attn_v.weight", attn + "v_proj.weight", T.Q8_0, (kv, HIDDEN)),
            ("blk.0.attn_output.weight", attn + "o_proj.weight", T.Q4_1, (HIDDEN, HIDDEN)),
            ("blk.0.ffn_gate_inp.weight", layer + "mlp.gate.weight", T.F32, (EXPERTS, HIDDEN)),
            ("blk.0.ffn_gate_exps.weight", switch + "gate_proj.weight", T.Q4_0, (EXPERTS, ffn, HIDDEN)),
            ("blk.0.ffn_up_exps.weight", switch + "up_proj.weight", T.Q4_1, (EXPERTS, ffn, HIDDEN)),
            ("blk.0.ffn_down_exps.weight", switch + "down_proj.weight", T.Q8_0, (EXPERTS, HIDDEN, ffn)),
            ("output_norm.weight", "model.norm.weight", T.F32, (HIDDEN,)),
        ],
        COMMON
        | {
            "attention.key_length": HEAD_DIM,
            "attention.value_length": HEAD_DIM,
            "expert_count": EXPERTS,
            "expert_used_count": 2,
            "expert_feed_forward_length": ffn,
        },
    )


def make_safetensors():
    types = "bool u1 i1 u2 i2 f2 u4 i4 f4 u8 i8 f8 c8".split()
    tensors = {}
    for idx, name in enumerate(types):
        dtype = np.dtype(name)
        data = np.arange(6 * dtype.itemsize, dtype=np.uint8) + idx
        if name == "bool":
            data %= 2
        tensors[f"of.{dtype.name}"] = data.view(dtype).reshape(2, 3)
    tensors["scalar"] = np.array(1.5, np.float32)
    tensors["empty"] = np.zeros((0, 4), np.float16)
    path = GOLDENS / "safetensors" / "all_dtypes.safetensors"
    save_file(tensors, path, {"format": "np", "text": "\"\u00e9\\"})


if __name__ == "__main__":
    for folder in ("gguf", "safetensors"):
        (GOLDENS / folder).mkdir(parents=True, exist_ok=True)
    make_llama()
    make_qwen3moe()
    make_safetensors()
