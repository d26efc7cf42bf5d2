#!/usr/bin/env python3
"""Makes of conversations what `moesaic tokenize` takes: text that the tokenizer's own chat template
rendered, and which characters of it are targets (what the assistant says, with the token that ends
its turn).

usage: render_chat.py INPUT... --tokenizer FOLDER -o OUT.jsonl [options]
INPUT: .jsonl or .parquet (with pyarrow), or a folder of such files. A row has one of these:
  messages                    a list of {role, content, tool_calls, reasoning_content}
  conversations               a list of {from, value}, as ShareGPT
  instruction, input, output  as Alpaca; the input follows the instruction on a line of its own
  prompt, completion          two lists of messages; or two strings: they are joined without a template,
                              and eos of the tokenizer ends them
Beside them: tools, chat_template_kwargs, and id, task, group, weight, which are passed on.

A line of OUT.jsonl is {"text", "spans": [[begin, end], ...]} in characters, with --ids {"input_ids",
"labels"}, with --prompts {"prompt"}. This script needs transformers; moesaic does not. Memory does not
grow with the input.
"""
import argparse
import json
import os
import re
import sys
from pathlib import Path

from chat_rows import Conversation, RenderError, conversation_of, inputs_of, row_of, rows_of  # noqa: F401
from needs import need

PASSED_ON = ("id", "task", "group", "weight")
GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


# ---- targets

def end_of_turn(text, begin, end, specials):
    """Where a turn ends in its text: behind its last special token, if but white space follows; and
    whether there is one."""
    kept = len(text[begin:end].rstrip())
    if any(text[begin:begin + kept].endswith(token) for token in specials):
        return begin + kept, True
    return end, False


def joined(spans):
    """Without empty ones; those that touch become one."""
    result = []
    for begin, end in spans:
        if begin >= end:
            continue
        if result and result[-1][1] == begin:
            result[-1][1] = end
        else:
            result.append([begin, end])
    return result


def spans_by_prefix(render, conversation, turns, specials):
    """The text, its spans, and how many of them have no end token. render(messages, prompt) gives the
    text of a part of the conversation; prompt: with the header of an answer. A turn is what its
    message adds to the messages and the header before it."""
    messages = conversation.messages
    whole = render(messages, False)
    targets = [i for i, message in enumerate(messages)
               if message["role"] == "assistant" and i >= conversation.first_target]
    spans, unended = [], 0
    for turn in targets[-1:] if turns == "last" else targets:
        before = render(messages[:turn], True)
        after = whole if turn + 1 == len(messages) else render(messages[:turn + 1], False)
        end, ended = end_of_turn(after, len(before), len(after), specials)
        if not after.startswith(before):
            raise RenderError(65, f"turn {turn}: the template writes its header in another way before an answer "
                                  "than in it, so that nobody can say where the answer begins: give --template, "
                                  "with generation blocks")
        if not whole.startswith(after[:end]):
            raise RenderError(65, f"turn {turn}: the template writes it in another way once turns follow (it may "
                                  "take reasoning away): use --turns last, or --template with generation blocks")
        spans.append([len(before), end])
        unended += not ended
    return whole, joined(spans), unended


def spans_by_generation(text, spans, turns, first, specials):
    """The same from the generation blocks of a template, those from character `first` on."""
    spans = joined(span for span in spans if span[0] >= first)
    if turns == "last":
        spans = spans[-1:]
    return text, spans, sum(not end_of_turn(text, begin, end, specials)[1] for begin, end in spans)


def texts_of(message):
    """What an assistant says, in lines."""
    content = message.get("content") or ""
    parts = [content] if isinstance(content, str) else [part.get("text") or "" for part in content]
    parts.append(message.get("reasoning_content") or "")
    return [line.strip() for part in parts for line in part.splitlines() if line.strip()]


def lacks_content(text, messages):
    return any(line not in text for message in messages if message["role"] == "assistant"
               for line in texts_of(message))


# ---- the tokenizer and its template

