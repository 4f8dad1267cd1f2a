#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Speed on the CPU beside llama.cpp and ik_llama.cpp, in one run.

    compare_cpu.py --ours BUILD/src/cli/qwen3-mlx --ggufs DIR --configs DIR \\
        --llama-bench FILE --ik-llama-bench FILE --llama-batched-bench FILE \\
        --bandwidth-bench BUILD/benchmarks/kernels/qwen3_mlx_cpu_matmul_bench \\
        [--cases NAME,...] [--rounds 5] [--threads 2] [--out FILE [--add]]
    compare_cpu.py --table FILE

Contestants take turns, one process each, so that what else happens on the
machine meets all alike; figures are medians over the rounds. Weights are random:
ours come from --configs/MODEL/config.json, theirs from --ggufs/MODEL-TYPE.gguf.
llama.cpp is given the better of flash attention on and off (as the first round
says), ik_llama.cpp repacks at run time. A peer's type that reaches less than 0.8
of its other one in the first round is left out of the rest. Decode behind a
prompt and the prompt's prefill come from one process where the program gives
both. A case measured again replaces its former figures in --out,
or adds its rounds to them with --add.
"""

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

# The least that ours shall be, as a multiple of the peer's best.
DECODE = {"llama.cpp": 1.4, "ik_llama.cpp": 1.2}
PREFILL = {"llama.cpp": 2.5, "ik_llama.cpp": 2.0}
MOE_PREFILL = {"llama.cpp": 3.0, "ik_llama.cpp": 2.0}
DENSE = {"llama.cpp": 1.1}
BATCH = {"llama.cpp": 2.0}
OWN_FILE = {"llama.cpp": 1.4}


def case(name, model, phase, length, goal, formats=("g64", "g32"), types=("q4_0", "q4_1")):
    return {"name": name, "model": model, "phase": phase, "length": length,
            "goal": goal, "formats": formats, "types": types}


CASES = [
    case("0.6B-decode-128", "0.6B", "decode", 128, DECODE),
    case("0.6B-decode-1024", "0.6B", "decode", 1024, DECODE),
    case("0.6B-decode-4096", "0.6B", "decode", 4096, DECODE),
    case("1.7B-decode-512", "1.7B", "decode", 512, DECODE),
    case("4B-decode-512", "4B", "decode", 512, DECODE),
    case("30B-A3B@8-decode-512", "30B-A3B@8", "decode", 512, DECODE),
    case("0.6B-bf16-decode-512", "0.6B", "decode", 512, DENSE, ("bf16",), ("bf16",)),
    case("0.6B-prefill-512", "0.6B", "prefill", 512, PREFILL),
    case("0.6B-prefill-4096", "0.6B", "prefill", 4096, PREFILL),
    case("1.7B-prefill-512", "1.7B", "prefill", 512, PREFILL),
    case("4B-prefill-512", "4B", "prefill", 512, PREFILL),
    case("30B-A3B@8-prefill-512", "30B-A3B@8", "prefill", 512, MOE_PREFILL),
    case("0.6B-bf16-prefill-512", "0.6B", "prefill", 512, DENSE, ("bf16",), ("bf16",)),
    case("0.6B-batch-8", "0.6B", "batch", 128, BATCH),
    case("4B-batch-8", "4B", "batch", 128, BATCH),
    case("default-decode-128", "default", "decode", 128, OWN_FILE, ("file",), ("file",)),
    case("default-prefill-512", "default", "prefill", 512, OWN_FILE, ("file",), ("file",)),
]
GENERATED = 32  # tokens of a decode run
SEQUENCES = 8
MOST_FOREIGN_CORES = 0.15


def busy_seconds():
    """CPU time of all processes, where the system tells it (Linux)."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    idle = int(fields[3]) + int(fields[4])
    return (sum(map(int, fields[:8])) - idle) / os.sysconf("SC_CLK_TCK")


def output_of(command, options, env=None):
    """What a program prints. While others use the machine it runs again, at most
    --tries times in all: peers whose threads wait for each other at every step
    would suffer more from a neighbour than their speed says."""
    command = [*options.prefix, *map(str, command)]
    for attempt in range(options.tries):
        before, started = busy_seconds(), time.monotonic()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        if before is None:
            break
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        own = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
        share = (busy_seconds() - before - own) / (time.monotonic() - started)
        if share < MOST_FOREIGN_CORES:
            break
        print(f"  others used {share:.2f} cores", file=sys.stderr, flush=True)
    options.disturbed += before is not None and share >= MOST_FOREIGN_CORES
    return done.stdout


def ours(entry, form, options):
    """Speeds by phase."""
    command = [options.ours, "bench", "--json", "-n", 1, "--device", "cpu",
               "-t", options.threads, *options.our_options]
    if form == "file":
        command += ["--model", options.default_model]
    else:
        command += ["--random", "--model",
                    options.configs / entry["model"] / "config.json"]
        if form != "bf16":
            command += ["--q-bits", 4, "--q-group-size", form[1:]]
    command += ["-p", entry["length"], "-g", GENERATED]
    if entry["phase"] == "batch":
        command += ["-b", SEQUENCES]
    found = json.loads(output_of(command, options))
    speed = found["average"]["generation_tps"]
    return {"prefill": found["average"]["prompt_tps"], "decode": speed, "batch": speed}


