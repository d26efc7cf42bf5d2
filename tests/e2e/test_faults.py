"""What goes wrong ends soon, with the right exit code, and says which file or key and what to do."""
import os
import shutil
import signal

import h5py
import numpy as np

import harness

SHARD = "corpus-00001-of-00003.h5"


def write_bare(path, offsets, tokens, vocab_size=257, vocab_sha256=""):
    """A shard file with the little that is required."""
    with h5py.File(path, "w") as file:
        file.attrs["schema"], file.attrs["version"] = "moesaic-corpus", 1
        file.attrs["vocab_size"], file.attrs["vocab_sha256"] = vocab_size, vocab_sha256
        file["tokens"] = np.array(tokens, "u2")
        file["documents/offsets"] = np.array(offsets, "u8")


def flip_in_tokens(path):
    """Flips a bit of stored tokens, behind HDF5's back."""
    with h5py.File(path) as file:
        at = file["tokens"].id.get_chunk_info(0).byte_offset
    harness.flip_bit(path, at + 500)


class CorpusFaults(harness.EndToEnd):
    def no_run(self):
        """Nothing was written: the fault was found before the run's folder."""
        self.assertFalse((self.folder / "run").exists())

    # Protects: an incomplete copy is found at the start.
    def test_truncated_shard(self):
        harness.truncate(self.folder / "corpus/train" / SHARD)
        self.assert_fault(self.train(2), 65, SHARD, "truncated", "copy it again")
        self.no_run()

    # Protects: a bit that flipped on the disk is never trained on.
    def test_flipped_bit(self):
        for number in range(3):
            flip_in_tokens(self.folder / f"corpus/train/corpus-0000{number}-of-00003.h5")
        self.assert_fault(self.train(2), 65, "corpus-0000", "/tokens", "checksum", "copy it again")
        self.assertEqual(self.newest_step(), -1)

    # Protects: shards of other writers are checked where they are read.
    def test_unsorted_offsets(self):
        write_bare(self.folder / "bare.h5", [0, 4000, 2000, 6000], np.arange(6000) % 257)
        self.assert_fault(self.train(2, "--data.corpus", "bare.h5"), 65, "bare.h5",
                          "/documents/offsets", "entry 2 is 2000, after 4000", "again")
        self.assertEqual(self.newest_step(), -1)

    # Protects: a token outside the vocabulary never indexes the embedding.
    def test_large_token(self):
        tokens = np.arange(6000) % 257
        tokens[::30] = 300
        write_bare(self.folder / "bare.h5", [0, 2000, 4000, 6000], tokens)
        self.assert_fault(self.train(2, "--data.corpus", "bare.h5"), 65, "bare.h5", "300", "257",
                          "again")
        self.assertEqual(self.newest_step(), -1)

    # Protects: a bare shard without manifest, tasks and ids trains.
    def test_bare_shard(self):
        write_bare(self.folder / "bare.h5", [0, 2000, 4000, 6000], np.arange(6000) % 257)
        self.trained(2, "--data.corpus", "bare.h5", "--train.steps", 2)

    # Protects: a loss on another vocabulary would mean nothing.
    def test_other_vocabulary(self):
        write_bare(self.folder / "other.h5", [0, 2000, 4000], np.arange(4000) % 257, vocab_size=300)
        self.assert_fault(self.train(2, "--data.eval_corpus", "other.h5"), 65, "other.h5",
                          "different vocabularies", "300", "257")
        self.no_run()

    # Protects: the message has the absolute path that was tried.
    def test_weight_of_no_samples(self):
        (self.folder / "text.jsonl").write_text('{"text": "too short"}\n')
        made = self.run_job(0, "tokenize", "--tokenize.input", "text.jsonl", "--tokenize.output", "short")
        self.assertEqual(made.code, 0, made.text)
        result = self.train(2, "--data.corpus", "corpus/train,short", "--data.corpus_weights", "0,1")
        self.assert_fault(result, 66, "data.corpus_weights", "short", "data.seq_len")

    def test_missing_corpus(self):
        result = self.train(2, "--data.corpus", "nowhere")
        self.assert_fault(result, 66, str(self.folder / "nowhere"), "moesaic tokenize")
        self.no_run()


