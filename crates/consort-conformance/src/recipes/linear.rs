//! `linear`, `embedding` and their backwards: every type of weight, blocks with the edges of their formats; one term among
//! 4,096, one output among 2,304.

use consort_core::WeightDType;
use proptest::prelude::*;
use serde_json::Value;

use super::{
    Family, LENGTHS, SOME_LENGTHS, Sweep,
    activation::KINDS,
    draw::{Draw, Range},
    finished, length,
};
use crate::{
    error::Error,
    recipe::{Fill, Recipe, View},
};

pub(super) const LINEAR: Family = Family { op: "linear", draw, sweep, strategy };
pub(super) const EMBEDDING: Family =
    Family { op: "embedding", draw: draw_embedding, sweep: sweep_embedding, strategy: strategy_embedding };
pub(super) const LINEAR_BACKWARD_INPUT: Family = Family {
    op: "linear_backward_input",
    draw: draw_backward,
    sweep: |sweep| sweep_backward(sweep, "linear_backward_input"),
    strategy: |backward| strategy_backward("linear_backward_input", backward),
};
pub(super) const LINEAR_BACKWARD_WEIGHT: Family = Family {
    op: "linear_backward_weight",
    draw: draw_backward,
    sweep: |sweep| sweep_backward(sweep, "linear_backward_weight"),
    strategy: |backward| strategy_backward("linear_backward_weight", backward),
};
pub(super) const EMBEDDING_BACKWARD: Family = Family {
    op: "embedding_backward",
    draw: draw_embedding_backward,
    sweep: sweep_embedding_backward,
    strategy: strategy_embedding_backward,
};

const TYPES: [WeightDType; 14] = WeightDType::ALL;

/// Inputs of about `n` blocks of 32: whole blocks of the type.
fn inputs_of(dtype: WeightDType, n: usize) -> usize {
    (32 * n).next_multiple_of(dtype.block())
}
/// Those with a gradient first.
const COMPUTES: [&str; 3] = ["f32", "bf16", "int8"];
const FILLS: &[Fill] = &[
    Fill::Normal,
    Fill::Large,
    Fill::Small,
    Fill::Positive,
    Fill::Constant,
    Fill::Zeros,
    Fill::Ties,
    Fill::Special,
    Fill::Wide,
    Fill::Offset,
];
const IDS: &[Fill] = &[Fill::Normal, Fill::Permuted, Fill::Repeated, Fill::Beyond, Fill::Special, Fill::Ties];
/// Weights of such magnitudes are within f16.
const RANGE: Range = Range { large: 1000.0, special: 6e4, wide: 6e4 };

fn draw(draw: &mut Draw<'_>) -> Result<(), Error> {
    let [rows, inputs, outputs] = [draw.dim("rows")?, draw.dim("inputs")?, draw.dim("outputs")?];
    draw.float("x", &[rows, inputs], RANGE)?;
    draw.weight("weight", outputs, inputs, RANGE)?;
    if draw.has("bias") {
        draw.normal("bias", &[outputs])?;
    }
    if draw.has("residual") {
        draw.normal("residual", &[rows, outputs])?;
    }
    draw.cotangent(&[rows, outputs])?;
    draw.gradients(&["x", "weight", "bias", "residual"]);
    Ok(())
}

fn draw_embedding(draw: &mut Draw<'_>) -> Result<(), Error> {
    let [n, width, rows] = [draw.dim("n")?, draw.dim("width")?, draw.dim("rows")?];
    draw.weight("weight", n, width, RANGE)?;
    let ids = draw.ids(rows, n);
    draw.push_ids("ids", &[rows], ids)?;
    draw.cotangent(&[rows, width])?;
    draw.gradients(&["weight"]);
    Ok(())
}

fn draw_backward(draw: &mut Draw<'_>) -> Result<(), Error> {
    let [rows, inputs, outputs] = [draw.dim("rows")?, draw.dim("inputs")?, draw.dim("outputs")?];
    if draw.recipe.op == "linear_backward_weight" {
        draw.float("x", &[rows, inputs], RANGE)?;
        return draw.float("d_y", &[rows, outputs], RANGE);
    }
    draw.float("d_y", &[rows, outputs], RANGE)?;
    draw.weight("weight", outputs, inputs, RANGE)
}

fn draw_embedding_backward(draw: &mut Draw<'_>) -> Result<(), Error> {
    let [width, rows] = [draw.dim("width")?, draw.dim("r")?];
    let table: usize = draw.attribute("rows")?;
    let ids = draw.ids(rows, table);
    draw.push_ids("ids", &[rows], ids)?;
    draw.float("d_y", &[rows, width], RANGE)
}

