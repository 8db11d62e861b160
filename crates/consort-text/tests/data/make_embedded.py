"""Writes embedded.json: small tokenizers in GGUF's form, with ids by llama.cpp, for src/embedded/tests.rs.

    python make_embedded.py > embedded.json

Made with llama-cpp-python 0.3.36 (llama.cpp of August 2026) and gguf 0.19.0. One object a line, so that a change is readable.
"""

import json
import os
import sys
import tempfile

from gguf import GGUFWriter
from llama_cpp import Llama
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

# Trained without cutting words, so that merges cross every border that a pattern might draw.
TRAINING = [
    "it's 3.14, isn't it? I'LL say: 'twas 12345 and 678 (or 90)!\n\nfooBar HTTPServer x = y + z;\r\n\tif (a == b) {\n",
    "the cat  sat on   the mat.   \n \n 1 2 12 123 1234 12345 $5.00 <tag> a|b `c` ~d ^e _f_ #g @h i/j\n/k \\l 50% & more…",
    "é e\u0301 ß Ω ж漢字かなカナ한국어ไทย १२ ½ ² «x» “y” — 😀😀 don't DON'T we've WE'VE you're Q's\n",
] * 3
TEXTS = [
    "Hello, it's 3.14 isn't it?",
    "I'LL say 'twas 12345 (or 678)!",
    "fooBar HTTPServer\r\n\tif (a == b) {\n\n",
    "the  cat   sat \n \n on 1234567 mats.   ",
    "$5.00 <tag> a|b `c` ~d ^e _f_ #g @h i/j\n/k 50% & more",
    "漢字かなカナ한국어 ½ ² «x» — 😀😀",
    " \t\n  \r\n",
    "we've WE'VE don't",
]
# The first of each group that llama.cpp treats alike.
PRES = """gpt-2 llama-bpe smaug-bpe glm4 qwen2 qwen35 starcoder gpt-4o tekken deepseek-llm deepseek-coder deepseek-v3
spark2_5 falcon bloom viking jais-2 youtu tiny_aya bailingmoe seed-coder ufakzeka laguna exaone-moe minicpm5
granite-embed-multi-97m chameleon default""".split()


def embedded(**keys):
    """What llama.cpp is told, by the names of GGUF's keys."""
    return keys


def ids(keys, texts):
    path = tempfile.mktemp(suffix=".gguf")
    writer = GGUFWriter(path, "llama")
    for key, value in keys.items():
        add = {
            str: writer.add_string,
            bool: writer.add_bool,
            int: writer.add_uint32,
            list: writer.add_array,
        }[type(value)]
        add("tokenizer.ggml." + key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = Llama(path, vocab_only=True, verbose=False)
    found = [model.tokenize(text.encode(), add_bos=True, special=True) for text in texts]
    os.remove(path)
    return found


lines = []
trained = Tokenizer(models.BPE())
trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
trained.train_from_iterator(
    TRAINING,
    trainers.BpeTrainer(
        vocab_size=640, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, special_tokens=["<s>"]
    ),
)
vocabulary = trained.get_vocab()
byte_level = embedded(
    model="gpt2",
    tokens=sorted(vocabulary, key=vocabulary.get),
    token_type=[3] + [1] * (len(vocabulary) - 1),
    merges=[" ".join(pair) for pair in json.loads(trained.to_str())["model"]["merges"]],
    bos_token_id=0,
    eos_token_id=0,
)
lines.append({"byte_level": byte_level, "texts": TEXTS})
for pre in PRES:
    lines.append({"pre": pre, "ids": ids(byte_level | {"pre": pre}, TEXTS)})

pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
merged = "▁t he ▁the ▁a in on ▁c at ▁cat er ▁▁ ▁▁▁▁ aa aaa ab aba ba 漢字 ▁say s. .. ...".split()
pieces += [(piece, -float(rank), 1) for rank, piece in enumerate(merged)]
# Equal scores: the leftmost goes first.
pieces += [("xy", -50.0, 1), ("yx", -50.0, 1), ("yz", -50.0, 1)]
pieces += [(c, -1000.0 - rank, 1) for rank, c in enumerate("▁abcdehinorstxyz漢字.")]
pieces += [("<user>", 0.0, 4), ("[PAD304]", 0.0, 5)]
texts = ["the cat sat on the  mat...", " a aaaa abaaba ababa", "xyxyzyx", "漢字 é😀\n", "a<s> the</s>b<user> c", "    x", ""]
spm = embedded(
    model="llama",
    tokens=[piece for piece, _, _ in pieces],
    scores=[score for _, score, _ in pieces],
    token_type=[kind for _, _, kind in pieces],
    bos_token_id=1,
    eos_token_id=2,
)
for more in [{}, {"add_space_prefix": False, "add_eos_token": True}, {"add_bos_token": False}]:
    lines.append({"embedded": spm | more, "texts": texts, "ids": ids(spm | more, texts)})

bert = "[PAD] [UNK] [CLS] [SEP] [MASK] ▁play ing ▁un believ able ▁, ▁cafe ▁漢 s ▁a ▁! ▁' ▁s ▁[".split()
texts = ["Playing, unbelievable cafés!", "CAFÉ s 漢a playable", "[MASK] play's [x\u00a0a\u0301", "xyz a\u200bs"]
word_piece = embedded(
    model="bert",
    tokens=bert,
    token_type=[3] * 5 + [1] * (len(bert) - 5),
    bos_token_id=2,
    cls_token_id=2,
    seperator_token_id=3,
    unknown_token_id=1,
    padding_token_id=0,
    mask_token_id=4,
)
for more in [{}, {"normalizer.lowercase": False}, {"normalizer.strip_accents": False}]:
    lines.append({"embedded": word_piece | more, "texts": texts, "ids": ids(word_piece | more, texts)})

pieces = [("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2)]
pieces += [("▁", -3.0, 1), ("▁the", -2.5, 1), ("▁a", -3.5, 1), ("the", -6.0, 1), ("re", -4.0, 1), ("▁there", -7.0, 1)]
pieces += [(c, -8.0 - rank / 8, 1) for rank, c in enumerate("thersa.")] + [("<x>", 0.0, 4)]
texts = ["there", "  the  there a. ", "zzthe", "the<x> a", "tZherest", ""]
unigram = embedded(
    model="t5",
    tokens=[piece for piece, _, _ in pieces],
    scores=[score for _, score, _ in pieces],
    token_type=[kind for _, _, kind in pieces],
    eos_token_id=1,
    unknown_token_id=2,
    padding_token_id=0,
)
for more in [
    {"add_space_prefix": True, "remove_extra_whitespaces": True},
    {"add_space_prefix": False, "remove_extra_whitespaces": True},
    {"add_space_prefix": False, "add_eos_token": False},
]:
    lines.append({"embedded": unigram | more, "texts": texts, "ids": ids(unigram | more, texts)})

sys.stdout.write("[\n" + ",\n".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) for line in lines) + "\n]\n")
