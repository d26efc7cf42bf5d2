#!/usr/bin/env python3
"""Prints the table of a benchmark (of jobs/bench.sh) as Markdown.

usage: bench_table.py DIR
Medians over the runs in DIR/steps.jsonl; ratios to the fastest variant of PyTorch in the same
precision, and to the rate that oneDNN reached for large products in the same process.
"""
import json
import platform
import statistics
import sys
from pathlib import Path

from traces import fail


def processor():
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def read_rows(path):
    if not path.is_file():
        fail(66, f"no such file: {path.resolve()}")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def median(rows, key):
    return statistics.median(row[key] for row in rows)


def by(rows, key):
    groups = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def line(*cells):
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def step_lines(rows):
    peers = by([row for row in rows if row["job"] == "pytorch"], lambda row: row["variant"])
    best = {}
    for runs in peers.values():
        precision = runs[0]["precision"]
        best[precision] = max(best.get(precision, 0), median(runs, "tokens_per_second"))
    yield line("step", "precision", "tokens/s", "GFLOP/s", "of oneDNN's rate", "to the best PyTorch",
               "peak MiB")
    yield line("---", "---", "--:", "--:", "--:", "--:", "--:")
    ours = by([row for row in rows if row["job"] != "pytorch" and
               not row["name"].startswith("growth")],
              lambda row: (row["name"], row["routing"], row["precision"]))
    for (name, routing, precision), runs in ours.items():
        speed = median(runs, "tokens_per_second")
        compared = name == "train" and precision in best
        label = name if routing == "natural" else f"train, routing {routing}"
        yield line(label, precision, f"{speed:.0f}", f"{median(runs, 'flop_per_second') / 1e9:.0f}",
                   f"{100 * median(runs, 'of_onednn'):.0f} %",
                   f"{speed / best[precision]:.2f}" if compared else "",
                   f"{median(runs, 'peak_mib'):.0f}")
    for variant, runs in peers.items():
        yield line(f"PyTorch {runs[0]['version']}, {variant}", runs[0]["precision"],
                   f"{median(runs, 'tokens_per_second'):.0f}", "", "", "",
                   f"{median(runs, 'peak_mib'):.0f}")


def kernel_lines(path):
    yield line("kernel", "us", "of its limit")
    yield line("---", "--:", "--:")
    for run in json.loads(path.read_text(encoding="utf-8"))["benchmarks"]:
        label = f"{run['name'].removesuffix('/real_time')} {run.get('label', '')}".strip()
        share = f"{100 * run['of_limit']:.0f} %" if "of_limit" in run else ""
        yield line(label, f"{run['real_time'] / 1e3:.0f}", share)


def main():
    if len(sys.argv) != 2:
        fail(64, "usage: bench_table.py DIR")
    folder = Path(sys.argv[1])
    rows = read_rows(folder / "steps.jsonl")
    if not rows:
        fail(65, f"{folder / 'steps.jsonl'} has no runs")
    print(f"{processor()}, {rows[0]['threads']} threads\n")
    print("\n".join(step_lines(rows)))
    if (folder / "kernels.json").is_file():
        print()
        print("\n".join(kernel_lines(folder / "kernels.json")))


if __name__ == "__main__":
    main()