fn sized(op: &str, [rows, inputs, outputs]: [usize; 3]) -> Recipe {
    Recipe::new(op).dims([("rows", rows), ("inputs", inputs), ("outputs", outputs)])
}

/// A linear without anything.
fn bare(sizes: [usize; 3]) -> Recipe {
    sized("linear", sizes).attribute("activation", Value::Null).without("bias").without("residual")
}

fn sweep(sweep: &mut Sweep) {
    for (at, length) in LENGTHS.into_iter().enumerate() {
        sweep.quick(bare([at % 3 + 1, length, 5]));
        sweep.quick(bare([at % 3 + 1, 7, length]));
        sweep.quick(bare([length, 7, 5]));
    }
    for length in SOME_LENGTHS {
        sweep.quick(bare([2, length, 5]).backward());
        sweep.quick(bare([2, 7, length]).backward());
        sweep.quick(bare([length, 7, 5]).backward());
    }
    // Every combination of what may be added, with every function.
    for kind in KINDS.into_iter().map(Some).chain([None]) {
        for absent in [&[][..], &["bias"], &["residual"], &["bias", "residual"]] {
            for backward in [false, true] {
                for sizes in [[3, 17, 9], [1, 33, 16], [5, 32, 33]] {
                    let recipe = sized("linear", sizes).attribute("activation", kind).direction(backward);
                    sweep.quick(Recipe { absent: absent.iter().map(|name| (*name).to_owned()).collect(), ..recipe });
                }
            }
        }
    }
    for dtype in TYPES {
        let wide = dtype.block().max(32);
        let some = wide.max(64);
        // Rows of one block, and of numbers of blocks that unrolled loops leave a rest of.
        for (at, blocks) in [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17].into_iter().enumerate() {
            let rows = at % 5 + 1;
            let sizes = [rows, wide * blocks, 2 * at + 3];
            let quick = wide == 32 || blocks < 5;
            sweep.add(bare(sizes).weight(dtype), quick);
            sweep.add(bare(sizes).weight(dtype).fill(Fill::Special), quick);
        }
        for outputs in [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33] {
            sweep.quick(bare([1, some, outputs]).weight(dtype));
            sweep.quick(bare([5, some, outputs]).weight(dtype));
        }
        for &fill in FILLS {
            sweep.quick(bare([3, some, 9]).weight(dtype).fill(fill));
            let sizes = [3, inputs_of(dtype, 3), 17];
            sweep.full(sized("linear", sizes).attribute("activation", "tanh").weight(dtype).fill(fill));
        }
        for (rows, view) in [1, 3].into_iter().flat_map(|rows| View::ALL.map(|view| (rows, view))) {
            sweep.quick(sized("linear", [rows, some, 9]).attribute("activation", Value::Null).weight(dtype).view(view));
        }
        sweep.quick(bare([3, some, 9]).weight(dtype).backward());
        sweep.quick(sized("linear", [3, wide, 9]).attribute("activation", "silu").weight(dtype).backward());
        sweep.quick(bare([1, 4096, 3]).weight(dtype));
        sweep.add(bare([1, some, 2304]).weight(dtype), wide == 32);
        sweep.full(bare([1, 4096, 2304]).weight(dtype));
        sweep.full(bare([17, 1024, 129]).weight(dtype));
        sweep.full(bare([33, inputs_of(dtype, 5), 257]).weight(dtype).backward());
    }
    for view in View::ALL {
        sweep.quick(sized("linear", [5, 37, 18]).attribute("activation", "relu").view(view));
        sweep.quick(sized("linear", [5, 37, 18]).attribute("activation", "relu").view(view).backward());
        sweep.quick(sized("linear", [5, 37, 18]).attribute("activation", Value::Null).view(view).backward());
    }
    for compute in ["bf16", "int8"] {
        sweep_narrow(sweep, compute);
    }
}

