//! Rules of the primitives.

use smallvec::{SmallVec, smallvec};

use super::rule::{Found, Rule, unbroadcast};
use crate::{
    backend::{Backend, PrimitiveOf, TensorOf},
    device::Device,
    error::Result,
    operation::{BinaryKind, Primitive, ReduceKind, UnaryKind},
};

/// The rule of an operation some of whose operands `need` a gradient; `None` where its output has none.
pub(super) fn rule<B: Backend>(operation: &PrimitiveOf<B>, needs: &[bool]) -> Result<Option<Rule<B>>> {
    Ok(Some(match operation {
        Primitive::Fill { .. } => return Ok(None),
        // Through a rounding as if it were none; a whole number has no gradient.
        Primitive::Copy { dtype, .. } if !dtype.is_float() => return Ok(None),
        Primitive::Copy { .. } => Rule::of_one([], &[], |_, _, d| Ok(smallvec![Some(d)])),
        Primitive::Write { x, start, .. } => {
            let (sizes, start): (SmallVec<[usize; 6]>, _) = (x.sizes().into(), *start);
            Rule::of_one([], &[], move |device, _, d| {
                let mut d_x = d.clone();
                for (axis, (&start, &size)) in start.sizes().iter().zip(&sizes).enumerate() {
                    d_x = d_x.slice(axis, start, size)?;
                }
                let d_x = device.copy(&d_x, d_x.dtype())?;
                let zeros = device.fill(&sizes, 0.0)?;
                Ok(smallvec![Some(device.write(d, zeros, start.sizes())?), Some(d_x)])
            })
        }
        Primitive::Unary { x, kind } => match unary(x, *kind) {
            Some(rule) => rule,
            None => return Ok(None),
        },
        Primitive::Binary { a, b, kind } => match binary(a, b, *kind, needs) {
            Some(rule) => rule,
            None => return Ok(None),
        },
        Primitive::Select { mask, a, b } => {
            let sizes = [a, b].map(|x| SmallVec::<[usize; 6]>::from(x.sizes()));
            Rule::of_one([mask.clone()], &[], move |device, saved, d| {
                let zero = device.fill(&[1], 0.0)?;
                let d_a = device.select(saved[0].clone(), d.clone(), zero.clone())?;
                let d_b = device.select(saved[0].clone(), zero, d)?;
                let [a, b] = &sizes;
                Ok(smallvec![None, Some(unbroadcast(device, d_a, a)?), Some(unbroadcast(device, d_b, b)?)])
            })
        }
        Primitive::Reduce { kind: ReduceKind::ArgMaximum, .. } => return Ok(None),
        Primitive::Reduce { x, kind: ReduceKind::Sum, .. } => {
            let sizes: SmallVec<[usize; 6]> = x.sizes().into();
            Rule::of_one([], &[], move |_, _, d| Ok(smallvec![Some(d.broadcast_to(&sizes)?)]))
        }
        Primitive::Reduce { x, axis, kind: ReduceKind::Maximum } => {
            let axis = *axis;
            Rule::of_one([x.clone()], &[], move |device, saved, d| {
                let x = &saved[0];
                // Where the first of the greatest is.
                let mut along: SmallVec<[usize; 6]> = smallvec![1; x.shape().rank()];
                along[axis] = x.size(axis);
                let ids = device.upload_ids((0..x.size(axis) as u32).collect())?.view(&along)?;
                let greatest = device.reduce(x, axis, ReduceKind::ArgMaximum)?;
                let chosen = device.binary(greatest, ids, BinaryKind::Equal)?;
                Ok(smallvec![Some(device.select(chosen, d, device.fill(&[1], 0.0)?)?)])
            })
        }
        Primitive::MatMul { a, b } => matmul(a, b, needs),
        Primitive::GatherRows { x, ids } => {
            let sizes: SmallVec<[usize; 6]> = x.sizes().into();
            Rule::of_one([ids.clone()], &[], move |device, saved, d| {
                let d_x = device.scatter_rows(device.fill(&sizes, 0.0)?, &saved[0], d, true)?;
                Ok(smallvec![Some(d_x), None])
            })
        }
        Primitive::ScatterRows { ids, add: true, .. } => Rule::of_one([ids.clone()], &[], |device, saved, d| {
            let d_x = device.gather_rows(&d, &saved[0])?;
            Ok(smallvec![Some(d), None, Some(d_x)])
        }),
        Primitive::ScatterRows { x, ids, add: false, .. } => {
            let sizes: SmallVec<[usize; 6]> = x.sizes().into();
            Rule::of_one([ids.clone()], &[], move |device, saved, d| replaced_rows(device, &saved[0], &d, &sizes))
        }
    }))
}

