#!/usr/bin/env bash
# Trains the same model on several numbers of ranks, or in several layouts, and collects the speeds
# in DIR/scaling.csv:
#   bash jobs/scaling.sh --mode strong|weak --ranks "1 2 4 8" [options] -o DIR FILE.cfg
#                        [--section.key VALUE]...
#   bash jobs/scaling.sh --layouts "dp=1 ep=2 tp=2,pp=2,sequence=1" [options] -o DIR FILE.cfg ...
#   --layouts L     keys of parallel.* for each run; the ranks are tp x pp x ep x cp x dp, and the
#                   cores of this machine (or --threads) are shared among them
#   --repeat N      runs of each, in turn (default 5)
#   --steps N       training steps of each run (default 20; the first 3 are left out)
#   --grow experts  weak only: experts grow with the ranks too
#   --threads N     threads of each rank (default: all cores shared by the largest number of ranks)
#   --submit        one Slurm job for each number of ranks, and one that collects
# strong: the batch stays; weak: it grows with the ranks. Experts are spread (parallel.ep) over as
# many ranks as divide them; give --parallel.ep after FILE.cfg to fix it. Without data.corpus in the
# config, random tokens are trained on. MOESAIC= names the binary.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

mode='' counts='' layouts='' repeat=5 steps=20 grow='' submit=0 out='' config='' base='' threads='' extra=()
while [ $# -gt 0 ]; do
  case "$1" in
    --mode) need_value "$1" "${2:-}"; mode=$2; shift 2 ;;
    --ranks) need_value "$1" "${2:-}"; counts=$2; shift 2 ;;
    --layouts) need_value "$1" "${2:-}"; layouts=$2; shift 2 ;;
    --repeat) need_value "$1" "${2:-}"; repeat=$2; shift 2 ;;
    --steps) need_value "$1" "${2:-}"; steps=$2; shift 2 ;;
    --grow) need_value "$1" "${2:-}"; grow=$2; shift 2 ;;
    --threads) need_value "$1" "${2:-}"; threads=$2; shift 2 ;;
    --base) need_value "$1" "${2:-}"; base=$2; shift 2 ;;  # smallest count; set by --submit
    --submit) submit=1; shift ;;
    -o) need_value "$1" "${2:-}"; out=$2; shift 2 ;;
    -h | --help) sed -n '2,18s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --*.*) need_value "$1" "${2:-}"; extra+=("$1" "$2"); shift 2 ;;
    -*) fail 64 "unknown option $1 (see --help)" ;;
    *) config=$1; shift ;;
  esac
done
if [ -n "$layouts" ]; then
  [ -z "$mode$counts$grow" ] && [ $submit -eq 0 ] || fail 64 "--layouts goes without --mode, --ranks," \
    "--grow and --submit"
  mode=layout
  counts=1
fi
case "$mode" in strong | weak | layout) ;; *) fail 64 "--mode '$mode': strong or weak" ;; esac
case "$grow" in '' | experts) ;; *) fail 64 "--grow '$grow': experts" ;; esac
[ -z "$grow" ] || [ "$mode" = weak ] || fail 64 "--grow experts needs --mode weak"
[ -n "$out" ] || fail 64 "-o DIR is missing"
[[ $counts =~ ^[0-9]+([[:space:]]+[0-9]+)*$ ]] || fail 64 "--ranks '$counts': numbers, such as \"1 2 4\""
[ -f "$config" ] || fail 66 "no config file '$config'"
[ "$steps" -gt 3 ] || fail 64 "--steps $steps: the first 3 are left out, so at least 4 are needed"

set_program
python=$(find_python)
read -ra counts <<<"$(tr ' ' '\n' <<<"$counts" | sort -nu | tr '\n' ' ')"
base=${base:-${counts[0]}}
its_threads=$threads
threads=${threads:-${SLURM_CPUS_PER_TASK:-$(threads_for "${counts[-1]}")}}
mkdir -p "$out"

