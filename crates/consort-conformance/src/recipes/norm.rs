//! `layer_norm`, `rms_norm` and their backwards: magnitudes whose squares overflow or vanish, rows of one value.

use proptest::prelude::*;

use super::{
    Family, LENGTHS, RANKS, SOME_LENGTHS, Sweep,
    draw::{Draw, Range, TAME},
    length, viewed,
};
use crate::{
    error::Error,
    recipe::{Fill, Recipe, View},
};

pub(super) const LAYER_NORM: Family =
    Family { op: "layer_norm", draw, sweep: sweep_layer_norm, strategy: |backward| strategy("layer_norm", backward) };
pub(super) const RMS_NORM: Family =
    Family { op: "rms_norm", draw, sweep: sweep_rms_norm, strategy: |backward| strategy("rms_norm", backward) };
pub(super) const LAYER_NORM_BACKWARD: Family = Family {
    op: "layer_norm_backward",
    draw: draw_backward,
    sweep: |sweep| sweep_backward(sweep, "layer_norm_backward"),
    strategy: |backward| if backward { None } else { strategy("layer_norm_backward", false) },
};
pub(super) const RMS_NORM_BACKWARD: Family = Family {
    op: "rms_norm_backward",
    draw: draw_backward,
    sweep: |sweep| sweep_backward(sweep, "rms_norm_backward"),
    strategy: |backward| if backward { None } else { strategy("rms_norm_backward", false) },
};

const EPSILONS: [f64; 5] = [1e-5, 1e-6, 1e-12, 0.1, 0.0];
const FILLS: &[Fill] =
    &[Fill::Normal, Fill::Large, Fill::Small, Fill::Positive, Fill::Negative, Fill::Ties, Fill::Peak, Fill::Offset];
const BACKWARD_FILLS: &[Fill] = &[Fill::Normal, Fill::Large, Fill::Positive, Fill::Peak];
const RANGE: Range = Range { large: 1e15, special: 1e15, wide: 1e15 };

fn draw(draw: &mut Draw<'_>) -> Result<(), Error> {
    let sizes = draw.shape("x");
    let n = sizes.last().copied().unwrap_or(1);
    draw.float("x", &sizes, RANGE)?;
    draw.normal("weight", &[n])?;
    if draw.recipe.op == "layer_norm" && draw.has("bias") {
        draw.normal("bias", &[n])?;
    }
    draw.cotangent(&sizes)?;
    draw.gradients(&["x", "weight", "bias"]);
    Ok(())
}

fn draw_backward(draw: &mut Draw<'_>) -> Result<(), Error> {
    let sizes = draw.shape("x");
    draw.float("x", &sizes, RANGE)?;
    draw.normal("weight", &[sizes.last().copied().unwrap_or(1)])?;
    match draw.recipe.fill {
        Fill::Large => draw.normal("d_y", &sizes),
        _ => draw.float("d_y", &sizes, TAME),
    }
}

fn recipe(op: &str, sizes: &[usize], epsilon: f64, offset: bool) -> Recipe {
    let recipe = Recipe::new(op).shape("x", sizes).attribute("epsilon", epsilon);
    if op.starts_with("rms_norm") { recipe.attribute("unit_offset", offset) } else { recipe }
}

