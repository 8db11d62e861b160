//! The tokenizer inside a GGUF file, between the crate that reads files and the one that makes tokens.

use consort_formats::Vocabulary;
use consort_text::Embedded;

/// What a file says, for the tokenizer.
pub(crate) fn embedded(file: &Vocabulary) -> Embedded {
    let file = file.clone();
    Embedded {
        model: file.model,
        pre: file.pre,
        tokens: file.tokens,
        scores: file.scores,
        kinds: file.kinds,
        merges: file.merges,
        bos: file.bos,
        eos: file.eos,
        eot: file.eot,
        eom: file.eom,
        unk: file.unk,
        sep: file.sep,
        pad: file.pad,
        cls: file.cls,
        mask: file.mask,
        add_bos: file.add_bos,
        add_eos: file.add_eos,
        add_sep: file.add_sep,
        add_space_prefix: file.add_space_prefix,
        remove_extra_whitespaces: file.remove_extra_whitespaces,
        lowercase: file.lowercase,
        strip_accents: file.strip_accents,
        precompiled_charsmap: file.precompiled_charsmap,
        chat_template: file.chat_template,
    }
}

/// A tokenizer, as a file says it.
pub(crate) fn vocabulary(tokenizer: Embedded) -> Vocabulary {
    Vocabulary {
        model: tokenizer.model,
        pre: tokenizer.pre,
        tokens: tokenizer.tokens,
        scores: tokenizer.scores,
        kinds: tokenizer.kinds,
        merges: tokenizer.merges,
        bos: tokenizer.bos,
        eos: tokenizer.eos,
        eot: tokenizer.eot,
        eom: tokenizer.eom,
        unk: tokenizer.unk,
        sep: tokenizer.sep,
        pad: tokenizer.pad,
        cls: tokenizer.cls,
        mask: tokenizer.mask,
        add_bos: tokenizer.add_bos,
        add_eos: tokenizer.add_eos,
        add_sep: tokenizer.add_sep,
        add_space_prefix: tokenizer.add_space_prefix,
        remove_extra_whitespaces: tokenizer.remove_extra_whitespaces,
        lowercase: tokenizer.lowercase,
        strip_accents: tokenizer.strip_accents,
        precompiled_charsmap: tokenizer.precompiled_charsmap,
        chat_template: tokenizer.chat_template,
        chat_templates: Vec::new(),
    }
}
