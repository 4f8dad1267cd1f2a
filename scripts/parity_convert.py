#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Converts the same checkpoints with mlx-lm's functions and with this program,
and compares every tensor byte for byte, and which module is packed how.

    parity_convert.py [--program build/release/src/cli/qwen3-mlx] [--only TEXT] [-v]

Tiny models of every architecture in three float types: each affine width and
group size, mxfp4, mxfp8, nvfp4, the mixed recipes, plain casts and formats of
single modules. Weights are
made to be hard: groups of zeros, of one number, of ties, very small and very
large ones. Then ggml's types, dequantized, against the package gguf, and
conversions of conversions. Needs mlx, mlx-lm, gguf and numpy.
"""

import argparse
import copy
import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import mlx.core as mx
import numpy as np
from mlx.utils import tree_map_with_path
from mlx_lm import utils
from mlx_lm.convert import QUANT_RECIPES, mixed_quant_predicate_builder

import parity
import parity_mlx_lm
import tiny_cases
import tiny_weights

DTYPES = ["bfloat16", "float16", "float32"]
# By the end of a module's name: its own format, or none.
MODULES = {
    "down_proj": {"group_size": 32, "bits": 8, "mode": "affine"},
    "v_proj": {"group_size": 32, "bits": 4, "mode": "mxfp4"},
    "q_proj": {"group_size": 128, "bits": 3, "mode": "affine"},
    "embed_tokens": False,
}


@dataclasses.dataclass
class Case:
    name: str
    config: dict
    dtype: str
    options: list[str]
    quantization: dict | None = None
    recipe: str | None = None
    modules: dict | None = None


def hard_values(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Rows whose groups of 16 differ by orders of magnitude, and worse."""
    size = int(np.prod(shape))
    groups = -(-size // 16)
    values = rng.standard_normal((groups, 16)).astype(np.float32)
    values *= (10.0 ** rng.uniform(-5, 1, (groups, 1))).astype(np.float32)
    kind = rng.integers(0, 24, groups)
    values[kind == 0] = 0
    values[kind == 1] = 0.25
    values[kind == 2] = np.float32(-1.5)
    values[kind == 3] = rng.integers(-12, 13, (np.sum(kind == 3), 16)) / 4
    values[kind == 4] *= np.float32(1e-7)
    values[kind == 5] = np.abs(values[kind == 5])
    values[kind == 6] = -np.abs(values[kind == 6])
    return values.reshape(-1)[:size].reshape(shape)


def write_plain(config: dict, dtype: str, folder: Path) -> None:
    """A checkpoint of `dtype` as Hugging Face would store it."""
    case = {
        "seed": 1,
        "config": config | {"torch_dtype": dtype},
        "num_shards": 1,
        "tensors": tiny_cases.tensors(config),
    }
    tiny_weights.write_checkpoint(case, folder)
    path = folder / "model.safetensors"
    rng = np.random.default_rng(3)
    tensors = {
        name: mx.array(hard_values(tensor.shape, rng)).astype(getattr(mx, dtype))
        for name, tensor in sorted(mx.load(str(path)).items())
    }
    mx.eval(tensors)
    mx.save_safetensors(str(path), tensors, metadata={"format": "pt"})


def convert_with_mlx_lm(case: Case, source: Path, target: Path) -> None:
    """The steps of mlx_lm.convert, without its tokenizer."""
    model, config = utils.load_model(source, lazy=True)
    predicate = None
    if case.recipe is not None:
        predicate = mixed_quant_predicate_builder(case.recipe, model, 64)
    if case.modules is not None:
        own = getattr(model, "quant_predicate", None) or (lambda *_: True)

        def predicate(path, module):
            leaf = path.split(".")[-1]
            return case.modules[leaf] if leaf in case.modules else own(path, module)

    dtype = getattr(mx, case.dtype)

    def cast(_, value):
        return value.astype(dtype) if mx.issubdtype(value.dtype, mx.floating) else value

    model.update(tree_map_with_path(cast, model.parameters()))
    if case.quantization is not None:
        model, config = utils.quantize_model(
            model, config, quant_predicate=predicate, **case.quantization
        )
    utils.save_model(target, model)
    utils.save_config(copy.deepcopy(config), target / "config.json")


def run(program: Path, *words) -> None:
    done = subprocess.run(
        [program, "convert", *map(str, words)], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"exit status {done.returncode}: {done.stderr.strip()}")


def load(folder: Path) -> dict[str, mx.array]:
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= mx.load(str(path))
    return tensors


def as_bytes(tensor: mx.array) -> bytes:
    width = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32}[tensor.itemsize]
    return np.array(tensor.view(width)).tobytes()


