"""Training goldens: gradients of a loss, and losses of AdamW, in float64.

Beside a golden `training.json` has two sequences of different lengths, their targets (null where none counts), the
settings of AdamW, and the loss before the first step and after each: mean cross-entropy over the targets. `gradients`
is a directory like the golden's own, with the gradient of the first loss under each tensor's name. Every tensor of the
golden's file is a parameter, tied ones once. Sequences are evaluated one by one, without padding or dropout.
"""

import copy
import json
import shutil

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import paper
import reference
from precision import F64, Float64, OnlyFloat64

# Smoothing of the labels, for each golden that has training files.
SMOOTHING = {
    "llama-tied-bias": 0.0, "qwen3": 0.0, "gemma2": 0.0, "gpt2": 0.0, "gpt-neox": 0.0, "bert": 0.0, "t5": 0.0,
    "bart": 0.0, paper.NAME: 0.1,
}  # fmt: skip
SOURCES = (10, 6)  # lengths
INPUTS = (12, 7)
IGNORED = -100
STEPS = 10
ADAMW = {"rate": 0.01, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1}


def batch(draw, kind, vocabulary, start=None):
    """Sources, inputs and targets for a "decoder", an "encoder" or "both".

    `draw(vocabulary, length, key)` gives tokens; `start` begins a decoder's inputs.
    """
    if kind == "encoder":
        inputs = [draw(vocabulary, length, f"inputs {length}") for length in INPUTS]
        targets = [draw(vocabulary, length, f"targets {length}") for length in INPUTS]
        for row in targets:
            row[1::3] = [None] * len(row[1::3])
        return [], inputs, targets
    sources = [draw(vocabulary, length, f"sources {length}") for length in SOURCES] if kind == "both" else []
    # The longer target is that of the shorter source.
    lengths = reversed(INPUTS) if sources else INPUTS
    rows = [draw(vocabulary, length + 1, f"targets {length}") for length in lengths]
    if start is not None:
        for row in rows:
            row[0] = start
    return sources, [row[:-1] for row in rows], [row[1:] for row in rows]


def loss(logits, targets, smoothing):
    """Mean cross-entropy over the targets that count."""
    known = torch.tensor([IGNORED if target is None else target for row in targets for target in row])
    return F.cross_entropy(torch.cat(logits), known, ignore_index=IGNORED, label_smoothing=smoothing)


def write(name, directory, parameters, evaluate, sequences, file_name, thorough):
    """Writes the training files; returns the first and last loss.

    The steps change `parameters` (by name); `evaluate(source, input)` gives logits; `file_name` gives a name in the
    golden's file.
    """
    sources, inputs, targets = sequences
    smoothing = SMOOTHING[name]

    def current():
        with Float64(), OnlyFloat64():
            logits = [evaluate(sources[i] if sources else None, row) for i, row in enumerate(inputs)]
            return loss(logits, targets, smoothing)

    for parameter in parameters.values():
        parameter.requires_grad_(True)
        parameter.grad = None
    with Float64(), OnlyFloat64():
        current().backward()
    gradients = {
        key: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for key, parameter in parameters.items()
    }
    if thorough:
        agrees_with_differences(name, parameters, gradients, current)

    optimizer = torch.optim.AdamW(
        list(parameters.values()), lr=ADAMW["rate"], betas=(ADAMW["beta1"], ADAMW["beta2"]), eps=ADAMW["epsilon"],
        weight_decay=ADAMW["weight_decay"], foreach=False, fused=False,
    )  # fmt: skip
    for parameter in parameters.values():  # a parameter without a gradient decays like the others
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=False)
        value = current()
        losses.append(value.item())
        value.backward()
        optimizer.step()
    with torch.no_grad():
        losses.append(float(current()))
    if not losses[-1] < min(losses[: STEPS // 2]) < losses[0]:
        raise SystemExit(f"{name}: the losses do not fall: {losses}")

    folder = directory / "gradients"
    folder.mkdir(exist_ok=True)
    for config in ("config.json", "config.toml"):
        if (directory / config).exists():
            shutil.copyfile(directory / config, folder / config)
    tensors = {file_name(key): gradient.detach().contiguous() for key, gradient in gradients.items()}
    own = load_file(directory / "model.safetensors")
    if {key: value.shape for key, value in own.items()} != {key: value.shape for key, value in tensors.items()}:
        raise SystemExit(f"{name}: the gradients are not those of the tensors in the file")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    entries = {
        "sources": sources, "inputs": inputs, "targets": targets, "smoothing": smoothing, "adamw": ADAMW,
        "losses": losses,
    }  # fmt: skip
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items()]
    (directory / "training.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return losses[0], losses[-1]


def agrees_with_differences(name, parameters, gradients, current):
    """Holds the gradients to central differences of the loss along random directions, all at once and one by one."""
    directions = {
        key: torch.randn(parameter.shape, generator=reference.generator("direction", name, key), dtype=F64)
        for key, parameter in parameters.items()
    }
    for keys in [list(parameters), *([key] for key in parameters)]:
        terms = [gradients[key] * directions[key] for key in keys]
        expected = float(sum(term.sum() for term in terms))
        size = float(sum(term.abs().sum() for term in terms))
        # A step may cross the kink of a relu; a shorter one hardly does.
        for h in (1e-5, 2e-6, 4e-7):
            slope, value = difference(parameters, directions, keys, h, current)
            # The last term is what rounding of the loss makes of such small steps.
            if abs(slope - expected) <= 1e-6 * size + 1e-14 * abs(value) / h:
                break
        else:
            what = "all" if len(keys) > 1 else keys[0]
            raise SystemExit(f"{name}: the gradient of {what} gives {expected:g}, differences {slope:g}")


def difference(parameters, directions, keys, h, current):
    """The slope of the loss along the directions of `keys`, and a loss."""
    saved = {key: parameters[key].detach().clone() for key in keys}
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            for key in keys:
                parameters[key].copy_(saved[key] + sign * h * directions[key])
            values.append(float(current()))
        for key in keys:
            parameters[key].copy_(saved[key])
    return (values[0] - values[1]) / (2 * h), values[0]


def of_transformers(case, model, draw, directory, thorough):
    """Training files of a model of transformers."""
    model = copy.deepcopy(model).eval()
    config = model.config
    # What a file holds is trained, buffers too.
    parameters = reference.stored(model)

    def evaluate(source, row):
        if source is None:
            return model(input_ids=reference.batch(row), use_cache=False).logits[0]
        tokens = {"input_ids": reference.batch(source), "decoder_input_ids": reference.batch(row)}
        return model(**tokens, use_cache=False).logits[0]

    kind = "both" if config.is_encoder_decoder else "encoder" if case.family == "bert" else "decoder"
    start = config.decoder_start_token_id if config.is_encoder_decoder else None
    sequences = batch(draw, kind, config.vocab_size, start)

    def file_name(key):
        return case.saved_names.get(key, key).removeprefix(case.strip_prefix)

    return write(case.name, directory, parameters, evaluate, sequences, file_name, thorough)


def of_paper(shape, weights, vocabulary, draw, directory, thorough):
    """Training files of the golden that follows the paper."""
    parameters = {key: value.clone() for key, value in weights.items()}
    sequences = batch(draw, "both", vocabulary)

    def evaluate(source, row):
        return paper.evaluate(shape, parameters, source, row)["logits"]

    return write(paper.NAME, directory, parameters, evaluate, sequences, lambda key: key, thorough)
