//! The sweep itself: every operation has recipes, they replay from their JSON, say something, and a right backend passes.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use consort_conformance::{
    bounds::{Bounded, Profile, expected},
    judge::judge,
    oracle::{Oracle, Single},
    problem::{Backward, Elements, How, Operand, Problem},
    recipe::{Fill, Recipe},
    sweep::{self, Depth, recipes},
};
use consort_core::{Device, Fused, HostData, Primitive};
use serde_json::Value;

/// Operations without a gradient.
const NO_GRADIENT: [&str; 18] = [
    "fill",
    "quantize_activations",
    "cache_write",
    "cached_attention",
    "adamw",
    "sample",
    "softmax_backward",
    "layer_norm_backward",
    "rms_norm_backward",
    "activation_backward",
    "gated_backward",
    "soft_cap_backward",
    "linear_backward_input",
    "linear_backward_weight",
    "embedding_backward",
    "attention_backward",
    "cross_entropy_backward",
    "cache_copy",
];

#[test]
fn every_operation_has_recipes_in_both_directions() {
    let core = Primitive::<()>::NAMES.iter().chain(Fused::<(), (), ()>::NAMES).copied().chain(["cache_copy"]);
    assert_eq!(sweep::operations().collect::<Vec<_>>(), core.collect::<Vec<_>>());
    let mut counts: BTreeMap<(&str, bool), usize> = BTreeMap::new();
    let quick = recipes(Depth::Quick);
    for recipe in &quick {
        *counts.entry((&recipe.op, recipe.backward)).or_default() += 1;
    }
    for op in sweep::operations() {
        assert!(counts.get(&(op, false)).is_some_and(|&count| count >= 80), "{op}: {:?}", counts.get(&(op, false)));
        let backward = counts.get(&(op, true)).copied().unwrap_or(0);
        if NO_GRADIENT.contains(&op) {
            assert_eq!(backward, 0, "{op} has no gradient");
        } else {
            assert!(backward >= 30, "{op}: {backward} backward recipes");
        }
        assert_eq!(sweep::has_gradient(op), !NO_GRADIENT.contains(&op), "{op}");
    }
}

/// That an operation is listed as one without a gradient does not hide one that has.
#[test]
fn what_has_no_gradient_gives_none() {
    let device = Device::new(Oracle::new());
    let mut tried = 0;
    for recipe in recipes(Depth::Quick).into_iter().filter(|recipe| NO_GRADIENT.contains(&recipe.op.as_str())) {
        let problem = recipe.problem().unwrap();
        let is_float = |operand: &Operand| matches!(operand.elements, Elements::Float(_));
        let gradients: Vec<String> =
            problem.operands.iter().filter(|(_, operand)| is_float(operand)).map(|(name, _)| name.clone()).collect();
        if gradients.is_empty() {
            continue;
        }
        let outputs = problem.run(&device, How::AsAsked).unwrap();
        let ones = |sizes: &[usize]| Operand::floats(vec![1.0; sizes.iter().product()], sizes).unwrap();
        let cotangents = outputs.iter().map(|output| Some(ones(&output.sizes))).collect();
        let backward = Problem { backward: Some(Backward { cotangents, gradients }), ..problem };
        if let Ok(gradients) = backward.run(&device, How::AsAsked) {
            let zero = gradients.iter().all(|gradient| gradient.data.to_f64().iter().all(|element| *element == 0.0));
            assert!(zero, "{recipe} has a gradient");
        }
        tried += 1;
    }
    assert!(tried > 1000, "{tried}");
}

