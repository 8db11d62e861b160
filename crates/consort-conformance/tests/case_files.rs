//! Case files: what is written reads back the same to the bit; what is wrong is refused in one line that says where.

mod common;

use std::{fs, path::PathBuf};

use common::{Draw, every, problem};
use consort_conformance::{
    Error,
    bounds::{Profile, expected},
    case_file::{CaseFile, cases},
    judge::judge,
    oracle::Single,
    problem::{Elements, How, Operand, Problem},
};
use consort_core::{Device, HostData, Layout, Shape, WeightDType};
use half::{bf16, f16};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("consort-cases-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// All that a problem is, to the bit.
fn written(problem: &Problem) -> String {
    let bits = |operand: &Operand| match &operand.elements {
        Elements::Float(values) => {
            format!("{:?} {:?}", operand.layout, values.iter().map(|x| x.to_bits()).collect::<Vec<_>>())
        }
        Elements::Exact(data) => {
            let bits: Vec<u64> = data.to_f64().iter().map(|x| x.to_bits()).collect();
            format!("{:?} {} {bits:?}", operand.layout, data.dtype())
        }
        Elements::Blocks(dtype, bytes) => format!("{:?} {dtype} {bytes:?}", operand.layout),
    };
    let operands: Vec<_> = problem.operands.iter().map(|(name, operand)| (name, bits(operand))).collect();
    let backward = problem.backward.as_ref().map(|backward| {
        let cotangents: Vec<_> = backward.cotangents.iter().map(|cotangent| cotangent.as_ref().map(bits)).collect();
        (cotangents, &backward.gradients)
    });
    format!(
        "{} {} {operands:?} {} {} {backward:?}",
        problem.op,
        Value::Object(problem.attributes.clone()),
        problem.weight_dtype,
        problem.random
    )
}

#[test]
fn what_is_written_reads_back_the_same() {
    let folder = Folder::new("same");
    let mut draw = Draw::new(10);
    let mut problems: Vec<Problem> = every(&mut draw).into_iter().map(|(_, problem)| problem).collect();
    // Numbers that a decimal could lose, and types of their own.
    let odd = vec![0.1, -0.0, 5e-324, f64::MAX, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1.0 / 3.0];
    let x = Operand::floats(odd, &[2, 4]).unwrap();
    problems.push(problem("copy", json!({"dtype": "f16"}), vec![("x", x.clone())]));
    problems.push(problem("soft_cap", json!({"cap": 0.1 + 0.2}), vec![("x", x)]));
    for data in [
        HostData::F32(vec![0.1, f32::MAX, 1e-45]),
        HostData::F16(vec![f16::MAX, f16::from_f32(0.1), f16::NEG_ZERO]),
        HostData::BF16(vec![bf16::MIN_POSITIVE_SUBNORMAL, bf16::MAX, bf16::ONE]),
        HostData::U32(vec![0, u32::MAX, 7]),
    ] {
        let x = Operand::contiguous(Elements::Exact(data), &[3]).unwrap();
        problems.push(problem("copy", json!({"dtype": "float"}), vec![("x", x)]));
    }
    // Blocks, rows without elements, a scalar, a broadcast.
    for (dtype, bytes) in [(WeightDType::Q8_0, 2 * 34), (WeightDType::Q4_0, 2 * 18)] {
        let blocks = (0..3 * bytes).map(|byte| (byte * 37 % 100) as u8).collect();
        let weight = Operand::contiguous(Elements::Blocks(dtype, blocks), &[3, 64]).unwrap();
        let linear =
            problem("linear", json!({"activation": null}), vec![("x", draw.floats(&[2, 64], 1.0)), ("weight", weight)]);
        problems.push(Problem { weight_dtype: dtype, ..linear.clone() });
        problems.push(linear);
    }
    problems.push(problem("softmax", json!({}), vec![("x", draw.floats(&[0, 5], 1.0))]));
    problems.push(problem("unary", json!({"kind": "exp"}), vec![("x", draw.floats(&[], 1.0))]));
    let broadcast = Layout::strided(Shape::new(&[3, 4]).unwrap(), &[0, 2], 1).unwrap();
    let x = Operand { elements: Elements::Float(draw.normals(9, 1.0)), layout: broadcast };
    problems.push(problem("softmax", json!({}), vec![("x", x)]));

    for (at, problem) in problems.iter().enumerate() {
        let directory = folder.0.join(format!("{at:04}"));
        let bounds = (at % 2 == 0).then(|| expected(problem, &Profile::ieee()).unwrap());
        CaseFile::write(problem, bounds.as_deref(), &directory).unwrap();
        let case = CaseFile::read(&directory).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(written(&case.problem), written(problem));
        assert_eq!(case.expected.len(), bounds.as_ref().map_or(0, Vec::len), "{}", problem.op);
        for (found, bounded) in case.expected.iter().zip(bounds.iter().flatten()) {
            assert_eq!((&found.name, &found.sizes), (&bounded.name, &bounded.sizes));
            let bits = |values: &[f64]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&found.values), bits(&bounded.values));
        }
        // And is judged as before.
        let finite = bounds.is_none() || !written(problem).contains(&f64::NAN.to_bits().to_string());
        if problem.unfit(consort_core::DType::F32).is_none() && finite {
            let actual = case.problem.run(&Device::new(Single::new()), How::AsAsked).unwrap();
            let judgement = judge(&actual, &case.expected(&Profile::ieee()).unwrap());
            assert!(judgement.budget <= 1.0, "{at} {}: {:?}", problem.op, judgement.failure());
        }
    }
    assert_eq!(cases(&folder.0).unwrap().len(), problems.len());
    assert_eq!(cases(&folder.0.join("0003")).unwrap()[0].name, "0003");
}