/// Products of rounded operands.
fn sweep_narrow(sweep: &mut Sweep, compute: &str) {
    let bare = |sizes| bare(sizes).attribute("compute", compute);
    let backward = compute != "int8";
    for (at, length) in LENGTHS.into_iter().enumerate() {
        sweep.quick(bare([at % 3 + 1, length, 5]));
        sweep.quick(bare([at % 4 + 1, 37, length]));
        if backward && SOME_LENGTHS.contains(&length) {
            sweep.quick(bare([at % 3 + 1, length, 5]).backward());
            sweep.quick(bare([length, 7, 5]).backward());
        }
    }
    for (at, kind) in KINDS.into_iter().map(Some).chain([None]).enumerate() {
        for absent in [&[][..], &["bias"], &["residual"]] {
            let recipe = sized("linear", [at + 1, 40, 9]).attribute("activation", kind).attribute("compute", compute);
            let recipe = Recipe { absent: absent.iter().map(|name| (*name).to_owned()).collect(), ..recipe };
            if backward {
                sweep.quick(recipe.clone().backward());
            }
            sweep.quick(recipe);
        }
    }
    for dtype in TYPES {
        for (at, blocks) in [1, 2, 3, 5, 8].into_iter().enumerate() {
            sweep.quick(bare([at + 1, inputs_of(dtype, blocks), 2 * at + 1]).weight(dtype));
            sweep.quick(bare([at + 1, inputs_of(dtype, blocks), 2 * at + 5]).weight(dtype).fill(Fill::Special));
        }
        for &fill in FILLS {
            sweep.quick(bare([3, inputs_of(dtype, 2), 9]).weight(dtype).fill(fill));
            sweep.full(bare([5, inputs_of(dtype, 9), 17]).weight(dtype).fill(fill));
        }
        for view in View::ALL {
            sweep.quick(bare([3, inputs_of(dtype, 2), 9]).weight(dtype).view(view));
        }
        if backward {
            sweep.quick(bare([3, inputs_of(dtype, 2), 9]).weight(dtype).backward());
        }
        sweep.quick(bare([2, 1024, 33]).weight(dtype));
        sweep.full(bare([1, 4096, 2304]).weight(dtype));
    }
}

fn embedding(n: usize, width: usize, rows: usize) -> Recipe {
    Recipe::new("embedding").dims([("n", n), ("width", width), ("rows", rows)])
}

fn sweep_embedding(sweep: &mut Sweep) {
    for length in LENGTHS {
        sweep.quick(embedding(5, length, 3));
        sweep.quick(embedding(9, 4, length).fill(Fill::Beyond));
    }
    for length in SOME_LENGTHS {
        sweep.quick(embedding(9, 4, length).fill(Fill::Beyond).backward());
        sweep.quick(embedding(5, length, 3).fill(Fill::Repeated).backward());
    }
    for dtype in TYPES {
        for &fill in IDS {
            for blocks in [1, 2, 3, 9] {
                sweep.quick(embedding(11, inputs_of(dtype, blocks), 7).weight(dtype).fill(fill));
            }
        }
        for view in View::ALL {
            sweep.quick(embedding(11, inputs_of(dtype, 1), 7).weight(dtype).view(view));
        }
        sweep.quick(embedding(11, inputs_of(dtype, 1), 7).weight(dtype).fill(Fill::Repeated).backward());
        sweep.quick(embedding(1, inputs_of(dtype, 1), 2).weight(dtype));
        sweep.full(embedding(2000, 256, 65).weight(dtype));
    }
    sweep.quick(embedding(0, 4, 3));
    sweep.quick(embedding(3, 0, 3));
}

fn sweep_backward(sweep: &mut Sweep, op: &str) {
    for length in LENGTHS {
        sweep.quick(sized(op, [2, length, 5]));
        sweep.quick(sized(op, [2, 5, length]));
        sweep.quick(sized(op, [length, 5, 3]));
    }
    for fill in [Fill::Normal, Fill::Large, Fill::Small, Fill::Positive, Fill::Constant, Fill::Ties] {
        sweep.quick(sized(op, [5, 33, 17]).fill(fill));
    }
    for view in View::ALL {
        sweep.quick(sized(op, [5, 33, 17]).view(view));
        sweep.full(sized(op, [65, 129, 33]).view(view));
    }
    if op == "linear_backward_input" {
        for dtype in TYPES {
            for fill in [Fill::Normal, Fill::Special, Fill::Ties] {
                sweep.quick(sized(op, [3, inputs_of(dtype, 2), 9]).weight(dtype).fill(fill));
                sweep.quick(sized(op, [1, inputs_of(dtype, 3), 17]).weight(dtype).fill(fill));
            }
        }
    }
    for (at, length) in SOME_LENGTHS.into_iter().enumerate() {
        let sizes = [[2, length, 5], [length, 5, 3], [3, 7, length]].into_iter().cycle().nth(at);
        sizes.into_iter().for_each(|sizes| sweep.quick(sized(op, sizes).attribute("compute", "bf16")));
    }
    for view in View::ALL {
        sweep.quick(sized(op, [5, 33, 17]).attribute("compute", "bf16").view(view));
    }
    if op == "linear_backward_input" {
        for dtype in TYPES {
            sweep.quick(sized(op, [3, inputs_of(dtype, 2), 9]).attribute("compute", "bf16").weight(dtype));
        }
    }
    // A reduction over 4,096, and 2,304 outputs.
    match op {
        "linear_backward_input" => {
            sweep.quick(sized(op, [1, 5, 4096]));
            sweep.quick(sized(op, [1, 2304, 33]));
        }
        _ => {
            sweep.quick(sized(op, [4096, 5, 3]));
            sweep.quick(sized(op, [3, 48, 48]));
        }
    }
    sweep.full(sized(op, [64, 768, 129]));
    sweep.full(sized(op, [7, 1024, 1024]));
}

