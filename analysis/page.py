"""The page of a report: figures and numbers of traces in one file of HTML."""
import base64
import html
import io
import os

from needs import need

need("numpy", "matplotlib")

import numpy as np  # noqa: E402

import figures  # noqa: E402
from traces import last_part  # noqa: E402

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1150px; margin: 2em auto;
       padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { border-bottom: 1px solid #ccc; margin-top: 2em; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: .25em .9em; border-bottom: 1px solid #e4e4e4; text-align: left;
         vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; display: block; margin: 1.2em 0; }
pre { background: #f6f6f6; padding: 1em; overflow-x: auto; } .note { color: #666; }
"""
MOST_EVENTS = 50


def mean_or_dash(values, form):
    if values is None or not np.isfinite(last_part(values)).any():
        return "-"
    return form.format(np.nanmean(last_part(values)))


def summary(trace):
    """The rows of the comparison: name and unit -> text."""
    seconds, rate = trace.get("seconds"), trace.get("tokens_per_second")
    lost, chosen = trace.get("expert_dropped"), trace.get("expert_tokens")
    memory, evals = trace.get("peak_memory"), trace.get("eval/loss")
    bits, tokens = trace.get("eval/bits_per_byte"), trace.get("tokens")
    lost_share = None if lost is None or chosen is None else lost.sum() / max(1, chosen.sum())
    return {
        "last step": f"{trace.steps[-1]}",
        "steps recorded": f"{len(trace.steps)}",
        "tokens in them": "-" if tokens is None else f"{int(tokens.sum()):,}",
        "language-model loss, last tenth (nat)": mean_or_dash(trace.get("lm_loss"), "{:.4f}"),
        "held-out loss, last (nat)": "-" if evals is None else f"{evals[-1]:.4f}",
        "held-out bits per byte, last": "-" if bits is None else f"{bits[-1]:.4f}",
        "median tokens/s": "-" if rate is None else f"{np.nanmedian(rate):,.0f}",
        "median seconds per step": "-" if seconds is None else f"{np.median(seconds):.4g}",
        "slot utilisation, last tenth": mean_or_dash(trace.get("utilisation"), "{:.1%}"),
        "max / mean expert load, last tenth":
            mean_or_dash(trace.get("load_max_over_mean"), "{:.2f}"),
        "dropped choices, all steps": "-" if lost_share is None else f"{lost_share:.2%}",
        "peak memory of a rank (MiB)": "-" if memory is None else f"{memory.max() / 2**20:,.0f}",
    }


def overlaid(traces):
    """(file name, figure) of what is compared in one figure."""
    return [("loss", figures.loss(traces)),
            ("bits_per_byte", figures.bits_per_byte(traces)),
            ("throughput", figures.throughput(traces)),
            ("learning_rate", figures.learning_rate(traces)),
            ("gradient_norm", figures.curves(traces, "grad_norm", "Gradient norm before clipping",
                                             "L2 norm", log=True))]


def single(trace):
    """(file name, figure) of one trace."""
    found = [("phases", figures.phases(trace)), ("rank_seconds", figures.rank_seconds(trace)),
             ("traffic", figures.traffic(trace)), ("bubble", figures.bubble(trace)),
             ("eval_by_task", figures.eval_by(trace, "task", trace.tasks)),
             ("eval_by_corpus", figures.eval_by(trace, "corpus", trace.corpora))]
    if trace.layers:
        found += [
            ("expert_load", figures.expert_load(trace)),
            ("load_max_over_mean", figures.layer_curves(
                trace, "load_max_over_mean", "Busiest expert", "max load / mean load")),
            ("utilisation", figures.layer_curves(
                trace, "utilisation", "Slot utilisation", "filled slots / slots")),
            ("dropped", figures.share_of_choices(trace, "dropped", "Dropped choices")),
            ("rerouted", figures.share_of_choices(
                trace, "rerouted", "Rerouted choices")),
            ("experts_per_token", figures.experts_per_token(trace)),
            ("tasks_and_experts", figures.tasks_and_experts(trace)),
            ("gate_entropy", figures.layer_curves(
                trace, "gate_entropy", "Router entropy", "entropy (nat, mean over tokens)"))]
    return found


def embed(folder, name, figure):
    """Writes the PNG beside the page too, and returns the tag that holds it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    figures.plt.close(figure)
    (folder / f"{name}.png").write_bytes(buffer.getvalue())
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="{html.escape(name)}" src="data:image/png;base64,{data}">'


def table(head, rows, first_is_text=1):
    cells = "".join(f"<th>{html.escape(str(cell))}</th>" for cell in head)
    lines = [f"<tr>{cells}</tr>"] if head else []
    for row in rows:
        cells = "".join(f"<td{' class=number' if i >= first_is_text else ''}>"
                        f"{html.escape(str(cell))}</td>" for i, cell in enumerate(row))
        lines.append(f"<tr>{cells}</tr>")
    return "<table>" + "\n".join(lines) + "</table>"


def facts(trace):
    """What the run said about itself at its start; long texts (the config) are folded away."""
    keys = {key: value for key, value in trace.attributes.items() if "." in key}
    short = {key: value for key, value in trace.attributes.items()
             if key not in keys and "\n" not in value and len(value) < 160}
    parts = [table([], sorted(short.items()), first_is_text=9)]
    if keys:
        parts.append("<details><summary>all keys</summary>"
                     + table([], sorted(keys.items()), first_is_text=9) + "</details>")
    for key in sorted(set(trace.attributes) - set(short) - set(keys)):
        parts.append(f"<details><summary>{html.escape(key)}</summary>"
                     f"<pre>{html.escape(trace.attributes[key])}</pre></details>")
    return "\n".join(parts)


def unmeasured(trace):
    """One line where steps had nothing to predict."""
    empty = sum(kind == "no_targets" for _, kind, _ in trace.events)
    return f"<p><b>Steps without a target: {empty}. Their loss of 0 is no measure.</b></p>" if empty else ""


def missing(trace):
    """One line of what the page cannot show, with the reason."""
    notes = []
    if not trace.layers:
        notes.append("no mixture-of-experts layer")
    if trace.get("eval/loss") is None:
        notes.append("no evaluation")
    lost = trace.get("expert_dropped")
    if lost is not None and not lost.any():
        notes.append("no token was dropped")
    return f"<p class=note>Not drawn for this trace: {', '.join(notes)}.</p>" if notes else ""


def page(traces, folder):
    together = [(name, figure) for name, figure in overlaid(traces) if figure]
    summaries = [summary(trace) for trace in traces]
    rows = [[key] + [one[key] for one in summaries] for key in summaries[0]]
    names = ", ".join(trace.name for trace in traces)
    parts = [f"<h1>moesaic: {html.escape(names)}</h1>",
             table([""] + [trace.name for trace in traces], rows)]
    parts += [embed(folder, name, figure) for name, figure in together]
    for number, trace in enumerate(traces):
        prefix = f"{number + 1}_" if len(traces) > 1 else ""
        parts.append(f"<h2>{html.escape(trace.name)}</h2>")
        parts.append(f"<p class=note>{html.escape(str(trace.path))}</p>")
        parts.append(unmeasured(trace))
        parts += [embed(folder, prefix + name, figure) for name, figure in single(trace) if figure]
        parts.append(missing(trace))
        if trace.events:
            shown = trace.events[-MOST_EVENTS:]
            parts.append(f"<h3>Events (the last {len(shown)} of {len(trace.events)})</h3>")
            parts.append(table(["step", "kind", "message"], shown, first_is_text=9))
        parts.append("<h3>The run</h3>" + facts(trace))
    return ('<!doctype html><html lang="en"><meta charset="utf-8">'
            f"<title>moesaic: {html.escape(names)}</title><style>{STYLE}</style>"
            + "\n".join(parts) + "</html>\n")


def write_page(folder, text):
    """Whole or not at all; says where."""
    partial = folder / "index.html.partial"
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, folder / "index.html")
    print(folder / "index.html")
