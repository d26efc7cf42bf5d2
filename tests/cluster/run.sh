#!/usr/bin/env bash
# Trains, scores and generates under a real Slurm of four hosts, which are namespaces of this machine.
#   bash tests/cluster/run.sh [TEST...]    needs root, a release build, slurm-wlm, munge, iproute2
# Exits 77 with the reason where that cannot be. Nothing outlives it: the cluster, its network and
# its files are in namespaces that end with it, also when it is killed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")" || exit
source ../../jobs/common.sh

skip() {
  echo "skipped: $*"
  exit 77
}

[ "$(id -u)" -eq 0 ] || skip "only root can give hosts their own network"
for entry in slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client munged:munge ip:iproute2; do
  PATH=$PATH:/usr/sbin:/sbin command -v "${entry%%:*}" >/dev/null ||
    skip "no ${entry%%:*} (Debian: ${entry#*:})"
done
own_world=(unshare --mount --net --uts --ipc --pid --fork --kill-child --mount-proc)
"${own_world[@]}" ip link add br0 type bridge 2>/dev/null ||
  skip "this machine does not let root make namespaces and bridges"
python=$(find_python) || exit

# Not in /tmp, of which every host has its own.
shared=$(mktemp -d -p /var/tmp moesaic-cluster.XXXXXX)
child=
trap '[ -n "$child" ] && kill -KILL "$child" 2>/dev/null; wait; rmdir "$shared"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
MOESAIC_CLUSTER=$shared PATH=$PATH:/usr/sbin:/sbin \
  "${own_world[@]}" "$python" -u test_cluster.py "$@" </dev/null &
child=$!
wait "$child"
code=$?
child=
exit "$code"
