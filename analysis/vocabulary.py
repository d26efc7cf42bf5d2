"""The text of tokens: bytes, the pieces of a SentencePiece model or of a tokenizer.json, read
without their libraries."""
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


def byte_letters():
    """GPT-2's letter for each byte of a byte-level vocabulary: letter -> byte."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in own]
    return {**{chr(byte): byte for byte in own},
            **{chr(256 + i): byte for i, byte in enumerate(hidden)}}


def pieces_of_json(text):
    """The bytes of each token of a tokenizer.json; empty where an id has no token."""
    content = json.loads(text)
    vocab = content["model"]["vocab"]
    if isinstance(vocab, list):
        vocab = {token: number for number, (token, _) in enumerate(vocab)}
    added = {token["id"]: token for token in content.get("added_tokens") or []}
    pieces = [b""] * (max([*vocab.values(), *added]) + 1)
    letters = byte_letters() if "ByteLevel" in json.dumps(content["pre_tokenizer"]) else None
    for token, number in vocab.items():
        if letters and all(letter in letters for letter in token):
            pieces[number] = bytes(letters[letter] for letter in token)
        elif len(token) == 6 and token.startswith("<0x"):
            pieces[number] = bytes([int(token[3:5], 16)])
        else:
            pieces[number] = token.replace("▁", " ").encode()
    for number, token in added.items():
        mark = f"⟨{token['content'].strip('<>')}⟩" if token["special"] else token["content"]
        pieces[number] = mark.encode()
    return pieces


def manifest_of(path):
    path = Path(path)
    if path.is_dir():
        found = sorted(file for file in path.glob("*.json") if file.name != "tokenizer.json")
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
        if name.endswith(".json"):
            return pieces_of_json((manifest.parent / Path(name).name).read_text(encoding="utf-8"))
        model = (manifest.parent / Path(name).name).read_bytes()
        return [piece(value) for number, value in fields(model) if number == 1]
    except (OSError, KeyError, IndexError, ValueError) as error:
        fail(65, f"{manifest.parent / name} is no readable tokenizer: {error}")