#[test]
fn names_are_the_same_at_every_depth() {
    let full: BTreeMap<String, Recipe> = recipes(Depth::Full).into_iter().map(|recipe| (recipe.id(), recipe)).collect();
    assert_eq!(full.len(), recipes(Depth::Full).len(), "two recipes of one name");
    for recipe in recipes(Depth::Quick) {
        assert_eq!(full.get(&recipe.id()), Some(&recipe));
    }
    let softmax = sweep::find("softmax#0001").unwrap();
    assert_eq!((softmax.op.as_str(), softmax.seed, softmax.backward), ("softmax", 1, false));
    assert!(sweep::find("softmax.backward#0002").unwrap().backward);
    let missing = sweep::find("softmax#999999").unwrap_err().to_string();
    assert_eq!(missing, "softmax#999999: no recipe of the sweep is called so");
    // One of each is enough: what is swept twice hides how much is swept.
    let mut seen = BTreeMap::new();
    for recipe in recipes(Depth::Full) {
        let same = Recipe { seed: 0, ..recipe.clone() }.to_string();
        *seen.entry(same).or_insert(0) += 1;
    }
    let twice = seen.values().filter(|count| **count > 2).count();
    assert!(twice * 100 < seen.len(), "{twice} of {} recipes are there more than twice", seen.len());
}

#[test]
fn recipes_replay_from_their_json() {
    for recipe in recipes(Depth::Full) {
        let text = recipe.to_string();
        assert!(!text.contains('\n'));
        assert_eq!(text.parse::<Recipe>().unwrap(), recipe);
    }
    for recipe in recipes(Depth::Quick) {
        let again: Recipe = recipe.to_string().parse().unwrap();
        assert_eq!(bits(&again.problem().unwrap()), bits(&recipe.problem().unwrap()), "{recipe}");
    }
}

/// Everything in a problem, to the bit; all NaN are one.
fn bits(problem: &Problem) -> u64 {
    let mut hasher = DefaultHasher::new();
    let (op, weight, random) = (&problem.op, problem.weight_dtype, problem.random);
    (op, format!("{:?} {weight:?} {random}", problem.attributes)).hash(&mut hasher);
    let mut operand = |name: &str, operand: &Operand| {
        (name, format!("{:?}", operand.layout)).hash(&mut hasher);
        let number = |value: f64| if value.is_nan() { 1 } else { value.to_bits() };
        match &operand.elements {
            Elements::Float(values) => values.iter().for_each(|value| number(*value).hash(&mut hasher)),
            Elements::Exact(data) => data.to_f64().into_iter().for_each(|value| number(value).hash(&mut hasher)),
            Elements::Blocks(dtype, bytes) => (format!("{dtype:?}"), bytes).hash(&mut hasher),
        }
    };
    problem.operands.iter().for_each(|(name, one)| operand(name, one));
    if let Some(Backward { cotangents, gradients }) = &problem.backward {
        for (at, cotangent) in cotangents.iter().enumerate() {
            match cotangent {
                Some(cotangent) => operand(&format!("cotangent {at}"), cotangent),
                None => operand(&format!("no cotangent {at}"), &Operand::ids(Vec::new(), &[0]).unwrap()),
            }
        }
        gradients.iter().for_each(|name| operand(name, &Operand::ids(Vec::new(), &[0]).unwrap()));
    }
    hasher.finish()
}

/// Numbers that a seed stands for must never change: a failure of last year replays.
#[test]
fn draws_are_what_they_always_were() {
    let recipe: Recipe = r#"{"op":"softmax","dims":{"x0":4},"seed":7}"#.parse().unwrap();
    let problem = recipe.problem().unwrap();
    assert_eq!(problem.operands[0].1.values(), DRAWS);
}

const DRAWS: [f64; 4] = [-1.379939079284668, 1.4758402109146118, 0.3890509307384491, -1.208879828453064];

