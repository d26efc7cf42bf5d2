"""PEFT reads the adapters that the program writes: no key is missing or left over, and the logits are
those of the adapters that PEFT itself has written."""
import importlib.util
import os
import pathlib
import subprocess
import tempfile
import unittest
import warnings

import h5py

import harness

GOLDEN = harness.ROOT / "tests/golden"
WRITER = pathlib.Path(os.environ.get("MOESAIC_PEFT_TEST",
                                     harness.ROOT / "build/release/tests/unit/peft_test"))
MISSING = [name for name in ("peft", "transformers", "torch")
           if importlib.util.find_spec(name) is None] + ([] if WRITER.exists() else [WRITER.name])


@unittest.skipIf(MISSING, f"not there: {', '.join(MISSING)}")
class Adapters(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.folder = pathlib.Path(directory.name)
        subprocess.run([WRITER, "--gtest_filter=PeftWrite.RoundTrip:PeftWrite.Everything"], check=True,
                       stdout=subprocess.DEVNULL,
                       env=harness.environment() | {"MOESAIC_PEFT_OUT": directory.name})

    def base(self, family):
        import torch
        import transformers
        return transformers.AutoModelForCausalLM.from_pretrained(
            GOLDEN / "families" / family, dtype=torch.float32, attn_implementation="eager",
            experts_implementation="eager", local_files_only=True)

    def load(self, family, case):
        """The model with the adapter. PEFT only warns of keys that are missing, and not of others."""
        import peft
        base = self.base(family)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model = peft.PeftModel.from_pretrained(base, self.folder / family / case)
        self.assertEqual([w for w in said if "missing" in str(w.message)], [])
        weights = peft.load_peft_weights(str(self.folder / family / case), device="cpu")
        found = peft.set_peft_model_state_dict(model, weights)
        self.assertEqual(found.unexpected_keys, [])
        self.assertEqual([key for key in found.missing_keys if "lora_" in key], [])
        return model

    def test_logits(self):
        import torch
        count = 0
        for folder in sorted(self.folder.glob("*/*")):
            family, case = folder.parent.name, folder.name
            if case == "everything":
                continue
            with self.subTest(family=family, case=case), \
                    h5py.File(GOLDEN / "adapters" / family / "golden.h5") as golden:
                model = self.load(family, case)
                ids = torch.from_numpy(golden[case]["input_ids"][()]).long()
                due = torch.from_numpy(golden[case]["logits"][()])
                with torch.no_grad():
                    logits = model(input_ids=ids).logits[:, -due.shape[1]:]
                self.assertLess((logits - due).abs().max().item(), 1e-4)
                count += 1
        self.assertEqual(count, 13)

    def test_all_weights(self):
        """Each update is 6e-4 everywhere."""
        import torch
        families = [path.parent.name for path in sorted(self.folder.glob("*/everything"))]
        self.assertEqual(len(families), 9)
        ids = torch.arange(24).reshape(2, 12)
        for family in families:
            if family == "deepseek_v3_fp8":  # transformers wants a GPU for it
                continue
            with self.subTest(family=family), torch.no_grad():
                model, plain = self.load(family, "everything"), self.base(family)
                before = plain(input_ids=ids).logits
                for name, value in plain.model.layers.named_parameters():
                    if value.dim() > 1 and not name.endswith("_bias"):
                        value += 6e-4
                due = plain(input_ids=ids).logits
                self.assertLess((model(input_ids=ids).logits - due).abs().max().item(), 1e-4)
                self.assertGreater((due - before).abs().max().item(), 1e-2)


if __name__ == "__main__":
    unittest.main()
