//! Marian (Junczys-Dowmunt et al. 2018), the OPUS translation models: BART's stacks with sinusoidal positions and no
//! norm over the embedding.

use consort_core::config::{Positions, SinusoidLayout};

use super::bart::{Choices, encoder_decoder};
use crate::{
    error::Error,
    json::Reader,
    weights::{Mapping, Tensors},
};

pub(super) fn map(config: &Reader<'_>, tensors: &Tensors) -> Result<Mapping, Error> {
    let vocabulary = config.size("vocab_size", 58101)?;
    let shared = config.flag("share_encoder_decoder_embeddings", true)?;
    let own = config.count("decoder_vocab_size", 0)?; // 0 and null: the encoder's
    let choices = Choices {
        vocabulary,
        decoder_vocabulary: if shared || own == 0 { vocabulary } else { own },
        shared,
        embedding_norm: false,
        positions: |_| Positions::Sinusoidal { layout: SinusoidLayout::Halves },
        // The table is computed, in f64; what a file keeps of it is rounded.
        silent: &["model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"],
    };
    encoder_decoder(config, tensors, &choices)
}
