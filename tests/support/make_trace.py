#!/usr/bin/env python3
"""Writes a made-up trace with the schema of trace.h5, to try the scripts of analysis/ on.

usage: make_trace.py FILE [--steps N] [--layers N] [--experts N] [--tasks a,b] [--ranks N]
                          [--no-eval] [--score] [--dropping] [--threshold] [--seed N]
"""
import argparse

import h5py
import numpy as np

PHASES = ["data", "forward", "router", "dispatch", "experts", "combine", "backward", "grad_reduce",
          "optimizer", "checkpoint", "eval", "other"]
SHARE = np.array([0.01, 0.20, 0.02, 0.05, 0.16, 0.04, 0.40, 0.05, 0.06, 0.0, 0.0, 0.03])
UNITS = {"loss": "nat", "lm_loss": "nat", "gate_entropy": "nat", "aux_loss": "1", "z_loss": "1",
         "grad_norm": "1", "lr": "1", "tokens": "token", "targets": "token", "seconds": "s",
         "unix_time": "s", "peak_memory": "byte", "load_max_over_mean": "1", "utilisation": "1",
         "time": "s", "time_mean": "s", "rank_seconds": "s", "expert_state": "1",
         "step": "1", "layer": "1", "expert": "1", "rank": "1", "choice": "1"}


