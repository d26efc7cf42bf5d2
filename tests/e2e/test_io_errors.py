"""Every kind of file, every call on it that can fail: the job ends with the right code, harms no file, and
ends as an undisturbed one when it is run again."""
import concurrent.futures
import errno
import fnmatch
import gzip
import os
import random
import shutil
import subprocess

import harness

CALLS = ("open", "read", "write", "rename", "fsync")
WORKERS = 2  # cases at a time
ONE_RANK = {"parallel.ep": 1, "train.steps": 4, "checkpoint.every": 2, "checkpoint.keep": 3,
            "train.micro_batch": 4, "trace.routing": "1-4", "model.shared_experts": 0}


def error_of(call, number):
    """Storage that fails, and for every other case the disk that is full or the handle that is stale."""
    if number % 2 == 0:
        return errno.EIO
    return errno.ESTALE if call in ("open", "read") else errno.ENOSPC


def digest(path):
    """What a file holds. HDF5 by its datasets: their places in the file may differ."""
    return harness.contents(path) if path.suffix == ".h5" else path.read_bytes()


class IoErrors(harness.EndToEnd):
    """A job is run once with its calls listed; then each chosen call fails in a folder of its own."""

    @classmethod
    def tokenize(cls, folder):
        lines = (folder / "text.jsonl").read_text().splitlines()[:120]
        (folder / "text.jsonl").write_text("\n".join(lines) + "\n")
        subprocess.run(harness.command(0, [
            "tokenize", "--tokenize.input", "text.jsonl", "--tokenize.output", "corpus",
            "--tokenize.holdout", "0.1", "--tokenize.shards", "2", "--tokenize.tokenizer", "train",
            "--tokenize.vocab_size", "320"]), cwd=folder, env=harness.environment(), check=True,
            capture_output=True, timeout=harness.LIMIT)

    def setUp(self):
        super().setUp()
        (self.folder / "config.cfg").write_text(harness.config(ONE_RANK))
        harness.build_faults(self.shared / "faults.so")

    def run_in(self, folder, arguments, **fault):
        """Exit code and all that was said of a job in a folder."""
        environment = harness.environment()
        if fault:
            environment |= {"LD_PRELOAD": str(self.shared / "faults.so"),
                            **{name: str(value) for name, value in fault.items()}}
        done = subprocess.run(harness.command(0, arguments), cwd=folder, env=environment, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace",
                              timeout=harness.LIMIT)
        return done.returncode, done.stdout

    def copy(self, name):
        folder = self.shared / f"{self.id()}-{name}"
        shutil.copytree(self.folder, folder, symlinks=True)
        return folder

    def chosen(self, calls, kinds):
        """First, one and last call of each kind of file and call, as (kind, pattern, call, number)."""
        pick = random.Random(self.id())
        for kind, pattern in kinds.items():
            for call in CALLS:
                count = sum(line[0] == call and fnmatch.fnmatchcase(line[1], pattern) for line in calls)
                for number in sorted({1, pick.randint(1, count), count}) if count else ():
                    yield kind, pattern, call, number

    def matrix(self, arguments, kinds, results, sound, anew=None):
        """kinds: a pattern of paths for each kind of file. results: files to compare. sound: paths to
        verify; of a folder once its manifest makes it whole."""
        whole = self.copy(f"whole-{arguments[-1]}".replace("/", "-"))
        code, text = self.run_in(whole, arguments, FAULT="list", CALLS=self.shared / "calls")
        self.assertEqual(code, 0, text)
        calls = [line.split(" ", 1) for line in (self.shared / "calls").read_text().splitlines()]
        (self.shared / "calls").unlink()
        expected = {name: digest(whole / name) for name in results}
        cases = list(self.chosen(calls, kinds))
        self.assertEqual({case[0] for case in cases}, set(kinds), "a kind of file is not used at all")
        with concurrent.futures.ThreadPoolExecutor(WORKERS) as workers:
            jobs = [workers.submit(self.case, arguments, index, *case, expected, sound, anew)
                    for index, case in enumerate(cases)]
            outcomes = [job.result() for job in jobs]
        rows = {}
        for (kind, _, call, number), (code, problems) in zip(cases, outcomes):
            with self.subTest(f"{kind}: {call} {number}"):
                self.assertEqual(problems, [])
            row = rows.setdefault(kind, {"cases": 0, "codes": set(), "harmed": 0})
            row["cases"] += 1
            row["codes"].add(code)
            row["harmed"] += bool(problems)
        print(f"\n{arguments[0]:<9} {'file':<22} cases  harmed  codes")
        for kind, row in rows.items():
            codes = ", ".join(map(str, sorted(row["codes"])))
            print(f"{'':<9} {kind:<22} {row['cases']:>5}  {row['harmed']:>6}  {codes}")

    # anew: the trace that a job sets aside which has nothing to go on from.
    def case(self, arguments, index, kind, pattern, call, number, expected, sound, anew):
        """The exit code with one fault, and what is wrong afterwards."""
        folder = self.copy(f"{arguments[-1]}-{index}".replace("/", "-"))
        error = error_of(call, index)
        code, text = self.run_in(folder, arguments, FAULT="fail", FAIL_CALL=call, FAIL_PATH=pattern,
                                 FAIL_AT=number, FAIL_ERRNO=error)
        problems = []
        if code not in ((0, 73, 74) if error == errno.ENOSPC else (0, 74)):
            problems.append(f"exit code {code} for {os.strerror(error)}: {text}")
        for word in ("damaged", "delete ", "copy it again", "new one is begun", "is now "):
            if word in text:
                problems.append(f"says '{word}': {text}")
        if code != 0 and os.strerror(error) not in text:
            problems.append(f"does not say '{os.strerror(error)}': {text}")
        there = [path for path in sound if (folder / path).exists() and
                 ((folder / path).is_file() or any((folder / path).glob("**/*.json")))]
        if there:
            verdict = self.run_in(folder, ["verify", *there])
            if verdict[0] != 0:
                problems.append(f"harmed: {verdict[1]}")
        if code != 0:
            again = self.run_in(folder, arguments)
            complete = "is complete, but could not be compared" in text  # nothing is left to do
            if again[0] != 0 and not complete:
                problems.append(f"run again: exit code {again[0]}: {again[1]}")
                return code, problems
        for name, content in expected.items():
            if not (folder / name).exists():
                problems.append(f"{name} is missing")
            elif digest(folder / name) != content:
                problems.append(f"{name} differs from the undisturbed one")
        left = [str(path.relative_to(folder)) for path in folder.rglob("*")
                if path.name.endswith((".tmp", ".1", ".replaced")) and path.name != anew]
        if left:
            problems.append(f"left behind: {left}")
        if not problems:
            shutil.rmtree(folder)
        return code, problems

    def train_half(self):
        code, text = self.run_in(self.folder, ["train", "--config", "config.cfg", "--train.steps", "2"])
        self.assertEqual(code, 0, text)

    # Protects: a run that goes on from a checkpoint, with all that it reads and writes.
    @harness.in_turn
    def test_train(self):
        self.train_half()
        self.matrix(
            ["train", "--config", "config.cfg"],
            {"config": "*/test*/config.cfg", "corpus manifest": "*/corpus.json",
             "corpus shard": "*/corpus-0*.h5", "tokenizer": "*/corpus/train/*.model",
             "checkpoint manifest": "*/step-00000002/manifest.json",
             "checkpoint part": "*/step-00000002/part-*", "new checkpoint": "*/step-00000004*",
             "latest": "*/latest*", "trace": "*/trace.h5*", "routing record": "*/trace.routing.h5*",
             "run's config": "*/run/config.cfg*", "lock": "*/lock", "log": "*/log.txt"},
            results=["run/checkpoints/step-00000004/part-00000.h5"],
            sound=["run/checkpoints", "run/trace.h5", "run/trace.routing.h5"])

    # Protects: scores, their parts, and the model and corpus that they are made of.
    @harness.in_turn
    def test_score(self):
        self.train_half()
        self.matrix(
            ["score", "--model.path", "run/checkpoints", "--data.corpus", "corpus/train",
             "--run.precision", "fp32", "--score.output", "scores.h5"],
            {"corpus manifest": "*/corpus.json", "corpus shard": "*/corpus-0*.h5",
             "checkpoint manifest": "*/manifest.json", "checkpoint part": "*/step-*/part-*",
             "part of scores": "*/scores.h5.parts/scores-*", "scores": "*/scores.h5*",
             "trace": "*/scores.trace.h5*"},
            results=["scores.h5"], sound=["scores.h5", "scores.trace.h5"],
            anew="scores.trace.h5.1")

    # Protects: continuations, their parts and lines.
    @harness.in_turn
    def test_generate(self):
        self.train_half()
        self.matrix(
            ["generate", "--model.path", "run/checkpoints", "--data.corpus", "corpus/heldout",
             "--run.precision", "fp32", "--generate.output", "out.h5", "--generate.max_tokens", "2"],
            {"corpus manifest": "*/corpus.json", "corpus shard": "*/corpus-0*.h5",
             "checkpoint manifest": "*/manifest.json", "checkpoint part": "*/step-*/part-*",
             "parts": "*/out.h5.parts/*", "continuations": "*/out.h5*", "lines": "*/out.jsonl*",
             "trace": "*/out.trace.h5*"},
            results=["out.h5", "out.jsonl"], sound=["out.h5"], anew="out.trace.h5.1")

    # Protects: Hugging Face folders, made and read.
    @harness.in_turn
    def test_convert(self):
        self.train_half()
        self.matrix(["convert", "run/checkpoints", "hf"],
                    {"checkpoint manifest": "*/manifest.json", "checkpoint part": "*/step-*/part-*",
                     "weights": "*/hf/*.safetensors*", "folder's config": "*/hf/config.json*"},
                    results=["hf/model.safetensors", "hf/config.json"], sound=["hf"])
        code, text = self.run_in(self.folder, ["convert", "run/checkpoints", "hf"])
        self.assertEqual(code, 0, text)
        self.matrix(["convert", "hf", "back"],
                    {"weights": "*/hf/*.safetensors", "folder's config": "*/hf/config.json",
                     "new checkpoint": "*/back/step-*"},
                    results=["back/step-00000000/part-00000.h5"], sound=["back"])

    # Protects: a copy that this host may not see yet is not removed for that.
    def test_copy_that_cannot_be_opened(self):
        self.train_half()
        code, text = self.run_in(self.folder, ["convert", "run/checkpoints", "out", "--convert.quantize",
                                               "int8"], FAULT="fail", FAIL_CALL="open", FAIL_AT=1,
                                 FAIL_PATH="*/out/step-00000000/part-*", FAIL_ERRNO=errno.EACCES)
        self.assertEqual(code, 66, text)
        self.assertIn("is complete, but could not be compared", text)
        self.assert_sound("out")

    # Protects: a finished corpus that cannot be looked at is not made anew.
    def test_corpus_that_cannot_be_read(self):
        arguments = ["tokenize", "--tokenize.input", "plain.jsonl", "--tokenize.output", "made"]
        (self.folder / "plain.jsonl").write_bytes((self.shared / "text.jsonl").read_bytes())
        self.assertEqual(self.run_in(self.folder, arguments)[0], 0)
        before = (self.folder / "made/made.json").stat().st_ino
        code, text = self.run_in(self.folder, arguments, FAULT="fail", FAIL_CALL="open", FAIL_AT=1,
                                 FAIL_PATH="*/made/made.json", FAIL_ERRNO=errno.EIO)
        self.assertEqual(code, 74, text)
        self.assertEqual((self.folder / "made/made.json").stat().st_ino, before)

    # Protects: text in all its packings, and the corpus made of it.
    @harness.in_turn
    def test_tokenize(self):
        text = (self.shared / "text.jsonl").read_bytes()
        with gzip.open(self.folder / "packed.jsonl.gz", "wb") as file:
            file.write(text.replace(b'"d', b'"e'))
        (self.folder / "plain.jsonl").write_bytes(text)
        self.matrix(["tokenize", "--tokenize.input", "plain.jsonl,packed.jsonl.gz", "--tokenize.output",
                     "made", "--tokenize.shards", "2", "--tokenize.tokenizer", "byte"],
                    {"text": "*/plain.jsonl", "gzip": "*/packed.jsonl.gz", "shard": "*/made/*.h5*",
                     "manifest": "*/made/*.json*"},
                    results=["made/made-00000-of-00002.h5", "made/made.json"], sound=["made"])


