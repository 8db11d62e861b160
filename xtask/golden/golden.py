"""Writes small random models with reference outputs computed in float64 by torch and transformers.

    python golden.py OUT_DIR [--only NAME] [--seed N] [--sizes odd|other]

Each case becomes a directory OUT_DIR/NAME:

    config.json, generation_config.json   as transformers 5 saves them
    config.v4.json                        the same configuration as transformers 4 wrote it
    model.safetensors                     the parameters, in the dtype of the case (or several shards)
    case.json                             family, prompt, greedy continuation, tensors of no use
    expected.safetensors                  logits, hidden states and attention weights, all float64
    training.json, gradients              of some: a loss, its gradients, and losses of AdamW (training.py)

The reference takes the stored (rounded) parameters exactly and computes in float64 throughout;
precision.py enforces it. The script fails if a tensor or option could be ignored unnoticed, if the
directory does not load back to the same outputs, or if a second run would write other bytes.
The case `attention-is-all-you-need` (paper.py) has a config.toml, Consort's own form, instead of a config.json; the case
`gguf-blocks` (quantised.py) is a GGUF file.
requirements.txt has the versions; no network and no accelerator is used. The exit status is 3 when there is no case of
the name asked for.
"""

import argparse
import copy
import filecmp
import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.utils._pytree import tree_map

sys.dont_write_bytecode = True  # leaves no caches beside the sources

import checks
import families
import paper
import quantised
import reference
import training
from precision import F32, F64, OnlyFloat64

# Draws are repeated until greedy decoding is a discriminating and robust test.
MARGIN = 1e-2
DISTINCT = 5
DRAWS = 400
NO_SUCH_CASE = 3  # exit status


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def draw_tokens(vocabulary, length, avoid, *key):
    allowed = [token for token in range(vocabulary) if token not in avoid]
    picks = torch.randint(len(allowed), (length,), generator=reference.generator(*key))
    return [allowed[i] for i in picks.tolist()]


def draw_prompts(case, config, sizes, seed):
    special = {getattr(config, f"{kind}_token_id", None) for kind in ("pad", "eos", "bos")}
    tokens = draw_tokens(config.vocab_size, sizes.prompt, special, seed, case.name, "tokens")
    if not config.is_encoder_decoder:
        return tokens, None
    vocabulary = getattr(config, "decoder_vocab_size", None) or config.vocab_size
    rest = draw_tokens(vocabulary, sizes.decoder_prompt - 1, special, seed, case.name, "decoder")
    return tokens, [config.decoder_start_token_id, *rest]


def draw_model(case, tokens, decoder_tokens, seed):
    """A model whose greedy continuation is varied and clear of ties, with that continuation."""
    model = reference.build(case)
    for attempt in range(DRAWS):
        reference.draw(case, model, seed, case.name, attempt)
        if not model.can_generate():
            return model, []
        chosen, margin, rows = reference.greedy(model, tokens, decoder_tokens)
        if margin < MARGIN or len(set(chosen)) < DISTINCT:
            continue
        if checks.cache_agrees(case, model, tokens, decoder_tokens, chosen, rows):
            return model, chosen
    checks.fail(case, f"no draw out of {DRAWS} has a clear and varied greedy continuation")


