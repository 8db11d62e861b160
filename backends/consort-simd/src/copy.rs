//! Elements in row-major order, cast to another type.

use std::ops::Range;

use consort_core::{DType, Result, Tensor, to_bf16, to_f16};
use half::{bf16, f16};

use crate::{
    Simd,
    isa::{Isa, Kernel},
    storage::{Buffer, Item, filled, misfit, take},
    strided::{GRAIN, Walk, by_dtype, whole},
    team::Parts,
};

/// Rows and columns that are turned at a time: what is read of a row and written of one is then a few whole cache lines.
const TILE: usize = 64;

/// The elements of `x`, each rounded once to `dtype`. A copy of the same type keeps every bit; it is no copy where nobody else
/// holds `x`.
pub(crate) fn copy(simd: &Simd, x: &mut Tensor<Buffer>, dtype: DType) -> Result<Buffer> {
    if dtype == x.dtype()
        && let Some(buffer) = take_any(simd, x)
    {
        return Ok(buffer);
    }
    by_dtype!(x.dtype(), from(simd, x, dtype))
}

/// As [`take`], whatever the type.
pub(crate) fn take_any(simd: &Simd, x: &mut Tensor<Buffer>) -> Option<Buffer> {
    match x.dtype() {
        DType::F32 => take::<f32>(x, &simd.none),
        DType::F16 => take::<f16>(x, &simd.none),
        DType::BF16 => take::<bf16>(x, &simd.none),
        DType::U32 => take::<u32>(x, &simd.none),
        DType::F64 => None,
    }
}

fn from<F: Cast<f32> + Cast<f16> + Cast<bf16> + Cast<u32>>(
    simd: &Simd,
    x: &Tensor<Buffer>,
    dtype: DType,
) -> Result<Buffer> {
    match dtype {
        DType::F32 => cast::<F, f32>(simd, x),
        DType::F16 => cast::<F, f16>(simd, x),
        DType::BF16 => cast::<F, bf16>(simd, x),
        DType::U32 => cast::<F, u32>(simd, x),
        DType::F64 => Err(misfit("this backend does not hold f64")),
    }
}

fn cast<F: Cast<T>, T: Item>(simd: &Simd, x: &Tensor<Buffer>) -> Result<Buffer> {
    let elements = x.shape().elements();
    let from = whole::<F>(x)?;
    let mut out = simd.pool.take::<T>(elements)?;
    let walk = Walk::new([x.layout()]);
    let to = Parts::new(filled::<T>(&mut out)?);
    if let Some(turn) = Turn::of(&walk) {
        simd.team.ranges(turn.tasks(), GRAIN / (TILE * turn.columns), |tasks| {
            simd.level.run(Turned { turn: &turn, from, to: &to, tasks });
        });
    } else {
        simd.team.ranges(elements, GRAIN, |range| {
            // SAFETY: ranges of different tasks do not meet.
            let to = unsafe { to.part(range.clone()) };
            simd.level.run(Straight { walk: &walk, from, to, range });
        });
    }
    Ok(out)
}

/// How a type is cast to T.
trait Cast<T: Item>: Item {
    fn one(self) -> T;

    /// Each element of as many.
    #[inline(always)]
    fn row<S: Isa>(isa: S, from: &[Self], to: &mut [T]) {
        let _ = isa;
        for (to, from) in to.iter_mut().zip(from) {
            *to = from.one();
        }
    }
}

macro_rules! casts {
    ($($From:ident to $To:ident: |$x:ident| $one:expr;)*) => { $(
        impl Cast<$To> for $From {
            #[inline(always)]
            fn one(self) -> $To {
                let $x = self;
                $one
            }
        }
    )* };
    // By lanes, as far as they are full.
    (lanes $($From:ident to $To:ident: |$x:ident| $one:expr, |$isa:ident, $from:ident, $to:ident| $lanes:expr;)*) => { $(
        impl Cast<$To> for $From {
            #[inline(always)]
            fn one(self) -> $To {
                let $x = self;
                $one
            }

            #[inline(always)]
            fn row<S: Isa>($isa: S, from: &[Self], to: &mut [$To]) {
                let (mut from, mut to) = (from.chunks_exact(S::LANES), to.chunks_exact_mut(S::LANES));
                for ($from, $to) in from.by_ref().zip(to.by_ref()) {
                    let ($from, $to) = ($from.as_ptr(), $to.as_mut_ptr());
                    // SAFETY: both have LANES elements; f16 and bf16 are their bits.
                    unsafe { $lanes };
                }
                for (to, from) in to.into_remainder().iter_mut().zip(from.remainder()) {
                    *to = from.one();
                }
            }
        }
    )* };
    (same $($Type:ident)*) => { $(
        impl Cast<$Type> for $Type {
            #[inline(always)]
            fn one(self) -> $Type {
                self
            }

            #[inline(always)]
            fn row<S: Isa>(_: S, from: &[Self], to: &mut [Self]) {
                to.copy_from_slice(from);
            }
        }
    )* };
}

