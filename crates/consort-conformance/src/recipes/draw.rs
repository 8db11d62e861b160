//! Operands from a recipe: numbers, ids and blocks, laid out as it says.

use std::collections::BTreeSet;

use consort_core::{DType, HostData, Layout, Shape, WeightDType, philox::philox, to_f16};
use half::{bf16, f16};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{
    error::Error,
    problem::{Backward, Elements, MOST_ELEMENTS, Operand, Problem, offsets},
    recipe::{Fill, Recipe, View},
};

/// Magnitudes that an operation can take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    /// Factor of [`Fill::Large`].
    pub(super) large: f64,
    /// Greatest of [`Fill::Special`].
    pub(super) special: f64,
    /// Greatest of [`Fill::Wide`].
    pub(super) wide: f64,
}

/// What most operations can take: squares and their sums are within f32.
pub(super) const TAME: Range = Range { large: 1e15, special: 1e15, wide: 1e15 };
/// Factor of [`Fill::Small`]: squares are below the normal numbers.
const SMALL: f64 = 1e-20;
/// Value of [`Fill::Constant`].
const CONSTANT: f64 = 0.75;
/// Numbers that kernels get wrong.
const SPECIAL: [f64; 30] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -1.5,
    3.0,
    -7.0,
    1.0 - 5.960464477539063e-8,  // the number before 1
    1.0 + 1.1920928955078125e-7, // and after it
    -1.0 - 1.1920928955078125e-7,
    1.401298464324817e-45, // the least denormal
    -1.401298464324817e-45,
    5.877471754111438e-39, // half the least normal number
    -5.877471754111438e-39,
    1.1754943508222875e-38, // the least normal number
    -1.1754943508222875e-38,
    1e-30,
    -1e-20,
    1e-10,
    -1e-5,
    1e3,
    -1e4,
    1e8,
    -1e8,
    1e15,
    -1e15,
    1e19,
    1e38,
    -3e38,
];

/// Draws the operands of one recipe.
pub(super) struct Draw<'a> {
    pub(super) recipe: &'a Recipe,
    /// Attributes of the problem: the recipe's, unless the operation changes them.
    pub(super) attributes: Map<String, Value>,
    stream: u64,
    used: BTreeSet<String>,
    optional: BTreeSet<&'static str>,
    operands: Vec<(String, Operand)>,
    cotangents: Vec<Option<Operand>>,
    gradients: Vec<String>,
}

impl<'a> Draw<'a> {
    pub(super) fn new(recipe: &'a Recipe) -> Self {
        Self {
            recipe,
            attributes: recipe.attributes.clone(),
            stream: 0,
            used: BTreeSet::new(),
            optional: BTreeSet::new(),
            operands: Vec::new(),
            cotangents: Vec::new(),
            gradients: Vec::new(),
        }
    }

    pub(super) fn error(&self, what: impl Into<String>) -> Error {
        Error::problem(&self.recipe.op, what)
    }

    /// A size.
    pub(super) fn dim(&mut self, name: &str) -> Result<usize, Error> {
        self.used.insert(name.to_owned());
        let size = self.recipe.dims.get(name).copied();
        size.ok_or_else(|| self.error(format!("size {name:?} is missing")))
    }

    /// Sizes `name0`, `name1`, …, as many as there are.
    pub(super) fn shape(&mut self, name: &str) -> Vec<usize> {
        let mut sizes = Vec::new();
        while let Some(&size) = self.recipe.dims.get(&format!("{name}{}", sizes.len())) {
            self.used.insert(format!("{name}{}", sizes.len()));
            sizes.push(size);
        }
        sizes
    }

    /// An attribute.
    pub(super) fn attribute<T: DeserializeOwned>(&self, name: &str) -> Result<T, Error> {
        let value = self.attributes.get(name).cloned().unwrap_or(Value::Null);
        serde_json::from_value(value).map_err(|error| self.error(format!("attribute {name:?}: {error}")))
    }

    /// Whether an optional operand is there.
    pub(super) fn has(&mut self, name: &'static str) -> bool {
        self.optional.insert(name);
        !self.recipe.absent.iter().any(|absent| absent == name)
    }

