#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Reads tiny checkpoints as other programs quantize them, and compares every
weight with the formulas of those programs in numpy, bit for bit in float32.

    parity_import.py [--program build/release/src/cli/qwen3-mlx] [--only TEXT] [-v]

AWQ, GPTQ (2, 3, 4, 8 bits; v1 and v2 zero points; g_idx), block and per-tensor
FP8, compressed-tensors' pack-quantized (4 and 8 bits, symmetric and not),
float-quantized, nvfp4 and mxfp4, bitsandbytes' nf4 and fp4; dense and mixture-of-experts.
The weights come from convert; what is loaded directly must give the same tokens, and FP8
straight to mxfp8 or 8 bits the same bytes as by way of float32. Needs numpy; where the packages
torch and bitsandbytes are there, the latter packs and unpacks as well.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import parity
import tiny_cases
import tiny_weights

SIZES = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "rope_scaling": None}
MOE_SIZES = SIZES | {"moe_intermediate_size": 128, "num_experts": 4}
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def pack(numbers: np.ndarray, bits: int) -> np.ndarray:
    """[n, m] along n: bits after each other, into words [n * bits / 32, m]."""
    n, m = numbers.shape
    stream = (numbers[:, None, :] >> np.arange(bits)[None, :, None]) & 1
    stream = stream.reshape(n * bits, m)
    stream = np.concatenate([stream, np.zeros((-len(stream) % 32, m), stream.dtype)])
    words = stream.reshape(-1, 32, m).astype(np.uint64)
    return (words << np.arange(32, dtype=np.uint64)[None, :, None]).sum(1).astype(np.uint32).view(np.int32)


def pack_awq(numbers: np.ndarray) -> np.ndarray:
    """[n, m] -> [n, m / 8]"""
    n, m = numbers.shape
    ordered = numbers.reshape(n, m // 8, 8)[:, :, AWQ_ORDER].astype(np.uint64)
    return (ordered << (4 * np.arange(8, dtype=np.uint64))).sum(-1).astype(np.uint32).view(np.int32)


def e4m3_values() -> np.ndarray:
    bits = np.arange(256)
    exponent, mantissa = bits >> 3 & 15, bits & 7
    value = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))
    return (np.where(bits & 128, -1, 1) * value).astype(np.float32)


class Awq:
    def __init__(self, group_size=32):
        self.group_size = group_size
        self.config = {"quant_method": "awq", "bits": 4, "group_size": group_size,
                       "zero_point": True, "version": "gemm"}

    def quantize(self, rng, out, columns):
        groups = columns // self.group_size if self.group_size > 0 else 1
        q = rng.integers(0, 16, (columns, out))
        zeros = rng.integers(0, 16, (groups, out))
        scales = rng.uniform(0.001, 0.02, (groups, out)).astype(np.float16)
        group = np.arange(columns) * groups // columns
        weight = (q - zeros[group]).astype(np.float32) * scales.astype(np.float32)[group]
        return weight.T, {"qweight": pack_awq(q), "qzeros": pack_awq(zeros), "scales": scales}


class Gptq:
    def __init__(self, bits, group_size, version=1, act_order=False):
        self.bits, self.group_size = bits, group_size
        self.version, self.act_order = version, act_order
        self.config = {"quant_method": "gptq", "bits": bits, "group_size": group_size,
                       "desc_act": act_order, "sym": False,
                       "checkpoint_format": "gptq" if version == 1 else "gptq_v2"}

    def quantize(self, rng, out, columns):
        groups = columns // self.group_size if self.group_size > 0 else 1
        q = rng.integers(0, 1 << self.bits, (columns, out))
        stored = rng.integers(0, 1 << self.bits, (groups, out))
        zeros = stored + (1 if self.version == 1 else 0)
        scales = rng.uniform(0.001, 0.02, (groups, out)).astype(np.float16)
        group = np.arange(columns) * groups // columns
        parts = {"qweight": pack(q, self.bits), "scales": scales,
                 "qzeros": np.ascontiguousarray(pack(stored.T, self.bits).T)}
        if self.act_order:
            group = rng.permutation(group)
        parts["g_idx"] = group.astype(np.int32)
        weight = (q - zeros[group]).astype(np.float32) * scales.astype(np.float32)[group]
        return weight.T, parts


