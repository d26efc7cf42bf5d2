"""A run that is killed on one layout and goes on on another ends where an uninterrupted one does."""
import random

import numpy as np

import harness

MODEL = ["--model.layers", 4, "--model.heads", 4, "--model.kv_heads", 2, "--model.dense_layers", 1,
         "--model.tie_embeddings", 1, "--router.balance", "bias", "--train.lr", 3e-4]
# Ranks, and what differs from one rank.
LAYOUTS = [
    (1, {}),
    (1, {"train.recompute": 1}),
    (2, {"ep": 2}),
    (2, {"zero": 1}),
    (2, {"tp": 2}),
    (2, {"tp": 2, "sequence": 1, "expert_tp": 1}),
    (2, {"cp": 2}),
    (2, {"pp": 2}),
    (2, {"pp": 2, "schedule": "interleaved", "virtual_stages": 2}),
    (3, {}),
    (4, {"tp": 2, "pp": 2}),
    (4, {"tp": 4, "sequence": 1, "zero": 1}),
    (4, {"ep": 2, "zero": 1}),
    (4, {"cp": 2, "pp": 2, "zero": 1}),
    (4, {"pp": 2, "ep": 2, "zero": 1}),
    (4, {"pp": 4}),
    (8, {"tp": 2, "pp": 2, "ep": 2, "sequence": 1}),
    (8, {"tp": 4, "ep": 2, "expert_tp": 0, "zero": 1}),
]


def arguments(layout):
    """The options of a layout; all keys, as the config file has a value for ep."""
    keys = {"ep": 1, **layout}
    return [word for key, value in keys.items()
            for word in ("--" + (key if "." in key else "parallel." + key), value)]


