#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Remakes reference.json: what a numpy forward pass in float32 says after each
token of texts, with the default model's dequantized weights.

The texts are the first 56,000 bytes of English news in the PyPI package gensim
(lee_background.cor), in sequences of 512 tokens, and the model's own greedy
answers of tests/goldens/default_model/greedy.json behind their prompts.

Needs numpy, gguf, tokenizers and jinja2.
"""

import importlib.metadata
import json
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import llama_numpy  # noqa: E402
import make_default_model_goldens as goldens  # noqa: E402
import tokenizer_downloads  # noqa: E402

TEXT_MEMBER = "gensim/test/test_data/lee_background.cor"
TEXT_BYTES = 56_000
SEQUENCE = 512


def news() -> str:
    data = tokenizer_downloads.member("gensim", TEXT_MEMBER)[:TEXT_BYTES]
    return data.decode("utf-8", errors="ignore")


def answers() -> list[tuple[list[int], int]]:
    """Ids of each prompt with its greedy answer, and the length of the prompt."""
    path = ROOT / "tests" / "goldens" / "default_model" / "greedy.json"
    return [
        (entry["prompt_ids"] + entry["ids"], len(entry["prompt_ids"]))
        for entry in json.loads(path.read_text())["prompts"]
    ]


def tokenizer_and_model(dtype=np.float32):
    data = tokenizer_downloads.member("smollm2", goldens.GGUF_MEMBER)
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(data)
        file.flush()
        tokenizer = goldens.tokenizer_of(gguf.GGUFReader(file.name))
        return tokenizer, llama_numpy.Llama(file.name, dtype)


def sequences(tokenizer) -> list[list[int]]:
    ids = tokenizer.encode(news(), add_special_tokens=False).ids
    return [ids[at : at + SEQUENCE] for at in range(0, len(ids) - SEQUENCE + 1, SEQUENCE)]


def say(model: llama_numpy.Llama, ids: list[int]) -> dict:
    model.reset()
    logits = model.all_logits(ids).astype(np.float64)
    most = logits.max(-1, keepdims=True)
    log_total = np.log(np.exp(logits - most).sum(-1)) + most[:, 0]
    losses = log_total[:-1] - logits[np.arange(len(ids) - 1), ids[1:]]
    return {
        "greedy": logits.argmax(-1).tolist(),
        "mean_loss": round(float(losses.mean()), 7),
    }


def main():
    tokenizer, model = tokenizer_and_model()
    parts = {"news": [], "answers": []}
    for ids in sequences(tokenizer):
        parts["news"].append(say(model, ids))
        print(f"{len(parts['news'])} sequences", flush=True)
    for ids, _ in answers():
        parts["answers"].append(say(model, ids))
    head = {
        "text": f"{tokenizer_downloads.PACKAGES['gensim'][0]} {TEXT_MEMBER}",
        "text_bytes": TEXT_BYTES,
        "model": f"{tokenizer_downloads.PACKAGES['smollm2'][0]} {goldens.GGUF_MEMBER}",
        "numpy": importlib.metadata.version("numpy"),
    }
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    for name, said in parts.items():
        rows = ",\n  ".join(json.dumps(row, separators=(",", ":")) for row in said)
        lines.append(f' "{name}": [\n  {rows}\n ]')
    (HERE / "reference.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
