//! Sums and greatest elements along an axis.
//!
//! A sum has one order of its terms, by their indices along the axis, whatever the layout: along the last axis (what follows
//! has size 1) lanes take turns within parts of [`PART`] terms, and the parts are added in ascending order; along another
//! axis each sum is one ascending chain.

use std::ops::Range;

use consort_core::{DType, Result, Shape, Tensor, operation::ReduceKind};

use crate::{
    Simd, copy,
    isa::{Isa, Kernel},
    storage::{Buffer, Rows, filled, misfit},
    strided::{GRAIN, whole},
    team::Parts,
};

/// Elements of a row that are taken together.
const PART: usize = 8192;
/// Columns that a task adds, at least and at most: a few cache lines, and what stays in the nearest cache.
const COLUMNS: Range<usize> = 64..1024;

/// One number for each lane of `x` along `axis`.
pub(crate) fn reduce(simd: &Simd, x: &mut Tensor<Buffer>, axis: usize, kind: ReduceKind) -> Result<Buffer> {
    let (Some(&length), Some(inner)) = (x.sizes().get(axis), x.sizes().get(axis + 1..)) else {
        return Err(misfit(format!("axis {axis} of {}", x.shape())));
    };
    let inner: usize = inner.iter().product();
    if kind == ReduceKind::Sum && inner > 1 {
        return sum_columns(simd, x, length, inner);
    }
    if inner > 1 {
        // The axis becomes the last one.
        let mut order: smallvec::SmallVec<[usize; 6]> = (0..x.shape().rank()).filter(|&other| other != axis).collect();
        order.push(axis);
        *x = x.permute(&order)?;
    }
    let rows = simd.rows(x, length)?;
    match kind {
        ReduceKind::Sum => by_parts(simd, &rows, |simd, work| simd.level.run(Sum(work)), |parts| parts.iter().sum()),
        ReduceKind::Maximum => by_parts(
            simd,
            &rows,
            |simd, work| simd.level.run(Maximum(work)),
            |parts| parts.iter().fold(f32::NEG_INFINITY, |most, &x| if most.is_nan() || most > x { most } else { x }),
        ),
        ReduceKind::ArgMaximum => argmax(simd, &rows),
    }
}

/// Index of the greatest element of each row, the lowest on ties; a NaN counts as greatest, the first one.
pub(crate) fn argmax(simd: &Simd, rows: &Rows) -> Result<Buffer> {
    let parts = rows.width.div_ceil(PART).max(1);
    let mut found = simd.pool.take::<u32>(rows.count * parts)?;
    let part = rows.width.min(PART);
    simd.team.rows(filled::<u32>(&mut found)?, 1, GRAIN / part.max(1), |first, out| {
        simd.level.run(ArgMaximum(Work { rows, parts, first, out }));
    });
    if parts == 1 {
        return Ok(found);
    }
    let mut out = simd.pool.take::<u32>(rows.count)?;
    let found = found.elements::<u32>()?;
    for (row, (out, found)) in filled::<u32>(&mut out)?.iter_mut().zip(found.chunks_exact(parts)).enumerate() {
        let row = rows.row(row);
        let better = |x: f32, best: f32| !best.is_nan() && (x > best || x.is_nan());
        *out = found
            .iter()
            .copied()
            .reduce(|best, i| if better(row[i as usize], row[best as usize]) { i } else { best })
            .unwrap_or(0);
    }
    Ok(out)
}

/// A number of each part of each row, and of these, where there are several, one of each row.
fn by_parts(
    simd: &Simd,
    rows: &Rows,
    run: impl Fn(&Simd, Work<f32>) + Sync,
    join: impl Fn(&[f32]) -> f32,
) -> Result<Buffer> {
    let parts = rows.width.div_ceil(PART).max(1);
    let mut found = simd.pool.take::<f32>(rows.count * parts)?;
    let part = rows.width.min(PART);
    simd.team.rows(filled::<f32>(&mut found)?, 1, GRAIN / part.max(1), |first, out| {
        run(simd, Work { rows, parts, first, out });
    });
    if parts == 1 {
        return Ok(found);
    }
    let mut out = simd.pool.take::<f32>(rows.count)?;
    let found = found.elements::<f32>()?;
    filled::<f32>(&mut out)?.iter_mut().zip(found.chunks_exact(parts)).for_each(|(out, parts)| *out = join(parts));
    Ok(out)
}

/// Some parts of the rows, counted row by row.
struct Work<'a, T> {
    rows: &'a Rows<'a>,
    parts: usize,
    first: usize,
    out: &'a mut [T],
}

impl<T> Work<'_, T> {
    /// Part `index` of these, and where it begins in its row.
    #[inline(always)]
    fn part(&self, index: usize) -> (&[f32], usize) {
        let (row, part) = ((self.first + index) / self.parts, (self.first + index) % self.parts);
        let row = self.rows.row(row);
        let start = part * PART;
        (&row[start..(start + PART).min(row.len())], start)
    }
}

