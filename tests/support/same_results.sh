#!/usr/bin/env bash
# Whether two builds compute the same, bit for bit: for changes that must not change any result.
#
# usage: tests/support/same_results.sh OLD NEW [CASE...]
#
# OLD, NEW: moesaic binaries. For each case both train 12 steps with evaluations, score and generate
# from the last checkpoint on the same layout, and each resumes the checkpoint of step 6 of the other
# one. The case `convert` quantises with calibration, and scores beside the reference. Compared is
# all that is in the files they write but times, peak memory and paths. Keys that one build alone knows
# are left out, and so are groups of ranks in which nothing is sent.
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
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1

model=(--model.layers 2 --model.d_model 64 --model.heads 4 --model.max_seq 64 --model.experts 8 --model.top_k 2
  --model.shared_experts 1 --model.expert_d_ff 48)
# CASE: ranks | keys of training alone | keys of the layout and of precision. Capacities lie below the
# load, so that tokens overflow.
cases="
dense     : 1 | --model.experts 0 --model.dense_layers 2 --model.shared_experts 0 |
drop      : 1 | --router.capacity_factor 0.8 --trace.routing every:2 --train.recompute 1 |
next      : 2 | --router.capacity_factor 0.8 --router.overflow next | --parallel.ep 2
spare     : 2 | --router.capacity_factor 0.8 --router.overflow spare --router.spare_experts 2 --trace.routing all | --parallel.ep 2
task_gate : 1 | --router.task_gate 1 --router.candidates 5 |
bias      : 1 | --router.score sigmoid --router.balance bias --router.bias_rate 0.01 --router.z_loss 0.001 |
threads   : 1 | --model.sinks 1 --model.qk_norm head | --run.threads 3
tp2       : 2 | --model.kv_heads 1 --model.qk_norm projection | --parallel.tp 2 --parallel.sequence 1
pp2       : 2 | --model.tie_embeddings 1 | --parallel.pp 2
chunks    : 2 | --model.layers 4 | --parallel.pp 2 --parallel.schedule interleaved --parallel.virtual_stages 2
ep2_zero  : 2 | --parallel.zero 1 | --parallel.ep 2
dp2       : 4 | --router.gradient_buffer 64 | --parallel.ep 2
split     : 4 | | --parallel.tp 2 --parallel.ep 2
folded    : 4 | | --parallel.tp 2 --parallel.ep 2 --parallel.expert_tp 1
bf16      : 2 | | --parallel.ep 2 --run.precision bf16"
names=$(sed -n 's/^\([a-z0-9_]*\) *:.*/\1/p' <<<"$cases")
[ $# -gt 0 ] || set -- $names convert

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
import json
import pathlib
import sys

import h5py
import numpy as np

# Datasets of traces that a clock makes; attributes that name the build, or have times of files in them.
CLOCK = {"seconds", "unix_time", "time", "time_mean", "rank_seconds", "peak_memory", "bubble"}
BUILD = {"version", "git_hash", "created", "fingerprint"}

def contents(path):
    found = {}
    def attributes(name, item):
        found.update({f"{name}@{key}": value for key, value in item.attrs.items()
                      if key not in BUILD and not isinstance(value, h5py.Reference)
                      and key not in ("DIMENSION_LIST", "REFERENCE_LIST", "config", "config_sha256")})
        section = ""
        for line in item.attrs.get("config", b"").decode().splitlines():
            section = line if line.startswith("[") else section
            key, _, value = line.partition(" =")
            found[f"{name}@{section}.{key}"] = value
    def visit(name, item):
        attributes(name, item)
        if isinstance(item, h5py.Dataset) and not (path.name.endswith("trace.h5") and (
                name.split("/")[-1] in CLOCK or name.startswith("events/"))):
            found[name] = item[()]
    with h5py.File(path) as file:
        attributes("", file)
        file.visititems(visit)
        if path.name.endswith("trace.h5") and "events" in file:
            kinds, steps = file["events/kind"][()], file["events/step"][()]
            found["events"] = [(kind, step) for kind, step in zip(kinds, steps) if kind != b"straggler"]
        if path.name.endswith("trace.h5") and "traffic" in found:
            del found["traffic"], found["group"]
            found.update({f"traffic/{group.decode()}": sent for group, sent
                          in zip(file["group"][()], file["traffic"][()].T) if sent.any()})
    return found

def manifest(path):
    """What a checkpoint says of itself but clocks, sums of whole files, and paths."""
    found = {}
    def walk(name, value):
        if isinstance(value, dict):
            for key, each in value.items():
                walk(f"{name}/{key}", each)
        elif isinstance(value, list):
            for index, each in enumerate(value):
                walk(f"{name}/{index}", each)
        elif name != "/sha256" and not any(part in name for part in ("/config/", "created", "version", "save_seconds", "git", "/notes", "fingerprint")):
            found[name] = value
    walk("", json.loads(path.read_text()))
    return found

def is_key(name):  # of the config: an attribute such as parallel.tp
    return "." in name.partition("@")[2]

def same(one, other):
    if not isinstance(one, (np.ndarray, np.generic)):  # of a manifest
        return one == other
    one, other = np.asarray(one), np.asarray(other)
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()

one, other = map(pathlib.Path, sys.argv[1:])
def files_of(top):
    return sorted(path.relative_to(top) for path in top.rglob("*")
                  if path.suffix == ".h5" or path.name == "manifest.json")
files, values, wrong = files_of(one), 0, []
if files != files_of(other) or not files:
    wrong.append("other files")
for name in files:
    read = contents if name.suffix == ".h5" else manifest
    mine, theirs = read(one / name), read(other / name)
    values += len(mine)
    wrong += [f"{name}: {key}" for key in sorted(mine.keys() | theirs.keys())
              if not (same(mine[key], theirs[key]) if key in mine and key in theirs else is_key(key))]
print("\n".join(wrong) if wrong else f"{values} values of {len(files)} files are equal")
sys.exit(1 if wrong else 0)
EOF
}

