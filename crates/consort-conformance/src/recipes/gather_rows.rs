//! `gather_rows`: ids in every pattern; NaN in rows that are not gathered.

use consort_core::DType;
use proptest::prelude::*;

use super::{
    Family, LENGTHS, SOME_LENGTHS, Sweep,
    draw::{Draw, TAME},
    finished, length,
};
use crate::{
    error::Error,
    recipe::{Fill, Recipe, View},
};

pub(super) const GATHER_ROWS: Family = Family { op: "gather_rows", draw, sweep, strategy };

pub(super) const TYPES: [Option<DType>; 4] = [None, Some(DType::F16), Some(DType::BF16), Some(DType::U32)];
const FILLS: &[Fill] = &[Fill::Normal, Fill::Permuted, Fill::Repeated, Fill::Beyond, Fill::Masked, Fill::Special];
const BACKWARD_FILLS: &[Fill] = &[Fill::Normal, Fill::Permuted, Fill::Repeated, Fill::Beyond];

fn draw(draw: &mut Draw<'_>) -> Result<(), Error> {
    let (n, r, rest) = (draw.dim("n")?, draw.dim("r")?, draw.shape("w"));
    let whole = [&[n], &rest[..]].concat();
    let ids = draw.ids(r, n);
    let mut values = draw.values(&whole, TAME)?;
    if draw.recipe.fill == Fill::Masked {
        let width = draw.elements(&rest)?.max(1);
        for (row, values) in values.chunks_mut(width).enumerate() {
            if !ids.contains(&(row as u32)) {
                values.fill(f64::NAN);
            }
        }
    }
    draw.any("x", &whole, values)?;
    draw.push_ids("ids", &[r], ids)?;
    draw.cotangent(&[&[r], &rest[..]].concat())?;
    draw.gradients(&["x"]);
    Ok(())
}

fn recipe(n: usize, r: usize, rest: &[usize]) -> Recipe {
    Recipe::new("gather_rows").dims([("n", n), ("r", r)]).shape("w", rest)
}

fn sweep(sweep: &mut Sweep) {
    for (length, &fill) in LENGTHS.into_iter().zip(FILLS.iter().cycle()) {
        sweep.quick(recipe(7, 5, &[length]).fill(fill));
        sweep.quick(recipe(9, length, &[3]).fill(fill));
    }
    for length in SOME_LENGTHS {
        sweep.quick(recipe(7, 5, &[length]).backward());
        sweep.quick(recipe(9, length, &[3]).fill(Fill::Repeated).backward());
    }
    for (n, r) in [(0, 0), (0, 3), (1, 0), (1, 1), (1, 4), (5, 1), (64, 65), (513, 7)] {
        for rest in [&[][..], &[1], &[4, 5], &[2, 1, 3], &[2, 3, 1, 2], &[2, 1, 2, 1, 3]] {
            sweep.quick(recipe(n, r, rest).fill(Fill::Beyond));
        }
    }
    for &fill in FILLS {
        for dtype in TYPES {
            sweep.quick(Recipe { dtype, ..recipe(9, 13, &[17]).fill(fill) });
        }
        for view in View::DISTINCT {
            sweep.quick(recipe(9, 13, &[3, 7]).fill(fill).view(view));
        }
    }
    for &fill in BACKWARD_FILLS {
        for view in View::ALL {
            sweep.quick(recipe(9, 13, &[17]).fill(fill).view(view).backward());
        }
    }
    for view in View::ALL {
        sweep.quick(recipe(9, 13, &[5]).view(view));
        sweep.full(recipe(300, 129, &[129]).view(view));
    }
    sweep.full(recipe(5000, 1000, &[33]).fill(Fill::Beyond));
    sweep.full(recipe(100, 2000, &[65]).fill(Fill::Repeated).backward());
}

fn strategy(backward: bool) -> Option<BoxedStrategy<Recipe>> {
    let types = prop::sample::select(if backward { vec![None] } else { TYPES.to_vec() });
    let rest = prop_oneof![prop::collection::vec(0..=4usize, 0..=5), length(130).prop_map(|length| vec![length])];
    let recipes = (0..=20usize, length(70), rest, types)
        .prop_map(move |(n, r, rest, dtype)| Recipe { dtype, ..recipe(n, r, &rest) }.direction(backward));
    finished(recipes, if backward { BACKWARD_FILLS } else { FILLS })
}