class ConfigFaults(harness.EndToEnd):
    def assert_refused(self, arguments, *words):
        self.assert_fault(self.train(2, *arguments), 64, *words)
        self.assertFalse((self.folder / "run").exists())

    # Protects: a typo never trains with a default in silence.
    def test_typo(self):
        self.assert_refused(["--train.micro_batchs", 2], "train.micro_batchs",
                            "did you mean train.micro_batch?")
        with open(self.folder / "config.cfg", "a", encoding="utf-8") as file:
            file.write("router.capacty = 8\n")
        line = len((self.folder / "config.cfg").read_text().splitlines())
        self.assert_refused([], f"config.cfg:{line}", "did you mean router.capacity?")

    # Protects: impossible layouts name the values that are possible, all problems at once.
    def test_layout(self):
        self.assert_refused(["--parallel.ep", 5], "parallel.ep = 5", "model.experts = 4",
                            "use ep 4", "number of ranks = 2")
        self.assert_refused(["--parallel.tp", 2, "--train.micro_batch", 3], "parallel.ep = 2",
                            "use 4 ranks, or ep 1", "train.micro_batch")

    # Protects: a share of nothing, or of a task that no corpus has, never trains on something else.
    def test_task_weights(self):
        self.assert_refused(["--data.task_weights", "cod:2,prose:1"], "data.task_weights", "cod,",
                            "did you mean code?", "none, code, prose")
        self.assert_refused(["--data.task_weights", "code:0"], "all 0")
        self.assert_refused(["--data.task_weights", "code:2,code:1"], "code twice")
        self.assert_refused(["--data.task_weights", "code:1", "--data.corpus_weights", "1"],
                            "data.corpus_weights", "leave one out")

    # Protects: another model or schedule never continues a run's checkpoint in silence.
    def test_changed_config(self):
        self.trained(2, "--train.steps", 5)
        before = harness.column(self.folder / "run/trace.h5", "loss")
        result = self.train(2, "--train.lr", 0.02, "--data.seed", 7)
        self.assert_fault(result, 76, "was", "is", "train.lr", "0.01", "0.02", "data.seed",
                          "checkpoint.allow", "step-00000005")
        np.testing.assert_array_equal(harness.column(self.folder / "run/trace.h5", "loss"), before)
        self.trained(2, "--train.lr", 0.02, "--checkpoint.allow", "train.lr", "--train.steps", 6)
        with h5py.File(self.folder / "run/trace.h5") as trace:
            events = " ".join(trace["events/message"].asstr()[()])
        self.assertIn("train.lr", events)


class RunFaults(harness.EndToEnd):
    # Protects: two jobs never write one run; the second names the first.
    def test_second_job(self):
        child = self.start(2, "train", "--config", "config.cfg", "--train.steps", 100000)
        self.wait_for(lambda: self.newest_step() >= 5, "the first job")
        self.assert_fault(self.train(2), 73, os.uname().nodename, "run")
        self.kill(signal.SIGTERM)
        out = child.communicate(timeout=harness.LIMIT)[0]
        self.assertEqual(child.returncode, 75, out)
        self.assert_sound("run/checkpoints", "run/trace.h5")

    # Protects: numbers that went bad end the run, and never reach a checkpoint.
    def test_bad_numbers(self):
        self.trained(2, "--train.steps", 5)
        result = self.train(2, "--train.lr", 1e30, "--checkpoint.allow", "train.lr")
        self.assert_fault(result, 77, "step ", "gradient norm", "step-00000005", "train.lr")
        self.assertEqual(self.newest_step(), 5)
        for name, value in harness.tensors(self.checkpoint(5)).items():
            self.assertTrue(np.isfinite(value).all(), name)
        self.assert_sound("run/checkpoints", "run/trace.h5")

    # Protects: a corpus of another vocabulary never trains on; it is the wrong file for a model
    # (65), and another run's for a resume (76).
    def test_vocabulary_of_checkpoint(self):
        self.trained(2, "--train.steps", 5)
        write_bare(self.folder / "other.h5", [0, 2000, 4000], np.arange(4000) % 257,
                   vocab_sha256="beef")
        other = ["--data.corpus", "other.h5"]
        result = self.train(2, *other, "--model.path", "run/checkpoints", "--run.dir", "new")
        self.assert_fault(result, 65, "other has", "beef", "step-00000005", "tokenize")
        result = self.train(2, *other, "--checkpoint.allow", "data")
        self.assert_fault(result, 76, "step-00000005", "beef")
        write_bare(self.folder / "other.h5", [0, 2000, 4000], np.arange(4000) % 257, vocab_size=300)
        result = self.train(2, *other, "--model.path", "run/checkpoints", "--run.dir", "new")
        self.assert_fault(result, 65, "other has a vocabulary of 300 tokens, ", "trained with 257 tokens (")
        self.assertEqual(self.newest_step(), 5)

    # Protects: before the first checkpoint, the message promises none.
    def test_bad_numbers_at_once(self):
        result = self.train(2, "--train.lr", 1e30)
        self.assert_fault(result, 77, "no checkpoint", "train.lr")
        self.assertEqual(self.newest_step(), -1)

    # Protects: a damaged newest checkpoint is named, not loaded.
    def test_damaged_checkpoint(self):
        self.trained(2, "--train.steps", 10)
        harness.truncate(self.checkpoint(10) / "part-00001.h5")
        result = self.train(2)
        self.assert_fault(result, 65, "step-00000010", "part-00001.h5")

    # Protects: a run folder that cannot be made is said before anything is computed.
    def test_output_is_a_file(self):
        (self.folder / "run").write_text("something else")
        self.assert_fault(self.train(2), 73, "run")
        self.assertEqual((self.folder / "run").read_text(), "something else")


