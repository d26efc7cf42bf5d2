"""The essence of a trace as text of 80 columns."""
import datetime
import math

from needs import need

need("numpy")

import numpy as np  # noqa: E402

from traces import last_part  # noqa: E402

WIDTH = 80
ROWS = 10       # of the table of losses, after the first step
BARS = " ▁▂▃▄▅▆▇█"
MOST_BARS = 32  # of a layer's experts: more are averaged with their neighbours
MOST_LAYERS = 16
MOST_EVENTS = 8


def goal(trace):
    """The step that the run shall end with; None where it has none, or says it in another form."""
    keys = trace.attributes
    try:
        ends = [int(keys["train.steps"])] if keys["train.steps"] != "0" else []
        if keys["train.tokens"] != "0":
            step = int(keys["train.batch"]) * int(keys["data.seq_len"])
            ends.append(-(-int(keys["train.tokens"]) // step))
        if keys.get("train.epochs", "0") != "0":
            steps = (float(keys["train.epochs"]) * int(keys["train.epoch_samples"])
                     / int(keys["train.batch"]))
            ends.append(max(1, math.ceil(steps * (1 - 1e-12))))  # as config::total_steps rounds
        return min(ends, default=None) if keys["job"] == "train" else None
    except (KeyError, ValueError):
        return None


def moment(seconds):
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc):%Y-%m-%d %H:%M:%S}"


def duration(seconds):
    return str(datetime.timedelta(seconds=round(float(seconds))))


def ending(trace):
    """Where the run ended, or has come to."""
    last, end = int(trace.steps[-1]), goal(trace)
    text = f"step {last}" + (f" of {end}" if end else "") + (", complete" if last == end else "")
    times = trace.get("unix_time")
    if times is not None:
        text += f", at {moment(times[-1])} UTC after {duration(times[-1] - times[0])}"
    return text


def loss_rows(trace):
    """(step, mean training loss since the row before, last held-out loss and bits per byte in it or
    NaN, tokens per second) of the first step and some ten that follow at even distances."""
    steps, loss = trace.steps, trace.get("lm_loss")
    tokens, seconds = trace.get("tokens"), trace.get("seconds")
    evaluations = trace.arrays.get("eval/step", np.array([], int))
    bounds = np.unique([0, *np.linspace(1, len(steps), ROWS + 1).astype(int)])
    rows = []
    for begin, end in zip(bounds[:-1], bounds[1:]):
        before = steps[begin - 1] if begin > 0 else -1
        here = np.flatnonzero((evaluations > before) & (evaluations <= steps[end - 1]))
        held_out = [values[here[-1]] if values is not None and len(here) > 0 else np.nan
                    for values in (trace.get("eval/loss"), trace.get("eval/bits_per_byte"))]
        known = loss is not None and np.isfinite(loss[begin:end]).any()
        speed = np.nan if tokens is None or seconds is None or not seconds[begin:end].any() else \
            tokens[begin:end].sum() / seconds[begin:end].sum()
        rows.append((int(steps[end - 1]), np.nanmean(loss[begin:end]) if known else np.nan,
                     *held_out, speed))
    return rows


def phase_shares(trace):
    """(phase, its share of the time of all steps), the largest first."""
    time = trace.get("time")
    if time is None or not time.any():
        return []
    shares = time.sum(axis=0) / time.sum()
    return [(trace.phases[i], float(shares[i])) for i in np.argsort(-shares, kind="stable")
            if shares[i] >= 0.0005]


def expert_loads(trace):
    """Tokens that chose each expert, over the mean of the layer's regular experts, in the last tenth of the
    steps: [layer, expert], NaN where there is no regular expert. None without experts."""
    tokens, state = trace.get("expert_tokens"), trace.get("expert_state")
    if tokens is None or not trace.layers:
        return None
    chosen = last_part(tokens).sum(axis=0).astype(float)
    if state is not None:
        chosen[state[-1] != 1] = np.nan
    mean = np.nansum(chosen, axis=1) / np.maximum(np.isfinite(chosen).sum(axis=1), 1)
    return chosen / np.where(mean > 0, mean, 1)[:, None]


