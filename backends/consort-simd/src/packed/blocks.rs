//! Panels of block formats: for each 32 inputs of 32 outputs, planes of codes and then scales.
//!
//! A word is the codes of four inputs of one output; a plane's register holds words of neighbouring outputs, and in their bytes
//! the bits of several words: nibbles of words 2p and 2p + 1, pairs of bits of words 4q … 4q + 3, single bits of all eight.
//! So unpacking is a shift and a mask. Formats of 256 have their scales of scales in front of each eight blocks:
//!
//! | scales | in front | in a block |
//! |---|---|---|
//! | one | – | d f16 `[32]` |
//! | one, a minimum | – | d, m f16 `[32]` each |
//! | of 32, minima | d, m f16 `[32]` each | u8 `[32]` each |
//! | of 16 | d f16 `[32]` | i8 `[2, 32]` |
//! | of 16, minima | d, m f16 `[32]` each | u8 `[2, 32]` each |

use std::{borrow::Cow, marker::PhantomData, ops::Range};

use consort_core::WeightDType;

use super::{
    Packed,
    parse::{Parsed, parse},
};
use crate::{
    gemm::{CHUNK_BLOCKS, INT8_BLOCK as BLOCK, Int8Blocks, Int8Panels, PANEL, Panels},
    isa::{Isa, Kernel},
};

/// Words of a block.
const WORDS: usize = BLOCK / 4;

/// How scales are kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scales {
    One,
    OneAndMinimum,
    Of32AndMinima,
    Of16,
    Of16AndMinima,
}

/// A block format.
pub(crate) trait Format: Sync {
    const DTYPE: WeightDType;
    /// Bits of the first plane: 8, 4 or 2.
    const LOW: u32;
    /// Bits of the second: 0, 1 or 2.
    const HIGH: u32;
    /// What is taken off a code.
    const OFFSET: i32;
    const SCALES: Scales;

    /// Bytes of codes in a block.
    const CODES: usize = PANEL * BLOCK / 8 * (Self::LOW + Self::HIGH) as usize;
    /// Inputs that share a scale.
    const SUB: usize = match Self::SCALES {
        Scales::Of16 | Scales::Of16AndMinima => 16,
        _ => 32,
    };
    const MINIMA: bool = !matches!(Self::SCALES, Scales::One | Scales::Of16);
    /// Blocks behind one header.
    const BLOCKS: usize = match Self::SCALES {
        Scales::One | Scales::OneAndMinimum => 1,
        _ => 8,
    };
    /// Bytes in front of them.
    const HEADER: usize = match Self::SCALES {
        Scales::One | Scales::OneAndMinimum => 0,
        Scales::Of16 => 2 * PANEL,
        _ => 4 * PANEL,
    };
    /// Bytes of a block.
    const BYTES: usize = Self::CODES
        + match Self::SCALES {
            Scales::Of16AndMinima | Scales::OneAndMinimum => 4 * PANEL,
            _ => 2 * PANEL,
        };
    /// Bytes of a header and its blocks.
    const GROUP: usize = Self::HEADER + Self::BLOCKS * Self::BYTES;
}