fn embedding_backward(table: usize, width: usize, rows: usize) -> Recipe {
    Recipe::new("embedding_backward").attribute("rows", table).dims([("width", width), ("r", rows)])
}

fn sweep_embedding_backward(sweep: &mut Sweep) {
    for length in LENGTHS {
        sweep.quick(embedding_backward(5, length, 9));
        sweep.quick(embedding_backward(9, 4, length).fill(Fill::Beyond));
        sweep.quick(embedding_backward(length, 4, 7).fill(Fill::Beyond));
    }
    for fill in [Fill::Normal, Fill::Permuted, Fill::Repeated, Fill::Beyond, Fill::Large, Fill::Positive] {
        for view in View::ALL {
            sweep.quick(embedding_backward(11, 17, 23).fill(fill).view(view));
        }
    }
    sweep.quick(embedding_backward(0, 4, 3));
    sweep.quick(embedding_backward(2, 9, 500).fill(Fill::Repeated));
    sweep.full(embedding_backward(5000, 65, 300));
    sweep.full(embedding_backward(3, 257, 5000).fill(Fill::Repeated));
}

fn sizes_of_weights() -> impl Strategy<Value = ([usize; 3], WeightDType)> {
    let free = (0..=6usize, length(130), length(40)).prop_map(|(rows, inputs, outputs)| [rows, inputs, outputs]);
    let blocks = prop::sample::select(&TYPES[..]).prop_flat_map(|dtype| {
        let most = if dtype.block() > 32 { 2 } else { 9usize };
        (0..=6usize, 0..=most, length(40), Just(dtype))
            .prop_map(|(rows, blocks, outputs, dtype)| ([rows, dtype.block().max(32) * blocks, outputs], dtype))
    });
    let floats = prop::sample::select(&[WeightDType::F32, WeightDType::F16, WeightDType::BF16][..]);
    prop_oneof![(free, floats), blocks]
}

fn strategy(backward: bool) -> Option<BoxedStrategy<Recipe>> {
    let kinds = prop::option::of(prop::sample::select(KINDS.to_vec()));
    let computes = prop::sample::select(if backward { &COMPUTES[..2] } else { &COMPUTES });
    let recipes = (sizes_of_weights(), kinds, computes, any::<bool>(), any::<bool>()).prop_map(
        move |((sizes, dtype), kind, compute, bias, residual)| {
            let recipe = sized("linear", sizes).attribute("activation", kind).attribute("compute", compute);
            let recipe = recipe.weight(dtype).direction(backward);
            let recipe = if bias { recipe } else { recipe.without("bias") };
            if residual { recipe } else { recipe.without("residual") }
        },
    );
    finished(recipes, if backward { &[Fill::Normal] } else { FILLS })
}

fn strategy_embedding(backward: bool) -> Option<BoxedStrategy<Recipe>> {
    let recipes = sizes_of_weights()
        .prop_map(move |([rows, width, n], dtype)| embedding(n, width, rows).weight(dtype).direction(backward));
    finished(recipes, if backward { &[Fill::Normal, Fill::Repeated, Fill::Beyond] } else { IDS })
}

fn strategy_backward(op: &'static str, backward: bool) -> Option<BoxedStrategy<Recipe>> {
    let recipes =
        (sizes_of_weights(), prop::sample::select(&COMPUTES[..2])).prop_map(move |((sizes, dtype), compute)| {
            let recipe = sized(op, sizes).attribute("compute", compute);
            if op == "linear_backward_input" { recipe.weight(dtype) } else { recipe }
        });
    if backward { None } else { finished(recipes, &[Fill::Normal, Fill::Large, Fill::Positive, Fill::Constant]) }
}

fn strategy_embedding_backward(backward: bool) -> Option<BoxedStrategy<Recipe>> {
    let recipes =
        (0..=20usize, length(130), 0..=40usize).prop_map(|(table, width, rows)| embedding_backward(table, width, rows));
    if backward {
        return None;
    }
    finished(recipes, &[Fill::Normal, Fill::Permuted, Fill::Repeated, Fill::Beyond])
}