def gguf(entry, kind, options):
    if kind == "file":
        return options.default_model
    return options.ggufs / f"{entry['model']}-{kind}.gguf"


def llama_bench(program, entry, kind, options, extra):
    command = [program, "-m", gguf(entry, kind, options), "-t", options.threads,
               "-r", 1, "-o", "json", *extra]
    env = dict(os.environ, LD_LIBRARY_PATH=str(program.parent))
    text = output_of(command, options, env)
    return json.loads(text[text.index("["):text.rindex("]") + 1])


flash_attention = {}  # (case, type) -> llama.cpp's better setting


def llama(entry, kind, options):
    if entry["phase"] == "batch":
        return {"batch": batched(entry, kind, options)}
    known = flash_attention.get((entry["name"], kind), "0,1")
    length = entry["length"]
    tests = (["-p", length, "-n", 0] if entry["phase"] == "prefill"
             else ["-p", 0, "-n", GENERATED, "-d", length])
    rows = llama_bench(options.llama_bench, entry, kind, options, ["-fa", known, *tests])
    best = max(rows, key=lambda row: row["avg_ts"])
    flash_attention[entry["name"], kind] = int(best["flash_attn"])
    return {entry["phase"]: best["avg_ts"]}


def batched(entry, kind, options):
    program = options.llama_batched_bench
    command = [program, "-m", gguf(entry, kind, options), "-t", options.threads,
               "-c", 4096, "-npp", entry["length"], "-ntg", GENERATED,
               "-npl", SEQUENCES, "-fa", "on", "--output-format", "jsonl"]
    env = dict(os.environ, LD_LIBRARY_PATH=str(program.parent))
    for line in output_of(command, options, env).splitlines():
        if line.startswith("{"):
            return json.loads(line)["speed_tg"]
    sys.exit("llama-batched-bench printed no figures")


def ik_llama(entry, kind, options):
    # -gp: tokens generated behind a prompt, whose time does not count.
    length = entry["length"]
    rows = llama_bench(options.ik_llama_bench, entry, kind, options,
                       ["-rtr", 1, "-fa", 1, "-p", length, "-n", 0,
                        "-gp", f"{length},{GENERATED}"])
    return {"prefill": rows[0]["avg_ts"], "decode": rows[-1]["avg_ts"]}


def speed_of(name, run, entry, number, seen):
    """A process's speeds also serve the other phase of the same round."""
    phase, place = entry["phase"], (name, entry["model"], entry["length"], number)
    if phase not in seen.get(place, {}):
        seen[place] = {**seen.get(place, {}), **run()}
    return seen[place].pop(phase)


def too_slow(name, values):
    """Whether a peer's other type is far better."""
    who = name.split()[0]
    if who == "ours" or not values[name]:
        return False
    best = max(speeds[0] for other, speeds in values.items()
               if other.startswith(f"{who} ") and speeds)
    return values[name][0] < 0.8 * best


def contestants(entry, options):
    """Pairs of (name, how to measure)."""
    found = []
    for form in entry["formats"]:
        found.append((f"ours {form}", lambda form=form: ours(entry, form, options)))
    for kind in entry["types"]:
        if options.llama_bench:
            found.append((f"llama.cpp {kind}",
                          lambda kind=kind: llama(entry, kind, options)))
        if options.ik_llama_bench and entry["phase"] != "batch":
            found.append((f"ik_llama.cpp {kind}",
                          lambda kind=kind: ik_llama(entry, kind, options)))
    return found


def kv_bytes(entry, options):
    """Bytes of keys and values that a token in the middle of the run reads."""
    if entry["model"] == "default":
        return 0
    config = json.loads((options.configs / entry["model"] / "config.json").read_text())
    return (2 * 2 * config["num_hidden_layers"] * config["num_key_value_heads"] *
            config["head_dim"] * (entry["length"] + GENERATED // 2))


def weight_bytes(entry, form, options):
    """Bytes of the weights that a token reads: of the experts, those it is
    routed to; of the embedding, only the output layer."""
    if entry["model"] == "default":
        return options.default_model.stat().st_size
    config = json.loads((options.configs / entry["model"] / "config.json").read_text())
    hidden = config["hidden_size"]
    attention = hidden * config["head_dim"] * 2 * (
        config["num_attention_heads"] + config["num_key_value_heads"])
    if "num_experts" in config:
        inner = config["moe_intermediate_size"] * config["num_experts_per_tok"]
    else:
        inner = config["intermediate_size"]
    count = (config["num_hidden_layers"] * (attention + 3 * hidden * inner) +
             config["vocab_size"] * hidden)
    bits = 16 if form == "bf16" else 4 + 32 / int(form[1:])  # scale and bias a group
    return count * bits / 8


def measure(entry, options, seen):
    options.disturbed = 0
    values = {name: [] for name, _ in contestants(entry, options)}
    for number in range(options.rounds):
        for name, run in contestants(entry, options):
            if number > 0 and too_slow(name, values):
                continue
            speed = speed_of(name, run, entry, number, seen)
            values[name].append(speed)
            print(f"  {entry['name']} {number + 1}/{options.rounds} {name}: {speed:.2f}",
                  file=sys.stderr, flush=True)
    result = {**entry, **provenance(), "disturbed_runs": options.disturbed,
              "tokens_per_second": values}
    if entry["phase"] == "decode" and options.bandwidth_bench:
        found = json.loads(output_of(
            [options.bandwidth_bench, "--bandwidth", "--json", "--threads",
             options.threads], options))
        result["read_bandwidth"] = found["read_bandwidth"]
        result["bytes_per_token"] = {
            f"ours {form}": weight_bytes(entry, form, options) + kv_bytes(entry, options)
            for form in entry["formats"]}
    return result


def provenance():
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], text=True,
                            capture_output=True, cwd=Path(__file__).parent)
    return {"date": datetime.date.today().isoformat(), "commit": commit.stdout.strip()}


