//! `fill`: shapes of every rank, values that each type rounds in its own way.

use proptest::prelude::*;
use serde_json::json;

use super::{Family, LENGTHS, RANKS, Sweep, draw::Draw, sizes};
use crate::{error::Error, recipe::Recipe};

pub(super) const FILL: Family = Family { op: "fill", draw, sweep, strategy };

const DTYPES: [&str; 4] = ["float", "f16", "bf16", "u32"];
/// Signed zero, what no binary type holds, ties of both halves, denormals and the ends of the ranges of f16, bf16 and f32.
const VALUES: [f64; 14] = [
    0.0,
    -0.0,
    1.0,
    -1.5,
    0.1,
    1.00048828125, // 1 + 2⁻¹¹
    1.00390625,    // 1 + 2⁻⁸
    6e-8,
    1e-40,
    65504.0,
    -65519.0,
    -3.3e38,
    2.9,
    4294967295.0,
];

fn draw(draw: &mut Draw<'_>) -> Result<(), Error> {
    // Shape, value and type are attributes: there is nothing to draw.
    draw.attribute::<Vec<usize>>("shape").map(|_| ())
}

fn recipe(sizes: &[usize], value: f64, dtype: &str) -> Recipe {
    Recipe::new("fill").attribute("shape", sizes).attribute("value", value).attribute("dtype", dtype)
}

fn sweep(sweep: &mut Sweep) {
    for dtype in DTYPES {
        for value in VALUES {
            sweep.quick(recipe(&[2, 3], value, dtype));
        }
        for sizes in RANKS {
            sweep.quick(recipe(sizes, 1.5, dtype));
        }
        sweep.full(recipe(&[65_537], 1.5, dtype));
    }
    for length in LENGTHS {
        sweep.quick(recipe(&[length], 0.75, "float"));
    }
}

fn strategy(backward: bool) -> Option<BoxedStrategy<Recipe>> {
    let (dtypes, values) = (prop::sample::select(DTYPES.to_vec()), prop::sample::select(VALUES.to_vec()));
    let recipes = (sizes(0..=6, 4), values, dtypes).prop_map(|(sizes, value, dtype)| {
        Recipe::new("fill").attribute("shape", json!(sizes)).attribute("value", value).attribute("dtype", dtype)
    });
    (!backward).then(|| recipes.boxed())
}