casts! { same f32 f16 bf16 u32 }

casts! { lanes
    f32 to f16: |x| f16::from_f32(x), |isa, from, to| isa.store_f16(to.cast(), isa.load(from));
    f32 to bf16: |x| bf16::from_f32(x), |isa, from, to| isa.store_bf16(to.cast(), isa.load(from));
    f16 to f32: |x| x.to_f32(), |isa, from, to| isa.store(to, isa.load_f16(from.cast()));
    bf16 to f32: |x| x.to_f32(), |isa, from, to| isa.store(to, isa.load_bf16(from.cast()));
}

// Every f16 and bf16 is an f32, a u32 is not: by way of f64, it is rounded once all the same.
casts! {
    f32 to u32: |x| x as u32;
    f16 to bf16: |x| bf16::from_f32(x.to_f32());
    f16 to u32: |x| x.to_f32() as u32;
    bf16 to f16: |x| f16::from_f32(x.to_f32());
    bf16 to u32: |x| x.to_f32() as u32;
    u32 to f32: |x| x as f32;
    u32 to f16: |x| to_f16(f64::from(x));
    u32 to bf16: |x| to_bf16(f64::from(x));
}

/// A range of the elements, row after row.
struct Straight<'a, F, T> {
    walk: &'a Walk<1>,
    from: &'a [F],
    to: &'a mut [T],
    range: Range<usize>,
}

impl<F: Cast<T>, T: Item> Kernel for Straight<'_, F, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { walk, from, to, range } = self;
        let [step] = walk.steps();
        let start = range.start;
        for (range, [first]) in walk.segments(range) {
            let to = &mut to[range.start - start..range.end - start];
            match step {
                1 => F::row(isa, &from[first..first + to.len()], to),
                0 => to.fill(from[first].one()),
                _ => {
                    for (to, from) in to.iter_mut().zip(from[first..].iter().step_by(step)) {
                        *to = from.one();
                    }
                }
            }
        }
    }
}

/// How a tensor lies whose last dimension is not the one along which its elements lie together.
#[derive(Clone, Copy)]
struct Turn {
    /// The dimension along which they do: its size and, in the output, its stride.
    rows: usize,
    row_stride: usize,
    /// The last dimension: its size and, in the operand, its stride.
    columns: usize,
    column_stride: usize,
    /// Of the other dimensions: size, stride in the operand, stride in the output.
    others: [[usize; 3]; 4],
    first: usize,
}

impl Turn {
    fn of(walk: &Walk<1>) -> Option<Self> {
        let (sizes, strides) = (walk.sizes(), walk.strides());
        let last = sizes.len() - 1;
        let together = (0..last).rev().find(|&axis| strides[axis] == [1])?;
        if strides[last][0] < 2 || sizes[last].min(sizes[together]) < 4 {
            return None;
        }
        let mut others = [[1, 0, 0]; 4];
        let mut place = others.iter_mut();
        let (mut row_stride, mut stride) = (0, 1);
        for axis in (0..=last).rev() {
            if axis == together {
                row_stride = stride;
            } else if axis != last {
                *place.next()? = [sizes[axis], strides[axis][0], stride];
            }
            stride *= sizes[axis];
        }
        let (rows, columns) = (sizes[together], sizes[last]);
        Some(Self { rows, row_stride, columns, column_stride: strides[last][0], others, first: walk.first()[0] })
    }

    /// How many times TILE rows there are.
    fn tasks(&self) -> usize {
        self.rows.div_ceil(TILE) * self.others.iter().map(|[size, ..]| size).product::<usize>()
    }

