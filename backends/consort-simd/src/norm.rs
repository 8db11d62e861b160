//! Layer norm (Ba et al. 2016) and RMS norm (Zhang & Sennrich 2019) over the last axis, and their backwards.
//!
//! Statistics of a row are sums in f32; what is made of them, `1/√(mean + ε)`, is computed in f64 and rounded once, so that
//! elements are multiplied and never divided. Sums over rows are taken in blocks of [`BLOCK`] rows, while these are near, and
//! the blocks are added in their order.

use std::ops::Range;

use consort_core::{Outputs, Result, Tensor};
use smallvec::smallvec;

use crate::{
    Simd,
    isa::{Isa, Kernel},
    lanes::{Fold, Map, Output, RowsAt, Sum, fold, map},
    storage::Buffer,
};

/// Elements that a task has at least.
const GRAIN: usize = 1 << 13;
/// Rows whose cotangents are summed at a time.
const BLOCK: usize = 16;

/// `(x − mean) / √(var + ε) · w + b`; in place where it may be.
pub(crate) fn layer_norm(
    simd: &Simd,
    x: &mut Tensor<Buffer>,
    weight: &mut Tensor<Buffer>,
    bias: &mut Option<Tensor<Buffer>>,
    epsilon: f64,
) -> Result<Outputs<Buffer>> {
    let bias = bias.as_mut().map(|bias| vector(simd, bias)).transpose()?;
    norm(simd, x, weight, bias, Kind { centred: true, unit_offset: false, epsilon })
}

/// `x / √(mean(x²) + ε) · w`, or `· (1 + w)`; in place where it may be.
pub(crate) fn rms_norm(
    simd: &Simd,
    x: &mut Tensor<Buffer>,
    weight: &mut Tensor<Buffer>,
    epsilon: f64,
    unit_offset: bool,
) -> Result<Outputs<Buffer>> {
    norm(simd, x, weight, None, Kind { centred: false, unit_offset, epsilon })
}

/// Cotangents of x, weight and bias.
pub(crate) fn layer_norm_backward(
    simd: &Simd,
    x: &mut Tensor<Buffer>,
    weight: &mut Tensor<Buffer>,
    d_y: &mut Tensor<Buffer>,
    epsilon: f64,
) -> Result<Outputs<Buffer>> {
    backward(simd, x, weight, d_y, Kind { centred: true, unit_offset: false, epsilon })
}

/// Cotangents of x and weight.
pub(crate) fn rms_norm_backward(
    simd: &Simd,
    x: &mut Tensor<Buffer>,
    weight: &mut Tensor<Buffer>,
    d_y: &mut Tensor<Buffer>,
    epsilon: f64,
    unit_offset: bool,
) -> Result<Outputs<Buffer>> {
    backward(simd, x, weight, d_y, Kind { centred: false, unit_offset, epsilon })
}

/// Which norm.
#[derive(Clone, Copy)]
struct Kind {
    /// The mean is taken off.
    centred: bool,
    /// The weight is the difference from one.
    unit_offset: bool,
    epsilon: f64,
}

/// The elements of a vector, where they lie together.
fn vector(simd: &Simd, x: &mut Tensor<Buffer>) -> Result<RowsAt> {
    let n = x.shape().elements();
    Ok(RowsAt::new(&simd.rows(x, n)?))
}

fn norm(
    simd: &Simd,
    x: &mut Tensor<Buffer>,
    weight: &mut Tensor<Buffer>,
    bias: Option<RowsAt>,
    kind: Kind,
) -> Result<Outputs<Buffer>> {
    let n = weight.shape().elements().max(1);
    let rows = x.shape().elements() / n;
    let weight = vector(simd, weight)?;
    let (from, out) = Output::in_place(simd, x, n)?;
    simd.team.ranges(rows, GRAIN / n + 1, |rows| {
        simd.level.run(Norm { from, to: &out, weight, bias, n, rows, kind });
    });
    Ok(smallvec![out.into_buffer()])
}

/// Some rows.
struct Norm<'a> {
    from: RowsAt,
    to: &'a Output,
    weight: RowsAt,
    bias: Option<RowsAt>,
    n: usize,
    rows: Range<usize>,
    kind: Kind,
}

