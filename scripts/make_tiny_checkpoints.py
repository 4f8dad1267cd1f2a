#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes the tiny checkpoints of the parity tests, and remakes their goldens.

    make_tiny_checkpoints.py --out DIR         the checkpoints (needs numpy)
    make_tiny_checkpoints.py --goldens         tests/goldens/parity/ anew (needs
                                               scripts/requirements-goldens.txt)

The format of the goldens is in tests/goldens/parity/README.md.
"""

import argparse
import json
from pathlib import Path

import tiny_cases
import tiny_weights

GOLDENS = Path(__file__).resolve().parent.parent / "tests" / "goldens" / "parity"


def describe(name: str, config: dict, seed: int) -> dict:
    case = {
        "name": name,
        "seed": seed,
        "config": config,
        "num_shards": tiny_cases.num_shards(name),
        "tensors": tiny_cases.tensors(config, "fused-experts" in name),
        "prompt_ids": tiny_weights.random_ids(
            "prompt", seed, tiny_cases.PROMPT_LENGTH, config["vocab_size"]
        ),
    }
    return case | {"checksum": tiny_weights.checksum(case)}


def case_text(case: dict) -> str:
    """JSON with one line per tensor, so that diffs stay readable."""
    lines = []
    for key, value in case.items():
        if key == "tensors":
            rows = ",\n  ".join(json.dumps(row) for row in value)
            lines.append(f' "tensors": [\n  {rows}\n ]')
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write_checkpoints(out: Path, only: str | None):
    for path in sorted(GOLDENS.glob("*/case.json")):
        case = json.loads(path.read_text())
        if only is None or only in case["name"]:
            tiny_weights.write_checkpoint(case, out / case["name"])


def write_goldens(only: str | None):
    import tiny_goldens  # torch and transformers are needed from here on

    for name, (config, ablations) in tiny_cases.case_configs().items():
        if only is not None and only not in name:
            continue
        golden = tiny_goldens.first_good_seed(
            lambda seed: describe(name, config, seed), ablations
        )
        folder = GOLDENS / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "case.json").write_text(case_text(golden.case))
        tiny_weights.write_safetensors(
            folder / "logits.safetensors", {"logits": golden.logits}
        )
        print(
            f"{name}: seed {golden.case['seed']}, "
            f"float32 against float64 {golden.rounding:.1e}, "
            f"greedy margin {golden.margin:.1e}, "
            f"{len(set(golden.case['greedy_ids']))} distinct ids, "
            f"least ablation {golden.least_ablation:.1e}",
            flush=True,
        )
    versions = tiny_goldens.versions()
    (GOLDENS / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--out", type=Path, help="write the checkpoints there")
    action.add_argument("--goldens", action="store_true", help="remake the goldens")
    parser.add_argument("--only", help="cases whose name contains this")
    arguments = parser.parse_args()
    if arguments.goldens:
        write_goldens(arguments.only)
    else:
        write_checkpoints(arguments.out, arguments.only)


if __name__ == "__main__":
    main()
