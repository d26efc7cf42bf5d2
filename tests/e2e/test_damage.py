"""Files changed or cut anywhere: verify ends with 0 (in unused space) or 65, never by a signal or late."""
import shutil

import h5py
import numpy as np

import harness

SHARD = "corpus-00000-of-00003.h5"


def spoilt(good, flips, cuts):
    """Versions of a file's bytes: one bit changed among those that are not 0, or the end cut off."""
    used = np.flatnonzero(np.frombuffer(good, "u1"))
    for number, at in enumerate(used[::max(1, len(used) // flips)]):
        changed = bytearray(good)
        changed[at] ^= 1 << (number % 8)
        yield bytes(changed)
    for number in range(cuts):
        yield good[:len(good) * number // cuts]


def write_bare(path):
    with h5py.File(path, "w") as file:
        file.attrs["schema"], file.attrs["version"] = "moesaic-corpus", 1
        file.attrs["vocab_size"] = 257
        file["tokens"] = np.arange(300, dtype="u2") % 257
        file["documents/offsets"] = np.array([0, 100, 300], "u8")
        file["documents/id"] = ["a", "b"]


class Damage(harness.EndToEnd):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.made = cls(methodName="make")
        cls.made.setUp()
        cls.addClassCleanup(shutil.rmtree, cls.made.folder, ignore_errors=True)
        cls.made.make()

    def make(self):
        self.trained(2)
        scored = self.run_job(2, "score", "--model.path", "run/checkpoints", "--data.corpus",
                              "corpus/heldout", "--score.output", "scores.h5")
        self.assertEqual(scored.code, 0, scored.text)
        write_bare(self.folder / "bare.h5")

    def judge(self, name, flips=150, cuts=40):
        """Every spoilt version has its verdict; all of the cut ones are found."""
        good = (self.made.folder / name).read_bytes()
        paths = []
        for number, version in enumerate(spoilt(good, flips, cuts)):
            paths.append(self.folder / f"{number}.h5")
            paths[-1].write_bytes(version)
        result = self.run_job(0, "verify", *paths)
        self.assertEqual(result.code, 65, result.text)
        lines = result.out.splitlines()
        told = [[line for line in lines if line.startswith(f"{path}: ")] for path in paths]
        for path, verdicts in zip(paths, told):
            self.assertEqual(len(verdicts), 1, f"{path} in\n{result.text}")
        for path, verdicts in list(zip(paths, told))[-cuts:]:
            self.assertNotIn(": sound", verdicts[0])

    # Protects: a shard of a corpus, with all its attributes and columns.
    def test_shard(self):
        self.judge("corpus/heldout/" + SHARD)

    # Protects: a shard file that a user made with h5py, whose text is of variable length.
    def test_bare_shard(self):
        self.judge("bare.h5")

    # Protects: a trace.
    def test_trace(self):
        self.judge("run/trace.h5")

    # Protects: scores.
    def test_scores(self):
        self.judge("scores.h5")

    # Protects: the part files of a checkpoint, whose blocks carry their hashes.
    def test_checkpoint(self):
        folder = self.made.checkpoint(20).relative_to(self.made.folder)
        part = self.made.folder / folder / "part-00000.h5"
        paths = []
        for number, version in enumerate(spoilt(part.read_bytes(), flips=60, cuts=20)):
            paths.append(self.folder / f"{number}/{folder.name}")
            shutil.copytree(self.made.folder / folder, paths[-1])
            (paths[-1] / part.name).write_bytes(version)
        result = self.run_job(0, "verify", *paths)
        self.assertEqual(result.code, 65, result.text)
        found = sum(f"{path}: sound" not in result.out for path in paths)
        self.assertGreater(found, len(paths) // 2)
        for path in paths:
            self.assertIn(f"{path}: ", result.out)
