"""Training, scoring and generating with slurm/*.sbatch, on hosts that are signalled, preempted and lost."""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import unittest

import h5py
import numpy as np

from cluster import SHARED, Cluster, run, wait_for

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
import harness  # noqa: E402

HOSTS = 4
STEPS = 200
CONFIG = harness.config({
    "model.max_seq": 64, "data.seq_len": 64, "train.batch": 16, "train.decay_steps": STEPS,
    "train.steps": STEPS, "parallel.tp": 2, "parallel.pp": 2, "parallel.ep": None, "run.dir": None,
    "run.step_timeout": 10, "run.load_timeout": 10, "run.save_timeout": 10, "checkpoint.every": 20})
BUSY = ("RUNNING", "COMPLETING")
UNFINISHED = BUSY + ("PENDING", "REQUEUED", "NODE_FAIL", "PREEMPTED", "CONFIGURING")

# A job that starts without a file like STOP_ONCE would last for long; once there is one, its rank 0
# stands still. (Slurm may start a job twice before that, if a host is slow to answer.)
STANDING = """#!/bin/sh
if ! ls $STOP_ONCE >/dev/null 2>&1; then
  set -- "$@" --train.steps 10000
  [ "$SLURM_PROCID" != 0 ] || export LD_PRELOAD="$PWD/faults.so" FAULT=stop STOP_AT="*"
fi
exec build/release/moesaic "$@"
"""
PATIENT = ["--run.step_timeout", "120", "--run.load_timeout", "120", "--run.save_timeout", "120"]  # longer than rank 0 stands

machine = None  # the cluster of all tests


def train(folder, *arguments, options=()):
    """Starts a training job, one rank on each host; returns its number."""
    return machine.submit("--cpus-per-task=1", *options, "slurm/train.sbatch", "config.cfg",
                          "--run.dir", folder, *arguments)


def standing(once):
    """Options of sbatch by which rank 0 stands still once there is a file like `once`, so that what a
    test then does falls amid the job, however slow the machine is."""
    return [f"--export=ALL,MOESAIC=./standing.sh,STOP_ONCE={once}"]