impl Kernel for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { from, to, weight, bias, n, rows, kind } = self;
        for row in rows {
            // SAFETY: there are so many rows of n elements, weight and bias have as many, and tasks have rows of their own.
            unsafe {
                let (x, y, weight) = (from.row(row), to.at(row * n), weight.row(0));
                let scale = Scale { unit: statistics(isa, x, n, kind), offset: f32::from(kind.unit_offset) };
                match bias {
                    Some(bias) => map(isa, scale, [x, weight, bias.row(0)], [y], n),
                    None => map(isa, scale, [x, weight], [y], n),
                }
            }
        }
    }
}

/// What a row is normed by.
///
/// # Safety
/// `x` must be good for n elements.
#[inline(always)]
unsafe fn statistics<S: Isa>(isa: S, x: *const f32, n: usize, kind: Kind) -> Unit {
    // SAFETY: the caller's promise.
    unsafe {
        let count = n as f64;
        let mean = if kind.centred {
            let [sum] = fold(isa, Sum, [x], n, 0.0);
            (f64::from(isa.sum(sum)) / count) as f32
        } else {
            0.0
        };
        let [squares] = fold(isa, Squares(mean), [x], n, 0.0);
        let inverse = ((f64::from(isa.sum(squares)) / count + kind.epsilon).sqrt().recip()) as f32;
        Unit { mean, inverse }
    }
}

/// `(x − mean) · inverse`.
#[derive(Clone, Copy)]
struct Unit {
    mean: f32,
    inverse: f32,
}

impl Unit {
    #[inline(always)]
    fn of<S: Isa>(self, isa: S, x: S::F) -> S::F {
        isa.mul(isa.sub(x, isa.splat(self.mean)), isa.splat(self.inverse))
    }
}

/// `Σ (x − m)²`.
#[derive(Clone, Copy)]
struct Squares(f32);

impl Fold<1, 1> for Squares {
    #[inline(always)]
    fn step<S: Isa>(self, isa: S, [sum]: [S::F; 1], [x]: [S::F; 1]) -> [S::F; 1] {
        let deviation = isa.sub(x, isa.splat(self.0));
        [isa.mul_add(deviation, deviation, sum)]
    }
}

/// `unit · (offset + weight)`, and a bias.
#[derive(Clone, Copy)]
struct Scale {
    unit: Unit,
    offset: f32,
}

impl Map<2, 1> for Scale {
    #[inline(always)]
    fn apply<S: Isa>(self, isa: S, [x, weight]: [S::F; 2]) -> [S::F; 1] {
        [isa.mul(self.unit.of(isa, x), isa.add(weight, isa.splat(self.offset)))]
    }
}

impl Map<3, 1> for Scale {
    #[inline(always)]
    fn apply<S: Isa>(self, isa: S, [x, weight, bias]: [S::F; 3]) -> [S::F; 1] {
        [isa.mul_add(self.unit.of(isa, x), isa.add(weight, isa.splat(self.offset)), bias)]
    }
}

fn backward(
    simd: &Simd,
    x: &mut Tensor<Buffer>,
    weight: &mut Tensor<Buffer>,
    d_y: &mut Tensor<Buffer>,
    kind: Kind,
) -> Result<Outputs<Buffer>> {
    let n = weight.shape().elements().max(1);
    let rows = x.shape().elements() / n;
    let blocks = rows.div_ceil(BLOCK);
    let weight = vector(simd, weight)?;
    let x = RowsAt::new(&simd.rows(x, n)?);
    let (d_y, d_x) = Output::in_place(simd, d_y, n)?;
    // Sums of d_y·x̂ and of d_y of each block.
    let sums = Output::new(simd, blocks * 2 * n)?;
    let kernel = Backward { x, d_y, weight, d_x: &d_x, sums: &sums, n, rows, kind, blocks: 0..0 };
    simd.team.ranges(blocks, GRAIN / (BLOCK * n) + 1, |blocks| simd.level.run(Backward { blocks, ..kernel.clone() }));
    let mut outputs: Outputs<Buffer> = smallvec![];
    for which in 0..if kind.centred { 2 } else { 1 } {
        let out = Output::new(simd, n)?;
        simd.team.ranges(n, GRAIN / blocks.max(1) + 64, |columns| {
            simd.level.run(OverBlocks { sums: &sums, first: which * n, n, blocks, to: &out, columns });
        });
        outputs.push(out.into_buffer());
    }
    outputs.insert(0, d_x.into_buffer());
    Ok(outputs)
}

