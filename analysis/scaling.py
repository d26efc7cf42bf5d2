#!/usr/bin/env python3
"""Draws scaling.csv (of jobs/scaling.sh): speed and efficiency over the number of ranks.

usage: scaling.py CSV -o fig.pdf|png
The baseline is the smallest number of ranks; points are medians over repeats, whiskers their range.
"""
import argparse
import csv
from pathlib import Path

from needs import need

need("numpy", "h5py", "matplotlib")

import numpy as np  # noqa: E402

from figures import RUN_COLOURS, plt  # noqa: E402
from traces import fail  # noqa: E402


def read_rows(path):
    if not Path(path).is_file():
        fail(66, f"no such file: {Path(path).resolve()}")
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or "tokens_per_second" not in rows[0]:
        fail(65, f"{Path(path).resolve()} has no rows of a scaling run")
    return rows


def by_ranks(rows, column):
    """Sorted numbers of ranks, and for each the low, median and high of a column."""
    ranks = sorted({int(row["ranks"]) for row in rows})
    values = [[float(row[column]) for row in rows if int(row["ranks"]) == n] for n in ranks]
    return np.array(ranks), np.array([[min(v), np.median(v), max(v)] for v in values]).T


def whiskers(ax, x, low_mid_high, colour, label):
    low, mid, high = low_mid_high
    ax.errorbar(x, mid, yerr=[mid - low, high - mid], fmt="o-", color=colour, capsize=4,
                label=label)


def rank_axis(ax, ranks):
    ax.set_xscale("log", base=2)
    ax.set_xticks(ranks, [str(n) for n in ranks])
    ax.minorticks_off()
    ax.set_xlabel("ranks")


def draw(rows):
    figure, (speed, efficiency, parts) = plt.subplots(1, 3, figsize=(14, 4.2),
                                                      layout="constrained")
    everything = sorted({int(row["ranks"]) for row in rows})
    for mode, colour in zip(sorted({row["mode"] for row in rows}), RUN_COLOURS):
        mine = [row for row in rows if row["mode"] == mode]
        ranks, rate = by_ranks(mine, "tokens_per_second")
        base = rate[1][0] / ranks[0]
        whiskers(speed, ranks, rate, colour, f"{mode} scaling")
        speed.plot(ranks, base * ranks, "--", color=colour, alpha=0.5,
                   label=f"ideal from {ranks[0]} rank{'s' if ranks[0] > 1 else ''}")
        whiskers(efficiency, ranks, rate / (base * ranks), colour, f"{mode} scaling")
        for column, style in (("compute_s", "o-"), ("comm_s", "s:")):
            seconds = by_ranks(mine, column)[1][1]
            label = "compute" if column == "compute_s" else "communication"
            parts.plot(ranks, seconds, style, color=colour, label=f"{label} ({mode})")
    speed.set_yscale("log", base=2)
    speed.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    speed.set_ylabel("tokens per second")
    efficiency.axhline(1, linestyle="--", color="#888888")
    efficiency.set_ylabel(f"speed per rank relative to {everything[0]} "
                          f"rank{'s' if everything[0] > 1 else ''}")
    efficiency.set_ylim(0, 1.15 * max(1.0, efficiency.get_ylim()[1] / 1.15))
    parts.set_ylabel("seconds per step (slowest rank)")
    parts.set_ylim(bottom=0)
    for ax in (speed, efficiency, parts):
        rank_axis(ax, everything)
        ax.legend()
    hosts = sorted({row["host"] for row in rows})
    where = hosts[0] if len(hosts) == 1 else f"{len(hosts)} hosts"
    repeats = len({row["repeat"] for row in rows})
    figure.suptitle(f"{where}, threads per rank {', '.join(sorted({r['threads'] for r in rows}))}, "
                    f"{repeats} repeat{'s' if repeats > 1 else ''}", fontsize=10)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv")
    parser.add_argument("-o", dest="figure", required=True, metavar="fig.pdf|png")
    options = parser.parse_args()
    if Path(options.figure).suffix not in (".pdf", ".png", ".svg"):
        fail(64, f"-o {options.figure}: name a .pdf, .png or .svg file")
    draw(read_rows(options.csv)).savefig(options.figure)
    print(options.figure)


if __name__ == "__main__":
    main()