failed=0
check() {  # CASE WHAT ONE OTHER
  printf '%-10s %-14s ' "$1" "$2"
  compare "$3" "$4" || failed=1
}

check corpora tokenize "$folder/old" "$folder/new"
corpus=$folder/old/corpus
for case in "$@"; do
  line=$(grep -E "^$case +:" <<<"$cases" || true)
  [ "$case" != convert ] || line=$(grep -E "^drop +:" <<<"$cases")
  [ -n "$line" ] || { echo "$0: no case '$case'; one of" $names convert >&2; exit 64; }
  IFS='|' read -r ranks extra layout <<<"${line#*:}"
  ranks=${ranks// /}
  read -ra extra <<<"$extra"
  read -ra layout <<<"$layout"
  precision=(--run.precision fp32)
  [[ " ${layout[*]} " != *" --run.precision "* ]] || precision=()
  [[ " ${layout[*]} " == *" --run.threads "* ]] || layout+=(--run.threads 1)
  layout+=("${precision[@]}")
  train=(train "${model[@]}" --data.corpus "$corpus/train" --data.eval_corpus "$corpus/heldout" --data.seq_len 64
    --train.batch 8 --train.micro_batch 2 --train.steps 12 --train.lr 0.01 --train.warmup 2 --eval.every 5
    --checkpoint.every 6 --checkpoint.keep 9 --run.deterministic 1 "${extra[@]}" "${layout[@]}")
  at=$folder/$case/run  # both at the same path, as files name it
  for build in old new; do
    run "${!build}" "$ranks" "${train[@]}" --run.dir "$at/train"
    last=$at/train/checkpoints/step-00000012
    if [ "$case" = convert ]; then
      run "${!build}" 2 convert "$last" "$at/int4" --convert.quantize int4 \
        --convert.calibration "$corpus/train"
      run "${!build}" 2 score --model.path "$at/int4" --data.corpus "$corpus/heldout" \
        --parallel.ep 2 --score.reference "$last" --score.reference_detail both \
        --score.output "$at/scores.h5" "${layout[@]}"
      mv "$at" "$folder/$case/$build"
      continue
    fi
    run "${!build}" "$ranks" score --model.path "$last" --data.corpus "$corpus/heldout" "${layout[@]}" \
      --score.output "$at/scores.h5"
    run "${!build}" "$ranks" generate --model.path "$last" --data.corpus "$folder/old/prompts" "${layout[@]}" \
      --generate.max_tokens 12 --generate.output "$at/generations.h5"
    mv "$at" "$folder/$case/$build"
  done
  check "$case" "train, infer" "$folder/$case/old" "$folder/$case/new"
  for build in old new; do
    [ "$case" != convert ] || continue
    other=$([ $build = old ] && echo new || echo old)
    run "${!build}" "$ranks" "${train[@]}" --run.dir "$folder/$case/again_$build" \
      --checkpoint.resume "$folder/$case/$other/train/checkpoints/step-00000006"
    check "$case" "$build resumed" "$folder/$case/again_$build/checkpoints/step-00000012" \
      "$folder/$case/$other/train/checkpoints/step-00000012"
  done
  rm -rf "${folder:?}/$case"
done
[ $failed -eq 0 ] && echo "no result differs"
exit $failed
