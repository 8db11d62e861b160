//! Weights in panels: [`PANEL`] outputs side by side, along the inputs, in the type that they are kept in.
//!
//! | kept as | a panel |
//! |---|---|
//! | f32, f16 | `[inputs, 32]` |
//! | bf16 | `[⌈inputs/2⌉, 32, 2]`: pairs, as `vdpbf16ps` takes them |
//! | block formats | blocks of 32 inputs: planes of codes, then scales ([`blocks`]) |
//!
//! What is beyond the outputs or the inputs is zero. Values are the ones that `WeightDType::decode` gives, bit for bit: a
//! scale times a code has at most 24 bits, and taking a minimum off rounds once.

mod blocks;
mod floats;
mod parse;

use std::{borrow::Cow, ops::Range};

use consort_core::{Error, Result, StoredTensor, WeightDType, concatenated_shape};
use rayon::prelude::*;

pub(crate) use self::{
    blocks::{Blocks, Q2K, Q3K, Q4K, Q5K, Q6K, Q40, Q41, Q50, Q51, Q80},
    floats::{Bf16, Bf16AsF32, F16, F32, Rounded},
};
use crate::{
    Simd,
    gemm::{PANEL, Panels},
    isa::{Isa, Kernel},
    storage::Memory,
    team::Parts,
};

/// Bytes of source that are packed before their pages are let go.
const BATCH: usize = 32 << 20;

/// A weight `[outputs, inputs]` in panels.
pub struct Packed {
    pub(crate) dtype: WeightDType,
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    memory: Memory,
    panel_bytes: usize,
}

/// Runs `$body` with `$panels` as the panels of a packed weight in f32.
macro_rules! with_panels {
    ($packed:expr, |$panels:ident| $body:expr) => {{
        let packed: &$crate::packed::Packed = $packed;
        match packed.dtype {
            consort_core::WeightDType::F32 | consort_core::WeightDType::F64 => {
                let $panels = &$crate::packed::F32(packed);
                $body
            }
            consort_core::WeightDType::F16 => {
                let $panels = &$crate::packed::F16(packed);
                $body
            }
            consort_core::WeightDType::BF16 => {
                let $panels = &$crate::packed::Bf16AsF32(packed);
                $body
            }
            _ => $crate::packed::with_blocks!(packed, |$panels| $body),
        }
    }};
}

/// Runs `$body` with `$panels` as the panels of a packed weight in a block format.
macro_rules! with_blocks {
    ($packed:expr, |$panels:ident| $body:expr) => {{
        let packed: &$crate::packed::Packed = $packed;
        macro_rules! as_format {
            ($Format:ty) => {{
                let $panels = &$crate::packed::Blocks::<$Format>::new(packed);
                $body
            }};
        }
        match packed.dtype {
            consort_core::WeightDType::Q4_0 => as_format!($crate::packed::Q40),
            consort_core::WeightDType::Q4_1 => as_format!($crate::packed::Q41),
            consort_core::WeightDType::Q5_0 => as_format!($crate::packed::Q50),
            consort_core::WeightDType::Q5_1 => as_format!($crate::packed::Q51),
            consort_core::WeightDType::Q2_K => as_format!($crate::packed::Q2K),
            consort_core::WeightDType::Q3_K => as_format!($crate::packed::Q3K),
            consort_core::WeightDType::Q4_K => as_format!($crate::packed::Q4K),
            consort_core::WeightDType::Q5_K => as_format!($crate::packed::Q5K),
            consort_core::WeightDType::Q6_K => as_format!($crate::packed::Q6K),
            _ => as_format!($crate::packed::Q80),
        }
    }};
}
pub(crate) use {with_blocks, with_panels};