key_of() {  # SECTION.KEY DEFAULT [text]: a later value on the command line wins over the file
  local i value
  value=$("$python" "$root/analysis/scaling_row.py" key "$config" "$1" "$2" ${3:+--text})
  for ((i = 0; i < ${#extra[@]}; i += 2)); do
    [ "${extra[i]}" = "--$1" ] && value=${extra[i + 1]}
  done
  echo "$value"
}
batch=$(key_of train.batch 8)
micro_batch=$(key_of train.micro_batch 8)
experts=$(key_of model.experts 16)

# Sets the array `keys`: the options in which the run on RANKS differs from the config file.
set_keys() {  # RANKS
  local ranks=$1 its_batch=$batch its_experts=$experts
  if [ "$mode" = weak ]; then
    [ $((batch * ranks % base)) -eq 0 ] || fail 64 "train.batch = $batch does not grow from $base to" \
      "$ranks ranks in whole sequences"
    its_batch=$((batch * ranks / base))
    [ -z "$grow" ] || its_experts=$((experts * ranks / base))
  fi
  [ $((its_batch % (micro_batch * ranks))) -eq 0 ] || fail 64 "train.batch = $its_batch in" \
    "micro-batches of $micro_batch leaves some of $ranks ranks without work: make the batch a" \
    "multiple of micro_batch x ranks = $((micro_batch * ranks)), or train.micro_batch smaller"
  keys=("${extra[@]}" --train.batch "$its_batch" --train.steps "$steps")
  [ -z "$grow" ] || keys+=(--model.experts "$its_experts")
  case " ${extra[*]-} " in
    *" --parallel.ep "*) ;;
    *) keys+=(--parallel.ep "$(greatest_common_divisor "$its_experts" "$ranks")") ;;
  esac
}

# Sets `keys` for a LAYOUT, its number of `ranks`, and the `threads` of each.
set_layout() {
  local part
  ranks=1 keys=("${extra[@]}" --train.steps "$steps" --parallel.ep 1)
  for part in ${1//,/ }; do
    case "$part" in
      tp=* | pp=* | ep=* | cp=* | dp=*) ranks=$((ranks * ${part#*=})) ;;
      *=*) ;;
      *) fail 64 "--layouts: '$part' is not KEY=VALUE" ;;
    esac
    [ "${part%%=*}" = dp ] || keys+=("--parallel.${part%%=*}" "${part#*=}")
  done
  threads=${its_threads:-$(threads_for "$ranks")}
}

if [ $mode = layout ]; then
  read -ra cases <<<"$layouts"
else
  cases=("${counts[@]}")
  for ranks in "${cases[@]}"; do
    set_keys "$ranks"
  done
fi

if [ $submit -eq 1 ]; then
  ids=()
  for ranks in "${counts[@]}"; do
    command="MOESAIC=$(printf %q "${MOESAIC:-${program[0]}}") bash $(printf '%q ' "$root/jobs/scaling.sh" --mode "$mode" \
      --ranks "$ranks" --base "$base" --repeat "$repeat" --steps "$steps" --threads "$threads" \
      ${grow:+--grow "$grow"} -o "$out/ranks-$ranks" "$config" "${extra[@]}")"
    ids+=("$(sbatch --parsable --ntasks="$ranks" --cpus-per-task="$threads" \
      --job-name="scaling-$ranks" --output="$out/scaling-$ranks.out" --wrap "$command")")
  done
  collect="awk 'FNR > 1 || NR == 1' $(printf '%q/ranks-*/scaling.csv' "$out") > $(printf %q "$out/scaling.csv")"
  sbatch --parsable --ntasks=1 --dependency="afterany:$(IFS=:; echo "${ids[*]}")" \
    --job-name=scaling-collect --output="$out/scaling-collect.out" --wrap "$collect"
  exit 0
fi

partial=$out/scaling.csv.partial
"$python" "$root/analysis/scaling_row.py" head >"$partial"
if [ -z "$(key_of data.corpus '' text)" ]; then
  "$python" "$root/analysis/scaling_row.py" corpus "$out/random.h5" "$(key_of model.vocab_size 8192)"
  extra+=(--data.corpus "$out/random.h5")
fi
for ((k = 1; k <= repeat; k++)); do  # in turn, so that a busy hour of the machine hits all alike
  for case in "${cases[@]}"; do
    if [ $mode = layout ]; then
      set_layout "$case"
    else
      ranks=$case
      set_keys "$ranks"
    fi
    export OMP_NUM_THREADS=$threads
    set_launcher "$ranks"
    run=$out/runs/$mode-$case-$k
    rm -rf "$run"
    say "$mode $case, $ranks ranks x $threads threads, run $k of $repeat"
    show_and_run "${launcher[@]}" "${program[@]}" train --config "$config" "${keys[@]}" --run.dir "$run" \
      --checkpoint.resume none --checkpoint.every 0 --checkpoint.every_minutes 0
    "$python" "$root/analysis/scaling_row.py" row "$run" --mode "$mode" --ranks "$ranks" \
      --threads "$threads" --nodes "${SLURM_JOB_NUM_NODES:-1}" --repeat "$k" \
      --host "$(hostname -s)" >>"$partial"
    rm -rf "$run/checkpoints"
  done
done
mv "$partial" "$out/scaling.csv"
echo
[ $mode != layout ] || "$python" "$root/analysis/scaling_row.py" compare "$out/scaling.csv"
column -s, -t "$out/scaling.csv" 2>/dev/null | cut -c1-160 || cat "$out/scaling.csv"
echo "$out/scaling.csv"
