#!/usr/bin/env python3
"""Opens a trace the ways users do: h5py, pandas and xarray. Exit 77 where a module is missing.

usage: check_trace.py FILE STEPS
"""
import sys

try:
    import h5netcdf  # noqa: F401
    import h5py
    import pandas as pd
    import xarray as xr
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

AXES = {"loss": ("step",), "aux_loss": ("step", "layer"),
        "expert_tokens": ("step", "layer", "expert"),
        "task_expert_tokens": ("step", "layer", "task", "expert"), "task_tokens": ("step", "task"),
        "time": ("step", "phase"), "rank_seconds": ("step", "rank")}

UNITS = {"loss": "nat", "tokens": "token", "seconds": "s", "peak_memory": "byte", "lr": "1",
         "expert_tokens": "token", "utilisation": "1", "time": "s", "gate_entropy": "nat"}


def check_h5py(name, steps):
    with h5py.File(name) as file:
        assert file.attrs["schema"] == b"moesaic-trace" and file.attrs["version"] == 1
        assert file.attrs["Conventions"] == b"CF-1.8"
        frame = pd.DataFrame({key: file[key][:] for key in ("step", "loss", "seconds")})
        assert len(frame) == steps and frame["step"].is_monotonic_increasing
        arrays = []
        file.visititems(lambda key, item: arrays.append(item) if hasattr(item, "dims") else None)
        for array in arrays:
            assert array.attrs["long_name"], array.name
            if array.name[1:] in UNITS:
                assert array.attrs["units"].decode() == UNITS[array.name[1:]], array.name
            scale = array.attrs.get("CLASS") == b"DIMENSION_SCALE"
            assert scale or all(len(dim) for dim in array.dims), array.name


def is_text(array):
    return all(isinstance(value, str) for value in array.values.ravel())


def check_xarray(name, steps):
    """With the engine that xarray prefers, netcdf4 where it is there. That makes texts of names,
    h5netcdf hands them out as bytes."""
    with xr.open_dataset(name) as data:
        for key, axes in AXES.items():
            assert data[key].dims == axes, (key, data[key].dims)
        assert data.sizes["step"] == steps
        assert data.attrs["Conventions"] == "CF-1.8" and data["seconds"].attrs["units"] == "s"
        named = data.assign_coords(phase=data["phase"].astype(str))
        assert is_text(named["phase"]) and named["time"].sel(phase="data").shape == (steps,)
        last = data["expert_tokens"].isel(step=-1).sum("expert")
        assert last.dims == ("layer",)
        root = dict(data.sizes)
    evaluations, events = check_groups(name)
    # What open_datatree asks for: a group's axes have other names than the root's, or their lengths.
    for group in (evaluations, events):
        assert all(root.get(axis, size) == size for axis, size in group.items()), (root, group)
    if hasattr(xr, "open_datatree"):
        with xr.open_datatree(name) as tree:
            assert tree["eval/loss_by_task"].dims == ("evaluation", "task")
            assert tree["events"].sizes["event"] == events["event"]
            assert tree["loss"].sizes["step"] == steps


def check_groups(name):
    with h5py.File(name) as file:
        evaluations, events = len(file["eval/step"]), len(file["events/step"])
        # netCDF4 decodes text by itself; where this attribute is, xarray would decode it again.
        file.visititems(lambda key, item: check_no_encoding(item))
    with xr.open_dataset(name, group="eval") as data:
        assert data["loss_by_task"].dims == ("evaluation", "task")
        assert data["step"].dims == ("evaluation",) and data.sizes["evaluation"] == evaluations
        evaluation_sizes = dict(data.sizes)
    with xr.open_dataset(name, group="events") as data:
        assert data["message"].dims == ("event",) and data.sizes["event"] == events
        return evaluation_sizes, dict(data.sizes)


def check_no_encoding(item):
    assert "_Encoding" not in item.attrs, item.name


check_h5py(sys.argv[1], int(sys.argv[2]))
check_xarray(sys.argv[1], int(sys.argv[2]))
print("sound")
