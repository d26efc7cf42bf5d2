#!/usr/bin/env python3
"""Checks that src/ keeps to the map of the code (src/README.md), and names each file:line that does
not: what a folder may include, which library has one user, file lengths, macros, #if.

usage: check_layers.py [SRC]
"""
import re
import sys
from pathlib import Path

SEES = {
    "base": set(),
    "tensor": {"base"},
    "backend": {"base", "tensor"},
    "comm": {"base", "tensor", "backend"},
    "config": {"base"},
    "io": {"base", "tensor", "comm"},
    "model": {"base", "tensor", "backend", "comm", "config", "io"},
    "plan": {"base", "config"},
}
SEES["train"] = SEES["model"] | {"model"}
SEES["infer"] = SEES["model"] | {"model"}
SEES["cli"] = set(SEES)

# Libraries that one place wraps for all others: pattern of the include -> where it may stand.
ONE_USER = {
    r"<hdf5(_hl)?\.h>": "io/",
    r"<mpi\.h>": "comm/",
    r"<nlohmann/": "base/json_text.cpp",
    r"<boost/": "config/",
    r"<spdlog/": "base/log.cpp",
    r"<pcre2\.h>": "io/tokenizer_regex.cpp",
    r"<utf8proc\.h>": "io/tokenizer_unicode.cpp",
}
MOST_LINES = 400
SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}


def problems_of(path, name, folders):
    """Lines "file:line: what is wrong" of one file; name is its path below src/."""
    folder = name.split("/")[0] if "/" in name else "cli"  # main.cpp sees what cli sees
    lines = path.read_text(encoding="utf-8").splitlines()
    found = []

    def report(number, message):
        found.append(f"{path}:{number}: {message}")

    for number, line in enumerate(lines, start=1):
        include = re.match(r'\s*#\s*include\s*(["<][^">]+[">])', line)
        if include:
            target = include[1]
            other = target[1:].split("/")[0]
            if target[0] == '"' and other in folders and other != folder \
                    and other not in SEES.get(folder, set()):
                report(number, f"{folder}/ may not include {other}/")
            for pattern, home in ONE_USER.items():
                if re.match(pattern, target) and not name.startswith(home):
                    report(number, f"only {home} includes {target}")
        if re.match(r"\s*#\s*(if|ifdef|ifndef|elif)\b", line) and folder != "backend":
            report(number, "#if outside backend/: choose by the file that is linked")
        if re.match(r"\s*#\s*define\s+\w+\(", line):
            report(number, "a function-like macro: write a function")
    if len(lines) > MOST_LINES:
        report(len(lines), f"{len(lines)} lines, more than {MOST_LINES}: split the file")
    return found


def main():
    default = Path(__file__).resolve().parents[2] / "src"
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    files = sorted(path for path in source.rglob("*") if path.suffix in SUFFIXES)
    if not files:
        sys.exit(f"check_layers.py: no sources in {source}")
    folders = {path.name for path in source.iterdir() if path.is_dir()}
    found = [f"{source}: folder {folder}/ is not in the table of check_layers.py"
             for folder in sorted(folders - set(SEES))]
    for path in files:
        found += problems_of(path, path.relative_to(source).as_posix(), folders)
    print("\n".join(found) if found else f"{len(files)} files keep to the map")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
