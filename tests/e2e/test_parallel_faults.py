"""Faults amid four ranks that share layers and pass them along: all end alike, and the run goes on."""
import hashlib
import json
import os
import shutil
import signal
import time

import h5py
import numpy as np

import harness

LAYOUT = ["--parallel.tp", 2, "--parallel.pp", 2, "--parallel.ep", 1]
LONG = ["train", "--config", "config.cfg", "--train.steps", 100000, *LAYOUT]


class ParallelFaults(harness.EndToEnd):
    def assert_continues(self):
        """The newest checkpoint is sound and loads; the trace goes on without a gap."""
        before = max(0, self.newest_step())
        self.trained(4, *LAYOUT, "--train.steps", before + 2)
        np.testing.assert_array_equal(harness.column(self.folder / "run/trace.h5", "step"),
                                      np.arange(1, before + 3))
        self.assert_sound("run/checkpoints", "run/trace.h5")

    def end_of(self, child):
        """Exit code and output; no rank stays behind."""
        out = child.communicate(timeout=harness.LIMIT)[0]
        self.wait_for(lambda: not harness.processes_of(self.folder), "the end of all ranks")
        return child.returncode, out

    # Protects: one rank that is lost ends all others, whichever it is.
    def test_lost_rank(self):
        for rank in (0, 3):
            with self.subTest(rank):
                child = self.start(4, *LONG)
                after = self.newest_step() + 5
                self.wait_for(lambda: self.newest_step() >= after, "a checkpoint")
                os.kill(self.process_of(rank), signal.SIGKILL)
                code, out = self.end_of(child)
                self.assertIn(code, harness.KILLED, out)
                self.assert_continues()

    # Protects: a save that is killed at any moment leaves the old checkpoint or the new one.
    def test_killed_saves(self):
        for delay in (0, 0.001, 0.003, 0.01, 0.02, 0.04):
            with self.subTest(delay):
                child = self.start(4, *LONG, "--checkpoint.every", 1)
                after = self.newest_step() + 1
                self.wait_for(lambda: self.newest_step() >= after, "a checkpoint")
                folder = self.folder / "run/checkpoints"
                self.wait_for(lambda: list(folder.glob("*.tmp")), "a save")
                time.sleep(delay)  # where in the save the kill falls
                self.kill(signal.SIGKILL)
                self.assertNotEqual(self.end_of(child)[0], 0)
                self.assert_continues()

    def stop_at(self, ready, arguments):
        """Asks all ranks to stop once ready() holds."""
        child = self.start(4, *LONG, *arguments)
        self.wait_for(ready, "the moment to stop")
        self.kill(signal.SIGTERM)
        return self.end_of(child)

    def trace_has(self, step):
        try:
            return step in harness.column(self.folder / "run/trace.h5", "step")
        except (OSError, KeyError):
            return False  # not there yet, or being written

    # Protects: a stop at any phase ends with the exit code that says whether going on makes sense.
    def test_stop_while_loading(self):
        def all_run():
            return len(harness.processes_of(self.folder)) == 4

        for seen in (all_run, lambda: all_run() and (self.folder / "run/config.cfg").exists()):
            shutil.rmtree(self.folder / "run", ignore_errors=True)
            code, out = self.stop_at(seen, [])
            # Ranks that end before they have joined mpirun may take it along with their pipes.
            self.assertIn(code, (75, 143, -signal.SIGPIPE), out)
            self.assertEqual(code == 75, self.newest_step() > 0, out)
        self.assert_continues()

    def test_stop_amid_evaluation(self):
        evaluated = ["--eval.every", 2, "--data.eval_corpus", "corpus/heldout"]
        # Stopped once more in the same evaluation, a job has saved nothing.
        for expected in (75, 143):
            child = self.start(4, *LONG, *evaluated, wrapper=self.stopping(
                "run/trace.h5", "*/corpus/heldout/*", FAULT_RANK=1))
            self.wait_for(lambda: len(harness.processes_of(self.folder)) == 4, "all ranks")
            rank = self.process_of(1)
            self.wait_for(lambda: harness.is_stopped(rank), "the evaluation")
            self.kill(signal.SIGTERM)
            os.kill(rank, signal.SIGCONT)
            code, out = self.end_of(child)
            self.assertEqual(code, expected, out)
            self.assertEqual(self.newest_step(), 2, out)  # the step of the evaluation
        trace = self.folder / "run/trace.h5"
        self.assertEqual(list(harness.column(trace, "eval/step")), [])  # so that the stop is quick
        short = [*evaluated, "--train.steps", 4, "--eval.tokens", 512]
        # A run that saves nothing begins with the evaluation that is due, too.
        self.trained(4, *LAYOUT, *short, "--run.dir", "", "--trace.path", "apart.h5",
                     "--checkpoint.resume", "run/checkpoints/step-00000002")
        self.assertEqual(list(harness.column(self.folder / "apart.h5", "eval/step")), [2, 4])
        self.assertEqual(list(harness.column(self.folder / "apart.h5", "events/kind")), [])
        self.trained(4, *LAYOUT, *short)
        self.assertEqual(list(harness.column(trace, "eval/step")), [2, 4])
        self.assert_continues()

    def test_stop_amid_a_save(self):
        folder = self.folder / "run/checkpoints"
        code, out = self.stop_at(lambda: list(folder.glob("*.tmp")), ["--checkpoint.every", 1])
        self.assertEqual(code, 75, out)
        self.assertEqual(list(folder.glob("*.tmp")), [])
        self.assert_continues()

    # Protects: a second signal ends at once, and what was saved stays whole.
    def test_second_stop(self):
        self.trained(4, *LAYOUT, "--train.steps", 5)
        child = self.start(4, *LONG, "--checkpoint.every", 0)
        self.wait_for(lambda: self.trace_has(8), "some steps")
        self.kill(signal.SIGTERM)
        self.kill(signal.SIGTERM)
        code, out = self.end_of(child)
        self.assertIn(code, (75, 143), out)  # 75 where the first one was fast enough
        self.assert_continues()

    def poison(self, folder, name):
        """Puts a NaN into the second half of a stored tensor, with checksums that fit."""
        manifest = json.loads((folder / "manifest.json").read_text())
        block = manifest["tensors"][name]["blocks"][-1]
        with h5py.File(folder / block["part"], "r+") as part:
            values = part[block["dataset"]][()]
            values.flat[-1] = np.nan
            part[block["dataset"]][...] = values
        block["sha256"] = hashlib.sha256(values.tobytes()).hexdigest()
        del manifest["sha256"]
        text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        manifest["sha256"] = hashlib.sha256(text.encode()).hexdigest()
        (folder / "manifest.json").write_text(json.dumps(manifest))

    # Protects: a bit that flipped in a tensor that one rank alone reads is found by all, by its name.
    def test_flipped_checkpoint(self):
        self.trained(4, *LAYOUT, "--train.steps", 5)
        manifest = json.loads((self.checkpoint(5) / "manifest.json").read_text())
        block = manifest["tensors"]["model.layers.1.self_attn.q_proj.weight"]["blocks"][-1]
        with h5py.File(self.checkpoint(5) / block["part"]) as part:
            at = part[block["dataset"]].id.get_offset()
        harness.flip_bit(self.checkpoint(5) / block["part"], at + 2)
        result = self.train(4, *LAYOUT)
        self.assert_fault(result, 65, "step-00000005", block["part"], "q_proj")

    # Protects: a NaN that one rank alone holds ends all in that step, and reaches no checkpoint.
    def test_bad_numbers_on_one_rank(self):
        self.trained(4, *LAYOUT, "--train.steps", 5)
        self.poison(self.checkpoint(5), "model.layers.1.self_attn.q_proj.weight")
        result = self.train(4, *LAYOUT)
        self.assert_fault(result, 77, "step 6", "gradient norm", "step-00000005", "train.lr")
        self.assertEqual(result.err.count("gradient norm"), 1, result.err)  # said once, by rank 0
        self.assertEqual(self.newest_step(), 5)

    def on_one_rank(self, before="", more=""):
        """A wrapper by which rank 1 runs something first, and has more arguments."""
        script = self.folder / "wrapper.sh"
        script.write_text('[ "$OMPI_COMM_WORLD_RANK" = 1 ] || exec "$@"\n'
                          f'{before}\nexec "$@" {more}\n')
        return ["sh", str(script)]

    # Protects: ranks that were started differently never train together.
    def test_different_config(self):
        result = self.run_job(4, "train", "--config", "config.cfg", *LAYOUT,
                              wrapper=self.on_one_rank(more="--train.lr 0.5 --data.seed 3"))
        self.assert_fault(result, 76, "1 of 4 ranks", os.uname().nodename, "train.lr", "0.01", "0.5",
                          "data.seed")
        self.assertFalse((self.folder / "run").exists())

    # Protects: nor do ranks to which the same path shows other files than rank 0 found there.
    def test_different_corpus(self):
        other = self.folder / "other"
        other.mkdir()
        harness.write_text(other / "text.jsonl", 200, seed=5)
        self.tokenize(other)
        (other / "config.cfg").write_text((self.folder / "config.cfg").read_text())
        result = self.run_job(4, "train", "--config", "config.cfg", *LAYOUT,
                              wrapper=self.on_one_rank(before="cd other"))
        self.assert_fault(result, 65, "rank 1", "other/corpus/train", "bytes, but")
        self.assertEqual(self.newest_step(), -1)
