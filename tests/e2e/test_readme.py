"""The README's commands for one's own data and for fine-tuning work as they stand there."""
import importlib.util
import json
import pathlib
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import unittest

import h5py
import numpy as np

import harness

GOLDEN = harness.ROOT / "tests/golden"
HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None


def blocks(readme, heading, language):
    """The code blocks of a language in a section."""
    section = readme.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def write_folder(folder):
    """Text with enough different words for a vocabulary of a few hundred pieces."""
    choose = random.Random(7)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(choose.choices(letters, k=choose.randint(2, 9))) for _ in range(3000)]
    folder.mkdir()
    for number in range(120):
        lines = [" ".join(choose.choices(words, k=10)) + "." for _ in range(40)]
        (folder / f"{number:03}.txt").write_text("\n".join(lines), encoding="utf-8")


def changed(config, values):
    """The text of a config file with other values of some of its keys."""
    for key, value in values.items():
        config, count = re.subn(rf"(?m)^{re.escape(key)} = \S+", f"{key} = {value}", config)
        assert count == 1, key
    return config


def write_model(folder):
    """The Mixtral of the tests in bf16, as models are published, with the tokenizer of chat/: its vocabulary is
    larger, so that the embedding and the head are made anew."""
    folder.mkdir()
    file = (GOLDEN / "families/mixtral/model.safetensors").read_bytes()
    begin = 8 + struct.unpack("<Q", file[:8])[0]
    vocabulary = len(json.loads((GOLDEN / "chat/tokenizer.json").read_text())["model"]["vocab"]) + 12
    header, data = {}, b""
    for name, entry in json.loads(file[8:begin]).items():
        if name == "__metadata__":
            continue
        first, end = (begin + offset for offset in entry["data_offsets"])
        values = np.frombuffer(file[first:end], "<f4").reshape(entry["shape"])
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            values = np.random.default_rng(1).normal(0, 0.3, (vocabulary, values.shape[1])).astype("<f4")
        bits = (values.view("<u4") >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": values.shape, "data_offsets": [len(data), len(data) + len(bits)]}
        data += bits
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    config = json.loads((GOLDEN / "families/mixtral/config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": vocabulary}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(GOLDEN / "chat" / name, folder / name)
    shutil.copy(GOLDEN / "chat/chatml.jinja", folder / "chat_template.jinja")


def write_chats(folder):
    """chats.jsonl, and rendered.jsonl for a machine that cannot render it."""
    with open(GOLDEN / "chat/expected.jsonl", encoding="utf-8") as file:
        rows = [{**json.loads(line), "id": f"chat{number}"} for number, line in enumerate(file)]
    for name, keys in (("chats", ("id", "messages")), ("rendered", ("id", "text", "spans"))):
        lines = [json.dumps({key: row[key] for key in keys}) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


class Reader(threading.Thread):
    """Reads the trace as the README says, while it is written."""

    def __init__(self, trace):
        super().__init__(daemon=True)
        self.trace, self.done, self.steps, self.wrong = trace, threading.Event(), [], []

    def run(self):
        while not self.done.wait(0.05):
            try:
                with h5py.File(self.trace, "r") as trace:
                    if len(trace["step"]):
                        self.steps.append(int(trace["step"][-1]))
                        float(trace["lm_loss"][-1])
            except OSError:
                pass  # not there yet, or just being written: the next round reads it
            except Exception as error:  # a half-written file would show here
                self.wrong.append(repr(error))


class Readme(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="moesaic-e2e-")).resolve()
        self.addCleanup(shutil.rmtree, self.folder)
        self.readme = (harness.ROOT / "README.md").read_text(encoding="utf-8")

    def run_line(self, line):
        """Runs a command of the README in the test's folder, and returns what it prints."""
        line = line.replace("mpirun ", "mpirun --oversubscribe --bind-to none ", 1)
        line = line.replace("build/release/moesaic", harness.MOESAIC)
        line = line.replace("python3 analysis", f"{sys.executable} {harness.ROOT}/analysis")
        done = subprocess.run(["bash", "-c", line], cwd=self.folder, env=harness.environment(),
                              capture_output=True, text=True, timeout=harness.LIMIT)
        self.assertEqual(done.returncode, 0, f"{line}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    # Protects: the first thing that a user with own text does, with a reader in the way.
    def test_own_data(self):
        folder = self.folder
        (config,) = blocks(self.readme, "Your own data", "ini")
        # As written but for the size, so that it takes seconds.
        config = changed(config, {"tokenize.vocab_size": 600, "model.layers": 2, "model.d_model": 64,
                                  "data.seq_len": 64, "train.tokens": "20e3", "checkpoint.every": 10})
        (folder / "my.cfg").write_text(config + "trace.flush = 0\n", encoding="utf-8")
        write_folder(folder / "my_text")
        shutil.copytree(folder / "my_text", folder / "more")
        _, first, later = blocks(self.readme, "Your own data", "bash")  # the build is there
        commands = first.splitlines() + later.splitlines()
        self.assertEqual(len(commands), 6)
        reader = Reader(folder / "my_run/trace.h5")
        reader.start()
        for line in commands:
            self.run_line(line)
        reader.done.set()
        reader.join()
        self.assertEqual(reader.wrong, [])
        self.assertEqual(reader.steps, sorted(reader.steps))
        self.assertGreater(len(reader.steps), 0)
        with h5py.File(folder / "my_run/scores.h5") as scores:
            self.assertGreater(scores.attrs["tokens"], 0)
        self.assertEqual(len((folder / "scores.csv").read_text().splitlines()), 1 + 120)
        self.run_line("build/release/moesaic verify my_corpus/train my_corpus/heldout my_run/checkpoints "
                      "my_run/trace.h5 my_run/scores.h5")

    def logprob(self, name):
        with h5py.File(self.folder / name) as scores:
            return scores["tokens/logprob"][()]

    # Protects: what a user with a published model and conversations does, and the configs for it.
    def test_fine_tuning(self):
        write_model(self.folder / "MODEL")
        write_chats(self.folder)
        (self.folder / "configs").mkdir()
        for name in ("lora", "sft"):  # as written but for the length, and a rate that shows in five steps
            config = (harness.ROOT / f"configs/{name}.cfg").read_text(encoding="utf-8")
            (self.folder / f"configs/{name}.cfg").write_text(
                changed(config, {"seq_len": 256, "lr": 0.01, "warmup": 1}), encoding="utf-8")
        first, later = (block.splitlines() for block in blocks(self.readme, "Fine-tuning", "bash"))
        self.assertEqual((len(first), len(later)), (3, 4))
        for line in first if HAS_TRANSFORMERS else first[1:]:
            self.run_line(line)
        steps = harness.column(self.folder / "runs/lora/trace.h5", "lm_loss")
        self.assertGreater(len(steps), 3)
        losses = harness.column(self.folder / "runs/lora/trace.h5", "eval/loss")
        adapter = json.loads((self.folder / "runs/lora/checkpoints/peft/adapter_config.json").read_text())
        self.assertEqual((adapter["peft_type"], adapter["r"], adapter["lora_alpha"]), ("LORA", 16, 32))
        for line in later:
            self.run_line(line)
        # The adapter beside the model, and the folder that has it added, in bf16: the same bits. It is an
        # adapter that has learnt something.
        score = later[0].replace("--model.adapter runs/lora/checkpoints/peft ", "")
        self.run_line(score.replace("scores.h5", "base.h5"))
        self.run_line(score.replace("--model.path MODEL", "--model.path merged").replace("scores.h5", "merged.h5"))
        tuned = self.logprob("scores.h5")
        np.testing.assert_array_equal(tuned, self.logprob("merged.h5"))
        self.assertGreater(tuned.mean(), self.logprob("base.h5").mean() + 0.1)
        self.assertAlmostEqual(-tuned.mean(), losses[-1], delta=0.02)
        answers = (self.folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()
        with h5py.File(self.folder / "scores.h5") as scores:
            self.assertEqual(len(answers), len(scores["documents/id"]))
        sound = self.run_line("build/release/moesaic verify runs/lora/checkpoints/step-* runs/sft/checkpoints merged")
        self.assertIn(f"from {self.folder}/MODEL (Hugging Face folder", sound)
