#!/usr/bin/env python3
"""Compares how ways of routing use their experts, and at what price (of jobs/utilisation_study.sh).

usage: utilisation.py RUN... -o DIR
Each RUN is a folder POLICY-CAPACITY-SETTING with train/ (a run.dir) and the scores in dropless/ and,
where experts have a capacity, limited/. Counts are sums over the second half of the steps and all
layers. Writes DIR/utilisation.csv (one row for each run), DIR/utilisation.md and two figures.
"""
import argparse
import csv
import math
from pathlib import Path

from needs import need

need("numpy", "h5py", "matplotlib")

import h5py  # noqa: E402
import matplotlib  # noqa: E402

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.ticker import PercentFormatter  # noqa: E402

import figures  # noqa: E402
from traces import fail, read_trace  # noqa: E402

COLUMNS = ["policy", "capacity", "setting", "utilisation", "dropped", "rerouted", "to_spares",
           "max_over_mean", "loss_dropless", "loss_limited", "mutual_information",
           "seconds_per_step"]
POLICIES = ["drop", "next", "spare", "spare_buffer", "aux_loss", "bias"]
LABELS = {"spare_buffer": "spare, gradient buffer", "aux_loss": "drop, auxiliary loss",
          "bias": "drop, bias"}


def heldout_loss(folder):
    """Mean nats of a scored token; nothing where nothing was scored."""
    tokens = nats = 0.0
    for path in sorted(folder.glob("*.h5")):
        if "trace" in path.name:
            continue
        with h5py.File(path) as file:
            tokens += file["documents/tokens"][()].sum()
            nats -= file["documents/logprob"][()].sum()
    return nats / tokens if tokens else math.nan


def mutual_information(counts):
    """Between the task of a token and the expert that it chose, nats; counts [task, expert]."""
    joint = counts / max(1.0, counts.sum())
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    there = joint > 0
    return float((joint[there] * np.log(joint[there] / apart[there])).sum())


def second_half(values):
    return values[len(values) // 2:]


def measure(folder):
    parts = folder.name.rsplit("-", 2)
    if len(parts) != 3:
        fail(64, f"{folder}: the name of a run is POLICY-CAPACITY-SETTING")
    trace = read_trace(folder / "train/trace.h5")
    total = {name: second_half(trace.get(f"expert_{name}")).astype(float)
             for name in ("tokens", "dropped", "rerouted", "processed", "slots", "state")}
    chosen = total["tokens"].sum()
    spares = total["state"] == 2
    by_task = second_half(trace.get("task_expert_tokens")).astype(float).sum(axis=0)
    return dict(zip(COLUMNS, (
        *parts,
        total["processed"].sum() / total["slots"].sum(),
        total["dropped"].sum() / chosen,
        total["rerouted"].sum() / chosen,
        total["processed"][spares].sum() / chosen,
        float(np.mean(second_half(trace.get("load_max_over_mean")))),
        heldout_loss(folder / "dropless"),
        heldout_loss(folder / "limited"),
        float(np.mean([mutual_information(layer) for layer in by_task])),
        float(np.median(trace.get("seconds"))))))


def table(rows):
    head = ["policy", "capacity", "setting", "utilisation", "dropped", "rerouted", "of it to spares",
            "max / mean load", "held-out loss", "with capacity", "task information", "s / step"]
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * 3 + "--:|" * (len(head) - 3)
    for row in rows:
        limited = row["loss_limited"]
        yield "| " + " | ".join([
            row["policy"], row["capacity"], row["setting"], f"{row['utilisation']:.1%}",
            f"{row['dropped']:.1%}", f"{row['rerouted']:.1%}", f"{row['to_spares']:.1%}",
            f"{row['max_over_mean']:.2f}", f"{row['loss_dropless']:.3f}",
            "" if math.isnan(limited) else f"{limited:.3f}", f"{row['mutual_information']:.4f}",
            f"{row['seconds_per_step']:.3f}"]) + " |"


def price(rows):
    """For each capacity the utilisation of every policy against what it drops and how well it
    predicts."""
    capacities = [c for c in dict.fromkeys(row["capacity"] for row in rows) if c != "dropless"]
    if not capacities:
        return None
    figure, panels = plt.subplots(2, len(capacities), squeeze=False, sharex=True, sharey="row",
                                  figsize=(3.1 * len(capacities), 6.4), layout="constrained")
    for column, capacity in enumerate(capacities):
        for setting, marker in (("t1", "o"), ("t0.7", "^")):
            for number, policy in enumerate(POLICIES):
                found = [row for row in rows if (row["policy"], row["capacity"], row["setting"]) ==
                         (policy, capacity, setting)]
                for row in found:
                    colour = figures.RUN_COLOURS[number]
                    label = LABELS.get(policy, policy) if setting == "t1" else None
                    panels[0, column].plot(row["utilisation"], row["dropped"], marker,
                                           color=colour, label=label)
                    panels[1, column].plot(row["utilisation"], row["loss_limited"], marker,
                                           color=colour)
        panels[0, column].set_title(f"capacity {capacity}", fontsize=10)
        panels[1, column].set_xlabel("filled share of the slots")
        panels[1, column].xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panels[0, 0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panels[0, 0].set_ylabel("dropped share of the choices")
    panels[1, 0].set_ylabel("held-out loss with capacity (nat)")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="upper center",
                  bbox_to_anchor=(0.5, 0), ncol=6)
    figure.suptitle("How full experts are, and what it costs (circles: temperature 1, triangles: 0.7)",
                    fontweight="bold")
    return figure


def tasks(rows):
    """What the expert of a token says about its task, with the gate of tasks and without."""
    shown = [row for row in rows if row["capacity"] == "dropless"]
    if not shown:
        return None
    figure, ax = figures.axes("What a token's expert says about its task",
                              "mutual information (nat, mean of layers)", size=(6.4, 3.6))
    names = [f"{row['policy'].replace('_', ' ')}\n{row['setting'].replace('gate', 'task gate ')}"
             for row in shown]
    ax.set_xlabel("")
    ax.bar(names, [row["mutual_information"] for row in shown], color=figures.RUN_COLOURS[0])
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("-o", dest="folder", required=True, type=Path, metavar="DIR")
    options = parser.parse_args()
    rows = [measure(run) for run in options.runs if (run / "train/trace.h5").is_file()]
    if not rows:
        fail(66, f"no run with train/trace.h5 among {len(options.runs)} folders")
    rows.sort(key=lambda row: (row["capacity"] == "dropless", row["capacity"], row["setting"],
                               POLICIES.index(row["policy"])))
    options.folder.mkdir(parents=True, exist_ok=True)
    with open(options.folder / "utilisation.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    text = "\n".join(table(rows)) + "\n"
    (options.folder / "utilisation.md").write_text(text, encoding="utf-8")
    for name, figure in (("utilisation", price(rows)), ("tasks", tasks(rows))):
        if figure:
            figure.savefig(options.folder / f"{name}.png")
    print(text, end="")


if __name__ == "__main__":
    main()
