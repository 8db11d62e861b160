//! `reduce`: every axis of every rank, lengths to 65,536; maxima of negative rows, ties, NaN.

use proptest::prelude::*;
use serde_json::json;

use super::{
    Family, LENGTHS, SOME_LENGTHS, Sweep,
    draw::{Draw, Range},
    finished, kinds, length,
};
use crate::{
    error::Error,
    recipe::{Fill, Recipe, View},
};

pub(super) const REDUCE: Family = Family { op: "reduce", draw, sweep, strategy };

const KINDS: &[&str] = &["sum", "maximum", "arg_maximum"];
const DIFFERENTIABLE: &[&str] = &["sum", "maximum"];
const FILLS: &[Fill] = &[
    Fill::Normal,
    Fill::Large,
    Fill::Small,
    Fill::Positive,
    Fill::Negative,
    Fill::Constant,
    Fill::Ties,
    Fill::Special,
    Fill::Wide,
    Fill::Peak,
];
const BACKWARD_FILLS: &[Fill] = &[Fill::Normal, Fill::Negative, Fill::Ties, Fill::Constant];

fn draw(draw: &mut Draw<'_>) -> Result<(), Error> {
    let sizes = draw.shape("x");
    let kind: String = draw.attribute("kind")?;
    let axis: usize = draw.attribute("axis")?;
    // A sum of 65,536 stays within f32.
    let range = match kind.as_str() {
        "sum" => Range { large: 1e30, special: 1e33, wide: 1e33 },
        _ => Range { large: 1e37, special: f64::MAX, wide: 3e38 },
    };
    let mut values = draw.values(&sizes, range)?;
    if draw.recipe.fill == Fill::Nan {
        // Two, in different rows and columns but for the shortest.
        let count = values.len().max(1);
        for at in [count / 3, count * 2 / 3] {
            if let Some(place) = values.get_mut(at) {
                *place = f64::NAN;
            }
        }
    }
    draw.push("x", &sizes, values)?;
    let out: Vec<usize> = sizes.iter().enumerate().map(|(at, &size)| if at == axis { 1 } else { size }).collect();
    draw.cotangent(&out)?;
    if DIFFERENTIABLE.contains(&kind.as_str()) {
        draw.gradients(&["x"]);
    }
    Ok(())
}

fn recipe(kind: &str, sizes: &[usize], axis: usize) -> Recipe {
    Recipe::new("reduce").attribute("kind", kind).attribute("axis", json!(axis)).shape("x", sizes)
}

fn sweep(sweep: &mut Sweep) {
    let shapes: [&[usize]; 8] =
        [&[1], &[7], &[3, 5], &[2, 3, 17], &[5, 1, 3], &[2, 3, 4, 5], &[2, 1, 3, 2, 5], &[2, 2, 3, 1, 2, 3]];
    for &kind in KINDS {
        let differentiable = DIFFERENTIABLE.contains(&kind);
        for length in LENGTHS.into_iter().filter(|&length| length > 0 || kind == "sum") {
            sweep.quick(recipe(kind, &[3, length], 1));
            sweep.quick(recipe(kind, &[length, 3], 0));
        }
        for (shape, view) in shapes.into_iter().zip(View::ALL.into_iter().cycle()) {
            for axis in 0..shape.len() {
                sweep.quick(recipe(kind, shape, axis).view(view));
                for view in View::ALL {
                    sweep.full(recipe(kind, shape, axis).view(view));
                }
                if differentiable {
                    sweep.quick(recipe(kind, shape, axis).view(view).backward());
                }
            }
        }
        sweep.quick(recipe(kind, &[0, 3], 1));
        for &fill in FILLS {
            sweep.quick(recipe(kind, &[5, 37], 1).fill(fill));
            sweep.quick(recipe(kind, &[37, 5], 0).fill(fill).view(View::Sliced));
        }
        for view in View::ALL {
            sweep.quick(recipe(kind, &[5, 67], 1).view(view));
        }
        for length in [255, 256, 257, 1000, 4096, 8192, 65_535, 65_536] {
            for fill in [Fill::Normal, Fill::Positive] {
                sweep.quick(recipe(kind, &[length], 0).fill(fill));
            }
            sweep.full(recipe(kind, &[3, length], 1).fill(Fill::Offset));
            sweep.full(recipe(kind, &[length, 3], 0).view(View::Permuted));
        }
        // One long row beside short ones, and columns as norms of gradients are summed.
        sweep.quick(recipe(kind, &[2304, 3], 1));
        sweep.full(recipe(kind, &[513, 768], 0));
        sweep.full(recipe(kind, &[16, 50_257], 1));
        if differentiable {
            for length in SOME_LENGTHS.into_iter().filter(|&length| length > 0 || kind == "sum") {
                sweep.quick(recipe(kind, &[3, length], 1).backward());
                sweep.quick(recipe(kind, &[length, 3], 0).backward());
            }
            for &fill in BACKWARD_FILLS {
                sweep.quick(recipe(kind, &[5, 37], 1).fill(fill).backward());
            }
            sweep.full(recipe(kind, &[3, 65_536], 1).backward());
        }
    }
    for kind in ["maximum", "arg_maximum"] {
        for (sizes, axis) in [(&[5, 9][..], 1), (&[9, 5], 0), (&[4, 64], 1)] {
            sweep.quick(recipe(kind, sizes, axis).fill(Fill::Nan));
        }
    }
}

fn strategy(backward: bool) -> Option<BoxedStrategy<Recipe>> {
    let shapes = prop_oneof![
        prop::collection::vec(1..=5usize, 1..=6),
        (1..=3usize, length(130)).prop_map(|(rows, length)| vec![rows, length.max(1)]),
        (length(130), 1..=3usize).prop_map(|(length, columns)| vec![length.max(1), columns]),
    ];
    let recipes = (shapes, 0..6usize, kinds(if backward { DIFFERENTIABLE } else { KINDS }))
        .prop_map(move |(shape, axis, kind)| recipe(kind, &shape, axis % shape.len()).direction(backward));
    finished(recipes, if backward { BACKWARD_FILLS } else { FILLS })
}