def compare_tensors(ours: dict, theirs: dict) -> int:
    if ours.keys() != theirs.keys():
        raise RuntimeError(f"names differ: {sorted(ours.keys() ^ theirs.keys())}")
    for name, expected in theirs.items():
        found = ours[name]
        for what in ("dtype", "shape"):
            if getattr(found, what) != getattr(expected, what):
                raise RuntimeError(
                    f"{name}: {what} {getattr(found, what)}, expected {getattr(expected, what)}"
                )
        left, right = as_bytes(found), as_bytes(expected)
        if left != right:
            bad = np.frombuffer(left, np.uint8) != np.frombuffer(right, np.uint8)
            raise RuntimeError(
                f"{name}: {bad.sum()} of {bad.size} bytes differ, first at {bad.argmax()}"
            )
    return sum(tensor.nbytes for tensor in theirs.values())


def formats(folder: Path, tensors: dict) -> dict:
    """Module -> (group size, bits, mode), as loaders understand config.json."""
    section = json.loads((folder / "config.json").read_text()).get("quantization")
    result = {}
    for name in tensors:
        if not name.endswith(".scales"):
            continue
        module = name[: -len(".scales")]
        own = section.get(module, True)
        own = section if own is True else own
        result[module] = (own["group_size"], own["bits"], own.get("mode", "affine"))
    return result


def check(case: Case, program: Path) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_plain(case.config, case.dtype, folder / "plain")
        convert_with_mlx_lm(case, folder / "plain", folder / "theirs")
        run(program, "--model", folder / "plain", "-o", folder / "ours", *case.options)
        ours, theirs = load(folder / "ours"), load(folder / "theirs")
        n_bytes = compare_tensors(ours, theirs)
        if formats(folder / "ours", ours) != formats(folder / "theirs", theirs):
            raise RuntimeError("config.json names other formats")
        model, _ = utils.load_model(folder / "ours")  # mlx-lm reads what we write
        mx.eval(model.parameters())
        return f"{len(theirs)} tensors, {n_bytes:,} bytes equal"


