//! `copy`: every type to every other, layouts of every kind; what lies between two halves, denormals, overflow to infinity.

use consort_core::DType;
use proptest::prelude::*;

use super::{
    Family, LENGTHS, RANKS, SOME_LENGTHS, Sweep,
    draw::{Draw, Range, single},
    finished, length, sizes,
};
use crate::{
    error::Error,
    recipe::{Fill, Recipe, View},
};

pub(super) const COPY: Family = Family { op: "copy", draw, sweep, strategy };

const FROM: [Option<DType>; 4] = [None, Some(DType::F16), Some(DType::BF16), Some(DType::U32)];
const TO: [&str; 4] = ["float", "f16", "bf16", "u32"];
const FILLS: &[Fill] = &[Fill::Normal, Fill::Special, Fill::Large, Fill::Small, Fill::Ties, Fill::Wide];
/// As great as f32 is; the halves overflow.
const RANGE: Range = Range { large: 1e37, special: f64::MAX, wide: 3e38 };
/// Ties and their neighbours: of f16 at 1 and 3, at its least denormals, at its greatest; the same of bf16.
const EDGES: [f64; 20] = [
    1.000_488_281_25,
    1.000_488_400_459_289_6,
    1.001_464_843_75,
    3.000_976_562_5,
    2.980_232_238_769_531_2e-8,
    2.980_232_594_040_9e-8,
    8.940_696_716_308_594e-8,
    6.097_555_160_522_461e-5,
    65_519.0,
    65_519.996_093_75,
    1.003_906_25,
    1.003_906_369_209_289_6,
    1.011_718_75,
    3.007_812_5,
    4.591_774_807_899_561e-41,
    3.389_531_389_251_535_5e38,
    2.9,
    -2.9,
    5e9,
    4_294_967_040.0,
];

fn draw(draw: &mut Draw<'_>) -> Result<(), Error> {
    let sizes = draw.shape("x");
    let mut values = draw.values(&sizes, RANGE)?;
    let to: String = draw.attribute("dtype")?;
    if to == "u32" {
        // Whole numbers and fractions; some below 0, which is where they are clamped.
        values.iter_mut().for_each(|value| *value = single(*value * 100.0));
        values.iter_mut().enumerate().filter(|(index, _)| index % 3 != 1).for_each(|(_, value)| *value = value.abs());
    }
    if draw.recipe.fill == Fill::Small && (to == "f16" || draw.recipe.dtype == Some(DType::F16)) {
        // Denormals of f16.
        values.iter_mut().for_each(|value| *value = single(*value * 1e14));
    }
    if draw.recipe.fill == Fill::Special {
        // Every other number is an edge.
        for (place, edge) in values.iter_mut().step_by(2).zip(EDGES.into_iter().flat_map(|edge| [edge, -edge]).cycle())
        {
            *place = single(edge);
        }
    }
    draw.any("x", &sizes, values)?;
    draw.cotangent(&sizes)?;
    if to != "u32" {
        draw.gradients(&["x"]);
    }
    Ok(())
}

fn recipe(sizes: &[usize], from: Option<DType>, to: &str) -> Recipe {
    Recipe { dtype: from, ..Recipe::new("copy").shape("x", sizes).attribute("dtype", to) }
}

fn sweep(sweep: &mut Sweep) {
    for from in FROM {
        for to in TO {
            for (&fill, view) in FILLS.iter().zip(View::ALL.into_iter().cycle()) {
                sweep.quick(recipe(&[8, 11], from, to).fill(fill).view(view));
            }
            for (sizes, view) in RANKS.into_iter().zip(View::ALL.into_iter().cycle()) {
                sweep.quick(recipe(sizes, from, to).view(view));
            }
            for view in View::ALL {
                sweep.full(recipe(&[3, 5, 64], from, to).view(view));
            }
        }
    }
    for view in View::ALL {
        for length in LENGTHS {
            sweep.quick(recipe(&[2, length], None, "float").view(view));
        }
        for sizes in [&[65_536][..], &[31, 33, 65], &[129, 127]] {
            sweep.full(recipe(sizes, None, "float").view(view));
        }
        for length in SOME_LENGTHS {
            sweep.quick(recipe(&[3, length], None, "float").view(view).backward());
        }
    }
    for to in ["f16", "bf16"] {
        sweep.quick(recipe(&[3, 17], None, to).backward());
    }
}

fn strategy(backward: bool) -> Option<BoxedStrategy<Recipe>> {
    let sizes = prop_oneof![sizes(0..=6, 5), length(130).prop_map(|length| vec![2, length])];
    let from = if backward { vec![None] } else { FROM.to_vec() };
    let to = if backward { TO[..3].to_vec() } else { TO.to_vec() };
    let recipes = (sizes, prop::sample::select(from), prop::sample::select(to))
        .prop_map(move |(sizes, from, to)| recipe(&sizes, from, to).direction(backward));
    finished(recipes, if backward { &[Fill::Normal] } else { FILLS })
}
