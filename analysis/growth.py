#!/usr/bin/env python3
"""Draws what a token costs as a model or its input grows (rows "growth ..." of steps.jsonl).

usage: growth.py STEPS.jsonl -o growth.png|pdf
Above: microseconds for one token, and those that its model FLOP would take at the speed of the
smallest size. Below: peak memory of the process.
"""
import argparse
from pathlib import Path

from needs import need

need("numpy", "h5py", "matplotlib")

from bench_table import read_rows  # noqa: E402
from figures import RUN_COLOURS, plt  # noqa: E402
from traces import fail  # noqa: E402

AXES = {"length": "tokens of a sequence", "experts": "routed experts (2 for each token)",
        "batch": "sequences of 512 tokens", "depth": "layers"}


def draw_one(cost, memory, axis, points):
    sizes = [size for size, _ in points]
    micros = [1e6 / row["tokens_per_second"] for _, row in points]
    flop = [row["flop_per_second"] / row["tokens_per_second"] for _, row in points]
    cost.plot(sizes, micros, "o-", color=RUN_COLOURS[0], label="measured")
    cost.plot(sizes, [micros[0] * f / flop[0] for f in flop], "--", color=RUN_COLOURS[1],
              label="by FLOP alone")
    memory.plot(sizes, [row["peak_mib"] for _, row in points], "s-", color=RUN_COLOURS[2])
    for ax in (cost, memory):
        ax.set_xscale("log", base=2)
        ax.set_xticks(sizes, [str(size) for size in sizes])
        ax.minorticks_off()
        ax.set_ylim(0, 1.05 * ax.get_ylim()[1])
        ax.set_xlabel(AXES[axis])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    series = {}
    for row in read_rows(arguments.rows):
        words = row.get("name", "").split()
        if words[:1] == ["growth"]:
            series.setdefault(words[1], []).append((int(words[2]), row))
    if not series:
        fail(65, f"{arguments.rows.resolve()} has no rows of growth: run jobs/bench.sh --growth")
    figure, axes = plt.subplots(2, len(series), figsize=(3.6 * len(series), 6.4), squeeze=False,
                                layout="constrained")
    for column, (axis, points) in enumerate(series.items()):
        draw_one(axes[0][column], axes[1][column], axis, sorted(points, key=lambda p: p[0]))
    axes[0][0].set_ylabel("microseconds for a token")
    axes[1][0].set_ylabel("peak memory / MiB")
    axes[0][0].legend()
    figure.savefig(arguments.output, dpi=150)
    print(arguments.output.resolve())


if __name__ == "__main__":
    main()
