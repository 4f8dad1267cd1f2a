# SPDX-License-Identifier: MIT
"""A llama forward pass in numpy over a GGUF's dequantized weights: an oracle
that shares no code with any inference engine."""

from pathlib import Path

import gguf
import numpy as np


class Llama:
    """Weights as `dtype`, one sequence, a key-value cache that grows."""

    def __init__(self, path: Path, dtype=np.float32):
        reader = gguf.GGUFReader(path)
        field = lambda name: reader.fields[name].contents()
        self.dtype = dtype
        self.num_layers = field("llama.block_count")
        self.n_heads = field("llama.attention.head_count")
        self.n_kv_heads = field("llama.attention.head_count_kv")
        self.head_dim = field("llama.embedding_length") // self.n_heads
        self.eps = dtype(field("llama.attention.layer_norm_rms_epsilon"))
        self.weights = {
            t.name: self.unpermute(
                t.name, gguf.quants.dequantize(t.data, t.tensor_type)
            ).astype(dtype)
            for t in reader.tensors
        }
        theta = field("llama.rope.freq_base")
        steps = np.arange(0, self.head_dim, 2, dtype=np.float64) / self.head_dim
        self.inv_freq = theta**-steps
        self.reset()

    def unpermute(self, name: str, weight: np.ndarray) -> np.ndarray:
        # Files of this architecture hold the rows of q and k so that the halves
        # of a rotated pair lie next to each other; here they are half a head
        # apart.
        heads = {"attn_q": self.n_heads, "attn_k": self.n_kv_heads}.get(
            name.split(".")[-2]
        )
        if heads is None:
            return weight
        rows, columns = weight.shape
        pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
        return pairs.swapaxes(1, 2).reshape(rows, columns)

    def reset(self):
        empty = np.zeros((self.n_kv_heads, 0, self.head_dim), self.dtype)
        self.keys = [empty] * self.num_layers
        self.values = [empty] * self.num_layers

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        scale = 1.0 / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps)
        return x * scale * self.weights[f"{name}.weight"]

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.weights[f"{name}.weight"].T

    def rope(self, x: np.ndarray, start: int) -> np.ndarray:
        positions = np.arange(start, start + x.shape[1])
        angles = positions[:, None] * self.inv_freq
        cos, sin = np.cos(angles).astype(self.dtype), np.sin(angles).astype(self.dtype)
        low, high = np.split(x, 2, axis=-1)
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], -1)

    def attention(self, x: np.ndarray, layer: int) -> np.ndarray:
        length = x.shape[0]
        start = self.keys[layer].shape[1]
        prefix = f"blk.{layer}"

        def heads(name, count):
            projected = self.linear(x, f"{prefix}.{name}")
            return projected.reshape(length, count, self.head_dim).swapaxes(0, 1)

        queries = self.rope(heads("attn_q", self.n_heads), start)
        keys = self.rope(heads("attn_k", self.n_kv_heads), start)
        keys = np.concatenate([self.keys[layer], keys], 1)
        values = np.concatenate(
            [self.values[layer], heads("attn_v", self.n_kv_heads)], 1
        )
        self.keys[layer], self.values[layer] = keys, values

        group = self.n_heads // self.n_kv_heads
        keys, values = keys.repeat(group, 0), values.repeat(group, 0)
        scores = queries @ keys.swapaxes(1, 2) / self.dtype(self.head_dim**0.5)
        future = np.arange(keys.shape[1]) > start + np.arange(length)[:, None]
        scores = np.where(future, self.dtype(-np.inf), scores)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        mixed = (scores @ values).swapaxes(0, 1).reshape(length, -1)
        return self.linear(mixed, f"{prefix}.attn_output")

    def mlp(self, x: np.ndarray, layer: int) -> np.ndarray:
        prefix = f"blk.{layer}.ffn"
        gate = self.linear(x, f"{prefix}_gate")
        gate = gate / (1 + np.exp(-gate))
        return self.linear(gate * self.linear(x, f"{prefix}_up"), f"{prefix}_down")

    def hidden(self, ids: list[int]) -> np.ndarray:
        """Appends the tokens; what the last layer gives for each."""
        x = self.weights["token_embd.weight"][ids]
        for layer in range(self.num_layers):
            x = x + self.attention(self.norm(x, f"blk.{layer}.attn_norm"), layer)
            x = x + self.mlp(self.norm(x, f"blk.{layer}.ffn_norm"), layer)
        return x

    def logits(self, x: np.ndarray) -> np.ndarray:
        head = "output" if "output.weight" in self.weights else "token_embd"
        return self.linear(self.norm(x, "output_norm"), head)

    def __call__(self, ids: list[int]) -> np.ndarray:
        """Appends the tokens; logits [V] after the last one."""
        return self.logits(self.hidden(ids)[-1])

    def all_logits(self, ids: list[int]) -> np.ndarray:
        """Appends the tokens; logits [len(ids), V] after each of them."""
        return self.logits(self.hidden(ids))