def cases() -> list[Case]:
    sizes = parity_mlx_lm.SIZES | {"vocab_size": 512}
    moe_sizes = parity_mlx_lm.MOE_SIZES
    qwen3 = tiny_cases.dense("qwen3", **sizes)
    models = {
        "qwen3": qwen3,
        "qwen3-tied": tiny_cases.edit(qwen3, {"tie_word_embeddings": True}),
        "qwen2": tiny_cases.dense("qwen2", **(sizes | {"head_dim": None})),
        "llama": tiny_cases.dense("llama", **sizes),
        "qwen3_moe": tiny_cases.moe("qwen3_moe", **moe_sizes),
        "qwen2_moe": tiny_cases.moe("qwen2_moe", **(moe_sizes | {"head_dim": None}))
        | {"shared_expert_intermediate_size": 256},
    }
    result = []

    def add(model: str, dtype: str, bits: int, group_size: int, mode: str):
        result.append(
            Case(
                f"{model}-{dtype}-{mode}-{bits}-g{group_size}",
                models[model],
                dtype,
                ["-q", "--q-mode", mode, "--q-bits", bits, "--q-group-size", group_size],
                {"mode": mode, "bits": bits, "group_size": group_size},
            )
        )

    for dtype in DTYPES:
        for bits in (2, 3, 4, 5, 6, 8):
            for group_size in (32, 64, 128):
                add("qwen3", dtype, bits, group_size, "affine")
        for mode, bits, group_size in (("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)):
            add("qwen3", dtype, bits, group_size, mode)
            add("qwen3_moe", dtype, bits, group_size, mode)
        for model in models:
            add(model, dtype, 4, 64, "affine")
            if dtype == "bfloat16" and model not in ("qwen3", "qwen3_moe"):
                for mode, bits, group_size in (("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)):
                    add(model, dtype, bits, group_size, mode)
            result.append(Case(f"{model}-{dtype}-plain", models[model], dtype, []))
    for model in models:
        options = ["-q"]
        for leaf, given in MODULES.items():
            text = ",".join(str(given[key]) for key in ("bits", "group_size", "mode")) if given else "none"
            options += ["--q-module", f"*{leaf}={text}"]
        result.append(
            Case(f"{model}-modules", models[model], "bfloat16", options,
                 {"group_size": 64, "bits": 4}, modules=MODULES)
        )
    for recipe in QUANT_RECIPES:
        deep = tiny_cases.edit(qwen3, {"num_hidden_layers": 17, "vocab_size": 64})
        result.append(
            Case(
                f"{recipe}",
                deep,
                "bfloat16",
                ["-q", "--quant-predicate", recipe],
                {"group_size": 64, "bits": 4},
                recipe,
            )
        )
    return result


def random_blocks(kind: gguf.GGMLQuantizationType, count: int, rng) -> np.ndarray:
    """Any bytes, but finite scales: the exponents of halves are kept small."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    data = rng.integers(0, 256, (count, size), dtype=np.uint8)
    halves = {
        "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
        "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
        "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": [], "Q8_K": [],
    }[kind.name]
    for at in halves:
        data[:, at + 1] = data[:, at + 1] & 0x80 | rng.integers(0, 0x40, count, dtype=np.uint8)
    if kind.name == "MXFP4":
        data[:, 0] = rng.integers(100, 140, count)
    if kind.name == "Q8_K":
        data[:, :4] = rng.uniform(0.001, 0.1, count).astype(np.float32).view(np.uint8).reshape(count, 4)
    return data


def dequantize(data: np.ndarray, kind) -> np.ndarray:
    """As the package, which lacks Q8_K: a float32 scale, 256 int8, sums."""
    if kind.name != "Q8_K":
        return gguf.quants.dequantize(data, kind)
    blocks = data.reshape(-1, gguf.GGML_QUANT_SIZES[kind][1])
    scales = np.ascontiguousarray(blocks[:, :4]).view(np.float32)
    return (scales * blocks[:, 4:260].view(np.int8)).reshape(len(data), -1)


def check_ggml(kind_name: str, program: Path) -> str:
    """One model whose matrices are blocks of that type."""
    kind = gguf.GGMLQuantizationType[kind_name]
    rng = np.random.default_rng(5)
    width, ffn, vocab = 256, 512, 96
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.gguf"
        writer = gguf.GGUFWriter(str(path), "qwen2")
        writer.add_context_length(128)
        writer.add_embedding_length(width)
        writer.add_block_count(1)
        writer.add_feed_forward_length(ffn)
        writer.add_head_count(4)
        writer.add_head_count_kv(2)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_rope_freq_base(1e4)
        writer.add_vocab_size(vocab)
        expected = {}

        def matrix(theirs: str, ours: str, rows: int, columns: int):
            block, size = gguf.GGML_QUANT_SIZES[kind]
            data = random_blocks(kind, rows * columns // block, rng).reshape(rows, -1)
            writer.add_tensor(theirs, data, raw_dtype=kind)
            expected[ours] = dequantize(data, kind)

        def vector(theirs: str, ours: str, size: int):
            data = rng.standard_normal(size).astype(np.float32)
            writer.add_tensor(theirs, data)
            expected[ours] = data

        matrix("token_embd.weight", "model.embed_tokens.weight", vocab, width)
        matrix("output.weight", "lm_head.weight", vocab, width)
        vector("output_norm.weight", "model.norm.weight", width)
        layer, own = "blk.0.", "model.layers.0."
        for theirs, ours, rows, columns in (
            ("attn_q", "self_attn.q_proj", width, width),
            ("attn_k", "self_attn.k_proj", width // 2, width),
            ("attn_v", "self_attn.v_proj", width // 2, width),
            ("attn_output", "self_attn.o_proj", width, width),
            ("ffn_gate", "mlp.gate_proj", ffn, width),
            ("ffn_up", "mlp.up_proj", ffn, width),
            ("ffn_down", "mlp.down_proj", width, ffn),
        ):
            matrix(f"{layer}{theirs}.weight", f"{own}{ours}.weight", rows, columns)
            if theirs in ("attn_q", "attn_k", "attn_v"):
                vector(f"{layer}{theirs}.bias", f"{own}{ours}.bias", rows)
        vector(f"{layer}attn_norm.weight", f"{own}input_layernorm.weight", width)
        vector(f"{layer}ffn_norm.weight", f"{own}post_attention_layernorm.weight", width)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        wanted = {key: mx.array(value) for key, value in expected.items()}

        plain = Path(name) / "plain"
        run(program, "--model", path, "-o", plain, "--dequantize", "--dtype", "float32")
        n_bytes = compare_tensors(load(plain), wanted)
        # What stays packed means the same numbers, and so does what is loaded.
        packed = Path(name) / "packed"
        run(program, "--model", path, "-o", packed, "--dtype", "float32")
        again = Path(name) / "again"
        run(program, "--model", packed, "-o", again, "--dequantize", "--dtype", "float32")
        # A sum with zero leaves no -0, which MLX's FP4 has and ggml's has not.
        compare_tensors(*({k: v + 0 for k, v in part.items()} for part in (load(again), wanted)))
        program_on = parity.Program(program, "stock")
        left, right = (program_on.generate(where, [1, 2, 3]) for where in (path, plain))
        if left["ids"] != right["ids"]:
            raise RuntimeError(f"loaded {left['ids']}, converted {right['ids']}")
        return f"{n_bytes:,} bytes equal"


def check_again(program: Path) -> str:
    """Quantized, dequantized: each number is at most half a step away; packed
    tensors are copied as they are."""
    config = tiny_cases.dense("qwen3", **parity_mlx_lm.SIZES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_plain(config, "bfloat16", folder / "plain")
        run(program, "--model", folder / "plain", "-o", folder / "q4", "-q")
        run(program, "--model", folder / "q4", "-o", folder / "same")
        n_bytes = compare_tensors(load(folder / "same"), load(folder / "q4"))
        run(program, "--model", folder / "q4", "-o", folder / "floats", "-d", "--dtype", "float32")
        packed, floats = load(folder / "q4"), load(folder / "floats")
        for module, (group_size, bits, _) in formats(folder / "q4", packed).items():
            parts = [packed[f"{module}.{leaf}"] for leaf in ("weight", "scales", "biases")]
            parts[1:] = [part.astype(mx.float32) for part in parts[1:]]
            expected = mx.dequantize(*parts, group_size=group_size, bits=bits)
            compare_tensors({module: floats[f"{module}.weight"]}, {module: expected})
        return f"{n_bytes:,} bytes equal"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parity.add_arguments(parser)
    arguments = parser.parse_args()
    mx.set_default_device(mx.cpu)
    program = arguments.program
    checks = [(case.name, lambda case=case: check(case, program)) for case in cases()]
    for kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K",
                 "Q6_K", "Q8_K", "IQ4_NL", "IQ4_XS", "MXFP4"):
        checks.append((f"ggml-{kind}", lambda kind=kind: check_ggml(kind, program)))
    checks.append(("again", lambda: check_again(program)))
    sys.exit(parity.run_checks(checks, arguments))


if __name__ == "__main__":
    main()
