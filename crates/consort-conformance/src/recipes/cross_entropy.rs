//! `cross_entropy` and its backward: targets that are none, one class, a vocabulary, great differences.

use consort_core::sample::log_sum_exp;
use proptest::prelude::*;

use super::{
    Family, LENGTHS, SOME_LENGTHS, Sweep,
    draw::{Draw, Range, single},
    finished, length,
};
use crate::{
    error::Error,
    recipe::{Fill, Recipe, View},
};

pub(super) const CROSS_ENTROPY: Family = Family {
    op: "cross_entropy",
    draw,
    sweep: |sweep| {
        rows(sweep, "cross_entropy", false);
        rows(sweep, "cross_entropy", true);
    },
    strategy: |backward| strategy("cross_entropy", backward),
};
pub(super) const CROSS_ENTROPY_BACKWARD: Family = Family {
    op: "cross_entropy_backward",
    draw: draw_backward,
    sweep: |sweep| {
        rows(sweep, "cross_entropy_backward", false);
        // NaN in the rows without a target: logits, log-sum-exp and cotangent.
        for classes in [1, 5, 33] {
            sweep.quick(recipe("cross_entropy_backward", [7, classes], 0.1).fill(Fill::Masked));
        }
    },
    strategy: |backward| if backward { None } else { strategy("cross_entropy_backward", false) },
};

const SMOOTHINGS: [f64; 3] = [0.0, 0.1, 0.9];
const FILLS: &[Fill] = &[
    Fill::Normal,
    Fill::Large,
    Fill::Small,
    Fill::Negative,
    Fill::Ties,
    Fill::Peak,
    Fill::Offset,
    Fill::Beyond,
    Fill::Repeated,
    Fill::Wide,
];
const BACKWARD_FILLS: &[Fill] = &[Fill::Normal, Fill::Large, Fill::Negative, Fill::Ties, Fill::Peak, Fill::Beyond];
/// Sums of the logits, which smoothing takes, are within f32.
const RANGE: Range = Range { large: 100.0, special: 1e10, wide: 1e30 };

/// Sizes, logits and targets.
type Rows = ([usize; 2], Vec<f64>, Vec<u32>);

fn logits(draw: &mut Draw<'_>) -> Result<Rows, Error> {
    let [rows, classes] = [draw.dim("R")?, draw.dim("V")?];
    let logits = draw.values(&[rows, classes], RANGE)?;
    let mut targets = draw.ids(rows, classes);
    if draw.recipe.fill == Fill::Masked {
        targets.iter_mut().step_by(2).for_each(|target| *target = classes as u32);
    }
    if classes == 1 {
        // The loss of the only class is 0 but for rounding. Of most rows it must be 0, since they have no target.
        targets.iter_mut().enumerate().filter(|(row, _)| row % 3 != 1).for_each(|(_, target)| *target = 1);
    }
    Ok(([rows, classes], logits, targets))
}

fn draw(draw: &mut Draw<'_>) -> Result<(), Error> {
    let ([rows, classes], logits, targets) = logits(draw)?;
    draw.push("logits", &[rows, classes], logits)?;
    draw.push_ids("targets", &[rows], targets)?;
    draw.cotangent(&[rows])?;
    draw.cotangent(&[rows])?;
    draw.gradients(&["logits"]);
    Ok(())
}

fn draw_backward(draw: &mut Draw<'_>) -> Result<(), Error> {
    let ([rows, classes], mut logits, targets) = logits(draw)?;
    let mut log_sum: Vec<f64> = logits.chunks(classes.max(1)).map(|row| single(log_sum_exp(row))).collect();
    let mut d_loss = draw.normals(&[rows])?;
    if draw.recipe.fill == Fill::Masked {
        let masked = |row: usize| targets.get(row).is_none_or(|&target| target as usize >= classes);
        for (row, values) in logits.chunks_mut(classes.max(1)).enumerate().filter(|(row, _)| masked(*row)) {
            values.fill(f64::NAN);
            for place in [log_sum.get_mut(row), d_loss.get_mut(row)].into_iter().flatten() {
                *place = f64::NAN;
            }
        }
    }
    draw.push("logits", &[rows, classes], logits)?;
    draw.push_ids("targets", &[rows], targets)?;
    draw.push("log_sum", &[rows], log_sum)?;
    draw.push("d_loss", &[rows], d_loss)
}

fn recipe(op: &str, [rows, classes]: [usize; 2], smoothing: f64) -> Recipe {
    Recipe::new(op).dims([("R", rows), ("V", classes)]).attribute("smoothing", smoothing)
}

fn rows(sweep: &mut Sweep, op: &str, backward: bool) {
    let recipe = |sizes: [usize; 2], smoothing: f64| recipe(op, sizes, smoothing).direction(backward);
    // Of great logits the rounded log-sum-exp says nothing about differences.
    let of_gradients = backward || op == "cross_entropy_backward";
    let lengths: &[usize] = if backward { &SOME_LENGTHS } else { &LENGTHS };
    for (&length, smoothing) in lengths.iter().zip(SMOOTHINGS.into_iter().cycle()) {
        sweep.quick(recipe([length, 5], smoothing));
        if length > 1 {
            sweep.quick(recipe([3, length], smoothing));
            sweep.quick(recipe([3, length], 0.1).fill(Fill::Beyond));
        }
    }
    for smoothing in SMOOTHINGS {
        sweep.quick(recipe([4, 1], smoothing));
        for &fill in FILLS.iter().filter(|&&fill| !of_gradients || fill != Fill::Wide) {
            sweep.quick(recipe([5, 33], smoothing).fill(fill));
        }
        for view in View::ALL {
            sweep.quick(recipe([5, 17], smoothing).view(view));
        }
        sweep.quick(recipe([1, 4096], smoothing));
        sweep.full(recipe([3, 32_000], smoothing));
        sweep.full(recipe([129, 257], smoothing));
    }
}

fn strategy(op: &'static str, backward: bool) -> Option<BoxedStrategy<Recipe>> {
    let sizes = (0..=6usize, length(130)).prop_map(|(rows, classes)| [rows, classes.max(2)]);
    let recipes = (sizes, prop::sample::select(SMOOTHINGS.to_vec()))
        .prop_map(move |(sizes, smoothing)| recipe(op, sizes, smoothing).direction(backward));
    let of_gradients = backward || op == "cross_entropy_backward";
    finished(recipes, if of_gradients { BACKWARD_FILLS } else { FILLS })
}
