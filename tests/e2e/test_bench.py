"""The benchmark of whole steps: its numbers make sense, and what jobs/bench.sh draws of them."""
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import h5py
import numpy as np

import harness

PROGRAM = os.environ.get("MOESAIC_TRAIN_STEP",
                         str(pathlib.Path(harness.MOESAIC).parent / "tests/bench/train_step"))
MODEL = ["--model.layers", "2", "--model.d_model", "64", "--model.heads", "2", "--model.experts",
         "8", "--model.shared_experts", "1", "--model.vocab_size", "512", "--data.seq_len", "64",
         "--model.max_seq", "64", "--train.batch", "4", "--train.micro_batch", "2",
         "--train.steps", "4", "--run.threads", "1"]


def script(name, *arguments):
    return subprocess.run([sys.executable, str(harness.ROOT / "analysis" / name), *arguments],
                          capture_output=True, text=True, check=False, timeout=harness.LIMIT)


@unittest.skipUnless(os.access(PROGRAM, os.X_OK), "built without the benchmarks")
class BenchTest(unittest.TestCase):
    def step(self, *arguments):
        done = subprocess.run([PROGRAM, *arguments, *MODEL], capture_output=True, text=True,
                              check=False, env=harness.environment(), timeout=harness.LIMIT)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return json.loads(done.stdout.splitlines()[-1])

    # Protects: what is timed is a real step, in every routing and precision.
    def test_a_step_is_a_whole_step(self):
        for precision in ("fp32", "bf16"):
            for routing in ("none", "balanced", "hot", "rotating"):
                row = self.step("--run.precision", precision, "--router.force", routing)
                with self.subTest(precision=precision, routing=routing):
                    self.assertAlmostEqual(row["first_loss"], math.log(512), delta=0.3)
                    self.assertLess(row["last_loss"], row["first_loss"])
                    # Time between phases, such as that of other programs, is in none of them.
                    self.assertAlmostEqual(sum(row["phases"].values()), 1.0, delta=0.3)
                    self.assertAlmostEqual(row["tokens_per_second"] * row["seconds"], 256, delta=1)

    def test_forward_changes_nothing(self):
        row = self.step("forward")
        self.assertEqual(row["first_loss"], row["last_loss"])
        self.assertAlmostEqual(row["first_loss"], math.log(512), delta=0.3)

    # Protects: the job score needs no more memory for more tokens, and its speed is the trace's.
    @harness.in_turn
    def test_score_job(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        (folder / "tiny.cfg").write_text("model.layers = 1\nmodel.d_model = 32\nmodel.heads = 2\n"
                                         "model.experts = 4\nmodel.max_seq = 512\n")
        (folder / "forward.jsonl").write_text(json.dumps(
            {"tokens_per_second": 2.0, "flop_per_second": 6.0, "onednn_flop_per_second": 12.0}))
        done = subprocess.run(
            [sys.executable, str(harness.ROOT / "tests/bench/score_job.py"), "--moesaic",
             harness.MOESAIC, "--config", str(folder / "tiny.cfg"), "--threads", "1",
             "--vocabulary", "300", "--tokens", "16384,393216", "--forward",
             str(folder / "forward.jsonl")],
            capture_output=True, text=True, check=False, env=harness.environment(),
            timeout=harness.LIMIT)
        self.assertEqual(done.returncode, 0, done.stderr)
        few, many = (json.loads(line) for line in done.stdout.splitlines())
        self.assertEqual((few["tokens"], many["tokens"]), (16384, 393216))
        self.assertLess(many["peak_mib"], few["peak_mib"] + 32)  # hidden states alone would be 46
        self.assertGreater(many["tokens_per_second"], 0)
        self.assertAlmostEqual(many["of_onednn"] / many["tokens_per_second"], 3 / 12, delta=1e-9)

    # Protects: two builds are compared row by row, in turn, by the median of the rounds' ratios.
    def test_against(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        (folder / "tiny.cfg").write_text("model.layers = 1\nmodel.d_model = 32\nmodel.heads = 2\n"
                                         "model.experts = 4\nmodel.max_seq = 512\n"
                                         "model.vocab_size = 300\n")
        (folder / "build/tests/bench").mkdir(parents=True)
        (folder / "build/moesaic").symlink_to(harness.MOESAIC)
        (folder / "build/tests/bench/train_step").symlink_to(PROGRAM)
        build = str(folder / "build")
        done = subprocess.run(
            [sys.executable, str(harness.ROOT / "tests/bench/against.py"), "--new", build, "--old",
             build, "--config", str(folder / "tiny.cfg"), "--threads", "1", "--rounds", "2",
             "--steps", "2", "--rows", "forward bf16,score", "-o", str(folder / "out")],
            capture_output=True, text=True, check=False, env=harness.environment(),
            timeout=harness.LIMIT)
        self.assertEqual(done.returncode, 0, done.stderr)
        runs = [json.loads(line) for line in (folder / "out/against.jsonl").read_text().splitlines()]
        self.assertEqual([(run["row"], run["round"]) for run in runs],
                         [("forward bf16", 1), ("score", 1), ("forward bf16", 2), ("score", 2)])
        table = (folder / "out/against.md").read_text().splitlines()
        self.assertEqual(done.stdout.splitlines(), table)
        ratio = sum(run["new"] / run["old"] for run in runs if run["row"] == "score") / 2
        self.assertEqual(table[-1].split("|")[4].strip(), f"{ratio:.3f}")

    # Protects: every kind of work is timed in every precision, peers stand beside it, and one that
    # fails is left out.
    @harness.in_turn
    def test_inference(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        with h5py.File(folder / "corpus.h5", "w") as file:
            file.attrs.update({"schema": "moesaic-corpus", "version": 1, "vocab_size": 300})
            file["tokens"] = np.arange(300, dtype="u2")
            file["documents/offsets"] = np.array([0, 300], dtype="u8")
        done = subprocess.run(
            [harness.MOESAIC, "train", *MODEL[:-4], "--model.vocab_size", "300", "--model.max_seq",
             "512", "--data.corpus", str(folder / "corpus.h5"), "--train.batch", "1",
             "--train.micro_batch", "1", "--train.steps", "1", "--run.dir", str(folder / "model")],
            capture_output=True, text=True, check=False, env=harness.environment(),
            timeout=harness.LIMIT)
        self.assertEqual(done.returncode, 0, done.stderr)
        peers = folder / "peers"
        peers.mkdir()
        (peers / "q.gguf").touch()
        for name, body in (("llama-bench", "exit 3"),
                           ("llama-batched-bench", 'echo \'{"pl": 8, "speed_tg": 5.5}\'')):
            (peers / name).write_text(f"#!/bin/sh\n{body}\n")
            (peers / name).chmod(0o755)
        done = subprocess.run(
            [sys.executable, str(harness.ROOT / "tests/bench/inference.py"), "--moesaic",
             harness.MOESAIC, "--model", str(folder / "model/checkpoints"), "--vocabulary", "300",
             "--prompt", "100", "--threads", "1", "--rounds", "1", "--llama", str(peers), "--gguf",
             str(peers), "-o", str(folder / "out")],
            capture_output=True, text=True, check=False, env=harness.environment(),
            timeout=harness.LIMIT)
        self.assertEqual(done.returncode, 0, done.stderr)
        rows = [json.loads(line)
                for line in (folder / "out/inference.jsonl").read_text().splitlines()]
        ours = {(row["variant"], row["work"]) for row in rows if row["engine"] == "moesaic"}
        self.assertEqual(ours, {(precision, work) for precision in ("fp32", "bf16", "int8", "int4")
                                for work in ("score", "prefill", "decode 1", "decode 8",
                                             "decode 32")})
        self.assertTrue(all(row["tokens_per_second"] > 0 for row in rows))
        self.assertIn("llama-bench q left out: status 3", done.stderr)
        self.assertRegex((folder / "out/inference.md").read_text(),
                         r"\| llama.cpp q \|  \|  \|  \| 6 \(0 %\) \|  \|")

    # Protects: medians and ratios of the table, and that the figure is drawn.
    def test_table_and_figure(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        row = {**self.step(), "name": "train", "tokens_per_second": 300.0}
        rows = [row, {**row, "tokens_per_second": 100.0}, {**row, "tokens_per_second": 200.0},
                {"job": "pytorch", "variant": "fp32-grouped", "precision": row["precision"],
                 "version": "2.0", "tokens_per_second": 80.0, "peak_mib": 1.0}]
        rows += [{**row, "name": f"growth experts {n}"} for n in (8, 16)]
        (folder / "steps.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        table = script("bench_table.py", str(folder))
        self.assertEqual(table.returncode, 0, table.stderr)
        self.assertRegex(table.stdout, r"\| train \| \w+ \| 200 \|.*\| 2\.50 \|")
        figure = script("growth.py", str(folder / "steps.jsonl"), "-o", str(folder / "growth.png"))
        self.assertEqual(figure.returncode, 0, figure.stderr)
        self.assertTrue((folder / "growth.png").read_bytes().startswith(b"\x89PNG"))


if __name__ == "__main__":
    unittest.main()
