//! Problems of every operation, drawn from a fixed seed.
#![allow(dead_code, reason = "each test file uses a part")]

use consort_conformance::problem::{Backward, Elements, Operand, Problem};
use consort_core::{HostData, Layout, Shape, WeightDType, philox::uniform, to_f16};
use serde_json::{Map, Value, json};

/// Draws; the same for the same seed.
pub(crate) struct Draw {
    seed: u64,
    next: u64,
}

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, next: 0 }
    }

    fn unit(&mut self) -> f64 {
        self.next += 1;
        uniform(self.seed, 0, self.next)
    }

    /// A normal draw that f32 holds.
    pub(crate) fn normal(&mut self) -> f64 {
        let (a, b) = (self.unit().max(1e-12), self.unit());
        f64::from(((-2.0 * a.ln()).sqrt() * (2.0 * std::f64::consts::PI * b).cos()) as f32)
    }

    pub(crate) fn normals(&mut self, count: usize, scale: f64) -> Vec<f64> {
        (0..count).map(|_| f64::from((scale * self.normal()) as f32)).collect()
    }

    pub(crate) fn floats(&mut self, sizes: &[usize], scale: f64) -> Operand {
        Operand::floats(self.normals(sizes.iter().product(), scale), sizes).unwrap()
    }

    pub(crate) fn positive(&mut self, sizes: &[usize]) -> Operand {
        let values = self.normals(sizes.iter().product(), 1.0).into_iter();
        Operand::floats(values.map(|x| f64::from((x.abs() + 0.1) as f32)).collect(), sizes).unwrap()
    }

    pub(crate) fn ids(&mut self, count: usize, below: usize) -> Operand {
        let ids = (0..count).map(|_| (self.unit() * below as f64) as u32).collect();
        Operand::ids(ids, &[count]).unwrap()
    }

    /// The same numbers inside a larger buffer, the axes stored in reverse, with something else around them.
    pub(crate) fn view(&mut self, operand: Operand) -> Operand {
        let sizes = operand.layout.shape().sizes().to_vec();
        let values = operand.values();
        let mut strides = vec![0; sizes.len()];
        let mut stride = 2;
        for (axis, size) in sizes.iter().enumerate() {
            strides[axis] = stride;
            stride *= size;
        }
        let layout = Layout::strided(Shape::new(&sizes).unwrap(), &strides, 3).unwrap();
        let mut all = self.normals(stride + 7, 1.0);
        for (index, value) in values.iter().enumerate() {
            let mut rest = index;
            let mut at = 3;
            for (axis, size) in sizes.iter().enumerate().rev() {
                at += rest % size * strides[axis];
                rest /= size;
            }
            all[at] = *value;
        }
        Operand { elements: Elements::Float(all), layout }
    }
}

pub(crate) fn problem(op: &str, attributes: Value, operands: Vec<(&str, Operand)>) -> Problem {
    let attributes = match attributes {
        Value::Object(attributes) => attributes,
        _ => Map::new(),
    };
    let operands = operands.into_iter().map(|(name, operand)| (name.to_owned(), operand)).collect();
    Problem { op: op.into(), attributes, operands, weight_dtype: WeightDType::F32, random: true, backward: None }
}

/// The backward of a problem, from a cotangent of each output of `sizes`.
pub(crate) fn backward(draw: &mut Draw, problem: &Problem, sizes: &[&[usize]], gradients: &[&str]) -> Problem {
    let cotangents = sizes.iter().map(|sizes| Some(draw.floats(sizes, 1.0))).collect();
    let gradients = gradients.iter().map(|name| (*name).to_owned()).collect();
    Problem { backward: Some(Backward { cotangents, gradients }), ..problem.clone() }
}

pub(crate) fn plan() -> Value {
    json!({"block": 4, "rows": [[0, 5], [1, 2], [0, 6]],
        "sequences": [{"blocks": [3, 0], "length": 7}, {"blocks": [2], "length": 3}]})
}

