//! `rotary`: both pairings, whole and partial heads, odd widths; table rows in every order, some beyond the table.

use proptest::prelude::*;

use super::{
    Family, SOME_LENGTHS, Sweep,
    draw::{Draw, TAME},
    finished, kinds,
};
use crate::{
    error::Error,
    recipe::{Fill, Recipe, View},
};

pub(super) const ROTARY: Family = Family { op: "rotary", draw, sweep, strategy };

const PAIRINGS: &[&str] = &["halves", "interleaved"];
const FILLS: &[Fill] = &[
    Fill::Normal,
    Fill::Large,
    Fill::Small,
    Fill::Special,
    Fill::Permuted,
    Fill::Repeated,
    Fill::Beyond,
    Fill::Masked,
];

fn draw(draw: &mut Draw<'_>) -> Result<(), Error> {
    let [rows, heads, width] = [draw.dim("T")?, draw.dim("H")?, draw.dim("C")?];
    let [table, pairs] = [draw.dim("N")?, draw.dim("P")?];
    let ids = draw.ids(rows, table);
    draw.float("x", &[rows, heads, width], TAME)?;
    for name in ["cos", "sin"] {
        // A plain number for each: no two of a pair are related, so that swapped tables show.
        let mut values = draw.normals(&[table, pairs])?;
        if draw.recipe.fill == Fill::Masked {
            for (row, values) in values.chunks_mut(pairs.max(1)).enumerate() {
                if !ids.contains(&(row as u32)) {
                    values.fill(f64::NAN);
                }
            }
        }
        draw.push(name, &[table, pairs], values)?;
    }
    draw.push_ids("ids", &[rows], ids)?;
    draw.cotangent(&[rows, heads, width])?;
    draw.gradients(&["x"]);
    Ok(())
}

fn recipe(pairing: &str, [rows, heads, width]: [usize; 3], [table, pairs]: [usize; 2]) -> Recipe {
    Recipe::new("rotary").attribute("pairing", pairing).dims([
        ("T", rows),
        ("H", heads),
        ("C", width),
        ("N", table),
        ("P", pairs),
    ])
}

fn sweep(sweep: &mut Sweep) {
    for &pairing in PAIRINGS {
        for width in 0..=33 {
            sweep.quick(recipe(pairing, [3, 2, width], [5, width / 2]));
            if width > 2 {
                sweep.quick(recipe(pairing, [2, 3, width], [5, width / 4]));
            }
        }
        for width in [62, 64, 66, 126, 128, 130] {
            sweep.quick(recipe(pairing, [2, 3, width], [4, width / 2]));
            sweep.quick(recipe(pairing, [2, 3, width], [4, width / 8]));
        }
        for rows in SOME_LENGTHS {
            sweep.quick(recipe(pairing, [rows, 2, 6], [7, 3]));
            sweep.quick(recipe(pairing, [rows, 2, 6], [7, 3]).backward());
        }
        for heads in [1, 2, 3, 8, 17, 32] {
            sweep.quick(recipe(pairing, [3, heads, 10], [4, 4]));
            sweep.quick(recipe(pairing, [3, heads, 10], [4, 4]).backward());
        }
        for &fill in FILLS {
            sweep.quick(recipe(pairing, [9, 3, 16], [11, 8]).fill(fill));
            sweep.quick(recipe(pairing, [9, 3, 17], [11, 6]).fill(fill).view(View::Sliced));
        }
        for view in View::ALL {
            sweep.quick(recipe(pairing, [5, 3, 12], [6, 4]).view(view));
            sweep.quick(recipe(pairing, [5, 3, 12], [6, 4]).view(view).backward());
        }
        sweep.quick(recipe(pairing, [3, 2, 4], [0, 2]));
        sweep.full(recipe(pairing, [129, 32, 64], [129, 32]));
        sweep.full(recipe(pairing, [129, 12, 128], [200, 16]).fill(Fill::Permuted).backward());
    }
}

fn strategy(backward: bool) -> Option<BoxedStrategy<Recipe>> {
    let sizes = (0..=9usize, 1..=5usize, 0..=40usize, 0..=9usize, 0..=20usize);
    let recipes = (sizes, kinds(PAIRINGS)).prop_map(move |((rows, heads, width, table, pairs), pairing)| {
        recipe(pairing, [rows, heads, width], [table, pairs.min(width / 2)]).direction(backward)
    });
    finished(recipes, if backward { &[Fill::Normal, Fill::Repeated, Fill::Beyond] } else { FILLS })
}
