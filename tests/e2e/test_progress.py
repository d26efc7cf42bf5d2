"""Lines of progress: one that is written over on a terminal, whole ones where the output is kept."""
import os
import pty
import re
import subprocess
import unittest

import harness


class Progress(harness.EndToEnd):
    def printed(self, ranks, terminal, wrapper=()):
        """What a run prints, through a terminal or into a file."""
        steps = ["train", "--config", "config.cfg", "--parallel.ep", "1", "--run.dir",
                 f"run-{ranks}{len(wrapper)}"]
        if not terminal:
            with open(self.folder / "out.txt", "wb") as file:
                subprocess.run(harness.command(ranks, steps, wrapper), cwd=self.folder, check=True,
                               stdout=file, env=harness.environment(), timeout=harness.LIMIT)
            return (self.folder / "out.txt").read_bytes().decode()
        ours, theirs = pty.openpty()
        with subprocess.Popen(harness.command(ranks, steps), cwd=self.folder, stdout=theirs,
                              env=harness.environment(), start_new_session=True) as child:
            os.close(theirs)
            text = b""
            try:
                while part := os.read(ours, 4096):
                    text += part
            except OSError:
                pass  # nobody has the terminal open any more
            os.close(ours)
            self.assertEqual(child.wait(timeout=harness.LIMIT), 0)
        return text.decode().replace("\r\n", "\n")

    # Protects: a log that people read, and grep, has whole lines; also of ranks that mpirun gives a
    # terminal of their own.
    def test_file(self):
        for ranks, wrapper in ((0, []), (2, []), (1, ["sh", "-c", '"$@"; exit $?', "sh"])):
            text = self.printed(ranks, terminal=False, wrapper=wrapper)
            self.assertNotIn("\r", text)
            shown = re.findall(r"(?m)^\S+Z INFO step=(\d+)/20 loss=", text)
            self.assertEqual((shown[0], shown[-1]), ("1", "20"))

    # Protects: on a terminal one line is written over, also under mpirun.
    def test_terminal(self):
        for ranks in (0, 2):
            self.assertRegex(self.printed(ranks, terminal=True), r"\rstep=20/20 loss=")


if __name__ == "__main__":
    unittest.main(verbosity=2)