macro_rules! formats {
    ($($Name:ident = $dtype:ident: $low:literal + $high:literal bits, less $offset:literal, $scales:ident;)*) => {
        $(
            pub(crate) struct $Name;

            impl Format for $Name {
                const DTYPE: WeightDType = WeightDType::$dtype;
                const LOW: u32 = $low;
                const HIGH: u32 = $high;
                const OFFSET: i32 = $offset;
                const SCALES: Scales = Scales::$scales;
            }
        )*

        /// Bytes of a panel.
        pub(super) fn panel_bytes(dtype: WeightDType, inputs: usize) -> usize {
            match dtype {
                $( WeightDType::$dtype => (inputs / BLOCK).div_ceil($Name::BLOCKS) * $Name::GROUP, )*
                _ => 0,
            }
        }

        /// Puts rows, at most [`PANEL`], into a panel; whether all of them are finite.
        pub(super) fn fill(panel: &mut [u8], rows: &[Cow<'_, [u8]>], dtype: WeightDType) -> bool {
            match dtype {
                $( WeightDType::$dtype => fill_as::<$Name>(panel, rows), )*
                _ => false,
            }
        }
    };
}

formats! {
    Q80 = Q8_0: 8 + 0 bits, less 128, One;
    Q40 = Q4_0: 4 + 0 bits, less 8, One;
    Q41 = Q4_1: 4 + 0 bits, less 0, OneAndMinimum;
    Q50 = Q5_0: 4 + 1 bits, less 16, One;
    Q51 = Q5_1: 4 + 1 bits, less 0, OneAndMinimum;
    Q2K = Q2_K: 2 + 0 bits, less 0, Of16AndMinima;
    Q3K = Q3_K: 2 + 1 bits, less 4, Of16;
    Q4K = Q4_K: 4 + 0 bits, less 0, Of32AndMinima;
    Q5K = Q5_K: 4 + 1 bits, less 0, Of32AndMinima;
    Q6K = Q6_K: 4 + 2 bits, less 32, Of16;
}

fn fill_as<F: Format>(panel: &mut [u8], rows: &[Cow<'_, [u8]>]) -> bool {
    let mut finite = true;
    let is_finite = |half: u16| half & 0x7c00 != 0x7c00;
    for (index, group) in panel.chunks_exact_mut(F::GROUP).enumerate() {
        for (lane, row) in rows.iter().enumerate() {
            let size = F::DTYPE.block_bytes();
            let Some(block) = row.get(index * size..(index + 1) * size) else { continue };
            let parsed = parse(F::DTYPE, block);
            finite &= is_finite(parsed.d) && is_finite(parsed.m);
            put::<F>(group, lane, &parsed);
        }
    }
    finite
}

/// Puts one output's block, or its eight blocks, into a group of zeros.
fn put<F: Format>(group: &mut [u8], lane: usize, parsed: &Parsed) {
    let Parsed { d, m, codes, scales, minima } = parsed;
    let half = |to: &mut [u8], value: u16| to[lane * 2..lane * 2 + 2].copy_from_slice(&value.to_ne_bytes());
    if F::HEADER > 0 {
        half(group, *d);
        if F::MINIMA {
            half(&mut group[2 * PANEL..], *m);
        }
    }
    for block in 0..F::BLOCKS {
        let to = &mut group[F::HEADER + block * F::BYTES..][..F::BYTES];
        for (input, code) in codes[block * BLOCK..(block + 1) * BLOCK].iter().enumerate() {
            let (word, byte) = (input / 4, lane * 4 + input % 4);
            let mut plane = |first: usize, bits: u32, value: u8| {
                let together = 8 / bits as usize;
                to[first + word / together * PANEL * 4 + byte] |= value << (word % together * bits as usize);
            };
            plane(0, F::LOW, code & ((1u16 << F::LOW) - 1) as u8);
            if F::HIGH > 0 {
                plane(PANEL * BLOCK / 8 * F::LOW as usize, F::HIGH, code >> F::LOW);
            }
        }
        let to = &mut to[F::CODES..];
        match F::SCALES {
            Scales::One => half(to, *d),
            Scales::OneAndMinimum => {
                half(to, *d);
                half(&mut to[2 * PANEL..], *m);
            }
            Scales::Of32AndMinima => (to[lane], to[PANEL + lane]) = (scales[block], minima[block]),
            Scales::Of16 | Scales::Of16AndMinima => {
                for sub in 0..2 {
                    to[sub * PANEL + lane] = scales[block * 2 + sub];
                    if F::MINIMA {
                        to[(2 + sub) * PANEL + lane] = minima[block * 2 + sub];
                    }
                }
            }
        }
    }
}

/// A packed weight of a format.
pub(crate) struct Blocks<'a, F>(&'a Packed, PhantomData<F>);

impl<'a, F: Format> Blocks<'a, F> {
    pub(crate) fn new(packed: &'a Packed) -> Self {
        Self(packed, PhantomData)
    }

    /// The header of a block and the block.
    #[inline(always)]
    fn block<'b>(&self, panel: &'b [u8], block: usize) -> (&'b [u8], &'b [u8]) {
        let group = &panel[block / F::BLOCKS * F::GROUP..][..F::GROUP];
        (&group[..F::HEADER], &group[F::HEADER + block % F::BLOCKS * F::BYTES..][..F::BYTES])
    }
}

impl<F: Format> Panels for Blocks<'_, F> {
    const PAIRS: bool = false;
    const DIRECT: bool = false;

    #[inline(always)]
    fn chunk<'a, S: Isa>(&'a self, isa: S, panel: usize, range: Range<usize>, scratch: &'a mut [f32]) -> &'a [f32] {
        let to = &mut scratch[..range.len() * PANEL];
        isa.apart(Widen { blocks: self, panel, first: range.start, to: &mut *to });
        to
    }
}

/// A chunk in f32.
struct Widen<'a, F> {
    blocks: &'a Blocks<'a, F>,
    panel: usize,
    first: usize,
    to: &'a mut [f32],
}

