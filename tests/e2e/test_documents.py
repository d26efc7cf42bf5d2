"""data.samples=documents: whole documents, alone or in groups, are trained on and evaluated, whatever
the layout; what cannot be is counted or refused."""
import math
import random

import h5py
import numpy as np

import harness

LENGTH = 24  # data.seq_len
# Without auxiliary losses of micro-batches and without capacity, only sums in other orders differ.
KEYS = {"data.samples": "documents", "data.corpus": "text.h5", "data.eval_corpus": "held.h5",
        "data.seq_len": LENGTH, "model.max_seq": LENGTH, "train.batch": 8, "train.micro_batch": 2,
        "train.steps": None, "train.epochs": 1.5, "train.decay_steps": 20, "router.aux_loss": 0,
        "parallel.ep": 1, "checkpoint.every": 4, "eval.every": 4}
# Ranks, and what differs. Eight samples in micro-batches of four leave two of four ranks without any.
LAYOUTS = [
    (1, ["--train.micro_batch", 1]),
    (1, ["--train.micro_batch", 4]),
    (1, ["--train.recompute", 1]),
    (2, ["--train.micro_batch", 1]),
    (4, ["--train.micro_batch", 4]),
    (4, ["--parallel.ep", 2, "--parallel.zero", 1]),
    (2, ["--parallel.tp", 2, "--parallel.sequence", 1]),
    (2, ["--parallel.pp", 2]),
    (2, ["--parallel.cp", 2, "--train.micro_batch", 8]),
]


def write_shard(path, documents, spans=None, **columns):
    """documents: lists of tokens; spans: lists of (begin, end), of the targets of each."""
    with h5py.File(path, "w") as file:
        file.attrs["schema"], file.attrs["vocab_size"] = "moesaic-corpus", 64
        file.attrs["version"] = 2 if spans is not None or "group" in columns else 1
        file["tokens"] = np.array([token for tokens in documents for token in tokens], "u2")
        file["documents/offsets"] = np.cumsum([0] + [len(d) for d in documents]).astype("u8")
        if spans is not None:
            file["documents/spans/offsets"] = np.cumsum([0] + [len(s) for s in spans]).astype("u8")
            for end, name in enumerate(["begin", "end"]):
                file[f"documents/spans/{name}"] = np.array(
                    [span[end] for of_one in spans for span in of_one], "u4")
        for name, values in columns.items():
            file[f"documents/{name}"] = np.array(values, "u8")


def draw(seed, count):
    """Documents of ragged lengths: some of one token, some too long; most have targets."""
    choose = random.Random(seed)
    lengths = [choose.choice([1, 2, 5, 11, 19, LENGTH, LENGTH + 1, LENGTH + 2, 60])
               for _ in range(count)]
    documents = [[choose.randrange(64) for _ in range(length)] for length in lengths]
    spans = []
    for tokens in documents:
        begin = choose.randrange(len(tokens))
        middle = (begin + len(tokens)) // 2
        parts = [(begin, middle), (middle + 1, len(tokens))] if choose.random() > 0.1 else []
        spans.append([span for span in parts if span[0] < span[1]])
    return documents, spans


def samples_of(documents, spans, group):
    """The numbers of the documents of each sample (drop), and the documents of too long and of
    maskless ones."""
    samples, dropped, maskless, d = [], 0, 0, 0
    while d < len(documents):
        first = d
        d += 1
        while group[first] and d < len(documents) and group[d] == group[first]:
            d += 1
        unit = range(first, d)
        if any(len(documents[i]) > LENGTH + 1 for i in unit):
            dropped += len(unit)
        elif any(all(end <= 1 for _, end in spans[i]) for i in unit):
            maskless += len(unit)
        else:
            samples.append(list(unit))
    return samples, dropped, maskless