struct Sum<'a>(Work<'a, f32>);

impl Kernel for Sum<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        for index in 0..self.0.out.len() {
            let (x, _) = self.0.part(index);
            self.0.out[index] = sum(isa, x);
        }
    }
}

struct Maximum<'a>(Work<'a, f32>);

impl Kernel for Maximum<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        for index in 0..self.0.out.len() {
            let (x, _) = self.0.part(index);
            self.0.out[index] = greatest(isa, x);
        }
    }
}

struct ArgMaximum<'a>(Work<'a, u32>);

impl Kernel for ArgMaximum<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        for index in 0..self.0.out.len() {
            let (x, start) = self.0.part(index);
            self.0.out[index] = (start + first_of(isa, x, greatest(isa, x))) as u32;
        }
    }
}

/// Register i goes to sum i mod 4.
#[inline(always)]
fn sum<S: Isa>(isa: S, x: &[f32]) -> f32 {
    let mut sums = [isa.zero(); 4];
    let mut fours = x.chunks_exact(4 * S::LANES);
    for four in fours.by_ref() {
        for (sum, x) in sums.iter_mut().zip(four.chunks_exact(S::LANES)) {
            *sum = isa.add(*sum, isa.read(x));
        }
    }
    for (sum, x) in sums.iter_mut().zip(fours.remainder().chunks(S::LANES)) {
        *sum = isa.add(*sum, isa.read(x));
    }
    isa.sum(isa.add(isa.add(sums[0], sums[2]), isa.add(sums[1], sums[3])))
}

/// The greatest element; NaN where there is one.
#[inline(always)]
fn greatest<S: Isa>(isa: S, x: &[f32]) -> f32 {
    let mut most = [isa.splat(f32::NEG_INFINITY); 4];
    let mut fours = x.chunks_exact(4 * S::LANES);
    for four in fours.by_ref() {
        for (most, x) in most.iter_mut().zip(four.chunks_exact(S::LANES)) {
            *most = greater(isa, *most, isa.read(x));
        }
    }
    let mut rest = fours.remainder().chunks_exact(S::LANES);
    for x in rest.by_ref() {
        most[0] = greater(isa, most[0], isa.read(x));
    }
    let most = greater(isa, greater(isa, most[0], most[1]), greater(isa, most[2], most[3]));
    if isa.any(isa.unordered(most, most)) {
        return f32::NAN;
    }
    let mut most = isa.greatest(most);
    for &x in rest.remainder() {
        most = greater_of(most, x);
    }
    most
}

/// The greater in each lane, NaN where either is one.
#[inline(always)]
fn greater<S: Isa>(isa: S, a: S::F, b: S::F) -> S::F {
    // The lanes' own gives b there.
    isa.select(isa.unordered(a, a), a, isa.max(a, b))
}

/// As [`greater`].
#[inline(always)]
fn greater_of(a: f32, b: f32) -> f32 {
    if a.is_nan() || a > b { a } else { b }
}

/// Where the first element lies that is equal to `value`, or a NaN where that is one.
#[inline(always)]
fn first_of<S: Isa>(isa: S, x: &[f32], value: f32) -> usize {
    let (lanes, nan) = (isa.splat(value), value.is_nan());
    let mut passed = 0;
    for x in x.chunks_exact(S::LANES) {
        let x = isa.read(x);
        if isa.any(if nan { isa.unordered(x, x) } else { isa.equal(x, lanes) }) {
            break;
        }
        passed += S::LANES;
    }
    let found = x[passed..].iter().position(|&x| x == value || (nan && x.is_nan()));
    passed + found.unwrap_or(0)
}

/// Sums over `length` rows of `inner` columns each.
fn sum_columns(simd: &Simd, x: &mut Tensor<Buffer>, length: usize, inner: usize) -> Result<Buffer> {
    let outer = x.shape().elements() / (length * inner).max(1);
    let shape = Shape::new(&[outer, length, inner])?;
    let flat = match x.layout().reshape(shape)?.filter(|flat| flat.strides()[2] == 1) {
        Some(flat) => flat,
        None => {
            *x = Tensor::new(copy::copy(simd, x, DType::F32)?, shape, DType::F32);
            *x.layout()
        }
    };
    let elements = whole::<f32>(x)?;
    let columns = (inner / (2 * simd.threads())).clamp(COLUMNS.start, COLUMNS.end).next_multiple_of(16).min(inner);
    let blocks = inner.div_ceil(columns);
    let mut out = simd.pool.take::<f32>(outer * inner)?;
    let to = Parts::new(filled::<f32>(&mut out)?);
    simd.team.ranges(outer * blocks, GRAIN / (length * columns).max(1), |tasks| {
        for task in tasks {
            let (outer, first) = (task / blocks, task % blocks * columns);
            let end = (first + columns).min(inner);
            // SAFETY: blocks of columns do not meet.
            let out = unsafe { to.part(outer * inner + first..outer * inner + end) };
            let x = &elements[flat.offset() + outer * flat.strides()[0] + first..];
            simd.level.run(Columns { x, length, stride: flat.strides()[1], out });
        }
    });
    Ok(out)
}

