"""Vocabularies of Hugging Face folders: the corpus is the same on any ranks, and keeps its tokenizer."""
import json
import shutil
import unittest

import h5py

import harness

GOLDEN = harness.ROOT / "tests/golden/tokenizers"


class Tokenizers(harness.EndToEnd):
    def hugging_face_folder(self):
        folder = self.folder / "model"
        folder.mkdir()
        shutil.copy(GOLDEN / "qwen2.json", folder / "tokenizer.json")
        (folder / "tokenizer_config.json").write_text(
            '{"eos_token": "<|endoftext|>", "bos_token": null}')
        return folder

    def tokenized(self, ranks, output, tokenizer, code=0):
        done = self.run_job(ranks, "tokenize", "--tokenize.input", "texts.jsonl", "--tokenize.output",
                            output, "--tokenize.shards", 3, "--tokenize.tokenizer", tokenizer)
        self.assertEqual(done.code, code, done.text)
        return done

    # Protects: the tokens are those of the tokenizers package, the bytes the same on any ranks.
    def test_folder(self):
        expected = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
        texts = [text for text in expected["texts"] if text]
        with open(self.folder / "texts.jsonl", "w", encoding="utf-8") as file:
            for text in texts:
                file.write(json.dumps({"text": text}) + "\n")
        self.hugging_face_folder()
        self.tokenized(1, "one/corpus", "model")
        self.tokenized(2, "two/corpus", "model/tokenizer.json")
        one = {file.name: file.read_bytes() for file in (self.folder / "one/corpus").iterdir()}
        two = {file.name: file.read_bytes() for file in (self.folder / "two/corpus").iterdir()}
        self.assertEqual(one, two)
        self.assertIn("tokenizer.json", one)

        eos = next(token["id"] for token in json.loads(one["tokenizer.json"])["added_tokens"]
                   if token["content"] == "<|endoftext|>")
        wanted = {}
        for text, tokens in zip(expected["texts"], expected["tokens"]["qwen2"]):
            wanted.setdefault(text, tokens + [eos])
        found = []
        for shard in sorted((self.folder / "one/corpus").glob("*.h5")):
            with h5py.File(shard) as file:
                offsets = file["documents/offsets"][()]
                tokens = file["tokens"][()].tolist()
                found += [tokens[begin:end] for begin, end in zip(offsets[:-1], offsets[1:])]
        self.assertEqual(found, [wanted[text] for text in dict.fromkeys(texts)])
        self.assertEqual(self.run_job(0, "verify", "one/corpus").code, 0)
        self.tokenized(1, "again/corpus", "one/corpus/tokenizer.json")
        self.assertEqual((self.folder / "again/corpus/tokenizer.json").read_bytes(),
                         one["tokenizer.json"])

    # Protects: what is missing, or not supported, is named, and nothing is left behind.
    def test_errors(self):
        (self.folder / "texts.jsonl").write_text('{"text": "some text"}\n')
        folder = self.hugging_face_folder()
        (self.folder / "empty").mkdir()
        self.assertIn("tokenizer.model", self.tokenized(2, "new", "empty", code=66).text)
        self.assertIn("a corpus is named after its folder",
                      self.tokenized(1, "tokenizer", "byte", code=64).text)
        content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": ""}
        (folder / "tokenizer.json").write_text(json.dumps(content))
        self.assertIn("Precompiled", self.tokenized(2, "new", "model", code=65).text)
        (folder / "tokenizer_config.json").write_text("{}")
        shutil.copy(GOLDEN / "qwen2.json", folder / "tokenizer.json")
        self.assertIn("has no eos", self.tokenized(1, "new", "model", code=64).text)
        self.assertFalse((self.folder / "new").exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
