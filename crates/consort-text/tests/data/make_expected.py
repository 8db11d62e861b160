"""Writes expected.json: ids and texts by the Python packages `tokenizers` and `transformers`, for tests/real.rs.

    python make_expected.py SHARED_DATA > expected.json

Made with tokenizers 0.23.3 and transformers 5.23.0. One object a line, so that a change is readable.
"""

import json
import os
import random
import shutil
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"

from tokenizers import Tokenizer
from transformers import BertTokenizer, GPT2Tokenizer

TEXTS = [
    "",
    "Once upon a time",
    " leading and trailing  spaces ",
    "It's 3.14, isn't it?\n\n\tdo not 'm",
    "Hello, y'all! 😁 👩‍👩‍👧 🇩🇪",
    "你好，世界。漢字",
    "e\u0301 é ﬁ Ω → ẞ naïve",
    "नमस्ते مرحبا 한국어",
    "\u200b\u00a0zero\ufeff\x07bell",
    "<s> a</s> <|endoftext|> [MASK] <mask> <extra_id_0>",
    "unaffable ▁ ## Ġ <0x0A>",
    "C",
]

data = sys.argv[1]


def alone(source, *names):
    """A directory with only these files of `source`."""
    directory = tempfile.mkdtemp()
    for name in names:
        shutil.copyfile(os.path.join(data, source, name), os.path.join(directory, name))
    return directory


def from_json(source):
    tokenizer = Tokenizer.from_file(os.path.join(data, source, "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def backend(kind, directory, **options):
    return kind.from_pretrained(directory, **options).backend_tokenizer


TOKENIZERS = {
    "tinystories-656k": lambda: from_json("tinystories-656k"),
    "gpt2-smiles-0.2m": lambda: from_json("gpt2-smiles-0.2m"),
    "tokenizers/gpt2": lambda: from_json("tokenizers/gpt2"),
    "tokenizers/phi-3": lambda: from_json("tokenizers/phi-3"),
    "tokenizers/roberta-base": lambda: from_json("tokenizers/roberta-base"),
    "tokenizers/t5-small": lambda: from_json("tokenizers/t5-small"),
    "tokenizers/gpt2 vocab.json merges.txt": lambda: backend(
        GPT2Tokenizer, alone("tokenizers/gpt2", "vocab.json", "merges.txt")
    ),
    "tokenizers/bert-base-uncased": lambda: backend(
        BertTokenizer, alone("tokenizers/bert-base-uncased", "vocab.txt")
    ),
    "tokenizers/bert-base-cased do_lower_case=false": lambda: backend(
        BertTokenizer, alone("tokenizers/bert-base-cased", "vocab.txt"), do_lower_case=False
    ),
}


def decode(tokenizer, ids, skip):
    # Special ones are left out by id. `skip_special_tokens` of tokenizers 0.23 keeps those that the normalizer
    # changes: Tokenizer.decode([1, 80], skip_special_tokens=True) of tinystories-656k begins "<|start_story|>".
    added = tokenizer.get_added_tokens_decoder()
    ids = [id for id in ids if not (skip and id in added and added[id].special)]
    return tokenizer.decode(ids, skip_special_tokens=False)


def encode(tokenizer, text, special):
    try:
        return tokenizer.encode(text, add_special_tokens=special).ids
    except Exception:
        return None


lines = []
for name, make in TOKENIZERS.items():
    tokenizer = make()
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    lines.append({"tokenizer": name, "size": size})
    for text in TEXTS:
        ids = encode(tokenizer, text, True)
        case = {"tokenizer": name, "text": text, "ids": ids, "plain": encode(tokenizer, text, False)}
        if ids is not None:
            case["all"] = decode(tokenizer, ids, False)
            case["skipped"] = decode(tokenizer, ids, True)
        lines.append(case)
    generator = random.Random(0)
    for _ in range(3):
        ids = [generator.randrange(size) for _ in range(12)]
        lines.append({"tokenizer": name, "ids": ids, "all": decode(tokenizer, ids, False)})

print("[\n" + ",\n".join(json.dumps(line, separators=(",", ":")) for line in lines) + "\n]")
