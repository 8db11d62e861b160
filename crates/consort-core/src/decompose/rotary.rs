//! Rotary positions (Su et al. 2021): pairs `(a, b)` become `(a·cos − b·sin, b·cos + a·sin)`.

use crate::{
    backend::{Backend, TensorOf},
    config::RotaryPairing,
    device::Device,
    error::Result,
};

/// Rotates the first 2P components of each head of `x` `[T, H, C]` by row `ids[t]` of `cos` and `sin` `[N, P]`.
///
/// # Errors
/// What the primitives meet.
pub fn rotary<B: Backend>(
    device: &Device<B>,
    x: &TensorOf<B>,
    cos: &TensorOf<B>,
    sin: &TensorOf<B>,
    ids: &TensorOf<B>,
    pairing: RotaryPairing,
) -> Result<TensorOf<B>> {
    let [tokens, heads] = [x.size(0), x.size(1)];
    let pairs = cos.size(1);
    let cos = device.gather_rows(cos, ids)?.view(&[tokens, 1, pairs])?;
    let sin = device.gather_rows(sin, ids)?.view(&[tokens, 1, pairs])?;
    // One member of every pair, [T, H, P].
    let member = |which: usize| match pairing {
        RotaryPairing::Halves => x.slice(2, which * pairs, pairs),
        RotaryPairing::Interleaved => {
            let pairs_of = device.reshape(&x.slice(2, 0, 2 * pairs)?, &[tokens, heads, pairs, 2])?;
            device.reshape(&pairs_of.slice(3, which, 1)?, &[tokens, heads, pairs])
        }
    };
    let (a, b) = (member(0)?, member(1)?);
    let first = device.subtract(device.multiply(a.clone(), cos.clone())?, device.multiply(b.clone(), sin.clone())?)?;
    let second = device.add(device.multiply(b, cos)?, device.multiply(a, sin)?)?;
    let out = device.copy(x, x.dtype())?;
    match pairing {
        RotaryPairing::Halves => {
            let out = device.write(out, first, &[0, 0, 0])?;
            device.write(out, second, &[0, 0, pairs])
        }
        RotaryPairing::Interleaved => {
            let pair_shape = [tokens, heads, pairs, 1];
            let both = device.fill(&[tokens, heads, pairs, 2], 0.0)?;
            let both = device.write(both, first.view(&pair_shape)?, &[0, 0, 0, 0])?;
            let both = device.write(both, second.view(&pair_shape)?, &[0, 0, 0, 1])?;
            device.write(out, both.view(&[tokens, heads, 2 * pairs])?, &[0, 0, 0])
        }
    }
}
