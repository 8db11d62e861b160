//! `select`: three operands broadcast; NaN in what is not chosen.

use consort_core::{DType, Layout, Shape};
use proptest::prelude::*;

use super::{
    Family, LENGTHS, SOME_LENGTHS, Sweep,
    binary::{BROADCASTS, broadcast, broadcast_shapes},
    draw::{Draw, TAME},
    finished,
};
use crate::{
    error::Error,
    problem::offsets,
    recipe::{Fill, Recipe, View},
};

pub(super) const SELECT: Family = Family { op: "select", draw, sweep, strategy };

const TYPES: [Option<DType>; 4] = [None, Some(DType::F16), Some(DType::BF16), Some(DType::U32)];
const FILLS: &[Fill] = &[Fill::Normal, Fill::Masked, Fill::Special];

fn draw(draw: &mut Draw<'_>) -> Result<(), Error> {
    let (mask, a, b) = (draw.shape("mask"), draw.shape("a"), draw.shape("b"));
    let out = broadcast(&broadcast(&a, &b), &mask);
    // 0, 1, and other numbers that are not 0.
    let word = |value: f64| if value > 0.0 { (value * 3.0) as u32 * 77 + 1 } else { 0 };
    let mut chosen: Vec<u32> = draw.normals(&mask)?.into_iter().map(word).collect();
    // However short the mask, both are taken.
    chosen.iter_mut().zip([1, 0]).for_each(|(place, first)| *place = first);
    draw.push_ids("mask", &mask, chosen.clone())?;
    for (name, sizes, wanted) in [("a", &a, true), ("b", &b, false)] {
        let mut values = draw.values(sizes, TAME)?;
        if draw.recipe.fill == Fill::Masked {
            // NaN in all that no place of the output takes.
            let places = |sizes: &[usize]| -> Result<Vec<usize>, Error> {
                Ok(offsets(&Layout::contiguous(Shape::new(sizes)?).broadcast_to(Shape::new(&out)?)?))
            };
            let mut taken = vec![false; values.len()];
            for (by, place) in places(&mask)?.into_iter().zip(places(sizes)?) {
                let is_taken = chosen.get(by).is_some_and(|&by| (by != 0) == wanted);
                if let Some(taken) = taken.get_mut(place) {
                    *taken |= is_taken;
                }
            }
            let untaken = values.iter_mut().zip(taken).filter(|(_, taken)| !taken);
            untaken.for_each(|(value, _)| *value = f64::NAN);
        }
        draw.any(name, sizes, values)?;
    }
    draw.cotangent(&out)?;
    draw.gradients(&["a", "b"]);
    Ok(())
}

fn recipe(mask: &[usize], a: &[usize], b: &[usize]) -> Recipe {
    Recipe::new("select").shape("mask", mask).shape("a", a).shape("b", b)
}

fn sweep(sweep: &mut Sweep) {
    for (at, length) in LENGTHS.into_iter().enumerate() {
        let sizes = [at % 2 + 1, length];
        let fill = if at % 3 == 1 { Fill::Masked } else { Fill::Normal };
        sweep.quick(recipe(&sizes, &sizes, &sizes).fill(fill));
        sweep.quick(recipe(&sizes, &sizes, &[1]).fill(fill));
    }
    for length in SOME_LENGTHS {
        sweep.quick(recipe(&[3, length], &[3, length], &[length]).backward());
    }
    for ((one, other), view) in BROADCASTS.into_iter().zip(View::ALL.into_iter().cycle()) {
        let whole = broadcast(one, other);
        for (mask, a, b) in [(one, other, &whole[..]), (other, &whole, one), (&whole, one, other), (one, one, other)] {
            sweep.quick(recipe(mask, a, b).view(view));
            sweep.full(recipe(mask, a, b).view(view).backward());
        }
        sweep.quick(recipe(one, other, other).view(view).backward());
    }
    for dtype in TYPES.into_iter().flatten() {
        for (&fill, view) in FILLS.iter().zip([View::Contiguous, View::Offset, View::Sliced]) {
            sweep.quick(recipe(&[5, 9], &[5, 9], &[5, 9]).of_type(dtype).fill(fill).view(view));
            sweep.quick(recipe(&[5, 1], &[9], &[5, 9]).of_type(dtype).fill(fill));
        }
    }
    for view in View::ALL {
        sweep.quick(recipe(&[9, 37], &[9, 37], &[9, 37]).view(view));
        sweep.quick(recipe(&[9, 37], &[9, 37], &[9, 37]).view(view).backward());
    }
    for sizes in [&[65_536][..], &[129, 127]] {
        sweep.full(recipe(sizes, sizes, sizes));
        sweep.full(recipe(sizes, sizes, &[1]));
    }
}

fn strategy(backward: bool) -> Option<BoxedStrategy<Recipe>> {
    let types = prop::sample::select(if backward { vec![None] } else { TYPES.to_vec() });
    let recipes = (broadcast_shapes(), 0..4u8, types).prop_map(move |((one, other), which, dtype)| {
        let whole = broadcast(&one, &other);
        let recipe = match which {
            0 => recipe(&whole, &one, &other),
            1 => recipe(&one, &whole, &other),
            2 => recipe(&one, &other, &whole),
            _ => recipe(&one, &one, &other),
        };
        Recipe { dtype, ..recipe }.direction(backward)
    });
    finished(recipes, if backward { &[Fill::Normal] } else { FILLS })
}
