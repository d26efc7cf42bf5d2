"""Jobs that are killed twenty times, at whatever they read or write, make what an undisturbed one does."""
import json
import random

import harness

KILLS = 20


class Kills(harness.EndToEnd):
    @classmethod
    def tokenize(cls, folder):
        """A corpus of more shards than others have, for more parts."""
        lines = (folder / "text.jsonl").read_text().splitlines()[:60]
        short = [{**json.loads(line), "text": json.loads(line)["text"][:40]} for line in lines]
        (folder / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in short))
        super().tokenize(folder)

    def setUp(self):
        super().setUp()
        self.trained(1, "--train.steps", 2, "--parallel.ep", 1, "--checkpoint.every", 0)

    def killed_and_started(self, job, most, *arguments):
        """most: calls about files of each rank until its latest kill, fewer than a job has. A job that
        ends nevertheless is compared, and another one begun."""
        command = [job, "--model.path", "run/checkpoints", "--data.corpus", "corpus/train",
                   "--run.deterministic", 1, *arguments, f"--{job}.output"]
        whole = self.run_job(2, *command, "whole.h5")
        self.assertEqual(whole.code, 0, whole.text)
        expected = harness.contents(self.folder / "whole.h5")
        choose = random.Random(job)
        kills, ends, parts = 0, 0, set()
        while kills < KILLS:
            output = f"out{ends}.h5"
            rank = choose.randint(0, 1)
            fault = self.faulty("kill", KILL_AT=choose.randint(1, most[rank]), FAULT_RANK=rank)
            result = self.run_job(2, *command, output, wrapper=fault)
            if result.code == 0:
                self.assertEqual(harness.contents(self.folder / output), expected)
                ends += 1
                self.assertLess(ends, KILLS, "it is hardly ever killed")
            else:
                self.assertIn(result.code, (*harness.KILLED, 143), result.text)
                kills += 1
                parts.add((ends, len(list((self.folder / f"{output}.parts").glob("*.h5")))))
        last = self.run_job(2, *command, output)
        self.assertEqual(last.code, 0, last.text)
        self.assertEqual(harness.contents(self.folder / output), expected)
        self.assertGreater(len(parts), 4, "kills at many places")
        self.assert_sound(output)

    # Protects: no kill loses, doubles or changes a document's scores.
    @harness.in_turn
    def test_score(self):
        self.killed_and_started("score", (700, 160))

    # Protects: the same of continuations, and of their texts.
    @harness.in_turn
    def test_generate(self):
        self.killed_and_started("generate", (2500, 640), "--generate.max_tokens", 3,
                                "--generate.batch", 4)
