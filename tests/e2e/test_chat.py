"""Conversations: what analysis/render_chat.py makes of them, and that tokenize makes the ids and masks of
transformers of it (tests/golden/make_chat.py)."""
import argparse
import importlib.util
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import h5py

import harness

CHAT = harness.ROOT / "tests/golden/chat"
SCRIPT = harness.ROOT / "analysis/render_chat.py"
TAG = re.compile(r"\{%-\s*(end)?generation\s*-%\}")
HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None


def load_script():
    sys.path.insert(0, str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("render_chat", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


render_chat = load_script()


def expected():
    with open(CHAT / "expected.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def documents_of(folder):
    """(ids, mask) of each document of all shards, in order."""
    found = []
    for path in sorted(pathlib.Path(folder).glob("*.h5")):
        with h5py.File(path) as file:
            tokens, table = file["tokens"][()], file["documents"]
            offsets, spans = table["offsets"][()].astype(int), table["spans/offsets"][()].astype(int)
            begin, end = table["spans/begin"][()], table["spans/end"][()]
        for d in range(len(offsets) - 1):
            mask = [0] * (offsets[d + 1] - offsets[d])
            for s in range(spans[d], spans[d + 1]):
                mask[begin[s]:end[s]] = [1] * int(end[s] - begin[s])
            found.append((tokens[offsets[d]:offsets[d + 1]].tolist(), "".join(map(str, mask))))
    return found


class Tokenize(harness.EndToEnd):
    def tokenized(self, rows, *arguments, ranks=0):
        write_lines(self.folder / "in.jsonl", rows)
        result = self.run_job(ranks, "tokenize", "--tokenize.tokenizer", CHAT, "--tokenize.input", "in.jsonl",
                              "--tokenize.output", "chat", *arguments)
        self.assertEqual(result.code, 0, result.text)
        return documents_of(self.folder / "chat"), result

    def test_transformers(self):
        """Rendered text with spans becomes the ids of apply_chat_template, and its mask of the assistant."""
        rows = expected()
        self.assertEqual(len(rows), 50)
        found, result = self.tokenized([{key: row[key] for key in ("text", "spans")} for row in rows],
                                       "--tokenize.unique", 0, ranks=2)
        for row, (ids, mask) in zip(rows, found, strict=True):
            self.assertEqual(ids, row["ids"], row["text"])
            self.assertEqual(mask, row["mask"], row["text"])
        targets = sum(row["mask"].count("1") for row in rows)
        self.assertIn(f"{targets} of {sum(len(row['ids']) for row in rows)} tokens are targets", result.text)
        self.assertEqual(self.run_job(0, "verify", "chat").code, 0)

    def test_ids(self):
        """Ids with labels are kept as they are; text and spans of the same conversation are no duplicate."""
        rows = expected()[:10]
        ids = [{"input_ids": row["ids"], "labels": [id if bit == "1" else -100
                                                    for id, bit in zip(row["ids"], row["mask"])]} for row in rows]
        found, _ = self.tokenized(ids + ids[:3] + [{"text": rows[0]["text"], "spans": rows[0]["spans"]}])
        self.assertEqual(found, [(row["ids"], row["mask"]) for row in [*rows, rows[0]]])

    def test_train_and_generate(self):
        """Training predicts targets alone, and generate continues prompts and what lies before a last answer."""
        rows = [row for row in expected() if row["template"] == "chatml"]
        self.tokenized([{key: row[key] for key in ("text", "spans")} for row in rows])
        keys = {"data.corpus": "chat", "data.seq_len": 16, "train.steps": 1, "train.batch": 1, "train.micro_batch": 1,
                "train.warmup": 1, "train.decay_steps": 1, "model.max_seq": 512}
        (self.folder / "config.cfg").write_text(harness.config(keys))
        self.trained(1, "--parallel.ep", 1)
        write_lines(self.folder / "prompts.jsonl", [{"prompt": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"}])
        self.assertEqual(self.run_job(0, "tokenize", "--tokenize.tokenizer", CHAT, "--tokenize.input", "prompts.jsonl",
                                      "--tokenize.output", "prompts").code, 0)
        for corpus, lengths in (
                ("chat", [row["mask"].rindex("01") + 1 for row in rows]), ("prompts", [len(documents_of(
                    self.folder / "prompts")[0][0])])):
            result = self.run_job(0, "generate", "--model.path", "run/checkpoints", "--data.corpus", corpus,
                                  "--generate.max_tokens", 2, "--generate.output", f"{corpus}.h5")
            self.assertEqual(result.code, 0, result.text)
            with h5py.File(self.folder / f"{corpus}.h5") as file:
                self.assertEqual(file["documents/prompt_tokens"][()].tolist(), lengths)

    def test_refusals(self):
        """Errors of the input end with 65 and name the line."""
        for row, words in (
                ({"text": "ab", "spans": [[1, 3]]}, "in.jsonl:2: not a legal document: one of its spans ends at 3"),
                ({"input_ids": [1, 2], "labels": [1, 1]}, "in.jsonl:2: not a legal document: at position 1 its label"),
                ({"input_ids": [1, 99999], "labels": [1, -100]}, "in.jsonl:2: at position 1 of input_ids the id 99999"),
                ({"messages": []}, "analysis/render_chat.py")):
            write_lines(self.folder / "in.jsonl", [{"text": "fine, fine", "spans": [[6, 10]]}, row])
            result = self.run_job(0, "tokenize", "--tokenize.tokenizer", CHAT, "--tokenize.input", "in.jsonl",
                                  "--tokenize.output", "bad")
            self.assertEqual(result.code, 65, result.text)
            self.assertIn(words, result.text)
            self.assertFalse((self.folder / "bad").exists())
        skipped = self.run_job(0, "tokenize", "--tokenize.tokenizer", CHAT, "--tokenize.input", "in.jsonl",
                               "--tokenize.output", "good", "--tokenize.on_error", "skip")
        self.assertEqual(skipped.code, 0, skipped.text)
        self.assertIn("1 bad lines skipped", skipped.text)


def chatml(messages, prompt):
    return "".join(f"<s>{m['role']}\n{m['content']}<e>\n" for m in messages) + "<s>assistant\n" * prompt


def user(text):
    return {"role": "user", "content": text}


def answer(text):
    return {"role": "assistant", "content": text}


class Spans(unittest.TestCase):
    """Targets by rendering parts of a conversation, with templates that are functions."""

    def spans(self, render, messages, turns="all", first=0):
        text, spans, unended = render_chat.spans_by_prefix(
            render, render_chat.Conversation(messages, first), turns, ("<e>",))
        return [text[begin:end] for begin, end in spans], unended

    def test_turns(self):
        messages = [user("a"), answer("b"), user("c"), answer(""), answer("é🙂\n")]
        self.assertEqual(self.spans(chatml, messages), (["b<e>", "<e>", "é🙂\n<e>"], 0))
        self.assertEqual(self.spans(chatml, messages, "last"), (["é🙂\n<e>"], 0))
        self.assertEqual(self.spans(chatml, messages, first=2), (["<e>", "é🙂\n<e>"], 0))
        self.assertEqual(self.spans(chatml, [user("a")]), ([], 0))

    def test_no_end_token(self):
        """A turn without an end token keeps all that it adds, and is counted."""
        def plain(messages, prompt):
            return "".join(f"{m['role']}: {m['content']}\n" for m in messages) + "assistant: " * prompt
        self.assertEqual(self.spans(plain, [user("a"), answer("b"), user("c")]), (["b\n"], 1))

    def test_rewritten_turns(self):
        """A template that shortens earlier answers: refused, or the last one alone."""
        def strips(messages, prompt):
            last = len(messages) - 1
            return chatml([m if i == last else {**m, "content": m["content"].split("</think>")[-1]}
                           for i, m in enumerate(messages)], prompt)
        messages = [user("a"), answer("<think>x</think>b"), user("c"), answer("<think>y</think>d")]
        with self.assertRaisesRegex(render_chat.RenderError, "turn 1: .*--turns last") as refused:
            self.spans(strips, messages)
        self.assertEqual(refused.exception.code, 65)
        self.assertEqual(self.spans(strips, messages, "last"), (["<think>y</think>d<e>"], 0))

    def test_other_header(self):
        def forced(messages, prompt):
            return chatml(messages, prompt) + "<think>" * prompt
        with self.assertRaisesRegex(render_chat.RenderError, "turn 1: .*header"):
            self.spans(forced, [user("a"), answer("b")], "last")

    def test_generation(self):
        text = "Q b<e>\nQ c\n"
        self.assertEqual(render_chat.spans_by_generation(text, [(2, 3), (3, 7), (7, 7), (9, 11)], "all", 0, ("<e>",)),
                         (text, [[2, 7], [9, 11]], 1))
        self.assertEqual(render_chat.spans_by_generation(text, [(2, 7), (9, 11)], "last", 0, ("<e>",))[1], [[9, 11]])
        self.assertEqual(render_chat.spans_by_generation(text, [(2, 7), (9, 11)], "all", 8, ("<e>",))[1], [[9, 11]])

    def test_lost_content(self):
        said = [user("a"), {**answer("one\n\n two "), "reasoning_content": "why"}]
        self.assertFalse(render_chat.lacks_content("x why one\ntwo", said))
        self.assertTrue(render_chat.lacks_content("x one\ntwo", said))
        self.assertFalse(render_chat.lacks_content("", [user("a"), answer(None)]))


class Rows(unittest.TestCase):
    """What the fields of a row say."""

    def test_forms(self):
        talk = [user("a"), answer("b")]
        def found(row):
            conversation = render_chat.conversation_of(row)
            return conversation.messages, conversation.first_target
        self.assertEqual(found({"messages": talk}), (talk, 0))
        self.assertEqual(found({"messages": [{**m, "tool_calls": None} for m in talk]}), (talk, 0))
        self.assertEqual(found({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}),
                         (talk, 0))
        self.assertEqual(found({"prompt": talk + [user("c")], "completion": [answer("d")]}),
                         (talk + [user("c"), answer("d")], 3))
        self.assertEqual(found({"instruction": "a", "input": "", "output": "b"}), (talk, 0))
        self.assertEqual(found({"instruction": "a", "input": "x", "output": "b", "system": "s"}),
                         ([{"role": "system", "content": "s"}, user("a\nx"), answer("b")], 0))
        self.assertEqual(render_chat.conversation_of({"prompt": "a", "completion": "b"}), ("a", "b"))
        tools = render_chat.conversation_of({"messages": talk, "tools": "[{\"type\": \"function\"}]",
                                             "chat_template_kwargs": {"enable_thinking": False}})
        self.assertEqual((tools.tools, tools.arguments), ([{"type": "function"}], {"enable_thinking": False}))

    def test_refusals(self):
        for row, words in (({"text": "a"}, "none of messages.*but text"), ({"messages": []}, "not a list of messages"),
                           ({"messages": [{"content": "a"}]}, "message 0 of 'messages' has no role"),
                           ({"conversations": [{"from": "x", "value": "a"}]}, "is from 'x'"),
                           ({"instruction": "a", "output": 1}, "'output' is not a string"),
                           ({"messages": [user("a")], "tools": "{"}, "'tools' is a string, but not JSON")):
            with self.assertRaisesRegex(render_chat.RenderError, words):
                render_chat.conversation_of(row)
        for line in (b"{", b"[1]", b"\xff"):
            with self.assertRaisesRegex(render_chat.RenderError, "^F:1: "):
                render_chat.row_of("F:1", line)


class Script(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="moesaic-e2e-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name).resolve()

    def run_script(self, rows, *arguments):
        write_lines(self.folder / "in.jsonl", rows)
        return subprocess.run([sys.executable, SCRIPT, "in.jsonl", "-o", "out.jsonl", "--tokenizer", CHAT,
                               *map(str, arguments)], cwd=self.folder, capture_output=True, text=True, check=False)

    def out(self):
        with open(self.folder / "out.jsonl", encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def template(self, name):
        """The golden's template: without generation blocks, but for generation.jinja."""
        text = (CHAT / f"{name}.jinja").read_text(encoding="utf-8")
        (self.folder / "template.jinja").write_text(text if name == "generation" else TAG.sub("", text), encoding="utf-8")
        return ["--template", "template.jinja", "--turns", "last" if name == "think" else "all"]

    @unittest.skipIf(HAS_TRANSFORMERS, "transformers is there")
    def test_without_transformers(self):
        done = self.run_script([{"messages": [user("a"), answer("b")]}])
        self.assertEqual(done.returncode, 69, done.stderr)
        self.assertIn("cannot load transformers", done.stderr)
        self.assertFalse((self.folder / "out.jsonl").exists())

    def test_usage(self):
        for arguments, code, words in ((["--prompts", "--ids"], 64, "--prompts writes text"),
                                       (["--tokenizer", "none"], 66, "no such folder")):
            done = self.run_script([], *arguments)
            self.assertEqual(done.returncode, code, done.stderr)
            self.assertIn(words, done.stderr)

    @unittest.skipUnless(HAS_TRANSFORMERS, "needs transformers")
    def test_golden(self):
        rows = expected()
        for name in sorted({row["template"] for row in rows}):
            mine = [row for row in rows if row["template"] == name]
            asked = [{key: row[key] for key in ("messages", "tools") if key in row} for row in mine]
            write_lines(self.folder / "in.jsonl", asked)
            self.template(name)
            options = argparse.Namespace(
                inputs=[self.folder / "in.jsonl"], tokenizer=CHAT, out=self.folder / "out.jsonl", ids=False,
                turns="last" if name == "think" else "all", prompts=False, on_error="stop",
                template=self.folder / "template.jinja")
            render_chat.render_all(options)
            self.assertEqual(self.out(), [{key: row[key] for key in ("text", "spans")} for row in mine])
            options.ids = True
            render_chat.render_all(options)
            for row, line in zip(mine, self.out(), strict=True):
                self.assertEqual(line["input_ids"], row["ids"])
                self.assertEqual("".join("0" if label < 0 else "1" for label in line["labels"]), row["mask"])

    @unittest.skipUnless(HAS_TRANSFORMERS, "needs transformers")
    def test_prompts_and_pairs(self):
        template = self.template("chatml")
        talk = [user("a"), answer("b"), user("c"), answer("d")]
        self.assertEqual(self.run_script([{"messages": talk, "id": "x", "weight": 2}], "--prompts", *template).returncode, 0)
        self.assertEqual(self.out(), [{"prompt": "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
                                                 "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n",
                                       "id": "x", "weight": 2}])
        if importlib.util.find_spec("pyarrow"):  # tables have every field in every row
            import pyarrow.parquet  # pylint: disable=import-outside-toplevel
            rows = [{"messages": talk[:2], "id": "p"}, {"messages": [{**talk[0], "name": "n"}, talk[1]], "id": None}]
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), self.folder / "in.parquet")
            done = subprocess.run([sys.executable, SCRIPT, "in.parquet", "-o", "out.jsonl", "--tokenizer", CHAT,
                                   *template], cwd=self.folder, capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            text = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
            self.assertEqual(self.out(), [{"text": text, "spans": [[51, 62]], "id": "p"}, {"text": text, "spans": [[51, 62]]}])
        pairs = [{"prompt": "a", "completion": " b"}, {"prompt": "a", "completion": "b<|im_end|>", "group": 1},
                 {"prompt": talk[:3], "completion": talk[3:]}]
        self.assertEqual(self.run_script(pairs, *template).returncode, 0)
        lines = self.out()
        self.assertEqual(lines[0], {"text": "a b<|im_end|>", "spans": [[1, 13]]})
        self.assertEqual(lines[1], {"text": "ab<|im_end|>", "spans": [[1, 12]], "group": 1})
        self.assertEqual([lines[2]["text"][begin:end] for begin, end in lines[2]["spans"]], ["d<|im_end|>"])

    @unittest.skipUnless(HAS_TRANSFORMERS, "needs transformers")
    def test_errors(self):
        bad = [{"messages": [user("a"), answer("b")]}, {"messages": [user("a"), user("b")]}]
        done = self.run_script(bad, *self.template("inst"))
        self.assertEqual(done.returncode, 65, done.stderr)
        self.assertIn("in.jsonl:2: the template refuses 2 messages: roles must alternate", done.stderr)
        self.assertFalse((self.folder / "out.jsonl").exists())
        done = self.run_script(bad, "--on-error", "skip", *self.template("inst"))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("1 rows skipped; the first is in.jsonl:2: ", done.stderr)
        self.assertEqual(len(self.out()), 1)
        thinks = [{"messages": [user("a"), answer("<think>x</think>b"), user("c"), answer("d")]}]
        done = self.run_script(thinks, *self.template("think")[:2])
        self.assertEqual(done.returncode, 65, done.stderr)
        self.assertIn("in.jsonl:1: turn 1: ", done.stderr)
        done = self.run_script(thinks, *self.template("think"))
        self.assertIn("1 conversations lack a part of what the assistant says", done.stderr)
        done = self.run_script(thinks)
        self.assertEqual(done.returncode, 65, done.stderr)
        self.assertIn("no chat template", done.stderr)


if __name__ == "__main__":
    unittest.main()
