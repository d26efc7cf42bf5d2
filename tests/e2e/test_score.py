"""Scores are the same on any number of ranks and after any kill."""
import csv
import json
import subprocess
import sys

import h5py
import numpy as np

import harness

COMMAND = ["score", "--model.path", "run/checkpoints", "--data.corpus", "corpus/train",
           "--run.precision", "fp32"]


def read(path):
    with h5py.File(path) as file:
        names = ("tokens/logprob", "documents/offsets", "documents/tokens", "documents/logprob")
        arrays = {name: file[name][()] for name in names}
        return arrays, list(file["documents/id"].asstr()[()]), file.attrs["perplexity"]


class Score(harness.EndToEnd):
    def setUp(self):
        super().setUp()
        self.trained(2, "--train.steps", 5)

    def score(self, ranks, output):
        result = self.run_job(ranks, *COMMAND, "--score.output", output)
        self.assertEqual(result.code, 0, result.text)
        return read(self.folder / output)

    def assert_equal(self, a, b):
        self.assertEqual(a[1], b[1])
        for name in a[0]:
            np.testing.assert_allclose(a[0][name], b[0][name], rtol=1e-5, atol=1e-5, err_msg=name)
        self.assertAlmostEqual(a[2], b[2], delta=1e-5 * b[2])

    # Protects: no document is lost, doubled or moved when ranks share the work.
    def test_ranks(self):
        one, four = self.score(1, "one.h5"), self.score(4, "four.h5")
        self.assert_equal(four, one)
        self.assertEqual(len(set(one[1])), len(one[1]))
        self.assertGreater(len(one[1]), 200)
        self.assert_sound("one.h5", "four.h5")

    # Protects: after kill -9 finished parts are kept, and the result is that of one go.
    def test_kill(self):
        whole = self.score(1, "whole.h5")
        parts = self.folder / "out.h5.parts"
        child = self.start(1, *COMMAND, "--score.output", "out.h5",
                           wrapper=self.stopping("out.h5.parts/*.h5", "*out.h5"))
        self.wait_for(lambda: child.poll() is not None or list(parts.glob("*.h5")), "a part")
        self.end(child)
        kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.h5")}
        self.assertFalse((self.folder / "out.h5").exists(), "it ended before it was killed")
        self.assertGreater(len(kept), 0)
        again = self.run_job(2, *COMMAND, "--score.output", "out.h5")
        self.assertEqual(again.code, 0, again.text)
        self.assert_equal(read(self.folder / "out.h5"), whole)
        self.assert_sound("out.h5")
        self.assertFalse(parts.exists(), "finished parts are joined and deleted")

    # Protects: task names of many corpora are never mixed up, as a byte has no room for more.
    def test_many_tasks(self):
        for corpus, tasks in (("a", range(200)), ("b", range(200, 300))):
            (self.folder / corpus).mkdir()
            with open(self.folder / corpus / "text.jsonl", "w", encoding="utf-8") as file:
                for task in tasks:
                    file.write(json.dumps({"text": f"text {task}", "task": f"task{task}"}) + "\n")
            made = self.run_job(0, "tokenize", "--tokenize.input", f"{corpus}/text.jsonl",
                                "--tokenize.output", f"{corpus}/corpus")
            self.assertEqual(made.code, 0, made.text)
        result = self.run_job(2, "score", "--model.path", "run/checkpoints", "--data.corpus",
                              "a/corpus,b/corpus", "--score.output", "out.h5")
        self.assert_fault(result, 65, "255 task names")

    # Protects: a model never scores a corpus of another vocabulary.
    def test_other_vocabulary(self):
        with h5py.File(self.folder / "other.h5", "w") as file:
            file.attrs["schema"], file.attrs["version"] = "moesaic-corpus", 1
            file.attrs["vocab_size"] = 300
            file["tokens"] = np.arange(1000, dtype="u2") % 300
            file["documents/offsets"] = np.array([0, 1000], "u8")
        result = self.run_job(2, "score", "--model.path", "run/checkpoints", "--data.corpus",
                              "other.h5", "--score.output", "out.h5")
        self.assert_fault(result, 65, "other", "300", "257")
        self.assertFalse((self.folder / "out.h5").exists())

    # Protects: a shard file with only what is required can be scored, and its documents are numbered.
    def test_bare_shard(self):
        with h5py.File(self.folder / "bare.h5", "w") as file:
            file.attrs["schema"], file.attrs["version"] = "moesaic-corpus", 1
            file.attrs["vocab_size"] = 257
            file["tokens"] = np.arange(100, dtype="u2")
            file["documents/offsets"] = np.array([0, 40, 40, 100], "u8")
        result = self.run_job(2, "score", "--model.path", "run/checkpoints", "--data.corpus",
                              "bare.h5", "--score.output", "bare-scores.h5")
        self.assertEqual(result.code, 0, result.text)
        self.assertIn("bits per byte -\n", result.out)
        self.assert_sound("bare-scores.h5")
        table = subprocess.run([sys.executable, harness.ROOT / "analysis/scores.py", "bare-scores.h5",
                                "-o", "bare.csv"], cwd=self.folder, capture_output=True, text=True)
        self.assertEqual(table.returncode, 0, table.stderr)
        with open(self.folder / "bare.csv", encoding="utf-8") as file:
            rows = [(row["id"], row["tokens"]) for row in csv.DictReader(file)]
        self.assertEqual(rows, [("bare.h5:0", "39"), ("bare.h5:1", "0"), ("bare.h5:2", "59")])

    # Protects: a model that is not there is named with its absolute path.
    def test_missing_model(self):
        result = self.run_job(1, "score", "--model.path", "nowhere", "--data.corpus",
                              "corpus/heldout", "--score.output", "out.h5")
        self.assert_fault(result, 66, str(self.folder / "nowhere"))
        self.assertFalse((self.folder / "out.h5").exists())