def losses(options, rng):
    steps = np.arange(1, options.steps + 1)
    lm_loss = 2.2 + 6.1 * np.exp(-steps / (0.2 * options.steps + 1)) \
        + 0.06 * rng.standard_normal(options.steps)
    zero = np.zeros(options.steps)
    warmup = np.minimum(1, steps / max(1, options.steps // 10))
    cosine = 2e-4 + 0.9e-3 * (1 + np.cos(np.pi * steps / options.steps))
    return {"step": steps.astype("i8"), "lm_loss": lm_loss,
            "loss": lm_loss + (0 if options.score else 0.04),
            "grad_norm": zero if options.score else 0.4 + rng.gamma(4, 0.1, options.steps),
            "lr": zero if options.score else warmup * cosine}


def routing(options, rng, tokens, tasks):
    """Counts that obey the trace's conservation laws: choices of each task over the experts."""
    steps, layers, experts = options.steps, options.layers, options.experts
    wish = rng.standard_normal((layers, tasks, experts))
    counts = np.zeros((steps, layers, tasks, experts), dtype="i8")
    task_tokens = np.stack([rng.multinomial(tokens, np.full(tasks, 1 / tasks))
                            for _ in range(steps)])
    for step in range(steps):
        # The load evens out with training, the tasks' preferences grow.
        sharp = 0.3 + 0.9 * step / steps
        for layer in range(layers):
            for task in range(tasks):
                score = np.exp(sharp * wish[layer, task])
                score /= score.sum() / (1 - 0.2)
                counts[step, layer, task] = rng.multinomial(
                    task_tokens[step, task] * 2, score / score.sum())
    chosen = counts.sum(axis=2)
    slots = int(tokens * 2 / experts * 1.25)
    dropped = np.maximum(0, chosen - slots) if options.dropping else np.zeros_like(chosen)
    processed = chosen - dropped
    mean = np.maximum(chosen.mean(axis=-1), 1e-9)
    full = np.full_like(chosen, slots) if options.dropping \
        else np.repeat(chosen.max(axis=-1, keepdims=True), experts, axis=-1)
    # Tokens that chose one expert, and two; a threshold lets some stop at one.
    made = counts.sum(axis=-1)
    choices = np.stack([made % 3 if options.threshold else 0 * made, made // 2], axis=-1)
    return {"task_tokens": task_tokens, "task_expert_tokens": counts, "task_choice_tokens": choices, "expert_tokens": chosen,
            "expert_dropped": dropped, "expert_rerouted": np.zeros_like(chosen),
            "expert_processed": processed, "expert_slots": full,
            "expert_state": np.ones_like(chosen),
            "load_max_over_mean": chosen.max(axis=-1) / mean,
            "utilisation": processed.sum(axis=-1) / full.sum(axis=-1),
            "aux_loss": 1 + rng.gamma(2, 0.02, (steps, layers)),
            "z_loss": rng.gamma(4, 0.5, (steps, layers)),
            "gate_entropy": np.log(experts) * (0.95 - 0.3 * np.arange(steps)[:, None] / steps)
            + 0.01 * rng.standard_normal((steps, layers))}


def times(options, rng, tokens):
    share = SHARE * (np.array(["back" not in p and "grad" not in p and "opt" not in p
                               for p in PHASES]) if options.score else 1)
    spent = 0.5 * share * rng.gamma(200, 1 / 200, (options.steps, len(PHASES)))
    spent[9::10, PHASES.index("checkpoint")] = 0.2
    seconds = spent.sum(axis=1)
    ranks = seconds[:, None] * (0.97 - 0.06 * rng.random((options.steps, options.ranks)))
    return {"time": spent, "time_mean": 0.97 * spent, "seconds": seconds, "rank_seconds": ranks,
            "unix_time": 1.8e9 + np.cumsum(seconds),
            "tokens": np.full(options.steps, tokens), "targets": np.full(options.steps, tokens - 9),
            "peak_memory": np.full(options.steps, 812_345_678)}


def write(options, arrays, tasks):
    text = h5py.string_dtype()
    with h5py.File(options.file, "w") as file:
        file.attrs.update({
            "schema": "moesaic-trace", "version": 1, "Conventions": "CF-1.8",
            "job": "score" if options.score else "train", "git": "0123abc", "top_k": 2,
            "config": "[model]\nlayers = 3\n", "layout": f"tp=1 pp=1 ep={options.ranks} dp=1",
            "world_size": options.ranks})
        lists = {"layer": np.arange(options.layers, dtype="i4"),
                 "expert": np.arange(options.experts, dtype="i4"),
                 "choice": np.arange(1, 3, dtype="i4"),
                 "rank": np.arange(options.ranks, dtype="i4")}
        for name, values in lists.items():
            file.create_dataset(name, data=values)
        for name, values in (("phase", PHASES), ("task", tasks), ("corpus", ["web", "books"])):
            file.create_dataset(name, data=values, dtype=text)
        file["layer"].attrs["layer_index"] = np.arange(1, options.layers + 1)
        for name, values in arrays.items():
            file.create_dataset(name, data=values, chunks=True,
                                maxshape=(None,) + np.shape(values)[1:])
        write_eval(options, file, arrays, len(tasks))
        events = [(10, "checkpoint", "step-00000010"), (17, "restart", "resumed from step 10")]
        for part, column in zip(("step", "kind", "message"), zip(*events)):
            file.create_dataset(f"events/{part}", data=column,
                                dtype="i8" if part == "step" else text)
        add_scales(file)


def write_eval(options, file, arrays, tasks):
    rows = np.arange(0 if options.no_eval or options.score else options.steps)[24::25]
    loss = arrays["lm_loss"][rows] + 0.1
    file.create_dataset("eval/step", data=arrays["step"][rows])
    file.create_dataset("eval/loss", data=loss)
    file.create_dataset("eval/bits_per_byte", data=loss / np.log(2) / 3.1)
    spread = np.linspace(-0.3, 0.3, tasks)
    file.create_dataset("eval/loss_by_task", data=loss[:, None] + spread)
    file.create_dataset("eval/loss_by_corpus", data=np.stack([loss - 0.1, loss + 0.1], axis=1))


def add_scales(file):
    axes = {"task_expert_tokens": "step layer task expert",
            "task_choice_tokens": "step layer task choice", "task_tokens": "step task",
            "time": "step phase", "time_mean": "step phase", "rank_seconds": "step rank",
            "eval/loss_by_task": "eval/step task", "eval/loss_by_corpus": "eval/step corpus",
            "eval/loss": "eval/step", "eval/bits_per_byte": "eval/step"}
    for name in ("step", "layer", "expert", "choice", "phase", "task", "corpus", "rank", "eval/step"):
        file[name].make_scale(name.replace("/", "_"))
    for name, item in list(file.items()) + [(f"eval/{n}", d) for n, d in file["eval"].items()]:
        if not isinstance(item, h5py.Dataset) or h5py.h5ds.is_scale(item.id):
            continue
        dims = axes.get(name, " ".join(("step", "layer", "expert")[:item.ndim])).split()
        for axis, scale in enumerate(dims):
            item.dims[axis].attach_scale(file[scale])
        item.attrs["long_name"] = name.split("/")[-1].replace("_", " ")
        item.attrs["units"] = UNITS.get(name, "nat" if "eval" in name else "token")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file")
    for name, value in (("steps", 200), ("layers", 3), ("experts", 16), ("ranks", 4), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--tasks", default="none,prose,code,docs")
    for flag in ("no-eval", "score", "dropping", "threshold"):
        parser.add_argument(f"--{flag}", action="store_true")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    tasks, tokens = options.tasks.split(","), 4096
    write(options, losses(options, rng) | routing(options, rng, tokens, len(tasks))
          | times(options, rng, tokens), tasks)


if __name__ == "__main__":
    main()
