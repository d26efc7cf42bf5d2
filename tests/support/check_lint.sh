#!/usr/bin/env bash
# clang-tidy over the engine: check_lint.sh [BUILD_FOLDER [FILE...]]. Reads BUILD_FOLDER's
# compile_commands.json (build/release by default) and changes nothing. FILEs: only these. The
# tests are not in the default list: GoogleTest's headers would cost more time than the engine.
set -euo pipefail
cd "$(dirname "$0")/../.."

build=${1:-build/release}
shift || true
if [[ ! -f $build/compile_commands.json ]]; then
  echo "check_lint: $build/compile_commands.json is missing; configure first:" \
    "cmake -S . -B $build -G Ninja" >&2
  exit 66
fi
if (($# == 0)); then
  mapfile -t files < <(git ls-files 'src/*.cpp')
else
  files=("$@")
fi

# Without the precompiled header, which is GCC's: a file includes what it uses.
commands=$(mktemp -d)
trap 'rm -rf "$commands"' EXIT
sed -E 's/ -Winvalid-pch| -include [^ ]*cmake_pch\.hxx//g' "$build/compile_commands.json" >"$commands/compile_commands.json"

# What this build leaves out has no command: comm/nccl without NCCL.
known=()
for file in "${files[@]}"; do
  if grep -qF "\"$(realpath "$file")\"" "$commands/compile_commands.json"; then
    known+=("$file")
  fi
done
files=("${known[@]}")
if ((${#files[@]} == 0)); then
  echo "check_lint: no file of this build"
  exit 0
fi

SECONDS=0
status=0
# GCC's warning names in the compile commands are unknown to clang-tidy.
printf '%s\0' "${files[@]}" |
  xargs -0 -n 1 -P 2 clang-tidy -p "$commands" --quiet --extra-arg=-Wno-unknown-warning-option \
    2> >(grep -v 'warnings generated\|warning generated' >&2) || status=1
if ((status == 0)); then
  echo "check_lint: ${#files[@]} files are clean ($SECONDS s)"
else
  echo "check_lint: see the findings above (${#files[@]} files, $SECONDS s)" >&2
fi
exit "$status"
