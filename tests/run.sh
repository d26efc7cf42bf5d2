#!/usr/bin/env bash
# Every test, from nothing installed; closes with `N passed, N failed`.
#   bash tests/run.sh            everything
#   bash tests/run.sh --quick    for work: release build, unit and mpi tests, formatter and layers
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source jobs/common.sh
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1

quick=0
case "${1:-}" in
  '') ;;
  --quick) quick=1 ;;
  *) echo "run.sh: unknown option $1 (see the head of this file)" >&2; exit 64 ;;
esac

passed=0 failed=0 summary=()
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

# part NAME COMMAND...: runs it, prints its time, and books its tests: those that ctest or unittest
# count, else the command as one. Exit code 77 and a line `skipped: REASON` book none.
part() {
  local name=$1 start=$SECONDS log=$logs/log good=0 bad=0 code
  shift
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
  elif [ "$code" -eq 0 ]; then
    good=1
  fi
  if [ "$code" -ne 0 ] && [ "$bad" -eq 0 ]; then
    bad=1
  fi
  passed=$((passed + good)) failed=$((failed + bad))
  summary+=("$(printf '%-32s %4d s  %4d passed  %d failed' "$name" $((SECONDS - start)) "$good" "$bad")")
}

build() {  # PRESET [TARGET]
  cmake --preset "$1" >/dev/null && cmake --build --preset "$1" ${2:+--target "$2"} | tail -n 3
  return "${PIPESTATUS[0]}"
}

tests_of() {  # PRESET LABELS
  ctest --test-dir "build/$1" -L "$2" -j 2 --output-on-failure
}

# No package of Debian has pyarrow: without a network the tests of Parquet files are left out.
install_pyarrow() {
  "$python" -c 'import pyarrow' 2>/dev/null && return
  "$python" -m pip install --quiet --root-user-action=ignore --no-deps --target build/python 'pyarrow<20' &&
    "$python" -c 'import pyarrow' && return
  echo "skipped: no pyarrow (pip cannot install it)"
  return 77
}

part "set-up" bash jobs/setup.sh --tests
python=$(find_python)
export PYTHONPATH=$PWD/build/python${PYTHONPATH:+:$PYTHONPATH}
part "release build" build release
[ -f tests/support/check_format.sh ] && part "format" bash tests/support/check_format.sh
part "unit" tests_of release '^unit$'
part "mpi" tests_of release '^mpi$'
if [ $quick -eq 0 ]; then
  part "pyarrow" install_pyarrow
  [ -f tests/support/check_kernels.sh ] && part "kernels' symbols" bash tests/support/check_kernels.sh
  part "analysis" tests_of release '^e2e$'
  part "end to end" "$python" -m unittest discover -s tests/e2e -v
  part "cluster" bash tests/cluster/run.sh
  part "quickstart, short" bash jobs/quickstart.sh --short --out "$logs/quickstart"
  [ -f tests/support/check_lint.sh ] && part "lint" bash tests/support/check_lint.sh
  part "ASan and UBSan build" build dev sanitized_tests
  part "unit under ASan and UBSan" tests_of dev '^sanitized$'
fi

printf '\n'
printf '%s\n' "${summary[@]}"
printf 'total %d s\n' $SECONDS
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