impl<F: Format> Kernel for Widen<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { blocks, panel, first, to } = self;
        debug_assert!(first.is_multiple_of(BLOCK) && to.len().is_multiple_of(BLOCK * PANEL));
        let bytes = blocks.0.panel(panel);
        let mut words = [0i32; WORDS * PANEL];
        let (mut scales, mut minima) = ([0f32; 2 * PANEL], [0f32; 2 * PANEL]);
        for (block, to) in (first / BLOCK..).zip(to.chunks_exact_mut(BLOCK * PANEL)) {
            let (header, block) = blocks.block(bytes, block);
            scales_of::<S, F>(isa, header, block, &mut scales, &mut minima);
            let words = if F::LOW == 8 {
                block.as_ptr().cast::<i32>()
            } else {
                unpack::<S, F>(isa, block, &mut words);
                words.as_ptr()
            };
            for word in 0..WORDS {
                let sub = word * 4 / F::SUB;
                for lane in (0..PANEL).step_by(S::LANES) {
                    // SAFETY: `words` has WORDS·PANEL elements (a plane of eight bits has), scales and minima two rows of
                    // PANEL, `to` BLOCK rows of PANEL.
                    unsafe {
                        let codes = isa.load_i(words.add(word * PANEL + lane));
                        let scale = isa.load(scales.as_ptr().add(sub * PANEL + lane));
                        let minimum = match F::MINIMA {
                            true => isa.negate(isa.load(minima.as_ptr().add(sub * PANEL + lane))),
                            false => isa.zero(),
                        };
                        let mask = isa.splat_i(0xff);
                        let to = to.as_mut_ptr().add(word * 4 * PANEL + lane);
                        let codes = [
                            codes,
                            isa.shift_right::<8>(codes),
                            isa.shift_right::<16>(codes),
                            isa.shift_right::<24>(codes),
                        ];
                        for (byte, codes) in codes.into_iter().enumerate() {
                            let code = isa.and(codes, mask);
                            // A product alone keeps the sign of a zero.
                            let value = match F::MINIMA {
                                true => isa.mul_add(isa.to_f(code), scale, minimum),
                                false => isa.mul(isa.to_f(isa.sub_i(code, isa.splat_i(F::OFFSET))), scale),
                            };
                            isa.store(to.add(byte * PANEL), value);
                        }
                    }
                }
            }
        }
    }
}

impl<F: Format> Int8Panels for Blocks<'_, F> {
    const SUB: usize = F::SUB;
    const OFFSET: i32 = F::OFFSET;
    const MINIMA: bool = F::MINIMA;

    #[inline(always)]
    fn blocks<'a, S: Isa>(
        &'a self,
        isa: S,
        panel: usize,
        range: Range<usize>,
        scratch: &'a mut [f32],
    ) -> Int8Blocks<'a> {
        let bytes = self.0.panel(panel);
        let subs = BLOCK / F::SUB * PANEL;
        let (words, rest) = scratch.split_at_mut(CHUNK_BLOCKS * WORDS * PANEL);
        let (scales, minima) = rest.split_at_mut(CHUNK_BLOCKS * 2 * PANEL);
        // SAFETY: f32 and i32 have the same size and alignment, and any bits are either.
        let words = unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<i32>(), words.len()) };
        for (at, block) in range.clone().enumerate() {
            let (header, block) = self.block(bytes, block);
            scales_of::<S, F>(isa, header, block, &mut scales[at * subs..], &mut minima[at * subs..]);
            if F::LOW != 8 {
                unpack::<S, F>(isa, block, &mut words[at * WORDS * PANEL..]);
            }
        }
        let (codes, code_stride) = match F::LOW {
            8 => (&bytes[range.start * F::GROUP..range.end * F::GROUP], F::GROUP),
            _ => {
                // SAFETY: bytes of whole numbers.
                let bytes = unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<u8>(), words.len() * 4) };
                (bytes, WORDS * PANEL * 4)
            }
        };
        let minima = if F::MINIMA { &minima[..range.len() * subs] } else { &[] };
        Int8Blocks { codes, code_stride, scales: &scales[..range.len() * subs], minima }
    }
}

