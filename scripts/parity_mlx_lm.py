#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs mlx-lm and this program on the same quantized checkpoints and compares
their tokens and log-probabilities, on the CPU in float32.

    parity_mlx_lm.py [--program build/release/src/cli/qwen3-mlx] [--only TEXT] [-v]

Every affine width (2, 3, 4, 5, 6, 8 bits) in groups of 32, 64 and 128, mxfp4,
mxfp8, nvfp4, plain weights, per-module overrides, modules left plain, both
namings of modules, and stacked experts. The checkpoints are tiny and random,
written by mlx-lm's own quantizer. Needs mlx, mlx-lm and numpy.
"""

import argparse
import copy
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm import utils
from mlx_lm.models import cache as mlx_lm_cache

import parity
import tiny_cases
import tiny_weights

PROMPT_LENGTH = 12

# 128 wide, so that every group size fits every matrix.
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "head_dim": 32,
    "rope_scaling": None,
}
MOE_SIZES = SIZES | {
    "moe_intermediate_size": 128,
    "num_experts": 4,
}


@dataclasses.dataclass
class Case:
    name: str
    config: dict
    # What mlx_lm.utils.quantize_model is asked for; None leaves plain weights.
    quantization: dict | None
    # As mlx-lm's quant_predicate: path -> True, False or {bits, group_size, ..}.
    predicate: Callable[[str], bool | dict] | None = None
    # Edits the checkpoint that this program reads; mlx-lm keeps its own.
    rewrite: Callable[[Path], None] | None = None


def affine(bits: int, group_size: int) -> dict:
    return {"mode": "affine", "bits": bits, "group_size": group_size}


def edit_config(folder: Path, edit: Callable[[dict], dict]):
    """Edits "quantization" and its copy "quantization_config"."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key in ("quantization", "quantization_config"):
        config[key] = edit(config[key])
    path.write_text(json.dumps(config))


def without_mode(folder: Path):
    """As files written before there were modes."""
    edit_config(
        folder, lambda section: {k: v for k, v in section.items() if k != "mode"}
    )


def unstack_experts(folder: Path):
    """One tensor an expert, as Hugging Face names them."""
    path = folder / "model.safetensors"
    tensors = {}
    for name, tensor in mx.load(str(path)).items():
        if ".switch_mlp." not in name:
            tensors[name] = tensor
            continue
        for expert in range(tensor.shape[0]):
            own = name.replace("switch_mlp", f"experts.{expert}")
            tensors[own] = mx.contiguous(tensor[expert])
    mx.eval(tensors)
    mx.save_safetensors(str(path), tensors, metadata={"format": "mlx"})
    (folder / "model.safetensors.index.json").unlink()


def unstack_experts_and_names(folder: Path):
    """Overrides are listed under the names of those tensors as well."""
    unstack_experts(folder)
    num_experts = json.loads((folder / "config.json").read_text())["num_experts"]

    def rename(section: dict) -> dict:
        renamed = {}
        for path, value in section.items():
            names = [path]
            if ".switch_mlp." in path:
                names = [
                    path.replace("switch_mlp", f"experts.{expert}")
                    for expert in range(num_experts)
                ]
            renamed |= {name: value for name in names}
        return renamed

    edit_config(folder, rename)


def mixed(path: str) -> bool | dict:
    """Every kind of override in one model."""
    if "lm_head" in path or path.endswith("layers.1.self_attn.k_proj"):
        return False
    if path.endswith("v_proj"):
        return {"bits": 8, "group_size": 32}
    if path.endswith("down_proj"):
        return {"bits": 6, "group_size": 64}
    if path.endswith("layers.0.mlp.up_proj"):
        return {"bits": 4, "group_size": 32, "mode": "mxfp4"}
    if "embed_tokens" in path:
        return {"bits": 8, "group_size": 128}
    return True