class Verify(harness.EndToEnd):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        made = cls("make_all")
        harness.EndToEnd.setUp(made)
        made.trained(2)
        score = made.run_job(1, "score", "--model.path", "run/checkpoints", "--data.corpus",
                             "corpus/heldout", "--score.output", "scores.h5", "--run.precision", "fp32")
        made.assertEqual(score.code, 0, score.text)
        for name in ("run", "scores.h5"):
            os.rename(made.folder / name, cls.shared / name)
        made.doCleanups()

    def make_all(self):
        """Names the instance that makes the run and scores that the others damage."""

    def setUp(self):
        super().setUp()
        shutil.copytree(self.shared / "run", self.folder / "run")
        shutil.copy(self.shared / "scores.h5", self.folder)

    def assert_damaged(self, path, *words):
        result = self.run_job(0, "verify", path)
        self.assertEqual(result.code, 65, result.text)
        for word in words:
            self.assertIn(word, result.text)

    # Protects: what is whole is called sound, all kinds in one call.
    def test_sound(self):
        self.assert_sound("corpus/train", "corpus/heldout", "run/checkpoints", "run/trace.h5",
                          "scores.h5")

    # Protects: damage to the data of each kind is found and the file named.
    def test_flipped_bit(self):
        flip_in_tokens(self.folder / "corpus/train" / SHARD)
        self.assert_damaged("corpus/train", SHARD)
        part = self.checkpoint(20) / "part-00001.h5"
        with h5py.File(part) as file:
            at = file["model.norm.weight[0]" if "model.norm.weight[0]" in file else
                      next(name for name in file if name.startswith("model."))].id.get_offset()
        harness.flip_bit(part, at + 4)
        self.assert_damaged("run/checkpoints", "step-00000020", "part-00001.h5")
        for name, dataset in (("run/trace.h5", "expert_tokens"), ("scores.h5", "tokens/logprob")):
            with h5py.File(self.folder / name) as file:
                at = file[dataset].id.get_chunk_info(0).byte_offset
            harness.flip_bit(self.folder / name, at + 9)
            self.assert_damaged(name, name, dataset)

    # Protects: so is a file that was cut short.
    def test_truncated(self):
        harness.truncate(self.folder / "corpus/train" / SHARD)
        self.assert_damaged("corpus/train", SHARD, "truncated")
        harness.truncate(self.checkpoint(20) / "part-00000.h5")
        self.assert_damaged("run/checkpoints", "part-00000.h5")
        for name in ("run/trace.h5", "scores.h5"):
            harness.truncate(self.folder / name)
            self.assert_damaged(name, name)

    # Protects: a trace opens where its readers live, with named axes.
    def test_trace_opens(self):
        import pandas
        import xarray
        with xarray.open_dataset(self.folder / "run/trace.h5", engine="h5netcdf") as trace:
            self.assertEqual(trace["expert_tokens"].dims, ("step", "layer", "expert"))
            np.testing.assert_array_equal(trace["step"], np.arange(1, 21))
            np.testing.assert_array_equal(trace["expert_tokens"].sum("expert"),
                                          np.full((20, 2), 2 * 8 * 32))  # top_k x batch x seq_len
        with h5py.File(self.folder / "run/trace.h5") as trace:
            frame = pandas.DataFrame({name: trace[name][()] for name in ("step", "loss", "seconds")})
            np.testing.assert_allclose(trace["time"][()].sum(axis=1), frame["seconds"], rtol=1e-3)
        self.assertLess(frame["loss"].iloc[-1], frame["loss"].iloc[0])
