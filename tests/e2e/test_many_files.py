"""Corpora of many shards and checkpoints of many blocks: one rank looks at them, once."""
import collections
import hashlib
import json
import os
import shutil

import h5py
import numpy as np

import harness

FAMILY = harness.ROOT / "tests/golden/families/deepseek_v3"


def checksummed(manifest):
    """A checkpoint's manifest with the checksum of all else in it."""
    body = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return json.dumps({**manifest, "sha256": hashlib.sha256(body.encode()).hexdigest()})


class ManyFiles(harness.EndToEnd):
    def grow_corpus(self, shards):
        """A corpus in many/ whose shards are names of one file."""
        folder = self.folder / "many"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        manifest = json.loads((self.folder / "corpus/train/corpus.json").read_text())
        shard = manifest["shards"][0]
        manifest["shards"] = [{**shard, "file": f"s{i}.h5"} for i in range(shards)]
        manifest["tokens"] = shards * shard["tokens"]
        manifest["documents"] = shards * shard["documents"]
        for entry in manifest["shards"]:
            os.link(self.folder / "corpus/train" / shard["file"], folder / entry["file"])
        (folder / "corpus.json").write_text(json.dumps(manifest))

    def grow_checkpoint(self, folder, blocks):
        """Adds blocks of a tensor that no model has."""
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        del manifest["sha256"]
        part = next(iter(manifest["parts"]))
        manifest["tensors"]["none"] = {"shape": [blocks], "blocks": [
            {"part": part, "dataset": f"/none[{i}]", "offset": [i], "extent": [1], "sha256": ""}
            for i in range(blocks)]}
        path.write_text(checksummed(manifest))

    def operations(self, *arguments):
        """How often each rank of a training opened each file, or asked about it."""
        return self.operations_of("train", "--config", "config.cfg", "--data.corpus", "many",
                                  *arguments)

    def operations_of(self, *job):
        for old in self.folder.glob("counts.*"):
            old.unlink()
        result = self.run_job(2, *job, wrapper=self.faulty("list", CALLS=self.folder / "counts"))
        self.assertEqual(result.code, 0, result.text)
        ranks = []
        for rank in (0, 1):
            lines = (self.folder / f"counts.{rank}").read_text().splitlines()
            calls = (line.split(" ", 1) for line in lines)
            ranks.append(collections.Counter(
                (what, os.path.relpath(self.folder / path, self.folder)) for what, path in calls
                if what in ("open", "ask")))
        return ranks

    # Protects: what other ranks do at a start does not grow with the shards, and rank 0 asks once.
    def test_shards(self):
        totals = []
        for shards in (1000, 16000):
            self.grow_corpus(shards)
            first, second = self.operations("--run.dir", f"run{shards}", "--train.steps", 1)
            for what in ("open", "ask"):
                self.assertEqual(second[what, "many/corpus.json"], 0)
            self.assertEqual(first["open", "many/corpus.json"], 1)
            asked = [first["ask", f"many/s{i}.h5"] for i in range(shards)]
            self.assertEqual(min(asked), 1)
            self.assertLess(sum(asked), shards + 200)  # but for those of the step
            totals.append(second.total())
        self.assertLess(abs(totals[1] - totals[0]), 100, totals)

    # Protects: a manifest of many blocks is read once, by one rank.
    def test_blocks(self):
        self.grow_corpus(3)
        self.operations("--train.steps", 1)
        self.grow_checkpoint(self.checkpoint(1), 130000)
        first, second = self.operations("--train.steps", 2)
        manifest = "run/checkpoints/step-00000001/manifest.json"
        self.assertEqual(first["open", manifest], 1)
        self.assertEqual((second["open", manifest], second["ask", manifest]), (0, 0))
        self.assertEqual(self.newest_step(), 2)
        self.assertLess(second.total(), 500)

    # Protects: of a Hugging Face folder other ranks open nothing but weights.
    def test_folder(self):
        shutil.copytree(FAMILY, self.folder / "model")
        (self.folder / "model/generation_config.json").write_text('{"eos_token_id": 2}')
        weights = {str(file.relative_to(self.folder))
                   for file in (self.folder / "model").glob("*.safetensors")}
        with h5py.File(self.folder / "text.h5", "w") as file:
            file.attrs.update({"schema": "moesaic-corpus", "version": 1, "vocab_size": 67})
            file["tokens"] = np.arange(200, dtype="u2") % 60
            file["documents/offsets"] = np.arange(0, 201, 20, dtype="u8")
        for job in (("score", "--score.output", "scores.h5"),
                    ("generate", "--generate.output", "texts.h5", "--generate.max_tokens", 2)):
            first, second = self.operations_of(*job, "--model.path", "model", "--data.corpus",
                                               "text.h5", "--run.precision", "fp32")
            for name in ("config", "generation_config", "model.safetensors.index"):
                self.assertEqual(first["open", f"model/{name}.json"], 1, (job, name))
            asked = {path for _, path in second if path.startswith("model/")}
            self.assertLessEqual(asked, weights, job)
            self.assertTrue(asked, job)