/// The words of a block `[WORDS, PANEL]`, of formats below eight bits.
#[inline(always)]
fn unpack<S: Isa, F: Format>(isa: S, block: &[u8], words: &mut [i32]) {
    assert!(block.len() >= F::CODES && words.len() >= WORDS * PANEL);
    // SAFETY: planes lie inside CODES bytes, words inside WORDS rows of PANEL.
    unsafe {
        let low = block.as_ptr().cast::<i32>();
        let high = low.add(PANEL * WORDS / 8 * F::LOW as usize);
        for lane in (0..PANEL).step_by(S::LANES) {
            let nibble = isa.splat_i(0x0f0f_0f0f);
            let pair = isa.splat_i(0x0303_0303);
            let bit = isa.splat_i(0x0101_0101);
            // Word w of a plane of pairs, of bits.
            macro_rules! at {
                ($plane:ident, $mask:ident, $row:expr, $shift:literal) => {
                    isa.and(isa.shift_right::<$shift>(isa.load_i($plane.add($row * PANEL + lane))), $mask)
                };
            }
            let to = words.as_mut_ptr().add(lane);
            let lows: [S::I; WORDS] = match F::LOW {
                4 => [
                    at!(low, nibble, 0, 0),
                    at!(low, nibble, 0, 4),
                    at!(low, nibble, 1, 0),
                    at!(low, nibble, 1, 4),
                    at!(low, nibble, 2, 0),
                    at!(low, nibble, 2, 4),
                    at!(low, nibble, 3, 0),
                    at!(low, nibble, 3, 4),
                ],
                _ => [
                    at!(low, pair, 0, 0),
                    at!(low, pair, 0, 2),
                    at!(low, pair, 0, 4),
                    at!(low, pair, 0, 6),
                    at!(low, pair, 1, 0),
                    at!(low, pair, 1, 2),
                    at!(low, pair, 1, 4),
                    at!(low, pair, 1, 6),
                ],
            };
            match F::HIGH {
                0 => {
                    for (word, low) in lows.into_iter().enumerate() {
                        isa.store_i(to.add(word * PANEL), low);
                    }
                }
                1 => {
                    let highs = [
                        at!(high, bit, 0, 0),
                        at!(high, bit, 0, 1),
                        at!(high, bit, 0, 2),
                        at!(high, bit, 0, 3),
                        at!(high, bit, 0, 4),
                        at!(high, bit, 0, 5),
                        at!(high, bit, 0, 6),
                        at!(high, bit, 0, 7),
                    ];
                    for (word, (low, high)) in lows.into_iter().zip(highs).enumerate() {
                        let high = if F::LOW == 4 { isa.shift_left::<4>(high) } else { isa.shift_left::<2>(high) };
                        isa.store_i(to.add(word * PANEL), isa.or(low, high));
                    }
                }
                _ => {
                    let highs = [
                        at!(high, pair, 0, 0),
                        at!(high, pair, 0, 2),
                        at!(high, pair, 0, 4),
                        at!(high, pair, 0, 6),
                        at!(high, pair, 1, 0),
                        at!(high, pair, 1, 2),
                        at!(high, pair, 1, 4),
                        at!(high, pair, 1, 6),
                    ];
                    for (word, (low, high)) in lows.into_iter().zip(highs).enumerate() {
                        isa.store_i(to.add(word * PANEL), isa.or(low, isa.shift_left::<4>(high)));
                    }
                }
            }
        }
    }
}

/// Scales and minima of a block: `[32/SUB, PANEL]` each; what is to be taken off is the minimum.
#[inline(always)]
fn scales_of<S: Isa, F: Format>(isa: S, header: &[u8], block: &[u8], scales: &mut [f32], minima: &mut [f32]) {
    let subs = BLOCK / F::SUB;
    assert!(header.len() >= F::HEADER && block.len() >= F::BYTES);
    assert!(scales.len() >= subs * PANEL && (!F::MINIMA || minima.len() >= subs * PANEL));
    // SAFETY: `Format` says what lies where; the lengths were checked.
    unsafe {
        let own = block.as_ptr().add(F::CODES);
        for lane in (0..PANEL).step_by(S::LANES) {
            macro_rules! half {
                ($from:expr, $row:expr) => {
                    isa.load_f16($from.cast::<u16>().add($row * PANEL + lane))
                };
            }
            macro_rules! small {
                ($row:expr) => {
                    isa.to_f(isa.load_u8(own.add($row * PANEL + lane)))
                };
            }
            let scales = scales.as_mut_ptr().add(lane);
            let minima = minima.as_mut_ptr().wrapping_add(lane);
            match F::SCALES {
                Scales::One => isa.store(scales, half!(own, 0)),
                Scales::OneAndMinimum => {
                    isa.store(scales, half!(own, 0));
                    isa.store(minima, isa.negate(half!(own, 1)));
                }
                Scales::Of32AndMinima => {
                    isa.store(scales, isa.mul(half!(header.as_ptr(), 0), small!(0)));
                    isa.store(minima, isa.mul(half!(header.as_ptr(), 1), small!(1)));
                }
                Scales::Of16 => {
                    for sub in 0..2 {
                        let scale = isa.to_f(isa.load_i8(own.add(sub * PANEL + lane).cast()));
                        isa.store(scales.add(sub * PANEL), isa.mul(half!(header.as_ptr(), 0), scale));
                    }
                }
                Scales::Of16AndMinima => {
                    for sub in 0..2 {
                        isa.store(scales.add(sub * PANEL), isa.mul(half!(header.as_ptr(), 0), small!(sub)));
                        isa.store(minima.add(sub * PANEL), isa.mul(half!(header.as_ptr(), 1), small!(2 + sub)));
                    }
                }
            }
        }
    }
}
