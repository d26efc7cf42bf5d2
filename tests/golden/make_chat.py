"""Writes chat/: a small tokenizer, conversations, and what transformers makes of them with the templates there.

To write them again: a venv with `pip install transformers==5.24.0 tokenizers==0.23.3`, then run this file
with it. The templates (*.jinja) have generation blocks, by which transformers marks the tokens of the
assistant: `ids` and `mask` of expected.jsonl come from it alone. `text` and `spans` come from
analysis/render_chat.py, of the template without these blocks, but for generation.jinja.

marks.json: texts with spans, and for each tokenizer of tokenizers/ which tokens have a character of a span,
as the offsets of the package tokenizers say.
"""
import json
import pathlib
import random
import re
import subprocess
import sys
import tempfile

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

HERE = pathlib.Path(__file__).resolve().parent
CHAT = HERE / "chat"
RENDER = HERE.parents[1] / "analysis/render_chat.py"
TEMPLATES = ("chatml", "headers", "inst", "think", "generation", "tools")
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>",
           "<|end_header_id|>", "<|eot_id|>"]
MARKERS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]  # added, but not special
TAG = re.compile(r"\{%-\s*(end)?generation\s*-%\}")

QUESTIONS = ["How many experts does a token see?", "Was heißt „Router“ auf Französisch?", "2 + 2?", "你好吗？",
             "Γράψε μια λέξη.", "Write\ntwo\nlines.", "  spaces before and after  ", "🙂🙃?", "",
             "A token like <|im_end|> in the text?", "Say nothing."]
ANSWERS = ["It sees two of eight.", "« routeur », je crois.", "4", "我很好，谢谢！", "Λόγος.", "one\ntwo", " padded ",
           "👍🏽 👩‍👩‍👧 fine", "", "e\u0301 and é are two spellings.", "Tabs\tand\n\nblank lines.\n", "1234567890 ½ x²"]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds – two numbers.", "parameters": {
    "type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}}}}]


def conversations():
    """(template, row) in a fixed order; each template has some that only it can write."""
    choose = random.Random(11)

    def turns(count, think=False):
        messages = []
        for _ in range(count):
            answer = choose.choice(ANSWERS)
            if think and choose.random() < 0.7:
                answer = f"<think>\n{choose.choice(ANSWERS)}\n</think>\n\n{answer}"
            messages += [{"role": "user", "content": choose.choice(QUESTIONS)},
                         {"role": "assistant", "content": answer}]
        return messages

    for template in ("chatml", "headers", "inst", "think"):
        for number in range(8):
            messages = turns(1 + number % 4, template == "think")
            if number % 3 == 1:
                messages.insert(0, {"role": "system", "content": choose.choice(["Be brief.", "Réponds vite ✓", ""])})
            yield template, {"messages": messages}
    for number in range(8):
        messages = turns(1 + number % 3)
        for message in messages[1::2]:
            if choose.random() < 0.6:
                message["reasoning_content"] = choose.choice(ANSWERS[:6])
        yield "generation", {"messages": messages}
    for number in range(10):
        call = {"type": "function", "function": {"name": "add", "arguments": {"a": number, "b": 0.5}}}
        messages = [*turns(number % 2), {"role": "user", "content": f"{number} + 0.5?"},
                    {"role": "assistant", "content": "" if number % 3 else "I ask.",
                     "tool_calls": [call] * (1 + number % 2)},
                    {"role": "tool", "content": f"{number + 0.5}"}]
        messages += [{"role": "assistant", "content": f"It is {number + 0.5}."}] * (number % 4 != 3)
        if number % 5 == 0:
            messages.insert(0, {"role": "system", "content": "Use tools."})
        yield "tools", {"messages": messages, "tools": TOOLS}


def write_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=256 + 160, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                                  show_progress=False)
    tokenizer.train_from_iterator(QUESTIONS + ANSWERS + [json.dumps(TOOLS)] * 2, trainer)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in MARKERS])
    tokenizer.save(str(CHAT / "tokenizer.json"), pretty=False)
    (CHAT / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<|im_end|>"}) + "\n")


def last_run(mask):
    """The mask with its last run of ones alone."""
    end = max((i for i, each in enumerate(mask) if each), default=-1) + 1
    begin = end
    while begin and mask[begin - 1]:
        begin -= 1
    return [int(begin <= i < end) for i in range(len(mask))]


def write_expected():
    tokenizer = AutoTokenizer.from_pretrained(CHAT)
    rows = list(conversations())
    out = []
    for name in TEMPLATES:
        mine = [row for template, row in rows if template == name]
        marked = (CHAT / f"{name}.jinja").read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            template = folder / "template.jinja"
            template.write_text(marked if name == "generation" else TAG.sub("", marked), encoding="utf-8")
            (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mine))
            subprocess.run([sys.executable, RENDER, folder / "in.jsonl", "-o", folder / "out.jsonl", "--tokenizer", CHAT,
                            "--template", template, "--turns", "last" if name == "think" else "all"], check=True)
            rendered = [json.loads(line) for line in open(folder / "out.jsonl", encoding="utf-8")]
        for row, line in zip(mine, rendered, strict=True):
            found = tokenizer.apply_chat_template(row["messages"], tools=row.get("tools"), chat_template=marked,
                                                  return_assistant_tokens_mask=True, return_dict=True)
            text = tokenizer.apply_chat_template(row["messages"], tools=row.get("tools"), chat_template=marked,
                                                 tokenize=False)
            assert text == line["text"], (text, line["text"])
            mask = found["assistant_masks"]
            out.append({"template": name, **row, **line, "ids": found["input_ids"],
                        "mask": "".join(map(str, last_run(mask) if name == "think" else mask))})
    with open(CHAT / "expected.jsonl", "w", encoding="utf-8") as file:
        for line in out:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    print(len(out), "conversations")


TEXTS = ["[INST] Hello there [/INST] Hi! How are you?</s>[INST] ok [/INST] fine</s>",
         "<|im_start|>user\nWas ist 3*4?<|im_end|>\n<|im_start|>assistant\nDas ist  12 — naïve café 🦜🦜 done.<|im_end|>\n",
         "<|eot_id|>Γειά σου, 日本語   spaces\t\ttabs\n\n\n12345678<|eot_id|>", "e\u0301cole ﬁ ligature ½ ｆｕｌｌ",
         "  leading, trailing   ", "don't we'll I'M x_y_z foo.bar(baz)  \r\n\r\n end"]


def write_marks():
    choose = random.Random(5)
    rows = []
    for text in TEXTS:
        places = [at for at in range(len(text) + 1) if at == len(text) or text[at] != "\u0301"]
        for count in (2, 4, 6):
            cuts = sorted(choose.sample(places, count))
            rows.append({"text": text, "spans": [cuts[at:at + 2] for at in range(0, count, 2)]})
    masks = {}
    for path in sorted((HERE / "tokenizers").glob("*.json")):
        if path.name == "expected.json":
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        content["post_processor"] = None  # it may cut spaces off the offsets
        tokenizer = Tokenizer.from_str(json.dumps(content))
        masks[path.stem] = ["".join(str(int(any(a < end and b > begin for begin, end in row["spans"])))
                                    for a, b in tokenizer.encode(row["text"], add_special_tokens=False).offsets)
                            for row in rows]
    (CHAT / "marks.json").write_text(json.dumps({"rows": rows, "masks": masks}, ensure_ascii=False, indent=0) + "\n",
                                     encoding="utf-8")


if __name__ == "__main__":
    write_tokenizer()
    write_expected()
    write_marks()
