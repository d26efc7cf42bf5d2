#!/usr/bin/env bash
# From a fresh clone, or an installed tree, to a trained, scored and drawn mixture-of-experts model:
#   bash jobs/quickstart.sh [--out DIR] [--ranks N] [--text DIR] [--no-install] [--short]
#   --out DIR       where everything lands (default runs/quickstart)
#   --ranks N       MPI ranks (default 2)
#   --text DIR      your own text: files, or one folder for each kind of text
#   --no-install    install nothing: list what is missing and exit 69 (clusters with modules)
#   --short         a few training steps on little text, to see that everything works
# A second run continues where the first one stopped. MOESAIC=PATH uses that program, unbuilt;
# MOESAIC_SITE=FILE names what a cluster needs (slurm/site.example.sh).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

out=$runs/quickstart ranks=2 text='' install=1 short=0
while [ $# -gt 0 ]; do
  case "$1" in
    --out) need_value "$1" "${2:-}"; out=$2; shift 2 ;;
    --ranks) need_value "$1" "${2:-}"; ranks=$2; shift 2 ;;
    --text) need_value "$1" "${2:-}"; text=$2; shift 2 ;;
    --no-install) install=0; shift ;;
    --short) short=1; shift ;;
    -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) fail 64 "unknown option $1 (see --help)" ;;
  esac
done
[[ $ranks =~ ^[1-9][0-9]*$ ]] || fail 64 "--ranks $ranks: a number of ranks is needed, such as 2"
if [ -n "$text" ] && [ ! -d "$text" ]; then
  fail 66 "--text $text: no such folder (looked for $(realpath -m "$text"))"
fi

# Begins a stage, and says how long the one before took.
stage='' began=0
enter() {  # STAGE
  [ -z "$stage" ] || echo "$stage: $((SECONDS - began)) s"
  stage=$1 began=$SECONDS
  [ -z "$stage" ] || say "$stage"
}

enter "1/7 What is needed"
needed=()
[ -n "$text" ] || needed+=(--texts)
to_build=$has_source
[ -z "${MOESAIC:-}${MOESAIC_RUN:-}" ] || to_build=0
[ "$to_build" -eq 1 ] || needed+=(--no-build)
[ $install -eq 1 ] || needed+=(--check)
bash "$root/jobs/setup.sh" "${needed[@]}"
python=$(find_python)
set_launcher "$ranks"

enter "2/7 Build"
if [ "$to_build" -eq 1 ]; then
  build() {
    (cd "$root" && cmake --preset release >/dev/null && cmake --build --preset release --target moesaic)
  }
  if [ -t 1 ]; then
    build
  else  # progress is for terminals
    mkdir -p "$out"
    build >"$out/build.log" 2>&1 || { tail -n 30 "$out/build.log"; fail 70 "the build failed: see $out/build.log"; }
  fi
  MOESAIC=$root/build/release/moesaic
fi
set_program
echo "${program[@]}"

# Instructions that multiply bf16 twice as fast as fp32; without them it is no faster.
precision=fp32
! grep -qwE 'avx512_bf16|amx_bf16' <(lscpu 2>/dev/null) || precision=bf16
# These come after the config file, and so win.
tokenize_extra=() evaluation=() train_extra=(--run.precision "$precision") text_bytes=25000000
if [ $short -eq 1 ]; then
  text_bytes=1500000
  tokenize_extra=(--tokenize.vocab_size 1024)
  train_extra+=(--train.tokens 40960 --train.warmup 5 --checkpoint.every 10)
  evaluation=(--eval.every 10 --eval.tokens 8192)
fi
# The config is for two ranks: others spread its 16 experts, and get a micro-batch of 4 each.
if [ "$ranks" -ne 2 ]; then
  train_extra+=(--parallel.ep "$(greatest_common_divisor 16 "$ranks")")
fi
if [ "$ranks" -gt 2 ]; then
  train_extra+=(--train.batch $((4 * ranks)))
fi

enter "3/7 Text"
given=$text
if [ -z "$text" ]; then
  text=$out/text
  bash "$root/jobs/make_text.sh" "$text" --bytes $text_bytes