fn tensors() -> Vec<u8> {
    let floats: Vec<u8> = (0..6).flat_map(|x| f64::from(x).to_le_bytes()).collect();
    let ids: Vec<u8> = [0i64, 1, -1].iter().flat_map(|x| x.to_le_bytes()).collect();
    let view = |dtype, sizes: &[usize], bytes| TensorView::new(dtype, sizes.to_vec(), bytes).unwrap();
    let all = [
        ("x", view(Dtype::F64, &[2, 3], &floats[..])),
        ("y", view(Dtype::F64, &[2, 3], &floats[..])),
        ("column", view(Dtype::F64, &[3], &floats[..24])),
        ("ids", view(Dtype::I64, &[3], &ids[..])),
        ("bytes", view(Dtype::U8, &[48], &floats[..])),
        ("q8_0.weight", view(Dtype::U8, &[2, 24], &floats[..])),
    ];
    safetensors::serialize(all, None).unwrap()
}

#[test]
fn every_slip_is_one_line_that_says_where() {
    let folder = Folder::new("slips");
    fs::write(folder.0.join("tensors.safetensors"), tensors()).unwrap();
    let base = json!({"op": "softmax", "inputs": ["x"], "outputs": ["y"]});
    let slips: &[(Value, &str)] = &[
        (json!({"op": 3}), "key \"op\""),
        (json!({"op": "softmx"}), "no operation is called \"softmx\", did you mean \"softmax\"?"),
        (json!({"op": "a\nb"}), "no operation is called \"a\\nb\""),
        (json!({"opp": "softmax"}), "unknown key \"opp\", did you mean \"op\"?"),
        (json!({"attribute": {}}), "unknown key \"attribute\", did you mean \"attributes\"?"),
        (json!({"attributes": []}), "key \"attributes\""),
        (json!({"inputs": "x"}), "key \"inputs\""),
        (json!({"inputs": ["z"]}), "no tensor \"z\" as key \"inputs\" names it, did you mean \"x\"?"),
        (json!({"inputs": ["x", "y"]}), "key \"inputs\": 2 names, expected at most 1 of softmax"),
        (json!({"inputs": []}), "operand \"x\" is missing"),
        (json!({"inputs": ["x", "x"]}), "operand \"x\" is there twice"),
        (json!({"inputs": ["bytes"]}), "tensor \"bytes\" of key \"inputs\" is U8, expected F64, F32, F16 or BF16"),
        (json!({"inputs": ["q8_0.weight"]}), "expected rows of U8 blocks of q8_0"),
        (json!({"op": "gather_rows", "inputs": ["x", "ids"]}), "expected U32, or I64 and I32 with numbers that fit"),
        (json!({"op": "gather_rows", "inputs": ["x", "column"]}), "operand \"ids\" is floats, expected u32"),
        (json!({"outputs": ["y", "x"]}), "key \"outputs\": 2 names, expected at most 1 of softmax"),
        (json!({"outputs": ["nothing"]}), "no tensor \"nothing\" as key \"outputs\""),
        (json!({"direction": "sideways"}), "key \"direction\": \"sideways\", expected \"forward\" or \"backward\""),
        (json!({"gradients": ["x"]}), "key \"gradients\" in a forward case"),
        (json!({"direction": "backward", "cotangents": ["y"]}), "key \"gradients\" is missing"),
        (json!({"direction": "backward", "gradients": ["x"]}), "key \"cotangents\" is missing"),
        (
            json!({"direction": "backward", "cotangents": ["y"], "gradients": ["w"]}),
            "a gradient of \"w\", which is no operand of floats",
        ),
        (
            json!({"direction": "backward", "cotangents": ["y", null], "gradients": ["x"]}),
            "key \"cotangents\": 2 names, expected at most 1 of softmax",
        ),
        (json!({"rtol": -1}), "key \"rtol\" is -1, expected a number from 0 on"),
        (json!({"atol": "1e-3"}), "key \"atol\""),
        (
            json!({"weight_dtype": "f8"}),
            "key \"weight_dtype\": \"f8\", expected one of f64, f32, f16, bf16, q8_0, q4_0",
        ),
        (
            json!({"layouts": {"x": {"sizes": [2, 3], "strides": [3, 1], "offset": 1}}}),
            "key \"layouts\", \"x\": a view of 7 elements, the tensor has 6",
        ),
        (
            json!({"layouts": {"x": {"sizes": [99999999, 99999999], "strides": [0, 0]}}}),
            "operand \"x\" is [99999999, 99999999], expected at most",
        ),
        (json!({"layouts": {"x": {"sizes": [usize::MAX, 3], "strides": [0, 0]}}}), "key \"layouts\", \"x\": shape"),
        (json!({"layouts": {"x": {"sizes": [2], "strides": [usize::MAX]}}}), "key \"layouts\", \"x\": layout"),
        (json!({"layouts": {"x": {"sizes": [2], "strides": [1], "of": 3}}}), "key \"layouts\": unknown field `of`"),
        (json!({"layouts": {"z": {"sizes": [2], "strides": [1]}}}), "\"z\" is neither an input nor a cotangent"),
        (json!({"random": "yes"}), "key \"random\""),
    ];
    for (slip, message) in slips {
        let mut case = base.clone();
        case.as_object_mut().unwrap().extend(slip.as_object().unwrap().clone());
        fs::write(folder.0.join("case.json"), case.to_string()).unwrap();
        let error = CaseFile::read(&folder.0).expect_err(message);
        let line = error.to_string();
        assert!(line.contains(message), "{line}\nexpected {message}");
        assert!(line.contains("case.json") || line.contains("tensors.safetensors"), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
    fs::write(folder.0.join("case.json"), base.to_string()).unwrap();
    CaseFile::read(&folder.0).unwrap();

    // What shows when it is run: nothing of the size that it asks for is made.
    let device = Device::new(Single::new());
    let run = |case: Value| -> String {
        fs::write(folder.0.join("case.json"), case.to_string()).unwrap();
        let case = CaseFile::read(&folder.0).unwrap_or_else(|error| panic!("{error}"));
        let error = case.problem.run(&device, How::AsAsked).expect_err("a wrong case ran");
        assert_eq!(error.to_string().lines().count(), 1);
        assert_eq!(expected(&case.problem, &Profile::ieee()).unwrap_err().to_string(), error.to_string());
        error.to_string()
    };
    let wrong: &[(Value, &str)] = &[
        (
            json!({"op": "softmax", "attributes": {"axis": 1}, "inputs": ["x"]}),
            "unknown attribute \"axis\", expected none",
        ),
        (
            json!({"op": "soft_cap", "attributes": {"cop": 1}, "inputs": ["x"]}),
            "unknown attribute \"cop\", did you mean \"cap\"?",
        ),
        (json!({"op": "soft_cap", "inputs": ["x"]}), "attribute \"cap\" is missing"),
        (json!({"op": "soft_cap", "attributes": {"cap": "high"}, "inputs": ["x"]}), "attribute \"cap\": invalid type"),
        (
            json!({"op": "unary", "attributes": {"kind": "sin"}, "inputs": ["x"]}),
            "attribute \"kind\": unknown variant `sin`",
        ),
        (
            json!({"op": "fill", "attributes": {"shape": [99999, 99999], "value": 1, "dtype": "float"}, "inputs": []}),
            "fill: an output of [99999, 99999], expected at most",
        ),
        (
            json!({"op": "embedding_backward", "attributes": {"rows": 1u64 << 40}, "inputs": ["ok", "column"],
                "layouts": {"column": {"sizes": [3, 1], "strides": [1, 1]}}}),
            "embedding_backward: an output of [1099511627776, 1]",
        ),
        (json!({"op": "matmul", "inputs": ["x", "y"]}), "matmul: [2, 3] times [2, 3]"),
        (
            json!({"op": "copy", "attributes": {"dtype": "f64"}, "inputs": ["x"]}),
            "it asks for f64, the device computes in f32",
        ),
    ];
    let mut bytes = tensors();
    bytes = with_ids(&bytes);
    fs::write(folder.0.join("tensors.safetensors"), bytes).unwrap();
    for (case, message) in wrong {
        let line = run(case.clone());
        assert!(line.contains(message), "{line}\nexpected {message}");
    }
}

/// The same tensors and ids that fit, as "ok".
fn with_ids(bytes: &[u8]) -> Vec<u8> {
    let tensors = safetensors::SafeTensors::deserialize(bytes).unwrap();
    let ids: Vec<u8> = [0u32, 1, 2].iter().flat_map(|x| x.to_le_bytes()).collect();
    let ok = TensorView::new(Dtype::U32, vec![3], &ids).unwrap();
    let all = tensors.iter().map(|(name, view)| (name.to_owned(), view)).chain([("ok".to_owned(), ok)]);
    safetensors::serialize(all, None).unwrap()
}

#[test]
fn caches_that_contradict_themselves_are_refused() {
    let mut draw = Draw::new(11);
    let device = Device::new(Single::new());
    let mut cached = |plan: Value, rows: usize| {
        let operands = vec![
            ("query", draw.floats(&[1, 2, 4], 1.0)),
            ("keys", draw.floats(&[rows, 1, 4], 1.0)),
            ("values", draw.floats(&[rows, 1, 4], 1.0)),
        ];
        let attributes = json!({"plan": plan, "scale": 1.0, "mask": "causal"});
        problem("cached_attention", attributes, operands)
            .run(&device, How::AsAsked)
            .map(|_| ())
            .map_err(|e| e.to_string())
    };
    let plan = |block: usize, row: [usize; 2], blocks: &[u32], length: usize| json!({"block": block, "rows": [row], "sequences": [{"blocks": blocks, "length": length}]});
    assert_eq!(cached(plan(4, [0, 3], &[1], 4), 8), Ok(()));
    assert_eq!(cached(plan(4, [0, 3], &[u32::MAX, 1], 8), 8), Ok(()));
    for (plan, rows, message) in [
        (plan(0, [0, 0], &[], 0), 8, "8 rows are no whole number of blocks of 0"),
        (plan(3, [0, 0], &[0], 1), 8, "8 rows are no whole number of blocks of 3"),
        (plan(4, [0, 0], &[2], 1), 8, "block 2 of a cache of 2"),
        (plan(4, [0, usize::MAX], &[0], 1), 8, "position 18446744073709551615 is beyond"),
        (plan(4, [0, 0], &[0], usize::MAX), 8, "length 18446744073709551615 is beyond"),
        (plan(4, [1, 0], &[0], 1), 8, "a plan that contradicts itself"),
        (plan(4, [0, 0], &[0], 5), 8, "a plan that contradicts itself"),
    ] {
        let line = cached(plan, rows).unwrap_err();
        assert!(line.contains(message), "{line}\nexpected {message}");
    }
    let operands = || vec![("keys", draw_rows()), ("values", draw_rows())];
    for (pairs, message) in
        [(json!([[0, 1], [0, 1]]), "block 1 is a target twice"), (json!([[0, 7]]), "block 7 of a cache of 2")]
    {
        let copy = problem("cache_copy", json!({"block": 4, "pairs": pairs}), operands());
        let line = copy.run(&device, How::AsAsked).unwrap_err().to_string();
        assert!(line.contains(message), "{line}");
    }
}

fn draw_rows() -> Operand {
    Draw::new(12).floats(&[8, 1, 2], 1.0)
}

#[test]
fn tolerances_of_the_author_are_kept() {
    let folder = Folder::new("tolerances");
    let problem = problem("unary", json!({"kind": "exp"}), vec![("x", Draw::new(13).floats(&[5], 1.0))]);
    let bounded = expected(&problem, &Profile::ieee()).unwrap();
    CaseFile::write(&problem, Some(&bounded), &folder.0).unwrap();
    let actual = problem.run(&Device::new(Single::new()), How::AsAsked).unwrap();
    let with = |rtol: Value, atol: Value| {
        let path = folder.0.join("case.json");
        let mut case: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        case["rtol"] = rtol;
        case["atol"] = atol;
        fs::write(&path, case.to_string()).unwrap();
        let case = CaseFile::read(&folder.0).unwrap();
        let expected = case.expected(&Profile::ieee()).unwrap();
        (judge(&actual, &expected), expected)
    };
    let (judgement, expected) = with(json!(1e-6), json!(1e-7));
    assert!(judgement.passed());
    let value = expected[0].values[2];
    assert_eq!(expected[0].errors[2], 1e-7 + 1e-6 * value.abs());
    assert!(!with(json!(0), json!(0)).0.passed(), "an exponential in f32 is not that in f64");
    assert!(with(json!(null), json!(null)).0.passed());
}

#[test]
fn folders_without_cases_are_no_agreement() {
    let folder = Folder::new("none");
    assert!(matches!(cases(&folder.0), Err(Error::NoCases { .. })));
    assert!(matches!(cases(&folder.0.join("absent")), Err(Error::Io { .. })));
    fs::write(folder.0.join("case.json"), "{\"tokens\": [1]}").unwrap();
    assert!(cases(&folder.0).unwrap_err().to_string().contains("golden model"));
    for text in ["", "[]", "{\"op\"", "\"softmax\"", "{\"op\": \"fill\"}"] {
        fs::write(folder.0.join("case.json"), text).unwrap();
        assert!(cases(&folder.0).is_err(), "{text}");
    }
    // Any bytes at all.
    let whole = tensors();
    fs::write(folder.0.join("case.json"), "{\"op\": \"softmax\", \"inputs\": [\"x\"]}").unwrap();
    for cut in 0..whole.len() {
        fs::write(folder.0.join("tensors.safetensors"), &whole[..cut]).unwrap();
        assert!(matches!(cases(&folder.0), Err(Error::Malformed { .. })), "{cut}");
    }
}
