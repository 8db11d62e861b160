//! What is checked of one case on one backend.
//!
//! ```text
//! values         every element within its bound of the oracle's; exact where that is owed
//! decomposition  a native fused operation: its decomposition on the same device within the same bounds, so that the two are
//!                within twice the bound of each other
//! quality        a product of rounded operands: near that of the operands as they are, for independent draws (`quantized`)
//! rows           the first row alone, the last row alone, and odd chunks: the bits that they have in the whole
//! again          a second run: the same bits
//! operands       no operand's buffer has changed
//! policy         no fall-back to the host, where that is denied
//! unbounded      the bounds say something: they are not as wide as the values
//! ```

use std::{borrow::Cow, ops::Range, time::Instant};

use consort_core::{Backend, Counts, Device, Fused, HostData, Primitive};

use crate::{
    bounds::{Bounded, Emitted, Profile},
    error::Error,
    judge::{self, Worst},
    problem::{How, Operand, Output, Problem},
    quantized,
    report::{Direction, Finding, Level},
};

/// Sizes of the pieces that rows are cut into, over and over.
const CHUNKS: [usize; 5] = [2, 1, 3, 7, 5];
/// Pieces after which the rest is taken as one.
const PIECES: usize = 7;

/// What the checks came to.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// Why there was nothing to judge.
    pub(crate) skipped: Option<String>,
    pub(crate) level: Option<Level>,
    pub(crate) budget: f64,
    pub(crate) worst: Option<Worst>,
    pub(crate) checks: Vec<String>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) seconds: f64,
    pub(crate) bits: Option<String>,
}

impl Checked {
    fn made(&mut self, check: &str) {
        self.checks.push(check.to_owned());
    }

    pub(crate) fn find(&mut self, check: &str, message: impl Into<String>, worst: Option<Worst>) {
        self.findings.push(Finding { check: check.to_owned(), message: message.into(), worst });
    }
}

/// Makes every check that applies. Where `expected` was derived and is not a case's author's, `derived` is the profile that it
/// was derived from.
#[allow(clippy::neg_cmp_op_on_partial_ord, reason = "`!(budget <= 1)`, so that NaN fails")]
pub(crate) fn check<B: Backend>(
    device: &Device<B>,
    problem: &Problem,
    expected: &[Bounded],
    derived: Option<&Profile>,
) -> Checked {
    let mut found = Checked::default();
    let before = device.report();
    let start = Instant::now();
    let first = problem.run(device, How::AsAsked);
    found.seconds = start.elapsed().as_secs_f64();
    found.level = level(&problem.op, direction(problem), &before, &device.report());
    let first = match first {
        Ok(outputs) => outputs,
        Err(Error::Core(consort_core::Error::Unsupported { .. })) if found.level.is_none() => {
            found.skipped = Some("this backend cannot hold its operands".to_owned());
            return found;
        }
        Err(error @ Error::Core(consort_core::Error::FallbackDenied { .. })) => {
            found.made("policy");
            found.find("policy", error.to_string(), None);
            return found;
        }
        Err(error) => {
            found.find("error", error.to_string(), None);
            return found;
        }
    };

    let asked = Asked { device, problem, expected, derived };
    let expected = match asked.expected(How::AsAsked) {
        Ok(expected) => expected,
        Err(error) => {
            found.find("error", format!("its activations alone, quantised: {error}"), None);
            return found;
        }
    };
    let judgement = judge::judge(&first, &expected);
    found.made("values");
    found.budget = judgement.budget;
    found.worst.clone_from(&judgement.worst);
    found.bits = Some(format!("{:016x}", judgement.bits));
    if !(judgement.budget <= 1.0) {
        found.find("values", "", judgement.worst);
    } else if !judgement.passed() && derived.is_some_and(|profile| profile.flush_denormals) && tiny(&expected) {
        found.skipped =
            Some("all that it gives is below what a device promises that takes denormals for zero".to_owned());
        return found;
    } else if !judgement.passed() {
        let outputs = judgement.vague.join(", ");
        found.find("unbounded", format!("the bounds of {outputs} say too little for agreement to mean anything"), None);
    }

    again(&mut found, device, problem, &first);
    if found.level == Some(Level::Native) && is_fused(&problem.op) {
        decomposition(&mut found, &asked);
    }
    quality(&mut found, &asked, &first);
    rows(&mut found, device, problem, &first);
    found
}

