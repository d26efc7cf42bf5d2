#!/usr/bin/env bash
# The tests, from nothing installed; closes with `N passed, N failed`.
#   bash tests/run.sh            all but two thirds of the slow cases, which take turns by commit
#   bash tests/run.sh --all      everything
#   bash tests/run.sh --quick    for work: release build, unit and mpi tests, formatter and layers
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
source jobs/common.sh
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1

quick=0 all=0
case "${1:-}" in
  '') ;;
  --quick) quick=1 ;;
  --all) all=1; export MOESAIC_TESTS=all ;;
  *) echo "run.sh: unknown option $1 (see the head of this file)" >&2; exit 64 ;;
esac

passed=0 failed=0 summary=()
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

# part NAME SECONDS COMMAND...: runs it, books its tests (those that ctest, unittest or pytest count,
# else the command as one) and its time, against the seconds that it should take on two idle cores.
# Exit code 77 and a line `skipped: REASON` book none.
part() {
  local name=$1 budget=$2 start=$SECONDS log=$logs/log good=0 bad=0 code
  shift 2
  printf '\n== %s\n' "$name"
  "$@" 2>&1 | tee "$log"
  code=${PIPESTATUS[0]}
  if [ "$code" -eq 77 ]; then
    summary+=("$(printf '%-32s %s' "$name" "$(grep '^skipped: ' "$log" | tail -1)")")
    return
  fi
  if grep -q 'tests passed, .* tests failed out of' "$log"; then
    read -r bad good < <(sed -n 's/.*tests passed, \([0-9]*\) tests failed out of \([0-9]*\).*/\1 \2/p' "$log" | tail -1)
    good=$((good - bad))
  elif grep -qE '^Ran [0-9]+ tests? in' "$log"; then
    good=$(sed -nE 's/^Ran ([0-9]+) tests? in.*/\1/p' "$log" | awk '{n += $1} END {print n}')
    bad=$(grep -cE '^(FAIL|ERROR): ' "$log")
    good=$((good - bad))
  elif grep -qE '^=+ .*(passed|failed).* in [0-9.]+s' "$log"; then
    good=$(sed -nE 's/^=+ .* ([0-9]+) passed.*/\1/p; s/^=+ ([0-9]+) passed.*/\1/p' "$log" | tail -1)
    bad=$(grep -cE '^(FAILED|ERROR) ' "$log")
    good=${good:-0}
  elif [ "$code" -eq 0 ]; then
    good=1
  fi
  # "SECONDS NAME" of each case, of ctest and of pytest
  sed -nE 's/^ *[0-9]+\/[0-9]+ Test +#[0-9]+: ([^ ]+) .* ([0-9.]+) sec$/\2 \1/p
    s/^([0-9.]+)s (call|setup) +(.*)$/\1 \3/p' "$log" >>"$logs/cases"
  if [ "$code" -ne 0 ] && [ "$bad" -eq 0 ]; then
    bad=1
  fi
  passed=$((passed + good)) failed=$((failed + bad))
  summary+=("$(printf '%-32s %4d s of %3d  %4d passed  %d failed' "$name" $((SECONDS - start)) "$budget" "$good" "$bad")")
}

build() {  # PRESET [TARGET...]
  local preset=$1
  shift
  cmake --preset "$preset" -DMOESAIC_WERROR=ON >/dev/null &&
    cmake --build --preset "$preset" ${1:+--target "$@"} | tail -n 3
  return "${PIPESTATUS[0]}"
}

tests_of() {  # PRESET LABELS
  ctest --test-dir "build/$1" -L "$2" -j 2 --output-on-failure
}

# Prints the lines of standard input that have their turn: all of them, or one in three.
in_turn() {
  if [ $all -eq 1 ]; then cat; else awk -v turns=$turns -v turn="$turn" 'NR % turns == turn'; fi
}

