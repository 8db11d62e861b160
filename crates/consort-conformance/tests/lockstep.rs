//! Whole models in lockstep: nothing wrong is found where nothing is; what is wrong is found at its place, and a case is
//! written that is as wrong alone.

mod support;

use std::path::Path;

use consort_conformance::{
    bounds::Profile,
    case_file::{CaseFile, cases},
    golden::goldens,
    judge::{Judgement, judge},
    lockstep::{Guilty, LockstepReport, Settings, lockstep, tokens_for},
    oracle::{Oracle, Single},
    problem::How,
};
use consort_core::{
    Backend, Compute, DType, Device, Fused, FusedOf, HostData, Nothing, Outputs, Primitive, PrimitiveOf, Ready, Result,
    Spec, TensorOf, Ticket, WeightDType,
    config::RotaryPairing,
    operation::{AttentionAttributes, BinaryKind, Mask},
    scope, unsupported,
};
use support::{Folder, golden, golden_path};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Nothing,
    /// Rotary pairs are the other convention's.
    SwappedPairing,
    /// A norm adds ten times its epsilon.
    WrongEpsilon,
    /// What is written into row 20 of a cache is lost.
    StaleRow,
    /// One number of the logits is the one before it.
    OneOfThousands,
    /// Products leave out one term of each sum: the greatest bound says least about the smallest.
    DroppedTerm,
    /// Attention over the cache does not see its own position.
    BlindToItself,
    /// A norm's gradient for its weight is a thousandth too great.
    BackwardFactor,
    /// The table of the embedding is read one row further.
    NextRow,
}

/// Singles with fused forms of their own, and a fault where the place says so; everywhere for an empty place.
struct Planted(Fault, &'static str);

type Buffer = <Single as Backend>::Buffer;

impl Planted {
    fn here(&self, fault: Fault) -> bool {
        self.0 == fault && scope::path().contains(self.1)
    }

    fn values(&self, x: &TensorOf<Self>) -> Result<Vec<f64>> {
        Ok(Device::new(Single::new()).download(x)?.to_f64())
    }

    fn changed(&self, x: &TensorOf<Self>, f: impl FnOnce(&mut [f64])) -> Result<Buffer> {
        let mut values = self.values(x)?;
        f(&mut values);
        Single::new().upload(HostData::from_f64(values.into_iter(), DType::F32))
    }
}

impl Backend for Planted {
    type Buffer = Buffer;
    type Packed = consort_conformance::oracle::Packed;
    type Store = Nothing;
    type Ticket = Ready;
    type Host = Single;

    fn alloc(&self, dtype: DType, elements: usize) -> Result<Buffer> {
        Single::new().alloc(dtype, elements)
    }

    fn upload(&self, data: HostData) -> Result<Buffer> {
        Single::new().upload(data)
    }

    fn download(&self, buffer: &Buffer) -> Result<Ready> {
        Single::new().download(buffer)
    }

    fn name(&self) -> &'static str {
        "planted"
    }

    fn primitive(&self, operation: &mut PrimitiveOf<Self>, out: &Spec) -> Result<Buffer> {
        if let Primitive::ScatterRows { ids, .. } = operation
            && self.here(Fault::StaleRow)
        {
            let kept = Single::new().download(&ids.buffer)?.wait()?.into_u32().unwrap_or_default();
            let kept = kept.into_iter().map(|id| if id == 20 { u32::MAX } else { id }).collect();
            ids.buffer = Single::new().upload(HostData::U32(kept))?;
        }
        Single::new().primitive(operation, out)
    }

    fn fused(&self, operation: &mut FusedOf<Self>, _: &[Spec]) -> Result<Outputs<Buffer>> {
        let device = Device::new(Single::new());
        let mut wrong = operation.clone();
        match &mut wrong {
            Fused::Rotary { pairing, .. } if self.here(Fault::SwappedPairing) => *pairing = RotaryPairing::Interleaved,
            Fused::RmsNorm { epsilon, .. } if self.here(Fault::WrongEpsilon) => *epsilon *= 10.0,
            Fused::CachedAttention { attributes: AttentionAttributes { mask, .. }, plan, .. }
                if self.here(Fault::BlindToItself) && *mask != Mask::All =>
            {
                let mut shorter = (**plan).clone();
                shorter.rows.iter_mut().for_each(|row| row.position = row.position.saturating_sub(1));
                *plan = shorter.into();
            }
            Fused::Embedding { ids, .. } if self.here(Fault::NextRow) => {
                let all = Single::new().download(&ids.buffer)?.wait()?.into_u32().unwrap_or_default();
                ids.buffer = Single::new().upload(HostData::U32(all.into_iter().map(|id| id + 1).collect()))?;
            }
            Fused::CacheWrite { .. } | Fused::Sample { .. } => return Err(unsupported(self, operation.name())),
            _ => {}
        }
        let outputs = device.decomposed(wrong)?;
        let mut buffers: Outputs<Buffer> = Outputs::new();
        for (at, output) in outputs.iter().enumerate() {
            let output = device.contiguous(output)?;
            buffers.push(match operation {
                Fused::Linear { .. } if self.here(Fault::OneOfThousands) && output.shape().elements() > 1000 => {
                    self.changed(&output, |values| values[777] = values[776])?
                }
                Fused::Linear { x, weight, .. } if self.here(Fault::DroppedTerm) => {
                    let term = x.slice(1, 5, 1)?;
                    let weight = device.unpack(weight)?.slice(1, 5, 1)?.permute(&[1, 0])?;
                    let term = device.matmul(&term, &weight)?;
                    device.binary(output, term, BinaryKind::Subtract)?.buffer
                }
                Fused::RmsNormBackward { .. } if self.here(Fault::BackwardFactor) && at == 1 => {
                    self.changed(&output, |values| values.iter_mut().for_each(|value| *value *= 1.001))?
                }
                _ => output.buffer,
            });
        }
        Ok(buffers)
    }
}

