//! `quantize_activations`: rows of whole and short blocks; ties of codes, blocks at the least magnitude, denormals beside the
//! greatest numbers, zeros, what is no number.

use consort_core::decompose::ACTIVATION_BLOCK;
use proptest::prelude::*;

use super::{
    Family, LENGTHS, Sweep,
    draw::{Draw, Range, single},
    finished, length,
};
use crate::{
    error::Error,
    recipe::{Fill, Recipe, View},
};

pub(super) const QUANTIZE_ACTIVATIONS: Family = Family { op: "quantize_activations", draw, sweep, strategy };

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
    Fill::Apart,
];
const RANGE: Range = Range { large: 1e30, special: f64::MAX, wide: 3e38 };
/// Exponents of the magnitudes of neighbouring blocks: around the least that is not taken for zeros, around the least normal
/// number and below, up to where f32 ends.
const EXPONENTS: [i32; 10] = [0, -99, -100, -101, -98, -126, -140, 127, 128, 20];

fn draw(draw: &mut Draw<'_>) -> Result<(), Error> {
    let [rows, width] = [draw.dim("rows")?, draw.dim("width")?];
    let mut values = draw.values(&[rows, width], RANGE)?;
    let (fill, seed) = (draw.recipe.fill, draw.recipe.seed as usize);
    for (row, values) in values.chunks_mut(width.max(1)).enumerate() {
        for (block, values) in values.chunks_mut(ACTIVATION_BLOCK).enumerate() {
            let at = row + block + seed;
            match fill {
                Fill::Ties => ties(values, at),
                Fill::Special if !at.is_multiple_of(3) => edges(values, at),
                Fill::Nan if at % 3 == 1 => {
                    let strange = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY].into_iter().cycle().nth(at / 3 % 3);
                    let place = at % values.len();
                    values.iter_mut().skip(place).zip(strange).for_each(|(value, strange)| *value = strange);
                }
                _ => {}
            }
        }
    }
    draw.push("x", &[rows, width], values)
}

/// Halves between codes, of a scale that is a power of two.
fn ties(values: &mut [f64], at: usize) {
    let unit = f64::from((at % 7) as i32 - 3).exp2();
    let greatest = at % values.len();
    for (index, value) in values.iter_mut().enumerate() {
        let below = (value.mul_add(37.0, (index * 5 + at) as f64) % 126.0).floor();
        let sign = if index.is_multiple_of(3) { -unit } else { unit };
        *value = sign * if index == greatest { 127.0 } else { below + 0.5 };
    }
}

/// Magnitudes from a twentieth of a power of two up to it, signs as drawn.
fn edges(values: &mut [f64], at: usize) {
    let exponent = EXPONENTS.into_iter().cycle().nth(at % EXPONENTS.len()).unwrap_or_default();
    for (index, value) in values.iter_mut().enumerate() {
        let part = f64::from((index * 7 + at) as u32 % 61 + 3) / 64.0;
        *value = single((part * f64::from(exponent).exp2()).copysign(*value));
    }
}

fn sized(rows: usize, width: usize) -> Recipe {
    Recipe::new("quantize_activations").dims([("rows", rows), ("width", width)])
}

fn sweep(sweep: &mut Sweep) {
    for (at, length) in LENGTHS.into_iter().enumerate() {
        sweep.quick(sized(at % 3 + 1, length));
        sweep.quick(sized(length, 37));
    }
    for &fill in FILLS.iter().chain(&[Fill::Nan]) {
        // Three blocks a row or more, so that what is special comes in each of three places.
        for width in [96, 100, 321] {
            sweep.quick(sized(3, width).fill(fill));
        }
        let views: &[View] = if fill == Fill::Nan { &View::DISTINCT } else { &View::ALL };
        for &view in views {
            sweep.full(sized(5, 129).fill(fill).view(view));
        }
    }
    for view in View::ALL {
        sweep.quick(sized(5, 64).view(view));
        sweep.quick(sized(3, 45).view(view));
    }
    sweep.quick(sized(1, 4096));
    sweep.full(sized(17, 4097).fill(Fill::Ties));
    sweep.full(sized(300, 1024));
}

fn strategy(backward: bool) -> Option<BoxedStrategy<Recipe>> {
    let recipes = (0..=6usize, length(300)).prop_map(|(rows, width)| sized(rows, width));
    // What is no number needs a block for it, and is in the sweep alone.
    if backward { None } else { finished(recipes, FILLS) }
}
