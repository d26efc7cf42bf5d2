#!/usr/bin/env python3
"""Which tokens each expert takes, from a routing record (trace.routing).

usage: routing.py RECORD [--trace TRACE] [--corpus MANIFEST] [--layer N] -o DIR
writes DIR/index.html and DIR/*.png. With a trace, every count of its recorded steps is computed
again from the record; exit 1 names the first that differs. With a corpus (a manifest, or its
folder), tokens are shown as text, else as numbers. --layer: of the model; the middle one if left
out.
"""
import argparse
import html
from pathlib import Path

from needs import need

need("numpy", "h5py", "matplotlib")

import numpy as np  # noqa: E402

import figures  # noqa: E402
from page import STYLE, embed, table, write_page  # noqa: E402
from traces import fail, open_hdf5, read_trace, text_list  # noqa: E402
from vocabulary import pieces_of  # noqa: E402

NEXT, SPARE, DROPPED = 1, 2, 3
FATES = ["", "next best", "spare", "dropped"]
PASSAGE = 400     # tokens of a passage
PRIOR = 20        # choices that a token counts as having had already, spread as all choices are
LISTED = 12       # characteristic tokens of an expert
MORE_STYLE = """
.passage { font: 15px/1.9 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere;
           border: 1px solid #ddd; padding: .8em; }
.passage span { border-radius: 3px; padding: 1px 0; } .lost { text-decoration: line-through; }
.key span { padding: .1em .5em; margin: .15em; border-radius: 3px; display: inline-block; }
code { background: #f3f3f3; padding: 0 .3em; margin-right: .7em; white-space: pre; }
"""


class Record:
    """A record that is read step by step."""

    def __init__(self, path):
        self.path = Path(path)
        self.file = open_hdf5(path)
        if self.file.attrs.get("schema") not in (b"moesaic-routing", "moesaic-routing"):
            fail(65, f"{self.path.resolve()} is not a routing record")
        steps = self.file["steps/step"][()]
        self.steps = steps[:np.count_nonzero(steps)]  # a step that is being written is 0
        self.offsets = self.file["steps/offset"][:len(self.steps) + 1]
        self.layers = [int(layer) for layer in np.atleast_1d(self.file["layer"].attrs["layer_index"])]
        self.tasks, self.corpora = text_list(self.file["task"][()]), text_list(self.file["corpus"][()])
        self.experts = int(self.file.attrs["experts"])
        if len(self.steps) == 0:
            fail(65, f"{self.path.resolve()} has no step yet: try again in a while")

    def rows(self, name, number):
        return self.file[name][self.offsets[number]:self.offsets[number + 1]]


def counts_of(record, number):
    """The trace's counts of a step: name -> array, as the trace has them."""
    chosen, fate, target = (record.rows(name, number) for name in ("chosen", "fate", "target"))
    task = record.rows("tokens/task", number)
    tasks, experts = len(record.tasks), record.experts
    result = {"task_tokens": np.bincount(task, minlength=tasks)}
    by_layer = {name: [] for name in ("expert_tokens", "expert_dropped", "expert_rerouted",
                                      "expert_processed", "task_expert_tokens",
                                      "task_choice_tokens")}
    for layer in range(len(record.layers)):
        expert, done, by = chosen[:, layer], fate[:, layer], target[:, layer]
        made = expert >= 0

        def count(values, where):
            return np.bincount(values[where], minlength=experts)

        by_layer["expert_tokens"].append(count(expert, made))
        by_layer["expert_dropped"].append(count(expert, made & (done == DROPPED)))
        by_layer["expert_rerouted"].append(count(expert, made & ((done == NEXT) | (done == SPARE))))
        by_layer["expert_processed"].append(count(by, by >= 0))
        pair = task[:, None].astype(int) * experts + expert
        by_layer["task_expert_tokens"].append(
            np.bincount(pair[made], minlength=tasks * experts).reshape(tasks, experts))
        most = expert.shape[1]
        pair = task.astype(int) * most + made.sum(axis=1) - 1
        by_layer["task_choice_tokens"].append(
            np.bincount(pair, minlength=tasks * most).reshape(tasks, most))
    return {**result, **{name: np.array(rows) for name, rows in by_layer.items()}}


def compare(record, trace):
    """Ends with exit 1 at the first count that differs; returns how many steps and counts agree."""
    rows = {int(step): row for row, step in enumerate(trace.steps)}
    agreed = numbers = 0
    for number, step in enumerate(record.steps):
        if int(step) not in rows:
            continue
        agreed += 1
        for name, here in counts_of(record, number).items():
            there = trace.arrays[name][rows[int(step)]]
            if here.shape != there.shape:
                fail(1, f"step {step}: {name} has the shape {list(here.shape)} from the record, "
                        f"{list(there.shape)} in the trace")
            numbers += here.size
            if (here != there).any():
                at = tuple(int(i) for i in np.argwhere(here != there)[0])
                fail(1, f"step {step}: {name}{list(at)} is {here[at]} from the record, {there[at]} "
                        "in the trace")
    if agreed == 0:
        fail(65, f"{trace.path.resolve()} has none of the steps of {record.path.resolve()}")
    return agreed, numbers


