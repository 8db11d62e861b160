//! The comparer compared: backends with a planted fault must not agree, backends without one must.
//!
//! Each fault is one that real kernels had: a tail that is not summed, a cache that is not written, an epsilon in the
//! wrong place, a result that depends on the company. They are planted in scalar f32, so that nothing else is wrong.

use std::{collections::BTreeSet, path::Path};

use consort_conformance::{
    Error,
    compare::{Exact, ModelReport, compare},
    golden::{Golden, goldens},
    oracle::{Oracle, Single},
};
use consort_core::{
    Backend, DType, Device, Fused, FusedOf, HostData, Nothing, Outputs, Primitive, PrimitiveOf, Ready, Result, Spec,
    TensorOf, WeightDType,
    config::RotaryPairing,
    operation::{BinaryKind, ReduceKind, UnaryKind},
    unsupported,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// Products leave out their last term.
    DroppedTail,
    /// One term in a sum is left out: the last column of a reduction.
    DroppedColumn,
    /// A step of one row does not write its keys and values.
    StaleCache,
    /// The first element of every exponential is NaN.
    Nan,
    /// The first logit, and nothing else, is NaN.
    FirstLogitNan,
    /// Norms use ten times the epsilon.
    WrongEpsilon,
    /// Rotary pairs are the other convention's.
    SwappedPairing,
    /// Products round their operands to half precision.
    SilentHalf,
    /// Products of several rows add in two halves: as accurate, but a row's bits depend on how many rows there are.
    Company,
    /// Buffers come back one element short.
    ShortDownload,
}

const FAULTS: [Fault; 10] = [
    Fault::DroppedTail,
    Fault::DroppedColumn,
    Fault::StaleCache,
    Fault::Nan,
    Fault::FirstLogitNan,
    Fault::WrongEpsilon,
    Fault::SwappedPairing,
    Fault::SilentHalf,
    Fault::Company,
    Fault::ShortDownload,
];

/// Scalar f32 with a fault.
struct Planted(Single, Fault);

type Buffer = <Single as Backend>::Buffer;

impl Planted {
    /// `a · b`, with what the fault does to it.
    fn matmul(&self, a: &TensorOf<Self>, b: &TensorOf<Self>, out: &Spec) -> Result<Option<Buffer>> {
        let device = Device::new(self.0);
        let (rows, inner) = (a.size(a.sizes().len() - 2), a.size(a.sizes().len() - 1));
        let part = |start: usize, length: usize| {
            let a = a.slice(a.sizes().len() - 1, start, length)?;
            let b = b.slice(b.sizes().len() - 2, start, length)?;
            device.matmul(&a, &b)
        };
        let changed = match self.1 {
            Fault::DroppedTail if inner > 1 => part(0, inner - 1)?,
            Fault::Company if inner > 1 && rows > 1 => {
                device.add(part(0, inner / 2)?, part(inner / 2, inner - inner / 2)?)?
            }
            Fault::SilentHalf => {
                let half = |x: &TensorOf<Self>| device.copy(&device.copy(x, DType::F16)?, DType::F32);
                device.matmul(&half(a)?, &half(b)?)?
            }
            Fault::FirstLogitNan if out.shape.sizes().last() == Some(&VOCABULARY) => {
                let right = device.matmul(a, b)?;
                let sizes = right.sizes().to_vec();
                let mut data = device.download(&right)?.to_f64();
                data[0] = f64::NAN;
                device.upload_floats(&data, &sizes)?
            }
            _ => return Ok(None),
        };
        Ok(Some(device.contiguous(&changed)?.buffer))
    }
}

/// Of the goldens of the odd sizes; nothing else in them is this wide.
const VOCABULARY: usize = 131;

impl Backend for Planted {
    type Buffer = Buffer;
    type Packed = Nothing;
    type Store = Nothing;
    type Ticket = Ready;
    type Host = Single;

    fn alloc(&self, dtype: DType, elements: usize) -> Result<Buffer> {
        self.0.alloc(dtype, elements)
    }

    fn upload(&self, data: HostData) -> Result<Buffer> {
        self.0.upload(data)
    }

    fn download(&self, buffer: &Buffer) -> Result<Ready> {
        let ready = self.0.download(buffer)?;
        if self.1 != Fault::ShortDownload {
            return Ok(ready);
        }
        let mut data = consort_core::Ticket::wait(ready)?;
        if let HostData::F32(data) = &mut data {
            data.pop();
        }
        Ok(Ready::new(data))
    }

    fn name(&self) -> &'static str {
        "planted"
    }

    fn primitive(&self, operation: &mut PrimitiveOf<Self>, out: &Spec) -> Result<Buffer> {
        match (&*operation, self.1) {
            (Primitive::MatMul { a, b }, _) => {
                if let Some(changed) = self.matmul(a, b, out)? {
                    return Ok(changed);
                }
            }
            (Primitive::ScatterRows { into, x, add: false, .. }, Fault::StaleCache) if x.size(0) == 1 => {
                return Ok(into.buffer.clone());
            }
            (Primitive::Reduce { x, axis, kind: kind @ ReduceKind::Sum }, Fault::DroppedColumn)
                if x.size(*axis) > 1 =>
            {
                let device = Device::new(self.0);
                return Ok(device.reduce(&x.slice(*axis, 0, x.size(*axis) - 1)?, *axis, *kind)?.buffer);
            }
            (Primitive::Unary { x, kind: UnaryKind::Exp }, Fault::Nan) => {
                let device = Device::new(self.0);
                let right = device.unary(x.clone(), UnaryKind::Exp)?;
                let nothing = device.fill(&[1], 0.0)?;
                let nan = device.binary(nothing.clone(), nothing, BinaryKind::Divide)?;
                let start = vec![0; right.sizes().len()];
                let nan = nan.view(&vec![1; right.sizes().len()])?;
                return Ok(device.write(right, nan, &start)?.buffer);
            }
            _ => {}
        }
        self.0.primitive(operation, out)
    }

    fn fused(&self, operation: &mut FusedOf<Self>, _: &[Spec]) -> Result<Outputs<Buffer>> {
        // Changed and handed back: the decomposition runs with what is wrong.
        match (&mut *operation, self.1) {
            (Fused::LayerNorm { epsilon, .. } | Fused::RmsNorm { epsilon, .. }, Fault::WrongEpsilon) => {
                *epsilon *= 10.0
            }
            (Fused::Rotary { pairing, .. }, Fault::SwappedPairing) => {
                *pairing = match pairing {
                    RotaryPairing::Halves => RotaryPairing::Interleaved,
                    RotaryPairing::Interleaved => RotaryPairing::Halves,
                }
            }
            _ => {}
        }
        Err(unsupported(self, operation.name()))
    }
}

