#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Remakes tests/goldens/sampling/mlx_lm.json: what mlx-lm's filters and
penalties leave of random logits (needs mlx and mlx-lm).

A case is {logits, params, probs}: the distribution that mlx-lm draws from, 0
for dropped tokens; or {logits, params, history, penalized}: the logits after
the penalties.
"""

import importlib.metadata
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm import sample_utils

import tiny_weights

OUT = Path(__file__).resolve().parent.parent / "tests" / "goldens" / "sampling"
VOCAB_SIZE = 40


def random_logits(name: str, seed: int) -> np.ndarray:
    tensor = {"name": name, "shape": [VOCAB_SIZE], "center": 0.0, "scale": 1.0}
    u = tiny_weights.fill(tensor, seed).astype(np.float64)
    # Cubed: a few likely tokens and many unlikely ones.
    return (6.0 * u**3).astype(np.float32)


def distribution(logits: np.ndarray, params: dict) -> list[float]:
    """mlx_lm's chain, up to its draw. XTC is applied when asked for."""
    chain = mx.array(logits)[None]
    chain = chain - mx.logsumexp(chain, keepdims=True)
    if 0 < params.get("top_p", 0) < 1:
        chain = sample_utils.apply_top_p(chain, params["top_p"])
    if params.get("min_p", 0) > 0:
        chain = sample_utils.apply_min_p(
            chain, params["min_p"], params.get("min_tokens_to_keep", 1)
        )
    if params.get("xtc_probability", 0) > 0:
        chain = sample_utils.apply_xtc(
            chain,
            params["xtc_probability"],
            params.get("xtc_threshold", 0.1),
            params.get("xtc_special_tokens", []),
        )
    if params.get("top_k", 0) > 0:
        chain = sample_utils.apply_top_k(chain, params["top_k"])
    probs = mx.softmax(chain * (1.0 / params["temperature"]), axis=-1)
    return [float(f"{p:.9g}") for p in probs[0].tolist()]


def penalized(logits: np.ndarray, params: dict, history: list[int]) -> list[float]:
    window = params.get("penalty_window", 20)
    processors = sample_utils.make_logits_processors(
        logit_bias=dict(params.get("logit_bias", [])) or None,
        repetition_penalty=params.get("repetition_penalty"),
        repetition_context_size=window,
        presence_penalty=params.get("presence_penalty"),
        presence_context_size=window,
        frequency_penalty=params.get("frequency_penalty"),
        frequency_context_size=window,
    )
    result = mx.array(logits)[None]
    for processor in processors:
        result = processor(mx.array(history), result)
    return [float(f"{x:.9g}") for x in result[0].tolist()]


FILTERS = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.7},
    {"top_p": 0.3},
    {"top_p": 0.9},
    {"top_p": 0.999},
    {"min_p": 0.02},
    {"min_p": 0.5},
    {"min_p": 0.5, "min_tokens_to_keep": 7},
    {"min_p": 1.0},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 39},
    {"xtc_probability": 1.0, "xtc_threshold": 0.05},
    {"xtc_probability": 1.0, "xtc_threshold": 0.3},
    {"xtc_probability": 1.0, "xtc_threshold": 0.0},
    {"xtc_probability": 1.0, "xtc_threshold": 0.02, "xtc_special_tokens": [3, 17, 30]},
    {"temperature": 0.6, "top_p": 0.95, "top_k": 20},
    {"temperature": 0.7, "top_p": 0.8, "top_k": 20},
    {"temperature": 0.7, "top_p": 0.8, "top_k": 3},
    {"temperature": 1.3, "top_p": 0.97, "min_p": 0.05},
    {"temperature": 1.3, "min_p": 0.05, "top_k": 4},
    {"temperature": 1.3, "min_p": 0.3, "min_tokens_to_keep": 3, "top_k": 6},
    {"top_p": 0.9, "min_p": 0.01, "top_k": 12},
    {
        "temperature": 0.9,
        "top_p": 0.95,
        "min_p": 0.01,
        "xtc_probability": 1.0,
        "xtc_threshold": 0.05,
        "top_k": 8,
    },
]

PENALTIES = [
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8},
    {"presence_penalty": 0.7},
    {"presence_penalty": -0.4},
    {"frequency_penalty": 0.25},
    {"repetition_penalty": 1.1, "presence_penalty": 0.3, "frequency_penalty": 0.2},
    {"repetition_penalty": 1.1, "frequency_penalty": 0.2, "penalty_window": 6},
    {"presence_penalty": 0.5, "penalty_window": 1},
    {"repetition_penalty": 1.2, "logit_bias": [[3, 5.0], [9, -100.0]]},
]


def main():
    filters = []
    for params in FILTERS:
        params = {"temperature": 1.0} | params
        for seed in (1, 2, 3):
            logits = random_logits("sampling", seed)
            filters.append(
                {
                    "logits": [float(f"{x:.9g}") for x in logits],
                    "params": params,
                    "probs": distribution(logits, params),
                }
            )
    penalties = []
    for params in PENALTIES:
        for seed, length in ((4, 1), (5, 13), (6, 64)):
            logits = random_logits("sampling", seed)
            # Of 16 ids, so that some come several times.
            history = tiny_weights.random_ids("history", seed, length, 16)
            penalties.append(
                {
                    "logits": [float(f"{x:.9g}") for x in logits],
                    "params": params,
                    "history": history,
                    "penalized": penalized(logits, params, history),
                }
            )
    versions = {p: importlib.metadata.version(p) for p in ("mlx", "mlx-lm")}
    OUT.mkdir(parents=True, exist_ok=True)

    def rows(cases):
        return "[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]"

    (OUT / "mlx_lm.json").write_text(
        f'{{"versions": {json.dumps(versions)},\n"filters": {rows(filters)},\n'
        f'"penalties": {rows(penalties)}}}\n'
    )


if __name__ == "__main__":
    main()