    /// How many elements these sizes have; refuses more than a case may have.
    pub(super) fn elements(&self, sizes: &[usize]) -> Result<usize, Error> {
        let elements = sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        elements
            .filter(|&elements| elements <= MOST_ELEMENTS)
            .ok_or_else(|| self.error(format!("{sizes:?} has more than {MOST_ELEMENTS} elements")))
    }

    /// Normal draws for an operand of its own, whatever the fill.
    pub(super) fn normals(&mut self, sizes: &[usize]) -> Result<Vec<f64>, Error> {
        let count = self.elements(sizes)?;
        self.stream += 1;
        Ok((0..count as u64).map(|index| normal(self.recipe.seed, self.stream, index)).collect())
    }

    /// Draws as the fill says.
    pub(super) fn values(&mut self, sizes: &[usize], range: Range) -> Result<Vec<f64>, Error> {
        let count = self.elements(sizes)?;
        let row = sizes.last().copied().unwrap_or(1).max(1);
        let fill = self.recipe.fill;
        if fill == Fill::Apart {
            return self.apart(count);
        }
        let normals = self.normals(sizes)?;
        let (seed, stream) = (self.recipe.seed, self.stream);
        let below = |index: usize, end: usize| below(seed, stream, index, end);
        let away = |value: f64| f64::from((value.abs() + 0.0625) as f32);
        let special: Vec<f64> = SPECIAL.into_iter().filter(|value| value.abs() <= range.special).collect();
        let peak = |index: usize| index % row == below(index / row, row);
        let value = |(index, value): (usize, f64)| match fill {
            Fill::Large => value * range.large,
            Fill::Small => value * SMALL,
            Fill::Positive => away(value),
            Fill::Negative => -away(value),
            Fill::Constant => CONSTANT,
            Fill::Zeros => [0.0, -0.0].get(below(index, 2)).copied().unwrap_or(0.0),
            Fill::Ties => below(index, 5) as f64 / 2.0 - 1.0,
            Fill::Special => special.get(below(index, special.len())).copied().unwrap_or(0.0),
            Fill::Wide => range.wide.copysign(value) * (1.0 - value.abs() / 8.0),
            Fill::Peak if peak(index) => 64.0,
            Fill::Peak => value - 8.0,
            Fill::Offset => value + 100.0,
            _ => value,
        };
        Ok(normals.into_iter().enumerate().map(value).map(single).collect())
    }

    /// Different multiples of a half, each operand's shifted by its own amount.
    fn apart(&mut self, count: usize) -> Result<Vec<f64>, Error> {
        self.stream += 1;
        let order = shuffled(self.recipe.seed, self.stream, count);
        let shift = (self.stream % 7 + 1) as f64 / 16.0;
        Ok(order.into_iter().map(|place| (place as f64 - (count / 2) as f64) / 2.0 + shift).collect())
    }

    /// An operand of floats as the fill says.
    pub(super) fn float(&mut self, name: &str, sizes: &[usize], range: Range) -> Result<(), Error> {
        let values = self.values(sizes, range)?;
        self.push(name, sizes, values)
    }

    /// An operand of normal draws, whatever the fill.
    pub(super) fn normal(&mut self, name: &str, sizes: &[usize]) -> Result<(), Error> {
        let values = self.normals(sizes)?;
        self.push(name, sizes, values)
    }

    /// An operand of floats.
    pub(super) fn push(&mut self, name: &str, sizes: &[usize], values: Vec<f64>) -> Result<(), Error> {
        let operand = self.float_operand(sizes, values, self.recipe.view)?;
        self.operands.push((name.to_owned(), operand));
        Ok(())
    }

    fn float_operand(&self, sizes: &[usize], values: Vec<f64>, view: View) -> Result<Operand, Error> {
        let (values, layout) = lay(view, sizes, values, f64::NAN)?;
        Ok(Operand { elements: Elements::Float(values), layout })
    }

    /// An operand of floats that is contiguous whatever the view: rows of a cache.
    pub(super) fn cache(&mut self, name: &str, sizes: &[usize], values: Vec<f64>) -> Result<(), Error> {
        let operand = self.float_operand(sizes, values, View::Contiguous)?;
        self.operands.push((name.to_owned(), operand));
        Ok(())
    }

