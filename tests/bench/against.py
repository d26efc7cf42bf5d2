#!/usr/bin/env python3
"""Compares the speed of two builds, in turn: what else the machine does meets both.

usage: against.py --new BUILD --old BUILD -o DIR [--threads N] [--rounds 11] [--steps 4] [--limit 300]
                  [--rows "train bf16,score"]
BUILD: a folder with moesaic and tests/bench/train_step, such as build/release. Each round runs every
row with both, the one that was second before now first. A row's figure is the median of the rounds'
ratios of speed, new to old. Writes DIR/against.jsonl (every run) and DIR/against.md.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
BATCH = ["--train.batch", "4", "--train.micro_batch", "4"]
WIDE = ["--train.batch", "8", "--train.micro_batch", "8"]
ROWS = {
    **{f"train {precision}": [*BATCH, "--run.precision", precision] for precision in ("fp32", "bf16")},
    **{f"forward {precision}": ["forward", *WIDE, "--run.precision", precision]
       for precision in ("fp32", "bf16")},
    **{f"routing {routing}": [*BATCH, "--run.precision", "bf16", "--router.force", routing]
       for routing in ("balanced", "hot", "rotating")},
    "score": None,
}


def command_of(row, build, options):
    threads, config = str(options.threads), str(options.config)
    if ROWS[row] is None:
        return [sys.executable, str(ROOT / "tests/bench/score_job.py"), "--moesaic",
                str(build / "moesaic"), "--config", config, "--threads", threads, "--tokens", "16384"]
    job, keys = ([ROWS[row][0]], ROWS[row][1:]) if ROWS[row][0] == "forward" else ([], ROWS[row])
    return [str(build / "tests/bench/train_step"), *job, "--config", config, *keys, "--run.threads",
            threads, "--train.steps", str(options.steps)]


def speed_of(row, build, options):
    """Tokens per second of one run."""
    command = command_of(row, build, options)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False,
                              timeout=options.limit)
    except subprocess.TimeoutExpired:
        sys.exit(f"against.py: no result in {options.limit} s: {' '.join(command)}")
    if done.returncode != 0:
        sys.exit(f"against.py: {' '.join(command)} ended with {done.returncode}\n"
                 f"{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])["tokens_per_second"]


def table_of(runs):
    """Lines of a table: of each row the speeds' medians and what the ratios of its rounds are."""
    lines = ["| row | old tokens/s | new tokens/s | new / old | quartiles |", "|---|--:|--:|--:|--:|"]
    for row in dict.fromkeys(run["row"] for run in runs):
        mine = [run for run in runs if run["row"] == row]
        ratios = [run["new"] / run["old"] for run in mine]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else 3 * ratios
        old, new = (statistics.median(run[which] for run in mine) for which in ("old", "new"))
        lines.append(f"| {row} | {old:.0f} | {new:.0f} | {middle:.3f} | {low:.3f} - {high:.3f} |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--new", type=pathlib.Path, required=True)
    parser.add_argument("--old", type=pathlib.Path, required=True)
    parser.add_argument("-o", dest="out", type=pathlib.Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--limit", type=float, default=300)
    parser.add_argument("--config", type=pathlib.Path, default=ROOT / "configs/model/bench.cfg")
    parser.add_argument("--rows", type=lambda text: text.split(","), default=list(ROWS))
    options = parser.parse_args()
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"no row {', '.join(sorted(unknown))}: there are {', '.join(ROWS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    runs = []
    with open(options.out / "against.jsonl", "w", encoding="utf-8") as file:
        for number in range(options.rounds):
            for row in options.rows:
                run = {"row": row, "round": number + 1}
                for which in ("old", "new") if number % 2 == 0 else ("new", "old"):
                    run[which] = speed_of(row, getattr(options, which), options)
                runs.append(run)
                print(json.dumps(run), file=file, flush=True)
                print(f"round {number + 1} of {options.rounds}: {row}: {run['new'] / run['old']:.3f}",
                      file=sys.stderr)
    table = "\n".join(table_of(runs)) + "\n"
    (options.out / "against.md").write_text(table, encoding="utf-8")
    print(table, end="")


if __name__ == "__main__":
    main()