def machine():
    name = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.split(":")[1].strip()
            break
    return f"{name}, {os.cpu_count()} cores"


def median(result, name):
    return statistics.median(result["tokens_per_second"][name])


def summary(result):
    """(our best median, peer -> (its best median, our ratio, the goal))."""
    names = result["tokens_per_second"]
    best = max(median(result, name) for name in names if name.startswith("ours"))
    peers = {}
    for peer, goal in result["goal"].items():
        of_peer = [name for name in names if name.startswith(f"{peer} ")]
        if goal == DECODE["ik_llama.cpp"] and peer == "ik_llama.cpp":
            of_peer = [name for name in of_peer if name.endswith("q4_0")] or of_peer
        if of_peer:
            theirs = max(median(result, name) for name in of_peer)
            peers[peer] = (theirs, best / theirs, goal)
    return best, peers


def table(document):
    lines = [f"{document['machine']}, {document['threads']} threads, tokens/s, medians", "",
             "| case | ours | llama.cpp | ratio | goal | ik_llama.cpp | ratio | goal | of bandwidth |",
             "|---|---|---|---|---|---|---|---|---|"]
    for result in document["cases"]:
        best, peers = summary(result)
        cells = [result["name"], " / ".join(
            f"{median(result, name):.1f} ({name.split()[1]})"
            for name in result["tokens_per_second"] if name.startswith("ours"))]
        for peer in ("llama.cpp", "ik_llama.cpp"):
            if peer in peers:
                theirs, ratio, goal = peers[peer]
                mark = "" if ratio >= goal else " **below**"
                cells += [f"{theirs:.1f}", f"{ratio:.2f}{mark}", f"{goal}"]
            else:
                cells += ["", "", ""]
        if "read_bandwidth" in result:
            shares = [f"{median(result, name) * n_bytes / 1e9 / result['read_bandwidth']:.0%}"
                      for name, n_bytes in result["bytes_per_token"].items()]
            cells.append(f"{' / '.join(shares)} of {result['read_bandwidth']:.1f} GB/s")
        else:
            cells.append("")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", type=Path)
    parser.add_argument("--our-options", default="", help="more options of ours")
    parser.add_argument("--configs", type=Path)
    parser.add_argument("--ggufs", type=Path)
    parser.add_argument("--default-model", type=Path)
    parser.add_argument("--llama-bench", type=Path)
    parser.add_argument("--llama-batched-bench", type=Path)
    parser.add_argument("--ik-llama-bench", type=Path)
    parser.add_argument("--bandwidth-bench", type=Path)
    parser.add_argument("--cases", default="", help="names or parts of names")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tries", type=int, default=1,
                        help="runs of a program until nobody else used the machine")
    parser.add_argument("--prefix", default="", help="put before each command")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--add", action="store_true",
                        help="add the rounds to those in --out")
    parser.add_argument("--table", type=Path, help="print a result again")
    options = parser.parse_args()
    options.prefix = options.prefix.split()
    options.our_options = options.our_options.split()
    return options


def main():
    options = arguments()
    if options.table:
        print(table(json.loads(options.table.read_text())))
        return
    wanted = [part for part in options.cases.split(",") if part]
    document = {"machine": machine(), "threads": options.threads, "cases": []}
    if options.out and options.out.exists():
        document = json.loads(options.out.read_text())
    seen = {}
    for entry in CASES:
        if wanted and not any(part in entry["name"] for part in wanted):
            continue
        if entry["model"] == "default" and not options.default_model:
            continue
        result = measure(entry, options, seen)
        known = {old["name"]: old for old in document["cases"]}
        if options.add and entry["name"] in known:
            former = known[entry["name"]]["tokens_per_second"]
            for name, speeds in former.items():
                result["tokens_per_second"].setdefault(name, [])[:0] = speeds
        known[entry["name"]] = result
        document["cases"] = [known[known_case["name"]] for known_case in CASES
                             if known_case["name"] in known]
        if options.out:
            options.out.write_text(json.dumps(document, indent=1) + "\n")
    print(table(document))


if __name__ == "__main__":
    main()
