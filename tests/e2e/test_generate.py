"""Continuations are the same on any number of ranks, in any batch, and after any kill."""
import json
import os
import random
import signal
import subprocess

import h5py
import numpy as np

import harness

FAMILIES = harness.ROOT / "tests/golden/families"
DRAWN = ["--generate.temperature", 0.8, "--generate.top_p", 0.95, "--run.deterministic", 1]


def read(path):
    with h5py.File(path) as file:
        names = ("tokens/token", "tokens/logprob", "documents/offsets", "documents/prompt_tokens",
                 "documents/reason", "documents/id")
        arrays = {name: file[name][()] for name in names}
    return arrays, path.with_suffix(".jsonl").read_bytes()


def write_prompts(path, count, seed):
    """Half of them begin alike, over more than one page of the cache."""
    choose = random.Random(seed)
    shared = " ".join(choose.choices(harness.WORDS, k=25))
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            text = " ".join(choose.choices(harness.WORDS, k=choose.randint(1, 12))) + f" {number}"
            text = f"{shared} {text}" if number % 2 else text
            row = {"id": f"p{number}", "text": text}
            if number % 5 == 0:
                row = {"id": f"p{number}", "context": text, "continuation": " never read"}
            file.write(json.dumps(row) + "\n")


class Generate(harness.EndToEnd):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        write_prompts(cls.shared / "prompts.jsonl", 60, seed=2)
        (cls.shared / "config.cfg").write_text(harness.config(
            {"model.max_seq": 320, "data.seq_len": 64, "train.steps": 10, "model.kv_heads": 1}))
        for arguments in (
                ["tokenize", "--tokenize.input", "prompts.jsonl", "--tokenize.output", "prompts",
                 "--tokenize.shards", "2"],
                ["train", "--config", "config.cfg", "--parallel.ep", "1"]):
            subprocess.run(harness.command(0, arguments), cwd=cls.shared, env=harness.environment(),
                           check=True, capture_output=True, timeout=harness.LIMIT)

    def setUp(self):
        super().setUp()
        for name in ("prompts", "run"):
            (self.folder / name).symlink_to(self.shared / name)

    def command(self, output, *arguments, corpus="prompts"):
        return ["generate", "--model.path", "run/checkpoints", "--data.corpus", corpus,
                "--run.precision", "fp32", "--generate.max_tokens", 24, "--generate.output", output,
                *arguments]

    def generate(self, ranks, output, *arguments):
        result = self.run_job(ranks, *self.command(output, *arguments))
        self.assertEqual(result.code, 0, result.text)
        return read(self.folder / output)

    def assert_equal(self, a, b):
        for name in a[0]:
            np.testing.assert_array_equal(a[0][name], b[0][name], err_msg=name)
        self.assertEqual(a[1], b[1])

    # Protects: with run.deterministic a continuation is the same bits whatever is computed beside it.
    def test_layouts(self):
        one = self.generate(1, "one.h5", *DRAWN, "--generate.batch", 1)
        self.assertEqual(list(one[0]["documents/id"]), [f"p{i}".encode() for i in range(60)])
        self.assert_equal(self.generate(1, "batch.h5", *DRAWN, "--generate.batch", 32), one)
        for number, layout in enumerate((["--parallel.ep", 2], ["--parallel.pp", 2], [])):
            self.assert_equal(self.generate(2, f"two{number}.h5", *DRAWN, *layout,
                                            "--generate.batch", 7, "--generate.prefill", 50), one)
        self.assert_equal(self.generate(4, "four.h5", *DRAWN, "--parallel.ep", 2, "--parallel.pp", 2),
                          one)
        tp = self.generate(2, "tp.h5", *DRAWN, "--parallel.tp", 2)
        np.testing.assert_array_equal(tp[0]["tokens/token"], one[0]["tokens/token"])
        self.assert_sound("one.h5", "four.h5", "four.trace.h5")

    # Protects: every prompt is continued exactly once after kills, and no finished part is made again.
    def test_kill(self):
        arguments = [*DRAWN, "--generate.batch", 2]
        whole = self.generate(1, "whole.h5", *arguments)
        parts = self.folder / "out.h5.parts"
        kept = {}
        for ranks, enough in ((1, 3), (2, 11), (2, 21)):
            child = self.start(ranks, *self.command("out.h5", *arguments),
                               wrapper=self.stopping("out.h5.parts/*-00025-of-*.h5"))
            self.wait_for(lambda: child.poll() is not None
                          or len(list(parts.glob("*.h5"))) >= enough, "parts")
            self.end(child)
            self.assertFalse((self.folder / "out.h5").exists(), "it ended before it was killed")
            self.assertEqual(kept, {path: path.stat().st_mtime_ns for path in kept}, "made again")
            kept = {path: path.stat().st_mtime_ns for path in parts.glob("*.h5")}
        self.assertGreater(len(kept), 20)
        self.assert_equal(self.generate(2, "out.h5", *arguments), whole)
        self.assertFalse(parts.exists(), "finished parts are joined and deleted")
        self.assert_sound("out.h5", "out.trace.h5")
        again = self.run_job(1, *self.command("out.h5", *arguments))
        self.assertIn("already generated", again.out)

    # Protects: a prompt that does not end with eos has room for all its tokens, page borders included.
    def test_page_border(self):
        (self.folder / "one").mkdir()
        (self.folder / "one/text.jsonl").write_text(json.dumps({"text": "a" * 66}) + "\n")
        made = self.run_job(0, "tokenize", "--tokenize.input", "one/text.jsonl", "--tokenize.output",
                            "border", "--tokenize.eos", 0)
        self.assertEqual(made.code, 0, made.text)
        result = self.run_job(1, *self.command("border.h5", "--run.deterministic", 1, corpus="border"),
                              "--generate.max_tokens", 64)
        self.assertEqual(result.code, 0, result.text)
        self.assertEqual(read(self.folder / "border.h5")[0]["documents/prompt_tokens"].tolist(), [66])

    # Protects: prompts without room for a token are answered part by part.
    def test_long_prompts(self):
        (self.folder / "one").mkdir()
        with open(self.folder / "one/text.jsonl", "w", encoding="utf-8") as file:
            for number in range(40):
                file.write(json.dumps({"text": f"{number} " + "a" * 400}) + "\n")
        made = self.run_job(0, "tokenize", "--tokenize.input", "one/text.jsonl", "--tokenize.output",
                            "long")
        self.assertEqual(made.code, 0, made.text)
        result = self.run_job(2, *self.command("long.h5", corpus="long"))
        self.assertEqual(result.code, 0, result.text)
        self.assertEqual(read(self.folder / "long.h5")[0]["documents/reason"].tolist(), [3] * 40)
        with h5py.File(self.folder / "long.trace.h5") as file:
            self.assertGreater(len(file["step"]), 5, "all parts were read in one iteration")

    # Protects: a signal ends a job with what is done, and it goes on from there.
    def test_signal(self):
        child = self.start(2, *self.command("out.h5", "--generate.batch", 1),
                           wrapper=self.stopping("out.h5.parts/*.h5", FAULT_RANK=1))
        self.wait_for(lambda: len(harness.processes_of(self.folder)) == 2, "both ranks")
        rank = self.process_of(1)
        self.wait_for(lambda: harness.is_stopped(rank), "a part")
        os.kill(rank, signal.SIGUSR1)
        os.kill(rank, signal.SIGCONT)
        out, _ = child.communicate(timeout=harness.LIMIT)
        self.assertEqual(child.returncode, 75, out)
        self.assert_equal(self.generate(1, "out.h5"), self.generate(1, "whole.h5"))

    # Protects: texts end before a stop string, and are valid JSON whatever bytes a model makes.
    def test_stop_strings(self):
        whole = self.generate(1, "whole.h5", *DRAWN)
        texts = [json.loads(line)["text"] for line in whole[1].splitlines()]
        stop = next(text[4:6] for text in texts if text[4:6].isascii() and len(text[4:6]) == 2
                    and "," not in text[4:6] and text[4:6].strip() == text[4:6]
                    and '"' not in text[4:6] and text[4:6].isprintable())
        cut = self.generate(2, "cut.h5", *DRAWN, "--generate.stop", stop)
        stopped = 0
        for text, line in zip(texts, cut[1].splitlines()):
            row = json.loads(line)
            self.assertEqual(row["reason"] == "stop", stop in text)
            self.assertEqual(row["text"], text.split(stop)[0])
            stopped += row["reason"] == "stop"
        self.assertGreater(stopped, 0)
        lengths = np.diff(cut[0]["documents/offsets"].astype(int))
        self.assertEqual([json.loads(line)["tokens"] for line in cut[1].splitlines()],
                         list(lengths))

    # Protects: a stop string that is a line break ends texts, and stands in the config that the run
    # writes.
    def test_line_break_stops(self):
        def texts(output, *arguments):
            rows = self.generate(1, output, "--generate.temperature", 5, *arguments)[1].splitlines()
            return [json.loads(row)["text"] for row in rows]

        whole = texts("whole.h5")
        expected = [text.split("\n")[0] for text in whole]
        self.assertNotEqual(whole, expected)
        self.assertEqual(texts("cut.h5", "--generate.stop", '"\\n"', "--run.dir", "cut"), expected)
        self.assertEqual(texts("again.h5", "--config", "cut/generate.cfg"), expected)
        for lost in ("\n", "\nUser:"):
            refused = self.run_job(1, *self.command("no.h5", "--generate.stop", lost))
            self.assertEqual(refused.code, 64, refused.text)
            self.assertIn("generate.stop: white space around a value", refused.text)

    # Protects: a model in a Hugging Face folder continues as transformers does, on any layout, also
    # without run.deterministic (the argmax leads by 2e-3); a bare shard has no texts.
    def test_families(self):
        for family in ("mixtral", "deepseek_v3", "gpt_oss"):
            with h5py.File(FAMILIES / family / "oracle.h5") as file:
                prompt, tokens = file["generation/prompt"][()], file["generation/tokens"][()]
                logprobs = file["generation/logprobs"][()]
            with h5py.File(self.folder / "bare.h5", "w") as file:
                file.attrs["schema"], file.attrs["version"] = "moesaic-corpus", 1
                file.attrs["vocab_size"] = 67
                file["tokens"] = np.concatenate([prompt[:3], prompt]).astype("u2")
                file["documents/offsets"] = np.array([0, 3, 3 + len(prompt)], "u8")
            for ranks, layout in ((1, []), (2, ["--parallel.ep", 2]), (2, ["--parallel.tp", 2]),
                                  (2, ["--parallel.pp", 2])):
                output = f"{family}-{ranks}-{len(layout) and layout[0][-2:]}.h5"
                result = self.run_job(
                    ranks, "generate", "--model.path", FAMILIES / family, "--data.corpus", "bare.h5",
                    "--generate.output", output, "--generate.max_tokens", len(tokens),
                    "--run.precision", "fp32", *layout)
                self.assertEqual(result.code, 0, result.text)
                arrays, lines = read(self.folder / output)
                mine = slice(int(arrays["documents/offsets"][1]), None)
                np.testing.assert_array_equal(arrays["tokens/token"][mine], tokens)
                np.testing.assert_allclose(arrays["tokens/logprob"][mine], logprobs, atol=1e-3)
                self.assertEqual([json.loads(line)["text"] for line in lines.splitlines()],
                                 [None, None])

    # Protects: what cannot work is refused before any work, with a remedy.
    def test_refusals(self):
        small = self.run_job(1, *self.command("out.h5", "--generate.cache", "20000"))
        self.assert_fault(small, 64, "generate.cache", "document p", "bytes")
        odd = self.run_job(1, *self.command("out", "--generate.top_k", 3))
        self.assert_fault(odd, 64, "end in .h5", "generate.temperature")
        self.assertFalse((self.folder / "out.h5").exists())