def ranks():
    """Ids of the processes of the running job."""
    found = subprocess.run(["pgrep", "-f", "^build/release/moesaic "], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def stopped_rank(job):
    """The process of rank 0, once it stands still."""
    def found():
        return [pid for pid in ranks() if harness.is_stopped(pid)]
    return wait_for(found, "a rank that stands still", lambda: log(job))[0]


def is_told(pid):
    """Whether a rank that stood still has been sent SIGUSR1, or goes on since Slurm lets it."""
    status = pathlib.Path(f"/proc/{pid}/status")
    try:
        pending = re.search(r"(?s)State:\s*T.*ShdPnd:\s*(\w+)", status.read_text(encoding="utf-8"))
    except OSError:
        return True  # it has ended
    return pending is None or int(pending[1], 16) >> (signal.SIGUSR1 - 1) & 1


def go_on(pid):
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        pass  # it has ended


def losses(folder):
    """The losses of all STEPS steps. A run has each step once, and more of them if Slurm let it go on
    long before it told it to stop."""
    trace = SHARED / folder / "trace.h5"
    steps = harness.column(trace, "step")
    np.testing.assert_array_equal(steps, np.arange(1, max(STEPS, len(steps)) + 1))
    return harness.column(trace, "loss")[:STEPS]


def documents(path):
    with h5py.File(path) as file:
        return list(file["documents/id"].asstr()[()])


def log(job):
    return "".join(path.read_text() for path in sorted(SHARED.glob(f"slurm-{job}*.out")))


def finish(job):
    """Waits for the end of a job, over all its restarts."""
    wait_for(lambda: machine.state(job) not in UNFINISHED, f"the end of job {job}",
             lambda: log(job))
    if machine.state(job) != "COMPLETED":
        raise AssertionError(f"{machine.job(job)}\n{log(job)}")


def set_up_shared_folder():
    """What a user has: a clone with its build, a config, a corpus."""
    (SHARED / "build/release").mkdir(parents=True)
    harness.MOESAIC = shutil.copy(harness.MOESAIC, SHARED / "build/release/moesaic")
    for folder in ("slurm", "jobs"):
        shutil.copytree(harness.ROOT / folder, SHARED / folder)
    (SHARED / "standing.sh").write_text(STANDING)
    (SHARED / "standing.sh").chmod(0o755)
    harness.build_faults(SHARED / "faults.so")
    (SHARED / "config.cfg").write_text(CONFIG)
    harness.write_text(SHARED / "text.jsonl", 600, seed=1)
    harness.EndToEnd.tokenize(SHARED)


def setUpModule():
    global machine
    begin = time.monotonic()
    os.environ.update(harness.environment())
    os.environ.pop("MOESAIC", None)  # the copy on the shared file system, from here on
    machine = Cluster(HOSTS)
    set_up_shared_folder()
    finish(train("reference"))
    print(f"{HOSTS} hosts started and trained {STEPS} steps in {time.monotonic() - begin:.0f} s")


class OnHosts(unittest.TestCase):
    def setUp(self):
        begin = time.monotonic()
        self.addCleanup(lambda: print(f"{time.monotonic() - begin:.0f} s ", end="", flush=True))
        self.addCleanup(machine.make_idle)


class Train(OnHosts):
    def started(self, folder, *arguments):
        """A job that has made a checkpoint, and the process of its rank 0, which stands still."""
        options = standing(f"{folder}/checkpoints/step-????????/manifest.json")
        job = train(folder, *arguments, options=options)
        return job, stopped_rank(job)

    def assert_continued(self, job, folder):
        """The job goes on to its end, and the losses do not tell what happened on the way."""
        finish(job)
        self.assertGreaterEqual(int(machine.job(job)["Restarts"]), 1, log(job))
        self.assertIn(f"resume from {folder}/checkpoints", log(job))
        np.testing.assert_array_equal(losses(folder), losses("reference"))

    # Protects: what --signal sends before the time limit ends in a save and a restart.
    def test_signalled(self):
        job, rank = self.started("signalled", *PATIENT)
        run("scancel", "--signal=USR1", job)
        wait_for(lambda: is_told(rank), "the signal", lambda: log(job))
        go_on(rank)
        self.assert_continued(job, "signalled")
        self.assertIn("exit code 75: back into the queue", log(job))

    # Protects: a job that may not go back into the queue is followed by one like it, in the same log.
    def test_not_requeued(self):
        options = ["--no-requeue", "--job-name=follow", "--time=30",
                   *standing("follow/checkpoints/step-????????/manifest.json")]
        job = train("follow", *PATIENT, options=options)
        rank = stopped_rank(job)
        run("scancel", "--signal=USR1", job)
        wait_for(lambda: is_told(rank), "the signal", lambda: log(job))
        go_on(rank)
        found = wait_for(lambda: re.search(r"job (\d+) goes on when this one has ended", log(job)),
                         "a job that follows", lambda: log(job))
        finish(int(found[1]))
        facts = machine.job(int(found[1]))
        self.assertEqual((facts["JobName"], facts["TimeLimit"]), ("follow", "00:30:00"))
        self.assertIn("restart 1 of at most 20", log(job))
        np.testing.assert_array_equal(losses("follow"), losses("reference"))

    # Protects: where jobs may neither go back nor submit others, jobs of one name end what one began.
    @harness.in_turn
    def test_chain(self):
        [export] = standing("chain/checkpoints/step-????????/manifest.json")
        first = train("chain", *PATIENT, options=["--job-name=chain", export + ",MAX_RESTARTS=0"])
        behind = [train("chain", options=["--job-name=chain", "--dependency=singleton"])
                  for _ in range(2)]
        rank = stopped_rank(first)
        run("scancel", "--signal=USR1", first)
        wait_for(lambda: is_told(rank), "the signal", lambda: log(first))
        go_on(rank)
        for job in behind:
            finish(job)
        self.assertIn("exit code 75 after 0 restarts", log(first))
        self.assertIn("resume from chain/checkpoints", log(behind[0]))
        self.assertIn("nothing to do", log(behind[1]))
        np.testing.assert_array_equal(losses("chain"), losses("reference"))

    # Protects: the scripts find what they share, and the program, from any folder.
    def test_submitted_from_elsewhere(self):
        project = SHARED / "my project"
        project.mkdir()
        (project / "config.cfg").write_text(CONFIG)
        finish(machine.submit("--cpus-per-task=1", SHARED / "slurm/train.sbatch", "config.cfg",
                              "--data.corpus", SHARED / "corpus/train", "--run.dir", "elsewhere",
                              "--train.steps", "20", folder=project))
        np.testing.assert_array_equal(harness.column(project / "elsewhere/trace.h5", "step"),
                                      np.arange(1, 21))

    # Protects: a more urgent job gets the hosts soon, and this one continues after it.
    def test_preempted(self):
        job, rank = self.started("preempted", *PATIENT)
        urgent = machine.submit("--partition=urgent", f"--nodes={HOSTS}", "--wrap", "srun hostname")
        wait_for(lambda: is_told(rank), "the signal", lambda: log(job))
        go_on(rank)
        finish(urgent)
        self.assert_continued(job, "preempted")
        self.assertIn("stopped after step", log(job))

    # Protects: a rank that the kernel kills (out of memory) ends the others, and the job restarts.
    @harness.in_turn
    def test_rank_killed(self):
        job, rank = self.started("killed", *PATIENT)
        os.kill(next(pid for pid in ranks() if pid != rank), signal.SIGKILL)
        go_on(rank)
        self.assert_continued(job, "killed")

    # Protects: ranks that wait for a host out of reach say so, and do not wait for ever.
    @harness.in_turn
    def test_cable_pulled(self):
        job, rank = self.started("cut")
        machine.pull_cable("h3")
        go_on(rank)
        wait_for(lambda: machine.state(job) not in BUSY, "the end of the ranks", lambda: log(job))
        self.assertRegex(log(job), r"run\.\w+_timeout ends the job")
        self.assertIn("exit code 70: back into the queue", log(job))
        machine.plug_in("h3")
        self.assert_continued(job, "cut")

    # Protects: a lost host takes rank 0 and the batch script along, and Slurm restarts the job.
    @harness.in_turn
    def test_power_lost(self):
        job, _ = self.started("dark")
        machine.lose_power("h1")
        wait_for(lambda: machine.state(job) not in BUSY, "Slurm to miss the host")
        machine.boot("h1")
        self.assert_continued(job, "dark")


class Score(OnHosts):
    def score(self):
        job = machine.submit("--cpus-per-task=1", "--array=0-3", "slurm/score.sbatch", "config.cfg",
                             "--model.path", "reference/checkpoints", "--score.output", "scores",
                             "--parallel.tp", "1", "--parallel.pp", "1", "--parallel.ep", "2")
        for task in range(4):
            finish(f"{job}_{task}")
        return {path: path.stat().st_mtime_ns for path in sorted((SHARED / "scores").glob("*.h5"))}

    # Protects: the tasks of an array share the shards, a task too many ends well, and a second
    # array finds nothing to do.
    def test_array(self):
        made = self.score()
        found = [name for path in made if ".trace" not in path.name for name in documents(path)]
        shards = sorted((SHARED / "corpus/train").glob("*.h5"))
        self.assertEqual(found, [name for shard in shards for name in documents(shard)])
        self.assertEqual(len(found), len(set(found)))
        self.assertGreater(len(found), 500)
        self.assertEqual(self.score(), made)


class Generate(OnHosts):
    def generate(self, output, options=()):
        return machine.submit("--cpus-per-task=1", *options, "slurm/generate.sbatch", "config.cfg",
                              "--model.path", "reference/checkpoints", "--generate.output", output,
                              "--generate.max_tokens", "24", "--generate.batch", "1",
                              "--generate.temperature", "1", "--run.deterministic", "1",
                              "--data.corpus", "corpus/heldout", "--parallel.tp", "1",
                              "--parallel.ep", "2", *PATIENT)

    # Protects: a job that is told to stop goes back into the queue, and writes each continuation once.
    def test_signalled(self):
        whole = self.generate("whole.h5")
        finish(whole)
        job = self.generate("answers.h5", standing("answers.h5.parts/*.h5"))
        rank = stopped_rank(job)
        run("scancel", "--signal=USR1", job)
        wait_for(lambda: is_told(rank), "the signal", lambda: log(job))
        go_on(rank)
        finish(job)
        self.assertIn("exit code 75: back into the queue", log(job))
        self.assertEqual((SHARED / "answers.jsonl").read_bytes(),
                         (SHARED / "whole.jsonl").read_bytes())
        self.assertEqual(len(documents(SHARED / "answers.h5")),
                         len(set(documents(SHARED / "answers.h5"))))


def load_tests(_loader, tests, _pattern):
    """The cases that have their turn."""
    def has_turn(test):
        return harness.has_turn(getattr(test, test._testMethodName))
    return unittest.TestSuite(unittest.TestSuite(filter(has_turn, case)) for case in tests)


if __name__ == "__main__":
    unittest.main(verbosity=2)