/// `(x or y, cotangent)` to the gradient.
type Slope<B> = fn(&Device<B>, TensorOf<B>, TensorOf<B>) -> Result<TensorOf<B>>;

fn unary<B: Backend>(x: &TensorOf<B>, kind: UnaryKind) -> Option<Rule<B>> {
    let from_x = |slope: Slope<B>| {
        Rule::of_one([x.clone()], &[], move |device: &Device<B>, saved, d| {
            Ok(smallvec![Some(slope(device, saved[0].clone(), d)?)])
        })
    };
    let from_y = |slope: Slope<B>| {
        Rule::of_one([], &[0], move |device: &Device<B>, saved, d| {
            Ok(smallvec![Some(slope(device, saved[0].clone(), d)?)])
        })
    };
    Some(match kind {
        UnaryKind::Negate => {
            Rule::of_one([], &[], |device: &Device<B>, _, d| Ok(smallvec![Some(device.unary(d, UnaryKind::Negate)?)]))
        }
        UnaryKind::Exp => from_y(|device, y, d| device.multiply(d, y)),
        UnaryKind::Log => from_x(|device, x, d| device.divide(d, x)),
        UnaryKind::Sqrt => from_y(|device, y, d| device.divide(d, device.scale(y, 2.0)?)),
        UnaryKind::Tanh => from_y(|device, y, d| {
            let square = device.multiply(y.clone(), y)?;
            device.multiply(d, device.subtract(device.fill(&[1], 1.0)?, square)?)
        }),
        // 2/√π · e^(−x²).
        UnaryKind::Erf => from_x(|device, x, d| {
            let square = device.multiply(x.clone(), x)?;
            let density = device.unary(device.unary(square, UnaryKind::Negate)?, UnaryKind::Exp)?;
            device.multiply(d, device.scale(density, std::f64::consts::FRAC_2_SQRT_PI)?)
        }),
        UnaryKind::Reciprocal => from_y(|device, y, d| {
            let square = device.multiply(y.clone(), y)?;
            device.unary(device.multiply(d, square)?, UnaryKind::Negate)
        }),
        // Through a rounding as if it were none, as through a cast; a whole number has no gradient.
        UnaryKind::Single => Rule::of_one([], &[], |_, _, d| Ok(smallvec![Some(d)])),
        UnaryKind::Round => return None,
    })
}

fn binary<B: Backend>(a: &TensorOf<B>, b: &TensorOf<B>, kind: BinaryKind, needs: &[bool]) -> Option<Rule<B>> {
    let [need_a, need_b] = [needs[0], needs[1]];
    let sizes = [a, b].map(|x| SmallVec::<[usize; 6]>::from(x.sizes()));
    let back = move |device: &Device<B>, d_a: Option<TensorOf<B>>, d_b: Option<TensorOf<B>>| -> Result<Found<B>> {
        let fit = |d: Option<TensorOf<B>>, sizes: &[usize]| d.map(|d| unbroadcast(device, d, sizes)).transpose();
        Ok(smallvec![fit(d_a, &sizes[0])?, fit(d_b, &sizes[1])?])
    };
    Some(match kind {
        BinaryKind::Less | BinaryKind::Equal => return None,
        BinaryKind::Add => {
            Rule::of_one([], &[], move |device, _, d| back(device, need_a.then(|| d.clone()), need_b.then_some(d)))
        }
        BinaryKind::Subtract => Rule::of_one([], &[], move |device, _, d| {
            let d_b = if need_b { Some(device.unary(d.clone(), UnaryKind::Negate)?) } else { None };
            back(device, need_a.then_some(d), d_b)
        }),
        BinaryKind::Multiply => {
            // Each factor is kept for the other's gradient.
            let saved = [need_a.then(|| b.clone()), need_b.then(|| a.clone())];
            Rule::of_one(saved.into_iter().flatten(), &[], move |device, saved, d| {
                let mut factors = saved.into_iter();
                let d_a =
                    if need_a { factors.next().map(|b| device.multiply(d.clone(), b)).transpose()? } else { None };
                let d_b = if need_b { factors.next().map(|a| device.multiply(d, a)).transpose()? } else { None };
                back(device, d_a, d_b)
            })
        }
        BinaryKind::Divide if need_b => {
            // −d·y/b.
            Rule::of_one([b.clone()], &[0], move |device, saved, d| {
                let d_a = device.divide(d, saved[0].clone())?;
                let d_b = device.unary(device.multiply(d_a.clone(), saved[1].clone())?, UnaryKind::Negate)?;
                back(device, need_a.then_some(d_a), Some(d_b))
            })
        }
        BinaryKind::Divide => Rule::of_one([b.clone()], &[], move |device, saved, d| {
            back(device, Some(device.divide(d, saved[0].clone())?), None)
        }),
        BinaryKind::Maximum | BinaryKind::Minimum => {
            Rule::of_one([a.clone(), b.clone()], &[], move |device, saved, d| {
                // All to the one that is taken, half to each of two equals.
                let [a, b] = [saved[0].clone(), saved[1].clone()];
                let less = device.binary(a.clone(), b.clone(), BinaryKind::Less)?;
                let more = device.binary(b.clone(), a.clone(), BinaryKind::Less)?;
                let equal = device.binary(a, b, BinaryKind::Equal)?;
                let (of_a, of_b) = if kind == BinaryKind::Maximum { (more, less) } else { (less, more) };
                let zero = device.fill(&[1], 0.0)?;
                let half = device.select(equal, device.scale(d.clone(), 0.5)?, zero)?;
                let d_a = device.select(of_a, d.clone(), half.clone())?;
                let d_b = device.select(of_b, d, half)?;
                back(device, need_a.then_some(d_a), need_b.then_some(d_b))
            })
        }
    })
}