    /// Of a task: its first row, and where its dimensions begin in the operand and in the output.
    fn task(&self, task: usize) -> (usize, usize, usize) {
        let blocks = self.rows.div_ceil(TILE);
        let (mut rest, row) = (task / blocks, task % blocks * TILE);
        let (mut from, mut to) = (self.first, 0);
        for [size, from_stride, to_stride] in self.others {
            from += rest % size * from_stride;
            to += rest % size * to_stride;
            rest /= size;
        }
        (row, from, to)
    }
}

/// Tasks of a [`Turn`].
struct Turned<'a, F, T> {
    turn: &'a Turn,
    from: &'a [F],
    to: &'a Parts<T>,
    tasks: Range<usize>,
}

impl<F: Cast<T>, T: Item> Kernel for Turned<'_, F, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { turn, from, to, tasks } = self;
        let mut tile = [F::ZERO; TILE * TILE];
        for task in tasks {
            let (row, from_first, to_first) = turn.task(task);
            let rows = TILE.min(turn.rows - row);
            for column in (0..turn.columns).step_by(TILE) {
                let columns = TILE.min(turn.columns - column);
                for c in 0..columns {
                    let from = &from[from_first + row + (column + c) * turn.column_stride..][..rows];
                    for (r, from) in from.iter().enumerate() {
                        tile[r * TILE + c] = *from;
                    }
                }
                for (r, tile) in tile.chunks_exact(TILE).take(rows).enumerate() {
                    let start = to_first + (row + r) * turn.row_stride + column;
                    // SAFETY: rows of a task's tiles are its own.
                    F::row(isa, &tile[..columns], unsafe { to.part(start..start + columns) });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use consort_core::{Backend, HostData, Layout, Shape};

    use super::*;
    use crate::isa::Level;

    #[test]
    fn any_order_of_dimensions_and_any_type() {
        let sizes = [3, 70, 5, 66];
        let values: Vec<f64> = (0..sizes.iter().product()).map(|i: usize| (i as f64 - 5000.0) * 0.37).collect();
        let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [0, 3, 2, 1], [1, 3, 0, 2], [2, 0, 3, 1], [0, 1, 3, 2]];
        for simd in Level::available().into_iter().flat_map(|level| [1, 3].map(|threads| Simd::new(level, threads))) {
            for dtype in [DType::F32, DType::F16, DType::BF16, DType::U32] {
                let whole = simd.upload(HostData::from_f64(values.iter().copied(), dtype)).unwrap();
                let held = whole.to_host().to_f64();
                for order in orders {
                    let layout = Layout::contiguous(Shape::new(&sizes).unwrap()).permute(&order).unwrap();
                    let layout = layout.slice(0, 1, layout.shape().sizes()[0] - 1).unwrap();
                    let mut expected = vec![layout.offset()];
                    for (size, stride) in layout.shape().sizes().iter().zip(layout.strides()) {
                        expected = expected.iter().flat_map(|at| (0..*size).map(move |i| at + i * stride)).collect();
                    }
                    for to in [DType::F32, DType::F16, DType::BF16, DType::U32] {
                        let mut x = Tensor::with_layout(whole.clone(), layout, dtype);
                        let found = copy(&simd, &mut x, to).unwrap().to_host();
                        assert_eq!(found, HostData::from_f64(expected.iter().map(|&at| held[at]), to), "{order:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_copy_that_nobody_else_holds_is_none() {
        let simd = Simd::new(Level::best(), 1);
        let data = HostData::F32((0..100).map(|i| i as f32).collect());
        let mut x = Tensor::new(simd.upload(data.clone()).unwrap(), Shape::new(&[100]).unwrap(), DType::F32);
        let address = x.buffer.elements::<f32>().unwrap().as_ptr();
        let held = x.buffer.clone();
        let other = copy(&simd, &mut x, DType::F32).unwrap();
        assert_ne!(other.elements::<f32>().unwrap().as_ptr(), address);
        assert_eq!(other.to_host(), data);
        drop(held);
        assert_eq!(copy(&simd, &mut x, DType::F32).unwrap().elements::<f32>().unwrap().as_ptr(), address);
    }
}
