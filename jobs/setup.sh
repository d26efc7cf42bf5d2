#!/usr/bin/env bash
# Installs what building, running and testing moesaic need (Debian or Ubuntu, through apt), or lists it.
#   bash jobs/setup.sh [OPTIONS]
#   --check       install nothing: list what is missing, exit 69 if anything is. Asks no package
#                 manager, but makes a small program with each library, as the build would
#   --texts       also the texts that the quickstart trains on without --text
#   --tests       also what only the tests need (formatter, linter, xarray, Slurm)
#   --no-build    not what only building needs (as where there is no source)
# Without apt-get it lists, as with --check. MOESAIC_SITE=FILE loads modules first.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# what: Debian's packages: module or Spack name: name in conda-forge
build=(
  "compiler:g++:gcc@12:gxx" "cmake:cmake:cmake:cmake" "ninja:ninja-build:ninja:ninja"
  "pkg-config:pkg-config:pkgconf:pkg-config"
  "mpi:libopenmpi-dev openmpi-bin:openmpi:openmpi-mpicxx"
  "openmp:g++:gcc@12:gxx"
  "hdf5:libhdf5-openmpi-dev:hdf5+mpi+hl:hdf5=*=mpi_openmpi*"
  "boost:libboost-program-options-dev:boost+program_options+context:libboost-devel"
  "onednn:libdnnl-dev:onednn:onednn"
  "sentencepiece:libsentencepiece-dev:sentencepiece:libsentencepiece"
  "pcre2:libpcre2-dev:pcre2:pcre2" "utf8proc:libutf8proc-dev:utf8proc:libutf8proc"
  "nlohmann_json:nlohmann-json3-dev:nlohmann-json:nlohmann_json"
  "spdlog:libspdlog-dev:spdlog:spdlog" "fmt:libfmt-dev:fmt:fmt"
  "openssl:libssl-dev:openssl:openssl" "zlib:zlib1g-dev:zlib:zlib" "zstd:libzstd-dev:zstd:zstd"
  "boost_context:libboost-context-dev:boost+program_options+context:libboost-devel"
  "googletest:libgtest-dev:googletest:gtest" "benchmark:libbenchmark-dev:benchmark:benchmark"
)
run=(
  "launcher:openmpi-bin:openmpi:openmpi"
  "python:python3 python3-h5py python3-matplotlib:python py-h5py py-matplotlib:python h5py matplotlib"
)
texts=("bible:bible-kjv::" "perl_pages:perl-doc:perl:perl" "python_sources:libpython3-stdlib:python:python"
  "column:bsdextrautils:util-linux:util-linux" "xz:xz-utils:xz:xz")
tests=("aarch64-linux-gnu-g++:g++-aarch64-linux-gnu:gcc:gxx_linux-aarch64"
  "pytest:python3-pytest python3-pytest-xdist:py-pytest py-pytest-xdist:pytest pytest-xdist"
  "clang-format:clang-format:llvm:clang-format" "clang-tidy:clang-tidy:llvm:clang-tools"
  "clang++-16:clang-16:llvm:clangxx=16"
  "xarray:python3-pandas python3-xarray python3-h5netcdf:py-pandas py-xarray py-h5netcdf:pandas xarray h5netcdf"
  "slurmctld:slurm-wlm:slurm:" "munged:munge:munge:munge" "ip:iproute2:iproute2:iproute2")

check_only=0 with_build=$has_source more=()
for option in "$@"; do
  case "$option" in
    --check) check_only=1 ;;
    --texts) more+=("${texts[@]}") ;;
    --tests) more+=("${tests[@]}") ;;
    --no-build) with_build=0 ;;
    -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) fail 64 "unknown option $option (see --help)" ;;
  esac
done
[ "$with_build" -eq 1 ] || build=()
wanted=("${build[@]}" "${run[@]}" "${more[@]}")

# Sets `packages` to those of Debian that are not installed.
find_packages() {
  local entry names package
  packages=()
  for entry in "${wanted[@]}"; do
    IFS=: read -r _ names _ <<<"$entry"
    for package in $names; do
      dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
        packages+=("$package")
    done
  done
}

