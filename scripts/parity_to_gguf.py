#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes GGUF files with this program and reads them with the package gguf:
every tensor's bytes against that package's quantizers, the metadata against
config.json, and round trips. With --llama-server also that llama.cpp continues
a text with the same greedy tokens as this program, and of the default model with
the very tokens that it gives for a file that the package wrote.

    parity_to_gguf.py [--program build/release/src/cli/qwen3-mlx]
                      [--default-model models/...gguf] [--llama-server PATH]
                      [--tokenizer DIR] [--only TEXT] [-v]

Needs gguf, mlx (to read safetensors of bfloat16) and numpy.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import gguf
import mlx.core as mx
import numpy as np

import parity
import parity_convert
import parity_mlx_lm
import tiny_cases
import tiny_weights
from parity_gguf import permute

TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1")
PROMPTS = (
    "The capital of France is Paris, and the capital of",
    "Water boils at 100 degrees Celsius. Ice",
    "def fibonacci(n):\n    ",
)
# How far behind ours llama.cpp's token may be where texts part, in log
# probability: it multiplies in float16 and, with packed weights, by activations
# rounded to 8 bits, so that what is nearly equal may change places.
NEAR = {"f32": 0.02, "f16": 0.05, "bf16": 0.05, "q8_0": 0.2, "q4_0": 0.3, "q4_1": 0.3}


def run(program: Path, *words) -> None:
    parity_convert.run(program, *words)


def models() -> dict[str, dict]:
    sizes = parity_mlx_lm.SIZES | {"vocab_size": 512}
    moe_sizes = parity_mlx_lm.MOE_SIZES
    # What files hold is the scaling's effect, which names no other length.
    llama3 = {"rope_scaling": tiny_cases.LLAMA3 | {"original_max_position_embeddings": 8192}}
    return {
        "llama": tiny_cases.dense("llama", **sizes),
        "llama-llama3": tiny_cases.dense("llama", **sizes) | llama3,
        "qwen2": tiny_cases.dense("qwen2", **(sizes | {"head_dim": None})),
        "qwen3": tiny_cases.dense("qwen3", **sizes),
        "qwen3-tied": tiny_cases.dense("qwen3", **sizes) | {"tie_word_embeddings": True},
        "qwen3-yarn": tiny_cases.dense("qwen3", **sizes) | {"rope_scaling": tiny_cases.YARN},
        "qwen3_moe": tiny_cases.moe("qwen3_moe", **moe_sizes) | {"norm_topk_prob": True},
        "qwen2_moe": tiny_cases.moe("qwen2_moe", **(moe_sizes | {"head_dim": None}))
        | {"shared_expert_intermediate_size": 256, "norm_topk_prob": False},
    }  # fmt: skip


def gguf_names(config: dict) -> gguf.TensorNameMap:
    arch = {"llama": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3",
            "qwen3_moe": "QWEN3MOE", "qwen2_moe": "QWEN2MOE"}[config["model_type"]]  # fmt: skip
    return gguf.get_tensor_name_map(
        getattr(gguf.MODEL_ARCH, arch), config["num_hidden_layers"]
    )


def stacked(tensors: dict[str, mx.array]) -> dict[str, np.ndarray]:
    """float32, with the matrices of experts as one tensor, as llama.cpp has it."""
    result, experts = {}, {}
    for name, tensor in tensors.items():
        values = np.array(tensor.astype(mx.float32))
        head, dot, rest = name.partition(".mlp.experts.")
        if dot and rest[0].isdigit():
            number, _, leaf = rest.partition(".")
            experts.setdefault(f"{head}.mlp.experts.{leaf}", {})[int(number)] = values
        else:
            result[name] = values
    for name, parts in experts.items():
        result[name] = np.stack([parts[idx] for idx in range(len(parts))])
    return result


