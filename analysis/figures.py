"""The figures of a report: each takes traces and returns a matplotlib figure, or None if the
traces do not hold what it shows."""
from needs import need

need("numpy", "matplotlib")

import numpy as np  # noqa: E402
from matplotlib.colors import TwoSlopeNorm, to_rgb  # noqa: E402
from matplotlib.ticker import MaxNLocator, PercentFormatter  # noqa: E402

from drawing import (axes, bins, cut_off, plot_curve, plot_evaluations, plt, RUN_COLOURS, run_label, smooth)  # noqa: E402

PHASE_COLOURS = {"data": "#999999", "forward": "#56b4e9", "router": "#8c510a", "dispatch": "#e69f00",
                 "experts": "#0072b2", "combine": "#f0c060", "backward": "#009e73",
                 "grad_reduce": "#d55e00", "optimizer": "#cc79a7", "checkpoint": "#6a3d9a",
                 "eval": "#b2df8a", "other": "#dddddd"}
MOST_PIXELS = 200   # of a heat map, which would leave out what it has no pixel for


def curves(traces, name, title, ylabel, log=False):
    """One line for each trace of a [step] array."""
    having = [(trace, colour) for trace, colour in zip(traces, RUN_COLOURS * len(traces))
              if trace.get(name) is not None and np.any(trace.get(name) != 0)]
    if not having:
        return None
    figure, ax = axes(title, ylabel)
    for trace, colour in having:
        plot_curve(ax, trace.steps, trace.get(name), colour, trace.name)
    if log:
        ax.set_yscale("log")
    if len(traces) > 1:
        ax.legend()
    return figure


def learning_rate(traces):
    """As it was: it is a function of the step, and a sudden change of it is no outlier."""
    having = [(trace, colour) for trace, colour in zip(traces, RUN_COLOURS * len(traces))
              if trace.get("lr") is not None and trace.get("lr").any()]
    if not having:
        return None
    figure, ax = axes("Learning rate", "learning rate")
    for trace, colour in having:
        ax.plot(trace.steps, trace.get("lr"), color=colour, label=trace.name, linewidth=1.6,
                marker="o" if len(trace.steps) < 3 else None)
    if len(traces) > 1:
        ax.legend()
    return figure