class Documents(harness.EndToEnd):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.documents, cls.spans = draw(1, 200)
        cls.group = [1 + d // 2 if d % 10 < 4 else 0 for d in range(200)]
        cls.samples, cls.dropped, cls.maskless = samples_of(cls.documents, cls.spans, cls.group)
        cls.steps = math.ceil(1.5 * len(cls.samples) / 8)
        cls.held = draw(2, 30)

    def setUp(self):
        super().setUp()
        write_shard(self.folder / "text.h5", self.documents, self.spans, group=self.group)
        write_shard(self.folder / "held.h5", *self.held)
        (self.folder / "config.cfg").write_text(harness.config(KEYS))

    def column(self, run, name):
        return harness.column(self.folder / run / "trace.h5", name)

    # Protects: the loss counts targets of the whole batch and gradients the same, whatever the
    # micro-batches and the layout, of ragged documents; ranks may have none of them.
    def test_layouts(self):
        first = self.trained(1, "--run.dir", "first")
        most = max(sum(len(self.documents[d]) - 1 for d in unit) for unit in self.samples)
        self.assertIn(f"200 ({self.dropped} longer than data.seq_len: dropped, {self.maskless} "
                      f"without targets: skipped): {len(self.samples)} samples of at most {most} rows",
                      first.text)
        self.assertEqual(len(self.column("first", "step")), self.steps)
        self.assertGreater(len(set(self.column("first", "tokens"))), 1, "steps have equal rows")
        for number, (ranks, keys) in enumerate(LAYOUTS):
            with self.subTest(ranks=ranks, keys=keys):
                run = f"run{number}"
                self.trained(ranks, "--run.dir", run, *keys)
                for name in ("step", "tokens", "targets"):
                    np.testing.assert_array_equal(self.column(run, name), self.column("first", name))
                for name, tolerance in [("lm_loss", 1e-6), ("grad_norm", 2e-6)]:
                    here, there = self.column(run, name), self.column("first", name)
                    np.testing.assert_allclose(here[0], there[0], rtol=tolerance, err_msg=name)
                    np.testing.assert_allclose(here, there, rtol=100 * tolerance, err_msg=name)
                np.testing.assert_allclose(self.column(run, "eval/loss"),
                                           self.column("first", "eval/loss"), rtol=1e-4)

    # Protects: balance terms are of real rows: those of sequences are the documents' own, and a share
    # of all rows of the batch, whatever the micro-batches.
    def test_balance(self):
        for number, (ranks, micro_batch) in enumerate([(1, 1), (1, 4), (2, 2), (2, 8)]):
            self.trained(ranks, "--run.dir", f"run{number}", "--train.micro_batch", micro_batch,
                         "--router.aux_loss", 0.5, "--router.aux_scope", "sequence", "--router.z_loss",
                         0.1, "--train.steps", 2)
            for name in ("loss", "grad_norm"):
                np.testing.assert_allclose(self.column(f"run{number}", name)[0],
                                           self.column("run0", name)[0], rtol=2e-6)
        self.assertGreater(self.column("run0", "loss")[0], self.column("run0", "lm_loss")[0] + 0.4)

    # Protects: a run that was killed goes on with the same units, bit for bit, and ends after the
    # same epochs.
    def test_resume(self):
        record = ["--trace.routing", "all"]
        self.trained(2, "--run.dir", "whole", *record)
        self.trained(2, "--train.steps", 6, *record)  # its last checkpoint goes: it was killed after step 4
        for path in sorted(self.checkpoint(6).iterdir()):
            path.unlink()
        self.checkpoint(6).rmdir()
        again = self.trained(2, *record)
        self.assertRegex(again.text, f"step 4 of {self.steps}, next sample 32")
        for name in ("loss", "grad_norm", "tokens", "targets", "eval/loss"):
            np.testing.assert_array_equal(self.column("run", name), self.column("whole", name))
        one = harness.tensors(self.checkpoint(self.steps))
        for name, value in harness.tensors(self.checkpoint(self.steps, "whole")).items():
            np.testing.assert_array_equal(one[name], value, err_msg=name)
        self.assertEqual(harness.contents(self.folder / "run/trace.routing.h5"),
                         harness.contents(self.folder / "whole/trace.routing.h5"))
        self.assertIn("nothing to do", self.trained(2).text)
        longer = self.trained(2, "--train.epochs", 2)
        last = math.ceil(2 * len(self.samples) / 8)
        self.assertRegex(longer.text, f"step {self.steps} of {last}")
        for key, value in [("data.samples", "stream"), ("data.truncate", "end")]:
            extra = [] if value == "end" else ["--train.epochs", 3]
            self.assert_fault(self.train(2, f"--{key}", value, *extra), 76, key, value)

    # Protects: every row that is routed is a row of a document, the whole batch's and once each.
    def test_routing_record(self):
        self.trained(4, "--trace.routing", "all", "--parallel.ep", 2)
        self.assert_sound("run/trace.routing.h5", "run/trace.h5", "run/checkpoints")
        with h5py.File(self.folder / "run/trace.routing.h5") as file:
            offsets = file["steps/offset"][()]
            document, position = file["tokens/document"][()], file["tokens/position"][()]
            token, chosen = file["tokens/token"][()], file["chosen"][()]
        np.testing.assert_array_equal(np.diff(offsets), self.column("run", "tokens"))
        self.assertTrue((chosen >= 0).all())
        per_epoch = len(self.samples)
        seen = []  # documents, in the order of the steps
        for step, (begin, end) in enumerate(zip(offsets[:-1], offsets[1:])):
            rows = sorted(zip(document[begin:end], position[begin:end], token[begin:end]))
            wanted = [(d, i, self.documents[d][i]) for d in sorted({row[0] for row in rows})
                      for i in range(len(self.documents[d]) - 1)]
            if step < per_epoch // 8:  # no unit comes twice
                self.assertEqual(rows, wanted)
                seen += {row[0] for row in rows}
        self.assertEqual(len(seen), len(set(seen)))
        self.assertLessEqual(set(seen), {d for unit in self.samples for d in unit})

    # Protects: an evaluation and `score` read documents alike: each with targets once, and nothing but
    # its targets counts; each corpus has its own loss.
    def test_evaluation_is_score(self):
        self.trained(2, "--data.truncate", "end", "--train.steps", 3, "--train.epochs", 0,
                     "--data.eval_corpus", "text.h5,held.h5")
        documents = [d[:LENGTH + 1] for d in self.held[0]]  # as the evaluation cuts them
        spans = [[(b, min(e, LENGTH + 1)) for b, e in s if b <= LENGTH] for s in self.held[1]]
        write_shard(self.folder / "cut.h5", documents, spans)
        result = self.run_job(1, "score", "--model.path", "run/checkpoints", "--data.corpus", "cut.h5",
                              "--run.precision", "fp32", "--score.output", "scores.h5")
        self.assertEqual(result.code, 0, result.text)
        self.assertIn(f"{sum(not any(end > 1 for _, end in of_one) for of_one in spans)} of 30 documents "
                      "have no targets", result.text)
        self.assert_sound("scores.h5")
        with h5py.File(self.folder / "scores.h5") as file:
            tokens, logprob = file["documents/tokens"][()], file["documents/logprob"][()]
            every = file["tokens/logprob"][()]
        wanted = [sum(max(0, end - max(1, begin)) for begin, end in of_one) for of_one in spans]
        np.testing.assert_array_equal(tokens, wanted)
        self.assertEqual(len(every), sum(wanted))
        np.testing.assert_allclose(self.column("run", "eval/loss_by_corpus")[-1, 1],
                                   -logprob.sum() / tokens.sum(), rtol=1e-6)

    # Protects: eval.tokens takes whole documents, spread over the corpus.
    def test_evaluation_of_some(self):
        self.trained(1, "--eval.tokens", 60, "--train.steps", 1, "--trace.path", "some.h5")
        self.trained(1, "--run.dir", "all", "--train.steps", 1)
        some = harness.column(self.folder / "some.h5", "eval/loss")
        self.assertTrue(np.isfinite(some).all())
        self.assertNotEqual(some[0], self.column("all", "eval/loss")[0])

    # Protects: what cannot be trained on is refused with the reason and what would do.
    def test_refusals(self):
        self.assert_fault(self.train(0, "--train.tokens", 1e4), 64, "train.tokens", "train.epochs")
        self.assert_fault(self.train(0, "--data.samples", "stream", "--data.truncate", "end"), 64,
                          "data.truncate = end has no effect")
        write_shard(self.folder / "long.h5", [[1] * 60, [2] * 70, [3]])
        self.assert_fault(self.train(2, "--data.corpus", "long.h5"), 65, "long.h5",
                          "3 (2 longer than data.seq_len: dropped, 1 without targets: skipped)",
                          "data.truncate=end")
        self.trained(0, "--data.corpus", "long.h5", "--data.truncate", "end", "--train.steps", 1,
                     "--run.dir", "cut")
        np.testing.assert_array_equal(self.column("cut", "tokens"), [8 * LENGTH])
        write_shard(self.folder / "given.h5", [[1, 2, 3], [4, 5]], context=[3, 2])
        for key in ("data.corpus", "data.eval_corpus"):
            self.assert_fault(self.train(0, f"--{key}", "given.h5"), 65, key, "given.h5",
                              "2 without targets", "nothing to predict")
        self.assert_fault(
            self.train(0, "--data.corpus", "text.h5,given.h5", "--data.corpus_weights", "1,1"), 65,
            "given.h5", "2 without targets")
        self.assert_fault(self.train(0, "--data.corpus", "text.h5,given.h5", "--data.corpus_weights",
                                     "0,0"), 64, "data.corpus_weights are all 0")
        self.assertFalse((self.folder / "run").exists(), "a refused run left something behind")

    # Protects: the length in epochs, of streams too; the first limit counts; plan says the same.
    def test_epochs(self):
        stream = ["--data.samples", "stream", "--train.epochs", 0.5, "--run.dir", "stream"]
        self.trained(1, *stream)
        samples = (sum(map(len, self.documents)) - 1) // LENGTH
        self.assertEqual(len(self.column("stream", "step")), math.ceil(0.5 * samples / 8))
        planned = self.run_job(0, "plan", "--config", "config.cfg")
        self.assertEqual(planned.code, 0, planned.text)
        self.assertRegex(planned.text, rf"{self.steps} steps of at most {8 * LENGTH} tokens")
        self.assertIn(f"at most {2 * LENGTH} rows", planned.text)
        self.assertIn(f"{len(self.samples)} samples", planned.text)
        alone = self.run_job(0, "plan", "--model.vocab_size", 64, "--train.epochs", 1)
        self.assert_fault(alone, 64, "train.epochs = 1 needs data.corpus")


if __name__ == "__main__":
    import unittest
    unittest.main()
