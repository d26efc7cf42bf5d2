"""The whole design of the router in jobs: gate of tasks, spares, held gradients, on any layout."""
import csv
import json
import subprocess

import h5py
import numpy as np

import harness

# 8 sequences of 32 tokens in micro-batches of 2: 128 choices, 32 for each of 4 experts when balanced.
ROUTER = ["--router.task_gate", 1, "--router.candidates", 3, "--router.temperature", 0.7,
          "--router.capacity", 24, "--router.overflow", "spare", "--router.spare_experts", 2,
          "--router.gradient_buffer", 150, "--router.aux_scope", "batch", "--router.aux_loss", 0.05,
          "--train.lr", 0.003]
COUNTS = ["expert_tokens", "expert_dropped", "expert_rerouted", "expert_processed", "expert_slots",
          "expert_state", "task_expert_tokens", "task_choice_tokens"]
LAYOUTS = {"one": (1, []), "ep": (2, []), "zero": (2, ["--parallel.ep", 1, "--parallel.zero", 1]),
           "tp": (2, ["--parallel.ep", 1, "--parallel.tp", 2]), "uneven": (3, ["--parallel.ep", 3])}
GATE = "model.layers.0.mlp.gate."


class Router(harness.EndToEnd):
    def trace(self, run, name):
        return harness.column(self.folder / run / "trace.h5", name)

    def train_on(self, layout, run, *more):
        ranks, keys = LAYOUTS[layout]
        alone = ["--parallel.ep", 1] if ranks == 1 else []
        return self.trained(ranks, *ROUTER, *alone, *keys, "--run.dir", run, *more)

    # Protects: plans, counts, held gradients and losses do not depend on the layout, uneven shares of
    # the experts among them; the trace obeys its laws.
    def test_layouts(self):
        for layout in LAYOUTS:
            self.train_on(layout, layout)
            self.assert_sound(f"{layout}/trace.h5", f"{layout}/checkpoints")
        rerouted, state = self.trace("one", "expert_rerouted"), self.trace("one", "expert_state")
        spare = self.trace("one", "expert_processed")[state == 2]
        self.assertGreater(rerouted.sum(), 0)
        self.assertGreater(spare.sum(), 0)
        self.assertLess(spare.sum(), rerouted.sum())  # the others went to the next best
        for layout in LAYOUTS:
            for name in COUNTS:
                np.testing.assert_array_equal(self.trace(layout, name)[:5],
                                              self.trace("one", name)[:5], f"{name} of {layout}")
            np.testing.assert_allclose(self.trace(layout, "loss"), self.trace("one", "loss"),
                                       rtol=1e-4, err_msg=layout)

    # Protects: sums and counts of held gradients, loads and task weights are in the checkpoint.
    def test_resume(self):
        self.train_on("ep", "whole")
        self.train_on("ep", "parts", "--train.steps", 7)
        held = harness.tensors(self.checkpoint(7, "parts"))
        self.assertTrue(any(name.startswith("held/") and value.any() for name, value in held.items()))
        self.train_on("ep", "parts")
        np.testing.assert_array_equal(self.trace("parts", "loss"), self.trace("whole", "loss"))
        whole, parts = (harness.tensors(self.checkpoint(20, run)) for run in ("whole", "parts"))
        self.assertEqual(whole.keys(), parts.keys())
        for name, value in whole.items():
            np.testing.assert_array_equal(parts[name], value, name)

    # Protects: rows of the gate follow the names of tasks, also into a corpus that has them in
    # another order and a new one beside them; scoring knows them by name too.
    def test_tasks_by_name(self):
        self.train_on("one", "run")
        before = harness.tensors(self.checkpoint(20))
        self.assertEqual({name for name in before if name.startswith(GATE + "task_weight")},
                         {GATE + "task_weight.code", GATE + "task_weight.prose"})
        self.assertGreater(np.abs(before[GATE + "task_weight.code"]).max(), 0.01)
        lines = [json.dumps({"id": f"n{i}", "task": ["prose", "mathematics", "code"][i % 3],
                             "text": "expert token router mesh " * 12}) for i in range(60)]
        (self.folder / "new.jsonl").write_text("\n".join(lines))
        result = self.run_job(0, "tokenize", "--tokenize.input", "new.jsonl", "--tokenize.output",
                              "new")
        self.assertEqual(result.code, 0, result.text)
        self.train_on("one", "more", "--model.path", "run/checkpoints", "--data.corpus", "new",
                      "--train.steps", 1, "--train.lr", 1e-9, "--train.min_lr", 0)
        after = harness.tensors(self.checkpoint(1, "more"))
        for task in ("code", "prose"):
            name = GATE + "task_weight." + task
            np.testing.assert_allclose(after[name], before[name], atol=1e-7)
        self.assertLess(np.abs(after[GATE + "task_weight.mathematics"]).max(), 1e-7)

        # One document under the name of each task, and under one that the model does not know.
        scores = {}
        for task in ("code", "prose", "unknown"):
            (self.folder / "text.jsonl").write_text(
                json.dumps({"id": "d", "task": task, "text": "expert token router mesh " * 5}))
            for job in (["tokenize", "--tokenize.input", "text.jsonl", "--tokenize.output", task],
                        ["score", "--model.path", "run/checkpoints", "--data.corpus", task,
                         "--score.output", f"{task}.scores.h5", "--run.precision", "fp32"]):
                result = self.run_job(0, *job)
                self.assertEqual(result.code, 0, result.text)
            with h5py.File(self.folder / f"{task}.scores.h5") as file:
                scores[task] = file["documents/logprob"][0]
        for one, other in (("code", "prose"), ("code", "unknown"), ("prose", "unknown")):
            self.assertNotAlmostEqual(scores[one], scores[other], places=5)

    # Protects: the study makes its runs once, and its table has a row for each.
    @harness.in_turn
    def test_study(self):
        study = ["bash", harness.ROOT / "jobs/utilisation_study.sh", "--short", "--corpus", "corpus",
                 "-o", "study"]
        for made in (2, 0):
            done = subprocess.run(study, cwd=self.folder, capture_output=True, text=True,
                                  timeout=harness.LIMIT,
                                  env={**harness.environment(), "MOESAIC": harness.MOESAIC})
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            names = {"drop-factor1.0-t1", "aux_loss-dropless-gate1"}
            self.assertEqual(len(names & set(done.stdout.splitlines())), made, done.stdout)
        with open(self.folder / "study/utilisation.csv", encoding="utf-8") as file:
            rows = {row["policy"]: row for row in csv.DictReader(file)}
        self.assertEqual(set(rows), {"drop", "aux_loss"})
        self.assertEqual(float(rows["aux_loss"]["dropped"]), 0)
        self.assertAlmostEqual(float(rows["drop"]["utilisation"]) + float(rows["drop"]["dropped"]), 1,
                               places=6)  # as many slots as choices
        self.assertTrue((self.folder / "study/utilisation.png").is_file())

    # Protects: fewer experts where a threshold is reached, in the counts of each task.
    def test_threshold(self):
        self.trained(2, "--router.threshold", 0.5, "--router.aux_loss", 0, "--router.balance", "none")
        taken, tokens = self.trace("run", "task_choice_tokens"), self.trace("run", "task_tokens")
        np.testing.assert_array_equal(taken.sum(axis=-1), np.repeat(tokens[:, None], 2, axis=1))
        self.assertGreater(taken[..., 0].sum(), 0)
        self.assert_sound("run/trace.h5")


if __name__ == "__main__":
    import unittest
    unittest.main()
