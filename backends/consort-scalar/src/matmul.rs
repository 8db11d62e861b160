//! Matrix products: `[…, M, K] · […, K, N] → […, M, N]`, leading dimensions broadcast.
//!
//! Every output is one chain `((0 + a₀b₀) + a₁b₁) + …` in ascending k, each product rounded, whatever M, N and the
//! strides are. A chain waits for its last addition, so [`LANES`] neighbouring outputs go side by side: their columns of
//! `b` are copied into a panel `[K, LANES]`, which then serves every row of `a`.

use consort_core::{Layout, Result, Shape, Tensor};
use ndarray::{ArrayView2, ArrayViewMut2, Axis, ShapeBuilder};

use crate::{
    element::Element,
    fault::{Fault, planted},
    misfit,
    storage::{Buffer, Item, Storage, elements, filled},
};

/// Chains side by side: four vectors of f32 on the narrowest SIMD units.
const LANES: usize = 16;

/// `a · b` of shape `shape`.
pub(crate) fn matmul<E: Element>(a: &Tensor<Buffer<E>>, b: &Tensor<Buffer<E>>, shape: &Shape) -> Result<Storage<E>> {
    let (a_data, b_data) = (elements::<E, E>(a)?, elements::<E, E>(b)?);
    let mut out = filled(shape.elements(), E::ZERO)?;
    let a_matrices = matrices(a_data, a.layout(), shape)?;
    let b_matrices = matrices(b_data, b.layout(), shape)?;
    let sizes = shape.sizes();
    let (rows, columns) = (sizes[sizes.len() - 2], sizes[sizes.len() - 1]);
    for ((a, b), out) in a_matrices.iter().zip(&b_matrices).zip(out.chunks_exact_mut(rows * columns)) {
        let out = ArrayViewMut2::from_shape((rows, columns), out)
            .map_err(|error| misfit("matmul", format!("{shape}: {error}")))?;
        let transposed = planted(Fault::OperandTransposed) && b.nrows() == b.ncols();
        let b = if transposed { b.t() } else { b.view() };
        product(a, &b, out)?;
    }
    Ok(E::store(out))
}

/// The matrices of an operand, broadcast to the leading dimensions of `out`, in row-major order of these.
fn matrices<'a, E>(data: &'a [E], layout: &Layout, out: &Shape) -> Result<Vec<ArrayView2<'a, E>>> {
    let own = layout.shape().sizes();
    let (Some(own_batch), Some(out_batch)) = (own.len().checked_sub(2), out.rank().checked_sub(2)) else {
        return Err(misfit("matmul", format!("{} for a product {out}", layout.shape())));
    };
    let mut sizes = [0; consort_core::MAX_RANK];
    let sizes = &mut sizes[..out.rank()];
    sizes[..out_batch].copy_from_slice(&out.sizes()[..out_batch]);
    sizes[out_batch..].copy_from_slice(&own[own_batch..]);
    let layout = layout.broadcast_to(Shape::new(sizes)?)?;
    let (batch_strides, matrix_strides) = layout.strides().split_at(out_batch);
    let mut offsets = vec![layout.offset()];
    for (&size, &stride) in sizes.iter().zip(batch_strides) {
        offsets = offsets.iter().flat_map(|first| (0..size).map(move |index| first + index * stride)).collect();
    }
    let shape = (sizes[out_batch], sizes[out_batch + 1]).strides((matrix_strides[0], matrix_strides[1]));
    offsets
        .into_iter()
        .map(|offset| data.get(offset..).and_then(|data| ArrayView2::from_shape(shape, data).ok()))
        .collect::<Option<_>>()
        .ok_or_else(|| misfit("matmul", format!("{layout:?} of {} elements", data.len())))
}

/// One product `[M, K] · [K, N]`.
fn product<E: Element>(a: &ArrayView2<'_, E>, b: &ArrayView2<'_, E>, mut out: ArrayViewMut2<'_, E>) -> Result<()> {
    let terms = b.nrows() - usize::from(planted(Fault::ProductDropsLast));
    let mut panel = filled(b.nrows(), [E::ZERO; LANES])?;
    for (b, mut out) in b.axis_chunks_iter(Axis(1), LANES).zip(out.axis_chunks_iter_mut(Axis(1), LANES)) {
        if b.ncols() < LANES && planted(Fault::LastColumnLost) {
            continue;
        }
        // Lanes past the last column keep what they held; they are computed and left out.
        for (lane, column) in b.columns().into_iter().enumerate() {
            panel.iter_mut().zip(column).for_each(|(row, &element)| row[lane] = element);
        }
        for (left, mut out) in a.rows().into_iter().zip(out.rows_mut()) {
            let mut sums = [E::ZERO; LANES];
            for (&left, right) in left.iter().zip(&panel).take(terms) {
                for lane in 0..LANES {
                    sums[lane] = sums[lane] + left * right[lane];
                }
            }
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum);
        }
    }
    Ok(())
}