/// Problems of every operation: a label and the problem.
pub(crate) fn every(draw: &mut Draw) -> Vec<(String, Problem)> {
    let mut all: Vec<(String, Problem)> = Vec::new();
    let mut add = |label: String, problem: Problem| all.push((label, problem));
    let d = draw;

    // Primitives.
    add("fill".into(), problem("fill", json!({"shape": [3, 2], "value": 0.1, "dtype": "float"}), vec![]));
    add("copy f16".into(), problem("copy", json!({"dtype": "f16"}), vec![("x", d.floats(&[5, 7], 1.0))]));
    let x = d.floats(&[5, 7], 1.0);
    let x = d.view(x);
    add("copy view".into(), problem("copy", json!({"dtype": "float"}), vec![("x", x)]));
    let big = Operand::ids(vec![16_777_217, 4_294_967_295, 3], &[3]).unwrap();
    add("copy u32".into(), problem("copy", json!({"dtype": "float"}), vec![("x", big)]));
    let halves = d.normals(6, 1.0).into_iter().map(to_f16).collect();
    let halves = Operand::contiguous(Elements::Exact(HostData::F16(halves)), &[2, 3]).unwrap();
    add("copy from f16".into(), problem("copy", json!({"dtype": "float"}), vec![("x", halves)]));
    let (into, x) = (d.floats(&[4, 5], 1.0), d.floats(&[2, 3], 1.0));
    let write = problem("write", json!({"start": [1, 2]}), vec![("into", into), ("x", x)]);
    add("write backward".into(), backward(d, &write, &[&[4, 5]], &["into", "x"]));
    add("write".into(), write);
    for kind in ["negate", "exp", "log", "sqrt", "tanh", "erf", "reciprocal"] {
        let x = if matches!(kind, "log" | "sqrt") { d.positive(&[9, 33]) } else { d.floats(&[9, 33], 2.0) };
        let unary = problem("unary", json!({"kind": kind}), vec![("x", x)]);
        add(format!("{kind} backward"), backward(d, &unary, &[&[9, 33]], &["x"]));
        add(kind.into(), unary);
    }
    for kind in ["add", "subtract", "multiply", "divide", "maximum", "minimum", "less", "equal"] {
        let (a, b) = (d.floats(&[6, 1, 9], 1.0), d.floats(&[4, 9], 1.0));
        let binary = problem("binary", json!({"kind": kind}), vec![("a", a), ("b", b)]);
        if !matches!(kind, "less" | "equal") {
            add(format!("{kind} backward"), backward(d, &binary, &[&[6, 4, 9]], &["a", "b"]));
        }
        add(kind.into(), binary);
    }
    let mask = Operand::ids(vec![0, 1, 2, 0, 1], &[5]).unwrap();
    let (a, b) = (d.floats(&[3, 5], 1.0), d.floats(&[3, 1], 1.0));
    let select = problem("select", json!({}), vec![("mask", mask), ("a", a), ("b", b)]);
    add("select backward".into(), backward(d, &select, &[&[3, 5]], &["a", "b"]));
    add("select".into(), select);
    for kind in ["sum", "maximum", "arg_maximum"] {
        let x = d.floats(&[3, 65, 2], 1.0);
        let reduce = problem("reduce", json!({"axis": 1, "kind": kind}), vec![("x", x)]);
        if kind != "arg_maximum" {
            add(format!("{kind} of 65 backward"), backward(d, &reduce, &[&[3, 1, 2]], &["x"]));
        }
        add(format!("reduce {kind} of 65"), reduce);
        for (label, random) in [("random", true), ("worst", false)] {
            let x = if random { d.floats(&[2, 65_536], 1.0) } else { d.positive(&[2, 65_536]) };
            let reduce = problem("reduce", json!({"axis": 1, "kind": kind}), vec![("x", x)]);
            add(format!("reduce {kind} of 65536 {label}"), Problem { random, ..reduce });
        }
        let x = d.positive(&[2, 65_536]);
        add(
            format!("reduce {kind} of 65536 positive"),
            problem("reduce", json!({"axis": 1, "kind": kind}), vec![("x", x)]),
        );
    }
    for [m, k, n] in [[1, 1, 1], [3, 2, 5], [7, 64, 9], [5, 300, 17], [16, 4096, 33]] {
        let (a, b) = (d.floats(&[m, k], 1.0), d.floats(&[k, n], 1.0));
        let matmul = problem("matmul", json!({}), vec![("a", a), ("b", b)]);
        add(format!("matmul {m}x{k}x{n} backward"), backward(d, &matmul, &[&[m, n]], &["a", "b"]));
        add(format!("matmul {m}x{k}x{n}"), matmul.clone());
        add(format!("matmul {m}x{k}x{n} worst"), Problem { random: false, ..matmul });
    }
    let (a, b) = (d.floats(&[2, 3, 5, 4], 1.0), d.floats(&[3, 4, 6], 1.0));
    let (a, b) = (d.view(a), d.view(b));
    let matmul = problem("matmul", json!({}), vec![("a", a), ("b", b)]);
    add("matmul batches backward".into(), backward(d, &matmul, &[&[2, 3, 5, 6]], &["a", "b"]));
    add("matmul batches".into(), matmul);
    let (x, ids) = (d.floats(&[6, 5], 1.0), d.ids(9, 8));
    let gather = problem("gather_rows", json!({}), vec![("x", x), ("ids", ids)]);
    add("gather_rows backward".into(), backward(d, &gather, &[&[9, 5]], &["x"]));
    add("gather_rows".into(), gather);
    for sums in [true, false] {
        let (into, ids, x) = (d.floats(&[6, 5], 1.0), d.ids(40, 8), d.floats(&[40, 5], 1.0));
        let scatter = problem("scatter_rows", json!({"add": sums}), vec![("into", into), ("ids", ids), ("x", x)]);
        add(format!("scatter_rows {sums} backward"), backward(d, &scatter, &[&[6, 5]], &["into", "x"]));
        add(format!("scatter_rows {sums}"), scatter);
    }

    // Fused operations.
    for n in [1, 2, 33, 1000, 65_536] {
        for scale in [1.0, 5.0] {
            let softmax = problem("softmax", json!({}), vec![("x", d.floats(&[3, n], scale))]);
            if n > 1 {
                add(format!("softmax {n} {scale} backward"), backward(d, &softmax, &[&[3, n]], &["x"]));
            }
            add(format!("softmax {n} {scale}"), softmax.clone());
            add(format!("softmax {n} {scale} worst"), Problem { random: false, ..softmax });
        }
        let (x, weight, bias) = (d.floats(&[3, n], 2.0), d.floats(&[n], 1.0), d.floats(&[n], 1.0));
        let norm = problem(
            "layer_norm",
            json!({"epsilon": 1e-5}),
            vec![("x", x.clone()), ("weight", weight.clone()), ("bias", bias)],
        );
        if n > 2 {
            add(format!("layer_norm {n} backward"), backward(d, &norm, &[&[3, n]], &["x", "weight", "bias"]));
            let d_y = d.floats(&[3, n], 1.0);
            let operands = vec![("x", x.clone()), ("weight", weight.clone()), ("d_y", d_y)];
            add(format!("layer_norm_backward {n}"), problem("layer_norm_backward", json!({"epsilon": 1e-5}), operands));
        }
        add(format!("layer_norm {n}"), norm);
        for unit_offset in [true, false] {
            let attributes = json!({"epsilon": 1e-6, "unit_offset": unit_offset});
            let operands = vec![("x", x.clone()), ("weight", weight.clone())];
            let norm = problem("rms_norm", attributes.clone(), operands);
            if n > 1 {
                add(format!("rms_norm {n} {unit_offset} backward"), backward(d, &norm, &[&[3, n]], &["x", "weight"]));
                let operands = vec![("x", x.clone()), ("weight", weight.clone()), ("d_y", d.floats(&[3, n], 1.0))];
                add(format!("rms_norm_backward {n} {unit_offset}"), problem("rms_norm_backward", attributes, operands));
            }
            add(format!("rms_norm {n} {unit_offset}"), norm);
        }
        if n > 1 {
            let y = softmax_of(d, 3, n);
            let d_y = d.floats(&[3, n], 1.0);
            add(format!("softmax_backward {n}"), problem("softmax_backward", json!({}), vec![("y", y), ("d_y", d_y)]));
        }
    }
    for pairing in ["halves", "interleaved"] {
        let (x, ids) = (d.floats(&[5, 3, 10], 1.0), d.ids(5, 7));
        let angles: Vec<f64> = d.normals(28, 3.0);
        let table = |f: fn(f64) -> f64| {
            Operand::floats(angles.iter().map(|x| f64::from(f(*x) as f32)).collect(), &[7, 4]).unwrap()
        };
        let operands = vec![("x", x), ("cos", table(f64::cos)), ("sin", table(f64::sin)), ("ids", ids)];
        let rotary = problem("rotary", json!({"pairing": pairing}), operands);
        add(format!("rotary {pairing} backward"), backward(d, &rotary, &[&[5, 3, 10]], &["x"]));
        add(format!("rotary {pairing}"), rotary);
    }
    for kind in ["relu", "gelu", "gelu_tanh", "quick_gelu", "silu", "tanh"] {
        // The slope of tanh is rounding alone where it is flat.
        for scale in [1.0, if kind == "tanh" { 3.0 } else { 20.0 }] {
            let (x, up, d_y) = (d.floats(&[9, 40], scale), d.floats(&[9, 40], 1.0), d.floats(&[9, 40], 1.0));
            let attributes = json!({"kind": kind});
            let activation = problem("activation", attributes.clone(), vec![("x", x.clone())]);
            add(format!("activation {kind} {scale} backward"), backward(d, &activation, &[&[9, 40]], &["x"]));
            add(format!("activation {kind} {scale}"), activation);
            let gated = problem("gated", attributes.clone(), vec![("gate", x.clone()), ("up", up.clone())]);
            add(format!("gated {kind} {scale} backward"), backward(d, &gated, &[&[9, 40]], &["gate", "up"]));
            add(format!("gated {kind} {scale}"), gated);
            let operands = vec![("x", x.clone()), ("d_y", d_y.clone())];
            add(
                format!("activation_backward {kind} {scale}"),
                problem("activation_backward", attributes.clone(), operands),
            );
            let operands = vec![("gate", x), ("up", up), ("d_y", d_y)];
            add(format!("gated_backward {kind} {scale}"), problem("gated_backward", attributes, operands));
        }
    }
    let (x, d_y) = (d.floats(&[7, 11], 40.0), d.floats(&[7, 11], 1.0));
    let cap = problem("soft_cap", json!({"cap": 30.0}), vec![("x", x.clone())]);
    add("soft_cap backward".into(), backward(d, &cap, &[&[7, 11]], &["x"]));
    add("soft_cap".into(), cap);
    add("soft_cap_backward".into(), problem("soft_cap_backward", json!({"cap": 30.0}), vec![("x", x), ("d_y", d_y)]));

    for (inputs, outputs, dtype) in [
        (64, 48, WeightDType::F32),
        (4096, 9, WeightDType::F32),
        (96, 20, WeightDType::F16),
        (96, 20, WeightDType::BF16),
        (128, 20, WeightDType::Q8_0),
        (128, 20, WeightDType::Q4_0),
    ] {
        for activation in [json!(null), json!("gelu")] {
            let operands = vec![
                ("x", d.floats(&[6, inputs], 1.0)),
                ("weight", d.floats(&[outputs, inputs], 0.1)),
                ("bias", d.floats(&[outputs], 1.0)),
                ("residual", d.floats(&[6, outputs], 1.0)),
            ];
            let linear = problem("linear", json!({"activation": activation}), operands);
            let linear = Problem { weight_dtype: dtype, ..linear };
            let label = format!("linear {inputs}x{outputs} {dtype} {activation}");
            let gradients = ["x", "weight", "bias", "residual"];
            add(format!("{label} backward"), backward(d, &linear, &[&[6, outputs]], &gradients));
            add(label, linear);
        }
        let embedding = problem(
            "embedding",
            json!({}),
            vec![("weight", d.floats(&[outputs, inputs], 1.0)), ("ids", d.ids(30, outputs + 2))],
        );
        let embedding = Problem { weight_dtype: dtype, ..embedding };
        add(format!("embedding {dtype} {inputs} backward"), backward(d, &embedding, &[&[30, inputs]], &["weight"]));
        add(format!("embedding {dtype} {inputs}"), embedding);
        let operands = vec![("d_y", d.floats(&[5, outputs], 1.0)), ("weight", d.floats(&[outputs, inputs], 1.0))];
        let back = problem("linear_backward_input", json!({}), operands);
        add(format!("linear_backward_input {dtype} {inputs}"), Problem { weight_dtype: dtype, ..back });
    }
    let operands = vec![("x", d.floats(&[300, 12], 1.0)), ("d_y", d.floats(&[300, 20], 1.0))];
    add("linear_backward_weight".into(), problem("linear_backward_weight", json!({}), operands));
    let operands = vec![("ids", d.ids(50, 9)), ("d_y", d.floats(&[50, 12], 1.0))];
    add("embedding_backward".into(), problem("embedding_backward", json!({"rows": 8}), operands));

    let masks = [
        ("all", json!({"mask": "all"}), None),
        ("causal", json!({"mask": "causal", "window": null}), None),
        ("window cap", json!({"mask": "causal", "window": 3, "soft_cap": 2.0}), None),
        (
            "relative",
            json!({"mask": "causal", "score_bias":
                {"kind": "relative", "bidirectional": false, "buckets": 8, "max_distance": 16}}),
            Some(vec![8, 4]),
        ),
        ("linear", json!({"mask": "causal", "score_bias": {"kind": "linear"}}), Some(vec![4])),
    ];
    for (label, attributes, bias) in masks {
        let [t, h, k, c] = [17, 4, 2, 8];
        let mut attributes = attributes;
        attributes["scale"] = json!(0.35);
        let mut operands = vec![("query", d.floats(&[t, h, c], 1.0))];
        let mut cached = operands.clone();
        operands.extend([("key", d.floats(&[t, k, c], 1.0)), ("value", d.floats(&[t, k, c], 1.0))]);
        cached[0].1 = d.floats(&[3, h, c], 1.0);
        cached.extend([("keys", d.floats(&[16, k, c], 1.0)), ("values", d.floats(&[16, k, c], 1.0))]);
        let mut gradients = vec!["query", "key", "value"];
        if let Some(sizes) = bias {
            let bias = d.floats(&sizes, 0.3);
            operands.push(("bias", bias.clone()));
            cached.push(("bias", bias));
            gradients.push("bias");
        }
        let mut of_cache = attributes.clone();
        of_cache["plan"] = plan();
        add(format!("cached_attention {label}"), problem("cached_attention", of_cache, cached));
        attributes["segments"] = json!({"queries": [9, 0, 8], "keys": [9, 0, 8]});
        let attention = problem("attention", attributes.clone(), operands.clone());
        let back = backward(d, &attention, &[&[t, h, c]], &gradients);
        add(format!("attention {label} backward"), back);
        let (y, log_sum) = saved(&attention);
        let y = Operand::floats(y, &[t, h, c]).unwrap();
        let log_sum = Operand::floats(log_sum, &[t, h]).unwrap();
        operands.extend([("y", y), ("log_sum", log_sum), ("d_y", d.floats(&[t, h, c], 1.0))]);
        add(format!("attention_backward {label}"), problem("attention_backward", attributes, operands));
        add(format!("attention {label}"), attention);
    }
    let operands = vec![
        ("query", d.floats(&[2, 8, 64], 1.0)),
        ("key", d.floats(&[700, 2, 64], 1.0)),
        ("value", d.floats(&[700, 2, 64], 1.0)),
    ];
    let segments = json!({"queries": [2], "keys": [700]});
    add(
        "attention over 700".into(),
        problem("attention", json!({"segments": segments, "scale": 0.125, "mask": "all"}), operands),
    );
    let operands = vec![
        ("keys", d.floats(&[16, 2, 3], 1.0)),
        ("values", d.floats(&[16, 2, 3], 1.0)),
        ("key", d.floats(&[3, 2, 3], 1.0)),
        ("value", d.floats(&[3, 2, 3], 1.0)),
    ];
    add("cache_write".into(), problem("cache_write", json!({"plan": plan()}), operands));
    let operands = vec![("keys", d.floats(&[12, 2, 3], 1.0)), ("values", d.floats(&[12, 2, 3], 1.0))];
    add("cache_copy".into(), problem("cache_copy", json!({"block": 4, "pairs": [[0, 2], [1, 0]]}), operands));

    for smoothing in [0.0, 0.1] {
        for classes in [3, 500] {
            let (logits, targets) = (d.floats(&[6, classes], 2.0), d.ids(6, classes + 1));
            let attributes = json!({"smoothing": smoothing});
            let operands = vec![("logits", logits.clone()), ("targets", targets.clone())];
            let loss = problem("cross_entropy", attributes.clone(), operands);
            let label = format!("{classes} {smoothing}");
            add(format!("cross_entropy {label} backward"), backward(d, &loss, &[&[6], &[6]], &["logits"]));
            let (_, log_sum) = saved(&loss);
            add(format!("cross_entropy {label}"), loss);
            let log_sum = Operand::floats(log_sum, &[6]).unwrap();
            let operands =
                vec![("logits", logits), ("targets", targets), ("log_sum", log_sum), ("d_loss", d.floats(&[6], 1.0))];
            add(format!("cross_entropy_backward {label}"), problem("cross_entropy_backward", attributes, operands));
        }
    }
    for step in [1, 100] {
        let settings =
            json!({"rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.01, "step": step});
        let operands = vec![
            ("parameter", d.floats(&[9, 9], 1.0)),
            ("gradient", d.floats(&[9, 9], 0.1)),
            ("first", d.floats(&[9, 9], 0.1)),
            ("second", d.positive(&[9, 9])),
        ];
        add(format!("adamw {step}"), problem("adamw", settings, operands));
    }
    let rows = json!([{}, {"temperature": 0.7, "top_k": 9, "seed": 5}, {"temperature": 1.0, "top_p": 0.8, "draw": 3}]);
    add("sample".into(), problem("sample", json!({"rows": rows}), vec![("logits", d.floats(&[3, 50], 2.0))]));
    // Behind the others, whose draws stay as they are.
    for kind in ["single", "round"] {
        let unary = problem("unary", json!({"kind": kind}), vec![("x", d.floats(&[9, 33], 2.0))]);
        if kind == "single" {
            add(format!("{kind} backward"), backward(d, &unary, &[&[9, 33]], &["x"]));
        }
        add(kind.into(), unary);
    }
    for (width, scale) in [(32, 1.0), (77, 30.0), (1, 1e-28)] {
        let quantize = problem("quantize_activations", json!({}), vec![("x", d.floats(&[40, width], scale))]);
        add(format!("quantize_activations {width}"), quantize);
    }
    for compute in ["bf16", "int8"] {
        let operands = vec![("x", d.floats(&[7, 77], 1.0)), ("weight", d.floats(&[20, 77], 1.0))];
        let linear = problem("linear", json!({"compute": compute, "activation": "silu"}), operands);
        if compute == "bf16" {
            add(format!("linear in {compute} backward"), backward(d, &linear, &[&[7, 20]], &["x", "weight"]));
        }
        add(format!("linear in {compute}"), linear);
    }
    all
}

/// What the forward of a problem gives, rounded to f32.
fn saved(problem: &Problem) -> (Vec<f64>, Vec<f64>) {
    use consort_conformance::{oracle::Oracle, problem::How};
    let device = consort_core::Device::new(Oracle::new());
    let outputs = problem.run(&device, How::AsAsked).unwrap();
    let rounded =
        |at: usize| -> Vec<f64> { outputs[at].data.to_f64().into_iter().map(|x| f64::from(x as f32)).collect() };
    (rounded(0), rounded(1))
}

fn softmax_of(draw: &mut Draw, rows: usize, n: usize) -> Operand {
    let x = draw.normals(rows * n, 1.0);
    let y = x.chunks(n).flat_map(|row| {
        let sum: f64 = row.iter().map(|x| x.exp()).sum();
        row.iter().map(move |x| f64::from((x.exp() / sum) as f32))
    });
    Operand::floats(y.collect(), &[rows, n]).unwrap()
}