def expected_type(name: str, values: np.ndarray, wanted: str) -> gguf.GGMLQuantizationType:
    if values.ndim == 1 or "ffn_gate_inp" in name:
        return gguf.GGMLQuantizationType.F32
    if wanted.startswith("q") and values.shape[-1] % 32:
        return gguf.GGMLQuantizationType.F16
    if wanted.startswith("q") and name in ("token_embd.weight", "output.weight"):
        return gguf.GGMLQuantizationType.Q8_0
    return gguf.GGMLQuantizationType[wanted.upper()]


def expected_tensors(config: dict, folder: Path, wanted: str) -> dict:
    names = gguf_names(config)
    result = {}
    for name, values in stacked(parity_convert.load(folder)).items():
        if config.get("tie_word_embeddings") and name.startswith("lm_head"):
            continue
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if name.endswith("shared_expert_gate.weight"):
            values = values.reshape(-1)
        if config["model_type"] == "llama" and ".attn_q" in theirs:
            values = permute(values, config["num_attention_heads"])
        if config["model_type"] == "llama" and ".attn_k" in theirs:
            values = permute(values, config["num_key_value_heads"])
        kind = expected_type(theirs, values, wanted)
        result[theirs] = (kind, list(values.shape), gguf.quants.quantize(values, kind).tobytes())
    return result


def compare(path: Path, expected: dict) -> int:
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    found.pop("rope_freqs.weight", None)
    if found.keys() != expected.keys():
        raise RuntimeError(f"names differ: {sorted(found.keys() ^ expected.keys())}")
    n_bytes = 0
    for name, (kind, shape, data) in expected.items():
        tensor = found[name]
        have = (tensor.tensor_type, [int(dim) for dim in reversed(tensor.shape)])
        if have != (kind, shape):
            raise RuntimeError(f"{name}: {have}, expected {(kind, shape)}")
        if tensor.data.tobytes() != data:
            left = np.frombuffer(tensor.data.tobytes(), np.uint8)
            bad = left != np.frombuffer(data, np.uint8)
            raise RuntimeError(f"{name}: {bad.sum()} of {bad.size} bytes differ")
        n_bytes += len(data)
    return n_bytes


def field(reader: gguf.GGUFReader, key: str):
    return reader.fields[key].contents() if key in reader.fields else None


def check_metadata(path: Path, config: dict) -> None:
    reader = gguf.GGUFReader(path)
    arch = field(reader, "general.architecture")
    heads = config["num_attention_heads"]
    for key, expected in {
        "block_count": config["num_hidden_layers"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": config.get("head_dim", config["hidden_size"] // heads),
        "context_length": config["max_position_embeddings"],
        "rope.freq_base": config["rope_theta"],
    }.items():
        found = field(reader, f"{arch}.{key}")
        if found != expected:
            raise RuntimeError(f"{arch}.{key} is {found}, expected {expected}")


def check(config: dict, wanted: str, program: Path) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "model.gguf"
        words = ("--to", "gguf", "--gguf-type", wanted)
        # Values that are hard to quantize.
        parity_convert.write_plain(config, "bfloat16", folder / "hard")
        run(program, "--model", folder / "hard", "-o", path, *words)
        n_bytes = compare(path, expected_tensors(config, folder / "hard", wanted))
        check_metadata(path, config)
        # Ordinary ones, there, back and there again: where scales are no
        # subnormal halves, blocks quantize to themselves.
        case = {"seed": 1, "config": config, "num_shards": 1,
                "tensors": tiny_cases.tensors(config)}  # fmt: skip
        tiny_weights.write_checkpoint(case, folder / "plain")
        run(program, "--model", folder / "plain", "-o", path, *words, "--force")
        expected = expected_tensors(config, folder / "plain", wanted)
        n_bytes += compare(path, expected)
        run(program, "--model", path, "-o", folder / "back", "--dtype", "float32")
        run(program, "--model", folder / "back", "-o", folder / "again.gguf", *words)
        compare(folder / "again.gguf", expected)
        run(program, "--model", path, "-o", folder / "direct.gguf", *words)
        compare(folder / "direct.gguf", expected)
        return f"{len(expected)} tensors, {n_bytes:,} bytes equal"


def check_default_model(model: Path, program: Path) -> str:
    """GGUF -> safetensors -> GGUF gives the same tensors and tokenizer."""
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name) / "mlx", Path(name) / "model.gguf"
        run(program, "--model", model, "-o", folder)
        run(program, "--model", folder, "-o", path, "--to", "gguf", "--gguf-type", "q4_1")
        before, after = gguf.GGUFReader(model), gguf.GGUFReader(path)
        expected = {
            tensor.name: (
                tensor.tensor_type,
                [int(dim) for dim in reversed(tensor.shape)],
                tensor.data.tobytes(),
            )
            for tensor in before.tensors
        }
        n_bytes = compare(path, expected)
        for key in before.fields:
            same = ("tokens", "merges", "token_type", "model", "pre", "bos_token_id",
                    "eos_token_id", "padding_token_id", "add_bos_token", "chat_template")  # fmt: skip
            if key.startswith("tokenizer.") and key.split(".")[-1] in same:
                if field(before, key) != field(after, key):
                    raise RuntimeError(f"{key} differs")
        return f"{len(expected)} tensors, {n_bytes:,} bytes and the tokenizer equal"


