"""What slurm/*.sbatch ask of Slurm, with programs of its names that write down how they were called."""
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import harness

ROOT = harness.ROOT

# Each line of calls.txt is a program and its arguments; files say what the programs answer.
FAKES = {
    "srun": 'exit "$(cat code)"',
    "scontrol": """case "$1" in
  requeue) exit "$(cat requeue)" ;;
  show) printf '   Command=%s/slurm/%s config.cfg\\n   StdOut=/logs/slurm-7.out\\n' "$CLONE" "$SCRIPT" ;;
esac""",
    "sbatch": """env | grep -E '^(SLURM_|MOESAIC_)' | sort >environment.txt
echo 8
exit "$(cat submit)" """,
    "squeue": """case "$*" in *%L) echo 1-02:03:04 ;; *%l) echo 2:00:00 ;; *%f) echo '(null)' ;;
  *%b) echo gres:gpu:2 ;; esac"""}

JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "mine", "SLURM_NTASKS": "8", "SLURM_JOB_NUM_NODES": "2",
       "SLURM_CPUS_PER_TASK": "3", "SLURM_JOB_PARTITION": "long", "SLURM_JOB_ACCOUNT": "we"}


class SlurmScripts(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="moesaic-e2e-")).resolve()
        self.addCleanup(shutil.rmtree, self.folder)
        (self.folder / "bin").mkdir()
        for name, text in FAKES.items():
            self.write_program(name, f'echo {name} "$@" >>calls.txt\n{text}\n')
        self.write_program("program", "")
        (self.folder / "config.cfg").touch()
        self.answer(code=0, requeue=0, submit=0)

    def write_program(self, name, text):
        path = self.folder / "bin" / name
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)

    def answer(self, **codes):
        for name, code in codes.items():
            (self.folder / name).write_text(str(code))

    def submit(self, script="train.sbatch", *arguments, **variables):
        """Runs a script as Slurm does: a copy of it, in the folder of the job."""
        copy = self.folder / "slurm_script"
        shutil.copy(ROOT / "slurm" / script, copy)
        (self.folder / "calls.txt").write_text("")
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith(("SLURM_", "MOESAIC"))}
        environment.update(JOB, SLURM_SUBMIT_DIR=str(self.folder), CLONE=str(ROOT), SCRIPT=script,
                           PATH=f"{self.folder}/bin:{os.environ['PATH']}",
                           MOESAIC=str(self.folder / "bin/program"), **variables)
        done = subprocess.run(["bash", copy, "config.cfg", *arguments], env=environment, cwd="/",
                              capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def calls(self, name):
        lines = (self.folder / "calls.txt").read_text().splitlines()
        return [line[len(name) + 1:] for line in lines if line.split()[0] == name]

    # Protects: a job that ended well or in vain leaves the queue; all others go back, also those that
    # MPI aborted (134) or that were told to stop before they were ready (138). The log says which.
    def test_codes(self):
        again = []
        for code in (0, 64, 65, 66, 70, 73, 74, 75, 76, 77, 134, 135, 137, 138, 139, 143):
            self.answer(code=code)
            ended, text = self.submit()
            self.assertEqual(ended, code)
            self.assertIn(f"exit code {code}: ", text)
            if self.calls("scontrol")[1:] == ["requeue 7"]:
                again.append(code)
        self.assertEqual(again, [70, 74, 75, 134, 135, 137, 138, 139])
        self.assertEqual(self.calls("sbatch"), [])

    # Protects: what the ranks are started with, by default and where the site says otherwise.
    def test_site(self):
        self.assertEqual(self.submit("train.sbatch", "--train.steps", "3")[0], 0)
        self.assertEqual(self.calls("srun"), [
            f"--mpi=pmix --cpu-bind=cores --wait=30 {self.folder}/bin/program train --config config.cfg"
            " --run.max_wall 93784 --train.steps 3"])
        site = self.folder / "site.sh"
        site.write_text('echo "of the site $unset"\nfalse\n'
                        'MOESAIC_RUN="sh exec image moesaic"\nMOESAIC_SRUN="--mpi=pmi2 -K0"\n')
        code, text = self.submit("generate.sbatch", MOESAIC_SITE=str(site))
        self.assertEqual((code, text.splitlines()[0]), (0, "of the site "))
        self.assertEqual(self.calls("srun"), [
            "--mpi=pmix --cpu-bind=cores --wait=30 --mpi=pmi2 -K0 sh exec image moesaic generate"
            " --config config.cfg --run.max_wall 93784"])
        code, text = self.submit(MOESAIC_SITE=str(self.folder / "none.sh"))
        self.assertEqual((code, f"no file {self.folder}/none.sh" in text), (66, True), text)

    # Protects: where a job may not go back into the queue, one like it follows, and counts as a restart.
    def test_requeue_refused(self):
        self.answer(code=75, requeue=1)
        code, text = self.submit("train.sbatch", "--run.dir", "my run", SLURM_RESTART_COUNT="2",
                                 SLURM_STEP_ID="0", SLURM_CONF="/etc/c")
        self.assertEqual(code, 75)
        self.assertIn("job 8 goes on when this one has ended", text)
        self.assertEqual(self.calls("sbatch"), [
            "--parsable --export=ALL --dependency=afterany:7 --job-name=mine --nodes=2 --ntasks=8 --cpus-per-task=3"
            " --partition=long --account=we --time=2:00:00 --gres=gpu:2 --output=/logs/slurm-7.out"
            f" {self.folder}/slurm_script config.cfg --run.dir my run"])
        environment = (self.folder / "environment.txt").read_text().splitlines()
        self.assertEqual([line for line in environment if not line.startswith("MOESAIC=")], [
            f"MOESAIC_HOME={ROOT}", "MOESAIC_JOB=7", "MOESAIC_RESTARTS=3", "SLURM_CONF=/etc/c"])

    # Protects: an array's task is followed by that task alone, which knows how many there were.
    def test_requeue_of_a_task_refused(self):
        self.answer(code=138, requeue=1)
        task = {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_MAX": "7"}
        self.submit("score.sbatch", **task)
        self.assertIn("--score.shards 2/8", self.calls("srun")[0])
        (call,) = self.calls("sbatch")
        self.assertIn("--dependency=afterany:5_2 ", call)
        self.assertIn(" --array=2 ", call)

    # Protects: restarts end after MAX_RESTARTS, those of earlier jobs counted; failure is said.
    def test_restarts_end(self):
        self.answer(code=70, requeue=1)
        code, text = self.submit(MAX_RESTARTS="3", MOESAIC_RESTARTS="2", SLURM_RESTART_COUNT="1")
        self.assertEqual((code, self.calls("sbatch")), (70, []))
        self.assertIn("after 3 restarts: submit again to go on", text)
        self.answer(submit=1)
        code, text = self.submit(MAX_RESTARTS="4", MOESAIC_RESTARTS="2", SLURM_RESTART_COUNT="1")
        self.assertEqual(code, 70)
        self.assertIn("submit it by hand to go on", text)


class UsageErrors(unittest.TestCase):
    # Protects: of thousands of ranks one says what is wrong with the command line, under any launcher.
    def test_first_rank_speaks(self):
        unset = {name: value for name, value in os.environ.items()
                 if not name.startswith(("OMPI_", "PMI", "SLURM_"))}
        for name in ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"):
            for rank in (0, 3):
                done = subprocess.run(harness.command(0, ["train", "--no.such", "1"]), text=True,
                                      env={**unset, name: str(rank)}, capture_output=True)
                self.assertEqual((done.returncode, "no.such" in done.stderr), (64, rank == 0), name)


if __name__ == "__main__":
    unittest.main(verbosity=2)
