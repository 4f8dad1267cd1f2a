#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Speed on an NVIDIA GPU beside llama.cpp, in one run.

    compare_cuda.py --ours BUILD/src/cli/qwen3-mlx [--llama-bench FILE]
        [--llama-batched-bench FILE] [--ggufs DIR] [--stock] [--kernels FILE]
        [--cases NAME,...] [--rounds 3] [--out FILE]
    compare_cuda.py --table FILE

Contestants take turns, one process each, so that what the GPU's clocks do meets
all alike; figures are medians over the rounds. Weights are random: ours have the
shapes in benchmarks/shapes, theirs come from --ggufs/MODEL-q4_0.gguf (or -bf16).
--stock lets MLX's own operations take part. --kernels is what
qwen3_mlx_cuda_decode_bench --json wrote: its copy rate says what a long context
may cost. Peers that are not given are left out. A case measured again replaces
its former figures in --out.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

SHAPES = Path(__file__).parent / "shapes"
GENERATED = 64  # tokens of a decode run
BATCH_PROMPT = 128
LONG_CONTEXTS = (4096, 32768)
# What a token behind a long context may take more than one behind 128 positions:
# its keys and values at this share of the copy rate.
LONG_SHARE = 0.75


def case(model, phase, size, goal=None, tokens=None, form="q4_0"):
    """goal: multiple of llama.cpp; tokens: tokens/s that are wanted."""
    kind = "" if form == "q4_0" else f"-{form}"
    return {"name": f"{model}{kind}-{phase}-{size}", "model": model, "phase": phase,
            "size": size, "goal": goal, "tokens": tokens, "form": form}


CASES = [
    case("0.6B", "decode", 128, 1.9, 2000), case("0.6B", "batch", 32, 3),
    case("0.6B", "prefill", 4096, 2),
    case("4B", "decode", 128, 1.7, 900), case("4B", "batch", 32, 2.5),
    case("4B", "batch", 128, 2), case("4B", "batch", 256, 2), case("4B", "prefill", 4096, 2.5),
    case("8B", "decode", 128, 1.6, 650), case("8B", "batch", 32, 2.5),
    case("8B", "batch", 256, None, 12000), case("8B", "prefill", 4096, 2.5),
    case("8B", "decode", 4096), case("8B", "decode", 32768),
    case("30B-A3B", "decode", 128, 1.7, 800), case("30B-A3B", "batch", 32, 3),
    case("30B-A3B", "batch", 128, 2), case("30B-A3B", "batch", 256, 2),
    case("30B-A3B", "prefill", 4096, 3),
    case("4B", "decode", 128, 1.6, 435, "bf16"), case("4B", "batch", 32, 1.5, None, "bf16"),
    case("4B", "prefill", 4096, None, 54000, "bf16"),
]


def output_of(command, env=None):
    command = list(map(str, command))
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def ours(entry, options, kernels):
    """Speeds by (phase, size)."""
    command = [options.ours, "bench", "--json", "-n", 1, "--device", "gpu", "--random",
               "--kernels", kernels, "--model", SHAPES / f"qwen3-{entry['model']}.json"]
    if entry["form"] == "q4_0":
        command += ["--q-bits", 4]
    if entry["phase"] == "batch":
        command += ["-b", entry["size"], "-p", BATCH_PROMPT, "-g", GENERATED]
    else:
        command += ["-p", entry["size"], "-g", GENERATED]
    speeds = json.loads(output_of(command))["average"]
    if entry["phase"] == "prefill":
        return {("prefill", entry["size"]): speeds["prompt_tps"],
                ("decode", entry["size"]): speeds["generation_tps"]}
    return {(entry["phase"], entry["size"]): speeds["generation_tps"]}


def peer_environment(program):
    found = os.environ.get("LD_LIBRARY_PATH", "")
    return dict(os.environ, LD_LIBRARY_PATH=f"{program.parent}:{found}")


def gguf(entry, options):
    return options.ggufs / f"{entry['model']}-{entry['form']}.gguf"


def llama(entry, options):
    program = options.llama_bench
    command = [program, "-m", gguf(entry, options), "-fa", 1, "-r", 1, "-o", "json"]
    command += (["-p", entry["size"], "-n", 0] if entry["phase"] == "prefill"
                else ["-p", 0, "-n", GENERATED, "-d", entry["size"]])
    text = output_of(command, peer_environment(program))
    rows = json.loads(text[text.index("["):text.rindex("]") + 1])
    return {(entry["phase"], entry["size"]): rows[-1]["avg_ts"]}


def llama_batched(entry, options):
    """All numbers of sequences of that model, in one process."""
    program = options.llama_batched_bench
    sizes = [other["size"] for other in CASES
             if (other["model"], other["form"], other["phase"]) ==
             (entry["model"], entry["form"], "batch")]
    command = [program, "-m", gguf(entry, options), "-b", 2048, "-ub", 512, "-fa", "on",
               "-c", max(sizes) * (BATCH_PROMPT + GENERATED) + 1024, "-npp", BATCH_PROMPT,
               "-ntg", GENERATED, "-npl", ",".join(map(str, sizes)),
               "--output-format", "jsonl"]
    found = {}
    for line in output_of(command, peer_environment(program)).splitlines():
        if line.startswith("{"):
            row = json.loads(line)
            found["batch", row["pl"]] = row["speed_tg"]
    return found


