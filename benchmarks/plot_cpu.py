#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Plots and tables of the CPU's figures, from JSON alone.

    plot_cpu.py --compare FILE --kernels FILE [--images DIR] [--table]

--compare is what compare_cpu.py writes, --kernels what qwen3_mlx_cpu_matmul_bench
--json prints. --images gets cpu_context.svg, tokens/s against the length of the
context, and cpu_kernels.svg, products by number of rows; --table prints the
kernel table.
"""

import argparse
import json
import math
import statistics
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 360, 240
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 28, 40
COLORS = ["#1b6ca8", "#d1495b", "#2e8b57", "#8d6a9f", "#c77d0a"]


def text(x, y, words, anchor="middle", size=11, color="#444", extra=""):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" '
            f'font-size="{size}" fill="{color}"{extra}>{escape(words)}</text>')


def nice_ceiling(value):
    step = 10 ** math.floor(math.log10(value))
    return next(step * part for part in (1, 2, 3, 4, 5, 6, 8, 10) if step * part >= value)


def panel(title, series, y_name, x_name):
    """series: name -> {x: y}; x on a logarithmic scale, each value a tick."""
    ticks = sorted({x for points in series.values() for x in points})
    top = nice_ceiling(max(y for points in series.values() for y in points.values()))
    low, high = math.log(ticks[0]), math.log(ticks[-1])

    def at(x, y):
        share = (math.log(x) - low) / (high - low) if high > low else 0.5
        return (LEFT + share * (WIDTH - LEFT - RIGHT),
                HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM))

    out = [text(LEFT, 16, title, "start", 12, "#111", ' font-weight="bold"')]
    for idx in range(5):
        value = top * idx / 4
        y = at(ticks[0], value)[1]
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
                   'stroke="#ddd"/>')
        out.append(text(LEFT - 6, y + 4, f"{value:g}", "end", 10))
    for x in ticks:
        out.append(text(at(x, 0)[0], HEIGHT - BOTTOM + 14, f"{x:,}", size=10))
    out.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_name, size=10))
    out.append(text(12, HEIGHT / 2, y_name, size=10,
                    extra=f' transform="rotate(-90 12 {HEIGHT / 2})"'))
    for (name, points), color in zip(series.items(), COLORS):
        places = [at(x, points[x]) for x in sorted(points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        out.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in places]
    return out


def legend(names, y):
    out, x = [], LEFT
    for name, color in zip(names, COLORS):
        out.append(f'<rect x="{x}" y="{y - 8}" width="10" height="10" fill="{color}"/>')
        out.append(text(x + 15, y + 1, name, "start"))
        x += 30 + 7 * len(name)
    return out


def svg(panels, names, columns, note):
    rows = math.ceil(len(panels) / columns)
    width, height = max(columns * WIDTH, 480), rows * HEIGHT + 50
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
           f'viewBox="0 0 {width} {height}" font-family="sans-serif">',
           f'<rect width="{width}" height="{height}" fill="white"/>']
    for idx, parts in enumerate(panels):
        x, y = idx % columns * WIDTH, idx // columns * HEIGHT
        out += [f'<g transform="translate({x} {y})">', *parts, "</g>"]
    out += legend(names, rows * HEIGHT + 16)
    out.append(text(LEFT, rows * HEIGHT + 38, note, "start", 10))
    return "\n".join([*out, "</svg>", ""])


def medians(case):
    """Contestant -> its best median over formats."""
    best = {}
    for name, speeds in case["tokens_per_second"].items():
        who = name.split()[0].replace("ours", "qwen3-mlx")
        best[who] = max(best.get(who, 0), statistics.median(speeds))
    return best


def context_plot(compared):
    panels, names = [], []
    for phase in ("decode", "prefill"):
        series = {}
        for case in compared["cases"]:
            if (case["model"], case["phase"]) == ("0.6B", phase) and "bf16" not in case["name"]:
                for who, speed in medians(case).items():
                    series.setdefault(who, {})[case["length"]] = speed
        if series:
            title = {"decode": "Decode behind a context", "prefill": "Prefill"}[phase]
            panels.append(panel(f"{title}, 0.6B, 4 bits", series, "tokens/s", "tokens"))
            names = names or list(series)
    note = f"{compared['machine']}, {compared['threads']} threads; medians"
    return svg(panels, names, len(panels), note)


def kernel_plot(found):
    panels, names = [], []
    for shape in dict.fromkeys(row["shape"] for row in found["products"]):
        series = {}
        for row in found["products"]:
            if row["shape"] == shape:
                series.setdefault(row["format"], {})[row["batch"]] = row["gop_per_second"]
        panels.append(panel(shape, series, "GOP/s", "rows of activations"))
        names = names or list(series)
    note = (f"{found['threads']} threads, {found['isa']}; read bandwidth "
            f"{found['read_bandwidth']:.1f} GB/s")
    return svg(panels, names, 2, note)


def kernel_table(found):
    bandwidth, peak = found["read_bandwidth"], found["cached_gop_per_second"]
    lines = [f"{found['threads']} threads, {found['isa']}; read bandwidth {bandwidth:.1f} GB/s; "
             f"4-bit product out of the caches {peak:.0f} GOP/s.", "",
             "| matrix | format | rows | time | GB/s | of bandwidth | GOP/s | of cached product |",
             "|---|---|---|---|---|---|---|---|"]
    for row in found["products"]:
        lines.append(
            f"| {row['shape']} | {row['format']} | {row['batch']} | "
            f"{row['seconds'] * 1e6:,.0f} us | {row['gb_per_second']:.1f} | "
            f"{row['gb_per_second'] / bandwidth:.0%} | {row['gop_per_second']:.0f} | "
            f"{row['gop_per_second'] / peak:.0%} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", type=Path)
    parser.add_argument("--kernels", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    plots = [(options.compare, "cpu_context.svg", context_plot),
             (options.kernels, "cpu_kernels.svg", kernel_plot)]
    for source, name, plot in plots:
        if source and options.images:
            (options.images / name).write_text(plot(json.loads(source.read_text())))
    if options.table and options.kernels:
        print(kernel_table(json.loads(options.kernels.read_text())))


if __name__ == "__main__":
    main()
