//! Functions of operands of one shape, element by element.

use std::ops::Range;

use consort_core::{Outputs, Result, Tensor};
use smallvec::SmallVec;

use crate::{
    Simd,
    isa::{Isa, Kernel},
    lanes::{Map, Output, RowsAt, map},
    storage::{Buffer, contiguous},
};

/// `f` of the elements, tasks of at least `grain`; an output takes an operand's place where nobody else holds that.
///
/// Operands need not be contiguous: rows of the last dimension are read where they lie.
pub(crate) fn elementwise<const N: usize, const M: usize>(
    simd: &Simd,
    mut operands: [&mut Tensor<Buffer>; N],
    grain: usize,
    f: impl Map<N, M>,
) -> Result<Outputs<Buffer>> {
    let shape = *operands[0].shape();
    let elements = shape.elements();
    let mut width = elements;
    for x in &operands {
        if contiguous::<f32>(x)?.is_none() {
            width = shape.sizes().last().map_or(1, |&last| last.max(1));
        }
    }
    let mut from: SmallVec<[RowsAt; 3]> = SmallVec::new();
    let mut outputs: SmallVec<[Output; 2]> = SmallVec::new();
    // Copies of what has no rows are made before anything is taken.
    for x in &mut operands {
        simd.rows(x, width)?;
    }
    for x in &mut operands {
        let taken = if outputs.len() < M { Output::taken(simd, x)? } else { None };
        from.push(match taken {
            Some(output) => {
                let rows = output.rows(width);
                outputs.push(output);
                rows
            }
            None => RowsAt::new(&simd.rows(x, width)?),
        });
    }
    while outputs.len() < M {
        outputs.push(Output::new(simd, elements)?);
    }
    let from: [RowsAt; N] = std::array::from_fn(|operand| from[operand]);
    let to = &outputs;
    simd.team.ranges(elements, grain, |range| simd.level.run(Counted::<M, _>(Each { f, from, to, width, range })));
    Ok(outputs.into_iter().map(Output::into_buffer).collect())
}

/// A range of the elements.
struct Each<'a, const N: usize, F> {
    f: F,
    from: [RowsAt; N],
    /// As many as `f` gives.
    to: &'a [Output],
    width: usize,
    range: Range<usize>,
}

/// So that a kernel says how many outputs there are.
struct Counted<const M: usize, K>(K);

impl<const N: usize, const M: usize, F: Map<N, M>> Kernel for Counted<M, Each<'_, N, F>> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Each { f, from, to, width, range } = self.0;
        let mut at = range.start;
        while at < range.end {
            let (row, column) = (at / width, at % width);
            let n = (width - column).min(range.end - at);
            // SAFETY: the rows have `width` elements, the outputs as many as all rows, tasks have ranges of their own.
            unsafe {
                let from = from.map(|from| from.row(row).add(column));
                let mut y = [std::ptr::null_mut(); M];
                for (y, to) in y.iter_mut().zip(to) {
                    *y = to.at(at);
                }
                map(isa, f, from, y, n);
            }
            at += n;
        }
    }
}
