# What slurm/*.sbatch share; sourced in the folder that sbatch was called in, never run.
# shellcheck shell=bash
# shellcheck disable=SC2154  # root, program, site_srun: of jobs/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../jobs/common.sh"

# The number of an array's job may stand for the whole array: name this task of it.
this_job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
this_job=${this_job:-$SLURM_JOB_ID}
most_restarts=${MAX_RESTARTS:-20}
# Restarts of this job, and of those before it that could not be put back into the queue.
restarts=$((${MOESAIC_RESTARTS:-0} + ${SLURM_RESTART_COUNT:-0}))

log() { echo "$(date -u +%FT%TZ) $*"; }

# Sets the array `wall`. The program stops by itself before the time limit. Slurm older than 23.02
# does not tell it when that is; then squeue says what is left, as [DAYS-][[HOURS:]MINUTES:]SECONDS.
set_wall() {
  local left seconds
  wall=()
  [ -z "${SLURM_JOB_END_TIME:-}" ] || return 0
  left=$(squeue -h -j "$this_job" -o %L | head -n 1 | tr '-' ':')
  if [[ $left =~ ^[0-9]+(:[0-9]+)*$ ]]; then
    seconds=$(awk -F: '{ split("1 60 3600 86400", unit, " ")
      for (i = 1; i <= NF; i++) s += $(NF + 1 - i) * unit[i]
      print s }' <<<"$left")
    wall=(--run.max_wall "$seconds")
  fi
}

# A follow-up job with the options of this one, for sites that do not let jobs go back into the
# queue. It starts when this one has ended, and writes into the same log.
submit_again() {  # SCRIPT ARGUMENTS...
  local options=(--parsable --export=ALL "--dependency=afterany:$this_job") forget=() pair name value log_file
  for pair in job-name:SLURM_JOB_NAME nodes:SLURM_JOB_NUM_NODES ntasks:SLURM_NTASKS \
    ntasks-per-node:SLURM_NTASKS_PER_NODE cpus-per-task:SLURM_CPUS_PER_TASK \
    partition:SLURM_JOB_PARTITION account:SLURM_JOB_ACCOUNT qos:SLURM_JOB_QOS \
    reservation:SLURM_JOB_RESERVATION mem:SLURM_MEM_PER_NODE mem-per-cpu:SLURM_MEM_PER_CPU \
    mem-per-gpu:SLURM_MEM_PER_GPU gpus:SLURM_GPUS gpus-per-node:SLURM_GPUS_PER_NODE \
    gpus-per-task:SLURM_GPUS_PER_TASK array:SLURM_ARRAY_TASK_ID; do
    name=${pair#*:}
    [ -z "${!name:-}" ] || options+=("--${pair%%:*}=${!name}")
  done
  # What no variable tells: the time limit (%l), features (%f) and devices (%b) that were asked for.
  for pair in time:%l constraint:%f gres:%b; do
    value=$(squeue -h -j "$this_job" -o "${pair#*:}" | head -n 1)
    case $value in
      '' | N/A | *null*) ;;
      gres*) [ -n "${SLURM_GPUS_PER_NODE:-}" ] || options+=("--gres=${value#gres?}") ;;
      *) options+=("--${pair%%:*}=$value") ;;
    esac
  done
  log_file=$(scontrol show job "$this_job" | sed -n 's/^ *StdOut=//p' | head -n 1)
  [ -z "$log_file" ] || options+=("--output=$log_file")
  # The new job gets variables of its own: none of this one's may be left where it has none.
  for name in $(compgen -v SLURM_); do
    [ "$name" = SLURM_CONF ] || forget+=(-u "$name")
  done
  env "${forget[@]}" MOESAIC_HOME="$root" MOESAIC_RESTARTS=$((restarts + 1)) \
    MOESAIC_JOB="${MOESAIC_JOB:-$SLURM_JOB_ID}" sbatch "${options[@]}" "$@"
}

# 75: stopped early, with new work saved. 70, 74: an internal or disk error; 134, 135, 137, 139: a
# rank that aborted (as MPI does when it misses another), was killed or crashed (128 + ABRT, BUS,
# KILL, SEGV); 138: told to stop (USR1) before it was ready. Another node may do better. Anything
# else (bad input, bad numbers) would only fail again.
queue_again() {  # CODE SCRIPT ARGUMENTS...
  local code=$1 next
  shift
  case $code in
    0) log "exit code 0: done"; return 0 ;;
    70 | 74 | 75 | 134 | 135 | 137 | 138 | 139) ;;
    *) log "exit code $code: not run again; slurm/README.md says what it means" >&2; return 0 ;;
  esac
  if [ "$restarts" -ge "$most_restarts" ]; then
    log "exit code $code after $restarts restarts: submit again to go on" >&2
    return 0
  fi
  log "exit code $code: back into the queue"
  scontrol requeue "$this_job" && return 0
  if next=$(submit_again "$@"); then
    log "not let back into the queue: job $next goes on when this one has ended"
  else
    log "neither put back into the queue nor submitted again: submit it by hand to go on" >&2
  fi
}

# Runs a job of the program on all tasks, and puts it back into the queue where that can help.
run_job() {  # SCRIPT JOB OPTIONS -- CONFIG ARGUMENTS...: OPTIONS come from the script alone
  local script=$1 job=$2 own=() config code
  shift 2
  while [ "$1" != -- ]; do own+=("$1"); shift; done
  shift
  script_name=$job.sbatch
  if [ $# -eq 0 ] || [ ! -f "$1" ]; then
    fail 64 "no config file '${1:-}' in $PWD: sbatch slurm/$job.sbatch FILE.cfg ..."
  fi
  config=$1
  set_program
  set_wall
  # One thread for each core of a task. Since Slurm 22.05 srun no longer takes over --cpus-per-task.
  export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
  export SRUN_CPUS_PER_TASK=$OMP_NUM_THREADS
  log "job $this_job on ${SLURM_JOB_NODELIST:-?}, restart $restarts of at most $most_restarts"
  # The ranks end together: half a minute after one ended, the others wait for it in vain.
  # Not --kill-on-bad-exit: it would kill the ranks that are a moment behind in stopping with 75.
  code=0
  srun --mpi=pmix --cpu-bind=cores --wait=30 "${site_srun[@]}" \
    "${program[@]}" "$job" --config "$config" "${own[@]}" "${wall[@]}" "${@:2}" || code=$?
  queue_again "$code" "$script" "$@"
  exit "$code"
}
