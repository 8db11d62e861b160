//! `binary`: each function, broadcast along each axis of each operand; comparisons of every type.

use consort_core::DType;
use proptest::prelude::*;

use super::{
    Family, LENGTHS, SOME_LENGTHS, Sweep,
    draw::{Draw, Range, single},
    finished, kinds, length,
};
use crate::{
    error::Error,
    recipe::{Fill, Recipe, View},
};

pub(super) const BINARY: Family = Family { op: "binary", draw, sweep, strategy };

const ARITHMETIC: [&str; 4] = ["add", "subtract", "multiply", "divide"];
const CHOICES: [&str; 2] = ["maximum", "minimum"];
const COMPARISONS: [&str; 2] = ["less", "equal"];
const DIFFERENTIABLE: &[&str] = &["add", "subtract", "multiply", "divide", "maximum", "minimum"];
const FILLS: &[Fill] =
    &[Fill::Normal, Fill::Large, Fill::Small, Fill::Negative, Fill::Zeros, Fill::Ties, Fill::Special, Fill::Wide];
const BACKWARD_FILLS: &[Fill] = &[Fill::Normal, Fill::Ties, Fill::Negative, Fill::Constant];
/// Shapes of the two operands, as they meet in models and along every axis.
pub(super) const BROADCASTS: [(&[usize], &[usize]); 24] = [
    (&[], &[]),
    (&[], &[3]),
    (&[4], &[]),
    (&[1], &[5]),
    (&[5], &[1]),
    (&[3, 5], &[5]),
    (&[5], &[3, 5]),
    (&[3, 5], &[3, 1]),
    (&[3, 1], &[3, 5]),
    (&[1, 5], &[3, 5]),
    (&[3, 1], &[1, 5]),
    (&[3, 5], &[1, 1]),
    (&[0, 5], &[5]),
    (&[3, 0], &[3, 1]),
    (&[2, 3, 5], &[3, 1]),
    (&[2, 1, 5], &[1, 3, 1]),
    (&[1, 3, 5], &[2, 3, 5]),
    (&[2, 3, 4, 5], &[2, 1, 4, 1]),
    (&[2, 3, 1, 5], &[3, 4, 1]),
    (&[1, 2, 1, 3, 5], &[2, 1, 3, 1, 5]),
    (&[2, 2, 3, 2, 5], &[5]),
    (&[2, 1, 3, 1, 2, 1], &[1, 2, 1, 3, 1, 5]),
    (&[2, 2, 2, 2, 2, 3], &[2, 1, 1, 1]),
    (&[17, 33], &[33]),
];

fn draw(draw: &mut Draw<'_>) -> Result<(), Error> {
    let (a, b) = (draw.shape("a"), draw.shape("b"));
    let kind: String = draw.attribute("kind")?;
    let (fill, backward) = (draw.recipe.fill, draw.recipe.backward);
    let range = match kind.as_str() {
        "multiply" | "divide" => Range { large: 1e18, special: 1e18, wide: 1e19 },
        "add" | "subtract" => Range { large: 1e37, special: 1e38, wide: 1.5e38 },
        _ => Range { large: 1e37, special: f64::MAX, wide: 3e38 },
    };
    let mut values = draw.values(&a, range)?;
    if fill == Fill::Nan {
        values.iter_mut().skip(1).step_by(5).for_each(|value| *value = f64::NAN);
    }
    draw.any("a", &a, values.clone())?;
    let of_a = values;
    let mut values = draw.values(&b, range)?;
    if fill != Fill::Zeros {
        // However few are compared, one is equal or less; among many every third is equal.
        let equals = values.iter_mut().zip(&of_a).step_by(if kind == "equal" { 3 } else { usize::MAX });
        match kind.as_str() {
            "equal" => equals.for_each(|(value, of_a)| *value = *of_a),
            "less" => equals.for_each(|(value, of_a)| *value = single(of_a + of_a.abs().max(0.5))),
            _ => {}
        }
    }
    if kind == "divide" {
        // A quotient of such numbers is within f32.
        let least = if backward { 0.0625 } else { 1e-19 };
        let replacement = if fill == Fill::Small { 1e-19 } else { 1.0f64.min(least * 16.0) };
        for value in values.iter_mut().filter(|value| value.abs() < least) {
            *value = f64::from((replacement as f32).copysign(*value as f32));
        }
    }
    if fill == Fill::Nan {
        values.iter_mut().step_by(7).for_each(|value| *value = f64::NAN);
    }
    draw.any("b", &b, values)?;
    draw.cotangent(&broadcast(&a, &b))?;
    if DIFFERENTIABLE.contains(&kind.as_str()) {
        draw.gradients(&["a", "b"]);
    }
    Ok(())
}

