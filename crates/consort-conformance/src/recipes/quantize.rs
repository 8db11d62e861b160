//! `quantize_activations`: rows of whole and short blocks; ties of codes, blocks at the least magnitude, denormals beside the
//! greatest numbers, zeros, what is no number.

use consort_core::decompose::ACTIVATION_BLOCK;
use proptest::prelude::*;

use super::{
    Family, LENGTHS, Sweep,
    draw::{Draw, Range},
    length, viewed,
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
    Fill::Nan,
];
const RANGE: Range = Range { large: 1e30, special: f64::MAX, wide: 3e38 };
/// Exponents of the magnitudes of neighbouring blocks: around the least that is not taken for zeros, around the least normal
/// number and below, up to where f32 ends.
const EXPONENTS: [i32; 10] = [0, -99, -100, -101, -98, -126, -140, 127, 128, 20];

fn draw(draw: &mut Draw<'_>) -> Result<(), Error> {
    let sizes = [draw.dim("rows")?, draw.dim("width")?];
    let mut values = draw.values(&sizes, RANGE)?;
    let width = sizes[1].max(1);
    let fill = draw.recipe.fill;
    let seed = draw.recipe.seed as usize;
    for (row, values) in values.chunks_mut(width).enumerate() {
        for (block, values) in values.chunks_mut(ACTIVATION_BLOCK).enumerate() {
            let at = row + block + seed;
            match fill {
                // Halves between codes, of a scale that is a power of two.
                Fill::Ties => {
                    let unit = f64::from((at % 7) as i32 - 3).exp2();
                    for (index, value) in values.iter_mut().enumerate() {
                        let below = (value.mul_add(37.0, (index * 5 + at) as f64) % 126.0).floor();
                        *value = (below + 0.5) * if index % 3 == 0 { -unit } else { unit };
                    }
                    let most = at % values.len();
                    values[most] = if at % 2 == 0 { 127.0 } else { -127.0 } * unit;
                }
                Fill::Special if at % 3 > 0 => {
                    let exponent = EXPONENTS[at % EXPONENTS.len()];
                    for (index, value) in values.iter_mut().enumerate() {
                        let part = f64::from((index * 7 + at) as u32 % 61 + 3) / 64.0;
                        *value = f64::from((part * f64::from(exponent).exp2()).copysign(*value) as f32);
                    }
                }
                Fill::Nan if at % 3 == 1 => {
                    let strange = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
                    let place = at % values.len();
                    values[place] = strange[at / 3 % strange.len()];
                }
                _ => {}
            }
        }
    }
    draw.push("x", &sizes, values)
}

fn sized(rows: usize, width: usize) -> Recipe {
    Recipe::new("quantize_activations").dims([("rows", rows), ("width", width)])
}

fn sweep(sweep: &mut Sweep) {
    for (at, length) in LENGTHS.into_iter().enumerate() {
        sweep.quick(sized(at % 3 + 1, length));
        sweep.quick(sized(length, 37));
    }
    for &fill in FILLS {
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
    // What is no number needs a block for it.
    if backward { None } else { viewed(recipes, &FILLS[..FILLS.len() - 1], &View::ALL) }
}
