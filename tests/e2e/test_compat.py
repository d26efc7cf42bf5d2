"""What earlier versions wrote is read, gone on with and appended to; what later ones write is refused."""
import hashlib
import json
import pathlib
import shutil
import tarfile
import tempfile
import unittest

import h5py
import numpy as np

import harness

FILES = harness.ROOT / "tests/golden/compat/files.tar.xz"
LOSSES = (5.5616, 5.5393, 5.4862, 5.4349)  # of the run's four steps


class Compat(unittest.TestCase):
    run_job = harness.EndToEnd.run_job
    assert_fault = harness.EndToEnd.assert_fault
    assert_sound = harness.EndToEnd.assert_sound

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="moesaic-compat-")).resolve()
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        with tarfile.open(FILES) as archive:
            archive.extractall(self.folder)

    def done(self, ranks, *arguments):
        result = self.run_job(ranks, *arguments)
        self.assertEqual(result.code, 0, result.text)
        return result

    def go_on(self, ranks, *arguments):
        return self.done(ranks, "train", "--config", "config.cfg", *arguments)

    # Protects: every kind of file is sound to this program.
    def test_verify(self):
        self.assert_sound("corpus/train", "corpus/heldout", "moe/checkpoints", "zero/checkpoints", "int4",
                          "moe/trace.h5", "moe/trace.routing.h5", "zero/trace.h5", "scores.h5",
                          "scores_int4.h5", "generations.h5")

    # Protects: a run goes on on other ranks, its trace and routing record are appended to.
    def test_resume(self):
        before = self.folder / "moe/trace.h5"
        losses = harness.column(before, "lm_loss")
        result = self.go_on(1, "--train.steps", 6, "--run.dir", "moe", "--trace.routing", "1-6")
        self.assertIn("resume from", result.text)
        self.assertEqual(harness.column(before, "step").tolist(), [1, 2, 3, 4, 5, 6])
        np.testing.assert_array_equal(harness.column(before, "lm_loss")[:4], losses)
        self.assertLess(harness.column(before, "lm_loss")[5], losses[0])
        self.assertEqual(harness.column(self.folder / "moe/trace.routing.h5", "steps/step").tolist(),
                         [1, 2, 3, 4, 5, 6])
        for newer in ("entropy", "token_accuracy"):  # not in the old trace
            self.assertEqual(np.isnan(harness.column(before, newer)).tolist(), [True] * 4 + [False] * 2)
        self.assert_sound("moe/checkpoints", "moe/trace.h5", "moe/trace.routing.h5")

    # Protects: the same steps, made anew, have the same losses, and the second half of a run those
    # that the whole run has.
    def test_losses(self):
        self.go_on(1, "--train.steps", 6, "--run.dir", "moe")
        self.go_on(1, "--train.steps", 6, "--run.dir", "anew")
        np.testing.assert_allclose(harness.column(self.folder / "anew/trace.h5", "lm_loss"),
                                   harness.column(self.folder / "moe/trace.h5", "lm_loss"), rtol=1e-4)

    # Protects: optimizer state that was split over two ranks.
    def test_zero(self):
        self.go_on(1, "--train.steps", 4, "--run.dir", "zero")
        np.testing.assert_allclose(harness.column(self.folder / "zero/trace.h5", "lm_loss"),
                                   harness.column(self.folder / "moe/trace.h5", "lm_loss"), rtol=1e-4)

    # Protects: checkpoints, quantised ones too, compute what they did; parts of scores are the same.
    def test_scores(self):
        for model, scores, tolerance in (("moe/checkpoints", "scores.h5", 2e-4),
                                         ("int4", "scores_int4.h5", 2e-3)):
            self.done(0, "score", "--model.path", model, "--data.corpus", "corpus/heldout",
                      "--run.precision", "fp32", "--score.output", "new.h5")
            with h5py.File(self.folder / "new.h5") as new, h5py.File(self.folder / scores) as old:
                np.testing.assert_allclose(new["tokens/logprob"][()], old["tokens/logprob"][()],
                                           atol=tolerance)
                self.assertEqual(new["documents/id"][()].tolist(), old["documents/id"][()].tolist())
            (self.folder / "new.h5").unlink()


def checksum(manifest):
    """The checksum of a checkpoint's manifest, as the program computes it."""
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps(body, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class NewerFormats(Compat):
    """A later program's files are sound: they are neither called damaged nor set aside."""

    test_verify = test_resume = test_losses = test_zero = test_scores = None

    def assert_newer(self, result, known):
        self.assert_fault(result, 65, f"version {known + 7}", f"up to version {known}", "newer moesaic")
        self.assertNotIn("damaged", result.text)
        self.assertNotIn("delete", result.text.lower())

    def raise_version(self, path, known=1):
        path = self.folder / path
        if path.suffix == ".json":
            content = json.loads(path.read_text())
            content["version"] = known + 7
            if "sha256" in content:
                content["sha256"] = checksum(content)
            path.write_text(json.dumps(content))
        else:
            with h5py.File(path, "r+") as file:
                file.attrs["version"] = np.int64(known + 7)

    def train(self):
        return self.run_job(0, "train", "--config", "config.cfg", "--train.steps", 6, "--run.dir", "moe",
                            "--trace.routing", "1-6")

    # Protects: no file of a newer program is replaced by one of this program.
    def test_train(self):
        for path, known in (("corpus/train/corpus.json", 2),
                            ("moe/checkpoints/step-00000004/manifest.json", 2), ("moe/trace.h5", 1),
                            ("moe/trace.routing.h5", 1)):
            with self.subTest(path):
                kept = (self.folder / path).read_bytes()
                self.raise_version(path, known)
                newer = (self.folder / path).read_bytes()
                self.assert_newer(self.train(), known)
                self.assertEqual((self.folder / path).read_bytes(), newer)
                self.assertEqual(sorted(p.name for p in (self.folder / "moe").glob("*.1")), [])
                (self.folder / path).write_bytes(kept)

    def test_bare_shard(self):
        shard = "corpus/train/corpus-00000-of-00002.h5"
        self.raise_version(shard, 2)
        self.assert_newer(self.run_job(0, "train", "--config", "config.cfg", "--train.steps", 6,
                                       "--data.corpus", shard, "--run.dir", "other"), 2)

    def test_scores_and_continuations(self):
        for job, path in (("score", "scores.h5"), ("generate", "generations.h5")):
            self.raise_version(path)
            self.assert_newer(self.run_job(0, job, "--model.path", "moe/checkpoints", "--data.corpus",
                                           "corpus/heldout", "--run.precision", "fp32", f"--{job}.output",
                                           path), 1)
            self.assertFalse((self.folder / f"{path}.1").exists())

    def test_verify(self):
        for path, known in (("moe/checkpoints/step-00000004/manifest.json", 2), ("moe/trace.h5", 1),
                            ("moe/trace.routing.h5", 1), ("scores.h5", 1), ("generations.h5", 1),
                            ("corpus/train/corpus.json", 2)):
            with self.subTest(path):
                self.raise_version(path, known)
                result = self.run_job(0, "verify", path)
                self.assertEqual(result.code, 65, result.text)
                self.assertIn(f"version {known + 7}", result.text)
                self.assertIn(f"up to version {known}", result.text)
                self.assertNotIn("damaged", result.text)


if __name__ == "__main__":
    unittest.main()
