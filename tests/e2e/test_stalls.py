"""A rank that stops, dies or disagrees: the job ends soon, says which rank it is, and continues."""
import os
import re
import shutil
import signal
import time

import h5py
import numpy as np

import harness

TIMEOUT = [word for kind in ("step", "load", "save") for word in (f"--run.{kind}_timeout", "10 s")]
LONG = ["train", "--config", "config.cfg", "--train.steps", 100000]
TP_PP = ["--parallel.tp", 2, "--parallel.pp", 2, "--parallel.ep", 1]
HOST = os.uname().nodename


class Stalls(harness.EndToEnd):
    def assert_continues(self, ranks, layout):
        """The newest checkpoint loads, and the trace goes on without a gap."""
        before = self.newest_step()
        self.trained(ranks, *layout, "--train.steps", before + 2)
        np.testing.assert_array_equal(harness.column(self.folder / "run/trace.h5", "step"),
                                      np.arange(1, before + 3))
        self.assert_sound("run/checkpoints", "run/trace.h5")

    def stall(self, ranks, layout, rank):
        """Stops one rank amid training; returns the output of the job, which must end with 70."""
        child = self.start(ranks, *LONG, *layout, *TIMEOUT)
        self.wait_for(lambda: self.newest_step() >= 5, "a checkpoint")
        begin = time.monotonic()
        os.kill(self.process_of(rank), signal.SIGSTOP)
        out = child.communicate(timeout=harness.LIMIT)[0]
        self.assertLess(time.monotonic() - begin, 60, out)
        self.assertEqual(child.returncode, 70, out)
        self.wait_for(lambda: not harness.processes_of(self.folder), "the end of all ranks")
        return out

    def assert_named(self, out, rank, groups):
        """One message, which names the rank, its host, and what the others wait for."""
        missed = re.findall(r"rank (\d+) on (\S+) has not arrived at (?:the )?(\w+) #(\d+) "
                            r"(?:of|of rank \d in) (\w+) \(ranks [^)]*\): it gives no answer", out)
        self.assertEqual(len(missed), 1, out)
        self.assertEqual(missed[0][:2], (str(rank), HOST), out)
        self.assertIn(missed[0][4], groups, out)
        self.assertRegex(out, r"rank \d+ on \S+ waits for it there.*, in .*(step|save|evaluation|shard)")
        self.assertEqual(len(re.findall(r"run\.\w+_timeout ends the job", out)), 1, out)

    # Protects: in every kind of group, the message names the rank that stopped, and who waits where.
    @harness.in_turn
    def test_layouts(self):
        cases = {  # ranks, layout, the rank to stop, groups where the others miss it
            "tp": (2, ["--parallel.tp", 2, "--parallel.ep", 1], 1, {"tp", "stage", "world"}),
            "pp": (2, ["--parallel.pp", 2, "--parallel.ep", 1], 1, {"pp", "ends", "world"}),
            "ep": (2, [], 1, {"ep", "ep_tp", "replicas", "batches", "stage", "world"}),
            "cp": (2, ["--parallel.cp", 2, "--parallel.ep", 1], 1,
                   {"cp", "dp", "replicas", "batches", "stage", "world"}),
            "dp": (2, ["--parallel.ep", 1], 1, {"dp", "replicas", "batches", "stage", "world"}),
            "tp pp": (4, TP_PP, 2, {"tp", "pp", "stage", "ends", "world"}),
        }
        for name, (ranks, layout, rank, groups) in cases.items():
            with self.subTest(name):
                shutil.rmtree(self.folder / "run", ignore_errors=True)
                self.assert_named(self.stall(ranks, layout, rank), rank, groups)
                self.assert_continues(ranks, layout)

    # Protects: where rank 0 is the one that stopped, the last rank reports.
    @harness.in_turn
    def test_rank_zero(self):
        out = self.stall(4, TP_PP, 0)
        self.assert_named(out, 0, {"tp", "pp", "stage", "ends", "world"})
        self.assertIn(f"[rank 3 {HOST}]", out)
        self.assert_continues(4, TP_PP)

    # Protects: where MPI lets one thread alone call it, the ranks of a host are still told apart.
    def test_one_thread_of_mpi(self):
        out = self.stall(4, [*TP_PP, "--run.mpi_threads", "serialized"], 2)
        self.assert_named(out, 2, {"tp", "pp", "stage", "ends", "world"})
        with h5py.File(self.folder / "run/trace.h5") as trace:
            self.assertEqual(trace.attrs["mpi_threads"].decode(), "serialized")
            self.assertTrue(trace.attrs["mpi_transport"].decode())
        self.assert_continues(4, TP_PP)

    # Protects: ranks that have loaded wait for one whose disk is slow, as long as that one makes progress.
    @harness.in_turn
    def test_slow_disk(self):
        self.trained(2, "--model.layers", 5, "--train.steps", 2)
        for threads in ("multiple", "serialized"):
            result = self.run_job(2, "score", "--model.path", "run/checkpoints", "--data.corpus",
                                  "corpus/heldout", "--run.precision", "fp32", "--score.output",
                                  f"{threads}.h5", "--run.load_timeout", "4 s", "--run.mpi_threads",
                                  threads, wrapper=self.faulty("slow", SLOW_AT="*/part-*", SLOW_MS=14,
                                                               FAULT_RANK=0))
            self.assertEqual(result.code, 0, result.text)

    # Protects: a rank that stops for a while, or a job that is suspended, is not killed for it.
    @harness.in_turn
    def test_short_stop(self):
        child = self.start(4, *LONG, *TP_PP)
        self.wait_for(lambda: self.newest_step() >= 5, "a checkpoint")
        stopped = self.process_of(2)
        os.kill(stopped, signal.SIGSTOP)
        time.sleep(20)  # what is tested is that so long does not matter
        os.kill(stopped, signal.SIGCONT)
        after = self.newest_step()
        self.wait_for(lambda: self.newest_step() > after, "more checkpoints")
        self.kill(signal.SIGTERM)
        out = child.communicate(timeout=harness.LIMIT)[0]
        self.assertEqual(child.returncode, 75, out)
        self.assert_continues(4, TP_PP)

    # Protects: a job that the batch system suspends as a whole is not killed for the time it stood.
    def test_suspended_job(self):
        child = self.start(2, *LONG, *TIMEOUT)
        self.wait_for(lambda: self.newest_step() >= 5, "a checkpoint")
        self.kill(signal.SIGSTOP)
        time.sleep(15)  # longer than the limit
        self.kill(signal.SIGCONT)
        after = self.newest_step()
        self.wait_for(lambda: self.newest_step() > after, "more checkpoints")
        self.assertIsNone(child.poll())

    # Protects: score is watched in its iterations, and goes on with the parts that it has.
    @harness.in_turn
    def test_score(self):
        self.trained(2, "--train.steps", 2)
        (self.folder / "large").mkdir()
        harness.write_text(self.folder / "large/text.jsonl", 3000, seed=9)
        self.tokenize(self.folder / "large")
        job = ["score", "--model.path", "run/checkpoints", "--data.corpus", "large/corpus/train",
               "--score.output", "out.h5", "--parallel.tp", 2]
        stop = self.stopping("out.h5.parts/*.h5", "*/large/corpus/*", FAULT_RANK=1)
        child = self.start(2, *job, *TIMEOUT, wrapper=stop)
        out = child.communicate(timeout=harness.LIMIT)[0]
        self.assertEqual(child.returncode, 70, out)
        self.assert_named(out, 1, {"tp", "world", "stage"})
        again = self.run_job(2, *job)
        self.assertEqual(again.code, 0, again.text)
        self.assert_sound("out.h5")

    def output_of(self, child):
        """What a job says in which rank 1 was stopped."""
        out = child.communicate(timeout=harness.LIMIT)[0]
        self.assertEqual(child.returncode, 70, out)
        self.assert_named(out, 1, {"ep", "ep_tp", "replicas", "batches", "stage", "world"})
        return out

    # Protects: a stall amid a save is one of the save, and leaves the old checkpoint or the new one.
    def test_save(self):
        stop = self.stopping("run/checkpoints/step-00000001/manifest.json", "*/part-00001.h5",
                             FAULT_RANK=1)
        out = self.output_of(self.start(2, *LONG, *TIMEOUT, "--checkpoint.every", 1, wrapper=stop))
        self.assertRegex(out, r"waits for it there.*, in a save")
        self.assert_continues(2, [])

    # Protects: the same for an evaluation, whose steps are saved by the one before it.
    def test_evaluation(self):
        stop = self.stopping("run/checkpoints/step-00000005/manifest.json", "*/corpus/heldout/*",
                             FAULT_RANK=1)
        out = self.output_of(self.start(2, *LONG, *TIMEOUT, "--eval.every", 7,
                                        "--data.eval_corpus", "corpus/heldout", wrapper=stop))
        self.assertRegex(out, r"waits for it there.*, in evaluation")
        self.assertEqual(self.newest_step(), 5)
        self.assert_continues(2, [])

    # Protects: loading is watched as steps are, in score too: here rank 0 hangs in opening a file.
    @harness.in_turn
    def test_loading(self):
        self.trained(2, "--train.steps", 2)
        os.remove(self.folder / "run/log.txt")
        os.mkfifo(self.folder / "run/log.txt")  # nobody reads it
        for job in (["train"], ["score", "--model.path", "run/checkpoints", "--run.dir", "run"]):
            with self.subTest(job[0]):
                result = self.run_job(2, job[0], "--config", "config.cfg", *job[1:], *TIMEOUT)
                self.assert_fault(result, 70, f"rank 0 on {HOST} has not arrived at all_reduce",
                                  "of world (ranks 0-1): it is in loading (create the output")
        os.remove(self.folder / "run/log.txt")
        self.assert_continues(2, [])