def save(case, model, directory):
    """Saves the model in the dtype of the case, and edits the file's names where the case says so.

    Returns the names in the file that no computation needs.
    """
    # Every stored value is representable in the dtype of the case, so this loses nothing.
    narrow = copy.deepcopy(model).to(case.dtype)
    options = {}
    if case.shards > 1:
        # One tensor never splits, so a size a little above an equal share gives the wanted count.
        total = sum(t.numel() * t.element_size() for t in reference.stored(narrow).values())
        options["max_shard_size"] = int(total / case.shards * 1.2)
    narrow.save_pretrained(directory, **options)
    if case.shards > 1:
        if len(list(directory.glob("model-*.safetensors"))) != case.shards:
            checks.fail(case, f"expected {case.shards} shards")
        return []
    file = directory / "model.safetensors"
    tensors = load_file(file)
    expected = {case.saved_names.get(name, name) for name in reference.stored(model)}
    if tensors.keys() != expected:
        difference = tensors.keys() ^ expected
        checks.fail(case, f"the file and the model disagree on {sorted(difference)}")
    unused = sorted(name for name in tensors if name.startswith("pooler."))
    if case.strip_prefix or case.causal_masks:
        tensors = {name.removeprefix(case.strip_prefix): value for name, value in tensors.items()}
        if case.causal_masks:
            positions = model.config.n_positions
            mask = torch.ones(positions, positions).tril()[None, None].to(F32)
            for i in range(model.config.n_layer):
                tensors[f"h.{i}.attn.bias"] = mask.clone()
                unused.append(f"h.{i}.attn.bias")
        save_file(tensors, file, metadata={"format": "pt"})
    return unused


def make(case, sizes, seed, directory, thorough):
    """Writes one case; with `thorough`, also runs the checks and returns a line about them."""
    directory.mkdir(parents=True, exist_ok=True)
    config = reference.configuration(case)
    tokens, decoder_tokens = draw_prompts(case, config, sizes, seed)
    model, chosen = draw_model(case, tokens, decoder_tokens, seed)
    result, after = reference.evaluate(model, tokens, decoder_tokens)

    unused = save(case, model, directory)
    description = {"family": case.family, "tokens": tokens}
    if decoder_tokens is not None:
        description["decoder_tokens"] = decoder_tokens
    write_json(directory / "case.json", description | {"greedy": chosen, "unused": unused})
    if case.v4 is not None:
        written = json.loads((directory / "config.json").read_text())
        write_json(directory / "config.v4.json", families.transformers_4_style(case, written))
    save_file(result, directory / "expected.safetensors")
    losses = None
    if case.name in training.SMOOTHING:
        special = {getattr(config, f"{kind}_token_id", None) for kind in ("pad", "eos", "bos")}

        def draw(vocabulary, length, key):
            return draw_tokens(vocabulary, length, special, seed, case.name, "training", key)

        losses = training.of_transformers(case, model, draw, directory, thorough)

    if not thorough:
        return None
    checks.tables_are_exact(case, after, tokens)
    if "rope_parameters" in case.config:
        checks.the_guard_works(case, model, tokens)
    checks.float32_agrees(case, model, result, tokens, decoder_tokens)
    checks.reload_agrees(case, directory, result, tokens, decoder_tokens)
    sd, peak = checks.spread(case, result)
    tensor = checks.every_tensor_matters(case, model, result, tokens, decoder_tokens, unused)
    option = checks.every_option_matters(case, model, result, tokens, decoder_tokens)
    return report(sd, peak, tensor, option, losses=losses)


def report(sd, peak, tensor, option=None, losses=None):
    least = f"least movement: tensor {tensor:.1e}" + ("" if option is None else f", option {option:.1e}")
    trained = "" if losses is None else f", loss {losses[0]:.2f} to {losses[1]:.2f}"
    return f"spread {sd:.2f}, attention above uniform {peak:.2f}, {least}{trained}"