impl Packed {
    /// Stored parts one under the other, kept as `dtype`, which is no f64.
    ///
    /// # Errors
    /// [`Error::Weight`] names an element that is not finite; [`Error::OutOfMemory`].
    pub(crate) fn new(parts: &[StoredTensor], dtype: WeightDType) -> Result<Self> {
        let [outputs, inputs] = concatenated_shape(parts)?;
        if !inputs.is_multiple_of(dtype.block()) {
            // Says so.
            consort_core::encode(parts, dtype)?;
        }
        let mut packed = Self::empty(outputs, inputs, dtype)?;
        let row = |output: usize| {
            let mut output = output;
            for part in parts {
                match output.checked_sub(part.shape()[0]) {
                    Some(rest) => output = rest,
                    None => return row_bytes(part, output, dtype),
                }
            }
            Cow::Borrowed(&[][..])
        };
        let stored = parts.iter().map(|part| part.dtype().block_bytes() / part.dtype().block().min(8)).max();
        let batch = BATCH / (inputs * PANEL * stored.unwrap_or(4).max(1)).max(1) + 1;
        let panel_bytes = packed.panel_bytes.max(1);
        let bytes = packed.memory.items_mut::<u8>(packed.panel_bytes * outputs.div_ceil(PANEL));
        for (index, panels) in bytes.chunks_mut(panel_bytes * batch).enumerate() {
            let first = index * batch;
            let filled = panels.par_chunks_mut(panel_bytes).enumerate().all(|(index, panel)| {
                let first = (first + index) * PANEL;
                let rows: Vec<Cow<'_, [u8]>> = (first..outputs.min(first + PANEL)).map(row).collect();
                fill(panel, &rows, inputs, dtype)
            });
            if !filled {
                // Names the element.
                consort_core::encode(parts, dtype)?;
                return Err(Error::weight(parts[0].name(), "an element that is not a finite number"));
            }
            release(parts, first * PANEL..outputs.min((first + batch) * PANEL));
        }
        Ok(packed)
    }

    /// As `self` is kept, from rows in f32.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(crate) fn anew(&self, simd: &Simd, rows: crate::storage::Rows<'_>) -> Result<Self> {
        let mut packed = Self::empty(self.outputs, self.inputs, self.dtype)?;
        let Self { outputs, inputs, dtype, panel_bytes, .. } = *self;
        let panels = outputs.div_ceil(PANEL);
        let bytes = Parts::new(packed.memory.items_mut::<u8>(panel_bytes * panels));
        simd.team.ranges(panels, 1, |range| {
            for panel in range {
                // SAFETY: panels do not meet.
                let to = unsafe { bytes.part(panel * panel_bytes..(panel + 1) * panel_bytes) };
                let lanes = panel * PANEL..outputs.min((panel + 1) * PANEL);
                match dtype {
                    WeightDType::F32 => {
                        let rows: Vec<&[f32]> = lanes.map(|row| rows.row(row)).collect();
                        floats::transpose(to, &rows);
                    }
                    _ => {
                        let encode = |row: usize| {
                            let mut bytes = Vec::with_capacity(inputs / dtype.block() * dtype.block_bytes());
                            let row: Vec<f64> = rows.row(row).iter().map(|&x| f64::from(x)).collect();
                            dtype.encode(&row, &mut bytes);
                            Cow::Owned(bytes)
                        };
                        let rows: Vec<Cow<'_, [u8]>> = lanes.map(encode).collect();
                        fill(to, &rows, inputs, dtype);
                    }
                }
            }
        });
        Ok(packed)
    }

    fn empty(outputs: usize, inputs: usize, dtype: WeightDType) -> Result<Self> {
        let panel_bytes = match dtype {
            WeightDType::F32 | WeightDType::F64 => inputs * PANEL * 4,
            WeightDType::F16 => inputs * PANEL * 2,
            WeightDType::BF16 => inputs.div_ceil(2) * PANEL * 4,
            _ => blocks::panel_bytes(dtype, inputs),
        };
        let bytes = panel_bytes.checked_mul(outputs.div_ceil(PANEL));
        let memory = Memory::new(bytes.ok_or(Error::OutOfMemory { asked: u64::MAX, limit: 0 })?)?;
        Ok(Self { dtype, outputs, inputs, memory, panel_bytes })
    }

    /// The bytes of a panel.
    #[inline(always)]
    pub(crate) fn panel(&self, panel: usize) -> &[u8] {
        &self.memory.items::<u8>(self.panel_bytes * (panel + 1))[self.panel_bytes * panel..]
    }

    /// The values `[outputs, inputs]`.
    pub(crate) fn unpack(&self, simd: &Simd, to: &mut [f32]) {
        let (outputs, inputs) = (self.outputs, self.inputs);
        let to = Parts::new(to);
        with_panels!(self, |panels| simd.team.ranges(outputs.div_ceil(PANEL), 1, |range| {
            for panel in range {
                let lanes = 0..PANEL.min(outputs - panel * PANEL);
                let first = panel * PANEL * inputs;
                // SAFETY: panels do not meet.
                let to = unsafe { to.part(first..first + lanes.len() * inputs) };
                simd.level.run(Read { panels, panel, lanes, inputs, to });
            }
        }));
    }

    /// The values of output `row`; zeros where there is none.
    pub(crate) fn read_row(&self, simd: &Simd, row: usize, to: &mut [f32]) {
        if row >= self.outputs {
            to.fill(0.0);
            return;
        }
        let (panel, lane) = (row / PANEL, row % PANEL);
        with_panels!(self, |panels| simd.level.run(Read {
            panels,
            panel,
            lanes: lane..lane + 1,
            inputs: self.inputs,
            to
        }));
    }
}

