"""A number that measures nothing is never shown as one: data without targets is refused at the start,
steps without them are told of, and a plan needs no data."""
import h5py
import numpy as np

import harness

ONE = ["--parallel.ep", 1, "--train.batch", 1, "--train.micro_batch", 1]


def write_corpus(path, documents):
    """A corpus of another program: documents of (tokens, context)."""
    lengths = [tokens for tokens, _ in documents]
    with h5py.File(path, "w") as file:
        file.attrs["schema"], file.attrs["version"], file.attrs["vocab_size"] = "moesaic-corpus", 1, 257
        file["tokens"] = np.arange(sum(lengths)) % 200  # i8, as numpy has it
        file["documents/offsets"] = np.cumsum([0] + lengths)
        file["documents/context"] = [context for _, context in documents]


class Measures(harness.EndToEnd):
    def test_evaluation_of_nothing(self):
        """An evaluation corpus that is too short, or has nothing to predict, is refused at the start."""
        write_corpus(self.folder / "short.h5", [(20, 0)])
        write_corpus(self.folder / "given.h5", [(50, 50)] * 4)
        for name, words in (("short.h5", ["20 tokens", "data.seq_len + 1 = 33"]),
                            ("given.h5", ["nothing to predict"])):
            result = self.train(1, *ONE, "--data.eval_corpus", f"corpus/heldout,{name}")
            self.assert_fault(result, 66, "data.eval_corpus", name, *words)
            self.assertFalse((self.folder / "run").exists())
        self.assert_fault(self.train(1, *ONE, "--data.corpus", "given.h5"), 66, "data.corpus",
                          "given.h5 has nothing to predict")

    def test_steps_without_targets(self):
        """A step whose samples are all context is an event, said once, and verify and report tell it."""
        # 12 samples of 32 tokens, of which the first four have no target.
        write_corpus(self.folder / "some.h5", [(129, 129), (256, 0)])
        result = self.trained(1, *ONE, "--data.corpus", "some.h5", "--train.steps", 12,
                              "--checkpoint.every", 0)
        with h5py.File(self.folder / "run/trace.h5") as file:
            kinds = [kind.decode() for kind in file["events/kind"][()]]
            self.assertEqual(kinds.count("no_targets"), 4)
            self.assertEqual(int((file["targets"][()] == 0).sum()), 4)
        self.assertEqual(result.err.count("nothing was to be predicted"), 1, result.err)
        result = self.run_job(0, "verify", "run/trace.h5")
        self.assertEqual(result.code, 0, result.text)
        self.assertIn("12 steps, 4 of the run without a target", result.out)

    def test_plan_without_corpus(self):
        """A plan needs a vocabulary, not a corpus; without either it says what is missing."""
        (self.folder / "plan.cfg").write_text(harness.config({"data.corpus": None}))
        result = self.run_job(0, "plan", "--config", "plan.cfg", "--plan.ranks", 2,
                              "--model.vocab_size", 300)
        self.assertEqual(result.code, 0, result.text)
        self.assertIn("embedding", result.out)
        result = self.run_job(0, "plan", "--config", "plan.cfg", "--plan.ranks", 2)
        self.assertEqual(result.code, 0, result.text)
        self.assertIn("give model.vocab_size or data.corpus", result.out)
