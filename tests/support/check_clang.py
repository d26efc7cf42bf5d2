#!/usr/bin/env python3
"""A second compiler over src and tests: every warning of Clang is an error, but those listed as ignored.

usage: check_clang.py [BUILD_FOLDER [FILE...]]

Takes the commands of BUILD_FOLDER's compile_commands.json (build/release by default); writes nothing
there. FILEs: only these, of which those that nothing compiles are left out. CLANG in the environment: the compiler, clang++-16 by default.
"""
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLANG = os.environ.get("CLANG", "clang++-16")
# Warnings of older standards and of style; what GoogleTest, libraries and tables of kernels do on purpose.
IGNORED = """
    c++98-compat c++98-compat-pedantic pre-c++17-compat padded ctad-maybe-unsupported weak-vtables
    float-equal double-promotion switch-enum unsafe-buffer-usage global-constructors exit-time-destructors
    undefined-func-template unused-template unused-member-function unneeded-member-function
    used-but-marked-unused disabled-macro-expansion""".split()
# References index as the formulas do, with signed numbers; operator delete has no declaration.
IGNORED_IN_TESTS = ["sign-conversion", "missing-prototypes"]


def commands_of(build):
    """File -> the words of its command that matter to Clang: macros, include folders, processor."""
    commands = {}
    for entry in json.loads((build / "compile_commands.json").read_text()):
        if Path(entry["file"]).is_relative_to(ROOT / "build"):
            continue  # made by CMake
        words = shlex.split(entry["command"])[1:]
        keep, follows = [], False
        for word in words:
            if follows or word.startswith(("-I", "-D", "-isystem", "-m")):
                keep.append(word)
            follows = word == "-isystem"
        commands.setdefault(entry["file"], keep)
    return commands


def write_omp_header(folder):
    """GCC's omp.h for Clang: Debian's libomp for one version of Clang drives out that for another."""
    gcc = subprocess.run(["g++", "-print-file-name=include"], stdout=subprocess.PIPE, text=True, check=True)
    (folder / "omp.h").write_text(f"""#pragma GCC system_header
#define __malloc__(free) __malloc__
#include "{gcc.stdout.strip()}/omp.h"
#undef __malloc__
""")


def run(words):
    done = subprocess.run([CLANG, "-std=c++20", "-fopenmp", *words], stderr=subprocess.PIPE, text=True, check=False)
    return done.stderr if done.returncode != 0 else ""


def main(arguments):
    build = Path(arguments[0] if arguments else ROOT / "build/release").resolve()
    if not (build / "compile_commands.json").is_file():
        print(f"check_clang: {build}/compile_commands.json is missing; configure first: cmake -S . -B {build} -G Ninja",
              file=sys.stderr)
        return 66
    commands = commands_of(build)
    named = {str(Path(name).resolve()) for name in arguments[1:]}
    files = sorted(named & commands.keys() if named else commands)
    started = time.monotonic()
    warnings = ["-Weverything", "-Werror", *(f"-Wno-{name}" for name in IGNORED)]
    with tempfile.TemporaryDirectory() as folder:
        write_omp_header(Path(folder))
        # One precompiled header for all but the kernels, which need other processors and no library.
        shared = sorted({word for words in commands.values() for word in words if word.startswith("-D")
                         and not word.startswith(("-DMOESAIC_ISA", "-DMOESAIC_TILE"))})
        headers = str(Path(folder) / "headers.pch")
        problem = run([*shared, "-x", "c++-header", str(ROOT / "src/base/precompiled.h"), "-o", headers])
        if problem:
            print(problem, file=sys.stderr)
            return 1

        def check(name):
            words = commands[name]
            if not any(word.startswith("-DMOESAIC_ISA") for word in words):
                words = [*shared, *(word for word in words if not word.startswith("-D")), "-include-pch", headers]
            own = [f"-Wno-{each}" for each in IGNORED_IN_TESTS if Path(name).is_relative_to(ROOT / "tests")]
            if any(word.endswith("tests/cuda_on_host") for word in commands[name]):
                own.append("-Wno-reserved-identifier")  # CUDA's names are such
            return run([*words, "-idirafter", folder, *warnings, *own, "-fsyntax-only", name])

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            problems = [text for text in pool.map(check, files) if text]
    print("".join(problems), end="", file=sys.stderr)
    print(f"check_clang: {len(files)} files, {len(problems)} with findings ({time.monotonic() - started:.0f} s)")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
