//! Rotary positions (Su et al. 2021): pairs `(a, b)` of each head become `(a·cos − b·sin, b·cos + a·sin)`.

use std::ops::Range;

use consort_core::{Outputs, Result, Tensor, config::RotaryPairing};
use smallvec::smallvec;

use crate::{
    Simd,
    isa::{Isa, Kernel},
    lanes::{Output, RowsAt},
    storage::{Buffer, Column, Rows},
};

/// Elements that a task has at least.
const GRAIN: usize = 1 << 13;

/// The first 2P components of each head of `x` `[T, H, C]` by row `ids[t]` of the tables `[N, P]`; beyond them by zeros. In
/// place where it may be.
pub(crate) fn rotary(
    simd: &Simd,
    x: &mut Tensor<Buffer>,
    cos: &mut Tensor<Buffer>,
    sin: &mut Tensor<Buffer>,
    ids: &mut Tensor<Buffer>,
    pairing: RotaryPairing,
) -> Result<Outputs<Buffer>> {
    let [tokens, heads, width] = [x.size(0), x.size(1), x.size(2)];
    let (table, pairs) = (cos.size(0), cos.size(1));
    let [cos, sin] = [simd.rows(cos, pairs)?, simd.rows(sin, pairs)?];
    let ids = Column::<u32>::new(ids)?;
    let (from, out) = Output::in_place(simd, x, heads * width)?;
    simd.team.ranges(tokens, GRAIN / (heads * width).max(1) + 1, |tokens| {
        let tables = Tables { cos, sin, table, pairs, pairing };
        simd.level.run(Rotary { from, to: &out, heads, width, ids, tables, tokens });
    });
    Ok(smallvec![out.into_buffer()])
}

#[derive(Clone, Copy)]
struct Tables<'a> {
    cos: Rows<'a>,
    sin: Rows<'a>,
    table: usize,
    pairs: usize,
    pairing: RotaryPairing,
}

/// Some tokens.
struct Rotary<'a> {
    from: RowsAt,
    to: &'a Output,
    heads: usize,
    width: usize,
    ids: Column<'a, u32>,
    tables: Tables<'a>,
    tokens: Range<usize>,
}

impl Kernel for Rotary<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { from, to, heads, width, ids, tables, tokens } = self;
        for token in tokens {
            // SAFETY: there are so many rows of heads · width elements; tasks have tokens of their own, and what is read is the
            // output's place or another's.
            let x = unsafe {
                let (from, to) = (from.row(token), to.at(token * heads * width));
                if from != to.cast_const() {
                    to.copy_from_nonoverlapping(from, heads * width);
                }
                std::slice::from_raw_parts_mut(to, heads * width)
            };
            let id = ids.at(token) as usize;
            let Tables { cos, sin, table, pairs, pairing } = tables;
            for head in x.chunks_exact_mut(width.max(1)) {
                let head = &mut head[..2 * pairs];
                if id >= table {
                    // Products with zeros, as any other.
                    head.iter_mut().for_each(|x| *x *= 0.0);
                } else if pairing == RotaryPairing::Halves {
                    halves(isa, head, cos.row(id), sin.row(id));
                } else {
                    interleaved(isa, head, cos.row(id), sin.row(id));
                }
            }
        }
    }
}

/// Pairs of component i and component P + i.
#[inline(always)]
fn halves<S: Isa>(isa: S, head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = head.split_at_mut(cos.len());
    for at in (0..cos.len()).step_by(S::LANES) {
        let (cos, sin) = (isa.read(&cos[at..]), isa.read(&sin[at..]));
        let (a, b) = (isa.read(&first[at..]), isa.read(&second[at..]));
        isa.write(&mut first[at..], isa.neg_mul_add(b, sin, isa.mul(a, cos)));
        isa.write(&mut second[at..], isa.mul_add(a, sin, isa.mul(b, cos)));
    }
}

/// Pairs of component 2i and component 2i + 1.
#[inline(always)]
fn interleaved<S: Isa>(isa: S, head: &mut [f32], cos: &[f32], sin: &[f32]) {
    for at in (0..cos.len()).step_by(S::LANES) {
        let (cos, sin) = (isa.read(&cos[at..]), isa.read(&sin[at..]));
        let (cos, sin) = (isa.interleave(cos, cos), isa.interleave(isa.negate(sin), sin));
        for half in 0..2 {
            let Some(x) = head.get_mut(2 * at + half * S::LANES..) else { break };
            let lanes = isa.read(x);
            isa.write(x, isa.mul_add(isa.swap_pairs(lanes), sin[half], isa.mul(lanes, cos[half])));
        }
    }
}
