"""The README's commands for one's own data work as they stand there."""
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest

import h5py

import harness


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
    # Protects: the first thing that a user with own text does, with a reader in the way.
    def test_own_data(self):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="moesaic-e2e-")).resolve()
        self.addCleanup(shutil.rmtree, folder)
        readme = (harness.ROOT / "README.md").read_text(encoding="utf-8")
        (config,) = blocks(readme, "Your own data", "ini")
        # As written but for the size, so that it takes seconds.
        for key, value in (("tokenize.vocab_size", "600"), ("model.layers", "2"),
                           ("model.d_model", "64"), ("data.seq_len", "64"), ("train.tokens", "20e3"),
                           ("checkpoint.every", "10")):
            config, count = re.subn(rf"(?m)^{re.escape(key)} = .*$", f"{key} = {value}", config)
            self.assertEqual(count, 1, key)
        (folder / "my.cfg").write_text(config + "trace.flush = 0\n", encoding="utf-8")
        write_folder(folder / "my_text")
        shutil.copytree(folder / "my_text", folder / "more")
        _, first, later = blocks(readme, "Your own data", "bash")  # the build is there
        commands = first.splitlines() + later.splitlines()
        self.assertEqual(len(commands), 6)
        reader = Reader(folder / "my_run/trace.h5")
        reader.start()
        for line in commands:
            line = line.replace("mpirun ", "mpirun --oversubscribe --bind-to none ", 1)
            line = line.replace("build/release/moesaic", harness.MOESAIC)
            line = line.replace("python3 analysis", f"{sys.executable} {harness.ROOT}/analysis")
            done = subprocess.run(["bash", "-c", line], cwd=folder, env=harness.environment(),
                                  capture_output=True, text=True, timeout=harness.LIMIT)
            self.assertEqual(done.returncode, 0, f"{line}\n{done.stdout}\n{done.stderr}")
        reader.done.set()
        reader.join()
        self.assertEqual(reader.wrong, [])
        self.assertEqual(reader.steps, sorted(reader.steps))
        self.assertGreater(len(reader.steps), 0)
        with h5py.File(folder / "my_run/scores.h5") as scores:
            self.assertGreater(scores.attrs["tokens"], 0)
        self.assertEqual(len((folder / "scores.csv").read_text().splitlines()), 1 + 120)
        sound = subprocess.run([harness.MOESAIC, "verify", "my_corpus/train", "my_corpus/heldout",
                                "my_run/checkpoints", "my_run/trace.h5", "my_run/scores.h5"],
                               cwd=folder, env=harness.environment(), capture_output=True, text=True,
                               timeout=harness.LIMIT)
        self.assertEqual(sound.returncode, 0, sound.stdout + sound.stderr)
