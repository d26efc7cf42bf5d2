#!/usr/bin/env python3
"""Helpers of jobs/scaling.sh: reads an integer of a config file, and makes one row of scaling.csv.

usage: scaling_row.py head
       scaling_row.py key FILE.cfg section.key DEFAULT [--text]
       scaling_row.py corpus FILE.h5 VOCABULARY      random tokens
       scaling_row.py compare CSV                    a table of layouts, against the first
       scaling_row.py row RUN_DIR --mode M --ranks N --threads N --nodes N --repeat K --host H >> CSV
"""
import argparse
import csv
import sys
from pathlib import Path

from needs import need

need("numpy", "h5py")

import h5py  # noqa: E402
import numpy as np  # noqa: E402

from traces import fail, read_trace  # noqa: E402

COLUMNS = ("mode,ranks,nodes,threads,tp,pp,ep,cp,dp,experts,batch,seq_len,repeat,steps,"
           "tokens_per_second,seconds_median,seconds_p10,seconds_p90,compute_s,comm_s,peak_bytes,"
           "loss,host,git").split(",")
COMPUTE = ("forward", "experts", "backward", "optimizer")
COMMUNICATION = ("dispatch", "combine", "grad_reduce")
WARM_UP = 3  # first steps, left out: buffers and caches are still being filled


def read_config(path):
    """section.key -> text of an INI file, with [section] headers or full names."""
    values, section = {}, ""
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        line = line.split(" #")[0].split("\t#")[0].split(" ;")[0].strip()
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].strip() + "."
        elif "=" in line and line[0] not in "#;":
            key, value = (part.strip() for part in line.split("=", 1))
            values[key if "." in key else section + key] = value.strip('"')
    return values


def whole(text):
    """An integer as config files write it: 8, 4e9, 64Ki."""
    for power, unit in enumerate(("Ki", "Mi", "Gi"), start=1):
        if text.endswith(unit):
            return int(float(text[:-2])) * 1024**power
    return int(float(text))


def median_of(trace, rows, names):
    """Median over the steps of the seconds in these phases, on the slowest rank."""
    columns = [i for i, name in enumerate(trace.phases) if name in names]
    return float(np.median(trace.arrays["time"][rows][:, columns].sum(axis=1)))


def row(options):
    trace = read_trace(options.run / "trace.h5")
    config = read_config(options.run / "config.cfg")
    if len(trace.steps) <= WARM_UP:
        fail(65, f"{trace.path}: {len(trace.steps)} steps; the first {WARM_UP} are left out, so "
                 "more are needed (train.steps)")
    rows = slice(WARM_UP, None)
    # Saving and evaluating are not part of a step's speed.
    extras = [i for i, name in enumerate(trace.phases) if name in ("checkpoint", "eval")]
    seconds = (trace.arrays["seconds"] - trace.arrays["time"][:, extras].sum(axis=1))[rows]
    tp, pp, ep, cp = (int(config.get(f"parallel.{axis}", 1)) for axis in ("tp", "pp", "ep", "cp"))
    git = next((value for key, value in trace.attributes.items() if "git" in key), "")
    return {"mode": options.mode, "ranks": options.ranks, "nodes": options.nodes,
            "threads": options.threads, "tp": tp, "pp": pp, "ep": ep, "cp": cp,
            "dp": options.ranks // (tp * pp * ep * cp), "experts": config["model.experts"],
            "batch": config["train.batch"], "seq_len": config["data.seq_len"],
            "repeat": options.repeat, "steps": len(seconds),
            "tokens_per_second": round(float(trace.arrays["tokens"][rows].sum() / seconds.sum()), 2),
            "seconds_median": round(float(np.median(seconds)), 6),
            "seconds_p10": round(float(np.percentile(seconds, 10)), 6),
            "seconds_p90": round(float(np.percentile(seconds, 90)), 6),
            "compute_s": round(median_of(trace, rows, COMPUTE), 6),
            "comm_s": round(median_of(trace, rows, COMMUNICATION), 6),
            "peak_bytes": int(trace.arrays["peak_memory"].max()),
            "loss": f"{trace.arrays['lm_loss'][-1]:.6f}", "host": options.host, "git": git}


def make_corpus(path, vocabulary):
    """A bare shard of random tokens in documents of 1000; for speed only."""
    tokens = np.random.default_rng(1).integers(0, vocabulary, 1_000_000)
    with h5py.File(path, "w") as file:
        file.attrs["schema"] = "moesaic-corpus"
        file.attrs["version"] = 1
        file.attrs["vocab_size"] = vocabulary
        file.create_dataset("tokens", data=tokens.astype("u2" if vocabulary <= 65536 else "u4"),
                            chunks=(65536,), fletcher32=True)
        file["documents/offsets"] = np.arange(0, len(tokens) + 1, 1000, dtype="u8")


def compare(path):
    """Prints each layout's median speed, and its ratio to the first one's."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    speeds = {}
    for each in rows:
        cp = f" cp={each['cp']}" if int(each.get("cp", 1)) > 1 else ""  # older files have none
        name = "tp={tp} pp={pp} ep={ep}{of_cp} dp={dp}".format(of_cp=cp, **each)
        speeds.setdefault((name, each["ranks"], each["threads"]), []).append(
            (float(each["tokens_per_second"]), int(each["peak_bytes"]) / 2**20))
    first = None
    print("| layout | ranks x threads | tokens/s | to the first | peak memory of a rank |")
    print("|---|---|---|---|---|")
    for (name, ranks, threads), found in speeds.items():
        speed, peak = np.median(np.array(found), axis=0)
        first = first or speed
        print(f"| {name} | {ranks} x {threads} | {speed:.0f} | {speed / first:.2f} | {peak:.0f} MiB |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    jobs = parser.add_subparsers(dest="job", required=True)
    key = jobs.add_parser("key")
    for name in ("file", "key", "default"):
        key.add_argument(name)
    key.add_argument("--text", action="store_true")
    corpus = jobs.add_parser("corpus")
    corpus.add_argument("file", type=Path)
    corpus.add_argument("vocabulary", type=int)
    jobs.add_parser("compare").add_argument("csv", type=Path)
    one = jobs.add_parser("row")
    one.add_argument("run", type=Path)
    for name, kind in (("mode", str), ("ranks", int), ("threads", int), ("nodes", int),
                       ("repeat", int), ("host", str)):
        one.add_argument(f"--{name}", type=kind, required=True)
    jobs.add_parser("head")
    options = parser.parse_args()
    if options.job == "key":
        value = read_config(options.file).get(options.key, options.default)
        print(value if options.text else whole(value))
    elif options.job == "corpus":
        make_corpus(options.file, options.vocabulary)
    elif options.job == "compare":
        compare(options.csv)
    elif options.job == "head":
        print(",".join(COLUMNS))
    else:
        csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n").writerow(row(options))


if __name__ == "__main__":
    main()
