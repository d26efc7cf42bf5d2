#!/usr/bin/env python3
"""Checks that src/ keeps to the map of the code (src/README.md), and names each file:line that does
not: what a folder may include, which library has one user, lengths of files, sizes of folders, equal
names, macros, #if.

usage: check_layers.py [SRC]
       check_layers.py --headers [HEADER...]   each header compiles alone; none named: those of src/ without
                                               a source file, which would begin with them
       check_layers.py --find [WORD]           where the things are that readers look for
"""
import os
import re
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SEES = {
    "base": set(),
    "tensor": {"base"},
    "backend": {"base", "tensor"},
    "comm": {"base", "tensor", "backend"},
    "config": {"base", "tensor"},
    "files": {"base"},
    "text": {"base", "files"},
    "routing": {"base", "backend", "config"},
    "hf": {"base", "tensor", "comm", "config", "files", "model"},
    "plan": {"base", "backend", "comm", "config", "data", "model", "routing"},
}
SEES["data"] = {"base", "tensor", "backend", "comm", "config", "files", "text", "routing"}
SEES["model"] = SEES["data"] - {"text"} | {"data"}
SEES["engine"] = SEES["model"] | {"model"}
SEES["checkpoint"] = SEES["engine"] | {"engine", "hf"}
SEES["record"] = SEES["engine"] | {"engine"}
SEES["train"] = SEES["checkpoint"] | {"checkpoint", "record", "text"}
SEES["infer"] = SEES["train"]
SEES["cli"] = set(SEES)

# Libraries and layouts that one place wraps for all others: pattern of the include -> where it may stand.
ONE_USER = {
    r"<hdf5(_hl)?\.h>": "files/",
    r"<mpi\.h>": "comm/",
    r"<nlohmann/": "base/json_text.cpp",
    r"<boost/": "config/",
    r"<spdlog/": "base/log.cpp",
    r"<pcre2\.h>": "text/huggingface/regex.cpp",
    r"<utf8proc\.h>": "text/huggingface/unicode.cpp",
    r'"backend/(cpu/|packed_layout\.h)': "backend/",
}
MOST_LINES = 400
MOST_FILES = 40
SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}
# Folders that belong to the spoken name of a file, as in "corpus/verify"; in OPS a name is an op.
SPOKEN = {"cli", "hf", "checkpoint", "corpus", "build", "huggingface", "hdf5", "safetensors", "cuda",
          "products", "device"}
OPS = {"backend", "cpu", "kernels", "layers"}
SAME = {"optimizer", "quantized"}  # the same thing at two levels

# What a reader looks for -> the file where it is expected.
FIND = {
    "AdamW": "backend/cpu/kernels/optimizer.cpp",
    "all-to-all of tokens": "model/layers/dispatch.cpp",
    "attention on the CPU": "backend/cpu/attention.cpp",
    "attention sinks": "backend/cpu/kernels/attention_sinks.cpp",
    "auxiliary-loss-free bias update": "train/router_update.cpp",
    "byte-pair encoding": "text/huggingface/bpe.cpp",
    "capacity and drops": "routing/dispatch_plan.cpp",
    "cross-entropy": "backend/cpu/kernels/loss.cpp",
    "embedding": "model/layers/embedding.cpp",
    "evaluation": "train/evaluation.cpp",
    "expert pool": "routing/expert_pool.cpp",
    "gemm": "backend/cpu/kernels/matmul.h",
    "gradient sum": "train/gradient_sum.cpp",
    "Hugging Face import": "hf/config.cpp",
    "KL divergence": "backend/cpu/kernels/loss.cpp",
    "KV cache, page table": "engine/kv_cache.cpp",
    "learning rate": "train/schedule.cpp",
    "loading a checkpoint's weights": "checkpoint/load_weights.cpp",
    "mesh of ranks": "comm/mesh.cpp",
    "pipeline order (1F1B)": "engine/pipeline.cpp",
    "quantising a weight": "checkpoint/quantize.cpp",
    "restart, rollback after a spike": "train/session.cpp",
    "RMSNorm": "backend/cpu/kernels/norm.cpp",
    "RoPE": "backend/cpu/kernels/rope.cpp",
    "sample order": "data/sample_order.cpp",
    "sampler": "infer/sampler.cpp",
    "saving a checkpoint": "checkpoint/save.cpp",
    "SwiGLU": "backend/cpu/kernels/activation.cpp",
    "tokenize": "data/build/scan.cpp",
    "top-k routing": "backend/cpu/kernels/router.cpp",
    "trace": "record/trace.cpp",
    "ZeRO-1": "model/parameter/zero.cpp",
}


