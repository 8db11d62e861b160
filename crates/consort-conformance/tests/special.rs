//! Values at the ends of what a type holds, cases that would prove nothing, operands that must stay as they are.

mod common;

use common::{Draw, backward, problem};
use consort_conformance::{
    bounds::{Bounded, Profile, expected},
    judge::{judge, same_bits},
    oracle::Single,
    problem::{Elements, How, Operand, Output, Problem},
};
use consort_core::{
    Backend, DType, Device, Fused, FusedOf, HostData, Layout, Nothing, Outputs, Primitive, PrimitiveOf, Ready, Result,
    Shape, Spec, unsupported,
};
use serde_json::json;

fn of(op: &str, attributes: serde_json::Value, operands: &[(&str, &[f64])]) -> Problem {
    let operands = operands.iter().map(|(name, values)| (*name, row(values))).collect();
    Problem { random: false, ..problem(op, attributes, operands) }
}

fn row(values: &[f64]) -> Operand {
    Operand::floats(values.to_vec(), &[1, values.len()]).unwrap()
}

fn bounded(problem: &Problem) -> Bounded {
    expected(problem, &Profile::ieee()).unwrap().remove(0)
}

/// What scalar f32 uses of its bounds.
fn budget(problem: &Problem) -> f64 {
    let actual = problem.run(&Device::new(Single::new()), How::AsAsked).unwrap();
    judge(&actual, &expected(problem, &Profile::ieee()).unwrap()).budget
}

#[test]
fn infinities_and_nan_are_expected_where_they_come_out() {
    let [nan, inf] = [f64::NAN, f64::INFINITY];
    for (op, attributes, operands, nans) in [
        ("unary", json!({"kind": "log"}), vec![("x", &[0.0, -1.0, inf, nan, 1.0][..])], vec![1, 3]),
        ("unary", json!({"kind": "sqrt"}), vec![("x", &[-0.0, -1.0, inf, nan, 4.0][..])], vec![1, 3]),
        ("unary", json!({"kind": "exp"}), vec![("x", &[-inf, inf, nan, 1e30, -1e30][..])], vec![2]),
        ("unary", json!({"kind": "reciprocal"}), vec![("x", &[0.0, -0.0, inf, nan][..])], vec![3]),
        ("binary", json!({"kind": "add"}), vec![("a", &[inf, inf, nan][..]), ("b", &[1.0, -inf, 1.0])], vec![1, 2]),
        (
            "binary",
            json!({"kind": "multiply"}),
            vec![("a", &[inf, inf, nan][..]), ("b", &[-1.0, 0.0, 1.0])],
            vec![1, 2],
        ),
        ("binary", json!({"kind": "divide"}), vec![("a", &[1.0, 0.0, inf][..]), ("b", &[0.0, 0.0, inf])], vec![1, 2]),
        (
            "binary",
            json!({"kind": "maximum"}),
            vec![("a", &[nan, 1.0, -inf][..]), ("b", &[1.0, nan, -3.0])],
            vec![0, 1],
        ),
        ("reduce", json!({"kind": "sum", "axis": 1}), vec![("x", &[1.0, inf, -inf][..])], vec![0]),
        ("reduce", json!({"kind": "maximum", "axis": 1}), vec![("x", &[1.0, nan, inf][..])], vec![0]),
        ("softmax", json!({}), vec![("x", &[1.0, inf, 0.0][..])], vec![0, 1, 2]),
        ("softmax", json!({}), vec![("x", &[1.0, -inf, 0.0][..])], vec![]),
    ] {
        let problem = of(op, attributes.clone(), &operands);
        let expected = bounded(&problem);
        let found: Vec<usize> = (0..expected.values.len()).filter(|&at| expected.values[at].is_nan()).collect();
        assert_eq!(found, nans, "{op} {attributes}");
        assert!(!expected.unbounded(), "{op} {attributes}: {:?}", expected.errors);
        assert!(budget(&problem) <= 1.0, "{op} {attributes}");
        // NaN where there is a number, a number where there is NaN, the other infinity.
        let mut actual = problem.run(&Device::new(Single::new()), How::AsAsked).unwrap();
        for at in 0..expected.values.len() {
            let right = actual.clone();
            if let HostData::F32(data) = &mut actual[0].data {
                data[at] = match data[at] {
                    x if x.is_nan() => 0.0,
                    x if x.is_infinite() => -x,
                    _ => f32::NAN,
                };
            }
            assert_eq!(judge(&actual, std::slice::from_ref(&expected)).budget, f64::INFINITY, "{op} {attributes} {at}");
            actual = right;
        }
    }
}

