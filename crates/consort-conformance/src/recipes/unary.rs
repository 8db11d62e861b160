//! `unary`: each function over its domain.

use proptest::{prelude::*, strategy::Union};

use super::{
    Family, Sweep,
    draw::{Draw, Range},
    elementwise,
};
use crate::{
    error::Error,
    recipe::{Fill, Recipe},
};

pub(super) const UNARY: Family = Family { op: "unary", draw, sweep, strategy };

const KINDS: [&str; 9] = ["negate", "exp", "log", "sqrt", "tanh", "erf", "reciprocal", "single", "round"];
/// A whole number has no gradient.
const BACKWARD_KINDS: &[&str] = KINDS.split_at(8).0;
const FILLS: &[Fill] = &[
    Fill::Normal,
    Fill::Large,
    Fill::Small,
    Fill::Positive,
    Fill::Negative,
    Fill::Zeros,
    Fill::Special,
    Fill::Wide,
    Fill::Nan,
];
const BACKWARD_FILLS: &[Fill] = &[Fill::Normal, Fill::Positive, Fill::Negative, Fill::Ties];
/// Whose reciprocal is a normal number.
const LEAST_DIVISOR: f64 = 1e-36;

fn draw(draw: &mut Draw<'_>) -> Result<(), Error> {
    let sizes = draw.shape("x");
    let kind: String = draw.attribute("kind")?;
    let (fill, backward) = (draw.recipe.fill, draw.recipe.backward);
    let range = match kind.as_str() {
        // e⁸⁸ is near the end of f32, e⁻¹⁰³ is its least denormal.
        "exp" => Range { large: 25.0, special: 80.0, wide: 85.0 },
        "reciprocal" => Range { large: 1e30, special: 1e36, wide: 1e36 },
        // Large ones are whole already.
        "round" => Range { large: 100.0, special: f64::MAX, wide: 3e38 },
        _ => Range { large: 1e30, special: f64::MAX, wide: 3e38 },
    };
    let mut values = draw.values(&sizes, range)?;
    for (index, value) in values.iter_mut().enumerate() {
        *value = match kind.as_str() {
            // The logarithm of a denormal that a device takes for 0 is no number.
            "log" if value.abs() < LEAST_DIVISOR => 2.0,
            "log" | "sqrt" if backward && value.abs() < 0.0625 => 0.0625,
            "log" | "sqrt" => value.abs(),
            // Halves between whole numbers, up to where numbers have none.
            "round" if fill == Fill::Ties => f64::from((*value + index as f64 / 2.0) as f32),
            "round" if fill == Fill::Normal && index % 4 == 3 => f64::from((*value * 3e6) as f32),
            "exp" => value.clamp(-103.0, 88.0),
            "reciprocal" if backward && value.abs() < 0.0625 => f64::copysign(0.0625, *value),
            "reciprocal" if value.abs() < LEAST_DIVISOR => f64::copysign(1.0, *value),
            _ => *value,
        };
        if fill == Fill::Nan && index % 3 == 1 {
            *value = f64::NAN;
        }
    }
    draw.push("x", &sizes, values)?;
    draw.cotangent(&sizes)?;
    draw.gradients(&["x"]);
    Ok(())
}

fn sweep(sweep: &mut Sweep) {
    for kind in KINDS {
        let recipe = Recipe::new("unary").attribute("kind", kind);
        sweep.elementwise(&recipe, &["x"], FILLS);
        if BACKWARD_KINDS.contains(&kind) {
            sweep.elementwise(&recipe.backward(), &["x"], BACKWARD_FILLS);
        }
    }
    sweep.quick(Recipe::new("unary").attribute("kind", "round").shape("x", &[4, 33]).fill(Fill::Ties));
}

fn strategy(backward: bool) -> Option<BoxedStrategy<Recipe>> {
    let kinds = if backward { BACKWARD_KINDS } else { &KINDS };
    let kinds = Union::new(kinds.iter().map(|kind| Just(("kind", (*kind).into())).boxed()));
    elementwise("unary", backward, &["x"], if backward { BACKWARD_FILLS } else { FILLS }, kinds)
}
