//! How the operands of each operation are drawn, and which recipes of it are swept: one file a family, named as in the
//! core's `decompose/` and as the scalar backend's primitives.

mod activation;
mod adamw;
mod attention;
mod binary;
mod cache;
mod copy;
mod cross_entropy;
mod draw;
mod fill;
mod gather_rows;
mod linear;
mod matmul;
mod norm;
mod quantize;
mod reduce;
mod rotary;
mod sample;
mod scatter_rows;
mod select;
mod softmax;
mod traced;
mod unary;
mod write;

use std::collections::BTreeMap;

use proptest::{
    prelude::*,
    strategy::{BoxedStrategy, Union},
};

use self::draw::Draw;
pub(crate) use self::draw::normal;
use crate::{
    error::Error,
    ops::nearest,
    problem::Problem,
    recipe::{Fill, Recipe, View},
    sweep::Depth,
};

/// What is known of one operation.
pub(crate) struct Family {
    /// Its name.
    pub(crate) op: &'static str,
    /// Draws its operands, and a cotangent for each output.
    draw: fn(&mut Draw<'_>) -> Result<(), Error>,
    /// Lists its recipes.
    sweep: fn(&mut Sweep),
    /// Recipes in one direction, smaller ones to shrink to; `None` where it has no gradient.
    pub(crate) strategy: fn(bool) -> Option<BoxedStrategy<Recipe>>,
}

/// Every operation of docs/case-format.md, in its order.
pub(crate) static FAMILIES: &[Family] = &[
    fill::FILL,
    copy::COPY,
    write::WRITE,
    unary::UNARY,
    binary::BINARY,
    select::SELECT,
    reduce::REDUCE,
    matmul::MATMUL,
    gather_rows::GATHER_ROWS,
    scatter_rows::SCATTER_ROWS,
    softmax::SOFTMAX,
    norm::LAYER_NORM,
    norm::RMS_NORM,
    rotary::ROTARY,
    activation::ACTIVATION,
    activation::GATED,
    activation::SOFT_CAP,
    quantize::QUANTIZE_ACTIVATIONS,
    linear::LINEAR,
    linear::EMBEDDING,
    attention::ATTENTION,
    cache::CACHE_WRITE,
    attention::CACHED_ATTENTION,
    cross_entropy::CROSS_ENTROPY,
    adamw::ADAMW,
    sample::SAMPLE,
    softmax::SOFTMAX_BACKWARD,
    norm::LAYER_NORM_BACKWARD,
    norm::RMS_NORM_BACKWARD,
    activation::ACTIVATION_BACKWARD,
    activation::GATED_BACKWARD,
    activation::SOFT_CAP_BACKWARD,
    linear::LINEAR_BACKWARD_INPUT,
    linear::LINEAR_BACKWARD_WEIGHT,
    linear::EMBEDDING_BACKWARD,
    attention::ATTENTION_BACKWARD,
    cross_entropy::CROSS_ENTROPY_BACKWARD,
    cache::CACHE_COPY,
];

/// The family of this operation.
pub(crate) fn family(op: &str) -> Result<&'static Family, Error> {
    FAMILIES.iter().find(|family| family.op == op).ok_or_else(|| {
        let meant = nearest(op, FAMILIES.iter().map(|family| family.op)).unwrap_or_default();
        Error::problem(op, format!("no operation is called so, did you mean {meant:?}?"))
    })
}

/// The problem that a recipe stands for.
pub(crate) fn problem(recipe: &Recipe) -> Result<Problem, Error> {
    let mut draw = Draw::new(recipe);
    (family(&recipe.op)?.draw)(&mut draw)?;
    draw.finish()
}

/// All recipes of `depth`, in the order of the operations.
pub(crate) fn sweep(depth: Depth) -> Vec<Recipe> {
    let mut sweep = Sweep { depth, counts: BTreeMap::new(), recipes: Vec::new() };
    for family in FAMILIES {
        (family.sweep)(&mut sweep);
        traced::sweep(family.op, &mut sweep);
    }
    sweep.recipes
}

/// Collects recipes and numbers them: a recipe has the same number at every depth.
pub(crate) struct Sweep {
    depth: Depth,
    counts: BTreeMap<(String, bool), u64>,
    recipes: Vec<Recipe>,
}

impl Sweep {
    /// A recipe of every depth.
    fn quick(&mut self, recipe: Recipe) {
        self.add(recipe, true);
    }

    /// A recipe that only the full sweep has: large, or one more of a kind.
    fn full(&mut self, recipe: Recipe) {
        self.add(recipe, false);
    }

    fn add(&mut self, recipe: Recipe, quick: bool) {
        let count = self.counts.entry((recipe.op.clone(), recipe.backward)).or_default();
        *count += 1;
        if quick || self.depth == Depth::Full {
            self.recipes.push(Recipe { seed: *count, ..recipe });
        }
    }

