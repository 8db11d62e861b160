//! `adamw`: the first step and a late one, gradients of zeros, of great and of vanishing magnitude.

use proptest::{prelude::*, strategy::Union};
use serde_json::{Value, json};

use super::{
    Family, Sweep,
    draw::{Draw, Range, single},
    elementwise,
};
use crate::{
    error::Error,
    recipe::{Fill, Recipe, View},
};

pub(super) const ADAMW: Family = Family { op: "adamw", draw, sweep, strategy };

const NAMES: &[&str] = &["x"];
const FILLS: &[Fill] =
    &[Fill::Normal, Fill::Large, Fill::Small, Fill::Zeros, Fill::Constant, Fill::Ties, Fill::Special, Fill::Peak];
/// Squares of such gradients are within f32.
const RANGE: Range = Range { large: 1e10, special: 1e15, wide: 1e15 };

fn draw(draw: &mut Draw<'_>) -> Result<(), Error> {
    let sizes = draw.shape("x");
    let first_step = draw.attribute::<u32>("step")? == 1;
    draw.normal("parameter", &sizes)?;
    let gradient = draw.values(&sizes, RANGE)?;
    // Moments as gradients of this magnitude leave them; zeros before the first step.
    let (means, spreads) = (draw.normals(&sizes)?, draw.normals(&sizes)?);
    let scale = if draw.recipe.fill == Fill::Large { RANGE.large } else { 1.0 };
    let moment = |value: f64| if first_step { 0.0 } else { single(value) };
    let first = means.iter().map(|mean| moment(0.1 * scale * mean)).collect();
    let second = spreads.iter().map(|spread| moment(0.01 * scale * scale * spread * spread)).collect();
    draw.push("gradient", &sizes, gradient)?;
    draw.push("first", &sizes, first)?;
    draw.push("second", &sizes, second)
}

fn settings(step: u32, rate: f64, betas: [f64; 2], epsilon: f64, weight_decay: f64) -> Recipe {
    let [beta1, beta2] = betas;
    let settings = [
        ("rate", json!(rate)),
        ("beta1", json!(beta1)),
        ("beta2", json!(beta2)),
        ("epsilon", json!(epsilon)),
        ("weight_decay", json!(weight_decay)),
        ("step", json!(step)),
    ];
    settings.into_iter().fold(Recipe::new("adamw"), |recipe, (name, value)| recipe.attribute(name, value))
}

/// The first step, a late one, and settings that show which is which.
fn variants() -> [Recipe; 5] {
    [
        settings(1, 0.001, [0.9, 0.999], 1e-8, 0.01),
        settings(1000, 0.001, [0.9, 0.999], 1e-8, 0.01),
        settings(2, 0.1, [0.5, 0.75], 0.125, 0.0),
        settings(10, 0.0003, [0.9, 0.95], 1e-8, 0.1),
        settings(7, 0.0, [0.0, 0.5], 1e-6, 0.5),
    ]
}

fn sweep(sweep: &mut Sweep) {
    for recipe in variants() {
        sweep.elementwise(&recipe, NAMES, FILLS);
        for &fill in FILLS {
            sweep.quick(recipe.clone().shape("x", &[3, 17]).fill(fill).view(View::Sliced));
        }
    }
}

fn strategy(backward: bool) -> Option<BoxedStrategy<Recipe>> {
    // The settings are several attributes: all are set, one of them by the strategy.
    let steps = Union::new([1u32, 2, 1000].map(|step| Just(("step", Value::from(step))).boxed()));
    let recipes = elementwise("adamw", false, NAMES, FILLS, steps)?.prop_map(|recipe| {
        let mut attributes = settings(1, 0.01, [0.9, 0.99], 1e-6, 0.1).attributes;
        attributes.extend(recipe.attributes.clone());
        Recipe { attributes, ..recipe }
    });
    (!backward).then(|| recipes.boxed())
}