/// Reads lanes of a panel.
struct Read<'a, P> {
    panels: &'a P,
    panel: usize,
    lanes: Range<usize>,
    inputs: usize,
    /// `[lanes, inputs]`.
    to: &'a mut [f32],
}

impl<P: Panels> Kernel for Read<'_, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { panels, panel, lanes, inputs, to } = self;
        let mut scratch = [0f32; PANEL * PANEL];
        for start in (0..inputs).step_by(PANEL) {
            let range = start..(start + PANEL).min(inputs);
            let chunk = panels.chunk(isa, panel, range.clone(), &mut scratch);
            for (step, values) in range.zip(chunk.chunks_exact(PANEL)) {
                for (at, lane) in lanes.clone().enumerate() {
                    to[at * inputs + step] = values[lane];
                }
            }
        }
    }
}

/// One output in the type that it is to be kept in.
fn row_bytes(part: &StoredTensor, output: usize, keep: WeightDType) -> Cow<'_, [u8]> {
    match part.row_bytes(output).filter(|_| part.dtype() == keep) {
        Some(bytes) => Cow::Borrowed(bytes),
        None => {
            let row: Vec<f64> = part.row(output).collect();
            let mut bytes = Vec::with_capacity(row.len() / keep.block() * keep.block_bytes());
            keep.encode(&row, &mut bytes);
            Cow::Owned(bytes)
        }
    }
}

/// Puts rows, at most [`PANEL`], into a panel of zeros; whether all of them are finite.
fn fill(panel: &mut [u8], rows: &[Cow<'_, [u8]>], inputs: usize, dtype: WeightDType) -> bool {
    match dtype {
        WeightDType::F32 | WeightDType::F64 => floats::fill_f32(panel, rows, inputs),
        WeightDType::F16 => floats::fill_f16(panel, rows, inputs),
        WeightDType::BF16 => floats::fill_bf16(panel, rows, inputs),
        _ => blocks::fill(panel, rows, dtype),
    }
}

/// Lets the pages of some outputs go.
fn release(parts: &[StoredTensor], outputs: Range<usize>) {
    let mut first = 0;
    for part in parts {
        let end = first + part.shape()[0];
        let (from, to) = (outputs.start.max(first), outputs.end.min(end));
        if from < to
            && let Ok(some) = part.clone().outputs(from - first..to - first)
        {
            some.release();
        }
        first = end;
    }
}
