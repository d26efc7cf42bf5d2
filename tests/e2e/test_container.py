"""The lists of what is needed, for images and environments: all say what jobs/setup.sh says."""
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

import h5py
import matplotlib
import numpy

import harness

CONTAINER = harness.ROOT / "jobs/container"


def needed(column):
    """Names in a column of the table of jobs/setup.sh, for building and running."""
    text = (harness.ROOT / "jobs/setup.sh").read_text(encoding="utf-8")
    tables = re.findall(r"(?ms)^(?:build|run)=\((.*?)^\)", text)
    rows = [entry.split(":") for table in tables for entry in re.findall('"([^"]+)"', table)]
    return {name for row in rows for name in row[column].split()}


def listed(file):
    """Items of the list of a YAML file that ends its lines with names."""
    text = (CONTAINER / file).read_text(encoding="utf-8")
    return re.findall(r"(?m)^ +- (\S+)$", text.split("channels:\n  - conda-forge\n")[-1])


def sections():
    """(name, text) of the sections of the definition of the image, in order."""
    parts = re.split(r"(?m)^%(.*)\n", (CONTAINER / "moesaic.def").read_text(encoding="utf-8"))
    return [(name, text.split("\nBootstrap:")[0]) for name, text in zip(parts[1::2], parts[2::2])]


class Container(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="moesaic-e2e-")).resolve()
        self.addCleanup(shutil.rmtree, self.folder)

    # Protects: an environment that a list makes has what the build looks for.
    def test_lists(self):
        self.assertLess({"g++", "libdnnl-dev", "python3-h5py"}, needed(1))
        self.assertEqual(sorted(listed("environment.yml")), sorted(needed(3)))
        self.assertEqual(sorted(listed("spack.yaml")), sorted(needed(2) - {"gcc@12"}))
        try:
            import yaml
        except ImportError:
            return
        self.assertEqual(yaml.safe_load((CONTAINER / "environment.yml").read_text())["dependencies"],
                         listed("environment.yml"))
        self.assertEqual(yaml.safe_load((CONTAINER / "spack.yaml").read_text())["spack"]["specs"],
                         listed("spack.yaml"))

    # Protects: pip gets what the scripts of analysis/ import, and no newer than what they are tested with.
    def test_requirements(self):
        text = (harness.ROOT / "analysis/requirements.txt").read_text(encoding="utf-8")
        found = {module.__name__: tuple(map(int, module.__version__.split(".")[:2]))
                 for module in (h5py, numpy, matplotlib)}
        lowest = {name: tuple(map(int, version.split(".")))
                  for name, version in re.findall(r"(?m)^(\w+)>=([\d.]+)$", text)}
        self.assertEqual(lowest.keys(), found.keys())
        self.assertEqual([name for name in found if found[name] < lowest[name]], [])

    # Protects: the image is made of files that are there, by shell that can be read, with Debian's
    # packages of jobs/setup.sh and those that hold the program's libraries.
    def test_definition(self):
        names = [name for name, _ in sections()]
        self.assertEqual(names, ["files", "post", "files from build", "post", "environment", "runscript",
                                 "test", "help"])
        texts = dict(reversed(sections()))
        copied = [line.split()[0] for line in texts["files"].strip().splitlines()]
        clone = {path.name for path in harness.ROOT.iterdir() if not path.name.startswith(".")}
        self.assertEqual(set(copied), clone - {"README.md", "build", "runs", "tests"})
        for name, text in sections():
            if name in ("post", "environment", "runscript", "test"):
                done = subprocess.run(["sh", "-n"], input=text, text=True, capture_output=True)
                self.assertEqual((done.returncode, done.stderr), (0, ""), name)
        self.assertNotRegex("".join(text for name, text in sections() if name == "post"),
                            r"apt-get install[^<|\n]* [^-\s<]")

    # Protects: the image's packages are those of the libraries that the program needs.
    @unittest.skipIf(shutil.which("dpkg") is None, "no dpkg")
    def test_packages(self):
        listing = re.search(r"(?ms)^ *ldd .*?packages$", sections()[1][1]).group()
        program = self.folder / "bin/moesaic"
        program.parent.mkdir()
        shutil.copy(harness.MOESAIC, program)
        subprocess.run(["sh", "-ec", listing.replace("/opt/moesaic", str(self.folder))], check=True,
                       stderr=subprocess.DEVNULL)
        packages = (self.folder / "packages").read_text().split()
        for name in ("libopenmpi3", "libhdf5-openmpi-", "libdnnl", "libsentencepiece", "libgomp1", "zlib1g"):
            self.assertEqual(sum(package.startswith(name) for package in packages) > 0, True, name)
        known = subprocess.run(["dpkg-query", "-W", *packages], capture_output=True, text=True)
        self.assertEqual((known.returncode, known.stderr), (0, ""))

    # Protects: the image's own test passes with a program that works.
    def test_test(self):
        (self.folder / "moesaic").symlink_to(harness.MOESAIC)
        done = subprocess.run(["sh", "-c", dict(sections())["test"]], capture_output=True, text=True,
                              env={**harness.environment(), "PATH": f"{self.folder}:{os.environ['PATH']}"})
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertRegex(done.stdout, "run/trace.h5")


if __name__ == "__main__":
    unittest.main(verbosity=2)