def joint(record):
    """Choices of each token by expert at one layer, and of each task at every layer."""
    by_task = sum(counts_of(record, number)["task_expert_tokens"]
                  for number in range(len(record.steps)))
    return by_task  # layer, task, expert


def by_token(record, layer):
    """token -> choices of each expert at a layer, as ids and their counts [id, expert]."""
    token = np.concatenate([record.rows("tokens/token", n) for n in range(len(record.steps))])
    chosen = record.file["chosen"][:record.offsets[-1], layer]
    ids, index = np.unique(token, return_inverse=True)
    counts = np.zeros((len(ids), record.experts))
    made = chosen >= 0
    np.add.at(counts, (np.broadcast_to(index[:, None], chosen.shape)[made], chosen[made]), 1)
    return ids, counts


def entropy(p):
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


def information(counts):
    """Mutual information of task and expert: nats, the task's entropy, and what chance alone would give."""
    total = counts.sum()
    p = counts / total
    nats = entropy(p.sum(axis=1)) + entropy(p.sum(axis=0)) - entropy(p.ravel())
    used = (counts.sum(axis=1) > 0).sum() - 1, (counts.sum(axis=0) > 0).sum() - 1
    return max(0.0, nats), entropy(p.sum(axis=1)), used[0] * used[1] / (2 * total)


def information_figure(record, found):
    figure, ax = figures.axes("What the chosen expert tells of the task",
                              "share of the task's entropy")
    shares = [nats / task if task > 0 else 0.0 for nats, task, _ in found]
    ax.bar(range(len(found)), shares, color=figures.RUN_COLOURS[0])
    ax.set_xticks(range(len(found)), [str(layer) for layer in record.layers])
    ax.set_xlabel("layer")
    ax.yaxis.set_major_formatter(figures.PercentFormatter(1.0))
    return figure


def share_figure(record, by_task, layer):
    """Which experts each task chooses at a layer."""
    used = [i for i in range(len(record.tasks)) if by_task[layer, i].sum() > 0]
    share = by_task[layer, used] / by_task[layer, used].sum(axis=1, keepdims=True)
    figure, ax = figures.plt.subplots(figsize=(8, 1.2 + 0.4 * len(used)))
    image = ax.imshow(share, aspect="auto", cmap="viridis", vmin=0, interpolation="nearest")
    ax.set_title(f"Experts that each task chooses, layer {record.layers[layer]}", loc="left",
                 fontweight="bold")
    ax.set_yticks(range(len(used)), [record.tasks[i] for i in used])
    ax.set_xlabel("expert")
    ax.xaxis.set_major_locator(figures.MaxNLocator(integer=True))
    ax.grid(False)
    figure.colorbar(image, ax=ax, format=figures.PercentFormatter(1.0))
    return figure


def colour(expert):
    """Light enough for black text; neighbours differ."""
    return f"hsl({expert * 137.508 % 360:.0f} 75% {(82, 72, 88)[expert % 3]}%)"


def shown(pieces, ids):
    """Text of tokens. A character that is cut between tokens shows at its first one."""
    if pieces is None:
        return [f"{token} " for token in ids]
    texts, pending = [], b""
    for token in ids:
        pending += pieces[token] if token < len(pieces) else f"⟨{token}⟩".encode()
        try:
            texts.append(pending.decode("utf-8"))
            pending = b""
        except UnicodeDecodeError as error:
            whole = error.reason != "unexpected end of data"
            texts.append(pending.decode("utf-8", "replace") if whole else "")
            pending = b"" if whole else pending
    return texts


def longest_pieces(record, number):
    """The longest piece of one document in a step, for each task: task -> slice of its rows."""
    document, task, corpus, position = (record.rows(f"tokens/{name}", number)
                                        for name in ("document", "task", "corpus", "position"))
    ends = np.flatnonzero((np.diff(document) != 0) | (np.diff(corpus.astype(int)) != 0)
                          | (np.diff(position) != 1)) + 1
    longest = {}
    for begin, end in zip(np.append(0, ends), np.append(ends, len(document))):
        name = record.tasks[task[begin]]
        if name not in longest or end - begin > longest[name].stop - longest[name].start:
            longest[name] = slice(int(begin), int(end))
    return longest


def passages(record):
    """(task, number of the step, slice of its rows): for each task in the last step that has it."""
    found = {}
    for number in range(len(record.steps)):
        for name, rows in longest_pieces(record, number).items():
            found[name] = number, slice(rows.start, min(rows.stop, rows.start + PASSAGE))
    return [(name, *found[name]) for name in sorted(found)]


