#!/usr/bin/env bash
# Installs what building, running and testing moesaic need (Debian or Ubuntu, through apt).
#   bash jobs/setup.sh               install what is missing
#   bash jobs/setup.sh --check       install nothing: list what is missing, exit 69 if anything is
#   bash jobs/setup.sh --tests       also what only the tests need (formatter, linter, xarray, Slurm)
set -euo pipefail

# package : module or Spack name on clusters where the administrator installs software
build_packages=(
  "g++:gcc@12:" "cmake:cmake" "ninja-build:ninja" "pkg-config:pkgconf" "git:git"
  "libopenmpi-dev:openmpi" "openmpi-bin:openmpi"
  "libhdf5-openmpi-dev:hdf5+mpi"
  "libboost-program-options-dev:boost+program_options"
  "libdnnl-dev:onednn"
  "libsentencepiece-dev:sentencepiece" "libpcre2-dev:pcre2" "libutf8proc-dev:utf8proc"
  "nlohmann-json3-dev:nlohmann-json" "libspdlog-dev:spdlog" "libfmt-dev:fmt"
  "libssl-dev:openssl" "zlib1g-dev:zlib" "libzstd-dev:zstd"
  "libgtest-dev:googletest" "libbenchmark-dev:benchmark"
  "python3:python" "python3-h5py:py-h5py" "python3-matplotlib:py-matplotlib"
)
text_packages=("bible-kjv:" "perl-doc:" "libpython3-stdlib:python" "bsdextrautils:" "xz-utils:xz")
test_packages=("clang-format:llvm" "clang-tidy:llvm" "python3-pandas:py-pandas"
  "python3-xarray:py-xarray" "python3-h5netcdf:py-h5netcdf"
  "slurm-wlm:slurm" "munge:munge" "iproute2:iproute2")

check_only=0
wanted=("${build_packages[@]}" "${text_packages[@]}")
for option in "$@"; do
  case "$option" in
    --check) check_only=1 ;;
    --tests) wanted+=("${test_packages[@]}") ;;
    *) echo "setup.sh: unknown option $option (see the head of this file)" >&2; exit 64 ;;
  esac
done

installed() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }

missing=()
for entry in "${wanted[@]}"; do
  installed "${entry%%:*}" || missing+=("$entry")
done
if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi
if [ $check_only -eq 1 ] || ! command -v apt-get >/dev/null; then
  echo "Missing (Debian package: module or Spack name):" >&2
  for entry in "${missing[@]}"; do
    echo "  ${entry%%:*}: ${entry#*:}" >&2
  done
  exit 69
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  as_root=(sudo)
fi
names=("${missing[@]%%:*}")
echo "Installing ${names[*]}"
export DEBIAN_FRONTEND=noninteractive
install_names() {
  "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${names[@]}" >/dev/null
}
# A package list that is missing or old fails the first try; then refresh it once.
install_names 2>/dev/null || { "${as_root[@]}" apt-get update -qq && install_names; }
