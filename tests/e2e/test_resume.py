"""A run that was interrupted ends where an uninterrupted one does."""
import json
import signal

import h5py
import numpy as np

import harness


class Resume(harness.EndToEnd):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        reference = cls("run_reference")
        reference.setUp()
        reference.trained(2)
        cls.loss = harness.column(reference.folder / "run/trace.h5", "loss")
        cls.tensors = harness.tensors(reference.checkpoint(20))
        reference.doCleanups()

    def run_reference(self):
        """Names the instance that trains the uninterrupted run."""

    def assert_same_run(self, tolerance):
        """The whole trace and the last checkpoint are those of the uninterrupted run."""
        trace = self.folder / "run/trace.h5"
        np.testing.assert_array_equal(harness.column(trace, "step"), np.arange(1, 21))
        losses, final = harness.column(trace, "loss"), harness.tensors(self.checkpoint(20))
        self.assertEqual(final.keys(), self.tensors.keys())
        if tolerance == 0:
            np.testing.assert_array_equal(losses, self.loss)
        else:
            np.testing.assert_allclose(losses, self.loss, rtol=tolerance)
        for name, value in self.tensors.items():
            np.testing.assert_allclose(final[name], value, rtol=0, atol=tolerance * 20, err_msg=name)
        self.assert_sound("run/checkpoints", "run/trace.h5")

    # Protects: moments, schedule, cursor and trace survive a restart bit for bit.
    def test_same_layout(self):
        self.trained(2, "--train.steps", 10)
        self.assertEqual(self.newest_step(), 10)
        self.trained(2)
        self.assert_same_run(0)

    # Protects: a checkpoint of two ranks continues on one.
    def test_one_rank(self):
        self.trained(2, "--train.steps", 10)
        self.trained(1, "--parallel.ep", 1)
        self.assert_same_run(1e-5)

    # Protects: a checkpoint of ep = 2 continues with a second copy of the experts.
    def test_four_ranks(self):
        self.trained(2, "--train.steps", 10)
        self.trained(4)
        self.assert_same_run(1e-5)

    # Protects: a run that goes back keeps what it saves; its later course lies beside it, and does not
    # count. What Slurm starts again with the same command goes on.
    def test_goes_back(self):
        self.trained(2)
        back = ["train", "--config", "config.cfg", "--checkpoint.resume", self.checkpoint(15)]
        job = ["env", "SLURM_JOB_ID=7"]
        first = self.run_job(2, *back, "--train.steps", 18, wrapper=job)
        self.assertEqual(first.code, 0, first.text)
        self.assertEqual(self.newest_step(), 18)
        self.assertTrue((self.folder / "run/checkpoints/step-00000020.1/manifest.json").exists())
        again = self.run_job(2, *back, wrapper=[*job, "SLURM_RESTART_COUNT=1"])
        self.assertEqual(again.code, 0, again.text)
        self.assertRegex(again.text, "resume from .*step-00000018")
        self.assert_same_run(0)
        refused = self.train(2, "--checkpoint.resume", "none", "--model.path", "run/checkpoints")
        self.assert_fault(refused, 64, "model.path", "checkpoint.dir", "another run.dir")
        # Those of another job are none of its own.
        anew = self.run_job(2, "train", "--config", "config.cfg", "--checkpoint.resume", "none",
                            "--train.steps", 3,
                            wrapper=["env", "SLURM_JOB_ID=8", "SLURM_RESTART_COUNT=1"])
        self.assertEqual(anew.code, 0, anew.text)
        self.assertEqual(self.newest_step(), 3)

    # Protects: other data begin at their first sample, once.
    def test_other_data(self):
        self.trained(2, "--train.steps", 5)
        other = ["--data.corpus", "corpus/heldout", "--checkpoint.allow", "data"]
        for step, cursor in ((7, 16), (10, 40)):
            self.trained(2, *other, "--train.steps", step)
            manifest = json.loads((self.checkpoint(step) / "manifest.json").read_text())
            self.assertEqual(manifest["state"]["cursor"], cursor)

    # Protects: sampling by task goes on where it was, on other ranks too, and its key is frozen.
    def test_task_weights(self):
        weights = ["--data.task_weights", "code:3,prose:1"]
        whole = self.trained(2, *weights, "--run.dir", "whole")
        self.assertIn("75.0 % of what is drawn", whole.text)
        self.trained(2, *weights, "--train.steps", 10)
        self.assert_fault(self.train(2), 76, "data.task_weights", "code:3, prose:1")
        self.trained(1, *weights, "--parallel.ep", 1)
        traces = [self.folder / run / "trace.h5" for run in ("whole", "run")]
        tokens, again = (harness.column(trace, "task_tokens") for trace in traces)
        np.testing.assert_array_equal(again, tokens)
        np.testing.assert_allclose(harness.column(traces[1], "loss"),
                                   harness.column(traces[0], "loss"), rtol=1e-5)
        share = tokens[:, 1].sum() / tokens.sum()  # of all samples, half of the tokens are code
        self.assertGreater(share, 0.6)

    # Protects: a run goes on where other numbers of ranks share the rows of a micro-batch, with the
    # same samples, whose tokens are routed as before.
    def test_context_parallel(self):
        keys = ["--model.max_seq", 300, "--data.seq_len", 300, "--data.eval_corpus", "", "--eval.every",
                0, "--parallel.ep", 1, "--train.batch", 4, "--trace.routing", "all"]
        self.trained(1, *keys, "--run.dir", "whole", "--train.steps", 12)
        for ranks, last in ((2, 4), (4, 8), (1, 12)):
            self.trained(ranks, *keys, "--parallel.cp", ranks, "--train.steps", last)
            manifest = json.loads((self.checkpoint(last) / "manifest.json").read_text())
            self.assertEqual(manifest["state"]["cursor"], 4 * last)
        whole, run = (self.folder / name / "trace.h5" for name in ("whole", "run"))
        np.testing.assert_allclose(harness.column(run, "loss"), harness.column(whole, "loss"),
                                   rtol=1e-5)
        with h5py.File(self.folder / "whole/trace.routing.h5") as one, \
                h5py.File(self.folder / "run/trace.routing.h5") as other:
            for name in one["tokens"]:
                np.testing.assert_array_equal(other["tokens"][name], one["tokens"][name], name)
            chosen, expected = other["chosen"][()], one["chosen"][()]
            self.assertLess((chosen != expected).mean(), 1e-3)  # ties turn with the roundings of sums
        self.assert_sound("run/checkpoints", "run/trace.h5", "run/trace.routing.h5")

    # Protects: kill -9 of all ranks at any moment costs the steps since the checkpoint, no more.
    def test_kill(self):
        child = self.start(2, "train", "--config", "config.cfg", "--checkpoint.every", 1,
                           "--checkpoint.keep", 30, wrapper=self.stopping(
                               "run/checkpoints/step-00000015/manifest.json"))
        self.wait_for(lambda: self.newest_step() >= 3, "a checkpoint")
        self.end(child)
        self.assertNotEqual(child.returncode, 0)
        self.assertLess(self.newest_step(), 20)
        self.trained(2)
        self.assert_same_run(0)

    # Protects: batch systems' signals end a run well, at a step whose checkpoint is the newest.
    def test_signals(self):
        for name in ("SIGTERM", "SIGUSR1"):
            with self.subTest(name):
                run = ["train", "--config", "config.cfg", "--run.dir", name]
                # Far more steps than the test needs; decay_steps keeps the schedule of 20.
                child = self.start(2, *run, "--train.steps", 100000)
                self.wait_for(lambda: self.newest_step(name) >= 5, "a checkpoint")
                self.kill(getattr(signal, name))
                out = child.communicate(timeout=harness.LIMIT)[0]
                self.assertEqual(child.returncode, 75, out)
                self.assertRegex(out, rf"stopped after step \d+ with a checkpoint \({name}\)")
                steps = harness.column(self.folder / name / "trace.h5", "step")
                self.assertEqual(self.newest_step(name), steps[-1], out)
                np.testing.assert_array_equal(steps, np.arange(1, len(steps) + 1))
                self.assert_sound(f"{name}/checkpoints", f"{name}/trace.h5")
                # Already past these steps: says so, and has nothing to do.
                again = self.run_job(2, *run, "--train.steps", int(steps[-1]))
                self.assertEqual(again.code, 0, again.text)
                self.assertEqual(self.newest_step(name), steps[-1])
