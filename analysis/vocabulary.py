"""The text of tokens: bytes, or the pieces of a SentencePiece model, read without its library."""
import json
from pathlib import Path

from traces import fail

BYTE, UNKNOWN, CONTROL = 6, 2, 3  # types of pieces


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def fields(data):
    """(number, value) of each field of a protocol buffer message; values as int or bytes."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = varint(data, at)
        else:
            size, at = varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            value, at = data[at:at + size], at + size
        yield key >> 3, value


def piece(message):
    """The bytes that a piece stands for."""
    parts = dict(fields(message))
    text, kind = parts.get(1, b"").decode("utf-8", "replace"), parts.get(3, 1)
    if kind == BYTE:
        return bytes([int(text[3:5], 16)])
    if kind in (UNKNOWN, CONTROL):
        return f"⟨{text.strip('<>')}⟩".encode()
    return text.replace("▁", " ").encode()


def manifest_of(path):
    path = Path(path)
    if path.is_dir():
        found = sorted(path.glob("*.json"))
        if len(found) != 1:
            fail(66, f"{path.resolve()} has {len(found)} manifests: name one")
        return found[0]
    if not path.is_file():
        fail(66, f"no such corpus: {path.resolve()}")
    return path


def pieces_of(corpus):
    """The bytes of each token of a corpus's vocabulary."""
    manifest = manifest_of(corpus)
    content = json.loads(manifest.read_text(encoding="utf-8"))
    name = content.get("tokenizer", "byte")
    if name == "byte":
        return [bytes([value]) for value in range(256)] + ["⟨eos⟩".encode(), "⟨bos⟩".encode()]
    try:
        model = (manifest.parent / Path(name).name).read_bytes()
        return [piece(value) for number, value in fields(model) if number == 1]
    except (OSError, KeyError, IndexError, ValueError) as error:
        fail(65, f"{manifest.parent / name} is no readable SentencePiece model: {error}")