#[test]
fn what_is_beyond_the_type_is_followed_where_it_can_be() {
    let large = 3e38f32;
    let x = f64::from(large);
    // Beyond: either an infinity or the number, were it held.
    let sum = of("binary", json!({"kind": "add"}), &[("a", &[x, x]), ("b", &[x, -x])]);
    let wanted = bounded(&sum);
    assert!(wanted.values[0] > f64::from(f32::MAX) && wanted.values[1] == 0.0);
    assert!(budget(&sum) <= 1.0);
    let with = |values: [f32; 2]| {
        let data = HostData::F32(values.to_vec());
        let output = Output { name: "y".into(), sizes: vec![1, 2], dtype: DType::F32, data };
        judge(&[output], std::slice::from_ref(&wanted)).budget
    };
    assert!(with([f32::INFINITY, 0.0]) <= 1.0);
    assert_eq!(with([f32::NEG_INFINITY, 0.0]), f64::INFINITY);
    assert!(with([large, 0.0]) > 1.0);
    // e^100 is beyond f32; what is divided by it is 0 or nearly.
    for kind in ["silu", "quick_gelu"] {
        let x: Vec<f64> =
            [-1e30, -200.0, -100.0, -89.0, -80.0, 0.0, 80.0, 1e30].map(|x: f64| f64::from(x as f32)).into();
        let silu = of("activation", json!({"kind": kind}), &[("x", &x)]);
        assert!(!bounded(&silu).unbounded(), "{kind}: {:?}", bounded(&silu).errors);
        assert!(budget(&silu) <= 1.0, "{kind}");
    }
    // A greatest that is large cancels, whatever is beside it.
    let rows: &[&[f64]] = &[&[x, x, -x], &[1e30, -1e30, 0.0], &[-1e38, -1e38], &[80.0, -80.0, 700.0]];
    for values in rows {
        let values: Vec<f64> = values.iter().map(|x| f64::from(*x as f32)).collect();
        for op in ["softmax", "layer_norm"] {
            let problem = match op {
                "softmax" => of(op, json!({}), &[("x", &values)]),
                _ if x > 1e19 && values.iter().any(|x| x.abs() > 1e19) => continue,
                _ => {
                    let weight = Operand::floats(vec![1.0; values.len()], &[values.len()]).unwrap();
                    problem(op, json!({"epsilon": 1e-5}), vec![("x", row(&values)), ("weight", weight)])
                }
            };
            assert!(!bounded(&problem).unbounded(), "{op} {values:?}: {:?}", bounded(&problem).errors);
            assert!(budget(&problem) <= 1.0, "{op} {values:?}");
        }
    }
    // A square beyond the type is another result in f32: nothing can be said, and nothing passes.
    let weight = Operand::floats(vec![1.0; 2], &[2]).unwrap();
    let attributes = json!({"epsilon": 1e-5, "unit_offset": false});
    let norm = problem("rms_norm", attributes, vec![("x", row(&[1e30, 2e30])), ("weight", weight)]);
    let expected = expected(&norm, &Profile::ieee()).unwrap();
    assert!(expected[0].unbounded() && expected[0].vague);
    let actual = norm.run(&Device::new(Single::new()), How::AsAsked).unwrap();
    let judgement = judge(&actual, &expected);
    assert!(!judgement.passed() && judgement.failure().unwrap().starts_with("unbounded case"), "{judgement:?}");
}

#[test]
fn denormals_are_exact_or_flushed_as_the_profile_says() {
    let tiny = f64::from(f32::from_bits(3));
    let small = f64::from(f32::MIN_POSITIVE);
    let x = [tiny, -tiny, small, 1.5 * small, 0.0];
    for (op, attributes) in [
        ("unary", json!({"kind": "negate"})),
        ("unary", json!({"kind": "sqrt"})),
        ("unary", json!({"kind": "tanh"})),
        ("soft_cap", json!({"cap": 3.0})),
        ("activation", json!({"kind": "gelu"})),
        ("softmax", json!({})),
    ] {
        let x: Vec<f64> = if attributes["kind"] == "sqrt" { x.iter().map(|x| x.abs()).collect() } else { x.into() };
        let problem = of(op, attributes.clone(), &[("x", &x)]);
        assert!(budget(&problem) <= 1.0, "{op} {attributes}");
        let flushed = expected(&problem, &Profile::wgsl()).unwrap();
        assert!(!flushed[0].unbounded(), "{op} {attributes}");
    }
    let negate = of("unary", json!({"kind": "negate"}), &[("x", &x)]);
    assert_eq!(bounded(&negate).errors, [0.0; 5]);
    let flushed = expected(&negate, &Profile::wgsl()).unwrap().remove(0);
    let zeros = HostData::F32(vec![0.0, 0.0, -f32::MIN_POSITIVE, -1.5 * f32::MIN_POSITIVE, 0.0]);
    let output = Output { name: "y".into(), sizes: vec![1, 5], dtype: DType::F32, data: zeros };
    assert!(judge(std::slice::from_ref(&output), &[Bounded { bits: false, ..flushed }]).budget <= 1.0);
    assert_eq!(judge(&[output], &[bounded(&negate)]).budget, f64::INFINITY);
}

