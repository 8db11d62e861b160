//! Looking inside a pass: hidden states and attention as they are computed.

use crate::{
    backend::{Backend, TensorOf},
    error::Result,
};

/// Which stack is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StackKind {
    /// The encoder.
    Encoder,
    /// The decoder.
    Decoder,
}

impl StackKind {
    /// `encoder` or `decoder`, as slots and traces write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Encoder => "encoder",
            Self::Decoder => "decoder",
        }
    }
}

/// Which attention of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttentionKind {
    /// Within the stack's own sequence.
    Own,
    /// Over the encoder's output.
    Cross,
}

/// Is told what a pass computes.
pub trait Observer<B: Backend> {
    /// Hidden states `[T, D]`: index 0 after the embedding, then after each block; the last one after the final norm
    /// where there is one, as the reference implementation reports them.
    ///
    /// # Errors
    /// Passed on to the caller of the pass.
    fn hidden(&mut self, stack: StackKind, index: usize, hidden: &TensorOf<B>) -> Result<()>;

    /// Whether [`attention`](Self::attention) is to be called. It costs a second computation of the scores, and needs a
    /// pass over one whole sequence.
    fn wants_attention(&self) -> bool {
        false
    }

    /// Attention probabilities `[H, T, S]` of a layer.
    ///
    /// # Errors
    /// Passed on to the caller of the pass.
    fn attention(
        &mut self,
        stack: StackKind,
        kind: AttentionKind,
        layer: usize,
        probabilities: &TensorOf<B>,
    ) -> Result<()> {
        let _ = (stack, kind, layer, probabilities);
        Ok(())
    }
}
