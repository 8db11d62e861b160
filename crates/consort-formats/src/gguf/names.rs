//! The two names of a tensor: what a GGUF file calls it, and what the family's table for Hugging Face files does.

/// How a GGUF file keeps a tensor, beside its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// As a Hugging Face file does.
    Same,
    /// `[outputs, inputs]`, where a Hugging Face file has `[inputs, outputs]`.
    Transposed,
    /// The two halves of each query head interleaved, as rotary positions of neighbouring pairs want them.
    QueryRows,
    /// The same, for heads of keys.
    KeyRows,
    /// Fused slots one after the other, where a Hugging Face file has a part of each in every group.
    Parts,
}

/// One kind of tensor under both names; `*` is the layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name {
    /// In a GGUF file.
    pub(crate) gguf: &'static str,
    /// In a Hugging Face file.
    pub(crate) hugging_face: &'static str,
    pub(crate) kept: Kept,
}

/// A tensor that both keep alike.
pub(crate) const fn same(gguf: &'static str, hugging_face: &'static str) -> Name {
    Name { gguf, hugging_face, kept: Kept::Same }
}

/// A tensor that a GGUF file keeps as `kept` says.
pub(crate) const fn kept(kept: Kept, gguf: &'static str, hugging_face: &'static str) -> Name {
    Name { gguf, hugging_face, kept }
}

/// The Hugging Face name of a GGUF file's tensor, and its row.
pub(crate) fn from_file(tables: &[&'static [Name]], name: &str) -> Option<(String, &'static Name)> {
    tables.iter().copied().flatten().find_map(|row| Some((translate(row.gguf, row.hugging_face, name)?, row)))
}

/// The GGUF name of a Hugging Face file's tensor.
pub(crate) fn to_file(tables: &[&[Name]], name: &str) -> Option<String> {
    tables.iter().copied().flatten().find_map(|row| translate(row.hugging_face, row.gguf, name))
}

/// `name`, which is `from` with a number for its `*`, as `to` with the same.
fn translate(from: &str, to: &str, name: &str) -> Option<String> {
    let Some((start, end)) = from.split_once('*') else {
        return (from == name).then(|| to.to_owned());
    };
    let layer = name.strip_prefix(start)?.strip_suffix(end)?;
    // Numbers in one way only: '01' would be a second name for 1.
    let canonical = !layer.is_empty()
        && layer.bytes().all(|byte| byte.is_ascii_digit())
        && (layer == "0" || !layer.starts_with('0'));
    canonical.then(|| to.replacen('*', layer, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        const TABLE: &[Name] = &[
            same("output.weight", "lm_head.weight"),
            same("enc.blk.*.attn_q.weight", "encoder.block.*.layer.0.SelfAttention.q.weight"),
        ];
        for (gguf, hugging_face) in [
            ("output.weight", "lm_head.weight"),
            ("enc.blk.12.attn_q.weight", "encoder.block.12.layer.0.SelfAttention.q.weight"),
        ] {
            assert_eq!(from_file(&[TABLE], gguf).map(|(name, _)| name).as_deref(), Some(hugging_face));
            assert_eq!(to_file(&[TABLE], hugging_face).as_deref(), Some(gguf));
        }
        for wrong in ["enc.blk..attn_q.weight", "enc.blk.01.attn_q.weight", "enc.blk.x.attn_q.weight", "output", "*"] {
            assert!(from_file(&[TABLE], wrong).is_none(), "{wrong}");
        }
    }
}
