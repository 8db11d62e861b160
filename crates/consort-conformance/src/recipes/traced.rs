//! The shapes that real models ask for: a prompt of seven tokens and one token after it.
//!
//! Small models that are at hand were traced ([`consort_core::Trace`]), and a test holds their traces and those of the goldens
//! against this table; of large ones the sizes are published. From them follows what a graph asks: query, key and value in one
//! product, residuals within the products that they are added to, both halves of a gated feed-forward in one.

use std::collections::BTreeSet;

use consort_core::WeightDType;
use serde_json::{Value, json};

use super::{
    Sweep,
    cache::{plan, run},
};
use crate::recipe::{Fill, Recipe, View};

/// Sizes of a model.
struct Model {
    /// D.
    width: usize,
    /// H, K and C.
    heads: [usize; 3],
    /// F.
    feed_forward: usize,
    /// V.
    vocabulary: usize,
    /// `layer_norm` or `rms_norm`, and its epsilon.
    norm: (&'static str, f64),
    activation: &'static str,
    gated: bool,
    bias: bool,
    positions: Positions,
    /// Rows of a learned table of positions.
    table: usize,
    shape: Shape,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Positions {
    /// Added to the embedding.
    Added,
    /// Rotary, over whole heads in halves.
    Rotary,
    /// Relative buckets inside the scores.
    Relative,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Decoder,
    Encoder,
    Both,
}

const LAYER: (&str, f64) = ("layer_norm", 1e-5);

const MODELS: [Model; 8] = [
    // tinystories-656k: a small Llama.
    Model {
        width: 128,
        heads: [8, 4, 16],
        feed_forward: 384,
        vocabulary: 2048,
        norm: ("rms_norm", 1e-6),
        activation: "silu",
        gated: true,
        bias: false,
        positions: Positions::Rotary,
        table: 0,
        shape: Shape::Decoder,
    },
    // bart-g2p-us.
    Model {
        width: 128,
        heads: [1, 1, 128],
        feed_forward: 1024,
        vocabulary: 63,
        norm: LAYER,
        activation: "gelu",
        gated: false,
        bias: true,
        positions: Positions::Added,
        table: 66,
        shape: Shape::Both,
    },
    // gpt2-smiles-0.2m.
    Model {
        width: 64,
        heads: [4, 4, 16],
        feed_forward: 256,
        vocabulary: 66,
        norm: LAYER,
        activation: "gelu_tanh",
        gated: false,
        bias: true,
        positions: Positions::Added,
        table: 74,
        shape: Shape::Decoder,
    },
    // GPT-2, 124M (Radford et al. 2019).
    Model {
        width: 768,
        heads: [12, 12, 64],
        feed_forward: 3072,
        vocabulary: 50_257,
        norm: LAYER,
        activation: "gelu_tanh",
        gated: false,
        bias: true,
        positions: Positions::Added,
        table: 1024,
        shape: Shape::Decoder,
    },
    // TinyLlama, 1.1B (Zhang et al. 2024).
    Model {
        width: 2048,
        heads: [32, 4, 64],
        feed_forward: 5632,
        vocabulary: 32_000,
        norm: ("rms_norm", 1e-5),
        activation: "silu",
        gated: true,
        bias: false,
        positions: Positions::Rotary,
        table: 0,
        shape: Shape::Decoder,
    },
    // BERT-base (Devlin et al. 2019).
    Model {
        width: 768,
        heads: [12, 12, 64],
        feed_forward: 3072,
        vocabulary: 30_522,
        norm: ("layer_norm", 1e-12),
        activation: "gelu",
        gated: false,
        bias: true,
        positions: Positions::Added,
        table: 512,
        shape: Shape::Encoder,
    },
    // T5-small (Raffel et al. 2020).
    Model {
        width: 512,
        heads: [8, 8, 64],
        feed_forward: 2048,
        vocabulary: 32_128,
        norm: ("rms_norm", 1e-6),
        activation: "relu",
        gated: false,
        bias: false,
        positions: Positions::Relative,
        table: 0,
        shape: Shape::Both,
    },
    // The base model of translation (Vaswani et al. 2017).
    Model {
        width: 512,
        heads: [8, 8, 64],
        feed_forward: 2048,
        vocabulary: 37_000,
        norm: LAYER,
        activation: "relu",
        gated: false,
        bias: true,
        positions: Positions::Added,
        table: 0,
        shape: Shape::Both,
    },
];

/// Products of the goldens: inputs and outputs, whether a bias and a residual are added.
const GOLDEN_PRODUCTS: [([usize; 2], bool, bool); 71] = [
    ([24, 24], true, false),
    ([24, 24], true, true),
    ([24, 27], false, true),
    ([24, 40], true, false),
    ([24, 44], true, false),
    ([24, 48], true, false),
    ([24, 52], true, false),
    ([24, 60], true, false),
    ([24, 72], true, false),
    ([24, 88], true, false),
    ([24, 88], false, false),
    ([24, 96], true, false),
    ([24, 96], false, false),
    ([24, 100], true, false),
    ([24, 100], false, false),
    ([24, 120], false, false),
    ([24, 127], true, false),
    ([24, 131], true, false),
    ([24, 131], false, false),
    ([24, 160], false, false),
    ([27, 24], false, false),
    ([27, 44], false, false),
    ([27, 48], false, false),
    ([27, 72], false, false),
    ([27, 88], false, false),
    ([27, 131], false, false),
    ([36, 36], true, false),
    ([36, 36], true, true),
    ([36, 36], false, true),
    ([36, 52], true, false),
    ([36, 60], true, false),
    ([36, 60], false, false),
    ([36, 100], false, false),
    ([36, 104], false, false),
    ([36, 108], true, false),
    ([36, 131], true, false),
    ([36, 131], false, false),
    ([37, 100], false, false),
    ([37, 104], false, false),
    ([37, 131], false, false),
    ([40, 24], true, true),
    ([44, 24], true, true),
    ([44, 24], false, true),
    ([44, 27], false, true),
    ([52, 24], true, true),
    ([52, 36], true, true),
    ([52, 36], false, true),
    ([52, 37], false, true),
    ([60, 24], true, true),
    ([60, 24], false, true),
    ([60, 36], false, true),
    ([60, 37], false, true),
    ([96, 24], true, true),
    ([52, 36], false, false),
    ([60, 36], false, false),
    ([72, 24], false, true),
    ([96, 24], false, true),
    ([36, 48], false, false),
    ([36, 144], true, false),
    ([36, 144], false, false),
    ([48, 48], false, true),
    ([48, 52], true, false),
    ([48, 131], false, false),
    ([48, 144], false, false),
    ([52, 48], true, true),
    ([144, 36], true, true),
    ([144, 36], false, true),
    ([256, 131], false, false),
    ([256, 256], false, true),
    ([256, 384], false, false),
    ([256, 512], false, false),
];
/// H, K and C of the goldens.
const GOLDEN_HEADS: [[usize; 3]; 11] = [
    [3, 3, 8],
    [4, 4, 6],
    [6, 6, 4],
    [6, 6, 6],
    [6, 2, 6],
    [6, 2, 10],
    [6, 2, 12],
    [6, 2, 16],
    [4, 4, 9],
    [6, 1, 6],
    [4, 1, 64],
];
/// Of those that rotate a part of each head: H or K, C and P.
const GOLDEN_PARTS: [[usize; 3]; 4] = [[2, 6, 2], [4, 9, 2], [4, 12, 3], [6, 6, 2]];
/// Tokens of the prompt.
const PROMPT: usize = 7;
/// Weights of more elements are left to the full sweep; of still more, kept in blocks, and not swept backwards.
const QUICK_WEIGHT: usize = 300_000;
const GREAT_WEIGHT: usize = 13_000_000;

/// Adds what is missing of `op`.
pub(super) fn sweep(op: &str, sweep: &mut Sweep) {
    let mut seen = BTreeSet::new();
    let mut add = |recipe: Recipe, quick: bool| {
        if seen.insert(recipe.to_string()) {
            sweep.add(recipe, quick);
        }
    };
    for model in &MODELS {
        for rows in [PROMPT, 1] {
            if rows == PROMPT || model.shape != Shape::Encoder {
                model.recipes(op, rows, &mut add);
            }
        }
    }
    for rows in [PROMPT, 1] {
        for ([inputs, outputs], bias, residual) in GOLDEN_PRODUCTS {
            if op == "linear" {
                add(linear([rows, inputs, outputs], bias, residual, None), true);
            }
        }
        for [heads, key_heads, width] in GOLDEN_HEADS {
            of_heads(op, [heads, key_heads, width], rows, &json!({"scale": 0.5, "mask": "causal"}), &mut add);
        }
        for [heads, width, pairs] in GOLDEN_PARTS {
            if op == "rotary" {
                add(rotary([rows, heads, width], pairs), true);
            }
        }
    }
}

type Add<'a> = &'a mut dyn FnMut(Recipe, bool);

fn linear([rows, inputs, outputs]: [usize; 3], bias: bool, residual: bool, activation: Option<&str>) -> Recipe {
    let recipe = Recipe::new("linear").dims([("rows", rows), ("inputs", inputs), ("outputs", outputs)]);
    let recipe = recipe.attribute("activation", activation);
    let recipe = if bias { recipe } else { recipe.without("bias") };
    if residual { recipe } else { recipe.without("residual") }
}

fn rotary([rows, heads, width]: [usize; 3], pairs: usize) -> Recipe {
    let sizes = [("T", rows), ("H", heads), ("C", width), ("N", rows), ("P", pairs)];
    Recipe::new("rotary").dims(sizes).attribute("pairing", "halves").fill(Fill::Permuted)
}

/// The cache of one sequence in blocks as the core has them: `rows` that end at `length`.
fn step(rows: usize, length: usize) -> Value {
    let block = consort_core::BLOCK;
    let blocks = (0..length.div_ceil(block) as u32).collect();
    plan(block, &run(0, length - rows..length), &[(blocks, length)])
}

/// What follows from the sizes of heads.
fn of_heads(op: &str, [heads, key_heads, width]: [usize; 3], rows: usize, attributes: &Value, add: Add<'_>) {
    let sized = |recipe: Recipe| recipe.dims([("K", key_heads), ("C", width)]);
    let attended = |recipe: Recipe| {
        let attributes = attributes.as_object().cloned().unwrap_or_default();
        let recipe = sized(recipe).dim("H", heads);
        attributes.into_iter().fold(recipe, |recipe, (name, value)| recipe.attribute(&name, value))
    };
    // The prompt itself, the token after it, one much later.
    let lengths: &[usize] = if rows == PROMPT { &[PROMPT] } else { &[PROMPT + 1, 41] };
    let steps = lengths.iter().map(|&length| step(rows, length));
    match op {
        "cache_write" => {
            steps.for_each(|plan| add(sized(Recipe::new(op)).dim("spare", 0).attribute("plan", plan), true));
        }
        "cached_attention" => {
            steps.for_each(|plan| add(attended(Recipe::new(op)).dim("spare", 0).attribute("plan", plan), true));
        }
        "attention" | "attention_backward" if rows == PROMPT => {
            let segments = json!({"queries": [rows], "keys": [rows]});
            let recipe = attended(Recipe::new(op)).attribute("segments", segments);
            if op == "attention" {
                add(recipe.clone().backward(), true);
            }
            add(recipe, true);
        }
        "rotary" => {
            for heads in [heads, key_heads] {
                add(rotary([rows, heads, width], width / 2), true);
            }
        }
        "softmax" => add(Recipe::new(op).shape("x", &[key_heads, heads / key_heads, 1, PROMPT]), true),
        "matmul" => {
            let of_group = [key_heads, heads / key_heads, 1];
            let product = |k: usize, n: usize| {
                Recipe::new(op).shape("a", &[&of_group[..], &[k]].concat()).shape("b", &[key_heads, 1, k, n])
            };
            add(product(width, PROMPT).view(View::Permuted), true);
            add(product(PROMPT, width), true);
        }
        "gather_rows" => {
            let sizes = [("n", consort_core::BLOCK), ("r", PROMPT), ("w0", key_heads), ("w1", width)];
            add(Recipe::new(op).dims(sizes).fill(Fill::Permuted), true);
        }
        "scatter_rows" => {
            let sizes = [("n", consort_core::BLOCK), ("r", rows), ("w0", key_heads), ("w1", width)];
            add(Recipe::new(op).dims(sizes).attribute("add", false).fill(Fill::Permuted), true);
        }
        _ => {}
    }
}

impl Model {
    /// Recipes of `op` at so many rows.
    fn recipes(&self, op: &str, rows: usize, add: Add<'_>) {
        let Self { width, feed_forward, vocabulary, .. } = *self;
        let mask = if self.shape == Shape::Encoder { "all" } else { "causal" };
        of_heads(op, self.heads, rows, &self.attention(mask, false), add);
        if self.shape == Shape::Both {
            // The encoder over itself; the decoder over the encoder's rows.
            match op {
                "attention" | "attention_backward" => {
                    of_heads(op, self.heads, rows, &self.attention("all", false), add)
                }
                "cached_attention" => of_heads(op, self.heads, rows, &self.attention("all", true), add),
                _ => {}
            }
        }
        let of_rows = |columns: usize| Recipe::new(op).shape("x", &[rows, columns]);
        match op {
            "layer_norm" | "rms_norm" if op == self.norm.0 => self.norms(of_rows(width), true, add),
            "layer_norm_backward" | "rms_norm_backward" if op.strip_suffix("_backward") == Some(self.norm.0) => {
                self.norms(of_rows(width), false, add);
            }
            "activation" if !self.gated => add(of_rows(feed_forward).attribute("kind", self.activation), true),
            "activation_backward" if !self.gated => {
                let recipe = of_rows(feed_forward).shape("d_y", &[rows, feed_forward]);
                add(recipe.attribute("kind", self.activation), true);
            }
            "gated" | "gated_backward" if self.gated => {
                let names = if op == "gated" { &["gate", "up"][..] } else { &["gate", "up", "d_y"] };
                let recipe = Recipe::new(op).attribute("kind", self.activation).view(View::Sliced);
                add(names.iter().fold(recipe, |recipe, name| recipe.shape(name, &[rows, feed_forward])), true);
            }
            "gather_rows" => {
                // Positions of the rows, and the rows whose logits are wanted.
                for (n, r) in [(self.table, rows), (PROMPT, 1)].into_iter().filter(|(n, _)| *n > 0) {
                    add(Recipe::new(op).dims([("n", n), ("r", r), ("w0", width)]).fill(Fill::Permuted), true);
                }
            }
            "embedding" => {
                let recipe = Recipe::new(op).dims([("n", vocabulary), ("width", width), ("rows", rows)]);
                add(self.kept(recipe, vocabulary * width), vocabulary * width <= QUICK_WEIGHT);
            }
            "embedding_backward" if rows == PROMPT && vocabulary * width < GREAT_WEIGHT => {
                let recipe = Recipe::new(op).attribute("rows", vocabulary).dims([("width", width), ("r", rows)]);
                add(recipe, vocabulary * width <= QUICK_WEIGHT);
            }
            "cross_entropy" | "cross_entropy_backward" if rows == PROMPT => {
                let recipe = Recipe::new(op).dims([("R", rows), ("V", vocabulary)]);
                add(recipe.attribute("smoothing", 0.1), vocabulary < 10_000);
            }
            "sample" if rows == 1 => {
                add(Recipe::new(op).dims([("R", 1), ("V", vocabulary)]).attribute("rows", json!([{}])), true);
            }
            "adamw" if rows == 1 => {
                let settings =
                    [("rate", 3e-4), ("beta1", 0.9), ("beta2", 0.95), ("epsilon", 1e-8), ("weight_decay", 0.1)];
                let recipe =
                    settings.into_iter().fold(Recipe::new(op), |recipe, (name, value)| recipe.attribute(name, value));
                add(recipe.attribute("step", 1000).shape("x", &[width, width]), width <= 128);
                let vector =
                    settings.into_iter().fold(Recipe::new(op), |recipe, (name, value)| recipe.attribute(name, value));
                add(vector.attribute("step", 1000).shape("x", &[width]), true);
            }
            "binary" => {
                for kind in ["add", "multiply", "subtract", "divide"] {
                    for b in [&[rows, width][..], &[width], &[rows, 1], &[1]] {
                        let recipe = Recipe::new(op).attribute("kind", kind);
                        add(recipe.shape("a", &[rows, width]).shape("b", b), true);
                    }
                }
            }
            "reduce" => {
                add(of_rows(width).attribute("kind", "sum").attribute("axis", 1), true);
                add(of_rows(vocabulary).attribute("kind", "arg_maximum").attribute("axis", 1), true);
            }
            "linear" | "matmul" | "linear_backward_input" | "linear_backward_weight" => self.products(op, rows, add),
            _ => {}
        }
    }

    fn norms(&self, recipe: Recipe, both: bool, add: Add<'_>) {
        let (name, epsilon) = self.norm;
        let recipe = recipe.attribute("epsilon", epsilon);
        let recipe = if name == "rms_norm" { recipe.attribute("unit_offset", false) } else { recipe };
        if both {
            add(recipe.clone().backward(), true);
        }
        add(recipe, true);
    }

    /// Attention's attributes.
    fn attention(&self, mask: &str, cross: bool) -> Value {
        let [.., width] = self.heads;
        match self.positions {
            // T5 leaves the scale to its weights: this one keeps scores as wide. Its decoder sees the encoder without a bias.
            Positions::Relative if cross => json!({"scale": 0.125, "mask": mask}),
            Positions::Relative => json!({"scale": 0.125, "mask": mask, "score_bias":
                {"kind": "relative", "bidirectional": mask == "all", "buckets": 32, "max_distance": 128}}),
            _ => json!({"scale": 1.0 / (width as f64).sqrt(), "mask": mask}),
        }
    }

    /// Great weights in blocks.
    fn kept(&self, recipe: Recipe, elements: usize) -> Recipe {
        if elements >= GREAT_WEIGHT { recipe.weight(WeightDType::Q8_0) } else { recipe }
    }

    /// Products of a layer and of the head.
    fn products(&self, op: &str, rows: usize, add: Add<'_>) {
        let Self { width, feed_forward, vocabulary, bias, .. } = *self;
        let [heads, key_heads, head_width] = self.heads;
        let (queries, keys) = (heads * head_width, key_heads * head_width);
        let up = if self.gated { 2 * feed_forward } else { feed_forward };
        let activation = (!self.gated).then_some(self.activation);
        let mut products = vec![
            (width, queries + 2 * keys, bias, false, None),
            (queries, width, bias, true, None),
            (width, up, bias, false, activation),
            (feed_forward, width, bias, true, None),
        ];
        if self.shape == Shape::Both {
            products.push((width, queries, bias, false, None));
            if rows == PROMPT {
                products.push((width, 2 * keys, bias, false, None));
            }
        }
        if rows == 1 {
            products.push((width, vocabulary, false, false, None));
            products.push((width, vocabulary, true, false, None));
        }
        for (inputs, outputs, bias, residual, activation) in products {
            let elements = inputs * outputs;
            let quick = elements <= QUICK_WEIGHT;
            let sized = || Recipe::new(op).dims([("rows", rows), ("inputs", inputs), ("outputs", outputs)]);
            match op {
                "linear" => {
                    let recipe = linear([rows, inputs, outputs], bias, residual, activation);
                    if elements < GREAT_WEIGHT / 4 && rows == PROMPT {
                        add(recipe.clone().backward(), quick && elements < QUICK_WEIGHT / 4);
                    }
                    // The head of a large model once.
                    if elements < GREAT_WEIGHT || !bias {
                        add(self.kept(recipe, elements), quick);
                    }
                }
                "matmul" if elements < GREAT_WEIGHT / 4 => {
                    add(
                        Recipe::new(op).shape("a", &[rows, inputs]).shape("b", &[inputs, outputs]).view(View::Permuted),
                        quick,
                    );
                }
                "linear_backward_input" | "linear_backward_weight" if elements < GREAT_WEIGHT && rows == PROMPT => {
                    add(sized(), quick);
                }
                _ => {}
            }
        }
    }
}
