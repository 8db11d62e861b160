//! `activation`, `gated`, `soft_cap` and their backwards: each function from denormals to magnitudes whose exponential or
//! cube overflows.

use proptest::{prelude::*, strategy::Union};

use super::{
    Family, Sweep,
    draw::{Draw, Range, TAME},
    elementwise,
};
use crate::{
    error::Error,
    recipe::{Fill, Recipe},
};

pub(super) const ACTIVATION: Family = of(
    "activation",
    draw,
    |sweep| functions(sweep, "activation", &["x"]),
    |backward| with_kinds("activation", backward, &["x"]),
);
pub(super) const GATED: Family = of(
    "gated",
    draw,
    |sweep| functions(sweep, "gated", &["gate", "up"]),
    |backward| with_kinds("gated", backward, &["gate", "up"]),
);
pub(super) const SOFT_CAP: Family =
    of("soft_cap", draw, |sweep| caps(sweep, "soft_cap", &["x"]), |backward| with_caps("soft_cap", backward, &["x"]));
pub(super) const ACTIVATION_BACKWARD: Family = of(
    "activation_backward",
    draw,
    |sweep| functions(sweep, "activation_backward", &["x", "d_y"]),
    |backward| if backward { None } else { with_kinds("activation_backward", false, &["x", "d_y"]) },
);
pub(super) const GATED_BACKWARD: Family = of(
    "gated_backward",
    draw,
    |sweep| functions(sweep, "gated_backward", &["gate", "up", "d_y"]),
    |backward| if backward { None } else { with_kinds("gated_backward", false, &["gate", "up", "d_y"]) },
);
pub(super) const SOFT_CAP_BACKWARD: Family = of(
    "soft_cap_backward",
    draw,
    |sweep| caps(sweep, "soft_cap_backward", &["x", "d_y"]),
    |backward| if backward { None } else { with_caps("soft_cap_backward", false, &["x", "d_y"]) },
);

/// The functions, by name.
pub(super) const KINDS: [&str; 6] = ["relu", "gelu", "gelu_tanh", "quick_gelu", "silu", "tanh"];
const CAPS: [f64; 4] = [30.0, 50.0, 1.0, 0.5];
const FILLS: &[Fill] = &[
    Fill::Normal,
    Fill::Large,
    Fill::Small,
    Fill::Positive,
    Fill::Negative,
    Fill::Zeros,
    Fill::Ties,
    Fill::Special,
    Fill::Wide,
    Fill::Offset,
];
const BACKWARD_FILLS: &[Fill] =
    &[Fill::Normal, Fill::Large, Fill::Positive, Fill::Negative, Fill::Zeros, Fill::Special];
/// Exponentials of such overflow, their cubes do not.
const RANGE: Range = Range { large: 1e4, special: 1e11, wide: 1e12 };

type Of<T> = fn(T) -> Option<BoxedStrategy<Recipe>>;

const fn of(
    op: &'static str,
    draw: fn(&mut Draw<'_>) -> Result<(), Error>,
    sweep: fn(&mut Sweep),
    strategy: Of<bool>,
) -> Family {
    Family { op, draw, sweep, strategy }
}

fn draw(draw: &mut Draw<'_>) -> Result<(), Error> {
    let names: &[&str] = match draw.recipe.op.as_str() {
        "gated" => &["gate", "up"],
        "activation_backward" | "soft_cap_backward" => &["x", "d_y"],
        "gated_backward" => &["gate", "up", "d_y"],
        _ => &["x"],
    };
    let mut shape = Vec::new();
    for (at, name) in names.iter().enumerate() {
        shape = draw.shape(name);
        // The first is what the function is taken of; the others are factors.
        match at {
            0 => argument(draw, name, &shape)?,
            _ if draw.recipe.fill == Fill::Special => draw.float(name, &shape, Range { special: 1e8, ..TAME })?,
            _ => draw.normal(name, &shape)?,
        }
    }
    draw.cotangent(&shape)?;
    draw.gradients(&["x", "gate", "up"]);
    Ok(())
}

/// Of great numbers two of three are ordinary: slopes vanish there, and far below 0 so do the functions, up to what rounding
/// leaves of `1 + erf` or `1 − tanh²`. The first is above 0, so that relu gives something.
fn argument(draw: &mut Draw<'_>, name: &str, shape: &[usize]) -> Result<(), Error> {
    let mut values = draw.values(shape, RANGE)?;
    match draw.recipe.fill {
        Fill::Large | Fill::Wide => {
            let ordinary = draw.normals(shape)?;
            let places = values.iter_mut().zip(ordinary).enumerate().filter(|(index, _)| index % 3 != 1);
            places.for_each(|(_, (value, ordinary))| *value = ordinary);
        }
        Fill::Normal => values.iter_mut().take(1).for_each(|value| *value = value.abs()),
        _ => {}
    }
    draw.push(name, shape, values)
}

fn functions(sweep: &mut Sweep, op: &str, names: &[&str]) {
    for kind in KINDS {
        let recipe = Recipe::new(op).attribute("kind", kind);
        both(sweep, recipe, op, names);
    }
}

fn caps(sweep: &mut Sweep, op: &str, names: &[&str]) {
    for cap in CAPS {
        both(sweep, Recipe::new(op).attribute("cap", cap), op, names);
    }
}

fn both(sweep: &mut Sweep, recipe: Recipe, op: &str, names: &[&str]) {
    let is_backward = op.ends_with("backward");
    sweep.elementwise(&recipe, names, if is_backward { BACKWARD_FILLS } else { FILLS });
    if !is_backward {
        sweep.elementwise(&recipe.backward(), names, BACKWARD_FILLS);
    }
}

fn with_kinds(op: &'static str, backward: bool, names: &'static [&'static str]) -> Option<BoxedStrategy<Recipe>> {
    let kinds = Union::new(KINDS.map(|kind| Just(("kind", kind.into())).boxed()));
    elementwise(op, backward, names, fills(op, backward), kinds)
}

fn with_caps(op: &'static str, backward: bool, names: &'static [&'static str]) -> Option<BoxedStrategy<Recipe>> {
    let caps = Union::new(CAPS.map(|cap| Just(("cap", cap.into())).boxed()));
    elementwise(op, backward, names, fills(op, backward), caps)
}

fn fills(op: &str, backward: bool) -> &'static [Fill] {
    if backward || op.ends_with("backward") { BACKWARD_FILLS } else { FILLS }
}
