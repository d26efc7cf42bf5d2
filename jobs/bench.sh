#!/usr/bin/env bash
# Measures the speed on this machine, next to PyTorch where it is installed, and writes
# DIR/bench.md (one table), DIR/steps.jsonl (every run) and DIR/kernels.json:
#   bash jobs/bench.sh [options] -o DIR
#   --threads N   threads of each run (default: all cores)
#   --rounds N    runs of each, ours and PyTorch's in turn (default 3)
#   --steps N     steps of each run, the first of which is left out (default 4)
#   --limit N     seconds after which a run is given up and left out (default 300)
#   --growth      also the cost of a token over sequence length, experts, batch and depth
#                 (DIR/growth.png)
#   --no-kernels  leave out the kernels one by one
#   --inference MODEL  instead: scoring, prefill and decode with a Hugging Face folder in fp32, bf16,
#                 int8 and int4 (DIR/inference.md)
#   --against BUILD  instead: this build and another one (a folder such as build/release) in turn,
#                 --rounds times (default 11); the median of the ratios (DIR/against.md)
# TORCH_PYTHON= names a python that has torch, and transformers for --inference (default: the first
# that has). LLAMA_CPP= names the folder of llama.cpp's programs, GGUF= that of MODEL in its
# formats. Compared are ratios in one call: other work on the machine changes the figures, and by
# turns it meets all.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

threads='' rounds='' steps=4 limit=300 growth=0 kernels=1 inference='' against='' out=''
while [ $# -gt 0 ]; do
  case "$1" in
    --threads) need_value "$1" "${2:-}"; threads=$2; shift 2 ;;
    --rounds) need_value "$1" "${2:-}"; rounds=$2; shift 2 ;;
    --steps) need_value "$1" "${2:-}"; steps=$2; shift 2 ;;
    --limit) need_value "$1" "${2:-}"; limit=$2; shift 2 ;;
    --growth) growth=1; shift ;;
    --no-kernels) kernels=0; shift ;;
    --inference) need_value "$1" "${2:-}"; inference=$2; shift 2 ;;
    --against) need_value "$1" "${2:-}"; against=$2; shift 2 ;;
    -o) need_value "$1" "${2:-}"; out=$2; shift 2 ;;
    -h | --help) sed -n '2,20s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) fail 64 "unknown option $1 (see --help)" ;;
  esac
done
[ -n "$out" ] || fail 64 "-o DIR is missing"
[ "$steps" -gt 1 ] || fail 64 "--steps $steps: the first is left out, so at least 2 are needed"
need_source
threads=${threads:-$(usable_cores)}
bench=${MOESAIC_BENCH:-$root/build/release/tests/bench}
moesaic=${MOESAIC:-$bench/../../moesaic}
[ -x "$moesaic" ] || fail 66 "no program $moesaic: build it, or set MOESAIC=/path/to/moesaic"
python=$(find_python)
mkdir -p "$out"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

if [ -n "$against" ]; then
  for build in "$bench/../.." "$against"; do
    for program in moesaic tests/bench/train_step; do
      [ -x "$build/$program" ] || fail 66 "no program $build/$program: build it (cmake --preset release;" \
        "cmake --build --preset release)"
    done
  done
  exec "$python" "$root/tests/bench/against.py" --new "$bench/../.." --old "$against" \
    --threads "$threads" --rounds "${rounds:-11}" --steps "$steps" --limit "$limit" -o "$out"
fi
rounds=${rounds:-3}
if [ -n "$inference" ]; then
  peers=()
  if torch=$(python_with 'torch, transformers' "${TORCH_PYTHON:-python3}"); then
    peers+=(--torch "$torch")
  else
    echo "bench.sh: no python has transformers: it is left out" >&2
  fi
  if [ -n "${LLAMA_CPP:-}" ]; then
    peers+=(--llama "$LLAMA_CPP" --gguf "${GGUF:?the folder of the model in formats of llama.cpp}")
  fi
  exec "$python" "$root/tests/bench/inference.py" --moesaic "$moesaic" --model "$inference" \
    --threads "$threads" --rounds "$rounds" --limit "$limit" -o "$out" "${peers[@]}"
fi

[ -x "$bench/train_step" ] || fail 66 "no program $bench/train_step: build it (cmake --preset release" \
  "-DMOESAIC_BENCH=ON; cmake --build --preset release)"
torch=$(python_with torch "${TORCH_PYTHON:-python3}") || true
[ -n "$torch" ] || echo "bench.sh: no python has torch: PyTorch is left out" >&2
# Not the user's own: a run that is given up may leave half a file there.
TORCHINDUCTOR_CACHE_DIR=$(mktemp -d)
export TORCHINDUCTOR_CACHE_DIR
trap 'rm -rf "$TORCHINDUCTOR_CACHE_DIR"' EXIT