def problems_of(source, path):
    """Lines "file:line: what is wrong" of one file."""
    name = path.relative_to(source).as_posix()
    folder = name.split("/")[0] if "/" in name else "cli"  # main.cpp sees what cli sees
    lines = path.read_text(encoding="utf-8").splitlines()
    found = []

    def report(number, message):
        found.append(f"{path}:{number}: {message}")

    own = path.with_suffix(".h")
    if path.suffix == ".cpp" and own.is_file():
        first = next((line for line in lines if line.startswith("#include")), "")
        if first != f'#include "{name[:-4]}.h"':
            report(1, "include the file's own header first, so that it is seen to compile alone")
    for number, line in enumerate(lines, start=1):
        include = re.match(r'\s*#\s*include\s*(["<][^">]+[">])', line)
        if include:
            target = include[1]
            other = target[1:].split("/")[0]
            if target[0] == '"' and not (source / target[1:-1]).is_file():
                report(number, f"{target} is no file below src/")
            elif target[0] == '"' and other != folder and other not in SEES.get(folder, set()):
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


def problems_of_folders(source, files):
    """Folders with too many files or without a README, and files that share a name."""
    found, sizes, homes = [], defaultdict(int), defaultdict(set)
    for path in files:
        sizes[path.parent] += 1
        if path.parent != source:
            homes[path.stem].add(path.parent)
    for folder, size in sorted(sizes.items()):
        if size > MOST_FILES:
            found.append(f"{folder}: {size} files, more than {MOST_FILES}: make folders by subject")
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        if not (folder / "README.md").is_file():
            found.append(f"{folder}: no README.md")
    for stem, folders in sorted(homes.items()):
        plain = [folder for folder in folders if folder.name not in SPOKEN | OPS]
        ops = any(folder.name in OPS for folder in folders)
        if len(plain) + ops > 1 and stem not in SAME:
            found.append(f"{stem}: files of one name in " + ", ".join(sorted(str(f) for f in folders)))
    return found


def compile_headers(names):
    """Lines of the compiler for headers that do not compile alone. CXX: the compiler."""
    source = ROOT / "src"
    headers = [Path(name).resolve() for name in names] or [
        path for path in sorted(source.rglob("*.h")) if not path.with_suffix(".cpp").is_file()]
    modules = ["hdf5-openmpi", "ompi-cxx", "fmt", "sentencepiece"]
    flags = subprocess.run(["pkg-config", "--cflags", *modules], stdout=subprocess.PIPE, text=True, check=True)
    words = [os.environ.get("CXX", "g++"), "-std=c++20", "-fsyntax-only", "-fopenmp", "-DOMPI_SKIP_MPICXX",
             "-DMOESAIC_ISA=portable", "-DMOESAIC_TILE_ROWS=2", "-DMOESAIC_TILE_VECTORS=1", "-Wno-psabi",
             *(f"-I{source.parent / folder}" for folder in ("tests/cuda_on_host", "tests/nccl_double", "tests", "src")),
             *flags.stdout.split(), "-x", "c++", "-"]  # CUDA and NCCL are those that the host stands in for

    def compile_one(path):
        text = f'#include "{path.relative_to(source)}"\n'
        done = subprocess.run(words, input=text, stderr=subprocess.PIPE, text=True, check=False)
        return f"{path}: does not compile alone\n{done.stderr}" if done.returncode else ""

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = [text for text in pool.map(compile_one, headers) if text]
    print("\n".join(found) if found else f"{len(headers)} headers compile alone")
    return 1 if found else 0


def find(words):
    """Prints the things whose name or file has the word."""
    wanted = " ".join(words).lower()
    for thing, name in FIND.items():
        if wanted in thing.lower() or wanted in name:
            print(f"{thing:34}src/{name}")
    return 0


def main(arguments):
    if arguments[:1] == ["--headers"]:
        return compile_headers(arguments[1:])
    if arguments[:1] == ["--find"]:
        return find(arguments[1:])
    source = Path(arguments[0]) if arguments else ROOT / "src"
    files = sorted(path for path in source.rglob("*") if path.suffix in SUFFIXES)
    if not files:
        sys.exit(f"check_layers.py: no sources in {source}")
    folders = {path.name for path in source.iterdir() if path.is_dir()}
    found = [f"{source}: folder {folder}/ is not in the table of check_layers.py"
             for folder in sorted(folders - set(SEES))]
    for path in files:
        found += problems_of(source, path)
    found += problems_of_folders(source, files)
    found += [f"{source}/{name}: is not there; {thing} is looked for in it (--find)"
              for thing, name in FIND.items() if not (source / name).is_file()]
    print("\n".join(found) if found else f"{len(files)} files keep to the map")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