/// Some blocks of rows.
#[derive(Clone)]
struct Backward<'a> {
    x: RowsAt,
    d_y: RowsAt,
    weight: RowsAt,
    d_x: &'a Output,
    sums: &'a Output,
    n: usize,
    rows: usize,
    kind: Kind,
    blocks: Range<usize>,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { x, d_y, weight, d_x, sums, n, rows, kind, blocks } = self;
        let (count, offset) = (n as f64, f32::from(kind.unit_offset));
        for block in blocks {
            // SAFETY: there are so many rows of n elements, the weight has as many, `sums` has two rows a block, and tasks have
            // blocks of their own.
            unsafe {
                let to = [sums.at(2 * block * n), sums.at((2 * block + 1) * n)];
                for to in to {
                    to.write_bytes(0, n);
                }
                for row in block * BLOCK..rows.min((block + 1) * BLOCK) {
                    let (x, d_y, weight) = (x.row(row), d_y.row(row), weight.row(0));
                    let unit = statistics(isa, x, n, kind);
                    let [along, mean] = fold(isa, Along { unit, offset }, [x, d_y, weight], n, 0.0);
                    let along = (f64::from(isa.sum(along)) / count) as f32;
                    let mean = if kind.centred { (f64::from(isa.sum(mean)) / count) as f32 } else { 0.0 };
                    let sums = [to[0].cast_const(), to[1].cast_const()];
                    let f = Cotangent { unit, offset, along, mean };
                    map(isa, f, [x, d_y, weight, sums[0], sums[1]], [d_x.at(row * n), to[0], to[1]], n);
                }
            }
        }
    }
}

/// `Σ g·x̂` and `Σ g`, `g = d_y · (offset + weight)`.
#[derive(Clone, Copy)]
struct Along {
    unit: Unit,
    offset: f32,
}

impl Fold<3, 2> for Along {
    #[inline(always)]
    fn step<S: Isa>(self, isa: S, [along, sum]: [S::F; 2], [x, d_y, weight]: [S::F; 3]) -> [S::F; 2] {
        let d_unit = isa.mul(d_y, isa.add(weight, isa.splat(self.offset)));
        [isa.mul_add(d_unit, self.unit.of(isa, x), along), isa.add(sum, d_unit)]
    }
}

/// `(g − mean − x̂ · along) · inverse`; d_y·x̂ and d_y are added to sums.
#[derive(Clone, Copy)]
struct Cotangent {
    unit: Unit,
    offset: f32,
    along: f32,
    mean: f32,
}

impl Map<5, 3> for Cotangent {
    #[inline(always)]
    fn apply<S: Isa>(self, isa: S, [x, d_y, weight, products, sum]: [S::F; 5]) -> [S::F; 3] {
        let unit = self.unit.of(isa, x);
        let d_unit = isa.mul(d_y, isa.add(weight, isa.splat(self.offset)));
        let centred = isa.sub(d_unit, isa.splat(self.mean));
        let rest = isa.neg_mul_add(unit, isa.splat(self.along), centred);
        [isa.mul(rest, isa.splat(self.unit.inverse)), isa.mul_add(d_y, unit, products), isa.add(sum, d_y)]
    }
}

/// Some columns of the sums of all blocks.
struct OverBlocks<'a> {
    sums: &'a Output,
    /// Where the first block's row of them begins.
    first: usize,
    n: usize,
    blocks: usize,
    to: &'a Output,
    columns: Range<usize>,
}

impl Kernel for OverBlocks<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { sums, first, n, blocks, to, columns } = self;
        // SAFETY: there are so many blocks of 2n sums and n columns, and tasks have columns of their own.
        unsafe {
            let to = to.at(columns.start);
            to.write_bytes(0, columns.len());
            for block in 0..blocks {
                let row = sums.at(first + 2 * block * n + columns.start).cast_const();
                map(isa, Plus, [to.cast_const(), row], [to], columns.len());
            }
        }
    }
}

/// `a + b`.
#[derive(Clone, Copy)]
struct Plus;

impl Map<2, 1> for Plus {
    #[inline(always)]
    fn apply<S: Isa>(self, isa: S, [a, b]: [S::F; 2]) -> [S::F; 1] {
        [isa.add(a, b)]
    }
}
