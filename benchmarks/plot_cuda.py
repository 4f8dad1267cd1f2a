#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Plots and tables of the CUDA kernels' figures, from JSON alone.

    plot_cuda.py --kernels FILE [--images DIR] [--table] [--models 4B,8B]

--kernels is what qwen3_mlx_cuda_decode_bench --json writes. --images gets
cuda_kernels.svg: the share of the measured copy bandwidth that kernels of one
row reach, and products' TFLOP/s by number of rows. --table prints every kernel,
what bounds it, and a step's microseconds by phase.
"""

import argparse
import json
from pathlib import Path

from plot_cpu import HEIGHT, WIDTH, panel, svg, text

BAR_LEFT, BAR_TOP, BAR_HEIGHT = 150, 34, 12
SHAPES = Path(__file__).parent / "shapes"
# Products and attention of one layer, and what comes once a step.
LAYER = ("qkv", "attention", "out", "gate+up", "down")


def of_model(found, model):
    return [row for row in found["kernels"] if row["model"] == model and row["overlap"]]


def label(row):
    if "attention" not in row["kernel"]:
        return row["kernel"]
    return f"{row['kernel']}, {row['shape'].split()[0]}"


def bars(title, shares, color="#1b6ca8"):
    """shares: name -> part of 1, drawn from 0 to 100 % or to the greatest."""
    top = max(1.0, *shares.values())
    room = WIDTH - BAR_LEFT - 44
    out = [text(8, 16, title, "start", 12, "#111", ' font-weight="bold"')]
    full = BAR_LEFT + room / top
    bottom = BAR_TOP + BAR_HEIGHT * len(shares)
    out.append(f'<line x1="{full:.1f}" x2="{full:.1f}" y1="{BAR_TOP - 6}" y2="{bottom}" '
               'stroke="#999" stroke-dasharray="3 3"/>')
    for idx, (name, share) in enumerate(shares.items()):
        y = BAR_TOP + idx * BAR_HEIGHT
        out.append(text(BAR_LEFT - 6, y + 9, name, "end", 10))
        out.append(f'<rect x="{BAR_LEFT}" y="{y}" width="{share / top * room:.1f}" '
                   f'height="{BAR_HEIGHT - 3}" fill="{color}"/>')
        out.append(text(BAR_LEFT + share / top * room + 4, y + 9, f"{share:.0%}", "start", 10))
    return out


def plot(found, models):
    panels, names = [], []
    copy = found["copy_gb_per_second"]
    for model in models:
        rows = of_model(found, model)
        single = {label(row): row["gb_per_second"] / copy for row in rows
                  if row["rows"] == 1 and "16 bits" not in row["kernel"]}
        # What fits under the next panel.
        most = int((HEIGHT - BAR_TOP - 4) / BAR_HEIGHT)
        single = dict(list(single.items())[:most])
        panels.append(bars(f"{model}, one row: share of copy bandwidth", single))
        series = {}
        for row in rows:
            if row["kernel"].endswith(", 4 bits") and "attention" not in row["kernel"]:
                name = row["kernel"].split(",")[0]
                series.setdefault(name, {})[row["rows"]] = row["tflops"]
        if series:
            panels.append(panel(f"{model}, products in 4 bits", series, "TFLOP/s", "rows"))
            names = names or list(series)
    note = f"{found['gpu']}; copy {copy:,.0f} GB/s"
    if found["matmul_tflops"]:
        note += f", matmul {found['matmul_tflops']:,.0f} TFLOP/s"
    return svg(panels, names, 2, note)


def bound(row, found):
    if row["gb_per_second"] >= 0.6 * found["copy_gb_per_second"]:
        return "memory"
    peak = found["matmul_tflops"]
    if peak and row["tflops"] >= 0.5 * peak:
        return "tensor cores"
    return "latency" if row["us"] < 20 else "instructions"


def table(found, models):
    copy, peak = found["copy_gb_per_second"], found["matmul_tflops"]
    lines = [f"{found['gpu']}: copy {copy:,.0f} GB/s" +
             (f", matmul {peak:,.0f} TFLOP/s." if peak else "."), "",
             "| model | kernel | shape | rows | us | GB/s | of copy | TFLOP/s | of matmul | "
             "bound by |", "|---|---|---|---|---|---|---|---|---|---|"]
    for model in models:
        for row in of_model(found, model):
            share = f"{row['tflops'] / peak:.0%}" if peak else ""
            lines.append(
                f"| {model} | {row['kernel']} | {row['shape']} | {row['rows']} | "
                f"{row['us']:,.1f} | {row['gb_per_second']:,.0f} | "
                f"{row['gb_per_second'] / copy:.0%} | {row['tflops']:.1f} | {share} | "
                f"{bound(row, found)} |")
    return "\n".join(lines)


def phases(found, models):
    """A step of one row behind 512 positions: kernels alone, times their number."""
    lines = ["| us a step of one | " + " | ".join(LAYER) + " | lm_head | sum | whole step |",
             "|---" * (len(LAYER) + 4) + "|"]
    for model in models:
        config = json.loads((SHAPES / f"qwen3-{model}.json").read_text())
        times = {}
        for row in of_model(found, model):
            name = row["kernel"].removesuffix(", 4 bits")
            in_step = "attention" not in name or row["shape"].startswith("512 ")
            if row["rows"] == 1 and in_step and row["kernel"] in (name, f"{name}, 4 bits"):
                times.setdefault(name, row["us"])
        whole = [step["us"] for step in found["steps"]
                 if (step["model"], step["rows"], step["bits"], step["positions"],
                     step["overlap"]) == (model, 1, 4, 512, True)]
        if "num_experts" in config or not set(LAYER) <= set(times):
            continue
        parts = [config["num_hidden_layers"] * times[name] for name in LAYER]
        parts.append(times["lm_head"])
        cells = [model, *(f"{part:,.0f}" for part in (*parts, sum(parts))),
                 f"{whole[0]:,.0f}" if whole else ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", type=Path, required=True)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--models", default="", help="names; all when empty")
    options = parser.parse_args()
    found = json.loads(options.kernels.read_text())
    known = list(dict.fromkeys(row["model"] for row in found["kernels"]))
    wanted = [name for name in options.models.split(",") if name] or known
    models = [name for name in known if name in wanted]
    if options.images:
        (options.images / "cuda_kernels.svg").write_text(plot(found, models))
    if options.table:
        print(table(found, models))
        print()
        print(phases(found, models))


if __name__ == "__main__":
    main()
