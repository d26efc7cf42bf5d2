"""Samples that make the loss jump: the run says which, leaves them out when told to, or by itself."""
import random
import re
import shutil

import h5py
import numpy as np

import harness

STEPS = 60
ROUTINE = ("checkpoint", "restart", "straggler")  # events that say nothing of spikes


class Spikes(harness.EndToEnd):
    @classmethod
    def setUpClass(cls):
        """Trains once on a text amid which one document has other letters than all the rest."""
        super().setUpClass()
        with open(cls.shared / "text.jsonl", encoding="utf-8") as file:
            rows = file.readlines()[:120]
        alien = "".join(random.Random(3).choices("QXZJVWYK0123456789#@%&+*=<>~", k=90))
        rows.insert(60, '{"id": "alien", "task": "code", "text": "%s"}\n' % alien)
        (cls.shared / "text.jsonl").write_text("".join(rows), encoding="utf-8")
        shutil.rmtree(cls.shared / "corpus")
        cls.tokenize(cls.shared)
        made = cls("make_run")
        made.setUp()
        made.trained_watching()
        cls.loss = harness.column(made.folder / "run/trace.h5", "loss")
        events = made.events()
        made.assertEqual([kind for _, kind, _ in events if kind not in ROUTINE], ["loss_spike"])
        cls.step, _, message = next(event for event in events if event[1] == "loss_spike")
        cls.samples = re.search(r"data\.skip_samples=(\d+:\d+)$", message)[1]
        shutil.copytree(made.folder / "run", cls.shared / "run")
        made.doCleanups()

    def make_run(self):
        """Names the instance that trains the run from which the others start."""

    def trained_watching(self, *arguments):
        return self.trained(2, "--train.steps", STEPS, "--train.decay_steps", STEPS, "--train.batch", 4,
                            "--data.seed", 12,  # the other letters come after the first 32 steps
                            "--checkpoint.every", 5, "--checkpoint.keep", 20, *arguments)

    def events(self, run="run"):
        """Step, kind and message of each event of a trace."""
        with h5py.File(self.folder / run / "trace.h5") as trace:
            return list(zip(trace["events/step"][()].tolist(), trace["events/kind"].asstr()[()],
                            trace["events/message"].asstr()[()]))

    def kinds(self, run="run"):
        return [kind for _, kind, _ in self.events(run) if kind not in ROUTINE]

    def before_spike(self):
        """The newest checkpoint that is older than the spike, and its step."""
        step = (self.step - 1) // 5 * 5
        return self.shared / "run/checkpoints" / f"step-{step:08d}", step

    def losses(self, run="run"):
        trace = self.folder / run / "trace.h5"
        np.testing.assert_array_equal(harness.column(trace, "step"), np.arange(1, STEPS + 1))
        return harness.column(trace, "loss")

    def resumed(self, *arguments):
        """The run again from the checkpoint before the spike."""
        shutil.copytree(self.shared / "run", self.folder / "run")
        self.trained_watching("--checkpoint.resume", self.before_spike()[0], *arguments)
        self.assert_sound("run/checkpoints", "run/trace.h5")
        return self.losses()

    # Protects: a spike is of the samples that the event names: it comes back with them, bit for bit.
    def test_resumed_with_the_samples(self):
        np.testing.assert_array_equal(self.resumed(), self.loss)

    # Protects: and stays away without them.
    def test_resumed_without_the_samples(self):
        losses = self.resumed("--data.skip_samples", self.samples)
        np.testing.assert_array_equal(losses[:self.step - 1], self.loss[:self.step - 1])
        self.assertLess(losses[self.step - 1], self.loss[self.step - 1] / 1.1)
        self.assertEqual(self.kinds(), [])

    # Protects: a run goes back by itself, once, and ends as one that was resumed by hand.
    def test_rollback(self):
        self.trained_watching("--train.rollbacks", 1, "--run.dir", "itself")
        step, kind, message = next(e for e in self.events("itself") if e[1] == "rollback")
        path, before = self.before_spike()
        self.assertEqual(self.kinds("itself"), ["rollback"])
        self.assertEqual(step, before)
        self.assertIn(f"step {self.step}: the loss", message)
        self.assertIn(path.name, message)
        left_out = re.search(r"left out the samples (\d+:\d+)$", message)[1]
        self.assertEqual(left_out, f"{4 * before}:{4 * self.step}")
        self.assert_sound("itself/checkpoints", "itself/trace.h5")
        by_hand = self.resumed("--data.skip_samples", left_out)
        np.testing.assert_array_equal(self.losses("itself"), by_hand)

    # Protects: without a checkpoint, or with no rollback left, a spike is an event and no more.
    def test_nothing_to_go_back_to(self):
        self.trained_watching("--train.rollbacks", 1, "--checkpoint.every", 0)
        np.testing.assert_array_equal(self.losses(), self.loss)
        self.assertEqual(self.kinds(), ["loss_spike"])

    # Protects: numbers that stay bad after every rollback end the run.
    def test_bad_numbers(self):
        self.trained(2, "--train.steps", 5)
        result = self.train(2, "--train.lr", 1e30, "--checkpoint.allow", "train.lr",
                            "--train.rollbacks", 2)
        self.assert_fault(result, 77, "twice", "samples", "step-00000005", "train.lr")
        self.assertEqual(self.kinds(), ["config_changed", "rollback", "rollback", "bad_numbers"])
        self.assertEqual(result.text.count("went back to"), 2, result.text)
        self.assertEqual(self.newest_step(), 5)

    # Protects: ranges that cannot be meant are refused with the reason.
    def test_malformed_ranges(self):
        for text, word in (("40", "FIRST:END"), ("8:8", "empty"), ("9:5", "empty"),
                           ("8:16,12:20", "12:20 begins before 8:16 ends"), ("16:24,0:8", "order")):
            with self.subTest(text):
                self.assert_fault(self.train(2, "--data.skip_samples", text), 64,
                                  "data.skip_samples", word)
        self.assert_fault(self.train(2, "--train.spike", 0.5), 64, "train.spike", "more than 1")
