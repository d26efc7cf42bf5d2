"""The rows of conversations that render_chat.py reads: of JSONL and Parquet, and in each of the forms that it
knows."""
import json
from pathlib import Path

from needs import need

ROWS = 256  # rows of a table that are read at once
SUFFIXES = (".jsonl", ".ndjson", ".parquet")
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant",
         "chatgpt": "assistant", "system": "system", "tool": "tool", "observation": "tool"}


class RenderError(RuntimeError):
    """What went wrong, and the exit code that says of what kind it is."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


# ---- rows: (where it stands, its fields)

def inputs_of(paths):
    files = []
    for path in map(Path, paths):
        if path.is_dir():
            below = sorted(each for each in path.rglob("*") if each.suffix in SUFFIXES)
            if not below:
                raise RenderError(66, f"{path.resolve()} has no file that ends in {', '.join(SUFFIXES)}")
            files += below
        elif not path.exists():
            raise RenderError(66, f"no such file: {path.resolve()}")
        elif path.suffix not in SUFFIXES:
            raise RenderError(65, f"{path.resolve()}: its name does not end in {', '.join(SUFFIXES)}")
        else:
            files.append(path)
    return files


def lines_of(path):
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{path}:{number}", line


def row_of(where, line):
    if isinstance(line, dict):
        return line
    try:
        row = json.loads(line)
    except ValueError as error:
        raise RenderError(65, f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise RenderError(65, f"{where}: the line is not a JSON object")
    return row


def table_rows(path):
    need("pyarrow")
    import pyarrow  # pylint: disable=import-outside-toplevel
    import pyarrow.parquet  # pylint: disable=import-outside-toplevel
    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(ROWS):
            for row in batch.to_pylist():
                yield f"{path}: row {number}", row
                number += 1
    except pyarrow.ArrowException as error:
        raise RenderError(65, f"{path.resolve()}: not a sound Parquet file: {error}") from error


def rows_of(path):
    return table_rows(path) if path.suffix == ".parquet" else lines_of(path)


# ---- what a row says

class Conversation:
    """messages, of which those from `first_target` on may be targets; tools and other arguments of the
    template."""

    def __init__(self, messages, first_target=0, tools=None, arguments=None):
        self.messages, self.first_target = messages, first_target
        self.tools, self.arguments = tools, arguments or {}

    def last_user_turn(self):
        return max((i for i, message in enumerate(self.messages) if message["role"] == "user"), default=-1)


def without_nulls(value):
    """Tables have every field in every row; a template asks whether one is there."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def checked_messages(messages, name):
    if not isinstance(messages, list) or not messages:
        raise RenderError(65, f"'{name}' is not a list of messages")
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise RenderError(65, f"message {number} of '{name}' has no role")
    return messages


def sharegpt(turns):
    if not isinstance(turns, list):
        raise RenderError(65, "'conversations' is not a list")
    messages = []
    for number, turn in enumerate(turns):
        if isinstance(turn, dict) and "role" in turn:
            messages.append(turn)
            continue
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise RenderError(65, f"message {number} of 'conversations' has no from and value")
        if turn.get("from") not in ROLES:
            raise RenderError(65, f"message {number} of 'conversations' is from '{turn.get('from')}'; known "
                                  f"are {', '.join(ROLES)}")
        messages.append({"role": ROLES[turn["from"]], "content": turn["value"]})
    return checked_messages(messages, "conversations")


def alpaca(row):
    for field in ("instruction", "output"):
        if not isinstance(row.get(field), str):
            raise RenderError(65, f"its field '{field}' is not a string")
    messages = []
    for question, answer in row.get("history") or []:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages + [{"role": "user", "content": "\n".join(filter(None, (row["instruction"], row.get("input"))))},
                       {"role": "assistant", "content": row["output"]}]


def parsed(value, name):
    """Some files have lists and objects as JSON in a string."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError as error:
            raise RenderError(65, f"its field '{name}' is a string, but not JSON: {error}") from error
    return value


def conversation_of(row):
    """A Conversation, or the two strings (prompt, completion)."""
    row = without_nulls(row)
    tools, arguments = (parsed(row.get(name), name) for name in ("tools", "chat_template_kwargs"))
    first = 0
    if "messages" in row:
        messages = checked_messages(parsed(row["messages"], "messages"), "messages")
    elif "conversations" in row:
        messages = sharegpt(parsed(row["conversations"], "conversations"))
    elif "prompt" in row and "completion" in row:
        prompt, completion = row["prompt"], row["completion"]
        if isinstance(prompt, str) and isinstance(completion, str):
            return prompt, completion
        prompt = checked_messages(prompt, "prompt")
        messages, first = prompt + checked_messages(completion, "completion"), len(prompt)
    elif "instruction" in row:
        messages = alpaca(row)
    else:
        raise RenderError(65, "it has none of messages, conversations, prompt and completion, instruction; "
                              f"but {', '.join(row) or 'nothing'}")
    if isinstance(row.get("system"), str) and row["system"] and messages[0]["role"] != "system":
        messages, first = [{"role": "system", "content": row["system"]}, *messages], first + bool(first)
    return Conversation(messages, first, tools or None, arguments)
