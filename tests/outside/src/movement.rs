//! Elements moved, chosen and reduced: what is left of the primitives.

use consort_core::{
    DType, HostData, Layout, Result, Shape, Tensor,
    operation::ReduceKind,
    sample::{SampleRow, sample_row},
};

use super::memory::{Buffer, places, singles, width};

/// Calls a function of a vector for whatever type the data have.
macro_rules! of_any_type {
    ($data:expr, $elements:ident => $result:expr) => {
        match $data {
            HostData::F32($elements) => HostData::F32($result),
            HostData::F64($elements) => HostData::F64($result),
            HostData::F16($elements) => HostData::F16($result),
            HostData::BF16($elements) => HostData::BF16($result),
            HostData::U32($elements) => HostData::U32($result),
        }
    };
}

/// The elements of `data` at `places`; zero beyond its end.
fn pick(data: &HostData, places: impl Iterator<Item = usize>) -> HostData {
    of_any_type!(data, all => places.map(|place| all.get(place).copied().unwrap_or_default()).collect())
}

/// A tensor of one value.
pub(crate) fn fill(shape: &Shape, value: f64, dtype: DType) -> HostData {
    HostData::from_f64(std::iter::repeat_n(value, shape.elements()), dtype)
}

/// The elements in row-major order, of another type where asked.
pub(crate) fn copy(x: &Tensor<Buffer>, dtype: DType) -> HostData {
    let same = pick(&x.buffer, places(x.layout()).into_iter());
    if dtype == x.dtype() { same } else { HostData::from_f64(same.to_f64().into_iter(), dtype) }
}

/// `into` with the box from `start` on replaced by `x`.
pub(crate) fn write(into: &Tensor<Buffer>, x: &Tensor<Buffer>, start: &Shape) -> Option<HostData> {
    let mut layout = Layout::contiguous(*into.shape());
    for (axis, &first) in start.sizes().iter().enumerate() {
        layout = layout.slice(axis, first, x.size(axis)).ok()?;
    }
    put(into, x, &places(&layout))
}

/// `x[ids[r], …]` for every r; zeros for a row that there is not.
pub(crate) fn gather_rows(x: &Tensor<Buffer>, ids: &Tensor<Buffer>) -> Option<HostData> {
    let all = places(x.layout());
    let row = all.len() / x.size(0);
    let place = |of: usize| all.get(of).copied().unwrap_or(usize::MAX);
    let rows = ids_of(ids)?.into_iter().flat_map(|id| (0..row).map(move |element| place(id * row + element)));
    Some(pick(&x.buffer, rows))
}

/// `into` with row `ids[r]` replaced by, or increased by, row r of `x`.
pub(crate) fn scatter_rows(
    into: &Tensor<Buffer>,
    ids: &Tensor<Buffer>,
    x: &Tensor<Buffer>,
    add: bool,
) -> Option<HostData> {
    let row = into.shape().elements() / into.size(0);
    let rows: Vec<usize> =
        ids_of(ids)?.into_iter().flat_map(|id| (0..row).map(move |element| id * row + element)).collect();
    if !add {
        return put(into, x, &rows);
    }
    let mut y = singles(into)?.into_owned();
    for (&place, x) in rows.iter().zip(singles(x)?.iter()) {
        if let Some(y) = y.get_mut(place) {
            *y += x;
        }
    }
    Some(HostData::F32(y))
}

/// `mask ≠ 0 ? a : b`, broadcast; `None` for other types than singles.
pub(crate) fn select(mask: &Tensor<Buffer>, a: &Tensor<Buffer>, b: &Tensor<Buffer>, out: &Shape) -> Option<HostData> {
    let [mask, a, b] = [mask, a, b].map(|x| x.broadcast_to(out.sizes()));
    let (mask, a, b) = (ids_of(&mask.ok()?)?, a.ok()?, b.ok()?);
    let pairs = singles(&a)?.into_owned().into_iter().zip(singles(&b)?.into_owned());
    Some(HostData::F32(mask.into_iter().zip(pairs).map(|(mask, (a, b))| if mask != 0 { a } else { b }).collect()))
}

/// Sum, maximum, or the index of the maximum over one axis.
pub(crate) fn reduce(x: &Tensor<Buffer>, axis: usize, kind: ReduceKind) -> Option<HostData> {
    let order: Vec<usize> = (0..x.shape().rank()).filter(|&other| other != axis).chain([axis]).collect();
    let x = x.permute(&order).ok()?;
    let data = singles(&x)?;
    let rows = data.chunks(width(&x));
    let greatest = |row: &[f32]| {
        (1..row.len())
            .fold(0, |best, at| if row[at] > row[best] || row[at].is_nan() && !row[best].is_nan() { at } else { best })
    };
    Some(match kind {
        ReduceKind::Sum => HostData::F32(rows.map(|row| row.iter().fold(0.0, |sum, x| sum + x)).collect()),
        ReduceKind::Maximum => HostData::F32(rows.map(|row| row[greatest(row)]).collect()),
        ReduceKind::ArgMaximum => HostData::U32(rows.map(|row| greatest(row) as u32).collect()),
    })
}

/// A token for each row of logits, as the core draws it.
pub(crate) fn sample(logits: &Tensor<Buffer>, rows: &[SampleRow]) -> Result<Option<HostData>> {
    let logits = copy(logits, DType::F32).to_f64();
    let choose = |(logits, row): (&[f64], &SampleRow)| Ok(sample_row(logits, row)?.token);
    let tokens = logits.chunks(logits.len() / rows.len()).zip(rows).map(choose).collect::<Result<_>>()?;
    Ok(Some(HostData::U32(tokens)))
}

fn ids_of(ids: &Tensor<Buffer>) -> Option<Vec<usize>> {
    let HostData::U32(ids) = copy(ids, DType::U32) else { return None };
    Some(ids.into_iter().map(|id| id as usize).collect())
}

/// `into` with its elements at `places` replaced by those of `x`.
fn put(into: &Tensor<Buffer>, x: &Tensor<Buffer>, places: &[usize]) -> Option<HostData> {
    fn replace<T>(mut into: Vec<T>, x: Vec<T>, places: &[usize]) -> Vec<T> {
        for (x, &place) in x.into_iter().zip(places) {
            if let Some(into) = into.get_mut(place) {
                *into = x;
            }
        }
        into
    }
    Some(match (copy(into, into.dtype()), copy(x, x.dtype())) {
        (HostData::F32(into), HostData::F32(x)) => HostData::F32(replace(into, x, places)),
        (HostData::F16(into), HostData::F16(x)) => HostData::F16(replace(into, x, places)),
        (HostData::BF16(into), HostData::BF16(x)) => HostData::BF16(replace(into, x, places)),
        (HostData::U32(into), HostData::U32(x)) => HostData::U32(replace(into, x, places)),
        _ => return None,
    })
}
