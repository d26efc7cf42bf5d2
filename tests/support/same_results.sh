#!/usr/bin/env bash
# Whether two builds compute the same, bit for bit: for changes that must not change any result.
#
# usage: tests/support/same_results.sh OLD NEW [CASE...]
#
# OLD, NEW: moesaic binaries. For each case both train 12 steps with evaluations, score and generate
# from the last checkpoint, and each resumes the checkpoint of step 6 of the other one. Compared are
# losses, norms, counts, scores, tokens and all blocks of the checkpoints; times are not.
# Exit code: 0 equal, 1 not.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 64; }
old=$(realpath "$1") new=$(realpath "$2")
shift 2
root=$(cd "$(dirname "$0")/../.." && pwd)
source "$root/jobs/common.sh"
python=$(find_python)
folder=$(mktemp -d -t moesaic-same-XXXXXX)
trap 'rm -rf "$folder"' EXIT
export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1

model=(--model.layers 2 --model.d_model 64 --model.heads 4 --model.max_seq 64)
moe=(--model.experts 8 --model.top_k 2 --model.shared_experts 1 --model.expert_d_ff 48)
# Name, ranks, keys. Capacities below the load, so that tokens overflow.
declare -A ranks=([dense]=1 [drop]=1 [next]=2 [spare]=2 [task_gate]=1 [bias]=1 [tp2]=2 [pp2]=2 [ep2_zero]=2 [bf16]=2)
declare -A keys=(
  [dense]="--model.experts 0 --model.dense_layers 2 --model.shared_experts 0"
  [drop]="--router.capacity_factor 0.8"
  [next]="--router.capacity_factor 0.8 --router.overflow next --parallel.ep 2"
  [spare]="--router.capacity_factor 0.8 --router.overflow spare --router.spare_experts 2 --parallel.ep 2"
  [task_gate]="--router.task_gate 1 --router.candidates 5"
  [bias]="--router.score sigmoid --router.balance bias --router.bias_rate 0.01 --router.z_loss 0.001"
  [tp2]="--parallel.tp 2 --parallel.sequence 1"
  [pp2]="--parallel.pp 2"
  [ep2_zero]="--parallel.ep 2 --parallel.zero 1"
  [bf16]="--parallel.ep 2 --run.precision bf16")
all=(dense drop next spare task_gate bias tp2 pp2 ep2_zero bf16)
[ $# -gt 0 ] || set -- "${all[@]}"

run() {  # BINARY RANKS JOB [KEY VALUE...]
  local log=$folder/log
  mpirun --oversubscribe --bind-to none -n "$2" "$1" "${@:3}" >"$log" 2>&1 || { cat "$log"; return 1; }
}

"$python" - "$root" "$folder" <<'EOF'
"""Documents of two tasks: the lines of the project's own texts."""
import json
import pathlib
import sys
root, folder = map(pathlib.Path, sys.argv[1:])
lines = [line for path in sorted(root.glob("src/*/README.md")) for line in path.read_text().splitlines() if line]
with open(folder / "text.jsonl", "w") as out, open(folder / "prompts.jsonl", "w") as prompts:
    for number in range(0, len(lines) - 4, 4):
        row = {"id": f"d{number}", "task": ["code", "prose"][number % 3 % 2], "text": " ".join(lines[number:number + 4])}
        out.write(json.dumps(row) + "\n")
        if number % 40 == 0:
            prompts.write(json.dumps({**row, "text": lines[number][:24]}) + "\n")
EOF
for build in old new; do
  run "${!build}" 1 tokenize --tokenize.input "$folder/text.jsonl" --tokenize.output "$folder/$build/corpus" \
    --tokenize.tokenizer byte --tokenize.shards 2 --tokenize.holdout 0.1
  run "${!build}" 1 tokenize --tokenize.input "$folder/prompts.jsonl" --tokenize.output "$folder/$build/prompts" \
    --tokenize.tokenizer byte --tokenize.shards 1
done

compare() {  # prints what differs below two folders
  "$python" - "$1" "$2" <<'EOF'
import pathlib
import sys

import h5py
import numpy as np

# What the clock or the build says, and not the computation.
OTHER = ("seconds", "time", "phase", "peak_memory", "bubble", "events/")  # a slow rank is an event

def contents(path):
    found = {}
    def visit(name, item):
        if isinstance(item, h5py.Dataset) and not any(word in name for word in OTHER):
            found[name] = item[()]
    with h5py.File(path) as file:
        file.visititems(visit)
    return found

def same(one, other):
    one, other = np.asarray(one), np.asarray(other)
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()

one, other = map(pathlib.Path, sys.argv[1:])
files = sorted(path.relative_to(one) for path in one.rglob("*.h5"))
values, wrong = 0, []
if files != sorted(path.relative_to(other) for path in other.rglob("*.h5")) or not files:
    wrong.append("other files")
for name in files:
    mine, theirs = contents(one / name), contents(other / name)
    values += len(mine)
    wrong += [f"{name}: /{key}" for key in sorted(mine.keys() | theirs.keys())
              if key not in mine or key not in theirs or not same(mine[key], theirs[key])]
print("\n".join(wrong) if wrong else f"{values} datasets of {len(files)} files are equal")
sys.exit(1 if wrong else 0)
EOF
}

failed=0
check() {  # CASE WHAT ONE OTHER
  printf '%-10s %-14s ' "$1" "$2"
  compare "$3" "$4" || failed=1
}

check corpora tokenize "$folder/old" "$folder/new"
corpus=(--data.corpus "$folder/old/corpus/train" --data.eval_corpus "$folder/old/corpus/heldout")
for case in "$@"; do
  [ -n "${ranks[$case]:-}" ] || { echo "$0: no case '$case'; one of ${all[*]}" >&2; exit 64; }
  read -ra extra <<<"${keys[$case]}"
  train=(train "${model[@]}" "${moe[@]}" "${corpus[@]}" --data.seq_len 64 --train.batch 8 --train.micro_batch 2
    --train.steps 12 --train.lr 0.01 --train.warmup 2 --eval.every 5 --checkpoint.every 6 --checkpoint.keep 9
    --run.precision fp32 "${extra[@]}")
  infer=(--run.precision fp32)
  [ "$case" != bf16 ] || infer=(--run.precision bf16)
  for build in old new; do
    run "${!build}" "${ranks[$case]}" "${train[@]}" --run.dir "$folder/$case/$build/train"
    last=$folder/$case/$build/train/checkpoints/step-00000012
    run "${!build}" 1 score --model.path "$last" --data.corpus "$folder/old/corpus/heldout" "${infer[@]}" \
      --score.output "$folder/$case/$build/scores.h5"
    run "${!build}" 1 generate --model.path "$last" --data.corpus "$folder/old/prompts" "${infer[@]}" \
      --generate.max_tokens 12 --generate.output "$folder/$case/$build/generations.h5"
  done
  check "$case" "train, infer" "$folder/$case/old" "$folder/$case/new"
  for build in old new; do
    other=$([ $build = old ] && echo new || echo old)
    run "${!build}" "${ranks[$case]}" "${train[@]}" --run.dir "$folder/$case/again_$build" \
      --checkpoint.resume "$folder/$case/$other/train/checkpoints/step-00000006"
    check "$case" "$build resumed" "$folder/$case/again_$build/checkpoints/step-00000012" \
      "$folder/$case/$other/train/checkpoints/step-00000012"
  done
  rm -rf "${folder:?}/$case"
done
[ $failed -eq 0 ] && echo "no result differs"
exit $failed