#[test]
fn a_gradient_that_is_zero_for_everyone_proves_nothing() {
    // Σ softmax is 1 whatever x is.
    let mut draw = Draw::new(14);
    let softmax = problem("softmax", json!({}), vec![("x", draw.floats(&[3, 7], 1.0))]);
    let mut back = backward(&mut draw, &softmax, &[&[3, 7]], &["x"]);
    let judgement = |problem: &Problem| {
        let actual = problem.run(&Device::new(Single::new()), How::AsAsked).unwrap();
        judge(&actual, &expected(problem, &Profile::ieee()).unwrap())
    };
    assert!(judgement(&back).passed());
    let ones = Operand::floats(vec![1.0; 21], &[3, 7]).unwrap();
    back.backward.as_mut().unwrap().cotangents = vec![Some(ones)];
    let judgement = judgement(&back);
    assert!(judgement.budget <= 1.0 && !judgement.passed() && judgement.vague == ["d_x"], "{judgement:?}");
}

#[test]
fn outputs_that_are_not_what_they_should_be() {
    let softmax = problem("softmax", json!({}), vec![("x", Draw::new(15).floats(&[3, 7], 1.0))]);
    let expected = expected(&softmax, &Profile::ieee()).unwrap();
    let right = softmax.run(&Device::new(Single::new()), How::AsAsked).unwrap();
    let wrong = |change: fn(&mut Output)| {
        let mut all = right.clone();
        change(&mut all[0]);
        (judge(&all, &expected).budget, same_bits(&all, &right).is_some())
    };
    assert!(!wrong(|_| {}).1);
    assert_eq!(wrong(|output| output.sizes = vec![7, 3]), (f64::INFINITY, true));
    assert_eq!(wrong(|output| output.name = "z".into()), (f64::INFINITY, true));
    assert_eq!(wrong(|output| output.data = HostData::U32(vec![0; 21])).0, f64::INFINITY);
    for change in [(|output| cut(output, 20)) as fn(&mut Output), |output| cut(output, 0), |output| cut(output, 22)] {
        assert_eq!(wrong(change).0, f64::INFINITY);
    }
    assert_eq!(judge(&[], &expected).budget, f64::INFINITY);
    assert!(same_bits(&[], &right).is_some() && same_bits(&right, &[]).is_some());
    // The hash is of the bits.
    let mut other = right.clone();
    if let HostData::F32(data) = &mut other[0].data {
        data[20] = f32::from_bits(data[20].to_bits() ^ 1);
    }
    assert_ne!(judge(&right, &expected).bits, judge(&other, &expected).bits);
    let worst = same_bits(&other, &right).unwrap();
    assert_eq!((worst.output.as_str(), worst.index.as_slice()), ("y", &[2, 6][..]));
}

fn cut(output: &mut Output, elements: usize) {
    if let HostData::F32(data) = &mut output.data {
        data.resize(elements, 0.0);
    }
}

/// What a backend may do to operands that it must leave alone.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Theft {
    /// Writes come out in the buffer that was given, whoever else holds it.
    InPlace,
    /// The element behind what is seen of an operand is changed.
    Beyond,
    /// A cache is written in its first layer as well.
    OtherLayer,
}

/// Scalar f32 whose memory is shared by handle and can be changed under others' handles.
struct Thief(Device<Single>, Theft);

#[derive(Clone, Debug)]
struct Shared(std::sync::Arc<std::sync::Mutex<<Single as Backend>::Buffer>>);

impl Shared {
    fn new(buffer: <Single as Backend>::Buffer) -> Self {
        Self(std::sync::Arc::new(std::sync::Mutex::new(buffer)))
    }

    fn get(&self) -> <Single as Backend>::Buffer {
        self.0.lock().unwrap().clone()
    }
}

struct Inner;