# Sets `files`: those of the patterns that have their turn, and those that changed lately.
choose_files() {  # PATTERN...
  mapfile -t files < <({ git ls-files "$@" | in_turn
    git diff --name-only --diff-filter=d HEAD~5 -- "$@" 2>/dev/null; } | sort -u)
}

lint() {
  local files
  choose_files 'src/*.cpp'
  bash tests/support/check_lint.sh build/release "${files[@]}"
}

second_compiler() {
  local files
  choose_files 'src/*.cpp' 'tests/*.cpp'
  "$python" tests/support/check_clang.py build/release "${files[@]}"
}

# Most of a job's time is waiting, also for processes to start: two cores do more than two at once.
end_to_end() {
  (cd tests/e2e && "$python" -m pytest -p no:cacheprovider -n "$(usable_cores)" --dist loadscope --durations=20 \
    --durations-min=5)
}

# What nvcc says of the kernels, for one architecture in turn: a warning or a spill is an error.
kernels_by_nvcc() {
  local nvcc objects
  nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
  [ -x "$nvcc" ] || { echo "skipped: no nvcc"; return 77; }
  cmake --preset cuda -DMOESAIC_TESTS=OFF -DMOESAIC_BENCH=OFF -DCMAKE_CUDA_COMPILER="$nvcc" \
    -DCMAKE_CUDA_ARCHITECTURES="$([ "$turn" -eq 0 ] && echo 80 || echo 90)-real" >/dev/null || return
  mapfile -t objects < <(ninja -C build/cuda -t targets all |
    grep -oE '^src/backend/CMakeFiles/moesaic_cuda.dir/[^:]*\.o')
  ninja -C build/cuda "${objects[@]}" | tail -n 3
  return "${PIPESTATUS[0]}"
}

# No package of Debian has pyarrow: without a network the tests of Parquet files are left out.
install_pyarrow() {
  "$python" -c 'import pyarrow' 2>/dev/null && return
  "$python" -m pip install --quiet --root-user-action=ignore --no-deps --target build/python 'pyarrow<20' &&
    "$python" -c 'import pyarrow' && return
  echo "skipped: no pyarrow (pip cannot install it)"
  return 77
}

part "set-up" 60 bash jobs/setup.sh --tests
python=$(find_python)
read -r turn turns < <(cd tests/e2e && "$python" -c 'import harness; print(harness.turn_now(), harness.TURNS)')
sanitized=sanitized_$turn
[ $all -eq 0 ] || sanitized=sanitized
export PYTHONPATH=$PWD/build/python${PYTHONPATH:+:$PYTHONPATH}
part "release build" 480 build release
part "format" 10 bash tests/support/check_format.sh
part "headers" 30 "$python" tests/support/check_layers.py --headers
part "unit" 150 tests_of release '^unit$'
part "mpi" 280 tests_of release '^mpi$'
if [ $quick -eq 0 ]; then
  part "pyarrow" 10 install_pyarrow
  part "kernels' symbols" 2 bash tests/support/check_kernels.sh
  part "kernels for aarch64" 15 bash tests/support/check_aarch64.sh
  part "kernels by nvcc" 120 kernels_by_nvcc
  part "analysis" 30 tests_of release '^e2e$'
  part "end to end" 560 end_to_end
  part "cluster" 150 bash tests/cluster/run.sh
  part "quickstart, short" 30 bash jobs/quickstart.sh --short --out "$logs/quickstart"
  part "lint" 240 lint
  part "clang" 60 second_compiler
  part "ASan and UBSan build" 420 build dev "${sanitized}_tests"
  part "unit under ASan and UBSan" 100 tests_of dev "^$sanitized\$"
fi

printf '\n'
printf '%s\n' "${summary[@]}"
printf 'slowest: %s\n' "$(sort -rn "$logs/cases" | head -n 3 | awk '{printf "%s%s %s s", sep, $2, $1; sep = ", "}')"
printf 'total %d s\n' $SECONDS
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
