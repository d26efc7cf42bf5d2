"""Data of other programs become corpora that moesaic calls sound, token for token."""
import importlib.util
import json
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

import h5py
import numpy as np

import harness

SCRIPT = harness.ROOT / "analysis/import_corpus.py"
DOCUMENTS = [[1, 2, 3, 0], [0], [], [4, 5, 6, 7, 0]]


def write_megatron(path, documents, kind="<u2", code=8):
    """Each document as sequences of at most two tokens, with Megatron's index of them."""
    cut = [[document[at:at + 2] for at in range(0, len(document), 2)] for document in documents]
    sequences = [np.array(sequence, kind) for document in cut for sequence in document]
    lengths = np.array([len(sequence) for sequence in sequences], "<i4")
    ends = np.cumsum(lengths, dtype="<i8") * np.dtype(kind).itemsize
    firsts = np.cumsum([0] + [len(document) for document in cut]).astype("<i8")
    path.with_suffix(".bin").write_bytes(b"".join(map(np.ndarray.tobytes, sequences)))
    path.with_suffix(".idx").write_bytes(
        b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, code, len(sequences), len(firsts))
        + lengths.tobytes() + np.concatenate([[0], ends[:-1]]).astype("<i8").tobytes()
        + firsts.tobytes())


def documents_of(folder):
    """The documents of all shards, in order, and their ids."""
    found, names = [], []
    for path in sorted(pathlib.Path(folder).glob("*.h5")):
        with h5py.File(path) as file:
            tokens, offsets = file["tokens"][()], file["documents/offsets"][()].astype(int)
            found += [tokens[begin:end].tolist() for begin, end in zip(offsets, offsets[1:])]
            names += file["documents/id"].asstr()[()].tolist()
    return found, names


