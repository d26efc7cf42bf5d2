"""Runs that are interrupted in unfriendly ways do not hang, and continue."""
import hashlib
import os
import shutil
import signal

import numpy as np

import harness

LONG = ["train", "--config", "config.cfg", "--train.steps", 100000]


class Stops(harness.EndToEnd):
    def assert_continues(self):
        """The same command goes on after the newest checkpoint, without a gap in the trace."""
        before = self.newest_step()
        self.trained(2, "--train.steps", before + 3)
        self.assertEqual(self.newest_step(), before + 3)
        np.testing.assert_array_equal(harness.column(self.folder / "run/trace.h5", "step"),
                                      np.arange(1, before + 4))
        self.assert_sound("run/checkpoints", "run/trace.h5")

    # Protects: Ctrl-C in a terminal, and a launcher that is told to stop.
    def test_launcher_gets_the_signal(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(number):
                shutil.rmtree(self.folder / "run", ignore_errors=True)
                child = self.start(2, *LONG)
                self.wait_for(lambda: self.newest_step() >= 5, "a checkpoint")
                os.kill(child.pid, number)
                child.communicate(timeout=harness.LIMIT)
                self.assertNotEqual(child.returncode, 0)
                self.wait_for(lambda: not harness.processes_of(self.folder), "the end of all ranks")
                self.assert_continues()

    # Protects: one lost rank ends the others, which wait for it.
    def test_one_rank_dies(self):
        child = self.start(2, *LONG)
        self.wait_for(lambda: self.newest_step() >= 5, "a checkpoint")
        os.kill(harness.processes_of(self.folder)[0], signal.SIGKILL)
        child.communicate(timeout=harness.LIMIT)
        self.assertNotEqual(child.returncode, 0)
        self.wait_for(lambda: not harness.processes_of(self.folder), "the end of all ranks")
        self.assert_continues()

    # Protects: what a crash amid a save leaves behind is never resumed from.
    def test_unfinished_checkpoints(self):
        self.trained(2, "--train.steps", 5)
        folder = self.folder / "run/checkpoints"
        shutil.copytree(self.checkpoint(5), folder / "step-00000009.tmp")
        shutil.copytree(self.checkpoint(5), folder / "step-00000008")
        (folder / "step-00000008/manifest.json").unlink()
        result = self.trained(2, "--train.steps", 6)
        self.assertIn("step-00000005", result.out)
        self.assertEqual(harness.column(self.folder / "run/trace.h5", "step")[-1], 6)

    # Protects: a wall limit ends a run well and in time, and one that is too short is told at the start.
    def test_max_wall(self):
        result = self.run_job(2, *LONG, "--run.max_wall", "63 s")  # the margin is about 60 s
        self.assertEqual(result.code, 75, result.text)
        self.assertIn("with a checkpoint (the end of run.max_wall", result.text)
        self.assertNotIn("leaves time for one step", result.text)
        result = self.run_job(2, *LONG, "--run.dir", "short", "--run.max_wall", "30 s")
        self.assertEqual(result.code, 75, result.text)
        self.assertIn("leaves time for one step", result.text)
        self.assertIn("stopped after step 1 with a checkpoint", result.text)
        self.assert_continues()


class Tokenize(harness.EndToEnd):
    def digests(self, folder):
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted(folder.rglob("*")) if path.is_file()}

    def make(self, ranks, output, *more):
        return self.run_job(ranks, "tokenize", "--tokenize.input", "text.jsonl", "--tokenize.output",
                            output, "--tokenize.shards", 3, *more)

    # Protects: a corpus does not depend on the number of ranks that made it.
    def test_ranks(self):
        harness.write_text(self.folder / "text.jsonl", 150, seed=2)
        for ranks in (1, 3):
            result = self.make(ranks, f"by{ranks}/made", "--tokenize.holdout", 0.2)
            self.assertEqual(result.code, 0, result.text)
        one, three = self.digests(self.folder / "by1"), self.digests(self.folder / "by3")
        self.assertEqual(len(one), 8)  # train and heldout: three shards and a manifest
        self.assertEqual(one, three)

    # Protects: a bad line is named by file and number, and leaves no corpus behind.
    def test_bad_line(self):
        harness.write_text(self.folder / "text.jsonl", 50, seed=3)
        lines = (self.folder / "text.jsonl").read_text().splitlines()
        lines[17] = lines[17][:20]
        (self.folder / "text.jsonl").write_text("\n".join(lines) + "\n")
        self.assert_fault(self.make(2, "made"), 65, "text.jsonl:18", "tokenize.on_error")
        self.assertEqual(list(self.folder.glob("made/**/*.json")), [])
        self.assertEqual(list(self.folder.glob("made/**/*.h5")), [])
        result = self.make(2, "made", "--tokenize.on_error", "skip")
        self.assertEqual(result.code, 0, result.text)
        self.assertIn("1 bad lines", result.out)

    # Protects: a missing input is said with its absolute path.
    def test_missing_input(self):
        self.assert_fault(self.make(2, "made"), 66, str(self.folder / "text.jsonl"))
        self.assertFalse((self.folder / "made").exists())


class Plan(harness.EndToEnd):
    # Protects: plan refuses what the job would refuse, without ranks.
    def test_refuses(self):
        good = self.run_job(0, "plan", "--config", "config.cfg", "--plan.ranks", 4)
        self.assertEqual(good.code, 0, good.text)
        self.assertIn("55.8 k parameters", good.out)
        bad = self.run_job(0, "plan", "--config", "config.cfg", "--plan.ranks", 3)
        self.assert_fault(bad, 64, "parallel.ep = 2", "plan.ranks = 3", "use 2 or 4 ranks, or ep 1\n")
        missing = self.run_job(0, "plan", "--config", "config.cfg", "--data.corpus", "nowhere",
                               "--plan.ranks", 2)
        self.assert_fault(missing, 66, "nowhere")
        heldout = self.run_job(0, "plan", "--config", "config.cfg", "--data.eval_corpus", "nowhere",
                               "--plan.ranks", 2)
        self.assert_fault(heldout, 66, str(self.folder / "nowhere"))
        long = self.run_job(0, "plan", "--config", "config.cfg", "--data.seq_len", 64,
                            "--plan.ranks", 2)
        self.assert_fault(long, 64, "set data.seq_len to at most 32, or model.max_seq to at least 64")
