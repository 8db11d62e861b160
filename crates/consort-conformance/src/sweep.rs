//! Which recipes a backend is checked with: lists that never change, and generated ones that shrink.
//!
//! - [`recipes`] is the sweep: lengths from 0 to twice sixteen lanes and around tiles, ranks, broadcasts, views, every value
//!   of every attribute, special values, and the shapes that real models ask for.
//! - [`proptest()`] draws recipes beyond the lists and, when one fails, looks for a smaller one that fails too.

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use crate::{
    error::Error,
    recipe::Recipe,
    recipes::{self, FAMILIES},
};

/// How much is swept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Everything that is small: seconds on one core of the scalar backend.
    Quick,
    /// Large shapes, and more views of everything: minutes.
    Full,
}

/// The recipes of `depth`, grouped by operation in the order of docs/case-format.md. They are the same in every run, and those
/// of the quick sweep have the same names ([`Recipe::id`]) in the full one.
pub fn recipes(depth: Depth) -> Vec<Recipe> {
    recipes::sweep(depth)
}

/// Every operation that has recipes, in the order of docs/case-format.md.
pub fn operations() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|family| family.op)
}

/// Whether recipes of this operation can ask for gradients.
pub fn has_gradient(op: &str) -> bool {
    recipes::family(op).is_ok_and(|family| (family.strategy)(true).is_some())
}

/// Steps towards a smaller failure; each runs a recipe.
const SHRINKS: usize = 1000;
/// Generated recipes are the same in every run.
const SEED: [u8; 32] = *b"consort: generated recipes, no 1";

/// Runs `cases` generated recipes of one operation and direction. Where `run` refuses one, looks for a smaller one that it
/// refuses too, and gives it with the reason; `None` when all pass, or there are none in this direction.
pub fn proptest(
    op: &str,
    backward: bool,
    cases: u32,
    run: &mut dyn FnMut(&Recipe) -> Result<(), String>,
) -> Option<(Recipe, String)> {
    let strategy = (recipes::family(op).ok()?.strategy)(backward)?;
    // Nothing is taken from the environment: no number of cases, no seed, no file of earlier failures.
    let config = Config {
        cases,
        failure_persistence: None,
        max_local_rejects: 1000,
        max_global_rejects: 1000,
        max_flat_map_regens: 1000,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &SEED));
    for _ in 0..cases {
        let Ok(mut tree) = strategy.new_tree(&mut runner) else { continue };
        let recipe = tree.current();
        if let Err(what) = run(&recipe) {
            return Some(shrink(&mut tree, (recipe, what), run));
        }
    }
    None
}

/// A failure that `tree` can make no smaller.
fn shrink(
    tree: &mut impl ValueTree<Value = Recipe>,
    mut failure: (Recipe, String),
    run: &mut dyn FnMut(&Recipe) -> Result<(), String>,
) -> (Recipe, String) {
    let mut moved = tree.simplify();
    for _ in 0..SHRINKS {
        if !moved {
            break;
        }
        let recipe = tree.current();
        moved = match run(&recipe) {
            Err(what) => {
                failure = (recipe, what);
                tree.simplify()
            }
            Ok(()) => tree.complicate(),
        };
    }
    failure
}

/// The recipe called `id` in the full sweep.
///
/// # Errors
/// [`Error::Problem`] when none is called so.
pub fn find(id: &str) -> Result<Recipe, Error> {
    let recipe = recipes(Depth::Full).into_iter().find(|recipe| recipe.id() == id);
    recipe.ok_or_else(|| Error::problem(id, "no recipe of the sweep is called so"))
}