    /// An operand of u32.
    pub(super) fn push_ids(&mut self, name: &str, sizes: &[usize], ids: Vec<u32>) -> Result<(), Error> {
        let (ids, layout) = lay(self.recipe.view, sizes, ids, u32::MAX)?;
        self.operands.push((name.to_owned(), Operand { elements: Elements::Exact(HostData::U32(ids)), layout }));
        Ok(())
    }

    /// An operand of the recipe's type.
    pub(super) fn any(&mut self, name: &str, sizes: &[usize], values: Vec<f64>) -> Result<(), Error> {
        let Some(dtype) = self.recipe.dtype.filter(|dtype| !matches!(dtype, DType::F32 | DType::F64)) else {
            return self.push(name, sizes, values);
        };
        let (view, seed) = (self.recipe.view, self.recipe.seed);
        let (data, layout) = match HostData::from_f64(values.iter().copied(), dtype) {
            HostData::F16(data) => {
                let (data, layout) = lay(view, sizes, data, f16::NAN)?;
                (HostData::F16(data), layout)
            }
            HostData::BF16(data) => {
                let (data, layout) = lay(view, sizes, data, bf16::NAN)?;
                (HostData::BF16(data), layout)
            }
            _ => {
                // Of every magnitude, up to all bits of a word; but for the small numbers of ties.
                let stream = self.stream;
                let word = |(index, value): (usize, &f64)| match (value.is_nan(), self.recipe.fill) {
                    (true, _) => u32::MAX,
                    (_, Fill::Ties) => (value + 2.0) as u32,
                    _ => bits(seed, stream, index as u64) >> (index % 29),
                };
                let (data, layout) = lay(view, sizes, values.iter().enumerate().map(word).collect(), u32::MAX)?;
                (HostData::U32(data), layout)
            }
        };
        self.operands.push((name.to_owned(), Operand { elements: Elements::Exact(data), layout }));
        Ok(())
    }

    /// Ids of rows below `bound`, in the pattern that the fill says.
    pub(super) fn ids(&mut self, count: usize, bound: usize) -> Vec<u32> {
        self.stream += 1;
        let (seed, stream) = (self.recipe.seed, self.stream);
        if bound == 0 {
            return vec![0; count];
        }
        let order = shuffled(seed, stream, bound);
        let beyond = [bound as u32, bound as u32 + 1, u32::MAX];
        let id = |index: usize| match self.recipe.fill {
            Fill::Permuted => order.get(index % bound).map_or(0, |&id| id as u32),
            Fill::Repeated => below(seed, stream, index, bound.min(2)) as u32,
            Fill::Beyond if index % 3 == 1 => beyond.get(index / 3 % 3).copied().unwrap_or(u32::MAX),
            _ => below(seed, stream, index, bound) as u32,
        };
        (0..count).map(id).collect()
    }

    /// A weight `[outputs, inputs]`: floats as the fill says; in a block format random blocks, or edges of the format with
    /// [`Fill::Special`], or with [`Fill::Ties`] and [`Fill::Offset`] floats that packing has to quantise.
    pub(super) fn weight(&mut self, name: &str, outputs: usize, inputs: usize, range: Range) -> Result<(), Error> {
        let sizes = [outputs, inputs];
        let count = self.elements(&sizes)?;
        let dtype = self.recipe.weight_dtype;
        let quantised = matches!(self.recipe.fill, Fill::Ties | Fill::Offset | Fill::Zeros | Fill::Wide);
        let operand = if dtype.block() == 1 || quantised || self.recipe.backward {
            // What is small in f32 is nothing in f16.
            let nothing = self.recipe.fill == Fill::Small && dtype.block_bytes() < 4;
            let values = if nothing { self.normals(&sizes)? } else { self.values(&sizes, range)? };
            Operand::floats(values, &sizes)?
        } else {
            if !inputs.is_multiple_of(dtype.block()) {
                let block = dtype.block();
                return Err(self.error(format!("{inputs} inputs are no whole number of blocks of {block}")));
            }
            self.stream += 1;
            let blocks = count / dtype.block();
            let edges = self.recipe.fill == Fill::Special;
            let bytes =
                (0..blocks).flat_map(|block| quants(dtype, self.recipe.seed, self.stream, block, edges)).collect();
            Operand { elements: Elements::Blocks(dtype, bytes), layout: Layout::contiguous(Shape::new(&sizes)?) }
        };
        self.operands.push((name.to_owned(), operand));
        Ok(())
    }