    /// An element-wise operation over operands `names` of one shape: lengths up to twice sixteen lanes and around tiles,
    /// every view, ranks 0 to 6, `fills`.
    fn elementwise(&mut self, recipe: &Recipe, names: &[&str], fills: &[Fill]) {
        let shaped = |sizes: &[usize]| names.iter().fold(recipe.clone(), |recipe, name| recipe.shape(name, sizes));
        let lengths: &[usize] = if recipe.backward { &SOME_LENGTHS } else { &LENGTHS };
        for (at, &length) in lengths.iter().enumerate() {
            // Rows are added now and then, so that a tail is followed by another row.
            let sizes: &[usize] = if at % 3 == 2 { &[3, length] } else { &[length] };
            self.quick(shaped(sizes));
        }
        for (sizes, view) in RANKS.iter().zip(View::ALL.into_iter().cycle()) {
            self.quick(shaped(sizes).view(view));
        }
        for view in View::ALL {
            self.quick(shaped(&[3, 37]).view(view));
            for sizes in RANKS {
                self.full(shaped(sizes).view(view));
            }
        }
        for &fill in fills {
            self.quick(shaped(&[4, 33]).fill(fill));
            for view in [View::Offset, View::Permuted, View::Sliced] {
                self.full(shaped(&[3, 65]).fill(fill).view(view));
            }
        }
        for sizes in [&[1000][..], &[1024], &[63, 129], &[2, 8192], &[65_536]] {
            self.full(shaped(sizes));
        }
    }
}

/// Innermost lengths: up to twice sixteen lanes and one more, and around the usual tiles.
const LENGTHS: [usize; 40] = [
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30,
    31, 32, 33, 63, 64, 65, 127, 128, 129,
];

/// A selection of [`LENGTHS`], for backwards.
const SOME_LENGTHS: [usize; 14] = [0, 1, 2, 3, 4, 7, 8, 9, 15, 17, 31, 33, 64, 129];

/// A shape of every rank.
const RANKS: [&[usize]; 9] =
    [&[], &[5], &[3, 5], &[5, 1], &[2, 3, 17], &[2, 0, 3], &[2, 3, 1, 5], &[2, 2, 3, 1, 4], &[2, 1, 3, 2, 1, 3]];

/// Sizes of a tensor of any rank.
fn sizes(rank: std::ops::RangeInclusive<usize>, most: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..=most, rank)
}

/// A length that is often beside a tile.
fn length(most: usize) -> impl Strategy<Value = usize> {
    prop_oneof![3 => 0..=most.min(33), 1 => prop::sample::select(LENGTHS.to_vec()).prop_map(move |length| length.min(most))]
}

/// One of these.
fn fills(fills: &'static [Fill]) -> impl Strategy<Value = Fill> {
    prop::sample::select(fills.to_vec())
}

/// A key.
fn seeds() -> impl Strategy<Value = u64> {
    0..1u64 << 32
}

/// Recipes with fill, view and key added.
fn finished(recipes: impl Strategy<Value = Recipe> + 'static, fill: &'static [Fill]) -> Option<BoxedStrategy<Recipe>> {
    viewed(recipes, fill, &View::ALL)
}

/// As [`finished`], with these views; NaN is not repeated by a stride of 0.
fn viewed(
    recipes: impl Strategy<Value = Recipe> + 'static,
    fill: &'static [Fill],
    views: &'static [View],
) -> Option<BoxedStrategy<Recipe>> {
    let finished =
        (recipes, fills(fill), prop::sample::select(views), seeds()).prop_map(|(recipe, fill, view, seed)| {
            // NaN in one place is not NaN in all that repeat it.
            let masked = matches!(fill, Fill::Nan | Fill::Masked | Fill::Apart);
            let view = if masked && view.repeats() { View::Sliced } else { view };
            recipe.fill(fill).view(view).seed(seed)
        });
    Some(finished.boxed())
}

/// One of these attributes' values.
fn kinds(names: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(names.to_vec())
}

/// Recipes of an element-wise operation over operands of one shape.
fn elementwise(
    op: &'static str,
    backward: bool,
    names: &'static [&'static str],
    fill: &'static [Fill],
    attribute: Union<BoxedStrategy<(&'static str, serde_json::Value)>>,
) -> Option<BoxedStrategy<Recipe>> {
    let sizes = prop_oneof![sizes(0..=6, 4), length(130).prop_map(|length| vec![length])];
    let recipes = (sizes, attribute).prop_map(move |(sizes, (key, value))| {
        let recipe = Recipe::new(op).direction(backward).attribute(key, value);
        names.iter().fold(recipe, |recipe, name| recipe.shape(name, &sizes))
    });
    finished(recipes, fill)
}