class Template:
    def __init__(self, folder, file):
        if not Path(folder).is_dir():
            raise RenderError(66, f"--tokenizer: no such folder: {Path(folder).resolve()}")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ["HF_HUB_OFFLINE"] = "1"
        need("transformers", "jinja2")
        import jinja2  # pylint: disable=import-outside-toplevel
        import transformers  # pylint: disable=import-outside-toplevel
        try:
            from transformers.utils.chat_template_utils import (  # pylint: disable=import-outside-toplevel
                render_jinja_template)
        except ImportError as error:
            raise RenderError(69, f"transformers {transformers.__version__} is too old for this script (it has no "
                                  "render_jinja_template): update it") from error
        self.draw, self.refusals = render_jinja_template, (jinja2.TemplateError, TypeError, ValueError, KeyError)
        try:
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        except Exception as error:  # whatever a file of it makes of it
            raise RenderError(65, f"{Path(folder).resolve()}: transformers reads no tokenizer from it: "
                                  f"{str(error).splitlines()[0]}") from error
        self.given = Path(file).read_text(encoding="utf-8") if file else None
        tokens = self.tokenizer.added_tokens_decoder.values()
        self.specials = tuple({*self.tokenizer.all_special_tokens,
                               *(token.content for token in tokens if token.special)})

    def of(self, tools):
        try:
            return self.given or self.tokenizer.get_chat_template(None, tools)
        except ValueError as error:
            raise RenderError(65, f"the tokenizer has no chat template: give --template FILE ({error})") from error

    def render(self, conversation, messages, prompt=False, masks=False):
        """The text, and with masks the spans of its generation blocks."""
        try:
            texts, spans = self.draw(
                conversations=[messages], tools=conversation.tools, chat_template=self.of(conversation.tools),
                return_assistant_tokens_mask=masks, add_generation_prompt=prompt,
                **{**self.tokenizer.special_tokens_map, **conversation.arguments})
        except self.refusals as error:
            raise RenderError(65, f"the template refuses {len(messages)} messages: {error}") from error
        return (texts[0], spans[0]) if masks else texts[0]

    def targets(self, conversation, turns):
        def draw(messages, prompt):
            return self.render(conversation, messages, prompt)

        if not GENERATION.search(self.of(conversation.tools)):
            return spans_by_prefix(draw, conversation, turns, self.specials)
        text, spans = self.render(conversation, conversation.messages, masks=True)
        first = 0
        if conversation.first_target:
            before = draw(conversation.messages[:conversation.first_target], False)
            if not text.startswith(before):
                raise RenderError(65, "the template writes the prompt in another way once the completion follows")
            first = len(before)
        return spans_by_generation(text, spans, turns, first, self.specials)

    def with_eos(self, prompt, completion):
        eos = self.tokenizer.eos_token or ""
        if not completion:
            raise RenderError(65, "its completion is empty")
        text = prompt + completion + ("" if completion.endswith(eos) else eos)
        return text, [[len(prompt), len(text)]], 0 if eos else 1

    def ids(self, text, spans):
        if not self.tokenizer.is_fast:
            raise RenderError(65, "--ids needs a tokenizer.json")
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return {"input_ids": found["input_ids"],
                "labels": [token if any(a < end and b > begin for begin, end in spans) else -100
                           for token, (a, b) in zip(found["input_ids"], found["offset_mapping"])]}


# ---- the whole

class Report:
    """How often something happened, and where first."""

    def __init__(self):
        self.counts = {}

    def note(self, what, where):
        count, first = self.counts.get(what, (0, where))
        self.counts[what] = (count + 1, first)

    def show(self):
        for what, (count, first) in self.counts.items():
            print(f"render_chat.py: {count} {what}; the first is {first}", file=sys.stderr)


def rendered(template, row, where, options, report):
    found = conversation_of(row)
    if isinstance(found, tuple):
        if options.prompts:
            return {"prompt": found[0]}
        text, spans, unended = template.with_eos(*found)
    elif options.prompts:
        last = found.last_user_turn()
        if last < 0:
            raise RenderError(65, "it has no turn of a user to answer")
        return {"prompt": template.render(found, found.messages[:last + 1], prompt=True)}
    else:
        text, spans, unended = template.targets(found, options.turns)
        if lacks_content(text, found.messages):
            report.note("conversations lack a part of what the assistant says: the template leaves it out", where)
    if unended:
        report.note("documents have a turn whose end token is not a target: the model may not learn to stop", where)
    if not spans:
        report.note("documents have no target", where)
    return template.ids(text, spans) if options.ids else {"text": text, "spans": spans}


def line_of(result):
    line = json.dumps(result, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        line = json.dumps(result)
    return line


def render_all(options):
    if options.prompts and options.ids:
        raise RenderError(64, "--prompts writes text: leave --ids out")
    files = inputs_of(options.inputs)
    template = Template(options.tokenizer, options.template)
    report, written = Report(), 0
    partial = options.out.with_name(options.out.name + ".partial")
    try:
        with open(partial, "w", encoding="utf-8") as out:
            for path in files:
                for where, line in rows_of(path):
                    try:
                        row = row_of(where, line)
                        result = rendered(template, row, where, options, report)
                    except RenderError as error:
                        told = str(error) if str(error).startswith(where) else f"{where}: {error}"
                        if options.on_error == "stop" or error.code != 65:
                            raise RenderError(error.code, told) from error
                        report.note("rows skipped", told)
                        continue
                    result.update((key, row[key]) for key in PASSED_ON if row.get(key) is not None)
                    out.write(line_of(result) + "\n")
                    written += 1
            out.flush()
            os.fsync(out.fileno())
        if not written:
            raise RenderError(65, "no row could be rendered")
        partial.rename(options.out)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    finally:
        report.show()
    print(f"{options.out}: {written} documents\n"
          f"Next: moesaic tokenize --tokenize.tokenizer {options.tokenizer} --tokenize.input {options.out} ...")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="INPUT")
    parser.add_argument("--tokenizer", required=True, metavar="FOLDER", help="a folder of Hugging Face")
    parser.add_argument("-o", dest="out", required=True, type=Path, metavar="OUT.jsonl")
    parser.add_argument("--ids", action="store_true", help="write token ids and labels, not text")
    parser.add_argument("--turns", choices=("all", "last"), default="all",
                        help="which turns of the assistant are targets (default all)")
    parser.add_argument("--prompts", action="store_true",
                        help="write conversations up to the last turn of the user, for generate")
    parser.add_argument("--template", metavar="FILE", help="a chat template in place of the tokenizer's")
    parser.add_argument("--on-error", choices=("stop", "skip"), default="stop",
                        help="what to do at a row that is wrong (default stop)")
    options = parser.parse_args()
    try:
        render_all(options)
    except RenderError as error:
        print(f"render_chat.py: {error}", file=sys.stderr)
        sys.exit(error.code)
    except (FileNotFoundError, PermissionError) as error:
        print(f"render_chat.py: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(66)
    except OSError as error:
        print(f"render_chat.py: a write or read failed: {error}", file=sys.stderr)
        sys.exit(74)


if __name__ == "__main__":
    main()
