"""A Slurm cluster of a head and some hosts, each in namespaces of its own on this machine.

The caller is the head, and the first process of namespaces that run.sh made: whatever is started
or mounted here ends with it.
"""
import os
import pathlib
import subprocess
import time

SHARED = pathlib.Path(os.environ["MOESAIC_CLUSTER"])  # the file system that every host sees
LIMIT = 180  # seconds until a wait counts as in vain

# cred_expire is also how long a requeued job waits before it may start again (default: 120 s).
SLURM_CONF = """
ClusterName=test
SlurmctldHost=head
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={shared}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={shared}/state
SlurmdSpoolDir=/tmp/slurmd
SlurmctldPidFile={shared}/slurmctld.pid
SlurmdPidFile=/tmp/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
SlurmdTimeout=15
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmctldParameters=preempt_send_user_signal
NodeName=h[1-{hosts}] CPUs=1
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 GraceTime=120
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF
"""

# The first process of a host: bash, which also buries the orphans of Slurm's steps.
HOST = """
hostname "$0"
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
until ip link set eth0 up 2>/dev/null; do sleep 0.05; done
ip addr add "$1/24" dev eth0
slurmd -D
"""


def run(*command):
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{command}: {result.stdout}{result.stderr}")
    return result.stdout.strip()


def wait_for(condition, what, also_say=lambda: ""):
    """Waits until condition() is true, and returns it."""
    end = time.monotonic() + LIMIT
    while not (found := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {LIMIT} s in vain for {what}\n{also_say()}")
        time.sleep(0.1)
    return found


class Cluster:
    """Hosts h1 to hN of one core each under one slurmctld."""

    def __init__(self, hosts):
        self.address = {f"h{n}": f"10.77.0.{10 + n}" for n in range(1, hosts + 1)}
        self.processes = {}
        run("mount", "-t", "tmpfs", "tmpfs", SHARED)
        (SHARED / "munge").mkdir(mode=0o755)
        (SHARED / "state").mkdir()
        (SHARED / "log").mkdir()
        self.join_network()
        self.start_controller(hosts)
        for host in self.address:
            self.boot(host)
        wait_for(lambda: self.idle() == hosts, "the hosts")

    def join_network(self):
        """The head's side: a bridge that every host is plugged into, and names."""
        run("hostname", "head")
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "br0", "type", "bridge")
        run("ip", "addr", "add", "10.77.0.1/24", "dev", "br0")
        run("ip", "link", "set", "br0", "up")
        names = {"localhost": "127.0.0.1", "head": "10.77.0.1", **self.address}
        (SHARED / "hosts").write_text("".join(f"{at} {name}\n" for name, at in names.items()))
        run("mount", "--bind", SHARED / "hosts", "/etc/hosts")

    def start_controller(self, hosts):
        os.environ["SLURM_CONF"] = str(SHARED / "slurm.conf")
        (SHARED / "slurm.conf").write_text(SLURM_CONF.format(shared=SHARED, hosts=hosts))
        key = SHARED / "munge/key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        self.start("munged", "munged", "--foreground", "--force", f"--socket={SHARED}/munge/socket",
                   f"--key-file={key}", f"--pid-file={SHARED}/munge/pid",
                   f"--seed-file={SHARED}/munge/seed", f"--log-file={SHARED}/munge/log")
        wait_for((SHARED / "munge/socket").exists, "munged")
        self.start("slurmctld", "slurmctld", "-D", "-i")
        wait_for(lambda: subprocess.run(["scontrol", "ping"], capture_output=True).returncode == 0,
                 "slurmctld")

    def start(self, name, *command):
        with open(SHARED / "log" / name, "a", encoding="utf-8") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def boot(self, host):
        self.start(host, "unshare", "--mount", "--net", "--uts", "--ipc", "--pid", "--fork",
                   "--kill-child", "--mount-proc", "bash", "-c", HOST, host, self.address[host])
        pid = self.processes[host].pid
        ours = os.readlink("/proc/self/ns/net")
        wait_for(lambda: os.readlink(f"/proc/{pid}/ns/net") != ours, f"the network of {host}")
        run("ip", "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", pid)
        run("ip", "link", "set", host, "master", "br0", "up")

    def pull_cable(self, host):
        run("ip", "link", "set", host, "down")

    def plug_in(self, host):
        run("ip", "link", "set", host, "up")

    def lose_power(self, host):
        """Every process of the host is gone at once, and its end of the cable as well."""
        self.processes[host].kill()
        self.processes[host].wait()

    def idle(self):
        return len(run("sinfo", "--noheader", "--Node", "--states=idle", "--partition=main").splitlines())

    def submit(self, *arguments, folder=SHARED):
        """Puts a script into the queue, from a folder; returns the job's number."""
        result = subprocess.run(["sbatch", "--parsable", *map(str, arguments)], cwd=folder,
                                capture_output=True, text=True)
        if result.returncode != 0:
            raise RuntimeError(result.stderr)
        return int(result.stdout)

    def job(self, job):
        """What Slurm knows of a job, or of a task of an array."""
        row = run("scontrol", "show", "job", job, "--oneliner").splitlines()[0]
        return dict(word.split("=", 1) for word in row.split() if "=" in word)

    def state(self, job):
        return self.job(job)["JobState"]

    def make_idle(self):
        """An empty queue on healthy hosts, for the next test."""
        run("scancel", "--user=root")
        for host in self.address:
            if self.processes[host].poll() is not None:
                self.boot(host)
            self.plug_in(host)
        wait_for(lambda: self.idle() == len(self.address), "idle hosts")
