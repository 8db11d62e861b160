//! `softmax` and its backward: differences that overflow an exponential, equal rows, peaks, NaN that stays in its row.

use proptest::prelude::*;

use super::{
    Family, LENGTHS, RANKS, SOME_LENGTHS, Sweep,
    draw::{Draw, Range, TAME, single},
    length, sizes, viewed,
};
use crate::{
    error::Error,
    recipe::{Fill, Recipe, View},
};

pub(super) const SOFTMAX: Family = Family { op: "softmax", draw, sweep, strategy };
pub(super) const SOFTMAX_BACKWARD: Family =
    Family { op: "softmax_backward", draw: draw_backward, sweep: sweep_backward, strategy: strategy_backward };

const FILLS: &[Fill] = &[
    Fill::Normal,
    Fill::Large,
    Fill::Small,
    Fill::Positive,
    Fill::Negative,
    Fill::Constant,
    Fill::Zeros,
    Fill::Ties,
    Fill::Special,
    Fill::Wide,
    Fill::Peak,
    Fill::Offset,
];
/// Of one element, or where all cotangents are equal, a gradient is 0 but for rounding: there is nothing to check.
const BACKWARD_FILLS: &[Fill] = &[Fill::Normal, Fill::Negative, Fill::Ties, Fill::Peak, Fill::Offset];
/// A difference of two of the greatest is beyond f32: its exponential is 0 all the same.
const RANGE: Range = Range { large: 1e30, special: f64::MAX, wide: 3e38 };

fn draw(draw: &mut Draw<'_>) -> Result<(), Error> {
    let sizes = draw.shape("x");
    let mut values = draw.values(&sizes, RANGE)?;
    if draw.recipe.fill == Fill::Nan {
        // One element of every third row.
        let n = sizes.last().copied().unwrap_or(1).max(1);
        for row in values.chunks_mut(n).skip(1).step_by(3) {
            if let Some(place) = row.get_mut(n / 2) {
                *place = f64::NAN;
            }
        }
    }
    if draw.recipe.fill == Fill::Negative {
        // So far below 0 that exponentials of the values themselves are 0 in every type.
        values.iter_mut().for_each(|value| *value = single(*value - 2000.0));
    }
    draw.push("x", &sizes, values)?;
    draw.cotangent(&sizes)?;
    draw.gradients(&["x"]);
    Ok(())
}

/// The softmax of each row of n, for saved outputs: in f64, rounded.
pub(super) fn softmax(values: &mut [f64], n: usize) {
    for row in values.chunks_mut(n.max(1)) {
        let greatest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        row.iter_mut().for_each(|value| *value = (*value - greatest).exp());
        let sum: f64 = row.iter().sum();
        row.iter_mut().for_each(|value| *value = single(*value / sum));
    }
}

fn draw_backward(draw: &mut Draw<'_>) -> Result<(), Error> {
    let sizes = draw.shape("x");
    let mut y = match draw.recipe.fill {
        Fill::Peak => draw.values(&sizes, TAME)?,
        _ => draw.normals(&sizes)?,
    };
    softmax(&mut y, sizes.last().copied().unwrap_or(1));
    draw.push("y", &sizes, y)?;
    if draw.recipe.fill == Fill::Peak { draw.normal("d_y", &sizes) } else { draw.float("d_y", &sizes, TAME) }
}

fn recipe(op: &str, sizes: &[usize]) -> Recipe {
    Recipe::new(op).shape("x", sizes)
}

fn rows(sweep: &mut Sweep, op: &str, backward: bool, fills: &[Fill]) {
    let recipe = |sizes: &[usize]| recipe(op, sizes).direction(backward);
    let of_gradients = backward || op == "softmax_backward";
    let lengths: &[usize] = if backward { &SOME_LENGTHS } else { &LENGTHS };
    for (at, &length) in lengths.iter().enumerate().filter(|(_, length)| **length != 1 || !of_gradients) {
        sweep.quick(recipe(&[at % 3 + 1, length]));
    }
    let one = |sizes: &[usize]| sizes.last() == Some(&1) && of_gradients;
    let ranks = RANKS.into_iter().filter(|sizes| !sizes.is_empty() && !one(sizes));
    for (sizes, view) in ranks.zip(View::OF_ROWS.into_iter().cycle()) {
        sweep.quick(recipe(sizes).view(view));
    }
    for &fill in fills {
        sweep.quick(recipe(&[5, 33]).fill(fill));
        sweep.quick(recipe(&[3, 129]).fill(fill).view(View::Sliced));
        sweep.full(recipe(&[2, 1000]).fill(fill));
    }
    for view in View::OF_ROWS {
        sweep.quick(recipe(&[7, 37]).view(view));
        sweep.quick(recipe(&[2, 3, 5, 7]).view(view));
    }
    // Many rows, long rows.
    sweep.quick(recipe(&[257, 3]));
    sweep.quick(recipe(&[1, 1025]));
    sweep.full(recipe(&[2, 32_000]));
    sweep.full(recipe(&[1, 65_536]));
    sweep.full(recipe(&[2, 12, 64, 64]));
}

fn sweep(sweep: &mut Sweep) {
    rows(sweep, "softmax", false, FILLS);
    rows(sweep, "softmax", true, BACKWARD_FILLS);
    for sizes in [&[7, 33][..], &[4, 1], &[5, 64]] {
        sweep.quick(recipe("softmax", sizes).fill(Fill::Nan));
    }
    sweep.quick(recipe("softmax", &[7, 37]).view(View::Repeated));
}

fn sweep_backward(sweep: &mut Sweep) {
    rows(sweep, "softmax_backward", false, BACKWARD_FILLS);
    for length in LENGTHS.into_iter().filter(|&length| length != 1) {
        sweep.quick(recipe("softmax_backward", &[2, length]));
    }
}

/// Rows of two and more where there are gradients.
fn shapes(of_gradients: bool) -> impl Strategy<Value = Vec<usize>> {
    let shapes = prop_oneof![sizes(1..=6, 4), (1..=4usize, length(130)).prop_map(|(rows, length)| vec![rows, length])];
    shapes.prop_map(move |mut sizes| {
        sizes.iter_mut().rev().take(1).filter(|size| of_gradients && **size == 1).for_each(|size| *size = 2);
        sizes
    })
}

fn strategy(backward: bool) -> Option<BoxedStrategy<Recipe>> {
    let recipes = shapes(backward).prop_map(move |sizes| recipe("softmax", &sizes).direction(backward));
    viewed(recipes, if backward { BACKWARD_FILLS } else { FILLS }, &View::OF_ROWS)
}

fn strategy_backward(backward: bool) -> Option<BoxedStrategy<Recipe>> {
    let recipes = shapes(true).prop_map(|sizes| recipe("softmax_backward", &sizes));
    if backward { None } else { viewed(recipes, BACKWARD_FILLS, &View::OF_ROWS) }
}
