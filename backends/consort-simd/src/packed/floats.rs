//! Panels of f32, f16 and bf16.

use std::{borrow::Cow, ops::Range, slice};

use super::Packed;
use crate::{
    gemm::{PANEL, Panels, pair},
    isa::Isa,
};

/// As they lie.
pub(crate) struct F32<'a>(pub(crate) &'a Packed);
/// Widened a chunk at a time.
pub(crate) struct F16<'a>(pub(crate) &'a Packed);
/// Pairs as they lie.
pub(crate) struct Bf16<'a>(pub(crate) &'a Packed);
/// Widened a chunk at a time.
pub(crate) struct Bf16AsF32<'a>(pub(crate) &'a Packed);
/// Pairs of another's values, rounded a chunk at a time.
pub(crate) struct Rounded<'a, P>(pub(crate) &'a P, pub(crate) usize);

/// Elements of a panel's bytes.
#[inline(always)]
fn elements<T>(bytes: &[u8], range: Range<usize>) -> &[T] {
    assert!(range.end * size_of::<T>() <= bytes.len() && bytes.as_ptr().cast::<T>().is_aligned());
    // SAFETY: inside and aligned; T is a number.
    unsafe { slice::from_raw_parts(bytes.as_ptr().cast::<T>().add(range.start), range.len()) }
}

impl Panels for F32<'_> {
    const PAIRS: bool = false;
    const DIRECT: bool = true;

    #[inline(always)]
    fn chunk<'a, S: Isa>(&'a self, _: S, panel: usize, range: Range<usize>, _: &'a mut [f32]) -> &'a [f32] {
        elements(self.0.panel(panel), range.start * PANEL..range.end * PANEL)
    }
}

impl Panels for Bf16<'_> {
    const PAIRS: bool = true;
    const DIRECT: bool = true;

    #[inline(always)]
    fn chunk<'a, S: Isa>(&'a self, _: S, panel: usize, range: Range<usize>, _: &'a mut [f32]) -> &'a [f32] {
        elements(self.0.panel(panel), range.start * PANEL..range.end * PANEL)
    }
}

impl Panels for F16<'_> {
    const PAIRS: bool = false;
    const DIRECT: bool = false;

    #[inline(always)]
    fn chunk<'a, S: Isa>(&'a self, isa: S, panel: usize, range: Range<usize>, scratch: &'a mut [f32]) -> &'a [f32] {
        let from: &[u16] = elements(self.0.panel(panel), range.start * PANEL..range.end * PANEL);
        let to = &mut scratch[..from.len()];
        for at in (0..from.len()).step_by(S::LANES) {
            // SAFETY: both have a multiple of LANES elements.
            unsafe { isa.store(to.as_mut_ptr().add(at), isa.load_f16(from.as_ptr().add(at))) };
        }
        to
    }
}

impl Panels for Bf16AsF32<'_> {
    const PAIRS: bool = false;
    const DIRECT: bool = false;

    #[inline(always)]
    fn chunk<'a, S: Isa>(&'a self, isa: S, panel: usize, range: Range<usize>, scratch: &'a mut [f32]) -> &'a [f32] {
        debug_assert!(range.start.is_multiple_of(2));
        let pairs: &[i32] = elements(self.0.panel(panel), range.start / 2 * PANEL..range.end.div_ceil(2) * PANEL);
        let high = isa.splat_i(0xffff_0000_u32.cast_signed());
        let to = &mut scratch[..range.len().next_multiple_of(2) * PANEL];
        for (from, to) in pairs.chunks_exact(PANEL).zip(to.chunks_exact_mut(2 * PANEL)) {
            for at in (0..PANEL).step_by(S::LANES) {
                // SAFETY: `from` has PANEL elements, `to` twice as many.
                unsafe {
                    let pair = isa.load_i(from.as_ptr().add(at));
                    isa.store(to.as_mut_ptr().add(at), isa.from_bits(isa.shift_left::<16>(pair)));
                    isa.store(to.as_mut_ptr().add(PANEL + at), isa.from_bits(isa.and(pair, high)));
                }
            }
        }
        &to[..range.len() * PANEL]
    }
}