if [ $check_only -eq 0 ] && command -v apt-get >/dev/null; then
  find_packages
  [ ${#packages[@]} -gt 0 ] || exit 0
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo)
  fi
  echo "Installing ${packages[*]}"
  export DEBIAN_FRONTEND=noninteractive
  install_packages() {
    "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
  }
  # A package list that is missing or old fails the first try; then refresh it once.
  install_packages 2>/dev/null || { "${as_root[@]}" apt-get update -qq && install_packages; }
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

try_compiler() {
  local compiler
  for compiler in "${CXX:-c++}" g++ clang++; do
    # shellcheck disable=SC2086
    if $compiler -std=c++20 "$root/jobs/check/compiler.cpp" -o "$work/compiler" 2>"$work/compiler.log"; then
      "$work/compiler" 2>/dev/null && return 0
      fail 69 "programs cannot be run in $work: set TMPDIR to a folder where they can"
    fi
    [ -z "${CXX:-}" ] || return 1
  done
  return 1
}

# Makes $work/libraries/bin/try_NAME for each library that works.
try_libraries() {
  local generator=() jobs
  jobs=$(usable_cores)
  ! command -v ninja >/dev/null || generator=(-G Ninja)
  if ! cmake "${generator[@]}" -S "$root/jobs/check" -B "$work/libraries" >"$work/log" 2>&1; then
    cat "$work/log" >&2
    fail 69 "CMake cannot look for the libraries: see above"
  fi
  if [ ${#generator[@]} -gt 0 ]; then
    cmake --build "$work/libraries" -j "$jobs" -- -k 0 >"$work/log" 2>&1 || true
  else
    cmake --build "$work/libraries" -j "$jobs" -- -k >"$work/log" 2>&1 || true
  fi
}

perl_pages() {
  local folder
  folder=$(perl -MConfig -e 'print $Config{privlib}' 2>/dev/null) &&
    [ -n "$(find -L "$folder" -name 'perlsyn.pod' -print -quit)" ]
}

works() {  # WHAT
  case $1 in
    compiler) try_compiler ;;
    cmake | ninja | pkg-config | bible | column | xz | clang-format | clang-tidy | clang++-16 | aarch64-linux-gnu-g++)
      command -v "$1" >/dev/null ;;
    slurmctld | munged | ip) PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null ;;
    launcher) [ -n "${MOESAIC_RUN:-}" ] || command -v mpirun >/dev/null || command -v srun >/dev/null ;;
    python) python_with 'h5py, numpy, matplotlib' "${PYTHON:-python3}" >/dev/null ;;
    pytest) python_with 'pytest, xdist' "${PYTHON:-python3}" >/dev/null ;;
    xarray) python_with 'pandas, xarray, h5netcdf' "${PYTHON:-python3}" >/dev/null ;;
    python_sources) python3 -c 'import json' 2>/dev/null ;;
    perl_pages) perl_pages ;;
    *) [ -e "$work/libraries/bin/try_$1" ] ;;
  esac
}

can_try=0  # libraries
if [ "$with_build" -eq 1 ] && try_compiler && command -v cmake >/dev/null &&
  command -v ninja make >/dev/null; then
  can_try=1
  try_libraries
fi

missing=()
for entry in "${wanted[@]}"; do
  what=${entry%%:*}
  if [ $can_try -eq 0 ]; then
    case $what in
      compiler | cmake | ninja | pkg-config) ;;
      *) [[ " ${build[*]} " != *" $entry "* ]] || continue ;;
    esac
  fi
  works "$what" || missing+=("$entry")
done
if [ ${#missing[@]} -eq 0 ]; then
  [ $check_only -eq 0 ] || echo "Nothing is missing. Python: $(find_python)"
  exit 0
fi

{
  echo "Missing:"
  printf '  %-15s %-36s %-26s %s\n' what "Debian's package" "module or Spack" "conda-forge"
  for entry in "${missing[@]}"; do
    IFS=: read -r what debian spack conda <<<"$entry"
    printf '  %-15s %-36s %-26s %s\n' "$what" "$debian" "$spack" "$conda"
    # Found, but no program comes of it: say why.
    [ ! -f "$work/log" ] || grep -m 1 -E "try_$what[./].*(error|undefined)|ld: .*try_$what" "$work/log" || true
  done
  if [ "$with_build" -eq 1 ] && [ $can_try -eq 0 ]; then
    head -n 3 "$work/compiler.log" 2>/dev/null || true
    echo "The libraries are looked for once compiler, cmake and ninja are there."
  fi
} >&2
exit 69