fn found(name: &str, planted: Planted, folder: Option<&Path>) -> LockstepReport {
    let profile = Profile::ieee();
    let cases = folder.map(|folder| (folder, "planted"));
    let settings = Settings { dtype: WeightDType::F32, compute: Compute::F32, profile: &profile, cases };
    lockstep(&golden(name), &Device::new(planted), &settings).unwrap()
}

fn again<B: Backend>(case: &CaseFile, backend: B) -> Judgement {
    let outputs = case.problem.run(&Device::new(backend), How::AsAsked).unwrap();
    judge(&outputs, &case.expected(&Profile::ieee()).unwrap())
}

/// The one operation that is guilty, once its case was seen to replay it.
#[track_caller]
fn guilty(name: &str, fault: Fault, place: &'static str) -> Guilty {
    let folder = Folder::new();
    let report = found(name, Planted(fault, place), Some(&folder.0));
    assert!(report.troubles.is_empty(), "{:?}", report.troubles);
    let guilty = report.guilty.first().unwrap_or_else(|| panic!("{fault:?} was not found")).clone();
    println!("{}", report.failures()[0]);
    for other in &report.guilty {
        assert!(other.operation == guilty.operation && other.place.contains(place), "{other:?}");
    }
    let replay = guilty.replay.as_ref().unwrap();
    println!("{}", replay.command);
    let written = cases(&folder.0).unwrap();
    assert_eq!((written.len(), written[0].directory.as_path()), (1, replay.case.as_path()));
    assert_eq!(written[0].problem.op, guilty.operation);
    assert!(written[0].comment.as_ref().is_some_and(|comment| comment.contains(&guilty.place)));
    // A fault that is everywhere is there when the operation runs alone; without it the case passes.
    assert_eq!(replay.alone, place.is_empty());
    let wrong = again(&written[0], Planted(fault, ""));
    assert!(!wrong.passed(), "{fault:?} alone: {wrong:?}");
    let right = again(&written[0], Planted(Fault::Nothing, ""));
    assert!(right.passed(), "{right:?}");
    guilty
}

#[test]
fn fused_forms_without_a_fault_are_within_their_bounds() {
    for name in ["llama", "gemma2", "t5", "bert"] {
        let report = found(name, Planted(Fault::Nothing, ""), None);
        assert!(report.agrees(), "{name}: {:?}", report.failures());
        // What was judged is fused, and the gradients of one step where there is training.
        let names: Vec<&str> = report.operations.iter().map(|own| own.operation.as_str()).collect();
        let attention = if name == "bert" { "attention" } else { "cached_attention" };
        assert!(names.contains(&attention) && !names.contains(&"matmul"), "{names:?}");
        assert_eq!(names.contains(&"attention_backward"), name != "llama", "{names:?}");
    }
}

#[test]
fn swapped_rotary_pairs_in_one_layer_are_named_by_their_place() {
    let guilty = guilty("llama", Fault::SwappedPairing, "decoder.1.");
    assert_eq!((guilty.place.as_str(), guilty.operation.as_str()), ("decoder.1.attention.rotary", "rotary"));
    assert!(guilty.beyond_worst_case);
    let name = guilty.replay.unwrap().case.file_name().unwrap().to_string_lossy().into_owned();
    assert_eq!(name, "planted-llama-decoder.1.attention.rotary-rotary");
}

#[test]
fn a_wrong_epsilon_in_one_norm_is_named_by_its_place() {
    let guilty = guilty("llama", Fault::WrongEpsilon, "decoder.0.feed_forward");
    assert_eq!((guilty.place.as_str(), guilty.operation.as_str()), ("decoder.0.feed_forward", "rms_norm"));
}