def make_paper(sizes_name, sizes, seed, directory, thorough):
    """Writes the case that follows the paper."""
    directory.mkdir(parents=True, exist_ok=True)
    shape = paper.SHAPES[sizes_name]
    case = argparse.Namespace(name=paper.NAME)
    tokens = draw_tokens(sizes.vocabulary, sizes.prompt, {0}, seed, paper.NAME, "tokens")
    decoder_tokens = draw_tokens(sizes.vocabulary, sizes.decoder_prompt, {0}, seed, paper.NAME, "decoder")
    for attempt in range(DRAWS):
        weights = {}
        for name, size in paper.shapes(shape, sizes.vocabulary).items():
            mean, sd = paper.distribution(name, size)
            generator = reference.generator(seed, paper.NAME, attempt, name)
            weights[name] = (mean + sd * torch.randn(size, generator=generator, dtype=F64)).to(F32)
        exact = tree_map(lambda tensor: tensor.to(F64), weights)
        chosen, margins = [], []
        for _ in range(reference.NEW_TOKENS):
            row = paper.evaluate(shape, exact, tokens, decoder_tokens + chosen)["logits"][-1]
            margins.append(reference.margin(row))
            chosen.append(int(row.argmax()))
        if min(margins) >= MARGIN and len(set(chosen)) >= DISTINCT:
            break
    else:
        checks.fail(case, f"no draw out of {DRAWS} has a clear and varied greedy continuation")
    with OnlyFloat64():
        result = paper.evaluate(shape, exact, tokens, decoder_tokens)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    save_file(result, directory / "expected.safetensors")
    (directory / "config.toml").write_text(paper.config_toml(shape, sizes.vocabulary))
    write_json(
        directory / "case.json",
        {"family": paper.NAME, "tokens": tokens, "decoder_tokens": decoder_tokens, "greedy": chosen, "unused": []},
    )

    def draw(vocabulary, length, key):
        return draw_tokens(vocabulary, length, {0}, seed, paper.NAME, "training", key)

    losses = training.of_paper(shape, exact, sizes.vocabulary, draw, directory, thorough)
    if not thorough:
        return None
    paper.check(shape, exact, result)
    sd, peak = checks.spread(case, result)
    least = float("inf")
    for name, value in exact.items():
        noise = torch.randn(value.shape, generator=reference.generator("perturb", name), dtype=F64)
        perturbed = paper.evaluate(shape, exact | {name: value + 0.05 * noise}, tokens, decoder_tokens)
        move = checks.moved(result["logits"], perturbed["logits"])
        if name.endswith(".key.bias"):
            if move > checks.ROUNDING:
                checks.fail(case, f"{name} should have no effect, but moved the result by {move:g}")
        elif move < checks.SEEN:
            checks.fail(case, f"{name} has no effect ({move:g})")
        else:
            least = min(least, move)
    return report(sd, peak, least, losses=losses)


def make_quantised(sizes, seed, directory, thorough):
    found = quantised.make(sizes, draw_tokens, seed, directory, thorough, MARGIN, DISTINCT, DRAWS)
    return report(*found) if thorough else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    parser.add_argument("--only", metavar="NAME", help="write this case alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sizes", choices=families.SIZES, default="odd")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    sizes = families.SIZES[arguments.sizes]
    makers = {
        case.name: lambda directory, thorough, case=case: make(case, sizes, arguments.seed, directory, thorough)
        for case in families.cases(sizes)
    }
    makers[paper.NAME] = lambda directory, thorough: make_paper(
        arguments.sizes, sizes, arguments.seed, directory, thorough
    )
    makers[quantised.NAME] = lambda directory, thorough: make_quantised(sizes, arguments.seed, directory, thorough)
    if arguments.only is not None and arguments.only not in makers:
        print(f"no golden model is called '{arguments.only}'; there are {', '.join(makers)}", file=sys.stderr)
        sys.exit(NO_SUCH_CASE)

    total = 0
    for name, maker in makers.items():
        if arguments.only not in (None, name):
            continue
        directory = arguments.out / name
        line = maker(directory, True)
        with tempfile.TemporaryDirectory() as again:
            again = Path(again)
            maker(again, False)
            files = sorted(str(file.relative_to(again)) for file in again.rglob("*") if file.is_file())
            _, different, missing = filecmp.cmpfiles(directory, again, files, shallow=False)
            if different or missing:
                sys.exit(f"{name}: a second run gave other files: {different + missing}")
            size = sum((directory / file).stat().st_size for file in files)
        total += size
        print(f"{name:26} {size / 1000:6.1f} kB  {line}", flush=True)
    print(f"{'total':26} {total / 1000:6.1f} kB")


if __name__ == "__main__":
    main()
