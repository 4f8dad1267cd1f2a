# SPDX-License-Identifier: MIT
"""Random weights that any language reproduces to the bit, and the checkpoint
files that hold them.

A tensor is named, shaped, centred and scaled; element i of it is

    state = fnv1a64(name) + seed * 0xD1342543DE82EF95            (mod 2^64)
    z     = splitmix64's output for state + (i + 1) * 0x9E3779B97F4A7C15
    u     = (z >> 40) * 2^-23 - 1                     24 bits, in [-1, 1)
    value = float32(center + scale * u)               computed in float64

`center` and `scale` are float32 values, so the product is exact in float64 and
no fused multiply-add can change a bit. tests/testing/tiny_checkpoint.cpp is the
same in C++.
"""

import json
import struct
from pathlib import Path

import numpy as np

MASK = (1 << 64) - 1
GOLDEN_GAMMA = 0x9E3779B97F4A7C15
SEED_STRIDE = 0xD1342543DE82EF95


def fnv1a64(text: str) -> int:
    hash_ = 0xCBF29CE484222325
    for byte in text.encode():
        hash_ = ((hash_ ^ byte) * 0x100000001B3) & MASK
    return hash_


def random_words(name: str, seed: int, count: int) -> np.ndarray:
    """`count` 64-bit words of the stream that `name` and `seed` start."""
    state = (fnv1a64(name) + seed * SEED_STRIDE) & MASK
    with np.errstate(over="ignore"):
        z = np.uint64(state) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(
            GOLDEN_GAMMA
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def fill(tensor: dict, seed: int) -> np.ndarray:
    """The float32 values of one row of a case's "tensors"."""
    count = int(np.prod(tensor["shape"], dtype=np.int64))
    words = random_words(tensor["name"], seed, count)
    u = (words >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1.0
    center = np.float64(np.float32(tensor["center"]))
    scale = np.float64(np.float32(tensor["scale"]))
    return (center + scale * u).astype(np.float32).reshape(tensor["shape"])


def checksum(case: dict) -> str:
    """The sum of every weight's bits, each times the next odd number, mod 2^64:
    shows that another language's generator makes the same weights."""
    bits = np.concatenate(
        [fill(t, case["seed"]).view(np.uint32).ravel() for t in case["tensors"]]
    ).astype(np.uint64)
    with np.errstate(over="ignore"):
        odd = 2 * np.arange(bits.size, dtype=np.uint64) + np.uint64(1)
        return f"{int((bits * odd).sum(dtype=np.uint64)):016x}"


def random_ids(name: str, seed: int, count: int, vocab_size: int) -> list[int]:
    return [int(w % np.uint64(vocab_size)) for w in random_words(name, seed, count)]


def write_safetensors(path: Path, arrays: dict[str, np.ndarray], metadata=None):
    """Writes float32 arrays, in the order given, as one safetensors file."""
    header = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array, dtype="<f4").tobytes())


def write_checkpoint(case: dict, folder: Path):
    """Writes the checkpoint that a case.json describes: config.json and
    model.safetensors, or as many shards as it asks for and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(case["config"], indent=1) + "\n")
    arrays = {t["name"]: fill(t, case["seed"]) for t in case["tensors"]}
    num_shards = case["num_shards"]
    if num_shards == 1:
        write_safetensors(
            folder / "model.safetensors", arrays, {"format": "pt"}
        )
        return
    names = list(arrays)
    weight_map = {}
    for shard_idx in range(num_shards):
        # Every num_shards-th tensor: layers and even one module's tensors lie
        # in different files.
        own = names[shard_idx::num_shards]
        file_name = f"model-{shard_idx + 1:05d}-of-{num_shards:05d}.safetensors"
        write_safetensors(
            folder / file_name, {n: arrays[n] for n in own}, {"format": "pt"}
        )
        weight_map.update({n: file_name for n in own})
    index = {
        "metadata": {"total_size": sum(a.nbytes for a in arrays.values())},
        "weight_map": dict(sorted(weight_map.items())),
    }
    (folder / "model.safetensors.index.json").write_text(
        json.dumps(index, indent=1) + "\n"
    )