    /// Draws a cotangent for the next output, if the recipe is a backward.
    pub(super) fn cotangent(&mut self, sizes: &[usize]) -> Result<(), Error> {
        if self.recipe.backward {
            let values = self.normals(sizes)?;
            let view = if self.recipe.view.repeats() { View::Contiguous } else { self.recipe.view };
            let operand = self.float_operand(sizes, values, view)?;
            self.cotangents.push(Some(operand));
        }
        Ok(())
    }

    /// Says that the next output has no cotangent.
    pub(super) fn no_cotangent(&mut self) {
        if self.recipe.backward {
            self.cotangents.push(None);
        }
    }

    /// Says which operands have gradients; those that are absent have none.
    pub(super) fn gradients(&mut self, names: &[&str]) {
        if self.recipe.backward {
            self.gradients = names.iter().map(|name| (*name).to_owned()).collect();
        }
    }

    /// A forward problem of `op` over what has been drawn so far.
    pub(super) fn so_far(&self, op: &str) -> Problem {
        Problem {
            op: op.to_owned(),
            attributes: self.attributes.clone(),
            operands: self.operands.clone(),
            weight_dtype: self.recipe.weight_dtype,
            random: false,
            backward: None,
        }
    }

    /// The problem, once everything is drawn.
    pub(super) fn finish(self) -> Result<Problem, Error> {
        let recipe = self.recipe;
        if let Some(unknown) = recipe.dims.keys().find(|name| !self.used.contains(*name)) {
            let known = self.used.iter().cloned().collect::<Vec<_>>().join(", ");
            return Err(self.error(format!("unknown size {unknown:?}, expected {known}")));
        }
        if let Some(unknown) = recipe.absent.iter().find(|name| !self.optional.contains(name.as_str())) {
            return Err(self.error(format!("operand {unknown:?} cannot be left out")));
        }
        let backward = if recipe.backward {
            let present = |name: &String| self.operands.iter().any(|(of, _)| of == name);
            let gradients: Vec<String> = self.gradients.iter().filter(|name| present(name)).cloned().collect();
            if gradients.is_empty() || recipe.dtype.is_some() {
                return Err(self.error("nothing here has a gradient"));
            }
            Some(Backward { cotangents: self.cotangents, gradients })
        } else {
            None
        };
        let problem = Problem {
            op: recipe.op.clone(),
            attributes: self.attributes,
            operands: self.operands,
            weight_dtype: recipe.weight_dtype,
            random: recipe.fill.is_random() && !recipe.view.repeats(),
            backward,
        };
        problem.operation()?;
        Ok(problem)
    }
}

/// A number of variance 1 around 0: four uniform ones added (Irwin & Hall), which is exact in f64 and within ±3.47.
pub(crate) fn normal(seed: u64, stream: u64, index: u64) -> f64 {
    let words = philox(seed, [index as u32, (index >> 32) as u32, stream as u32, 0]);
    let sum: f64 = words.into_iter().map(f64::from).sum();
    // A sum of n uniform numbers has variance n/12.
    single((sum * (-32f64).exp2() - 2.0) * 1.732_050_807_568_877_2)
}

/// A word for draw `index`, apart from those of [`normal`].
fn bits(seed: u64, stream: u64, index: u64) -> u32 {
    let [word, ..] = philox(seed, [index as u32, (index >> 32) as u32, stream as u32, 1]);
    word
}

/// A whole number below `end`.
fn below(seed: u64, stream: u64, index: usize, end: usize) -> usize {
    ((u64::from(bits(seed, stream, index as u64)) * end as u64) >> 32) as usize
}

/// `0 .. count` in a random order.
pub(super) fn shuffled(seed: u64, stream: u64, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|&index| (bits(seed, stream, (1 << 33) + index as u64), index));
    order
}

