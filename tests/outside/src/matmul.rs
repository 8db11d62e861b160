//! `[…, M, K] · […, K, N] → […, M, N]`, leading dimensions broadcast.

use consort_core::{HostData, Shape, Tensor};

use super::memory::{Buffer, singles, width};

/// The product, of shape `out`. Every element is one chain `((0 + a₀b₀) + a₁b₁) + …`, so that a row has the same bits
/// whatever rows are beside it.
pub(crate) fn matmul(a: &Tensor<Buffer>, b: &Tensor<Buffer>, out: &Shape) -> Option<HostData> {
    let [batch @ .., rows, columns] = out.sizes() else { return None };
    let inner = width(a);
    let a = a.broadcast_to(&[batch, &[*rows, inner]].concat()).ok()?;
    let b = b.broadcast_to(&[batch, &[inner, *columns]].concat()).ok()?;
    let (a, b) = (singles(&a)?, singles(&b)?);
    let mut y = vec![0.0; out.elements()];
    let products = y.chunks_mut(rows * columns).zip(a.chunks(rows * inner)).zip(b.chunks(inner * columns));
    for ((y, a), b) in products {
        for (y, a) in y.chunks_mut(*columns).zip(a.chunks(inner)) {
            add_product(y, a, b);
        }
    }
    Some(HostData::F32(y))
}

/// `y += a · b` for one row: `[K] · [K, N]`.
pub(crate) fn add_product(y: &mut [f32], a: &[f32], b: &[f32]) {
    for (a, b) in a.iter().zip(b.chunks(y.len())) {
        y.iter_mut().zip(b).for_each(|(y, b)| *y += a * b);
    }
}
