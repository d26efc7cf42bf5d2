# Shared by the scripts of jobs/ and slurm/; sourced, never run.
# shellcheck shell=bash

# The clone, or share/moesaic of an installed tree. That has no source, and may belong to others:
# runs land in the current folder.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034
if [ -e "$root/CMakeLists.txt" ]; then
  has_source=1 runs=$root/runs
else
  has_source=0 runs=$PWD/runs
fi

fail() {  # CODE MESSAGE...
  local code=$1
  shift
  echo "${script_name:-$(basename "$0")}: $*" >&2
  exit "$code"
}

need_source() {
  [ $has_source -eq 1 ] || fail 66 "needs the source, which is not here ($root): run that of a clone"
}

# The site file: shell that loads modules and sets MOESAIC_RUN and MOESAIC_SRUN
# (slurm/site.example.sh). Functions such as `module` know nothing of -e and -u.
use_site() {
  local options=$-
  [ -n "${MOESAIC_SITE:-}" ] || return 0
  [ -f "$MOESAIC_SITE" ] || fail 66 "MOESAIC_SITE: no file $(realpath -m "$MOESAIC_SITE")"
  set +eu
  # shellcheck disable=SC1090
  source "$MOESAIC_SITE"
  [[ $options != *e* ]] || set -e
  [[ $options != *u* ]] || set -u
}
use_site
read -ra site_srun <<<"${MOESAIC_SRUN:-}"  # more options of srun; of equal ones the last counts

# Sets the array `program`: the command that is moesaic.
set_program() {
  if [ -n "${MOESAIC_RUN:-}" ]; then
    read -ra program <<<"$MOESAIC_RUN"
    command -v "${program[0]}" >/dev/null || fail 66 "MOESAIC_RUN: there is no program ${program[0]}"
    return
  fi
  local prefix place places
  prefix=$(dirname "$(dirname "$root")")
  places=("$root/build/release/moesaic" "$prefix/bin/moesaic" build/release/moesaic)
  [ -z "${MOESAIC:-}" ] || places=("$MOESAIC")
  for place in "${places[@]}"; do
    program=("$place")
    [ ! -x "$place" ] || return 0
  done
  fail 66 "no program $(realpath -m "${places[0]}"): build it" \
    "(cmake --preset release; cmake --build --preset release --target moesaic), or set MOESAIC= or" \
    "MOESAIC_RUN= (slurm/README.md)"
}

need_value() {  # OPTION VALUE: an option that ends the command line has none
  [ -n "${2:-}" ] || fail 64 "$1 needs a value"
}

python_with() {  # MODULES CANDIDATE: the candidate or the system's python, whichever has them
  local candidate
  for candidate in "$2" /usr/bin/python3; do
    if "$candidate" -c "import $1" 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

# A python that can read HDF5 and draw.
find_python() {
  python_with 'h5py, numpy, matplotlib' "${PYTHON:-python3}" && return
  fail 69 "no python3 with h5py, numpy and matplotlib (Debian: python3-h5py python3-matplotlib;" \
    "Spack: py-h5py py-matplotlib). Load them or set PYTHON=/path/to/python3"
}

# Physical cores this shell may use: two hardware threads of a core count once.
usable_cores() {
  local allowed physical
  allowed=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)  # nproc obeys them
  physical=$(lscpu -p=CORE,SOCKET 2>/dev/null | grep -v '^#' | sort -u | wc -l)
  if [ "$physical" -gt 0 ] && [ "$physical" -lt "$allowed" ]; then
    echo "$physical"
  else
    echo "$allowed"
  fi
}

threads_for() {  # RANKS: OpenMP threads that each rank gets
  local threads=$(($(usable_cores) / $1))
  echo $((threads > 0 ? threads : 1))
}

greatest_common_divisor() {
  local a=$1 b=$2 rest
  while [ "$b" -ne 0 ]; do rest=$((a % b)); a=$b; b=$rest; done
  echo "$a"
}

# Sets the array `launcher`: the command that starts RANKS ranks here, each bound to its own cores.
set_launcher() {  # RANKS
  local ranks=$1
  if [ -n "${SLURM_JOB_ID:-}" ] && command -v srun >/dev/null; then
    # Since Slurm 22.05 srun does not take over --cpus-per-task by itself.
    launcher=(srun --mpi=pmix --ntasks="$ranks" --cpu-bind=cores
      --cpus-per-task="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}" "${site_srun[@]}")
    return
  fi
  command -v mpirun >/dev/null || fail 69 "no mpirun (Debian: openmpi-bin; module: openmpi)"
  OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(threads_for "$ranks")}
  export OMP_NUM_THREADS
  launcher=(mpirun -n "$ranks")
  case "$(mpirun --version 2>/dev/null)" in
    *"Open MPI"*) ;;
    *) return ;;
  esac
  if [ "$(id -u)" -eq 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  fi
  if [ $((ranks * OMP_NUM_THREADS)) -le "$(usable_cores)" ]; then
    launcher+=(--map-by "slot:PE=$OMP_NUM_THREADS" --bind-to core)
  else
    # Ranks share cores: a waiting rank must give its core away.
    launcher+=(--oversubscribe --bind-to none --mca mpi_yield_when_idle 1)
  fi
}

say() { printf '\n== %s\n' "$*"; }

# Shows a command as it can be typed again, then runs it. Ctrl-C and TERM reach it as USR1, which
# launchers pass on and leave it at, so that ranks have the time they need to save: after INT or
# TERM, Open MPI kills them within seconds. A second Ctrl-C ends them at once.
show_and_run() {
  local child code=0 told=0 interrupted again=0
  printf '$'
  printf ' %q' "$@"
  printf '\n'
  setsid "$@" &
  child=$!
  trap 'told=1 interrupted=1; kill -USR1 "$child" 2>/dev/null' INT TERM HUP
  while
    interrupted=0 code=0
    wait "$child" || code=$?
    [ $interrupted -eq 1 ] && kill -0 "$child" 2>/dev/null
  do :; done
  trap - INT TERM HUP
  if [ $interrupted -eq 1 ]; then  # it ended just then: the code above may be that of the trap
    wait "$child" || again=$?
    [ $again -eq 127 ] || code=$again
  fi
  [ $told -eq 0 ] || [ "$code" -ne 0 ] || exit 130  # done, but nothing more is wanted
  return "$code"
}
