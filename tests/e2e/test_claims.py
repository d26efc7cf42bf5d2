"""What a run writes belongs to it alone, changes only once the run may start, and outlives what reads it."""
import hashlib
import json
import os
import shutil
import signal
import subprocess

import harness

ALONE = ["--parallel.ep", 1]
TRAIN = ["train", "--config", "config.cfg", *ALONE]


class Claims(harness.EndToEnd):
    def files(self, folder):
        """Name and hash of every file below a folder, but for locks."""
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "lock"}

    def stopped(self, arguments, at, once="*"):
        """A job that stands at its first use of a file like `at`, and its process."""
        child = self.start(0, *arguments, wrapper=self.stopping(once, at))
        self.wait_for(lambda: child.poll() is not None or any(
            map(harness.is_stopped, harness.processes_of(self.folder))), f"a use of {at}")
        self.assertIsNone(child.poll())
        return child, harness.processes_of(self.folder)[0]

    def ended(self, child, process):
        os.kill(process, signal.SIGCONT)
        out = child.communicate(timeout=harness.LIMIT)[0]
        return child.returncode, out

    def made_text(self):
        harness.write_text(self.folder / "text.jsonl", 50, seed=3)

    def tokenized(self, output, *arguments):
        self.made_text()
        return self.run_job(0, "tokenize", "--tokenize.input", "text.jsonl", "--tokenize.output",
                            output, *arguments)

    # Protects: who stops reading what a run says does not end it.
    def test_closed_streams(self):
        child = subprocess.Popen(harness.command(0, [*TRAIN, "--train.steps", 12]), cwd=self.folder,
                                 env=harness.environment(), stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True)
        child.stdout.readline()
        child.stdout.close()
        child.stderr.close()
        self.assertEqual(child.wait(timeout=harness.LIMIT), 0)
        self.assertEqual(self.newest_step(), 12)
        closed = self.run_job(0, *TRAIN, "--train.steps", 14,
                              wrapper=["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-'])
        self.assertEqual((closed.code, closed.text), (0, ""))
        self.assertEqual(self.newest_step(), 14)
        self.assert_sound("run/checkpoints", "run/trace.h5")

    # Protects: neither does a log that cannot be written, which is said once.
    def test_full_log(self):
        (self.folder / "run").mkdir()
        (self.folder / "run/log.txt").symlink_to("/dev/full")
        result = self.run_job(0, *TRAIN, "--train.steps", 6, "--run.log_level", "debug")
        self.assertEqual(result.code, 0, result.text)
        self.assertEqual(result.err.count("lines are lost"), 1, result.err)
        self.assertEqual(self.newest_step(), 6)

    # Protects: a second job on the same checkpoints or trace ends at once, and the first one goes on.
    def test_second_run(self):
        first = ["--run.dir", "", "--checkpoint.dir", "ck", "--trace.path", "a.h5"]
        child, process = self.stopped([*TRAIN, *first, "--train.steps", 9], "*/ck/*",
                                      "ck/step-00000005.tmp")
        other = self.run_job(0, *TRAIN, *first[:-1], "b.h5")
        self.assert_fault(other, 73, "ck is in use by another live job", f"process {process}")
        other = self.run_job(0, *TRAIN, "--trace.path", "a.h5")
        self.assert_fault(other, 73, "a.h5 is in use by another live job")
        self.assertFalse((self.folder / "b.h5").exists())
        self.assertFalse((self.folder / "run/config.cfg").exists())
        code, out = self.ended(child, process)
        self.assertEqual(code, 0, out)
        self.assert_sound("ck", "a.h5")
        self.assertFalse((self.folder / ".a.h5.lock").exists())

    # Protects: so does one that makes the same corpus, copy or checkpoint.
    def test_second_output(self):
        self.trained(0, *ALONE, "--train.steps", 5)
        self.made_text()
        jobs = {"made": ["tokenize", "--tokenize.input", "text.jsonl", "--tokenize.output", "made"],
                "copy": ["convert", "run/checkpoints", "copy", "--convert.quantize", "int8"],
                "grown": ["experts", "add", "run/checkpoints", "grown"]}
        for output, job in jobs.items():
            with self.subTest(output):
                child, process = self.stopped(job, f"*/{output}/*")
                other = self.run_job(0, *job)
                self.assertEqual(other.code, 73, other.text)
                code, out = self.ended(child, process)
                self.assertEqual(code, 0, out)
                self.assert_sound(output)

    # Protects: a signal in a job's loading or writing ends it well, with nothing made.
    def test_signals_before_the_first_step(self):
        self.trained(0, *ALONE, "--train.steps", 5)
        self.made_text()
        model = ["--model.path", "run/checkpoints", "--data.corpus", "corpus/heldout"]
        before = self.files(self.folder / "run")
        jobs = [(TRAIN, "*/part-*", "USR1"), (["score", *model, "--score.output", "scores.h5"], "*/part-*", "TERM"),
                (["generate", *model, "--generate.max_tokens", 2, "--generate.output", "g.h5"],
                 "*/part-*", "INT"),
                (["experts", "add", "run/checkpoints", "grown"], "*/part-*", "USR2"),
                (["convert", "run/checkpoints", "copy", "--convert.quantize", "int8"],
                 "*/part-*", "USR1"),
                (["tokenize", "--tokenize.input", "text.jsonl", "--tokenize.output", "made"],
                 "*/made/*", "TERM")]
        for job, at, name in jobs:
            with self.subTest(job[0]):
                child, process = self.stopped(job, at)
                os.kill(process, getattr(signal, "SIG" + name))
                code, out = self.ended(child, process)
                self.assertEqual(code, 143, out)
                self.assertIn("asked to stop", out)
        self.assertEqual(self.files(self.folder / "run"), before)
        self.assertEqual(list(self.folder.glob("grown/step-*")), [])
        self.assertFalse((self.folder / "made/made.json").exists())

    # Protects: a start that is refused changes no file of the run, and says which key it is.
    def test_refused_starts(self):
        self.trained(0, *ALONE, "--train.steps", 5)
        before = self.files(self.folder / "run")
        for key, value in (("model.layers", 3), ("model.d_model", 64), ("model.experts", 8),
                           ("model.heads", 4), ("model.shared_experts", 0), ("train.lr", 0.5)):
            with self.subTest(key):
                self.assert_fault(self.run_job(0, *TRAIN, "--" + key, value), 76, key, "was", "is")
        let = self.run_job(0, *TRAIN, "--model.layers", 3, "--checkpoint.allow", "model")
        self.assert_fault(let, 76, "2 layers with experts", "3")
        part = self.checkpoint(5) / "part-00000.h5"
        harness.flip_bit(part, os.path.getsize(part) // 2)
        self.assert_fault(self.run_job(0, *TRAIN, "--checkpoint.resume", self.checkpoint(5)), 65)
        harness.flip_bit(part, os.path.getsize(part) // 2)
        self.assertEqual(self.files(self.folder / "run"), before)

    # Protects: other text is refused wherever it lies, and the same text accepted, at its place in it.
    def test_text_below_a_run(self):
        harness.write_text(self.folder / "other.jsonl", 300, seed=2)
        make = ["tokenize", "--tokenize.output", "c/text", "--tokenize.input"]
        self.assertEqual(self.run_job(0, *make, self.shared / "text.jsonl").code, 0)
        run = [*TRAIN, "--data.corpus", "c/text"]
        self.assertEqual(self.run_job(0, *run, "--train.steps", 5).code, 0)
        os.rename(self.folder / "c", self.folder / "moved")
        moved = self.run_job(0, *TRAIN, "--data.corpus", "moved/text", "--train.steps", 7)
        self.assertEqual(moved.code, 0, moved.text)
        state = json.loads((self.checkpoint(7) / "manifest.json").read_text())["state"]
        self.assertEqual(state["cursor"], 56)
        self.assertEqual(self.run_job(0, *make, "other.jsonl").code, 0)
        other = self.run_job(0, *run, "--train.steps", 9)
        self.assert_fault(other, 76, "data.corpus", "fingerprint", "tokens")
        allowed = self.run_job(0, *run, "--train.steps", 9, "--checkpoint.allow", "data.corpus")
        self.assertEqual(allowed.code, 0, allowed.text)
        state = json.loads((self.checkpoint(9) / "manifest.json").read_text())["state"]
        self.assertEqual(state["cursor"], 16)

    # Protects: so it is with shards that have no manifest; an older checkpoint, which does not say
    # what it has read, goes on with a warning.
    def test_bare_text_below_a_run(self):
        shards = sorted((self.folder / "corpus/train").glob("*.h5"))
        bare = self.folder / "bare"
        bare.mkdir()
        for shard in shards:
            shutil.copy(shard, bare)
        run = [*TRAIN, "--data.corpus", "bare/*.h5"]
        self.assertEqual(self.run_job(0, *run, "--train.steps", 5).code, 0)
        os.rename(bare, self.folder / "other")
        moved = self.run_job(0, *TRAIN, "--data.corpus", "other/*.h5", "--train.steps", 6)
        self.assertEqual(moved.code, 0, moved.text)
        (self.folder / "other" / shards[0].name).unlink()
        less = self.run_job(0, *TRAIN, "--data.corpus", "other/*.h5", "--train.steps", 7)
        self.assert_fault(less, 76, "data.corpus", "fingerprint")
        path = self.checkpoint(6) / "manifest.json"
        manifest = json.loads(path.read_text())
        del manifest["state"]["corpora"], manifest["sha256"]
        body = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
        manifest["sha256"] = hashlib.sha256(body.encode()).hexdigest()
        path.write_text(json.dumps(manifest))
        old = self.run_job(0, *TRAIN, "--data.corpus", "other/*.h5", "--train.steps", 7,
                           "--checkpoint.allow", "data.corpus")
        self.assertEqual(old.code, 0, old.text)
        self.assertEqual(old.err.count("does not say which text"), 1, old.err)

    # Protects: what a run is evaluated on may change, and the trace keeps all of it.
    def test_other_evaluation(self):
        self.assertEqual(self.tokenized("more", "--tokenize.task", "maths").code, 0)
        evaluated = ["--trace.routing", "every:2", "--eval.every", 2, "--data.eval_corpus"]
        self.trained(0, *ALONE, *evaluated, "corpus/heldout", "--train.steps", 2)
        self.trained(0, *ALONE, *evaluated, "more", "--train.steps", 4)
        with_both = harness.column(self.folder / "run/trace.h5", "eval/loss_by_corpus")
        self.assertEqual(with_both.shape, (2, 2))
        self.assertEqual((with_both == with_both).tolist(), [[True, False], [False, True]])
        names = [name.decode() for name in harness.column(self.folder / "run/trace.h5", "corpus")]
        self.assertEqual(names, ["corpus", "more"])
        for trace in ("run/trace.h5", "run/trace.routing.h5"):
            tasks = [name.decode() for name in harness.column(self.folder / trace, "task")]
            self.assertEqual((sorted(tasks[:3]), tasks[3:]), (["code", "none", "prose"], ["maths"]))
            self.assert_sound(trace)
        self.assert_sound("run/checkpoints")