class Import(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="moesaic-e2e-")).resolve()
        self.addCleanup(shutil.rmtree, self.folder)

    def run_import(self, *arguments, python=sys.executable, env=None):
        return subprocess.run([python, SCRIPT, *map(str, arguments)], cwd=self.folder,
                              capture_output=True, text=True, env=env)

    def imported(self, *arguments):
        done = self.run_import(*arguments, "-o", "out")
        self.assertEqual(done.returncode, 0, done.stderr)
        return self.folder / "out"

    def moesaic(self, *arguments):
        done = subprocess.run(harness.command(0, arguments), cwd=self.folder, capture_output=True,
                              text=True, env=harness.environment())
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def assert_refused(self, code, *words, arguments):
        done = self.run_import(*arguments, "-o", "refused")
        self.assertEqual(done.returncode, code, done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)
        self.assertEqual(list(self.folder.glob("refused*")), [])

    # Protects: documents of Megatron's files, of several sequences and of none, in several shards.
    def test_megatron(self):
        for kind, code in (("<u2", 8), ("<i4", 4), ("<i8", 5), ("<u1", 1)):
            with self.subTest(kind):
                write_megatron(self.folder / "m", DOCUMENTS, kind, code)
                shutil.rmtree(self.folder / "out", ignore_errors=True)
                out = self.imported("m.idx", "--vocab-size", 8, "--eos", 0, "--shard-tokens", 5)
                found, names = documents_of(out)
                self.assertEqual(found, DOCUMENTS)
                self.assertEqual(names, [f"m.bin:{number}" for number in range(4)])
                self.assertIn("sound (corpus, 2 shards, 4 documents, 10 tokens", self.moesaic("verify", out))
        manifest = json.loads((out / "out.json").read_text())
        self.assertEqual([shard["file"] for shard in manifest["shards"]],
                         ["out-00000-of-00002.h5", "out-00001-of-00002.h5"])

    # Protects: documents of a bare array end with eos or have one length, across blocks that are read.
    def test_npy(self):
        tokens = np.arange(1, (1 << 20) + 9, dtype="u4") % 70000
        np.save(self.folder / "a.npy", tokens)
        found, _ = documents_of(self.imported("a.npy", "--vocab-size", 70000, "--eos", 69999))
        self.assertEqual([len(document) for document in found], [69999] + [70000] * 13 + [68585])
        np.testing.assert_array_equal(np.concatenate(found), tokens)
        self.assertIn("sound", self.moesaic("verify", "out"))
        shutil.rmtree(self.folder / "out")
        (self.folder / "linked").symlink_to(".")  # a folder below itself, looked through once
        found, _ = documents_of(self.imported("linked", "--vocab-size", 70000, "--document-length", 400000))
        self.assertEqual([len(document) for document in found], [400000, 400000, 248584])

    # Protects: a corpus with another's vocabulary is tokenized text to train, and mixes with it.
    def test_vocabulary_of_a_corpus(self):
        harness.write_text(self.folder / "text.jsonl", 60, seed=1)
        harness.EndToEnd.tokenize(self.folder)
        made, _ = documents_of(self.folder / "corpus/train")
        np.save(self.folder / "a.npy", np.concatenate(made).astype("i8"))
        out = self.imported("a.npy", "--vocabulary", "corpus/train")
        self.assertEqual(documents_of(out)[0], made)
        (self.folder / "config.cfg").write_text(harness.config({"train.steps": 2, "parallel.ep": None}))
        self.moesaic("train", "--config", "config.cfg", "--data.corpus", "out,corpus/heldout")
        steps = harness.column(self.folder / "run/trace.h5", "step")
        self.assertEqual(steps.tolist(), [1, 2])

    # Protects: what cannot be imported is refused by name, and leaves nothing.
    def test_refused(self):
        write_megatron(self.folder / "m", DOCUMENTS)
        np.save(self.folder / "a.npy", np.array([1, 9]))
        np.save(self.folder / "f.npy", np.array([1.0]))
        sized = ["--vocab-size", 8, "--eos", 0]
        self.assert_refused(65, "a.npy:0", "token 9", "vocabulary of 8", arguments=["m.bin", "a.npy", *sized])
        self.assert_refused(65, "f.npy", "float64", arguments=["f.npy", *sized])
        self.assert_refused(64, "--eos", arguments=["a.npy", "--vocab-size", 10])
        self.assert_refused(64, "--vocab-size", arguments=["m.bin"])
        self.assert_refused(64, "--eos 10", arguments=["a.npy", "--vocab-size", 10, "--eos", 10])
        (self.folder / "links").mkdir()
        (self.folder / "links/gone.npy").symlink_to("nowhere")
        self.assert_refused(66, "gone.npy", arguments=["links", *sized])
        self.assert_refused(66, "none.npy", arguments=["none.npy", *sized])
        harness.truncate(self.folder / "m.bin")
        self.assert_refused(65, "m.bin:3", "truncated", arguments=["m.bin", *sized])
        harness.truncate(self.folder / "m.idx")
        self.assert_refused(65, "m.idx", "truncated", arguments=["m.bin", *sized])
        (self.folder / "m.idx").unlink()
        self.assert_refused(66, "m.idx", arguments=["m.bin", *sized])
        self.imported("a.npy", "--vocab-size", 10, "--eos", 0)
        done = self.run_import("a.npy", "--vocab-size", 10, "--eos", 0, "-o", "out")
        self.assertEqual((done.returncode, "is there already" in done.stderr), (73, True))

    # Protects: without pyarrow, numpy or h5py there is a sentence, no traceback.
    def test_missing_modules(self):
        hidden = self.folder / "hidden"
        for name in ("pyarrow", "h5py"):
            (hidden / name).mkdir(parents=True)
            (hidden / name / "__init__.py").write_text("raise ImportError('hidden')")
            (self.folder / "t.parquet").touch()
            done = self.run_import("t.parquet", "-o", "out",
                                   env={**harness.environment(), "PYTHONPATH": str(hidden)})
            self.assertEqual(done.returncode, 69, done.stderr)
            self.assertIn(f"cannot load {name} (hidden)", done.stderr)
            self.assertNotIn("Traceback", done.stderr)
        done = subprocess.run([sys.executable, harness.ROOT / "analysis/report.py", "trace.h5", "-o", "r"],
                              env={**harness.environment(), "PYTHONPATH": str(hidden)},
                              capture_output=True, text=True)
        self.assertEqual((done.returncode, "cannot load h5py (hidden)" in done.stderr), (69, True), done.stderr)

    @unittest.skipIf(importlib.util.find_spec("pyarrow") is None, "this python has no pyarrow")
    def test_tables(self):
        """Columns of token ids become documents, columns of text lines of JSON."""
        import pyarrow
        import pyarrow.parquet
        tokens = pyarrow.table({"input_ids": pyarrow.array(DOCUMENTS, pyarrow.list_(pyarrow.int32()))})
        pyarrow.parquet.write_table(tokens, self.folder / "k.parquet")
        with pyarrow.ipc.new_stream(str(self.folder / "k.arrow"), tokens.schema) as file:
            file.write_table(tokens)
        found, _ = documents_of(self.imported("k.parquet", "k.arrow", "--vocab-size", 8))
        self.assertEqual(found, DOCUMENTS * 2)
        self.assertIn("sound", self.moesaic("verify", "out"))
        shutil.rmtree(self.folder / "out")
        text = pyarrow.table({"body": ["one", "zwei\né"], "id": [7, 8], "task": ["a", None]})
        pyarrow.parquet.write_table(text, self.folder / "t.parquet")
        out = self.imported("t.parquet", "--field", "body")
        lines = [json.loads(line) for line in (out / "00000-t.jsonl").read_text().splitlines()]
        self.assertEqual(lines, [{"text": "one", "id": "7", "task": "a"}, {"text": "zwei\né", "id": "8"}])

    # Protects: the writer that the documentation shows makes a sound corpus.
    def test_documented_writer(self):
        text = (harness.ROOT / "analysis/README.md").read_text(encoding="utf-8")
        program = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
        subprocess.run([sys.executable, "-c", program], cwd=self.folder, check=True)
        self.assertIn("sound (corpus, 1 shards, 2 documents, 5 tokens, vocabulary 100)",
                      self.moesaic("verify", "my_tokens.h5"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