/// Rounded to f32.
pub(super) fn single(value: f64) -> f64 {
    f64::from(value as f32)
}

/// Where the f16 scales of a block format lie, the minimum's last, and what to divide an ordinary one by, so that values are
/// of the size of 1.
fn scales_of(dtype: WeightDType) -> (&'static [usize], f64) {
    match dtype {
        WeightDType::Q2_K => (&[80, 82], 16.0),
        WeightDType::Q3_K => (&[108], 16.0),
        WeightDType::Q4_K | WeightDType::Q5_K => (&[0, 2], 64.0),
        WeightDType::Q6_K => (&[208], 256.0),
        WeightDType::Q4_1 | WeightDType::Q5_1 => (&[0, 2], 1.0),
        _ => (&[0], 1.0),
    }
}

/// The bytes of a block.
fn quants(dtype: WeightDType, seed: u64, stream: u64, block: usize, edges: bool) -> Vec<u8> {
    let index = block as u64 * 256;
    let random = |at: u64| bits(seed, stream, index + at);
    let (places, divisor) = scales_of(dtype);
    let kind = if edges { random(1) % 8 } else { 8 };
    let quant = |at: u64| match kind {
        5 => 0x80, // the least of Q8_0; 0 and 8 of Q4_0
        6 => 0x7f, // the greatest of Q8_0; 15 and 7 of Q4_0
        7 if at.is_multiple_of(2) => 0xff,
        7 => 0x00,
        _ => (random(3 + at) >> 24) as u8,
    };
    let mut bytes: Vec<u8> = (0..dtype.block_bytes() as u64).map(quant).collect();
    for (at, &place) in places.iter().enumerate() {
        // From 1/256 to 17/256: rows of some thousands stay within f16's range.
        let ordinary = to_f16((f64::from(random(2 * at as u64) >> 24) / 4096.0 + 1.0 / 256.0) / divisor);
        let scale = match kind {
            0 => f16::ZERO,
            1 => f16::from_bits(1), // the least denormal
            2 => -ordinary,
            3 => f16::from_bits(0x03ff), // the greatest denormal
            4 => f16::NEG_ZERO,
            _ => ordinary,
        };
        // A minimum has edges in half of the blocks that have some.
        let scale = if at == 1 && block.is_multiple_of(2) { ordinary } else { scale };
        bytes.splice(place..place + 2, scale.to_le_bytes());
    }
    bytes
}