/// What both broadcast to, if they do.
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Vec<usize> {
    let rank = a.len().max(b.len());
    let size = |sizes: &[usize], axis: usize| {
        (axis + sizes.len()).checked_sub(rank).and_then(|axis| sizes.get(axis)).copied().unwrap_or(1)
    };
    let joined = |axis: usize| match (size(a, axis), size(b, axis)) {
        (1, other) | (other, _) => other,
    };
    (0..rank).map(joined).collect()
}

/// Comparisons are of numbers that are equal now and then.
fn recipe(kind: &str, a: &[usize], b: &[usize]) -> Recipe {
    let fill = if COMPARISONS.contains(&kind) { Fill::Ties } else { Fill::Normal };
    Recipe::new("binary").attribute("kind", kind).shape("a", a).shape("b", b).fill(fill)
}

fn sweep(sweep: &mut Sweep) {
    for kind in ARITHMETIC.into_iter().chain(CHOICES).chain(COMPARISONS) {
        let differentiable = DIFFERENTIABLE.contains(&kind);
        for (at, length) in LENGTHS.into_iter().enumerate() {
            let rows = at % 2 + 1;
            sweep.quick(recipe(kind, &[rows, length], &[rows, length]));
        }
        for ((a, b), view) in BROADCASTS.into_iter().zip(View::ALL.into_iter().cycle()) {
            sweep.quick(recipe(kind, a, b).view(view));
            for view in View::ALL {
                sweep.full(recipe(kind, a, b).view(view));
            }
            if differentiable {
                sweep.quick(recipe(kind, a, b).view(view).backward());
            }
        }
        for &fill in FILLS {
            sweep.quick(recipe(kind, &[5, 17], &[5, 17]).fill(fill));
            sweep.quick(recipe(kind, &[5, 17], &[17]).fill(fill).view(View::Sliced));
        }
        for view in View::ALL {
            sweep.quick(recipe(kind, &[9, 37], &[9, 37]).view(view));
        }
        for sizes in [&[4096][..], &[65_536], &[129, 127]] {
            sweep.full(recipe(kind, sizes, sizes));
        }
        sweep.full(recipe(kind, &[257, 768], &[768]));
        sweep.full(recipe(kind, &[257, 65], &[257, 1]));
        if differentiable {
            for length in SOME_LENGTHS {
                sweep.quick(recipe(kind, &[3, length], &[3, length]).backward());
                sweep.quick(recipe(kind, &[3, length], &[length]).backward());
            }
            for &fill in BACKWARD_FILLS {
                sweep.quick(recipe(kind, &[5, 17], &[5, 17]).fill(fill).backward());
            }
            sweep.full(recipe(kind, &[257, 129], &[129]).backward());
        }
    }
    for kind in CHOICES {
        sweep.quick(recipe(kind, &[7, 13], &[7, 13]).fill(Fill::Nan));
        sweep.quick(recipe(kind, &[7, 13], &[13]).fill(Fill::Nan));
    }
    for kind in COMPARISONS {
        for dtype in [DType::U32, DType::F16, DType::BF16] {
            let fills = [Fill::Normal, Fill::Ties, Fill::Special].into_iter();
            // Words of 32 bits are hardly ever equal by chance.
            let fills = fills.filter(|&fill| fill == Fill::Ties || kind == "less" || dtype != DType::U32);
            for (fill, view) in fills.zip(View::ALL.into_iter().cycle()) {
                sweep.quick(recipe(kind, &[7, 13], &[7, 13]).of_type(dtype).fill(fill).view(view));
                sweep.quick(recipe(kind, &[7, 1], &[13]).of_type(dtype).fill(fill));
            }
        }
    }
}

fn strategy(backward: bool) -> Option<BoxedStrategy<Recipe>> {
    const ALL: &[&str] = &["add", "subtract", "multiply", "divide", "maximum", "minimum", "less", "equal"];
    let recipes = (broadcast_shapes(), kinds(if backward { DIFFERENTIABLE } else { ALL }))
        .prop_map(move |((a, b), kind)| recipe(kind, &a, &b).direction(backward));
    finished(recipes, if backward { BACKWARD_FILLS } else { FILLS })
}

/// Two shapes that broadcast.
pub(super) fn broadcast_shapes() -> impl Strategy<Value = (Vec<usize>, Vec<usize>)> {
    let axes = prop_oneof![
        prop::collection::vec((0..=5usize, 0..3u8), 0..=6),
        (length(130), 0..3u8).prop_map(|axis| vec![axis]),
        (1..=3usize, length(130), 0..3u8).prop_map(|(rows, length, which)| vec![(rows, which), (length, 0)]),
    ];
    (axes, 0..=2usize, any::<bool>()).prop_map(|(axes, dropped, first)| {
        let side =
            |one: u8| -> Vec<usize> { axes.iter().map(|&(size, which)| if which == one { 1 } else { size }).collect() };
        // One of them may lack outer axes.
        let (mut a, mut b) = (side(1), side(2));
        let shorter = if first { &mut a } else { &mut b };
        shorter.drain(..dropped.min(shorter.len()));
        (a, b)
    })
}