/// Recipes that both norms have, in both forms: with bias or unit offset, and without.
fn both(sweep: &mut Sweep, op: &str, backward: bool) {
    for second in [false, true] {
        let recipe = |sizes: &[usize], epsilon: f64| {
            let recipe = recipe(op, sizes, epsilon, second).direction(backward);
            if op == "layer_norm" && second { recipe.without("bias") } else { recipe }
        };
        // The deviation of one number from its mean is 0, and so are gradients of it: without a bias there is nothing to check.
        let nothing = op == "layer_norm_backward" || (op == "layer_norm" && (backward || second));
        let says = |length: usize| !nothing || length != 1;
        let lengths: &[usize] = if backward { &SOME_LENGTHS } else { &LENGTHS };
        for (at, &length) in lengths.iter().enumerate().filter(|(_, length)| says(**length)) {
            sweep.quick(recipe(&[at % 3 + 1, length], 1e-5));
        }
        let ranks = RANKS.into_iter().filter(|sizes| sizes.last().is_some_and(|&length| says(length)));
        for (sizes, view) in ranks.zip(View::OF_ROWS.into_iter().cycle()) {
            sweep.quick(recipe(sizes, 1e-5).view(view));
        }
        for epsilon in EPSILONS {
            sweep.quick(recipe(&[4, 37], epsilon));
            sweep.full(recipe(&[4, 129], epsilon).view(View::Offset));
        }
        for &fill in if backward { BACKWARD_FILLS } else { FILLS } {
            sweep.quick(recipe(&[4, 33], 1e-5).fill(fill));
            sweep.quick(recipe(&[3, 64], 1e-6).fill(fill).view(View::Sliced));
            sweep.full(recipe(&[3, 1000], 1e-6).fill(fill));
        }
        for view in View::OF_ROWS {
            sweep.quick(recipe(&[5, 37], 1e-5).view(view));
            sweep.quick(recipe(&[2, 3, 20], 1e-5).view(view));
        }
        sweep.quick(recipe(&[257, 8], 1e-5));
        sweep.quick(recipe(&[1, 1025], 1e-5));
        sweep.full(recipe(&[1, 65_536], 1e-5));
        sweep.full(recipe(&[130, 768], 1e-5));
    }
}

fn sweep_layer_norm(sweep: &mut Sweep) {
    both(sweep, "layer_norm", false);
    both(sweep, "layer_norm", true);
    // Rows of one value: nothing but the bias is left, and what rounding leaves of the deviations over the root of ε.
    for length in [1, 2, 16, 33, 64] {
        sweep.quick(recipe("layer_norm", &[3, length], 1e-5, false).fill(Fill::Constant));
        sweep.quick(recipe("layer_norm", &[3, length], 0.1, false).fill(Fill::Zeros));
    }
}

fn sweep_rms_norm(sweep: &mut Sweep) {
    both(sweep, "rms_norm", false);
    both(sweep, "rms_norm", true);
    for offset in [false, true] {
        for length in [1, 2, 16, 33, 64] {
            sweep.quick(recipe("rms_norm", &[3, length], 1e-5, offset).fill(Fill::Constant));
            sweep.quick(recipe("rms_norm", &[3, length], 1e-5, offset).fill(Fill::Special));
        }
    }
}

fn sweep_backward(sweep: &mut Sweep, op: &str) {
    for length in LENGTHS.into_iter().filter(|&length| length != 1) {
        sweep.quick(recipe(op, &[2, length], 1e-5, length % 2 == 0));
    }
    both(sweep, op, false);
}

fn strategy(op: &'static str, backward: bool) -> Option<BoxedStrategy<Recipe>> {
    let shapes = prop_oneof![
        prop::collection::vec(0..=4usize, 1..=6),
        (1..=4usize, length(130)).prop_map(|(rows, length)| vec![rows, length]),
    ];
    let of_gradients = backward || op.ends_with("backward");
    let recipes = (shapes, prop::sample::select(EPSILONS[..4].to_vec()), any::<bool>()).prop_map(
        move |(sizes, epsilon, second)| {
            // One number has no deviation, and of two no gradient is left but for epsilon.
            let sizes: Vec<usize> = match sizes.split_last() {
                Some((1 | 2, outer)) if op.starts_with("layer_norm") || of_gradients => [outer, &[3]].concat(),
                _ => sizes,
            };
            let recipe = recipe(op, &sizes, epsilon, second).direction(backward);
            if op == "layer_norm" && second { recipe.without("bias") } else { recipe }
        },
    );
    viewed(recipes, if of_gradients { BACKWARD_FILLS } else { FILLS }, &View::OF_ROWS)
}