# The output of a run; nothing if it takes too long.
limited() {  # NAME COMMAND...
  local name=$1 code=0
  shift
  timeout --kill-after=10 "$limit" "$@" || code=$?
  case $code in
    124 | 137) echo "$name left out: no result in $limit s" >&2 ;;
    *) return "$code" ;;
  esac
}

# Appends the run's JSON, with what names it, to steps.jsonl and shows its first line.
measure() {  # NAME [forward] KEYS...
  local name=$1 text
  shift
  text=$(limited "$name" "$bench/train_step" "$@" --run.threads "$threads" --train.steps "$steps")
  [ -n "$text" ] || return 0
  printf '%-24s %s\n' "$name" "$(head -n 1 <<<"$text")"
  tail -n 1 <<<"$text" | sed "s/^{/{\"name\":\"$name\",/" >>"$out/steps.jsonl"
}

# The job score after its forward pass alone, whose FLOP and limit it takes over.
measure_score() {  # VOCABULARY TOKENS
  local before text
  before=$(wc -l <"$out/steps.jsonl")
  measure "forward of score, vocabulary $1" forward "${model[@]}" "${wide[@]}" \
    --run.precision bf16 --model.vocab_size "$1"
  [ "$(wc -l <"$out/steps.jsonl")" -gt "$before" ] || return 0
  text=$(limited "the job score" "$python" "$root/tests/bench/score_job.py" --moesaic "$moesaic" \
    --threads "$threads" --vocabulary "$1" --tokens "$2" --forward "$out/steps.jsonl")
  [ -z "$text" ] || tee -a "$out/steps.jsonl" <<<"$text"
}

declare -A skipped=()
measure_pytorch() {  # VARIANT; one without a result is not tried again
  local text
  [ -n "$torch" ] && [ -z "${skipped[$1]:-}" ] || return 0
  text=$(limited "PyTorch $1" "$torch" "$root/tests/bench/pytorch_step.py" --threads "$threads" \
    --steps "$steps" --variants "$1" 2> >(tail -n 1 >&2))
  if [ -n "$text" ]; then
    tee -a "$out/steps.jsonl" <<<"$text"
  else
    skipped[$1]=1
  fi
}

: >"$out/steps.jsonl"
declare -A variants=([fp32]='fp32 fp32-grouped'
  [bf16]='bf16 bf16-grouped bf16-compiled bf16-grouped-compiled')
model=(--config "$root/configs/model/bench.cfg")
batch=(--train.batch 4 --train.micro_batch 4)
wide=(--train.batch 8 --train.micro_batch 8)
for ((round = 1; round <= rounds; ++round)); do
  echo "round $round of $rounds, $threads threads"
  for precision in fp32 bf16; do
    measure "train" "${model[@]}" "${batch[@]}" --run.precision $precision
    measure "forward of score" forward "${model[@]}" "${wide[@]}" --run.precision $precision
    for variant in ${variants[$precision]}; do
      measure_pytorch "$variant"
    done
  done
  for routing in balanced hot rotating; do
    measure "routing" "${model[@]}" "${batch[@]}" --run.precision bf16 --router.force $routing
  done
done
measure_score 8192 16384,131072
measure_score 131072 16384

if [ $growth -eq 1 ]; then
  small=(--config "$root/configs/model/bench.cfg" --model.layers 4 --model.d_model 256 --model.heads 4
    --model.expert_d_ff 256 --run.precision bf16 --train.micro_batch 4 --train.batch 4)
  for length in 512 1024 2048 4096 8192 16384; do
    measure "growth length $length" "${small[@]}" --data.seq_len $length --model.max_seq 16384 \
      --train.batch 1 --train.micro_batch 1
  done
  for experts in 8 16 32 64 128; do
    measure "growth experts $experts" "${small[@]}" --model.experts $experts
  done
  for sequences in 1 2 4 8 16; do
    measure "growth batch $sequences" "${small[@]}" --train.batch $sequences \
      --train.micro_batch $sequences
  done
  for layers in 2 4 8 16; do
    measure "growth depth $layers" "${small[@]}" --model.layers $layers
  done
  "$python" "$root/analysis/growth.py" "$out/steps.jsonl" -o "$out/growth.png"
fi
if [ $kernels -eq 1 ]; then
  OMP_NUM_THREADS=$threads "$bench/kernels_bench" --benchmark_out="$out/kernels.json" \
    --benchmark_out_format=json --benchmark_min_time=0.2 >/dev/null
fi
"$python" "$root/analysis/bench_table.py" "$out" | tee "$out/bench.md"