#[test]
fn a_lost_row_of_a_cache_is_named_where_it_is_written_and_attention_is_not() {
    let guilty = guilty("llama", Fault::StaleRow, "");
    assert_eq!((guilty.place.as_str(), guilty.operation.as_str()), ("decoder.0.attention", "cache_write"));
    let worst = guilty.worst.unwrap();
    assert_eq!((worst.output.as_str(), worst.index[0], worst.actual), ("keys", 20, 0.0));
}

#[test]
fn attention_over_the_cache_answers_for_itself() {
    let guilty = guilty("llama", Fault::BlindToItself, "");
    assert_eq!((guilty.place.as_str(), guilty.operation.as_str()), ("decoder.0.attention", "cached_attention"));
}

#[test]
fn one_wrong_number_of_thousands_is_found() {
    let guilty = guilty("llama", Fault::OneOfThousands, "head");
    assert_eq!((guilty.place.as_str(), guilty.operation.as_str()), ("head", "linear"));
    assert_eq!(guilty.worst.unwrap().index, [777 / 131, 777 % 131]);
}

#[test]
fn one_dropped_term_is_found_in_every_product() {
    let folder = Folder::new();
    let report = found("llama", Planted(Fault::DroppedTerm, ""), Some(&folder.0));
    let places: Vec<&str> = report.guilty.iter().map(|guilty| guilty.place.as_str()).collect();
    let all =
        ["decoder.0.attention", "decoder.0.feed_forward", "decoder.1.attention", "decoder.1.feed_forward", "head"];
    assert_eq!(places, all);
    // Of one kind of operation one case is enough.
    assert_eq!(cases(&folder.0).unwrap().len(), 1);
}

#[test]
fn a_wrong_row_of_a_table_is_found() {
    let guilty = guilty("llama", Fault::NextRow, "");
    assert_eq!((guilty.place.as_str(), guilty.operation.as_str()), ("decoder.embedding", "embedding"));
}

#[test]
fn a_wrong_gradient_is_named_by_the_place_of_its_forward() {
    let guilty = guilty("gemma2", Fault::BackwardFactor, "decoder.1.feed_forward");
    assert_eq!((guilty.place.as_str(), guilty.operation.as_str()), ("decoder.1.feed_forward", "rms_norm_backward"));
}

#[test]
fn scalar_is_within_its_bounds_in_every_golden_and_type() {
    let profile = Profile::ieee();
    let (mut judged, mut worst) = (0, (0.0, String::new()));
    for golden in goldens(&golden_path("")).unwrap() {
        for dtype in [WeightDType::F32, WeightDType::F16, WeightDType::BF16] {
            let settings = Settings { dtype, compute: Compute::F32, profile: &profile, cases: None };
            let report = lockstep(&golden, &Device::new(Single::new()), &settings).unwrap();
            assert!(report.agrees() && report.vague == 0, "{} as {dtype}: {:?}", golden.name, report.failures());
            assert!(report.absent.is_empty());
            judged += report.judged;
            for own in report.operations.iter().filter(|own| !["binary", "copy"].contains(&own.operation.as_str())) {
                if own.budget > worst.0 {
                    worst = (own.budget, format!("{} at {} of {}", own.operation, own.place, golden.name));
                }
            }
        }
    }
    println!("{judged} operations judged, most of its bound used {worst:?}");
}

#[test]
fn scalar_is_within_its_bounds_with_weights_in_blocks() {
    let folder = Folder::of_whole_blocks();
    let golden = consort_conformance::golden::Golden::of_model(&folder.0).unwrap();
    let profile = Profile::ieee();
    for dtype in [WeightDType::Q8_0, WeightDType::Q4_0] {
        let settings = Settings { dtype, compute: Compute::F32, profile: &profile, cases: None };
        for report in [
            lockstep(&golden, &Device::new(Single::new()), &settings).unwrap(),
            lockstep(&golden, &Device::new(Planted(Fault::Nothing, "")), &settings).unwrap(),
        ] {
            assert!(report.agrees() && report.vague == 0, "{dtype}: {:?}", report.failures());
        }
    }
}

#[test]
fn the_oracle_is_within_the_bounds_of_its_own_type() {
    let profile = Profile::f64();
    let settings = Settings { dtype: WeightDType::F32, compute: Compute::F32, profile: &profile, cases: None };
    for name in ["llama", "t5", "bert"] {
        let report = lockstep(&golden(name), &Device::new(Oracle::new()), &settings).unwrap();
        assert!(report.agrees(), "{name}: {:?}", report.failures());
    }
}

#[test]
fn large_models_run_on_short_prompts() {
    assert_eq!((tokens_for(1_000_000), tokens_for(1_000_000_000)), (usize::MAX, 6));
}