/// `d_a = d·bᵀ`, `d_b = aᵀ·d`, summed over batches that were broadcast.
fn matmul<B: Backend>(a: &TensorOf<B>, b: &TensorOf<B>, needs: &[bool]) -> Rule<B> {
    let [need_a, need_b] = [needs[0], needs[1]];
    let sizes = [a, b].map(|x| SmallVec::<[usize; 6]>::from(x.sizes()));
    let saved = [need_a.then(|| b.clone()), need_b.then(|| a.clone())];
    Rule::of_one(saved.into_iter().flatten(), &[], move |device, saved, d| {
        let transposed = |x: TensorOf<B>| {
            let rank = x.shape().rank();
            let mut order: SmallVec<[usize; 6]> = (0..rank).collect();
            order.swap(rank - 2, rank - 1);
            x.permute(&order)
        };
        let mut factors = saved.into_iter();
        let mut found: Found<B> = smallvec![None, None];
        if let Some(b) = factors.next_if_needed(need_a) {
            found[0] = Some(unbroadcast(device, device.matmul(&d, &transposed(b)?)?, &sizes[0])?);
        }
        if let Some(a) = factors.next_if_needed(need_b) {
            found[1] = Some(unbroadcast(device, device.matmul(&transposed(a)?, &d)?, &sizes[1])?);
        }
        Ok(found)
    })
}

/// What is saved only where it is needed, in order.
trait NextIfNeeded: Iterator {
    fn next_if_needed(&mut self, needed: bool) -> Option<Self::Item> {
        if needed { self.next() } else { None }
    }
}

impl<I: Iterator> NextIfNeeded for I {}

/// Gradients of rows `ids` replaced: none into what was there, and of several rows for one place, into the last alone.
fn replaced_rows<B: Backend>(
    device: &Device<B>,
    ids: &TensorOf<B>,
    d: &TensorOf<B>,
    sizes: &[usize],
) -> Result<Found<B>> {
    let count = ids.size(0);
    let numbers = device.upload_ids((0..count as u32).collect())?;
    let none = device.zeros(crate::shape::Shape::new(&[d.size(0), 1])?, crate::dtype::DType::U32)?;
    let last = device.scatter_rows(none, ids, numbers.view(&[count, 1])?, false)?;
    let winner = device.gather_rows(&last, ids)?.view(&[count])?;
    let stays = device.binary(winner, numbers, BinaryKind::Equal)?;
    let mut column: SmallVec<[usize; 6]> = smallvec![1; sizes.len()];
    column[0] = count;
    let gathered = device.gather_rows(d, ids)?;
    let d_x = device.select(stays.view(&column)?, gathered, device.fill(&[1], 0.0)?)?;
    let d_into = device.scatter_rows(d.clone(), ids, device.fill(sizes, 0.0)?, false)?;
    Ok(smallvec![Some(d_into), None, Some(d_x)])
}