/// Whether nothing is far above the least normal number of f32.
fn tiny(expected: &[Bounded]) -> bool {
    const FAR: f64 = 1024.0 * f32::MIN_POSITIVE as f64;
    expected.iter().flat_map(|output| &output.values).all(|value| value.abs() < FAR)
}

fn again<B: Backend>(found: &mut Checked, device: &Device<B>, problem: &Problem, first: &[Output]) {
    match problem.run_checked(device) {
        Ok((second, changed)) => {
            found.made("again");
            found.made("operands");
            if let Some(worst) = judge::same_bits(&second, first) {
                found.find("again", "a second run has other bits than the first", Some(worst));
            }
            if !changed.is_empty() {
                found.find("operands", format!("changed by the operation: {}", changed.join(", ")), None);
            }
        }
        Err(error) => found.find("again", format!("a second run failed: {error}"), None),
    }
}

/// What is checked, and by what.
struct Asked<'a, B: Backend> {
    device: &'a Device<B>,
    problem: &'a Problem,
    expected: &'a [Bounded],
    derived: Option<&'a Profile>,
}

impl<B: Backend> Asked<'_, B> {
    /// What is expected of the device run so: of a product in int8, by the codes that it gives then.
    fn expected(&self, how: How) -> Result<Cow<'_, [Bounded]>, Error> {
        let own = match self.derived {
            Some(profile) => Emitted::expected(self.problem, profile, self.device, how)?,
            None => None,
        };
        Ok(own.map_or(Cow::Borrowed(self.expected), Cow::Owned))
    }
}

#[allow(clippy::neg_cmp_op_on_partial_ord, reason = "`!(budget <= 1)`, so that NaN fails")]
fn quality<B: Backend>(found: &mut Checked, asked: &Asked<'_, B>, first: &[Output]) {
    let Some(profile) = asked.derived else { return };
    match quantized::quality(asked.problem, profile, asked.device) {
        Ok(None) => {}
        Ok(Some(expected)) => {
            found.made("quality");
            let judgement = judge::judge(first, &expected);
            if !(judgement.budget <= 1.0) {
                found.find(
                    "quality",
                    "further from the product of operands as they are than rounding them explains",
                    judgement.worst,
                );
            }
        }
        Err(error) => found.find("quality", error.to_string(), None),
    }
}

#[allow(clippy::neg_cmp_op_on_partial_ord, reason = "`!(budget <= 1)`, so that NaN fails")]
fn decomposition<B: Backend>(found: &mut Checked, asked: &Asked<'_, B>) {
    let ran = asked.problem.run(asked.device, How::Decomposed);
    match ran.and_then(|outputs| Ok((outputs, asked.expected(How::Decomposed)?))) {
        Ok((outputs, expected)) => {
            found.made("decomposition");
            let judgement = judge::judge(&outputs, &expected);
            if !(judgement.budget <= 1.0) {
                found.find("decomposition", "its parts on this backend are out of bounds", judgement.worst);
            }
        }
        Err(error) => found.find("decomposition", error.to_string(), None),
    }
}

fn rows<B: Backend>(found: &mut Checked, device: &Device<B>, problem: &Problem, whole: &[Output]) {
    let Some(rows) = problem.rows().filter(|rows| *rows > 1) else { return };
    let names = problem.by_row();
    let backward = problem.backward.is_some();
    let empty = whole.iter().filter(|output| names.contains(&output.name)).all(|output| output.data.is_empty());
    // An element that is seen in many rows has one gradient, of them all.
    let shared = |operand: &Operand| {
        let layout = &operand.layout;
        layout.shape().sizes().iter().zip(layout.strides()).any(|(size, stride)| *size > 1 && *stride == 0)
    };
    if empty || (backward && problem.operands.iter().any(|(_, operand)| shared(operand))) {
        return;
    }
    let mut made = false;
    for range in pieces(rows) {
        let Some(part) = problem.restricted(range.clone()) else { continue };
        made = true;
        let outputs: Vec<Output> = match part.run(device, How::AsAsked) {
            Ok(outputs) => outputs.into_iter().filter(|output| names.contains(&output.name)).collect(),
            Err(error) => return found.find("rows", format!("rows {range:?} alone: {error}"), None),
        };
        let expected = outputs.iter().filter_map(|output| slice(whole, output, &range, rows));
        // A gradient of a view is added to zeros, that of a whole buffer is not: −0 becomes 0.
        let plain =
            |output: Output| if backward { Output { data: without_signs(output.data), ..output } } else { output };
        let expected: Vec<Output> = expected.map(plain).collect();
        let outputs: Vec<Output> = outputs.into_iter().map(plain).collect();
        if let Some(worst) = judge::same_bits(&outputs, &expected) {
            let message = format!("rows {range:?} of {rows} alone have other bits than in the whole");
            return found.find("rows", message, Some(worst));
        }
    }
    if made {
        found.made("rows");
    }
}

