"""The routing record: one file whatever the ranks, from which the trace's counts follow."""
import subprocess
import sys

import h5py
import numpy as np

import harness

# Every fate occurs: too few slots for all choices, one spare, a threshold that stops early.
ROUTED = ["--model.layers", 4, "--model.dense_layers", 1, "--model.kv_heads", 2,
          "--router.capacity_factor", 0.7, "--router.overflow", "spare", "--router.spare_experts", 1,
          "--router.threshold", 0.55]
# Parameters that stand still: sums over other ranks would move them by other roundings.
STILL = ["--train.lr", 1e-30, "--train.min_lr", 0, "--train.warmup", 0]
LAYOUTS = [(1, {}), (2, {}), (2, {"ep": 2}), (2, {"pp": 2}), (2, {"tp": 2}), (2, {"cp": 2}),
           (4, {"cp": 2, "ep": 2}),
           (4, {"pp": 2, "ep": 2, "schedule": "interleaved", "virtual_stages": 2})]


def arguments(layout):
    return [word for key, value in {"ep": 1, **layout}.items() for word in (f"--parallel.{key}", value)]


def arrays(path):
    """Every dataset of a record, by name."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]})
                        if isinstance(item, h5py.Dataset) else None)
    return found


class Routing(harness.EndToEnd):
    def run_on(self, run, ranks, layout, *more, steps="all"):
        return self.trained(ranks, *ROUTED, "--trace.routing", steps, *arguments(layout), "--run.dir",
                            run, *more)

    def record(self, run):
        return arrays(self.folder / run / "trace.routing.h5")

    def analyse(self, run):
        """The report of a run's record, which compares every count with the trace's."""
        folder = self.folder / run
        return subprocess.run(
            [sys.executable, harness.ROOT / "analysis/routing.py", folder / "trace.routing.h5",
             "--trace", folder / "trace.h5", "--corpus", self.folder / "corpus/train",
             "-o", folder / "report"], capture_output=True, text=True)

    # Protects: the record's bytes do not depend on the ranks, and the trace's counts follow from it.
    # Over tp, sums within a layer round otherwise: ties turn, and then what follows from them in
    # later layers.
    def test_same_on_all_layouts(self):
        for number, (ranks, layout) in enumerate(LAYOUTS):
            with self.subTest(f"{ranks} {layout}"):
                run = f"run{number}"
                result = self.run_on(run, ranks, layout, "--train.steps", 3, *STILL)
                self.assertIn("routing record", result.out)
                self.assert_sound(f"{run}/trace.routing.h5")
                done = self.analyse(run)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                self.assertIn("counts of 3 steps are those of the trace", done.stdout)
                here, first = self.record(run), self.record("run0")
                self.assertEqual(here.keys(), first.keys())
                for name in first:
                    if "tp" not in layout or name not in ("chosen", "weight", "fate", "target"):
                        np.testing.assert_array_equal(here[name], first[name], name)
                np.testing.assert_array_equal(here["chosen"][:, 0], first["chosen"][:, 0])
                alike = (here["fate"][:, 0] == first["fate"][:, 0]).all(axis=1)
                self.assertGreater(alike.mean(), 0.98)
                np.testing.assert_allclose(here["weight"][alike, 0], first["weight"][alike, 0],
                                           rtol=1e-5)
        self.assertEqual(set(np.unique(first["fate"])), {0, 1, 2, 3})
        self.assertIn(-1, first["chosen"])
        self.assertEqual(first["steps/offset"].tolist(), [0, 256, 512, 768])

    # Protects: a token joins back to the corpus by corpus, document and position.
    def test_tokens_are_those_of_the_corpus(self):
        self.run_on("run", 2, {}, "--train.steps", 2)
        stream, offsets = [], [0]
        for shard in sorted((self.folder / "corpus/train").glob("*.h5")):
            with h5py.File(shard) as file:
                offsets += (file["documents/offsets"][1:] + len(stream)).tolist()
                stream += file["tokens"][()].tolist()
        record = self.record("run")
        place = np.array(offsets)[record["tokens/document"]] + record["tokens/position"]
        np.testing.assert_array_equal(np.array(stream)[place], record["tokens/token"])

    def killed_on(self, run, ranks, layout, *more):
        """Starts a run and kills all its ranks once it has a checkpoint."""
        child = self.start(ranks, "train", "--config", "config.cfg", *ROUTED, *arguments(layout),
                           "--trace.routing", "all", "--run.dir", run, "--train.steps", 100000,
                           "--checkpoint.every", 3, "--checkpoint.keep", 100, *more,
                           wrapper=self.stopping(f"{run}/checkpoints/step-00000015/manifest.json"))
        self.wait_for(lambda: self.newest_step(run) >= 3 or child.poll() is not None, "a checkpoint")
        self.assertIsNone(child.poll(), "it ended by itself")
        self.end(child)
        self.assertLess(self.newest_step(run), 20)

    # Protects: a killed run that goes on, also on other ranks, ends with the record of a whole one.
    def test_resume_after_a_kill(self):
        for run, before, after, more in [("same", (2, {"ep": 2}), (2, {"ep": 2}), []),
                                         ("other", (2, {"ep": 2}), (1, {}), STILL)]:
            with self.subTest(run):
                self.run_on(f"whole_{run}", *after, *more)
                self.killed_on(run, *before, *more)
                self.run_on(run, *after, *more)
                self.assert_sound(f"{run}/trace.routing.h5")
                here, whole = self.record(run), self.record(f"whole_{run}")
                for name in whole:
                    np.testing.assert_array_equal(here[name], whole[name], name)
                done = self.analyse(run)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    # Protects: only the steps that are named; a key that names none, or has no use, is refused.
    def test_steps(self):
        self.run_on("run", 2, {}, "--train.steps", 9, steps="1-2,every:4,7")
        self.assertEqual(self.record("run")["steps/step"].tolist(), [1, 2, 4, 7, 8])
        self.assert_fault(self.train(1, "--trace.routing", "0-3"), 64, "trace.routing", "no step")
        self.assert_fault(self.train(1, "--trace.routing", "1", "--model.dense_layers", 2,
                                     "--parallel.ep", 1, "--run.dir", "dense"),
                          64, "trace.routing", "dense")

    # Protects: damage of a count is found, by verify as by the comparison with the trace.
    def test_damage(self):
        self.run_on("run", 1, {}, "--train.steps", 2)
        path = self.folder / "run/trace.routing.h5"
        with h5py.File(path, "a") as file:
            file["fate"][40, 1, 0] = 0
            file["target"][40, 1, 0] = (file["chosen"][40, 1, 0] + 1) % 4
        result = self.run_job(0, "verify", path)
        self.assertEqual(result.code, 65, result.text)
        self.assertIn("token 40", result.text)
        done = self.analyse("run")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("expert_", done.stderr)