def loss(traces):
    """Training loss with and without the auxiliary terms, and the evaluations as points."""
    figure, ax = axes("Loss", "loss (nat per token)", (8, 4.4))
    for trace, colour in zip(traces, RUN_COLOURS * len(traces)):
        lm_loss = trace.get("lm_loss")
        total = trace.get("loss")
        if lm_loss is not None:
            plot_curve(ax, trace.steps, lm_loss, colour, run_label(traces, trace, "language model"))
        if total is not None and (lm_loss is None or not np.allclose(total, lm_loss)):
            ax.plot(trace.steps, smooth(total, 2 * (len(total) // 100) + 1), color=colour,
                    linestyle=":", label=run_label(traces, trace, "with auxiliary losses"))
        if trace.get("eval/loss") is not None:
            dark = tuple(0.4 * part for part in to_rgb(colour))  # it may cross the other curves
            plot_evaluations(ax, trace.get("eval/step"), trace.get("eval/loss"), dark,
                             run_label(traces, trace, "held-out"), "--")
    ax.legend()
    return figure


def bits_per_byte(traces):
    having = [(trace, colour) for trace, colour in zip(traces, RUN_COLOURS * len(traces))
              if trace.get("eval/bits_per_byte") is not None]
    if not having:
        return None
    figure, ax = axes("Held-out text", "bits per byte")
    for trace, colour in having:
        values = trace.get("eval/bits_per_byte")
        plot_evaluations(ax, trace.get("eval/step"), values, colour, trace.name)
        ax.annotate(f"{values[-1]:.3f}", (trace.get("eval/step")[-1], values[-1]),
                    textcoords="offset points", xytext=(0, 8), ha="center", color=colour)
    ax.margins(y=0.15)
    if len(traces) > 1:
        ax.legend()
    return figure


def eval_by(trace, axis, names):
    """Held-out loss of each task or corpus."""
    values = trace.get(f"eval/loss_by_{axis}")
    if values is None or values.ndim != 2:
        return None
    shown = [i for i in range(values.shape[1]) if np.isfinite(values[:, i]).any()]
    if len(shown) < 2:
        return None
    figure, ax = axes(f"Held-out loss by {axis}", "loss (nat per token)")
    for i in shown:
        plot_evaluations(ax, trace.get("eval/step"), values[:, i], RUN_COLOURS[i % len(RUN_COLOURS)],
                         names[i])
    ax.legend()
    return figure


def throughput(traces):
    for trace in traces:
        tokens, seconds = trace.get("tokens"), trace.get("seconds")
        if tokens is not None and seconds is not None:
            trace.arrays["tokens_per_second"] = tokens / np.where(seconds > 0, seconds, np.nan)
    figure = curves(traces, "tokens_per_second", "Throughput", "tokens per second (all ranks)")
    if figure:
        figure.axes[0].set_ylim(bottom=0)
    return figure


def phases(trace):
    """Seconds of each step by phase, as the slowest rank saw it."""
    time = trace.get("time")
    if time is None:
        return None
    whole = time.sum(axis=1)
    steps, time = bins(trace.steps, time)
    figure, ax = axes("Time per step by phase (slowest rank)", "seconds per step", (8, 4.2))
    order = [i for i, name in enumerate(trace.phases) if time[:, i].sum() > 0]
    colours = [PHASE_COLOURS.get(trace.phases[i], "#444444") for i in order]
    share = time.sum(axis=0) / max(time.sum(), 1e-12)
    labels = [f"{trace.phases[i]}  {100 * share[i]:.1f} %" for i in order]
    if len(steps) > 2:
        ax.stackplot(steps, time[:, order].T, colors=colours, labels=labels, linewidth=0, step="mid")
    else:
        bottom = np.zeros(len(steps))
        for i, colour, label in zip(order, colours, labels):
            ax.bar(steps, time[:, i], bottom=bottom, color=colour, label=label, width=0.6)
            bottom += time[:, i]
    # A checkpoint or an evaluation takes many times a step: let it be cut off.
    top = np.percentile(whole, 95)
    if top > 0:
        cut_off(ax, trace.steps, whole, 1.25 * top)
    handles, names = ax.get_legend_handles_labels()
    ax.legend(handles[::-1], names[::-1], loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def grid_of_layers(trace, width, height):
    """One panel for each MoE layer, three in a row."""
    count = len(trace.layers)
    columns = min(3, count)
    rows = -(-count // columns)
    width = max(width, 6.0 / columns)
    figure, panels = plt.subplots(rows, columns, squeeze=False, layout="constrained",
                                  figsize=(width * columns, height * rows + 0.6))
    for ax in panels.flat[count:]:
        ax.axis("off")
    for ax, layer in zip(panels.flat, trace.layers):
        ax.set_title(f"layer {layer}", fontsize=10)
        ax.grid(False)
    return figure, list(panels.flat[:count])


def colour_bar(figure, image, panels, label):
    """One for all panels, no taller than three rows of them."""
    rows = -(-len(panels) // 3)
    return figure.colorbar(image, ax=panels, label=label, shrink=min(1.0, 3 / rows), anchor=(0, 1))


def expert_load(trace):
    """Heat map per layer: tokens that chose an expert over the mean of the regular experts. Where an
    expert is absent, spare or retired it stays white."""
    tokens = trace.get("expert_tokens")
    if tokens is None:
        return None
    tokens = bins(trace.steps, tokens, MOST_PIXELS)[1]
    state = trace.get("expert_state")
    regular = np.ones_like(tokens) if state is None else bins(trace.steps, state == 1, MOST_PIXELS)[1]
    mean = tokens.sum(axis=-1, keepdims=True) / np.maximum(regular.sum(axis=-1, keepdims=True), 1)
    load = np.where(regular > 0, tokens / np.where(mean > 0, mean, 1), np.nan)
    norm = TwoSlopeNorm(vmin=0, vcenter=1, vmax=max(2.0, float(np.nanpercentile(load, 99.5))))
    figure, panels = grid_of_layers(trace, 3.6, 2.5)
    for i, ax in enumerate(panels):
        image = ax.imshow(load[:, i].T, aspect="auto", origin="lower", norm=norm,
                          cmap="RdBu_r", interpolation="nearest",
                          extent=(trace.steps[0] - 0.5, trace.steps[-1] + 0.5,
                                  -0.5, load.shape[2] - 0.5))
        ax.set_xlabel("step")
        ax.set_ylabel("expert")
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    colour_bar(figure, image, panels, "load / mean load (1 = balanced)")
    figure.suptitle("Expert load: choices before capacity", fontweight="bold")
    return figure


def layer_curves(trace, name, title, ylabel, values=None):
    """One line for each MoE layer of a [step, layer] array."""
    values = trace.get(name) if values is None else values
    if values is None or not trace.layers:
        return None
    figure, ax = axes(title, ylabel)
    shades = plt.cm.viridis(np.linspace(0, 0.85, len(trace.layers)))
    for i, (layer, colour) in enumerate(zip(trace.layers, shades)):
        plot_curve(ax, trace.steps, values[:, i].astype(float), colour, f"layer {layer}")
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), ncols=1 + len(trace.layers) // 16)
    return figure


def share_of_choices(trace, name, title):
    """Share of the choices that no slot was left for: dropped, or rerouted."""
    lost, chosen = trace.get(f"expert_{name}"), trace.get("expert_tokens")
    if lost is None or chosen is None or not lost.any():
        return None
    share = lost.sum(axis=-1) / np.maximum(chosen.sum(axis=-1), 1)
    figure = layer_curves(trace, "", title, "share of choices", share)
    figure.axes[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.axes[0].set_ylim(bottom=0)
    return figure


def experts_per_token(trace):
    """How many experts the tokens of each task take, over the second half of the steps."""
    counts = trace.get("task_choice_tokens")
    if counts is None:
        return None
    counts = counts[len(counts) // 2:].sum(axis=(0, 1)).astype(float)  # task, choices
    used = [i for i in range(len(counts)) if counts[i].sum() > 0]
    if not used or counts[:, :-1].sum() == 0:
        return None  # all tokens take as many
    figure, ax = axes("Experts that a token takes (mean of layers)", "share of tokens")
    width = 0.8 / len(used)
    for place, task in enumerate(used):
        share = counts[task] / counts[task].sum()
        taken = np.arange(1, len(share) + 1)
        mean = (share * taken).sum()
        ax.bar(taken + (place - (len(used) - 1) / 2) * width, share, width,
               color=RUN_COLOURS[place % 7], label=f"{trace.tasks[task]} (mean {mean:.2f})")
    ax.set_xlabel("experts")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def tasks_and_experts(trace):
    """Which experts each task uses: its share of choices, over the second half of the steps."""
    counts = trace.get("task_expert_tokens")
    if counts is None:
        return None
    counts = counts[len(counts) // 2:].sum(axis=0).astype(float)  # layer, task, expert
    used = [i for i in range(counts.shape[1]) if counts[:, i].sum() > 0]
    if not used:
        return None
    share = counts[:, used] / np.maximum(counts[:, used].sum(axis=-1, keepdims=True), 1)
    state = trace.get("expert_state")
    regular = share.shape[-1] if state is None else int((state[-1] == 1).sum(axis=-1).max())
    top = max(np.percentile(share, 99), 2 / regular)
    figure, panels = grid_of_layers(trace, 4.2, 0.8 + 0.32 * len(used))
    for i, ax in enumerate(panels):
        image = ax.imshow(share[i], aspect="auto", cmap="viridis", vmin=0, vmax=top,
                          interpolation="nearest")
        ax.set_yticks(range(len(used)), [trace.tasks[j] for j in used])
        ax.set_xlabel("expert")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    bar = colour_bar(figure, image, panels, f"share (even: {1 / regular:.1%})")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.suptitle("Experts used by each task", fontweight="bold")
    return figure


def rank_seconds(trace):
    """Seconds that each rank worked (not waited), and where the slowest stands."""
    values = trace.get("rank_seconds")
    if values is None:
        return None
    figure, ax = axes("Working time of each rank (waiting left out)", "seconds per step")
    ranks, longest = values.shape[1], np.nanmax(values, axis=1)
    if ranks <= 8:
        for rank in range(ranks):
            plot_curve(ax, trace.steps, values[:, rank], RUN_COLOURS[rank % 7], f"rank {rank}")
    else:
        steps, values = bins(trace.steps, values)
        low, mid, high = np.nanpercentile(values, [0, 50, 100], axis=1)
        ax.fill_between(steps, low, high, alpha=0.3, color=RUN_COLOURS[0],
                        label=f"fastest to slowest of {ranks} ranks")
        ax.plot(steps, mid, color=RUN_COLOURS[0], label="median rank")
    top = np.nanpercentile(values, 98)
    if top > 0:
        cut_off(ax, trace.steps, longest, 1.3 * top)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


GROUPS = {"tp": "rows of layers (tp)", "experts": "rows to experts", "pp": "rows to stages (pp)",
          "dp": "expert gradients (dp x cp)", "replicas": "gradients (dp x cp x ep)",
          "stage": "gates, split norms (tp x dp x cp x ep)", "ends": "tied table", "kv": "key and value heads",
          "cp": "keys and values (cp)"}


def traffic(trace):
    """Bytes that all ranks sent in each group of ranks."""
    values, groups = trace.get("traffic"), trace.groups
    if values is None or not groups or not values.any():
        return None
    figure, ax = axes("Tensors sent, by group of ranks (sum over ranks)", "MiB per step")
    for i in np.flatnonzero(values.any(axis=0)):
        plot_curve(ax, trace.steps, values[:, i] / 2**20, RUN_COLOURS[i % len(RUN_COLOURS)],
                   GROUPS.get(groups[i], groups[i]), exact=True)
    ax.set_ylim(bottom=0)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def bubble(trace):
    """Share of each step in which stages wait for each other, beside the formula's."""
    values = trace.get("bubble")
    ideal = float(trace.attributes.get("ideal_bubble", 0))
    if values is None or ideal <= 0:
        return None
    figure, ax = axes("Waiting for other pipeline stages (mean over ranks)", "share of the step")
    plot_curve(ax, trace.steps, values, RUN_COLOURS[0], "measured")
    ax.axhline(ideal, color="black", linestyle="--", linewidth=1,
               label=f"(p - 1) / (v m + p - 1) = {ideal:.1%}")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_ylim(bottom=0)
    ax.legend()
    return figure