#[test]
fn floats_are_singles_and_sizes_are_checked() {
    for recipe in recipes(Depth::Quick) {
        let problem = recipe.problem().unwrap();
        let cotangents = problem.backward.iter().flat_map(|backward| backward.cotangents.iter().flatten());
        for operand in problem.operands.iter().map(|(_, operand)| operand).chain(cotangents) {
            if let Elements::Float(values) = &operand.elements {
                let single = |value: &f64| value.is_nan() || f64::from(*value as f32) == *value;
                assert!(values.iter().all(single), "{recipe}");
            }
        }
    }
    let error = |json: &str| json.parse::<Recipe>().and_then(|recipe| recipe.problem()).unwrap_err().to_string();
    assert_eq!(error(r#"{"op":"softmx"}"#), r#"softmx: no operation is called so, did you mean "softmax"?"#);
    assert_eq!(error(r#"{"op":"softmax","dims":{"x0":2,"y":3}}"#), r#"softmax: unknown size "y", expected x0"#);
    assert_eq!(error(r#"{"op":"linear","dims":{"rows":2}}"#), r#"linear: size "inputs" is missing"#);
    assert_eq!(
        error(r#"{"op":"softmax","dims":{"x0":2},"absent":["x"]}"#),
        r#"softmax: operand "x" cannot be left out"#
    );
    assert_eq!(
        error(r#"{"op":"softmax","dims":{"x0":1000000,"x1":1000000}}"#),
        "softmax: [1000000, 1000000] has more than 268435456 elements"
    );
    assert_eq!(
        error(
            r#"{"op":"linear","dims":{"rows":1,"inputs":33,"outputs":1},"weight_dtype":"q8_0","attributes":{"activation":null}}"#
        ),
        "linear: 33 inputs are no whole number of blocks of 32"
    );
    assert!(error(r#"{"op":"softmax","dimensions":{}}"#).contains("unknown field `dimensions`"));
    assert!(error(r#"{"op":"unary","dims":{"x0":2}}"#).contains(r#"attribute "kind""#));
    // Sizes within attributes are no way around the limit.
    let plan = r#"{"block":4294967296,"rows":[[0,0]],"sequences":[{"blocks":[4294967294],"length":1}]}"#;
    let cached = format!(
        r#"{{"op":"cached_attention","dims":{{"H":1,"K":1,"C":1,"spare":0}},"attributes":{{"scale":1,"mask":"all","plan":{plan}}}}}"#
    );
    assert!(error(&cached).contains("has more than"), "{}", error(&cached));
}

/// What a recipe's outputs should be.
fn bounds(recipe: &Recipe) -> (Problem, Vec<Bounded>) {
    let problem = recipe.problem().unwrap_or_else(|error| panic!("{recipe}: {error}"));
    let bounds = expected(&problem, &Profile::ieee()).unwrap_or_else(|error| panic!("{recipe}: {error}"));
    (problem, bounds)
}

#[derive(Default)]
struct Count {
    recipes: usize,
    elements: usize,
    drawn: Duration,
    bounded: Duration,
    ran: Duration,
    most: f64,
}

/// Runs the sweep on scalar f32; gives the failures, and prints a line an operation.
fn scalar_failures(depth: Depth) -> Vec<String> {
    let device = Device::new(Single::new());
    let (mut counts, mut failures) = (BTreeMap::<String, Count>::new(), Vec::new());
    for recipe in recipes(depth) {
        let name = format!("{}{}", recipe.op, if recipe.backward { ".backward" } else { "" });
        let count = counts.entry(name).or_default();
        let start = Instant::now();
        let problem = recipe.problem().unwrap_or_else(|error| panic!("{recipe}: {error}"));
        count.drawn += start.elapsed();
        let start = Instant::now();
        let bounds = expected(&problem, &Profile::ieee()).unwrap_or_else(|error| panic!("{recipe}: {error}"));
        count.bounded += start.elapsed();
        let start = Instant::now();
        let outputs = problem.run(&device, How::AsAsked).unwrap_or_else(|error| panic!("{recipe}: {error}"));
        count.ran += start.elapsed();
        let judgement = judge(&outputs, &bounds);
        count.recipes += 1;
        count.elements += judgement.elements;
        count.most = count.most.max(judgement.budget);
        if !judgement.passed() {
            failures.push(format!("{} {recipe}: {:?}", recipe.id(), judgement.failure()));
        }
    }
    println!("{:28} recipes  elements  budget  drawn, bounded, ran", "");
    for (name, Count { recipes, elements, drawn, bounded, ran, most }) in &counts {
        println!("{name:28} {recipes:7} {elements:9} {most:7.3}  {drawn:.2?}, {bounded:.2?}, {ran:.2?}");
    }
    let total = |f: fn(&Count) -> Duration| counts.values().map(f).sum::<Duration>();
    let recipes: usize = counts.values().map(|count| count.recipes).sum();
    println!(
        "{recipes} recipes, drawn in {:.1?}, bounded in {:.1?}, run in {:.1?}",
        total(|count| count.drawn),
        total(|count| count.bounded),
        total(|count| count.ran)
    );
    failures
}

#[test]
fn scalar_passes_the_quick_sweep_and_no_recipe_is_vague() {
    let failures = scalar_failures(Depth::Quick);
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

#[test]
#[ignore = "minutes: the large shapes of the full sweep"]
fn scalar_passes_the_full_sweep_and_no_recipe_is_vague() {
    let failures = scalar_failures(Depth::Full);
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

/// Why zeros are all that is expected, if there is a good reason.
fn reason_for_zeros(recipe: &Recipe) -> Option<&'static str> {
    let attribute = |name: &str| recipe.attributes.get(name).cloned().unwrap_or(Value::Null);
    let numbers = |value: Value| -> Vec<u64> {
        value.as_array().map(|all| all.iter().filter_map(Value::as_u64).collect()).unwrap_or_default()
    };
    let op = recipe.op.as_str();
    if op == "fill" {
        return Some("zeros are what is asked for, or what the value is rounded to");
    }
    if recipe.fill == Fill::Zeros {
        return Some("operands are zeros");
    }
    if recipe.dims.values().any(|&size| size == 0) || attribute("rows") == 0 {
        return Some("sums over nothing");
    }
    if op.contains("attention") {
        let segments = attribute("segments");
        let empty = ["queries", "keys"].map(|side| numbers(segments[side].clone()).contains(&0));
        let nothing_held =
            attribute("plan")["sequences"].as_array().is_some_and(|all| all.iter().all(|one| one["length"] == 0));
        if attribute("window") == 0 || empty.contains(&true) || nothing_held {
            return Some("queries that see nothing");
        }
    }
    match (op, attribute("kind").as_str(), recipe.fill) {
        ("activation" | "activation_backward" | "gated" | "gated_backward", Some("relu"), Fill::Negative) => {
            Some("relu is flat below 0")
        }
        ("reduce", Some("arg_maximum"), _) => Some("the first is the greatest"),
        ("sample", ..) => Some("token 0 is a choice like others"),
        ("unary", Some("round"), Fill::Small) => Some("what is small is nearest to 0"),
        ("copy", _, Fill::Small) if attribute("dtype") == "u32" => Some("fractions are truncated"),
        ("cross_entropy" | "cross_entropy_backward", ..) if recipe.dims["V"] == 1 => Some("one class is certain"),
        _ => None,
    }
}

#[test]
fn every_recipe_expects_something() {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    let mut alike = BTreeMap::<String, [usize; 2]>::new();
    for recipe in recipes(Depth::Quick) {
        let (_, bounds) = bounds(&recipe);
        let values = || bounds.iter().flat_map(|output| output.values.iter().copied());
        if values().next().is_none() {
            continue;
        }
        if values().all(|value| value == 0.0) {
            let reason = reason_for_zeros(&recipe).unwrap_or_else(|| panic!("{} expects zeros: {recipe}", recipe.id()));
            *reasons.entry(reason).or_default() += 1;
        }
        let [all, equal] = alike.entry(recipe.op.clone()).or_default();
        *all += 1;
        let first = values().next();
        *equal += usize::from(values().count() > 1 && values().all(|value| Some(value) == first));
    }
    println!("{reasons:#?}");
    for (op, [all, equal]) in alike {
        // But for fills, equal operands are there to be met, not to be most.
        assert!(op == "fill" || equal * 5 < all, "{op}: {equal} of {all} recipes expect one value everywhere");
    }
}

/// NaN that must leave no trace is there and leaves none; NaN that must come through comes through, beside numbers.
#[test]
fn nan_is_where_it_should_be() {
    let is_nan = |operand: &Operand| operand.values().iter().any(|value| value.is_nan());
    let mut poisoned: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for recipe in recipes(Depth::Quick) {
        let (problem, bounds) = bounds(&recipe);
        let values: Vec<f64> = bounds.iter().flat_map(|output| output.values.iter().copied()).collect();
        let nan = values.iter().filter(|value| value.is_nan()).count();
        let unseen = problem.operands.iter().any(|(_, operand)| is_nan(operand));
        match recipe.fill {
            // Of indices one points to it.
            Fill::Nan => assert!(unseen && (nan > 0 || recipe.attributes["kind"] == "arg_maximum"), "{recipe}"),
            _ => assert_eq!(nan, 0, "{recipe}"),
        }
        if recipe.fill == Fill::Nan {
            poisoned.entry(recipe.op.clone()).or_default()[0] += usize::from(nan < values.len());
        } else if recipe.fill == Fill::Masked {
            poisoned.entry(recipe.op.clone()).or_default()[1] += usize::from(unseen);
        }
    }
    println!("{poisoned:?}");
    for op in ["unary", "binary", "reduce", "softmax", "attention", "quantize_activations"] {
        assert!(poisoned[op][0] >= 3, "{op}: NaN comes through beside numbers in {} recipes", poisoned[op][0]);
    }
    let unseen = [
        "write",
        "select",
        "gather_rows",
        "scatter_rows",
        "rotary",
        "attention",
        "attention_backward",
        "cached_attention",
        "cache_write",
        "cache_copy",
        "cross_entropy_backward",
    ];
    for op in unseen {
        assert!(poisoned[op][1] >= 2, "{op}: NaN that nobody sees in {} recipes", poisoned[op][1]);
    }
}

/// What sums are bounded by as random walks are independent draws.
#[test]
fn what_is_called_random_is_random() {
    for recipe in recipes(Depth::Quick) {
        let problem = recipe.problem().unwrap();
        if !problem.random {
            continue;
        }
        for (name, operand) in &problem.operands {
            let repeats = operand.layout.strides().iter().zip(operand.layout.shape().sizes());
            assert!(repeats.into_iter().all(|(&stride, &size)| stride > 0 || size <= 1), "{recipe}: {name}");
        }
        assert!(
            !matches!(recipe.fill, Fill::Constant | Fill::Positive | Fill::Offset | Fill::Ties | Fill::Special),
            "{recipe}"
        );
    }
}

#[test]
fn generated_recipes_pass_on_scalar_and_are_the_same_every_time() {
    let device = Device::new(Single::new());
    let mut vague = 0;
    let mut all = 0;
    for op in sweep::operations() {
        for backward in [false, true] {
            let mut seen = Vec::new();
            let failure = sweep::proptest(op, backward, 60, &mut |recipe| {
                seen.push(recipe.to_string());
                assert_eq!(recipe.to_string().parse::<Recipe>().unwrap(), *recipe);
                let problem = recipe.problem().map_err(|error| error.to_string())?;
                let bounds = expected(&problem, &Profile::ieee()).map_err(|error| error.to_string())?;
                let outputs = problem.run(&device, How::AsAsked).map_err(|error| error.to_string())?;
                let judgement = judge(&outputs, &bounds);
                vague += usize::from(!judgement.vague.is_empty());
                all += 1;
                // A vague recipe is the strategy's fault, and no one else's.
                if judgement.budget <= 1.0 { Ok(()) } else { Err(format!("{:?}", judgement.failure())) }
            });
            assert_eq!(failure, None, "{op}");
            assert_eq!(seen.len(), if backward && NO_GRADIENT.contains(&op) { 0 } else { 60 }, "{op}");
            let mut again = Vec::new();
            sweep::proptest(op, backward, 60, &mut |recipe| {
                again.push(recipe.to_string());
                Ok(())
            });
            assert_eq!(seen, again);
            let different: BTreeSet<&String> = seen.iter().collect();
            assert!(seen.len() < 60 || different.len() > 50, "{op}: {} different recipes", different.len());
        }
    }
    println!("{vague} of {all} generated recipes are vague");
    assert!(vague * 50 < all, "{vague} of {all}");
}

#[test]
fn failures_shrink_to_the_smallest() {
    let fails = |test: fn(&Recipe) -> bool, op: &str, backward: bool| {
        let failure = sweep::proptest(op, backward, 500, &mut |recipe| match test(recipe) {
            true => Err(format!("{} sizes", recipe.dims.len())),
            false => Ok(()),
        });
        failure.unwrap().0
    };
    let last = |recipe: &Recipe| recipe.dims.values().last().copied().unwrap_or(0);
    // A tail of seventeen that is dropped.
    let small = fails(|recipe| recipe.dims.values().last().is_some_and(|&size| size >= 17), "softmax", false);
    assert_eq!(last(&small), 17, "{small}");
    assert!(small.dims.values().product::<usize>() <= 17 * 4, "{small}");
    assert_eq!((small.fill, small.seed), (Fill::Normal, 0));
    let small = fails(|recipe| recipe.dims["outputs"] > 8 && recipe.dims["rows"] > 1, "linear", true);
    assert_eq!((small.dims["outputs"], small.dims["rows"], small.dims["inputs"]), (9, 2, 0), "{small}");
    // Several segments, grouped heads.
    let grouped = |recipe: &Recipe| {
        let segments = recipe.attributes["segments"]["queries"].as_array().map_or(0, Vec::len);
        segments > 1 && recipe.dims["H"] > recipe.dims["K"]
    };
    let small = fails(grouped, "attention", false);
    assert_eq!((small.dims["H"], small.dims["K"], small.dims["C"]), (2, 1, 1), "{small}");
    assert!(sweep::proptest("adamw", true, 100, &mut |_| Err(String::new())).is_none());
    assert!(sweep::proptest("no_such_operation", false, 100, &mut |_| Err(String::new())).is_none());
}

/// What an operand's own type is: halves and words come as they are.
#[test]
fn every_storage_type_is_swept() {
    let mut types: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for recipe in recipes(Depth::Quick) {
        let problem = recipe.problem().unwrap();
        let of = types.entry(recipe.op.clone()).or_default();
        for (_, operand) in &problem.operands {
            of.insert(match &operand.elements {
                Elements::Float(_) => "float".to_owned(),
                Elements::Exact(HostData::U32(_)) => "u32".to_owned(),
                Elements::Exact(data) => data.dtype().to_string(),
                Elements::Blocks(dtype, _) => format!("blocks of {dtype}"),
            });
        }
        of.insert(format!("weights as {}", problem.weight_dtype));
    }
    for op in ["copy", "write", "select", "gather_rows", "scatter_rows"] {
        for dtype in ["float", "f16", "bf16", "u32"] {
            assert!(types[op].contains(dtype), "{op}: no {dtype}");
        }
    }
    for op in ["linear", "embedding", "linear_backward_input"] {
        for dtype in ["f32", "f16", "bf16", "q8_0", "q4_0", "f64"] {
            assert!(types[op].contains(&format!("weights as {dtype}")), "{op}: no {dtype}");
        }
        for dtype in ["q8_0", "q4_0"] {
            assert!(types[op].contains(&format!("blocks of {dtype}")), "{op}: no blocks of {dtype}");
        }
    }
}