/// The first row, the last, and all in odd chunks.
fn pieces(rows: usize) -> Vec<Range<usize>> {
    let mut pieces = vec![0..1, rows - 1..rows];
    let mut from = 0;
    for (count, size) in CHUNKS.iter().cycle().enumerate() {
        let to = if count < PIECES { (from + size).min(rows) } else { rows };
        pieces.push(from..to);
        if to == rows {
            break;
        }
        from = to;
    }
    pieces.retain(|piece| piece.len() < rows);
    pieces.dedup();
    pieces
}

/// The rows of `whole` that `part` should be. Rows are outermost, so that they are one stretch.
fn slice(whole: &[Output], part: &Output, range: &Range<usize>, rows: usize) -> Option<Output> {
    let whole = whole.iter().find(|output| output.name == part.name)?;
    let width = whole.data.len() / rows.max(1);
    Some(Output {
        name: part.name.clone(),
        sizes: part.sizes.clone(),
        dtype: whole.dtype,
        data: part_of(&whole.data, range.start * width..range.end * width),
    })
}

fn part_of(data: &HostData, range: Range<usize>) -> HostData {
    fn part<T: Clone>(data: &[T], range: Range<usize>) -> Vec<T> {
        data.get(range).unwrap_or_default().to_vec()
    }
    match data {
        HostData::F32(data) => HostData::F32(part(data, range)),
        HostData::F64(data) => HostData::F64(part(data, range)),
        HostData::F16(data) => HostData::F16(part(data, range)),
        HostData::BF16(data) => HostData::BF16(part(data, range)),
        HostData::U32(data) => HostData::U32(part(data, range)),
    }
}

/// The data with 0 for −0.
fn without_signs(mut data: HostData) -> HostData {
    match &mut data {
        HostData::F32(data) => data.iter_mut().for_each(|x| *x += 0.0),
        HostData::F64(data) => data.iter_mut().for_each(|x| *x += 0.0),
        _ => {}
    }
    data
}

fn direction(problem: &Problem) -> Direction {
    if problem.backward.is_some() { Direction::Backward } else { Direction::Forward }
}

fn is_fused(op: &str) -> bool {
    Fused::<(), (), ()>::NAMES.contains(&op)
}

type Counted = std::collections::BTreeMap<&'static str, Counts>;

/// How the operation itself ran; backward, the worst of all that its gradients took.
fn level(op: &str, direction: Direction, before: &Counted, after: &Counted) -> Option<Level> {
    let worst = |names: &mut dyn Iterator<Item = &&'static str>| {
        let levels = names.filter_map(|name| {
            let before = before.get(*name).copied().unwrap_or_default();
            let after = after.get(*name).copied().unwrap_or_default();
            let more = |pick: fn(&Counts) -> u64| pick(&after) > pick(&before);
            if more(|counts| counts.host) {
                Some(Level::Host)
            } else if more(|counts| counts.composed) {
                Some(Level::Composed)
            } else {
                more(|counts| counts.native).then_some(Level::Native)
            }
        });
        levels.max()
    };
    let all = || Primitive::<()>::NAMES.iter().chain(Fused::<(), (), ()>::NAMES);
    match direction {
        Direction::Forward => worst(&mut all().filter(|name| **name == op)).or_else(|| worst(&mut all())),
        Direction::Backward => worst(&mut all()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_rows_alone_and_everything_in_chunks() {
        assert_eq!(pieces(2), [0..1, 1..2]);
        assert_eq!(pieces(3), [0..1, 2..3, 0..2, 2..3]);
        for rows in [5, 10, 100] {
            let pieces = pieces(rows);
            assert!(pieces.contains(&(0..1)) && pieces.contains(&(rows - 1..rows)), "{pieces:?}");
            let chunks: Vec<usize> = pieces.iter().skip(2).flat_map(Clone::clone).collect();
            assert_eq!(chunks, (0..rows).collect::<Vec<_>>());
        }
    }
}