class Layouts(harness.EndToEnd):
    def run_on(self, number, run, *more):
        ranks, layout = LAYOUTS[number]
        return self.trained(ranks, *MODEL, *arguments(layout), "--run.dir", run, *more)

    def killed_on(self, number, run, step):
        """Starts a run and kills all its ranks once it has a checkpoint of that step."""
        ranks, layout = LAYOUTS[number]
        child = self.start(ranks, "train", "--config", "config.cfg", *MODEL, *arguments(layout),
                           "--run.dir", run, "--train.steps", 100000, "--checkpoint.every", 1,
                           "--checkpoint.keep", 100, wrapper=self.stopping(
                               f"{run}/checkpoints/step-00000015/manifest.json"))
        self.wait_for(lambda: self.newest_step(run) >= step or child.poll() is not None,
                      f"step {step}")
        self.assertIsNone(child.poll(), "it ended by itself")
        self.end(child)
        self.assertLess(self.newest_step(run), 20)

    def trace(self, run, name="loss"):
        return harness.column(self.folder / run / "trace.h5", name)

    # Protects: parameters, moments, router biases and the data position on any change of layout.
    @harness.in_turn
    def test_twenty_triples(self):
        self.run_on(0, "whole")
        choose = random.Random(5)
        for triple in range(20):
            a = triple * 3 % len(LAYOUTS)
            b = a if triple % 5 == 0 else choose.randrange(len(LAYOUTS))
            step = choose.randint(1, 8)
            with self.subTest(f"{LAYOUTS[a]} killed at {step}, then {LAYOUTS[b]}"):
                run = f"run{triple}"
                self.killed_on(a, run, step)
                self.run_on(b, run)
                np.testing.assert_array_equal(self.trace(run, "step"), np.arange(1, 21))
                for name in ("loss", "grad_norm"):
                    np.testing.assert_allclose(self.trace(run, name), self.trace("whole", name),
                                               rtol=1e-5)
                counts, expected = (self.trace(r, "expert_tokens") for r in (run, "whole"))
                self.assertLessEqual(np.abs(counts - expected).sum(), 1e-3 * expected.sum())
                if a == b:
                    self.run_on(a, f"again{triple}")
                    np.testing.assert_array_equal(self.trace(run), self.trace(f"again{triple}"))
        self.assert_sound("whole/trace.h5", "run0/checkpoints", "run1/trace.h5")

    # Protects: the layouts of the design that is implemented, on 4 and on 16 ranks.
    def test_layouts_of_the_design(self):
        self.run_on(0, "whole", "--train.steps", 4)
        for ranks, layout in [(4, {"tp": 2, "pp": 2}), (16, {"tp": 4, "pp": 2, "ep": 2})]:
            with self.subTest(str(layout)):
                result = self.trained(ranks, *MODEL, *arguments(layout), "--run.dir", str(ranks),
                                      "--train.steps", 4)
                self.assertIn("stage 1 dp 0", result.out)
                for name in ("loss", "grad_norm"):
                    np.testing.assert_allclose(self.trace(str(ranks), name),
                                               self.trace("whole", name), rtol=1e-5)

    # Protects: evaluation and scores do not depend on the layout.
    def test_scores(self):
        self.run_on(0, "whole", "--data.eval_corpus", "corpus/heldout", "--train.steps", 4)
        results = {}
        for number in (0, 4, 5, 7, 9, 12, 14):
            ranks, layout = LAYOUTS[number]
            layout = {key: value for key, value in layout.items()
                      if key not in ("zero", "train.recompute")}
            output = f"scores{number}.h5"
            result = self.run_job(ranks, "score", "--model.path", "whole/checkpoints",
                                  "--data.corpus", "corpus/heldout", "--score.output", output,
                                  "--run.precision", "fp32", *arguments(layout))
            self.assertEqual(result.code, 0, result.text)
            results[number] = harness.column(self.folder / output, "tokens/logprob")
            np.testing.assert_allclose(results[number], results[0], rtol=2e-5, atol=2e-5)
        evals = harness.column(self.folder / "whole/trace.h5", "eval/loss")
        for number in (5, 9, 14):
            self.run_on(number, f"eval{number}", "--data.eval_corpus", "corpus/heldout",
                        "--train.steps", 4)
            there = harness.column(self.folder / f"eval{number}/trace.h5", "eval/loss")
            np.testing.assert_allclose(there, evals, rtol=1e-5)

    # Protects: ranks that share the rows of a batch score each token as one rank does, bit for bit.
    def test_scores_with_context_parallelism(self):
        self.run_on(0, "whole", "--model.max_seq", 256, "--data.seq_len", 256, "--train.steps", 2)
        found = {}
        for cp in (1, 2, 4):
            output = f"cp{cp}.h5"
            result = self.run_job(cp, "score", "--model.path", "whole/checkpoints", "--data.corpus",
                                  "corpus/heldout", "--score.output", output, "--score.stride", 100,
                                  "--run.precision", "fp32", *arguments({"cp": cp}))
            self.assertEqual(result.code, 0, result.text)
            self.assert_sound(output, f"cp{cp}.trace.h5")
            found[cp] = harness.contents(self.folder / output)
        self.assertGreater(len(found[1]["tokens/logprob"]), 4 * 4096)
        self.assertEqual(found[2], found[1])
        self.assertEqual(found[4], found[1])

    # Protects: what cannot be arranged is refused before anything runs, with what can.
    def test_refusals(self):
        for ranks, layout, words in [
                (3, {"tp": 3}, ["parallel.tp = 3", "model.heads = 4", "use tp 2 or 4"]),
                (4, {"pp": 3}, ["does not divide", "use 3 or 6 ranks"]),
                (2, {"pp": 2, "schedule": "interleaved", "virtual_stages": 4},
                 ["more than model.layers = 4"]),
                (2, {"pp": 2, "virtual_stages": 2}, ["needs parallel.schedule = interleaved"]),
                (4, {"tp": 2, "expert_tp": 3}, ["parallel.expert_tp = 3"]),
                (4, {"tp": 4, "ep": 1, "model.experts": 3, "expert_tp": 1}, ["expert_tp = 1"])]:
            with self.subTest(str(layout)):
                result = self.train(ranks, *MODEL, *arguments(layout))
                self.assert_fault(result, 64, *words)
                self.assertFalse((self.folder / "run").exists())