impl<P: Panels> Panels for Rounded<'_, P> {
    const PAIRS: bool = true;
    const DIRECT: bool = false;

    #[inline(always)]
    fn chunk<'a, S: Isa>(&'a self, isa: S, panel: usize, range: Range<usize>, scratch: &'a mut [f32]) -> &'a [f32] {
        let Self(exact, inputs) = self;
        let mut wide = [0f32; PANEL * PANEL];
        let mut rows = [[0f32; PANEL]; 2];
        // As many pairs as a chunk of PANEL steps gives.
        for start in range.clone().step_by(PANEL / 2) {
            let pairs = start..(start + PANEL / 2).min(range.end);
            let steps = 2 * start..(2 * pairs.end).min(*inputs);
            let values = exact.chunk(isa, panel, steps, &mut wide);
            for (index, pair_of) in pairs.enumerate() {
                for (half, row) in rows.iter_mut().enumerate() {
                    match values.get((2 * index + half) * PANEL..(2 * index + half + 1) * PANEL) {
                        Some(values) => row.copy_from_slice(values),
                        None => row.fill(0.0),
                    }
                }
                pair(isa, &rows, &mut scratch[(pair_of - range.start) * PANEL..]);
            }
        }
        &scratch[..range.len() * PANEL]
    }
}

/// Rows side by side: `[inputs, PANEL]`.
pub(super) fn transpose(panel: &mut [u8], rows: &[&[f32]]) {
    for (step, to) in panel.chunks_exact_mut(PANEL * 4).enumerate() {
        for (row, to) in rows.iter().zip(to.chunks_exact_mut(4)) {
            to.copy_from_slice(&row[step].to_ne_bytes());
        }
    }
}

pub(super) fn fill_f32(panel: &mut [u8], rows: &[Cow<'_, [u8]>], _inputs: usize) -> bool {
    let mut finite = true;
    for (step, to) in panel.chunks_exact_mut(PANEL * 4).enumerate() {
        for (row, to) in rows.iter().zip(to.chunks_exact_mut(4)) {
            let bytes = &row[step * 4..][..4];
            let bits = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            finite &= bits & 0x7f80_0000 != 0x7f80_0000;
            to.copy_from_slice(&bits.to_ne_bytes());
        }
    }
    finite
}

pub(super) fn fill_f16(panel: &mut [u8], rows: &[Cow<'_, [u8]>], _inputs: usize) -> bool {
    let mut finite = true;
    for (step, to) in panel.chunks_exact_mut(PANEL * 2).enumerate() {
        for (row, to) in rows.iter().zip(to.chunks_exact_mut(2)) {
            let bits = u16::from_le_bytes([row[step * 2], row[step * 2 + 1]]);
            finite &= bits & 0x7c00 != 0x7c00;
            to.copy_from_slice(&bits.to_ne_bytes());
        }
    }
    finite
}

pub(super) fn fill_bf16(panel: &mut [u8], rows: &[Cow<'_, [u8]>], inputs: usize) -> bool {
    let mut finite = true;
    for (pair, to) in panel.chunks_exact_mut(PANEL * 4).enumerate() {
        for (row, to) in rows.iter().zip(to.chunks_exact_mut(4)) {
            let mut bits = 0;
            for half in 0..2.min(inputs - 2 * pair) {
                let at = (2 * pair + half) * 2;
                let element = u16::from_le_bytes([row[at], row[at + 1]]);
                finite &= element & 0x7f80 != 0x7f80;
                bits |= u32::from(element) << (16 * half);
            }
            to.copy_from_slice(&bits.to_ne_bytes());
        }
    }
    finite
}