def passage(record, number, rows, layer, pieces):
    """A passage in HTML: each token coloured by the expert that its best choice ended at."""
    first = record.offsets[number]
    block = slice(first + rows.start, first + rows.stop)
    chosen, weight, fate, target = (record.file[name][block, layer]
                                    for name in ("chosen", "weight", "fate", "target"))
    texts = shown(pieces, record.file["tokens/token"][block])
    spans = []
    for i, text in enumerate(texts):
        made = range(int((chosen[i] >= 0).sum()))
        tip = "; ".join(f"expert {chosen[i][k]}, weight {weight[i][k]:.3f}"
                        + (f", {FATES[fate[i][k]]}" if fate[i][k] else "")
                        + (f": {target[i][k]}" if fate[i][k] in (NEXT, SPARE) else "") for k in made)
        lost = fate[i][0] == DROPPED
        style = "class=lost" if lost else f'style="background:{colour(int(target[i][0]))}"'
        spans.append(f'<span {style} title="{html.escape(tip)}">{html.escape(text)}</span>')
    return "<div class=passage>" + "".join(spans) + "</div>"


def characteristic(ids, counts, pieces):
    """For each expert: its share of choices and the tokens that it takes most beyond that share."""
    share = counts.sum(axis=0) / counts.sum()
    seen = counts.sum(axis=1, keepdims=True)
    lift = (counts + PRIOR * share) / (seen + PRIOR) / np.maximum(share, 1e-12)
    rows = []
    for expert in np.flatnonzero(share > 0):
        best = [i for i in np.argsort(-lift[:, expert])[:LISTED] if lift[i, expert] > 1]
        words = "".join(
            f"<code>{html.escape(repr(shown(pieces, [ids[i]])[0]) if pieces else str(ids[i]))}</code>"
            f"<span class=note>{lift[i, expert]:.1f} ({int(counts[i, expert])})</span> " for i in best)
        rows.append(f'<tr><td style="background:{colour(int(expert))}">{expert}</td>'
                    f"<td class=number>{share[expert]:.1%}</td><td>{words}</td></tr>")
    return ("<table><tr><th>expert</th><th>choices</th><th>tokens: lift (choices)</th></tr>"
            + "\n".join(rows) + "</table>")


def page(record, layer, pieces, verdict, folder):
    by_task = joint(record)
    found = [information(counts) for counts in by_task]
    name = f"layer {record.layers[layer]}"
    rows = [[record.layers[i], f"{nats:.4f}", f"{nats / task if task else 0:.2%}", f"{chance:.1e}"]
            for i, (nats, task, chance) in enumerate(found)]
    parts = [f"<h1>moesaic: routing of {html.escape(record.path.resolve().parent.name)}</h1>",
             f"<p class=note>{html.escape(str(record.path))}: {len(record.steps)} steps, "
             f"{int(record.offsets[-1]):,} tokens. {html.escape(verdict)}</p>",
             f"<h2>Passages, {name}</h2>",
             "<p>Each token has the colour of the expert that computed its best choice; a token "
             "whose best choice was dropped is struck out. Hover for all choices.</p>",
             "<p class=key>" + "".join(f'<span style="background:{colour(e)}">{e}</span>'
                                       for e in np.flatnonzero(by_task[layer].sum(axis=0))) + "</p>"]
    for task, number, block in passages(record):
        parts += [f"<h3>{html.escape(task)}, step {record.steps[number]}</h3>",
                  passage(record, number, block, layer, pieces)]
    parts += [f"<h2>Characteristic tokens, {name}</h2>",
              "<p>Lift: how much likelier the expert is for the token than for any; "
              f"a token counts as if it had {PRIOR} more choices, spread as all are.</p>",
              characteristic(*by_token(record, layer), pieces),
              "<h2>Tasks and experts</h2>",
              f"<p>Mutual information of a token's task and a chosen expert; the task's entropy is "
              f"{found[0][1]:.4f} nat. Independent draws would show about the last column.</p>",
              table(["layer", "nats", "share", "by chance"], rows, first_is_text=0),
              embed(folder, "information", information_figure(record, found)),
              embed(folder, "tasks", share_figure(record, by_task, layer))]
    return ('<!doctype html><html lang="en"><meta charset="utf-8"><title>moesaic: routing</title>'
            f"<style>{STYLE}{MORE_STYLE}</style>" + "\n".join(parts) + "</html>\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", metavar="RECORD")
    parser.add_argument("--trace", metavar="TRACE")
    parser.add_argument("--corpus", metavar="MANIFEST")
    parser.add_argument("--layer", type=int, metavar="N")
    parser.add_argument("-o", dest="folder", required=True, type=Path, metavar="DIR")
    options = parser.parse_args()
    record = Record(options.record)
    layer = record.layers[len(record.layers) // 2] if options.layer is None else options.layer
    if layer not in record.layers:
        fail(64, f"--layer {layer}: the layers with experts are {record.layers}")
    verdict = "Not compared with a trace."
    if options.trace:
        steps, numbers = compare(record, read_trace(options.trace))
        verdict = f"All {numbers:,} counts of {steps} steps are those of the trace."
        print(verdict)
    pieces = pieces_of(options.corpus) if options.corpus else None
    options.folder.mkdir(parents=True, exist_ok=True)
    write_page(options.folder,
               page(record, record.layers.index(layer), pieces, verdict, options.folder))


if __name__ == "__main__":
    main()
