#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes seed corpora for tests/fuzz: make_fuzz_seeds.py DIR

One folder for each of safetensors, gguf, gguf_checkpoint, config, index, import
and hub_answer; small valid files, so that the fuzzers start behind the first checks. Needs no packages.
"""

import json
import struct
import sys
from pathlib import Path

GOLDENS = Path(__file__).resolve().parent.parent / "tests" / "goldens"


def safetensors(tensors, metadata=None):
    header, offset = ({"__metadata__": metadata} if metadata else {}), 0
    for name, dtype, shape, n_bytes in tensors:
        offsets = [offset, offset + n_bytes]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        offset += n_bytes
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(offset)


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def gguf(entries, tensors, version=3, alignment=32):
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(entries))
    for key, kind, value in entries:
        out += text(key) + struct.pack("<I", kind) + value
    offset = 0
    for name, kind, dims, n_bytes in tensors:
        out += text(name) + struct.pack("<I", len(dims))
        out += b"".join(struct.pack("<Q", dim) for dim in dims)
        out += struct.pack("<IQ", kind, offset)
        offset += -(-n_bytes // alignment) * alignment
    out += bytes(-len(out) % alignment)
    return out + bytes(offset)


def array(kind, values):
    return struct.pack("<IQ", kind, len(values)) + b"".join(values)


def gguf_seeds():
    scalars = [
        (f"key.{kind}", kind, bytes(size))
        for kind, size in enumerate([1, 1, 2, 2, 4, 4, 4, 1])
    ] + [("key.u64", 10, bytes(8)), ("key.f64", 12, bytes(8))]
    tokens = [
        ("general.architecture", 8, text("qwen3")),
        ("tokenizer.ggml.tokens", 9, array(8, [text("a"), text("bc")])),
        ("tokenizer.ggml.token_type", 9, array(5, [bytes(4)] * 2)),
        ("general.alignment", 4, struct.pack("<I", 64)),
    ]
    tensors = [
        ("token_embd.weight", 8, [32, 2], 68),
        ("blk.0.attn_q.weight", 2, [64, 2], 72),
        ("blk.0.attn_k.weight", 3, [32, 1], 20),
        ("output_norm.weight", 0, [4], 16),
    ]
    return [
        gguf([], []),
        gguf(scalars, tensors, version=2),
        gguf(tokens, tensors, alignment=64),
    ]


def safetensors_seeds():
    return [
        safetensors([]),
        safetensors([("a", "BF16", [2, 3], 12), ("b", "U8", [4], 4)], {"k": "v"}),
        safetensors([("f8", "F8_E4M3", [], 1), ("f4", "F4", [2], 1), ("e", "F32", [0], 0)]),
    ]


def config_seeds():
    cases = sorted((GOLDENS / "parity").glob("*/case.json"))
    seeds = [json.dumps(json.loads(case.read_text())["config"]) for case in cases]
    quantized = json.loads(seeds[0]) if seeds else {}
    quantized["quantization"] = {
        "group_size": 64,
        "bits": 4,
        "mode": "affine",
        "model.embed_tokens": {"group_size": 32, "bits": 8},
        "lm_head": False,
    }
    return [seed.encode() for seed in [*seeds, json.dumps(quantized)]]


def index_seeds():
    good = {"metadata": {"total_size": 1}, "weight_map": {"t": "a.safetensors"}}
    bad = {"weight_map": {"t": "../a.safetensors", "u": "b.safetensors"}}
    return [json.dumps(index).encode() for index in (good, bad)]


def import_seeds():
    """One for each config of import_fuzz.cpp: [8, 8] weights, or near that."""
    awq = [("m.qweight", "I32", [8, 1], 32), ("m.qzeros", "I32", [1, 1], 4),
           ("m.scales", "F16", [1, 8], 16)]
    gptq = [("m.qweight", "I32", [1, 8], 32), ("m.qzeros", "I32", [1, 1], 4),
            ("m.scales", "F16", [1, 8], 16), ("m.g_idx", "I32", [8], 32)]
    three = [("m.qweight", "I32", [3, 32], 384), ("m.qzeros", "I32", [1, 3], 12),
             ("m.scales", "F16", [1, 32], 64)]
    packed = [("m.weight_packed", "I32", [8, 1], 32), ("m.weight_scale", "F32", [8, 1], 32)]
    wide = [("m.weight_packed", "I32", [4, 2], 32), ("m.weight_scale", "F32", [4, 1], 16),
            ("m.weight_zero_point", "I32", [1, 1], 4)]
    two = [("m.qweight", "I32", [1, 16], 64), ("m.qzeros", "I32", [4, 1], 16),
           ("m.scales", "F16", [4, 16], 128)]
    floats = [("m.weight", "F8_E4M3", [8, 8], 64)]
    files = [
        floats + [("m.weight_scale_inv", "F32", [2, 2], 16)],
        floats + [("m.weight_scale", "F32", [1], 4)],
        awq,
        gptq,
        three,
        packed + [("m.weight_shape", "I64", [2], 16)],
        wide + [("m.weight_shape", "I64", [2], 16)],
        floats + [("m.weight_scale", "BF16", [8, 1], 16)],
        two,
        [("m.weight_packed", "U8", [2, 16], 32), ("m.weight_scale", "F8_E4M3", [2, 2], 4),
         ("m.weight_global_scale", "F32", [1], 4)],
        [("m.weight_packed", "U8", [2, 32], 64), ("m.weight_scale", "U8", [2, 2], 4)],
    ]
    shapes = {5: (8, 8), 6: (4, 8)}
    seeds = []
    for idx, tensors in enumerate(files):
        data = safetensors(sorted(tensors, key=lambda each: each[1] != "I64"))
        if idx in shapes:  # the first bytes behind the header
            at = 8 + int.from_bytes(data[:8], "little")
            data = data[:at] + struct.pack("<QQ", *shapes[idx]) + data[at + 16 :]
        seeds.append(bytes([idx]) + data)
    for kind, nested in (("nf4", True), ("fp4", False), ("fp4", True)):
        state = {"quant_type": kind, "blocksize": 16, "dtype": "bfloat16", "shape": [8, 8]}
        tensors = [("m.weight", "U8", [32, 1], 32), ("m.weight.quant_map", "F32", [16], 64)]
        if nested:
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.5}
            tensors += [("m.weight.absmax", "U8", [4], 4), ("m.weight.nested_absmax", "F32", [1], 4),
                        ("m.weight.nested_quant_map", "F32", [256], 1024)]
        else:
            tensors.append(("m.weight.absmax", "F32", [4], 16))
        told = json.dumps(state).encode()
        tensors.append((f"m.weight.quant_state.bitsandbytes__{kind}", "U8", [len(told)], len(told)))
        data = safetensors(tensors)  # what is told lies last
        seeds.append(bytes([11 if kind == "nf4" else 12]) + data[: -len(told)] + told)
    return seeds


def gguf_checkpoint_seeds():
    """Every type that has values, and a model in two parts."""
    blocks = [(0, 1, 4), (1, 1, 2), (30, 1, 2), (2, 32, 18), (3, 32, 20), (6, 32, 22), (7, 32, 24),
              (8, 32, 34), (10, 256, 84), (11, 256, 110), (12, 256, 144), (13, 256, 176),
              (14, 256, 210), (15, 256, 292), (20, 32, 18), (23, 256, 136), (39, 32, 17)]
    def entries(number, count, n_tensors):
        split = [("split.no", 2, struct.pack("<H", number)), ("split.count", 2, struct.pack("<H", count)),
                 ("split.tensors.count", 5, struct.pack("<i", n_tensors))]
        return [("general.architecture", 8, text("llama")),
                ("llama.attention.head_count", 4, struct.pack("<I", 2)),
                ("llama.attention.head_count_kv", 4, struct.pack("<I", 1)), *split]
    seeds = []
    for kind, width, size in blocks:
        seeds.append(gguf(entries(0, 1, 2), [("blk.0.attn_q.weight", kind, [width, 4], 4 * size),
                                             ("blk.0.ffn_up.weight", kind, [width, 2], 2 * size)]))
    seeds = [struct.pack("<I", len(seed)) + seed for seed in seeds]
    parts = [gguf(entries(number, 2, 2), [(f"blk.{number}.attn_k.weight", 14, [256, 2], 420)])
             for number in (0, 1)]
    return [*seeds, struct.pack("<I", len(parts[0])) + parts[0] + parts[1]]


def hub_answer_seeds():
    files = [{"rfilename": name} for name in ("config.json", "model.safetensors", "a/b.jinja")]
    listing = {"id": "org/name", "sha": "0123456789abcdef0123456789abcdef01234567", "siblings": files}
    heads = [
        (200, {"etag": '"' + "a" * 40 + '"', "content-length": "12", "x-repo-commit": "a" * 40}),
        (200, {"etag": 'W/"1"', "x-linked-etag": '"' + "b" * 64 + '"', "x-linked-size": "123456"}),
        (429, {"retry-after": "7", "ratelimit": '"api";r=0;t=55'}),
        (401, {"x-error-code": "GatedRepo", "x-error-message": "ask first"}),
        (404, {"x-error-code": "EntryNotFound"}),
    ]
    seeds = [b"\0" + json.dumps(listing).encode()]
    for status, headers in heads:
        lines = "\n".join(f"{name}: {value}" for name, value in headers.items())
        seeds.append(bytes([1, status - 200]) + lines.encode())
    return seeds


def main(out):
    for name, seeds in {
        "safetensors": safetensors_seeds(),
        "gguf": gguf_seeds(),
        "gguf_checkpoint": gguf_checkpoint_seeds(),
        "config": config_seeds(),
        "index": index_seeds(),
        "import": import_seeds(),
        "hub_answer": hub_answer_seeds(),
    }.items():
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        for idx, seed in enumerate(seeds):
            (folder / f"seed-{idx:02}").write_bytes(seed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
