"""Training in bf16 learns a real text as fp32 does: this repository's own."""
import json
import shutil

import numpy as np

import harness

STEPS, WINDOW = 200, 20


class Precision(harness.EndToEnd):
    @classmethod
    def setUpClass(cls):
        """One document for each file."""
        super().setUpClass()
        paths = sorted([*harness.ROOT.glob("*.md"), *harness.ROOT.glob("src/**/*.md"),
                        *harness.ROOT.glob("src/**/*.cpp"), *harness.ROOT.glob("src/**/*.h")])
        with open(cls.shared / "text.jsonl", "w", encoding="utf-8") as file:
            for path in paths:
                row = {"id": str(path.relative_to(harness.ROOT)),
                       "text": path.read_text(encoding="utf-8")}
                file.write(json.dumps(row) + "\n")
        shutil.rmtree(cls.shared / "corpus")
        cls.tokenize(cls.shared)

    def losses(self, precision):
        """The mean loss of each window of steps. A learning rate at which rounding does not grow: with
        0.003 two such runs part by 1 %."""
        self.trained(1, "--run.precision", precision, "--run.dir", precision,
                     "--model.d_model", 64, "--model.max_seq", 128, "--data.seq_len", 128,
                     "--train.batch", 8, "--train.micro_batch", 8, "--train.lr", 0.001,
                     "--train.warmup", 20, "--train.steps", STEPS, "--train.decay_steps", STEPS,
                     "--parallel.ep", 1, "--checkpoint.every", STEPS)
        trace = self.folder / precision / "trace.h5"
        np.testing.assert_array_equal(harness.column(trace, "step"), np.arange(1, STEPS + 1))
        return harness.column(trace, "lm_loss").reshape(-1, WINDOW).mean(axis=1)

    # Protects: roundings to bf16 do not add up, as they would in weights that are kept in bf16.
    @harness.in_turn
    def test_bf16_learns_as_fp32(self):
        fp32, bf16 = self.losses("fp32"), self.losses("bf16")
        np.testing.assert_allclose(bf16, fp32, rtol=0.005)
        self.assertTrue((bf16 != fp32).any(), "bf16 was not used")
        for losses in (fp32, bf16):
            self.assertGreater(losses[0], 0.6 * np.log(256))
            self.assertLess(losses[-1], 0.6 * np.log(256))
