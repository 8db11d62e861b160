//! `scatter_rows`: replaced and added, places that are met several times, ids beyond the rows; NaN in what is left out or
//! replaced.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{
    Family, LENGTHS, SOME_LENGTHS, Sweep,
    draw::{Draw, TAME},
    finished,
    gather_rows::TYPES,
    length,
};
use crate::{
    error::Error,
    recipe::{Fill, Recipe, View},
};

pub(super) const SCATTER_ROWS: Family = Family { op: "scatter_rows", draw, sweep, strategy };

const FILLS: &[Fill] =
    &[Fill::Normal, Fill::Permuted, Fill::Repeated, Fill::Beyond, Fill::Masked, Fill::Large, Fill::Positive];
const BACKWARD_FILLS: &[Fill] = &[Fill::Normal, Fill::Permuted, Fill::Repeated, Fill::Beyond];

fn draw(draw: &mut Draw<'_>) -> Result<(), Error> {
    let (n, r, rest) = (draw.dim("n")?, draw.dim("r")?, draw.shape("w"));
    let add: bool = draw.attribute("add")?;
    let masked = draw.recipe.fill == Fill::Masked;
    let (whole, rows) = ([&[n], &rest[..]].concat(), [&[r], &rest[..]].concat());
    let mut ids = draw.ids(r, n);
    if masked {
        ids.iter_mut().skip(2).step_by(4).for_each(|id| *id = n as u32 + 3);
    }
    let width = draw.elements(&rest)?.max(1);
    let mut into = draw.values(&whole, TAME)?;
    let mut x = draw.values(&rows, TAME)?;
    if masked {
        // Rows of x that go nowhere or are replaced in turn; rows that are replaced.
        let mut taken = BTreeSet::new();
        let unseen = |row: usize, taken: &mut BTreeSet<u32>| match ids.get(row) {
            Some(&id) if (id as usize) < n => !taken.insert(id) && !add,
            _ => true,
        };
        for (row, values) in x.chunks_mut(width).enumerate().rev() {
            if unseen(row, &mut taken) {
                values.fill(f64::NAN);
            }
        }
        for (row, values) in into.chunks_mut(width).enumerate() {
            if !add && taken.contains(&(row as u32)) {
                values.fill(f64::NAN);
            }
        }
    }
    draw.any("into", &whole, into)?;
    draw.push_ids("ids", &[r], ids)?;
    draw.any("x", &rows, x)?;
    draw.cotangent(&whole)?;
    draw.gradients(&["into", "x"]);
    Ok(())
}

fn recipe(n: usize, r: usize, rest: &[usize], add: bool) -> Recipe {
    Recipe::new("scatter_rows").dims([("n", n), ("r", r)]).shape("w", rest).attribute("add", add)
}

fn sweep(sweep: &mut Sweep) {
    for add in [false, true] {
        for (length, &fill) in LENGTHS.into_iter().zip(FILLS.iter().cycle()) {
            sweep.quick(recipe(7, 5, &[length], add).fill(fill));
            sweep.quick(recipe(9, length, &[3], add).fill(fill));
        }
        for length in SOME_LENGTHS {
            sweep.quick(recipe(7, 5, &[length], add).backward());
            sweep.quick(recipe(9, length, &[3], add).fill(Fill::Repeated).backward());
        }
        for (n, r) in [(0, 0), (0, 3), (1, 0), (1, 1), (1, 4), (5, 1), (64, 65), (513, 7)] {
            for rest in [&[][..], &[1], &[4, 5], &[2, 1, 3], &[2, 3, 1, 2], &[2, 1, 2, 1, 3]] {
                sweep.quick(recipe(n, r, rest, add).fill(Fill::Beyond));
            }
        }
        for &fill in FILLS {
            for dtype in TYPES.into_iter().filter(|dtype| !add || dtype.is_none()) {
                sweep.quick(Recipe { dtype, ..recipe(9, 13, &[17], add).fill(fill) });
            }
            for view in View::DISTINCT {
                sweep.quick(recipe(9, 13, &[3, 7], add).fill(fill).view(view));
            }
        }
        for &fill in BACKWARD_FILLS {
            for view in View::ALL {
                sweep.quick(recipe(9, 13, &[17], add).fill(fill).view(view).backward());
            }
        }
        for view in View::ALL {
            sweep.quick(recipe(9, 13, &[5], add).view(view));
            sweep.full(recipe(300, 129, &[129], add).view(view));
        }
        // Many rows for few places: a race shows.
        sweep.quick(recipe(3, 500, &[9], add).fill(Fill::Repeated));
        sweep.full(recipe(5000, 1000, &[33], add).fill(Fill::Beyond));
        sweep.full(recipe(2, 5000, &[33], add).fill(Fill::Repeated));
    }
}

fn strategy(backward: bool) -> Option<BoxedStrategy<Recipe>> {
    let types = prop::sample::select(if backward { vec![None] } else { TYPES.to_vec() });
    let rest = prop_oneof![prop::collection::vec(0..=4usize, 0..=5), length(130).prop_map(|length| vec![length])];
    let recipes = (0..=20usize, length(70), rest, types, any::<bool>()).prop_map(move |(n, r, rest, dtype, add)| {
        let add = add && dtype.is_none();
        Recipe { dtype, ..recipe(n, r, &rest, add) }.direction(backward)
    });
    finished(recipes, if backward { BACKWARD_FILLS } else { FILLS })
}