/// Row-major `values` as a view: the buffer, with `guard` wherever the view does not look, and the layout.
fn lay<T: Copy>(view: View, sizes: &[usize], values: Vec<T>, guard: T) -> Result<(Vec<T>, Layout), Error> {
    const BEFORE: usize = 5;
    const AFTER: usize = 7;
    let shape = Shape::new(sizes)?;
    let rank = sizes.len();
    let contiguous = Layout::contiguous(shape);
    // Strides of a buffer of these sizes, the dimensions from the innermost on.
    let strides_of = |inner_first: &mut dyn Iterator<Item = (usize, usize)>, first: usize| {
        let mut strides = vec![0; rank];
        let mut stride = first;
        for (axis, size) in inner_first {
            if let Some(place) = strides.get_mut(axis) {
                *place = stride;
            }
            stride *= size.max(1);
        }
        (strides, stride)
    };
    let (layout, length) = match view {
        View::Contiguous => return Ok((values, contiguous)),
        View::Offset => (Layout::strided(shape, contiguous.strides(), BEFORE)?, BEFORE + values.len() + AFTER),
        View::Permuted => {
            let step = if rank < 2 { 2 } else { 1 };
            let (strides, length) = strides_of(&mut sizes.iter().copied().enumerate(), step);
            (Layout::strided(shape, &strides, 1)?, length + 2)
        }
        View::Sliced => {
            let wider = sizes.iter().map(|size| size + 3).enumerate().rev();
            let (strides, length) = strides_of(&mut { wider }, 1);
            let offset = strides.iter().sum();
            (Layout::strided(shape, &strides, offset)?, length)
        }
        View::Broadcast | View::Repeated => {
            let outer = sizes.iter().rev().skip(1).rev().position(|&size| size > 1);
            let repeated = if view == View::Broadcast { outer } else { rank.checked_sub(1) };
            let kept = |(axis, &size): (usize, &usize)| (axis, if Some(axis) == repeated { 1 } else { size });
            let (mut strides, length) = strides_of(&mut sizes.iter().enumerate().map(kept).rev(), 1);
            if let Some(stride) = repeated.and_then(|axis| strides.get_mut(axis)) {
                *stride = 0;
            }
            (Layout::strided(shape, &strides, 0)?, if shape.elements() == 0 { 0 } else { length })
        }
    };
    let mut buffer = vec![guard; length];
    // Backwards, so that the first of what is repeated stays.
    for (at, value) in offsets(&layout).into_iter().zip(values).rev() {
        if let Some(place) = buffer.get_mut(at) {
            *place = value;
        }
    }
    Ok((buffer, layout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_show_the_values_and_nothing_else() {
        for sizes in [&[][..], &[1], &[4], &[0, 3], &[2, 3], &[2, 1, 3], &[2, 2, 1, 2, 3, 2]] {
            let count: usize = sizes.iter().product();
            let values: Vec<f64> = (0..count).map(|index| index as f64).collect();
            for view in View::ALL {
                let (buffer, layout) = lay(view, sizes, values.clone(), f64::NAN).unwrap();
                assert!(layout.end() <= buffer.len(), "{view:?} {sizes:?}");
                let seen: Vec<f64> = offsets(&layout).into_iter().map(|at| buffer[at]).collect();
                if view.repeats() {
                    assert!(seen.iter().all(|value| value.is_finite()), "{sizes:?}: {seen:?}");
                    let repeats =
                        layout.strides().iter().zip(sizes).filter(|(stride, size)| **stride == 0 && **size > 1);
                    let (outer, inner) = sizes.split_at(sizes.len().saturating_sub(1));
                    let long = if view == View::Broadcast { outer } else { inner };
                    assert_eq!(repeats.count(), usize::from(long.iter().any(|size| *size > 1)), "{view:?} {sizes:?}");
                    continue;
                }
                assert_eq!(seen, values, "{view:?} {sizes:?}");
                let guards = buffer.iter().filter(|value| value.is_nan()).count();
                assert_eq!(guards, buffer.len() - count);
                // A scalar has nothing to be cut from.
                assert!(view == View::Contiguous || sizes.is_empty() || guards > 0, "{view:?} {sizes:?}");
            }
        }
    }

    #[test]
    fn draws_have_mean_0_and_variance_1() {
        let draws: Vec<f64> = (0..20_000).map(|index| normal(3, 1, index)).collect();
        let moment = |power: i32| draws.iter().map(|draw| draw.powi(power)).sum::<f64>() / draws.len() as f64;
        // Five standard errors; the fourth moment of four uniform numbers is 3 − 6/5/4 = 2.7.
        assert!(moment(1).abs() < 5.0 * (1.0 / 20_000f64).sqrt());
        assert!((moment(2) - 1.0).abs() < 5.0 * (1.7 / 20_000f64).sqrt());
        assert!((moment(4) - 2.7).abs() < 0.15);
        assert!(draws.iter().all(|draw| single(*draw) == *draw && draw.abs() < 3.47));
        let mut order = shuffled(3, 1, 100);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn edge_blocks_are_finite_and_have_every_edge() {
        for dtype in WeightDType::ALL.into_iter().filter(|dtype| dtype.block() > 1) {
            let bytes: Vec<u8> = (0..200).flat_map(|block| quants(dtype, 5, 1, block, true)).collect();
            for &at in scales_of(dtype).0 {
                let scale = |block: &[u8]| u16::from_le_bytes([block[at], block[at + 1]]);
                let scales: BTreeSet<u16> = bytes.chunks(dtype.block_bytes()).map(scale).collect();
                for edge in [0, 1, 0x03ff, 0x8000] {
                    assert!(scales.contains(&edge), "{dtype}: no scale {edge:#x} at {at}");
                }
            }
            let mut values = vec![0.0; 200 * dtype.block()];
            dtype.decode(&bytes, &mut values);
            assert!(values.iter().all(|value| value.is_finite()));
        }
    }
}