fn golden(name: &str) -> Golden {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name);
    Golden::read(&folder).unwrap_or_else(|error| panic!("{error}"))
}

/// Whether the comparison says that something is wrong.
fn caught(found: &Result<ModelReport, Error>) -> bool {
    found.as_ref().map_or(true, |report| !report.agrees())
}

#[test]
fn every_planted_fault_is_caught() {
    // A model without caches, rotary positions or a head cannot show what is wrong with them; llama has it all.
    for name in ["llama", "t5", "bert", "bert-base"] {
        let golden = golden(name);
        let exact = Exact::compute(&golden).unwrap();
        let reference = exact.kept_as(WeightDType::F32).unwrap();
        let mut missed = BTreeSet::new();
        for fault in FAULTS {
            let found = reference.compare(&Device::new(Planted(Single::new(), fault)), "ieee");
            let how = match &found {
                Ok(report) => report.failures().join("; "),
                Err(error) => format!("error: {error}"),
            };
            println!("{name} {fault:?}: {how}");
            if !caught(&found) {
                missed.insert(fault);
            }
        }
        println!("{name}: {} of {} planted faults caught", FAULTS.len() - missed.len(), FAULTS.len());
        assert!(name != "llama" || missed.is_empty(), "not caught: {missed:?}");
    }
}

#[test]
fn a_stale_cache_is_seen_by_cuts_alone() {
    let report = compare(&golden("llama"), &Device::new(Planted(Single::new(), Fault::StaleCache))).unwrap();
    assert!(report.output.error <= report.bar, "one pass writes several rows: {:e}", report.output.error);
    let differing: Vec<&str> = report.cuts.iter().filter(|cut| cut.differs.is_some()).map(|cut| cut.way).collect();
    assert_eq!(differing, ["token by token", "odd chunks"]);
}

#[test]
fn bits_that_depend_on_company_are_seen_within_the_bar() {
    let report = compare(&golden("llama"), &Device::new(Planted(Single::new(), Fault::Company))).unwrap();
    assert!(report.output.error <= report.bar, "{:e}", report.output.error);
    assert!(report.cuts.iter().any(|cut| cut.way == "token by token" && cut.differs.is_some()));
    assert!(!report.agrees());
}

#[test]
fn one_nan_is_enough() {
    let report = compare(&golden("llama"), &Device::new(Planted(Single::new(), Fault::FirstLogitNan))).unwrap();
    assert!(report.output.error.is_nan() && report.output.index == [0, 0], "{:?}", report.output);
    assert!(report.divergence.is_some_and(|divergence| divergence.max.is_nan()));
    assert!(report.worst_hidden.as_ref().is_some_and(|hidden| hidden.error <= report.bar));
    assert!(!report.agrees());
    // Nothing that is not a number may be lost on the way into a file.
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["output"]["error"], "NaN");
}

#[test]
fn a_wrong_oracle_is_no_yardstick() {
    let mut golden = golden("llama");
    let logits = golden.expected.get_mut("logits").unwrap();
    logits.data[7] += 1e-6;
    let hidden = golden.expected.remove("hidden.1").unwrap();
    golden.expected.insert("hidden.7".to_owned(), hidden);
    let report = compare(&golden, &Device::new(Single::new())).unwrap();
    let oracle = report.oracle.as_ref().unwrap();
    assert_eq!((oracle.tensor.as_str(), oracle.index.as_slice()), ("logits", &[0, 7][..]));
    assert_eq!(report.unmatched, ["hidden.7"]);
    assert_eq!(report.failures().len(), 2, "{:?}", report.failures());
}

#[test]
fn scalar_agrees_on_every_golden_in_f32() {
    for golden in goldens(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")).unwrap() {
        let report = compare(&golden, &Device::new(Single::new())).unwrap();
        assert!(report.agrees(), "{}: {:?}", golden.name, report.failures());
        assert_eq!(report.times_floor, Some(1.0), "{}", golden.name);
        if let Some(top) = report.top_choice {
            assert!(top.clear > 0 && top.agreed == top.clear, "{}: {top:?}", golden.name);
        }
        assert!(report.levels().native > 0 && report.levels().host == 0);
    }
}

#[test]
fn the_oracle_agrees_with_itself() {
    for name in ["llama", "bert", "t5", "bert-base"] {
        let report = compare(&golden(name), &Device::new(Oracle::new())).unwrap();
        assert!(report.agrees(), "{name}: {:?}", report.failures());
        assert_eq!((report.output.error, report.bar, report.times_floor), (0.0, 1e-10, None));
    }
}
