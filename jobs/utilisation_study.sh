#!/usr/bin/env bash
# How well are experts used, and at what price? Trains one small model with every way to treat
# experts that are full, at several capacities and temperatures, and writes DIR/utilisation.csv,
# DIR/utilisation.md and figures:
#   bash jobs/utilisation_study.sh [options] -o DIR
#   --corpus DIR   of jobs/quickstart.sh, with train/ and heldout/ (default runs/quickstart/corpus)
#   --steps N      training steps of each run, of 2048 tokens (default 400)
#   --jobs N       runs at the same time, each on one core (default: all cores)
#   --short        two runs of a few steps, to see that everything works
# Runs that are there are not made again. MOESAIC=PATH uses that program.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

corpus=$runs/quickstart/corpus steps=400 jobs='' out='' short=0
while [ $# -gt 0 ]; do
  case "$1" in
    --corpus) need_value "$1" "${2:-}"; corpus=$2; shift 2 ;;
    --steps) need_value "$1" "${2:-}"; steps=$2; shift 2 ;;
    --jobs) need_value "$1" "${2:-}"; jobs=$2; shift 2 ;;
    --short) short=1; shift ;;
    -o) need_value "$1" "${2:-}"; out=$2; shift 2 ;;
    -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) fail 64 "unknown option $1 (see --help)" ;;
  esac
done
[ -n "$out" ] || fail 64 "-o DIR is missing"
[ -d "$corpus/train" ] || fail 66 "no corpus in $corpus/train: run jobs/quickstart.sh, or name one with --corpus"
jobs=${jobs:-$(usable_cores)}
set_program
python=$(find_python)
mkdir -p "$out/runs"
export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

# What happens to a choice that finds its expert full, and what evens out the loads.
declare -A policies=(
  [drop]="--router.overflow drop"
  [next]="--router.overflow next"
  [spare]="--router.overflow spare --router.spare_experts 4"
  [spare_buffer]="--router.overflow spare --router.spare_experts 4 --router.gradient_buffer 512"
  [aux_loss]="--router.overflow drop --router.balance aux_loss --router.aux_loss 0.01"
  [bias]="--router.overflow drop --router.balance bias --router.bias_rate 0.01"
)
# Slots, and sequences of 256 tokens in a micro-batch; 128 slots are twice the mean load of 512
# tokens, and the mean load of 1024. The factor is what scoring with capacity uses.
declare -A capacities=(
  [factor1.0]="2 1.0 --router.capacity_factor 1.0"
  [factor1.25]="2 1.25 --router.capacity_factor 1.25"
  [128of512]="2 2.0 --router.capacity 128"
  [128of1024]="4 1.0 --router.capacity 128"
)

score() {  # RUN NAME KEYS...
  local run=$1 name=$2
  shift 2
  "${program[@]}" score --model.path "$run/train/checkpoints" --data.corpus "$corpus/heldout" \
    --score.output "$run/$name" --score.shards 0/4 --run.precision fp32 "$@" >>"$run/log.txt" 2>&1
}

# Trains and scores one way; leaves a mark when all of it is there.
one_run() {  # NAME FACTOR KEYS...
  local name=$1 factor=$2
  local run=$out/runs/$name
  shift 2
  [ ! -e "$run/done" ] || return 0
  mkdir -p "$run"
  "${program[@]}" train --config "$root/configs/utilisation.cfg" --data.corpus "$corpus/train" \
    --run.dir "$run/train" --train.steps "$steps" --checkpoint.keep 1 "$@" >"$run/log.txt" 2>&1 &&
    score "$run" dropless &&
    { [ "$factor" = 0 ] || score "$run" limited --router.capacity 0 \
      --router.capacity_factor "$factor" --router.eval_capacity 1; } &&
    touch "$run/done" && echo "$name" && return 0
  echo "utilisation_study.sh: $name failed, see $run/log.txt" >&2
  return 1
}

names=() commands=()
add() {  # NAME FACTOR KEYS...
  names+=("$1")
  commands+=("$*")
}
for policy in drop next spare spare_buffer aux_loss bias; do
  for capacity in factor1.0 factor1.25 128of512 128of1024; do
    for temperature in 1 0.7; do
      read -r sequences factor slots <<<"${capacities[$capacity]}"
      add "$policy-$capacity-t$temperature" "$factor" --train.micro_batch "$sequences" $slots \
        ${policies[$policy]} --router.temperature "$temperature"
    done
  done
done
# Without a limit: the baseline, and the same with the weights of tasks.
for gate in 0 1; do
  for policy in drop aux_loss; do
    add "$policy-dropless-gate$gate" 0 --train.micro_batch 2 ${policies[$policy]} --router.task_gate $gate
  done
done
if [ $short -eq 1 ]; then
  steps=3
  commands=("${commands[@]:0:1}" "${commands[@]: -1}")
fi

failed=0
for command in "${commands[@]}"; do
  while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n || failed=1; done
  # shellcheck disable=SC2086
  one_run $command &
done
while [ -n "$(jobs -rp)" ]; do wait -n || failed=1; done
[ $failed -eq 0 ] || fail 70 "some runs failed: the same command makes them again"
"$python" "$root/analysis/utilisation.py" "$out"/runs/* -o "$out"