class LlamaServer:
    """llama.cpp's server on a model, until the block ends."""

    def __init__(self, program: Path, model: Path):
        self.process = subprocess.Popen(
            [program, "-m", model, "--port", "18981", "-c", "512", "-ngl", "0",
             "--no-warmup", "-fa", "off", "-ctk", "f32", "-ctv", "f32"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def __enter__(self):
        for _ in range(600):
            if self.process.poll() is not None:
                raise RuntimeError("llama.cpp does not load the file")
            try:
                self.get("/health")
                return self
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("llama.cpp does not answer")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def get(self, path: str, body: dict | None = None) -> dict:
        request = urllib.request.Request(
            f"http://127.0.0.1:18981{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        return json.load(urllib.request.urlopen(request))

    def complete(self, prompt, count: int) -> list[int]:
        answer = self.get("/completion", {
            "prompt": prompt, "n_predict": count, "temperature": 0, "return_tokens": True,
            "cache_prompt": False,
        })  # fmt: skip
        return answer["tokens"]

    def tokenize(self, text: str) -> list[int]:
        return self.get("/tokenize", {"content": text})["tokens"]


def our_tokens(program: Path, model: Path, ids: list[int], count: int) -> tuple[list[int], list[dict]]:
    """The tokens, and the log probabilities of the best at each place."""
    done = subprocess.run(
        [program, "generate", "--json", "--model", model, "--prompt-ids", ",".join(map(str, ids)),
         "--max-tokens", str(count), "--temp", "0", "--top-logprobs", "5", "--exact", "--device", "cpu"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    best = [{one["id"]: one["logprob"] for one in row["top"]} for row in answer["logprobs"]]
    return answer["ids"], best


def num_equal(ours: list[int], best: list[dict], theirs: list[int], near: float) -> int:
    """Raises where the texts part at a place that is no near tie."""
    for at, (left, right) in enumerate(zip(ours, theirs)):
        if left != right:
            behind = best[at][left] - best[at].get(right, -np.inf)
            if behind > near:
                raise RuntimeError(f"token {at}: ours {ours}, llama.cpp's {theirs}, {behind:.3f} behind")
            return at
    return min(len(ours), len(theirs))


def write_reference(model: Path, wanted: str, path: Path) -> None:
    """A GGUF file with its tensors in another type, by the package alone."""
    reader = gguf.GGUFReader(model)
    writer = gguf.GGUFWriter(path, field(reader, "general.architecture"))
    for key, entry in reader.fields.items():
        if not key.startswith("GGUF.") and key not in ("general.architecture", "general.file_type"):
            kinds = entry.types
            writer.add_key_value(key, entry.contents(), kinds[0], sub_type=kinds[-1] if len(kinds) > 1 else None)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        kind = expected_type(tensor.name, values, wanted)
        writer.add_tensor(tensor.name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_tokens(model: Path, arguments, count: int) -> list[list[int]]:
    with LlamaServer(arguments.llama_server, model) as server:
        return [server.complete(server.tokenize(prompt), count) for prompt in PROMPTS]


def check_reference(wanted: str, arguments, count: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours.gguf", Path(folder) / "theirs.gguf"
        run(arguments.program, "--model", arguments.default_model, "-o", ours,
            "--to", "gguf", "--gguf-type", wanted)
        write_reference(arguments.default_model, wanted, theirs)
        left, right = (llama_tokens(path, arguments, count) for path in (ours, theirs))
        if left != right:
            raise RuntimeError(f"on our file {left}, on the package's {right}")
        return f"{len(PROMPTS)} prompts, {sum(map(len, left))} tokens equal"


def check_llama_cpp(name: str, wanted: str, source: Path, arguments, count: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.gguf"
        run(arguments.program, "--model", source, "-o", path, "--to", "gguf", "--gguf-type", wanted)
        equal = total = 0
        with LlamaServer(arguments.llama_server, path) as server:
            for prompt in PROMPTS:
                ids = server.tokenize(prompt)
                theirs = server.complete(ids, count)
                ours, best = our_tokens(arguments.program, path, ids, count)
                equal += num_equal(ours, best, theirs, NEAR[wanted])
                total += len(ours)
        return f"{len(PROMPTS)} prompts, {equal} of {total} tokens until a near tie equal"


def llama_cpp_checks(arguments) -> list:
    checks = []
    for wanted in TYPES:
        checks.append((
            f"llama.cpp-default-{wanted}",
            lambda wanted=wanted: check_llama_cpp(
                "default", wanted, arguments.default_model, arguments, 64),
        ))  # fmt: skip
        checks.append((
            f"llama.cpp-reference-{wanted}",
            lambda wanted=wanted: check_reference(wanted, arguments, 64),
        ))  # fmt: skip
    if arguments.tokenizer is None:
        return checks
    for name, config in models().items():
        # Yarn of llama.cpp differs from transformers' in its ramp's ends.
        if name not in ("qwen2", "qwen3", "qwen3-tied", "qwen3_moe", "qwen2_moe"):
            continue
        config = config | {"vocab_size": 151936}

        def with_tokenizer(config=config, name=name):
            with tempfile.TemporaryDirectory() as folder:
                source = Path(folder) / "model"
                case = {"seed": 3, "config": config, "num_shards": 1,
                        "tensors": tiny_cases.tensors(config)}  # fmt: skip
                tiny_weights.write_checkpoint(case, source)
                for file in arguments.tokenizer.glob("*.json"):
                    if file.name != "config.json":
                        shutil.copy(file, source)
                return check_llama_cpp(name, "f32", source, arguments, 32)

        checks.append((f"llama.cpp-{name}", with_tokenizer))
    return checks


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parity.add_arguments(parser)
    parser.add_argument("--default-model", type=Path)
    parser.add_argument("--llama-server", type=Path)
    parser.add_argument("--tokenizer", type=Path, help="folder of a Qwen tokenizer")
    arguments = parser.parse_args()
    mx.set_default_device(mx.cpu)
    program = arguments.program
    root = Path(__file__).resolve().parent.parent
    if arguments.default_model is None:
        arguments.default_model = next(iter(sorted((root / "models").glob("*.gguf"))), None)
    checks = [
        (f"{name}-{wanted}", lambda config=config, wanted=wanted: check(config, wanted, program))
        for name, config in models().items()
        for wanted in TYPES
    ]
    if arguments.default_model is not None:
        checks.append(
            ("default-model", lambda: check_default_model(arguments.default_model, program))
        )
    if arguments.llama_server is not None:
        checks += llama_cpp_checks(arguments)
    sys.exit(parity.run_checks(checks, arguments))


if __name__ == "__main__":
    main()
