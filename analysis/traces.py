"""Reading traces (trace.h5) into plain arrays; shared by the scripts of this folder."""
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from needs import need

need("numpy", "h5py")

import h5py  # noqa: E402
import numpy as np  # noqa: E402


def last_part(values):
    """The last tenth, so that one step's noise does not decide."""
    return values[-max(1, len(values) // 10):]


@dataclass
class Trace:
    """One file. Arrays have the shapes that the file gives them: step first."""
    path: Path
    name: str
    attributes: dict
    arrays: dict                                  # "loss", "expert_tokens", "eval/loss", ...
    layers: list = field(default_factory=list)    # index in the model of each MoE layer
    phases: list = field(default_factory=list)
    tasks: list = field(default_factory=list)
    corpora: list = field(default_factory=list)
    groups: list = field(default_factory=list)    # of ranks that exchange tensors
    events: list = field(default_factory=list)    # (step, kind, message)

    def get(self, name):
        """The array, or None if it is missing, empty or says nothing (all NaN)."""
        array = self.arrays.get(name)
        if array is None or array.size == 0:
            return None
        if array.dtype.kind == "f" and not np.isfinite(array).any():
            return None
        return array

    @property
    def steps(self):
        return self.arrays["step"]


def as_text(value):
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def text_list(values):
    return [as_text(value) for value in np.asarray(values).ravel().tolist()]


def id_list(documents):
    """The ids of a shard's documents; those that are cut in `id` stand whole in `id_long`."""
    ids = text_list(documents["id"][:])
    if "id_long" in documents:
        whole = documents["id_long"]
        ends, text = whole["offsets"][:], whole["text"][:].tobytes()
        for number, row in enumerate(whole["row"][:]):
            ids[row] = as_text(text[ends[number]:ends[number + 1]])
    return ids


def fail(code, message):
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    sys.exit(code)


def open_hdf5(path, seconds=30.0):
    """Opens for reading; waits while a running job appends (it holds the lock for moments only)."""
    path = Path(path)
    if not path.is_file():
        fail(66, f"no such file: {path.resolve()}")
    if not h5py.is_hdf5(str(path)):
        fail(65, f"not an HDF5 file: {path.resolve()}")
    deadline = time.monotonic() + seconds
    while True:
        try:
            return h5py.File(path, "r")
        except OSError as error:
            if time.monotonic() > deadline:
                fail(65, f"cannot open {path.resolve()}: {error}. If no job writes it, the file "
                         "is damaged (moesaic verify); on file systems without locks set "
                         "HDF5_USE_FILE_LOCKING=FALSE")
        time.sleep(0.2)


def read_arrays(file):
    """Every dataset below the root as an array, by its path; strings as lists of str."""
    arrays = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            value = item[()]
            if np.asarray(value).dtype.kind in "SO":
                value = np.array(text_list(value), dtype=object)
            arrays[name] = np.asarray(value)

    file.visititems(visit)
    return arrays


def equal_lengths(arrays):
    """Where locks are off, an append may be seen half done: keep the rows that all arrays have."""
    axes = {"layer", "expert", "choice", "phase", "task", "corpus", "rank", "group",
            "eval/evaluation", "events/event"}  # the last two have no values
    for group in ("", "eval/", "events/"):
        names = [name for name in arrays if name not in axes and name.startswith(group)
                 and (group or "/" not in name) and arrays[name].ndim > 0]
        rows = min((len(arrays[name]) for name in names), default=0)
        for name in names:
            arrays[name] = arrays[name][:rows]


def default_name(path):
    """A run's folder names it better than trace.h5 does."""
    path = Path(path)
    if path.name == "trace.h5":
        return path.resolve().parent.name
    return path.name.removesuffix(".h5").removesuffix(".trace")


def read_trace(path):
    """Reads everything at once and lets go of the file."""
    with open_hdf5(path) as file:
        if "step" not in file:
            fail(65, f"{Path(path).resolve()} is not a trace: it has no /step")
        attributes = {}
        for key, value in file.attrs.items():
            many = isinstance(value, np.ndarray) and value.ndim > 0
            attributes[key] = ", ".join(text_list(value)) if many else as_text(value)
        arrays = read_arrays(file)
        layers = arrays.get("layer", np.array([], dtype=int))
        if "layer" in file and "layer_index" in file["layer"].attrs:
            layers = np.atleast_1d(file["layer"].attrs["layer_index"])
    equal_lengths(arrays)
    lists = {name: [str(value) for value in arrays.get(name, [])]
             for name in ("phase", "task", "corpus", "group")}
    events = list(zip(*(arrays.get(f"events/{part}", []) for part in ("step", "kind", "message"))))
    return Trace(path=Path(path), name=default_name(path), attributes=attributes, arrays=arrays,
                 layers=[int(layer) for layer in layers], phases=lists["phase"],
                 tasks=lists["task"], corpora=lists["corpus"], groups=lists["group"],
                 events=events)


def read_traces(paths):
    """Several traces, with names that differ."""
    traces = [read_trace(path) for path in paths]
    names = [trace.name for trace in traces]
    for number, trace in enumerate(traces):
        if names.count(trace.name) > 1:
            parent = trace.path.resolve().parent
            longer = f"{parent.parent.name}/{trace.name}" if trace.path.name == "trace.h5" \
                else f"{parent.name}/{trace.name}"
            trace.name = longer if longer not in [t.name for t in traces] \
                else f"{longer} ({number + 1})"
    return traces
