"""The tree that `cmake --install` makes, far from the clone."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import harness

BUILD = harness.ROOT / "build/release"


@unittest.skipUnless((BUILD / "cmake_install.cmake").is_file(), "no build folder to install from")
class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="moesaic-e2e-")).resolve()
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        subprocess.run(["cmake", "--install", BUILD, "--prefix", cls.folder / "tree"], check=True,
                       capture_output=True)
        cls.program = cls.folder / "tree/bin/moesaic"
        cls.scripts = cls.folder / "tree/share/moesaic"
        cls.home = cls.folder / "home"
        cls.home.mkdir()

    def run_script(self, *command, **variables):
        kept = {name: value for name, value in harness.environment().items()
                if not name.startswith(("MOESAIC", "SLURM_"))}
        return subprocess.run(command, cwd=self.home, capture_output=True, text=True, timeout=harness.LIMIT,
                              env={**kept, "HOME": str(self.home), **variables})

    # Protects: the program and every script are there, without what only a clone needs.
    def test_files(self):
        self.assertEqual(self.run_script(self.program, "--version").stdout.split()[0], "moesaic")
        for folder, pattern in (("jobs", "*.sh"), ("slurm", "*.sbatch"), ("analysis", "*.py"),
                                ("configs", "**/*.cfg")):
            ours, theirs = ({path.relative_to(root): os.access(path, os.X_OK)
                             for path in (root / folder).glob(pattern)}
                            for root in (harness.ROOT, self.scripts))
            self.assertEqual(ours, theirs)
        self.assertEqual(sorted(path.name for path in self.scripts.iterdir()),
                         ["LICENSE", "analysis", "configs", "jobs", "slurm"])
        self.assertEqual(list(self.scripts.glob("**/__pycache__")), [])

    # Protects: a user of an installed tree trains on own text with one command, in a folder of their own.
    def test_quickstart(self):
        (self.home / "text").mkdir()
        harness.write_text(self.home / "text/rows.jsonl", 400, seed=3)
        real = self.program.rename(self.program.with_name("moesaic-real"))
        self.addCleanup(real.rename, self.program)
        # Fewer steps, and a vocabulary that so little text has.
        self.program.write_text('#!/bin/bash\ncase $1 in\n'
                                '  tokenize) set -- "$@" --tokenize.tokenizer byte ;;\n'
                                '  train) set -- "$@" --train.tokens 4096 --train.batch 4'
                                ' --model.d_model 32 --model.layers 1 ;;\n'
                                f'esac\nexec {real} "$@"\n')
        self.program.chmod(0o755)
        done = self.run_script(self.scripts / "jobs/quickstart.sh", "--short", "--no-install", "--ranks", "1",
                               "--text", "text")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        commands = re.findall(r"(?m)^\$ .*", done.stdout)
        self.assertEqual([f" {self.program} {job} " in command for job, command in
                          zip(("tokenize", "train", "score"), commands, strict=True)], [True] * 3)
        self.assertNotIn(str(harness.ROOT), done.stdout + done.stderr)
        for name in ("train/trace.h5", "scores.h5", "report/index.html"):
            self.assertTrue((self.home / "runs/quickstart" / name).is_file(), name)

    # Protects: Slurm's copy of a script finds the rest of the tree, and the program.
    def test_sbatch(self):
        programs = self.folder / "programs"
        programs.mkdir()
        for name, text in (("srun", 'echo srun "$@"'), ("squeue", ""),
                           ("scontrol", f"echo '   Command={self.scripts}/slurm/train.sbatch my.cfg'")):
            (programs / name).write_text(f"#!/bin/sh\n{text}\n")
            (programs / name).chmod(0o755)
        (self.home / "my.cfg").touch()
        copy = shutil.copy(self.scripts / "slurm/train.sbatch", self.folder / "slurm_script")
        done = self.run_script("bash", copy, "my.cfg", SLURM_JOB_ID="7", SLURM_SUBMIT_DIR=str(self.home),
                               PATH=f"{programs}:{os.environ['PATH']}")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn(f" {self.program} train --config my.cfg", done.stdout)

    # Protects: what needs the source says so, instead of looking for files of a clone in vain.
    def test_needs_source(self):
        done = self.run_script(self.scripts / "jobs/bench.sh", "-o", "bench")
        self.assertEqual((done.returncode, "needs the source" in done.stderr), (66, True), done.stderr)
        self.assertFalse((self.home / "bench").exists())
        done = self.run_script(self.scripts / "jobs/setup.sh", "--check", CXX="no-such-compiler")
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    # Protects: lm-evaluation-harness finds the program, too.
    def test_engine(self):
        done = self.run_script(sys.executable, "-c", "import engine; print(engine.default_program())",
                               PYTHONPATH=str(self.scripts / "analysis"), PYTHONDONTWRITEBYTECODE="1")
        self.assertEqual(done.stdout.strip(), str(self.program), done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
