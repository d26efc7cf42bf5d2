"""Ends a script with a sentence where this python lacks a module, instead of a traceback."""
import importlib
import sys
from pathlib import Path

DEBIAN = {"numpy": "python3-numpy", "h5py": "python3-h5py", "matplotlib": "python3-matplotlib",
          "pandas": "python3-pandas"}


def need(*modules):
    missing, reasons = [], []
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:  # it may be there, but built for other versions
            missing.append(name)
            reasons.append(str(error))
    if not missing:
        return
    ways = [f"{sys.executable} -m pip install {' '.join(missing)}"]
    if all(name in DEBIAN for name in missing):
        ways.append(f"apt-get install {' '.join(DEBIAN[name] for name in missing)} and /usr/bin/python3")
    print(f"{Path(sys.argv[0]).name}: this python ({sys.executable}) cannot load {', '.join(missing)} "
          f"({'; '.join(reasons)}): take another, or {', or '.join(ways)}", file=sys.stderr)
    sys.exit(69)