def contestants(entry, options):
    """Pairs of (name, how to measure)."""
    found = [("qwen3-mlx", lambda: ours(entry, options, "native"))]
    if options.stock:
        found.append(("MLX's operations", lambda: ours(entry, options, "stock")))
    peer = (options.llama_batched_bench if entry["phase"] == "batch"
            else options.llama_bench)
    if peer and gguf(entry, options).exists():
        run = llama_batched if entry["phase"] == "batch" else llama
        found.append(("llama.cpp", lambda: run(entry, options)))
    return found


def measure(entry, options, seen):
    values = {name: [] for name, _ in contestants(entry, options)}
    for number in range(options.rounds):
        for name, run in contestants(entry, options):
            place = (name, entry["model"], entry["form"], number)
            wanted = (entry["phase"], entry["size"])
            if wanted not in seen.get(place, {}):
                seen[place] = {**seen.get(place, {}), **run()}
            values[name].append(seen[place].pop(wanted))
            print(f"  {entry['name']} {number + 1}/{options.rounds} {name}: "
                  f"{values[name][-1]:,.1f}", file=sys.stderr, flush=True)
    medians = {name: statistics.median(speeds) for name, speeds in values.items()}
    ratio = (medians["qwen3-mlx"] / medians["llama.cpp"] if "llama.cpp" in medians else None)
    return {**entry, **provenance(), "tokens_per_second": values, "medians": medians,
            "ratio": ratio}


def provenance():
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], text=True,
                            capture_output=True, cwd=Path(__file__).parent)
    return {"date": datetime.date.today().isoformat(), "commit": commit.stdout.strip()}


def gpu_name():
    try:
        return output_of(["nvidia-smi", "--query-gpu=name,driver_version",
                          "--format=csv,noheader"]).splitlines()[0]
    except (OSError, IndexError):
        return "unknown GPU"


def kv_bytes(model, length):
    config = json.loads((SHAPES / f"qwen3-{model}.json").read_text())
    return (2 * 2 * config["num_hidden_layers"] * config["num_key_value_heads"] *
            config["head_dim"] * length)


def long_contexts(document):
    """Lines on what a token takes more behind a long context."""
    copy = document.get("copy_gb_per_second")
    speeds = {result["size"]: result["medians"]["qwen3-mlx"] for result in document["cases"]
              if (result["model"], result["phase"], result["form"]) == ("8B", "decode", "q4_0")}
    lines = []
    for length in LONG_CONTEXTS:
        if not copy or not {128, length} <= set(speeds):
            continue
        more = 1e6 / speeds[length] - 1e6 / speeds[128]
        may = kv_bytes("8B", length - 128) / (LONG_SHARE * copy * 1e9) * 1e6
        mark = "" if more <= may else " **above**"
        lines.append(f"8B behind {length:,} positions: {more:,.0f} us a token more than behind "
                     f"128, at most {may:,.0f} wanted{mark} (copy {copy:,.0f} GB/s).")
    return lines


def table(document):
    lines = [f"{document['gpu']}, tokens/s, medians", "",
             "| case | qwen3-mlx | llama.cpp | ratio | goal | wanted | MLX's operations |",
             "|---|---|---|---|---|---|---|"]
    for result in document["cases"]:
        medians = result["medians"]
        speed, ratio, goal, tokens = (medians["qwen3-mlx"], result["ratio"], result["goal"],
                                      result["tokens"])
        below = " **below**"
        lines.append("| " + " | ".join([
            result["name"], f"{speed:,.0f}",
            f"{medians['llama.cpp']:,.0f}" if "llama.cpp" in medians else "",
            f"{ratio:.2f}{below if goal and ratio < goal else ''}" if ratio else "",
            f"{goal}" if goal else "",
            f"{tokens:,}{below if speed < tokens else ''}" if tokens else "",
            f"{medians[stock]:,.0f}" if (stock := "MLX's operations") in medians else "",
        ]) + " |")
    return "\n".join([*lines, "", *long_contexts(document)])


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", type=Path)
    parser.add_argument("--llama-bench", type=Path)
    parser.add_argument("--llama-batched-bench", type=Path)
    parser.add_argument("--ggufs", type=Path, default=Path("."))
    parser.add_argument("--stock", action="store_true")
    parser.add_argument("--kernels", type=Path)
    parser.add_argument("--cases", default="", help="names or parts of names")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, help="print a result again")
    options = parser.parse_args()
    if not options.table and not options.ours:
        parser.error("--ours: expected the program qwen3-mlx")
    return options


def main():
    options = arguments()
    if options.table:
        print(table(json.loads(options.table.read_text())))
        return
    document = {"gpu": gpu_name(), "cases": []}
    if options.out and options.out.exists():
        document = json.loads(options.out.read_text())
    if options.kernels:
        kernels = json.loads(options.kernels.read_text())
        document["copy_gb_per_second"] = kernels["copy_gb_per_second"]
    wanted = [part for part in options.cases.split(",") if part]
    seen = {}
    for entry in CASES:
        if wanted and not any(part in entry["name"] for part in wanted):
            continue
        known = {old["name"]: old for old in document["cases"]}
        known[entry["name"]] = measure(entry, options, seen)
        document["cases"] = [known[each["name"]] for each in CASES if each["name"] in known]
        if options.out:
            options.out.write_text(json.dumps(document, indent=1) + "\n")
    print(table(document))


if __name__ == "__main__":
    main()