def bar(loads):
    """A letter for each expert, or for some neighbours: half high at the mean, full at its double."""
    parts = np.array_split(loads, min(MOST_BARS, len(loads)))
    means = [np.nanmean(part) if np.isfinite(part).any() else np.nan for part in parts]
    return "".join(" " if np.isnan(mean) else BARS[1 + int(3.5 * min(mean, 2))] for mean in means)


def number(value, form):
    return "-" if np.isnan(value) else form.format(value)


def head(trace):
    keys = trace.attributes
    what = [keys.get("job", ""), keys.get("layout", ""), keys.get("run.precision", "")]
    ranks = keys.get("world_size")
    what += [f"{ranks} rank{'' if ranks == '1' else 's'}"] if ranks else []
    return [f"{trace.name}: {', '.join(part for part in what if part)}", f"at {ending(trace)}"]


def losses(trace):
    lines = ["", f"{'step':>10}{'loss':>12}{'held-out':>12}{'bits/byte':>12}{'tokens/s':>14}"]
    for step, loss, held_out, bits, speed in loss_rows(trace):
        lines.append(f"{step:>10}{number(loss, '{:.4f}'):>12}{number(held_out, '{:.4f}'):>12}"
                     f"{number(bits, '{:.4f}'):>12}{number(speed, '{:,.0f}'):>14}")
    return lines + ["  (means since the row before, nat per token; the last evaluation in it)"]


def times(trace):
    shares, seconds = phase_shares(trace), trace.get("seconds")
    if not shares:
        return []
    typical = "" if seconds is None else f", median step {np.median(seconds):.4g} s"
    return ["", f"Time by phase (slowest rank{typical})"] + [
        f"  {name:<12}{share:>7.1%}  {'#' * round(50 * share)}".rstrip() for name, share in shares]


def experts(trace):
    loads = expert_loads(trace)
    if loads is None:
        return []
    most = np.nanmax(loads, axis=1)
    shown = np.sort(np.argsort(-most, kind="stable")[:MOST_LAYERS])
    lines = ["", f"{'Expert load / mean, last tenth of the steps':<46}{'least':<12}most"]
    for i in shown:
        low, high = int(np.nanargmin(loads[i])), int(np.nanargmax(loads[i]))
        lines.append(f"  layer {trace.layers[i]:<4}{bar(loads[i]):<{MOST_BARS}}"
                     f"  {f'{loads[i, low]:.2f} (e{low})':<12}{loads[i, high]:.2f} (e{high})")
    if len(shown) < len(loads):
        lines.append(f"  (the {len(shown)} least even of {len(loads)} layers)")
    lost, chosen = trace.get("expert_dropped"), trace.get("expert_tokens")
    if lost is not None and lost.any():
        lines.append(f"  dropped choices, all steps: {lost.sum() / max(1, chosen.sum()):.2%}")
    return lines


def events(trace):
    """The last ones; of checkpoints the last alone."""
    saved = [event for event in trace.events if event[1] == "checkpoint"]
    others = [event for event in trace.events if event[1] != "checkpoint"]
    kept = sorted(others[-MOST_EVENTS:] + saved[-1:], key=lambda event: event[0])
    if not kept:
        return []
    lines = ["", f"Last events (there are {len(others)}, and {len(saved)} checkpoints)"]
    for step, kind, message in kept:
        line = f"  {step:>8}  {kind}: {' '.join(message.split())}"
        lines.append(line if len(line) <= WIDTH else line[:WIDTH - 3] + "...")
    return lines


def text_of(trace):
    parts = (head, losses, times, experts, events)
    return "\n".join(line[:WIDTH] for part in parts for line in part(trace))