impl consort_core::MapOperands<consort_core::Tensor<Shared>, (), ()> for Inner {
    type Tensor = consort_core::TensorOf<Single>;
    type Weight = ();
    type Cache = ();

    fn tensor(&mut self, x: &consort_core::Tensor<Shared>) -> Result<Self::Tensor> {
        Ok(consort_core::Tensor::with_layout(x.buffer.get(), *x.layout(), x.dtype()))
    }

    fn weight(&mut self, (): &()) -> Result<()> {
        Ok(())
    }

    fn cache(&mut self, (): &()) -> Result<()> {
        Ok(())
    }
}

impl Backend for Thief {
    type Buffer = Shared;
    type Packed = Nothing;
    type Store = Nothing;
    type Ticket = Ready;
    type Host = Single;

    fn alloc(&self, dtype: DType, elements: usize) -> Result<Shared> {
        self.0.backend().alloc(dtype, elements).map(Shared::new)
    }

    fn upload(&self, data: HostData) -> Result<Shared> {
        self.0.backend().upload(data).map(Shared::new)
    }

    fn download(&self, buffer: &Shared) -> Result<Ready> {
        self.0.backend().download(&buffer.get())
    }

    fn primitive(&self, operation: &mut PrimitiveOf<Self>, _: &Spec) -> Result<Shared> {
        let result = self.0.primitive(operation.try_map(&mut Inner)?)?;
        let result = self.0.contiguous(&result)?.buffer;
        match (&*operation, self.1) {
            (Primitive::Write { into, .. }, Theft::InPlace) => {
                *into.buffer.0.lock().unwrap() = result;
                Ok(into.buffer.clone())
            }
            (Primitive::Unary { x, .. }, Theft::Beyond) => {
                let mut all = consort_core::Ticket::wait(self.0.backend().download(&x.buffer.get())?)?;
                if let HostData::F32(data) = &mut all {
                    data[x.layout().end()..].iter_mut().take(1).for_each(|x| *x += 1.0);
                }
                *x.buffer.0.lock().unwrap() = self.0.backend().upload(all)?;
                Ok(Shared::new(result))
            }
            _ => Ok(Shared::new(result)),
        }
    }

    fn fused(&self, operation: &mut FusedOf<Self>, _: &[Spec]) -> Result<Outputs<Shared>> {
        if let (Fused::CacheWrite { cache, layer: 1, .. }, Theft::OtherLayer) = (&*operation, self.1)
            && let consort_core::CacheStore::Plain(layers) = cache.store()
        {
            let layers = layers.lock().unwrap();
            let [keys, _] = layers[0].as_ref().unwrap();
            let elements = keys.shape().elements();
            *keys.buffer.0.lock().unwrap() = self.0.backend().upload(HostData::F32(vec![1.0; elements]))?;
        }
        Err(unsupported(self, operation.name()))
    }
}

#[test]
fn operands_that_change_are_named() {
    let mut draw = Draw::new(16);
    let write =
        problem("write", json!({"start": [0]}), vec![("into", draw.floats(&[4], 1.0)), ("x", draw.floats(&[2], 1.0))]);
    let layout = Layout::strided(Shape::new(&[3]).unwrap(), &[2], 1).unwrap();
    let x = Operand { elements: Elements::Float(draw.normals(9, 1.0)), layout };
    let unary = problem("unary", json!({"kind": "exp"}), vec![("x", x)]);
    let rows = |draw: &mut Draw, rows| draw.floats(&[rows, 1, 2], 1.0);
    let plan = json!({"block": 4, "rows": [[0, 1]], "sequences": [{"blocks": [1], "length": 2}]});
    let operands = vec![
        ("keys", rows(&mut draw, 8)),
        ("values", rows(&mut draw, 8)),
        ("key", rows(&mut draw, 1)),
        ("value", rows(&mut draw, 1)),
    ];
    let cache = problem("cache_write", json!({"plan": plan}), operands);
    for (theft, problem, named) in
        [(Theft::InPlace, &write, "into"), (Theft::Beyond, &unary, "x"), (Theft::OtherLayer, &cache, "keys of layer 0")]
    {
        let (outputs, changed) = problem.run_checked(&Device::new(Thief(Device::new(Single::new()), theft))).unwrap();
        assert_eq!(changed, [named], "{theft:?}");
        // What comes out is right: only looking at the operands tells.
        assert!(judge(&outputs, &expected(problem, &Profile::ieee()).unwrap()).passed(), "{theft:?}");
        let (_, changed) = problem.run_checked(&Device::new(Single::new())).unwrap();
        assert!(changed.is_empty());
    }
}