class Fp8:
    def __init__(self, block=(128, 128), method="fp8", strategy=None):
        self.block, self.strategy = block, strategy
        if method == "fp8":
            self.config = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
            if block:
                self.config["weight_block_size"] = list(block)
        else:
            weights = {"num_bits": 8, "type": "float", "strategy": strategy}
            self.config = {"quant_method": "compressed-tensors", "format": "float-quantized",
                           "config_groups": {"group_0": {"weights": weights, "targets": ["Linear"]}},
                           "ignore": ["lm_head"]}

    def quantize(self, rng, out, columns):
        bits = rng.integers(0, 256, (out, columns)).astype(np.uint8)
        bits[bits & 127 == 127] = 0  # NaN
        values = e4m3_values()[bits]
        if self.block:
            shape = tuple(-(-size // block) for size, block in zip((out, columns), self.block))
            scales = rng.uniform(1e-4, 1e-3, shape).astype(np.float32)
            full = scales.repeat(self.block[0], 0).repeat(self.block[1], 1)[:out, :columns]
            return values * full, {"weight": bits, "weight_scale_inv": scales}
        shape = (out, 1) if self.strategy == "channel" else (1,)
        scales = rng.uniform(1e-4, 1e-3, shape).astype(np.float32)
        return values * scales, {"weight": bits, "weight_scale": scales}


class Packed:
    def __init__(self, bits=4, group_size=32, symmetric=True):
        self.bits, self.group_size, self.symmetric = bits, group_size, symmetric
        weights = {"num_bits": bits, "type": "int", "symmetric": symmetric}
        weights |= {"strategy": "group", "group_size": group_size} if group_size else {"strategy": "channel"}
        self.config = {"quant_method": "compressed-tensors", "format": "pack-quantized",
                       "config_groups": {"group_0": {"weights": weights, "targets": ["Linear"]}},
                       "ignore": ["lm_head"]}

    def quantize(self, rng, out, columns):
        groups = columns // self.group_size if self.group_size else 1
        half = 1 << (self.bits - 1)
        q = rng.integers(-half, half, (out, columns))
        zeros = np.zeros((out, groups), int) if self.symmetric else rng.integers(-half, half, (out, groups))
        scales = rng.uniform(0.001, 0.02, (out, groups)).astype(np.float32)
        group = np.arange(columns) * groups // columns
        parts = {"weight_packed": np.ascontiguousarray(pack((q + half).T, self.bits).T),
                 "weight_scale": scales, "weight_shape": np.array([out, columns], np.int64)}
        if not self.symmetric:
            parts["weight_zero_point"] = pack(zeros + half, self.bits)
        return (q - zeros[:, group]).astype(np.float32) * scales[:, group], parts


class Fp4:
    """E2M1, two a byte; nvfp4: scales in E4M3 over one float, mxfp4: powers of two."""

    VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    VALUES = np.concatenate([VALUES, -VALUES])

    def __init__(self, name, group_size):
        self.name, self.group_size = name, group_size
        weights = {"num_bits": 4, "type": "float", "symmetric": True, "group_size": group_size,
                   "strategy": "tensor_group" if name == "nvfp4" else "group"}
        self.config = {"quant_method": "compressed-tensors", "format": f"{name}-pack-quantized",
                       "config_groups": {"group_0": {"weights": weights, "targets": ["Linear"]}},
                       "ignore": ["lm_head"]}

    def quantize(self, rng, out, columns):
        q = rng.integers(0, 16, (out, columns)).astype(np.uint8)
        groups = columns // self.group_size
        packed = (q[:, ::2] | q[:, 1::2] << 4).view(np.int8)
        if self.name == "nvfp4":
            bits = rng.integers(1, 127, (out, groups)).astype(np.uint8)
            total = rng.uniform(4000, 9000, 1).astype(np.float32)
            scales = e4m3_values()[bits] / total
            parts = {"weight_scale": bits, "weight_global_scale": total,
                     "input_global_scale": np.ones(1, np.float32)}
        else:
            bits = rng.integers(116, 122, (out, groups)).astype(np.int8)
            scales = np.ldexp(np.float32(1), bits.astype(int) - 127)
            parts = {"weight_scale": bits}
        weight = self.VALUES[q] * scales.repeat(self.group_size, 1)
        return weight, {"weight_packed": packed} | parts


def bitsandbytes_config(kind: str) -> dict:
    return {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False,
            "bnb_4bit_quant_type": kind, "bnb_4bit_quant_storage": "uint8",
            "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "float32"}


class Bitsandbytes:
    """A table of 16 values, two codes a byte, the first in the high bits; scales
    of blocks of the whole matrix, packed as well where `nested`."""

    def __init__(self, kind, block_size=64, nested=True):
        self.kind, self.block_size, self.nested = kind, block_size, nested
        self.config = bitsandbytes_config(kind)

    def quantize(self, rng, out, columns):
        size = out * columns
        blocks = -(-size // self.block_size)
        q = rng.integers(0, 16, size).astype(np.uint8)
        table = np.sort(rng.uniform(-1, 1, 16)).astype(np.float32)
        state = {"quant_type": self.kind, "blocksize": self.block_size, "dtype": "bfloat16",
                 "shape": [out, columns]}
        parts = {"weight": (q[::2] << 4 | q[1::2]).reshape(-1, 1).view(np.int8), "weight.quant_map": table}
        if self.nested:
            codes = rng.integers(0, 256, blocks).astype(np.uint8)
            nested_table = np.sort(rng.uniform(-1, 1, 256)).astype(np.float32)
            nested = rng.uniform(0.001, 0.01, -(-blocks // 256)).astype(np.float32)
            offset = float(np.float32(rng.uniform(0.01, 0.02)))
            scales = nested_table[codes] * nested.repeat(256)[:blocks] + np.float32(offset)
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
            parts |= {"weight.absmax": codes.view(np.int8), "weight.nested_absmax": nested,
                      "weight.nested_quant_map": nested_table}
        else:
            parts["weight.absmax"] = scales = rng.uniform(0.001, 0.05, blocks).astype(np.float32)
        text = np.frombuffer(json.dumps(state).encode(), np.int8)
        weight = table[q] * scales.repeat(self.block_size)[:size]
        return weight.reshape(out, columns), parts | {f"weight.quant_state.bitsandbytes__{self.kind}": text}


class BitsandbytesPackage:
    """As bitsandbytes itself packs and unpacks random weights, in float32."""

    def __init__(self, kind, block_size, nested):
        self.kind, self.block_size, self.nested = kind, block_size, nested
        self.config = bitsandbytes_config(kind)

    def quantize(self, rng, out, columns):
        import bitsandbytes.functional
        import torch

        weight = torch.from_numpy(rng.normal(0, 0.02, (out, columns)).astype(np.float32))
        packed, state = bitsandbytes.functional.quantize_4bit(
            weight, blocksize=self.block_size, compress_statistics=self.nested, quant_type=self.kind)
        parts = {"weight": packed} | {f"weight.{leaf}": part for leaf, part in state.as_dict(packed=True).items()}
        parts = {leaf: part.numpy() for leaf, part in parts.items()}
        parts = {leaf: part.view(np.int8) if part.dtype == np.uint8 else part for leaf, part in parts.items()}
        return bitsandbytes.functional.dequantize_4bit(packed, state).numpy(), parts


# uint8 stands for E4M3 here, so int8 is what is stored as U8.
TYPES = {"float32": "F32", "float16": "F16", "int32": "I32", "int64": "I64",
         "uint8": "F8_E4M3", "int8": "U8"}


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    header, offset = {}, 0
    order = sorted(tensors, key=lambda name: -tensors[name].itemsize)
    for name in order:
        data = tensors[name]
        header[name] = {"dtype": TYPES[str(data.dtype)], "shape": list(data.shape),
                        "data_offsets": [offset, offset + data.nbytes]}
        offset += data.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text
                     + b"".join(np.ascontiguousarray(tensors[name]).tobytes() for name in order))


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    result = {}
    for name, info in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__":
            begin, end = (8 + size + at for at in info["data_offsets"])
            result[name] = np.frombuffer(data[begin:end], np.float32).reshape(info["shape"])
    return result


def convert(program: Path, source: Path, target: Path, *options: str) -> None:
    done = subprocess.run([program, "convert", "--model", source, "-o", target, *options],
                          capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())


def check_requantized(program: Path, source: Path, floats: Path) -> None:
    """Straight to 8 bits is the same as by way of float32."""
    for mode, group_size in (("mxfp8", 32), ("affine", 64)):
        options = ["-q", "--q-mode", mode, "--q-bits", "8", "--q-group-size", str(group_size)]
        written = []
        for at, where in enumerate((source, floats)):
            target = floats.with_name(f"{mode}-{at}")
            convert(program, where, target, *options)
            written.append((target / "model.safetensors").read_bytes())
        if written[0] != written[1]:
            raise RuntimeError(f"to {mode}: not what float32 becomes")


def check(scheme, config: dict, program: Path) -> str:
    rng = np.random.default_rng(9)
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source"
        case = {"seed": 1, "config": config | {"torch_dtype": "float32"}, "num_shards": 1,
                "tensors": tiny_cases.tensors(config)}
        tiny_weights.write_checkpoint(case, source)
        plain = read_safetensors(source / "model.safetensors")
        stored, expected = {}, {}
        for tensor, data in plain.items():
            is_linear = "_proj.weight" in tensor
            if not is_linear:
                stored[tensor] = expected[tensor] = data
                continue
            module = tensor.removesuffix(".weight")
            weight, parts = scheme.quantize(rng, *data.shape)
            expected[tensor] = np.ascontiguousarray(weight, np.float32)
            stored |= {f"{module}.{leaf}": part for leaf, part in parts.items()}
        write_safetensors(source / "model.safetensors", stored)
        path = source / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": scheme.config}))
        target = Path(name) / "target"
        convert(program, source, target, "-d")
        found = read_safetensors(target / "model.safetensors")
        if isinstance(scheme, Fp8):
            check_requantized(program, source, target)
        num_weights = 0
        for tensor, data in expected.items():
            ours = found.get(tensor)
            if ours is None:  # an expert of a stack
                head, tail = tensor.split(".experts.")
                expert, leaf = tail.split(".", 1)
                ours = found[f"{head}.switch_mlp.{leaf}"][int(expert)]
            if ours.shape != data.shape or ours.tobytes() != data.tobytes():
                raise RuntimeError(f"{tensor}: {np.sum(ours != data)} of {data.size} differ")
            num_weights += data.size
        runner = parity.Program(program, "stock")
        left, right = (runner.generate(where, [1, 2, 3]) for where in (source, target))
        if left["ids"] != right["ids"]:
            raise RuntimeError(f"loaded {left['ids']}, converted {right['ids']}")
        return f"{num_weights:,} weights equal"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parity.add_arguments(parser)
    arguments = parser.parse_args()
    dense = tiny_cases.dense("qwen3", **SIZES)
    moe = tiny_cases.moe("qwen3_moe", **MOE_SIZES)
    schemes = {"awq-32": Awq(32), "awq-128": Awq(128), "awq-row": Awq(-1),
               "fp8-block": Fp8(), "fp8-block-48": Fp8((48, 80)), "fp8-tensor": Fp8(None),
               "float-quantized-channel": Fp8(None, "compressed", "channel"),
               "float-quantized-tensor": Fp8(None, "compressed", "tensor")}
    schemes |= {"nvfp4": Fp4("nvfp4", 16), "mxfp4": Fp4("mxfp4", 32)}
    for bits in (2, 3, 4, 8):
        for version in (1, 2):
            schemes[f"gptq-{bits}-v{version}"] = Gptq(bits, 64, version)
        schemes[f"gptq-{bits}-act-order"] = Gptq(bits, 32, 1, act_order=True)
        schemes[f"gptq-{bits}-row"] = Gptq(bits, -1)
    for bits in (4, 8):
        for symmetric in (True, False):
            name = f"packed-{bits}-{'symmetric' if symmetric else 'zero-points'}"
            schemes[name] = Packed(bits, 32, symmetric)
            schemes[f"{name}-channel"] = Packed(bits, 0, symmetric)
    classes = {"": Bitsandbytes}
    if importlib.util.find_spec("bitsandbytes"):
        classes["-package"] = BitsandbytesPackage
    for suffix, kind_of in classes.items():
        for kind in ("nf4", "fp4"):
            for block_size in (64, 4096):
                schemes[f"{kind}-{block_size}{suffix}"] = kind_of(kind, block_size, nested=False)
                schemes[f"{kind}-{block_size}-nested{suffix}"] = kind_of(kind, block_size, nested=True)
    checks = []
    for name, scheme in schemes.items():
        for model, config in (("qwen3", dense), ("qwen3_moe", moe)):
            checks.append((f"{name}-{model}", lambda s=scheme, c=config: check(s, c, arguments.program)))
    sys.exit(parity.run_checks(checks, arguments))


if __name__ == "__main__":
    main()
