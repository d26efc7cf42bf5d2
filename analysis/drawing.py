"""How the figures are drawn: axes, curves that are smoothed, columns that are averaged."""
import warnings

from needs import need

need("numpy", "matplotlib")

import matplotlib  # noqa: E402

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

plt.rcParams.update({"font.size": 10, "axes.grid": True, "grid.alpha": 0.3, "figure.dpi": 110,
                     "axes.spines.top": False, "axes.spines.right": False,
                     "savefig.bbox": "tight", "legend.frameon": False})
RUN_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333"]
MOST_COLUMNS = 400  # of a stack: more steps are averaged
MOST_MARKERS = 40   # of a curve of evaluations: more would cover each other


def axes(title, ylabel, size=(8, 3.6)):
    figure, ax = plt.subplots(figsize=size)
    ax.set_title(title, loc="left", fontweight="bold")
    ax.set_xlabel("step")
    ax.set_ylabel(ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure, ax


def windows_of(values, width):
    """For each value those around it, `width` (odd) in all: [value, width]; NaN beyond the ends."""
    half = width // 2
    padded = np.concatenate([np.full(half, np.nan), values, np.full(half, np.nan)])
    return np.lib.stride_tricks.sliding_window_view(padded, width)


def apart(values, width):
    """Which values stand far outside of what their neighbours do, as the step of an evaluation."""
    known = np.isfinite(values)
    if known.sum() < 5:
        return np.zeros(len(values), bool)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # windows without a number
        middle = np.nanmedian(windows_of(values, width), axis=1)
        distance = np.abs(values - middle)
        usual = np.nanmedian(windows_of(distance, width), axis=1)
    return known & (distance > 8 * usual) & (distance > 0.2 * np.abs(middle))


def smooth(values, width):
    """Mean over the values around each, `width` (odd) in all; NaN values do not count."""
    around = windows_of(values, width)
    known = np.isfinite(around)
    count = known.sum(axis=1)
    total = np.where(known, around, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def plot_curve(ax, steps, values, colour, label, exact=False):
    """The raw values faintly, and the mean of those around on top; exact values as they are. What
    stands apart is a point, and changes no mean."""
    values = np.asarray(values, float)
    width = 2 * (len(values) // 100) + 1
    if width == 1 and not exact:
        ax.plot(steps, values, color=colour, label=label, linewidth=1.6,
                marker="o" if len(values) < 3 else None)
        return
    far = apart(values, max(9, width))
    near = np.where(far, np.nan, values)
    if exact:  # without gaps, which would hide a line between two points
        ax.plot(steps[~far], values[~far], color=colour, label=label, linewidth=1.6,
                marker="o" if len(values) < 3 else None)
    else:
        ax.plot(steps, near, color=colour, alpha=0.25, linewidth=0.8)
        ax.plot(steps, smooth(near, width), color=colour, label=label, linewidth=1.6)
    ax.plot(steps[far], values[far], ".", color=colour, markersize=4)


def plot_evaluations(ax, steps, values, colour, label, line="-"):
    """A marker for each of few, else a thin line."""
    few = len(values) <= MOST_MARKERS
    ax.plot(steps, values, line if few else "-", marker="D" if few else None, color=colour, label=label,
            markeredgecolor="white", markersize=6, linewidth=1.0)


def cut_off(ax, steps, values, top, colour="black"):
    """Ends the axis at `top`; steps that take longer are points at its edge."""
    ax.set_ylim(0, top)
    beyond = np.flatnonzero(values > top)
    if len(beyond) > 0:
        ax.plot(steps[beyond], np.full(len(beyond), top), "^", color=colour, markersize=4, clip_on=False,
                label=f"{len(beyond)} longer, up to {values[beyond].max():.3g} s")


def bins(steps, values, most=MOST_COLUMNS):
    """Averages neighbouring steps so that at most so many remain; axis 0 is step."""
    bounds = np.unique(np.linspace(0, len(steps), min(most, len(steps)) + 1).astype(int))
    starts, counts = bounds[:-1], np.diff(bounds)
    means = np.add.reduceat(values.astype(float), starts, axis=0)
    middles = np.add.reduceat(steps.astype(float), starts) / counts
    return middles, means / counts.reshape((-1,) + (1,) * (values.ndim - 1))


def run_label(traces, trace, what=""):
    """A run's name stands in a legend where there are several."""
    return ": ".join(part for part in (trace.name if len(traces) > 1 else "", what) if part)
