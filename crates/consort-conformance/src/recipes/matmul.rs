//! `matmul`: each of M, K and N around lanes and tiles, batches broadcast, transposed operands, one term among 4,096 and one
//! output among 2,304.

use proptest::prelude::*;

use super::{
    Family, LENGTHS, SOME_LENGTHS, Sweep,
    binary::{broadcast, broadcast_shapes},
    draw::{Draw, Range},
    finished,
};
use crate::{
    error::Error,
    recipe::{Fill, Recipe, View},
};

pub(super) const MATMUL: Family = Family { op: "matmul", draw, sweep, strategy };

const FILLS: &[Fill] = &[
    Fill::Normal,
    Fill::Large,
    Fill::Small,
    Fill::Positive,
    Fill::Negative,
    Fill::Constant,
    Fill::Ties,
    Fill::Special,
    Fill::Offset,
];
/// Products of such, and sums of thousands of them, are within f32.
const RANGE: Range = Range { large: 1e15, special: 1e15, wide: 1e15 };

fn draw(draw: &mut Draw<'_>) -> Result<(), Error> {
    let (a, b) = (draw.shape("a"), draw.shape("b"));
    draw.float("a", &a, RANGE)?;
    draw.float("b", &b, RANGE)?;
    if let ([batch_a @ .., m, _], [batch_b @ .., _, n]) = (&a[..], &b[..]) {
        let mut out = broadcast(batch_a, batch_b);
        out.extend([m, n]);
        draw.cotangent(&out)?;
    }
    draw.gradients(&["a", "b"]);
    Ok(())
}

fn recipe(a: &[usize], b: &[usize]) -> Recipe {
    Recipe::new("matmul").shape("a", a).shape("b", b)
}

fn sweep(sweep: &mut Sweep) {
    // One of M, K and N sweeps, the others are small.
    for (length, view) in LENGTHS.into_iter().zip([View::Contiguous, View::Permuted, View::Sliced].into_iter().cycle())
    {
        sweep.quick(recipe(&[2, length], &[length, 3]).view(view));
        sweep.quick(recipe(&[length, 5], &[5, 3]).view(view));
        sweep.quick(recipe(&[3, 5], &[5, length]).view(view));
    }
    for length in SOME_LENGTHS {
        sweep.quick(recipe(&[2, length], &[length, 3]).backward());
        sweep.quick(recipe(&[length, 5], &[5, 3]).backward());
        sweep.quick(recipe(&[3, 5], &[5, length]).backward());
    }
    // Tiles in two dimensions at once.
    let tiles = [1, 15, 16, 17, 31, 33, 65];
    for m in tiles {
        for n in tiles {
            sweep.quick(recipe(&[m, 19], &[19, n]));
            for k in [1, 16, 33, 64, 65] {
                sweep.full(recipe(&[m, k], &[k, n]));
            }
        }
    }
    for [m, k, n] in [[64, 64, 64], [63, 65, 127], [128, 128, 128], [129, 127, 65], [1, 129, 129], [129, 1, 129]] {
        sweep.quick(recipe(&[m, k], &[k, n]));
        for view in View::ALL {
            sweep.full(recipe(&[m, k], &[k, n]).view(view));
            sweep.full(recipe(&[m, k], &[k, n]).view(view).backward());
        }
    }
    // One term among 4,096, one output among 2,304.
    for fill in [Fill::Normal, Fill::Positive] {
        sweep.quick(recipe(&[1, 4096], &[4096, 17]).fill(fill));
        sweep.quick(recipe(&[3, 4096], &[4096, 2]).fill(fill));
    }
    sweep.quick(recipe(&[1, 96], &[96, 2304]));
    sweep.quick(recipe(&[48, 33], &[33, 48]));
    sweep.quick(recipe(&[2, 65_536], &[65_536, 1]));
    sweep.full(recipe(&[1, 4096], &[4096, 2304]));
    sweep.full(recipe(&[16, 4096], &[4096, 144]));
    sweep.full(recipe(&[2304, 64], &[64, 65]));
    // Batches.
    let batches: [(&[usize], &[usize]); 9] = [
        (&[2], &[2]),
        (&[1], &[3]),
        (&[3], &[1]),
        (&[], &[3]),
        (&[3], &[]),
        (&[2, 1], &[1, 3]),
        (&[2, 3], &[2, 3]),
        (&[2, 1, 2, 1], &[2, 3, 1, 2]),
        (&[0], &[1]),
    ];
    for (batch_a, batch_b) in batches {
        for (at, view) in View::ALL.into_iter().enumerate() {
            let [m, k, n] = [at + 1, 7, 5];
            let (a, b) = ([batch_a, &[m, k]].concat(), [batch_b, &[k, n]].concat());
            sweep.quick(recipe(&a, &b).view(view));
            if at % 2 == 0 {
                sweep.quick(recipe(&a, &b).view(view).backward());
            }
            sweep.full(recipe(&[batch_a, &[17, 33]].concat(), &[batch_b, &[33, 16]].concat()).view(view));
        }
    }
    for &fill in FILLS {
        sweep.quick(recipe(&[5, 37], &[37, 9]).fill(fill));
        sweep.full(recipe(&[5, 37], &[37, 9]).fill(fill).view(View::Permuted));
    }
    for view in View::ALL {
        sweep.quick(recipe(&[9, 37], &[37, 18]).view(view));
    }
}

fn strategy(backward: bool) -> Option<BoxedStrategy<Recipe>> {
    let batches = broadcast_shapes().prop_map(|(a, b)| {
        // Small, and two axes less than a tensor can have.
        let small = |sizes: Vec<usize>| -> Vec<usize> {
            sizes.into_iter().rev().take(3).rev().map(|size| if size > 5 { 2 } else { size }).collect()
        };
        (small(a), small(b))
    });
    let sizes = prop_oneof![
        2 => (0..=9usize, 0..=9usize, 0..=9usize),
        2 => (0..=33usize, 0..=70usize, 0..=33usize),
        1 => (1..=3usize, 100..=600usize, 1..=20usize),
    ];
    let with_batches = (batches, 0..=5usize, 0..=9usize, 0..=5usize)
        .prop_map(|((a, b), m, k, n)| ([&a[..], &[m, k]].concat(), [&b[..], &[k, n]].concat()));
    let shapes = prop_oneof![sizes.prop_map(|(m, k, n)| (vec![m, k], vec![k, n])), with_batches];
    let recipes = shapes.prop_map(move |(a, b)| recipe(&a, &b).direction(backward));
    finished(recipes, if backward { &[Fill::Normal, Fill::Constant] } else { FILLS })
}
