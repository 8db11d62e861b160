//! `write`: boxes at every corner, of every type; NaN in what is replaced.

use consort_core::{DType, Layout, Shape};
use proptest::prelude::*;

use super::{
    Family, LENGTHS, Sweep,
    draw::{Draw, TAME},
    finished,
};
use crate::{
    error::Error,
    problem::offsets,
    recipe::{Fill, Recipe, View},
};

pub(super) const WRITE: Family = Family { op: "write", draw, sweep, strategy };

const TYPES: [Option<DType>; 4] = [None, Some(DType::F16), Some(DType::BF16), Some(DType::U32)];
const FILLS: &[Fill] = &[Fill::Normal, Fill::Masked, Fill::Special];

fn draw(draw: &mut Draw<'_>) -> Result<(), Error> {
    let (whole, part) = (draw.shape("into"), draw.shape("x"));
    let start: Vec<usize> = draw.attribute("start")?;
    let mut values = draw.values(&whole, TAME)?;
    if draw.recipe.fill == Fill::Masked {
        // What is replaced.
        let strides = Layout::contiguous(Shape::new(&whole)?);
        let first: usize =
            start.iter().zip(strides.strides()).map(|(start, stride)| start.saturating_mul(*stride)).sum();
        if part.len() == whole.len() {
            for at in offsets(&Layout::strided(Shape::new(&part)?, strides.strides(), first)?) {
                if let Some(place) = values.get_mut(at) {
                    *place = f64::NAN;
                }
            }
        }
    }
    draw.any("into", &whole, values)?;
    let values = draw.values(&part, TAME)?;
    draw.any("x", &part, values)?;
    draw.cotangent(&whole)?;
    draw.gradients(&["into", "x"]);
    Ok(())
}

fn recipe(whole: &[usize], part: &[usize], start: &[usize]) -> Recipe {
    Recipe::new("write").shape("into", whole).shape("x", part).attribute("start", start)
}

fn sweep(sweep: &mut Sweep) {
    let boxes: [(&[usize], &[usize], &[usize]); 16] = [
        (&[], &[], &[]),
        (&[5], &[2], &[0]),
        (&[5], &[2], &[3]),
        (&[5], &[5], &[0]),
        (&[5], &[0], &[5]),
        (&[4, 7], &[4, 7], &[0, 0]),
        (&[4, 7], &[1, 7], &[3, 0]),
        (&[4, 7], &[4, 1], &[0, 6]),
        (&[4, 7], &[2, 3], &[1, 2]),
        (&[4, 7], &[0, 7], &[2, 0]),
        (&[0, 7], &[0, 7], &[0, 0]),
        (&[3, 4, 5], &[1, 4, 5], &[1, 0, 0]),
        (&[3, 4, 5], &[2, 2, 2], &[1, 1, 3]),
        (&[2, 3, 4, 5], &[2, 1, 3, 1], &[0, 2, 1, 4]),
        (&[2, 2, 3, 2, 4], &[1, 2, 1, 2, 2], &[1, 0, 2, 0, 1]),
        (&[2, 2, 2, 3, 2, 3], &[1, 2, 1, 2, 1, 3], &[1, 0, 1, 1, 1, 0]),
    ];
    for (whole, part, start) in boxes {
        for (&fill, view) in FILLS.iter().zip([View::Contiguous, View::Sliced, View::Permuted]) {
            sweep.quick(recipe(whole, part, start).fill(fill).view(view));
        }
        for view in [View::Contiguous, View::Offset, View::Broadcast] {
            sweep.quick(recipe(whole, part, start).view(view).backward());
        }
        for dtype in TYPES.into_iter().flatten() {
            sweep.quick(recipe(whole, part, start).of_type(dtype));
            for view in View::ALL {
                sweep.full(recipe(whole, part, start).of_type(dtype).view(view));
            }
        }
    }
    for length in LENGTHS {
        // A tail that follows the box, one that goes before it.
        let first = length / 3;
        sweep.quick(recipe(&[2, length + 2], &[1, length], &[1, 1]).fill(Fill::Masked));
        sweep.quick(recipe(&[length], &[length - first], &[first]));
    }
    // As caches grow: many rows, few of them written.
    for rows in [1, 7] {
        sweep.quick(recipe(&[96, 4, 16], &[rows, 4, 16], &[40, 0, 0]));
        sweep.full(recipe(&[1024, 4, 64], &[rows, 4, 64], &[1017, 0, 0]));
    }
    sweep.full(recipe(&[512, 129], &[500, 65], &[7, 64]).view(View::Permuted));
}

fn strategy(backward: bool) -> Option<BoxedStrategy<Recipe>> {
    // Before, box and after, along each axis.
    let axes = prop::collection::vec((0..=3usize, 0..=5usize, 0..=3usize), 0..=6);
    let types = prop::sample::select(if backward { vec![None] } else { TYPES.to_vec() });
    let recipes = (axes, types).prop_map(move |(axes, dtype)| {
        let whole: Vec<usize> = axes.iter().map(|(before, size, after)| before + size + after).collect();
        let part: Vec<usize> = axes.iter().map(|(_, size, _)| *size).collect();
        let start: Vec<usize> = axes.iter().map(|(before, ..)| *before).collect();
        Recipe { dtype, ..recipe(&whole, &part, &start) }.direction(backward)
    });
    finished(recipes, if backward { &[Fill::Normal] } else { FILLS })
}
