"""A file system that fills up amid a run; needs the right to mount one (root)."""
import os
import signal
import subprocess
import unittest

import harness


class FullDisk(harness.EndToEnd):
    def setUp(self):
        super().setUp()
        self.disk = self.folder / "disk"
        self.disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(self.disk)]
        if subprocess.run(mount, capture_output=True).returncode != 0:
            self.skipTest("may not mount a file system")
        self.addCleanup(subprocess.run, ["umount", "-l", str(self.disk)], check=True)

    def fill(self):
        with open(self.disk / "fill", "wb", buffering=0) as file:
            try:
                while file.write(bytes(65536)):
                    pass
            except OSError:
                pass  # it is full now

    def filled(self, *arguments, says="are free: free some, then run it again",
               checkpoints="disk/run/checkpoints"):
        """A run whose disk is full from the end of its first save on. Nobody writes while it is filled:
        rank 0 stands there, and the others wait for it."""
        child = self.start(2, "train", "--config", "config.cfg", "--run.dir", "disk/run", *arguments,
                           wrapper=self.stopping(
                               f"{checkpoints}/step-00000005/manifest.json", "*/checkpoints/*",
                               FAULT_RANK=0))
        rank = self.process_of(0)
        self.wait_for(lambda: harness.is_stopped(rank), "a checkpoint")
        self.fill()
        os.kill(rank, signal.SIGCONT)
        out = child.communicate(timeout=harness.LIMIT)[0]
        self.assertEqual(child.returncode, 74, out)
        self.assertIn(says, out)
        return out

    # Protects: the last checkpoint and the trace stay whole, and the run continues afterwards.
    def test_amid_a_run(self):
        self.filled("--train.steps", 5000)
        self.assert_sound("disk/run/checkpoints", "disk/run/trace.h5")
        step = self.newest_step("disk/run")
        (self.disk / "fill").unlink()
        self.trained(2, "--run.dir", "disk/run", "--train.steps", step + 2)
        self.assertEqual(harness.column(self.disk / "run/trace.h5", "step")[-1], step + 2)
        self.assert_sound("disk/run/checkpoints", "disk/run/trace.h5")

    # Protects: a trace that cannot be written costs none of the work that has room elsewhere.
    def test_trace_alone(self):
        out = self.filled("--train.steps", 5000, "--checkpoint.dir", "checkpoints",
                          checkpoints="checkpoints")
        saved = max(int(path.parent.name[5:])
                    for path in (self.folder / "checkpoints").glob("step-*/manifest.json"))
        self.assertIn(f"The newest checkpoint is checkpoints/step-{saved:08d}", out)
        self.assertNotIn("Abort", out)
        traced = harness.column(self.disk / "run/trace.h5", "step")[-1]
        self.assertGreater(saved, traced)
        (self.disk / "fill").unlink()
        self.trained(2, "--run.dir", "disk/run", "--checkpoint.dir", "checkpoints", "--train.steps",
                     saved + 2)
        self.assertIn(b"trace_gap", harness.column(self.disk / "run/trace.h5", "events/kind"))
        self.assert_sound("checkpoints", "disk/run/trace.h5")

    # Protects: so do the steps of a routing record; it goes on where the checkpoint says.
    def test_routing_record(self):
        self.filled("--train.steps", 1000, "--trace.routing", "every:2")
        self.assert_sound("disk/run/trace.routing.h5")
        step = self.newest_step("disk/run")
        (self.disk / "fill").unlink()
        self.trained(2, "--run.dir", "disk/run", "--train.steps", step + 4, "--trace.routing", "every:2")
        self.assert_sound("disk/run/trace.routing.h5")
        steps = harness.column(self.disk / "run/trace.routing.h5", "steps/step")
        self.assertEqual(steps.tolist(), list(range(2, step + 5, 2)))

    # Protects: a run whose last step cannot be saved has not ended well.
    def test_last_save(self):
        out = self.filled("--train.steps", 6, "--trace.path", "trace.h5", "--trace.flush", 1000,
                          says="checkpoint not saved")
        self.assertIn("step 6", out)
        self.assertEqual(self.newest_step("disk/run"), 5)

    # Protects: what cannot fit is said at the start, with bytes needed and free.
    def test_at_the_start(self):
        self.fill()
        result = self.train(2, "--run.dir", "disk/run")
        self.assert_fault(result, 73, "need", "free some", "run.dir", "3 checkpoints", "20 rows")

    # Protects: a long run's trace counts, by its rows, before the first step.
    def test_long_trace(self):
        result = self.train(2, "--run.dir", "disk/run", "--train.steps", 1000000)
        self.assert_fault(result, 73, "a trace of 1000000 rows", "bytes", "trace.every")
        self.assertFalse((self.disk / "run/trace.h5").exists())

    # Protects: so do scores and their trace.
    def test_scores(self):
        self.trained(2)
        self.fill()
        result = self.run_job(2, "score", "--model.path", "run/checkpoints", "--data.corpus",
                              "corpus/heldout", "--score.output", "disk/scores.h5")
        self.assert_fault(result, 73, "scores of 3 shards", "a trace of", "are free")