/// Sums of some columns.
struct Columns<'a> {
    x: &'a [f32],
    length: usize,
    stride: usize,
    out: &'a mut [f32],
}

impl Kernel for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, _: S) {
        let Self { x, length, stride, out } = self;
        let columns = out.len();
        let mut sums = [0.0; COLUMNS.end];
        let sums = &mut sums[..columns];
        // Four rows at a time, each sum one chain all the same.
        let fours = length - length % 4;
        for first in (0..fours).step_by(4) {
            let a = &x[first * stride..][..columns];
            let b = &x[(first + 1) * stride..][..columns];
            let c = &x[(first + 2) * stride..][..columns];
            let d = &x[(first + 3) * stride..][..columns];
            for ((((sum, &a), &b), &c), &d) in sums.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                *sum = *sum + a + b + c + d;
            }
        }
        for index in fours..length {
            for (sum, &x) in sums.iter_mut().zip(&x[index * stride..][..columns]) {
                *sum += x;
            }
        }
        out.copy_from_slice(sums);
    }
}

#[cfg(test)]
mod tests {
    use consort_core::{Backend, HostData};

    use super::*;
    use crate::isa::Level;

    fn bits(buffer: &Buffer) -> Vec<u32> {
        match buffer.to_host() {
            HostData::F32(data) => data.into_iter().map(f32::to_bits).collect(),
            other => other.into_u32().unwrap(),
        }
    }

    #[test]
    fn neither_layout_nor_threads_show_in_the_bits() {
        for level in Level::available() {
            for sizes in [[5, 7, 33], [2, 3 * PART + 1, 1], [1, 3, 2 * PART + 5], [2, 40, 1100]] {
                let shape = Shape::new(&sizes).unwrap();
                let elements = shape.elements();
                let data = (0..elements).map(|i| ((i * 7919 % 1009) as f32 - 504.0) / 7.0).collect();
                for axis in 0..3 {
                    for kind in [ReduceKind::Sum, ReduceKind::Maximum, ReduceKind::ArgMaximum] {
                        let mut seen = Vec::new();
                        for simd in [1, 3].map(|threads| Simd::new(level, threads)) {
                            let x =
                                Tensor::new(simd.upload(HostData::F32(Vec::clone(&data))).unwrap(), shape, DType::F32);
                            // The same elements, the first dimension the fastest.
                            let turned = x.permute(&[2, 1, 0]).unwrap();
                            let turned_shape = *turned.shape();
                            let turned = copy::copy(&simd, &mut turned.clone(), DType::F32).unwrap();
                            let turned = Tensor::new(turned, turned_shape, DType::F32).permute(&[2, 1, 0]).unwrap();
                            for mut x in [x, turned] {
                                seen.push(bits(&reduce(&simd, &mut x, axis, kind).unwrap()));
                            }
                        }
                        assert!(seen.iter().all(|bits| *bits == seen[0]), "{level:?} {sizes:?} {axis} {kind:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_first_nan_or_the_first_greatest_is_found() {
        for simd in Level::available().into_iter().map(|level| Simd::new(level, 2)) {
            for length in (1..70).chain([PART - 1, PART + 3, 3 * PART]) {
                let find = |data: Vec<f32>| {
                    let shape = Shape::new(&[1, length]).unwrap();
                    let x = Tensor::new(simd.upload(HostData::F32(data)).unwrap(), shape, DType::F32);
                    let most = reduce(&simd, &mut x.clone(), 1, ReduceKind::Maximum).unwrap();
                    let place = reduce(&simd, &mut x.clone(), 1, ReduceKind::ArgMaximum).unwrap();
                    (most.elements::<f32>().unwrap()[0], place.elements::<u32>().unwrap()[0] as usize)
                };
                let at = length * 2 / 3;
                let mut data = vec![-2.0; length];
                (data[at], data[length - 1]) = (-1.0, -1.0);
                assert_eq!(find(data.clone()), (-1.0, at), "{length}");
                data[length / 2] = f32::NAN;
                data[length - 1] = f32::NAN;
                let (most, place) = find(data);
                assert!(most.is_nan() && place == length / 2, "{length}");
                assert_eq!(find(vec![f32::NEG_INFINITY; length]), (f32::NEG_INFINITY, 0));
            }
        }
    }
}
