"""The set-up and the quickstart as on a cluster: no apt, no dpkg, a user without rights, own text."""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import unittest

import harness

HIDDEN = re.compile("apt|dpkg|sudo$")


class Jobs(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="moesaic-e2e-")).resolve()
        self.addCleanup(shutil.rmtree, self.folder)
        self.folder.chmod(0o755)
        self.programs = self.folder / "programs"
        self.programs.mkdir()
        for folder in reversed(os.environ["PATH"].split(":")):
            for path in pathlib.Path(folder).glob("*"):
                if not HIDDEN.match(path.name):
                    (self.programs / path.name).unlink(missing_ok=True)
                    (self.programs / path.name).symlink_to(path)

    def environment(self, **changed):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MOESAIC")}
        return {**kept, "PATH": str(self.programs), **changed}

    def setup(self, *arguments, **changed):
        done = subprocess.run(["bash", harness.ROOT / "jobs/setup.sh", *arguments],
                              env=self.environment(**changed), capture_output=True, text=True)
        return done.returncode, done.stderr

    def missing(self, text):
        """The first word of each line of the table."""
        return re.findall(r"^  (\w+)  ", text, re.MULTILINE)[1:]

    # Protects: nothing is called missing that is there, whoever installed it.
    @harness.in_turn
    def test_all_is_there(self):
        self.assertEqual(self.setup("--check"), (0, ""))

    # Protects: one library that is not found, and one that is found but broken, are named, no others.
    @harness.in_turn
    def test_libraries_are_missing(self):
        (self.programs / "pkg-config").unlink()
        (self.programs / "pkg-config").write_text(
            f'#!/bin/sh\ncase "$*" in *libutf8proc*) exit 1 ;; esac\nexec {shutil.which("pkg-config")} "$@"\n')
        (self.programs / "pkg-config").chmod(0o755)
        (self.folder / "nlohmann").mkdir()
        (self.folder / "nlohmann/json.hpp").write_text("#error broken\n")
        code, text = self.setup(CPATH=str(self.folder))  # it lists without --check: there is no apt
        self.assertEqual((code, self.missing(text)), (69, ["utf8proc", "nlohmann_json"]), text)
        self.assertRegex(text, r"utf8proc +libutf8proc-dev +utf8proc +libutf8proc\n")
        self.assertIn("try_nlohmann_json.cpp", text)

    # Protects: without a compiler that is said, and nothing about libraries.
    def test_compiler_is_missing(self):
        code, text = self.setup("--check", CXX="no-such-compiler")
        self.assertEqual((code, self.missing(text)), (69, ["compiler"]), text)

    def quickstart(self, documents, options=("--short",), at_train=""):
        """The output of a short one on so much own text, run by a user without rights. at_train: what the
        program does before it trains."""
        out = self.folder / "out"
        out.mkdir()
        (self.folder / "text").mkdir(mode=0o755)
        rows = self.folder / "text/rows.jsonl"
        harness.write_text(rows, documents, seed=3)
        user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
        if os.getuid() != 0 or subprocess.run([*user, "test", "-x", harness.MOESAIC]).returncode != 0:
            user = []  # no other user may be, or may read this clone
        else:
            os.chown(out, 65534, 65534)
        program = self.programs / "moesaic"  # fewer steps, and a vocabulary that so little text has
        program.write_text(f'#!/bin/bash\ncase $1 in\n'
                           '  tokenize) set -- "$@" --tokenize.tokenizer byte ;;\n'
                           f'  train) {at_train} set -- "$@" --train.tokens 4096 --train.batch 4'
                           ' --model.d_model 32 --model.layers 1 ;;\n'
                           f'esac\nexec {harness.MOESAIC} "$@"\n')
        program.chmod(0o755)
        done = subprocess.run([*user, "bash", harness.ROOT / "jobs/quickstart.sh", "--no-install", *options,
                               "--ranks", "1", "--text", rows.parent, "--out", out],
                              env=self.environment(MOESAIC=str(program), HOME=str(out)),
                              capture_output=True, timeout=harness.LIMIT)
        text = (done.stdout + done.stderr).decode()
        self.assertEqual(done.returncode, 0, text)
        self.assertEqual([name for name in ("train/trace.h5", "scores.h5", "report/index.html")
                          if not (out / name).is_file()], [] if documents > 100 else ["scores.h5"])
        return text

    # Protects: a user without rights trains on own files, with the built program alone; what is printed
    # says how long all took and makes a log that can be read.
    def test_quickstart_with_own_text(self):
        text = self.quickstart(400)
        self.assertEqual(re.findall(r"(?m)^(\d/7) [^:\n]+: \d+ s$", text), [f"{n}/7" for n in range(1, 8)])
        self.assertRegex(text, r"(?m)^All of it: \d+ s$")
        self.assertEqual(len(re.findall("(?m)^Next: ", text)), 1)
        self.assertNotIn("\r", text)
        flags = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
        precision = "bf16" if {"avx512_bf16", "amx_bf16"} & set(flags) else "fp32"
        self.assertIn(f"\nIn {precision}: this processor has ", text)
        self.assertIn(f" --run.precision {precision} ", text)

    # Protects: so little text that none is held out is trained on all the same.
    def test_quickstart_with_little_text(self):
        text = self.quickstart(20)
        self.assertIn("too few to evaluate", text)
        self.assertNotIn("\n== 6/7", text)

    # Protects: a slow machine trains on fewer tokens, so that all of it takes minutes there, too.
    def test_quickstart_on_a_slow_machine(self):
        speed = ('case "$*" in *--train.steps\\ 5*) mkdir -p "${*: -5:1}"; '
                 'echo tokens_per_s=1234.5 >"${*: -5:1}/log.txt"; exit 0 ;; esac;')
        text = self.quickstart(400, options=[], at_train=speed)
        self.assertIn("\n1234 tokens/s: training on 407220 tokens instead of 1600000\n", text)
        (trained,) = re.findall(r"(?m)^\$ .* train .*/out/train .*", text)
        self.assertTrue(trained.endswith(" --train.tokens 407220 --train.warmup 16"), trained)

    # Protects: Ctrl-C and TERM of a script reach its program as USR1, which it may take its time for.
    def test_scripts_stop_with_usr1(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            program = ("trap 'echo told; exit 75' USR1; trap 'exit 1' INT TERM; echo ready; "
                       "while true; do sleep 0.05; done")
            script = (f"source {harness.ROOT}/jobs/common.sh; show_and_run bash -c \"$1\"; echo code $?")
            with subprocess.Popen(["bash", "-c", script, "script", program], stdout=subprocess.PIPE,
                                  text=True, start_new_session=True, env=self.environment(),
                                  preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as child:
                while child.stdout.readline() not in ("ready\n", ""):
                    pass
                os.killpg(child.pid, number)  # as a terminal does
                self.assertEqual(child.communicate(timeout=harness.LIMIT)[0].splitlines(), ["told", "code 75"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