def cases() -> list[Case]:
    qwen3 = tiny_cases.dense("qwen3", **SIZES)
    tied = tiny_cases.edit(qwen3, {"tie_word_embeddings": True})
    qwen2 = tiny_cases.dense("qwen2", **(SIZES | {"head_dim": None}))
    llama = tiny_cases.dense("llama", **SIZES)
    qwen3_moe = tiny_cases.moe("qwen3_moe", **MOE_SIZES)
    qwen2_moe = tiny_cases.moe("qwen2_moe", **(MOE_SIZES | {"head_dim": None}))
    qwen2_moe |= {"shared_expert_intermediate_size": 256}

    result = [Case("plain", qwen3, None)]
    for bits in (2, 3, 4, 5, 6, 8):
        for group_size in (32, 64, 128):
            result.append(
                Case(f"affine-{bits}-g{group_size}", qwen3, affine(bits, group_size))
            )
    for mode, bits, group_size in (
        ("mxfp4", 4, 32),
        ("mxfp8", 8, 32),
        ("nvfp4", 4, 16),
    ):
        asked = {"mode": mode, "bits": bits, "group_size": group_size}
        result.append(Case(mode, qwen3, asked))
        result.append(Case(f"{mode}-tied", tied, asked))
        result.append(Case(f"{mode}-qwen3_moe", qwen3_moe, asked))
    result += [
        Case("affine-4-tied", tied, affine(4, 64)),
        Case("affine-4-qwen2-bias", qwen2, affine(4, 64)),
        Case("affine-4-llama", llama, affine(4, 32)),
        Case(
            "affine-no-mode",
            qwen3,
            affine(4, 64),
            rewrite=without_mode,
        ),
        Case("plain-qwen3_moe", qwen3_moe, None),
        Case("affine-4-qwen3_moe", qwen3_moe, affine(4, 64)),
        Case("affine-3-qwen3_moe", qwen3_moe, affine(3, 32)),
        Case("affine-8-qwen2_moe", qwen2_moe, affine(8, 64)),
        Case("mixed", qwen3, affine(4, 64), mixed),
        Case("mixed-qwen3_moe", qwen3_moe, affine(4, 64), mixed),
        Case(
            "mixed-qwen3_moe-per-expert",
            qwen3_moe,
            affine(4, 64),
            mixed,
            rewrite=unstack_experts,
        ),
        Case(
            "mixed-qwen3_moe-per-expert-names",
            qwen3_moe,
            affine(4, 64),
            mixed,
            rewrite=unstack_experts_and_names,
        ),
    ]
    return result


def describe(case: Case, seed: int) -> dict:
    """A case of tiny_weights.write_checkpoint."""
    return {
        "seed": seed,
        "config": case.config,
        "num_shards": 1,
        "tensors": tiny_cases.tensors(case.config),
    }


def write_quantized(case: Case, seed: int, folder: Path):
    """The checkpoint as mlx-lm writes it."""
    plain = folder / "plain"
    tiny_weights.write_checkpoint(describe(case, seed), plain)
    model, config = utils.load_model(plain)
    if case.quantization is not None:
        predicate = None
        left_plain = []
        if case.predicate is not None:

            def predicate(path, module):
                answer = case.predicate(path)
                if answer is False and hasattr(module, "to_quantized"):
                    left_plain.append(path)
                return answer

        model, config = utils.quantize_model(
            model, config, quant_predicate=predicate, **case.quantization
        )
        # As converters that list every module do.
        config["quantization"].update({path: False for path in left_plain})
    utils.save_model(folder / "mlx", model)
    utils.save_config(copy.deepcopy(config), folder / "mlx" / "config.json")


def run_mlx_lm(folder: Path, prompt_ids: list[int]) -> parity.Reference:
    model, _ = utils.load_model(folder)
    cache = mlx_lm_cache.make_prompt_cache(model)
    step, ids, rows = mx.array([prompt_ids]), [], []
    for _ in range(parity.NUM_TOKENS):
        logits = model(step, cache=cache)[0, -1].astype(mx.float32)
        rows.append(np.array(logits - mx.logsumexp(logits)))
        ids.append(int(rows[-1].argmax()))
        step = mx.array([ids[-1:]])
    return parity.Reference(prompt_ids, ids, rows)


def check(case: Case, program: parity.Program) -> str:
    for seed in range(1, parity.MAX_SEEDS + 1):
        prompt_ids = tiny_weights.random_ids(
            "prompt", seed, PROMPT_LENGTH, case.config["vocab_size"]
        )
        with tempfile.TemporaryDirectory() as name:
            write_quantized(case, seed, Path(name))
            folder = Path(name) / "mlx"
            reference = run_mlx_lm(folder, prompt_ids)
            if not reference.is_clear():
                continue
            if case.rewrite is not None:
                case.rewrite(folder)
            return program.compare(folder, reference)
    raise RuntimeError(f"no seed up to {parity.MAX_SEEDS} has a clear margin")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parity.add_arguments(parser)
    arguments = parser.parse_args()
    mx.set_default_device(mx.cpu)
    program = parity.Program(arguments.program, arguments.kernels)
    checks = [
        (case.name, lambda case=case: check(case, program)) for case in cases()
    ]
    sys.exit(parity.run_checks(checks, arguments))


if __name__ == "__main__":
    main()