fi
# Folders inside the text folder are kinds of text, and give the tasks their names.
inputs=() tasks=()
for folder in "$text"/*/; do
  if [ -d "$folder" ]; then
    inputs+=(--tokenize.input "${folder%/}")
    tasks+=(--tokenize.task "$(basename "$folder")")
  fi
done
if [ ${#inputs[@]} -eq 0 ] || [ -n "$(find "$text" -maxdepth 1 -type f -not -name '.*' -print -quit)" ]; then
  inputs=(--tokenize.input "$text") tasks=()
fi
echo "$text"

enter "4/7 A sharded corpus, with documents held out"
show_and_run "${launcher[@]}" "${program[@]}" tokenize --config "$root/configs/quickstart.cfg" \
  "${inputs[@]}" "${tasks[@]}" --tokenize.output "$out/corpus" "${tokenize_extra[@]}"

# With few documents none may be held out; then there is nothing to evaluate or score.
held_out=$("$python" -c 'import json, sys
print(sum(json.load(open(name)).get("tokens", 0) for name in sys.argv[1:]))' \
  "$out"/corpus/heldout/corpus.json)
enough=1
if [ "$held_out" -lt 512 ]; then  # two sequences
  echo "Held out are $held_out tokens, too few to evaluate: give more documents (files, or lines of JSONL)"
  enough=0
  evaluation=(--eval.every 0)
else
  evaluation+=(--data.eval_corpus "$out/corpus/heldout")
fi

enter "5/7 Training"
case $precision in
  bf16) echo "In bf16: this processor has instructions for it" ;;
  fp32) echo "In fp32: this processor has no instructions for bf16 (avx512_bf16, amx_bf16)" ;;
esac
train=("${launcher[@]}" "${program[@]}" train --config "$root/configs/quickstart.cfg"
  --data.corpus "$out/corpus/train" "${train_extra[@]}")

key_of() {  # CONFIG KEY
  "$python" "$root/analysis/scaling_row.py" key "$1" "$2" ''
}

# Sets `length`: a machine that needs more than five and a half minutes for the tokens of the config
# gets fewer, by the speed of its first steps. A run that goes on keeps its own.
set_length() {
  local begun=$out/train/config.cfg config=$root/configs/quickstart.cfg speed tokens most
  if [ -f "$begun" ]; then
    length=(--train.tokens "$(key_of "$begun" train.tokens)" --train.warmup "$(key_of "$begun" train.warmup)")
    return
  fi
  echo "Five steps, to see how fast this machine is"
  rm -rf "$out/speed"
  show_and_run "${train[@]}" --run.dir "$out/speed" --train.steps 5 --eval.every 0
  speed=$(sed -n 's/.*tokens_per_s=\([0-9]*\).*/\1/p' "$out/speed/log.txt" | tail -n 1)
  rm -rf "$out/speed"
  tokens=$((speed * 330))
  most=$(key_of "$config" train.tokens)
  if [ $tokens -lt "$most" ]; then
    echo "$speed tokens/s: training on $tokens tokens instead of $most"
    length=(--train.tokens "$tokens"
      --train.warmup $(($(key_of "$config" train.warmup) * tokens / most + 1)))
  fi
}
length=()
[ $short -eq 1 ] || set_length
show_and_run "${train[@]}" "${evaluation[@]}" --run.dir "$out/train" "${length[@]}" || {
  code=$?
  [ $code -ne 75 ] || echo "Stopped with a checkpoint: the same command continues from it"
  exit $code
}

if [ $enough -eq 1 ]; then
  enter "6/7 Scoring the held-out documents"
  show_and_run "${launcher[@]}" "${program[@]}" score --model.path "$out/train/checkpoints" \
    --data.corpus "$out/corpus/heldout" --score.output "$out/scores.h5" --run.precision fp32
fi

enter "7/7 The report"
"$python" "$root/analysis/report.py" "$out/train/trace.h5" -o "$out/report"
if [ $enough -eq 1 ]; then
  "$python" "$root/analysis/compression.py" --scores "$out/scores.h5" --corpus "$out/corpus/heldout" \
    --text "$text"
fi
enter ''
echo "All of it: $SECONDS s"
echo
echo "Report: $out/report/index.html"
if [ -n "$given" ]; then
  echo "Next: a run of your own: $root/configs/train.cfg is one to start from"
else
  echo "Next: the same with your own text: bash $0 --text FOLDER --out ANOTHER"
fi
