//! Arrays and plain arithmetic, for machines without kernels of their own: no multiply-add, which many lack.

use half::{bf16, f16};

use super::{Isa, Kernel};

const LANES: usize = 8;

/// The token; every machine has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Portable(());

impl Portable {
    pub(super) fn new() -> Self {
        Self(())
    }
}

#[inline(always)]
fn map<A: Copy, B>(a: [A; LANES], f: impl Fn(A) -> B) -> [B; LANES] {
    std::array::from_fn(|lane| f(a[lane]))
}

#[inline(always)]
fn zip<A: Copy, B: Copy, C>(a: [A; LANES], b: [B; LANES], f: impl Fn(A, B) -> C) -> [C; LANES] {
    std::array::from_fn(|lane| f(a[lane], b[lane]))
}

/// Reads LANES elements and converts each.
///
/// # Safety
/// `from` must be good for LANES elements.
#[inline(always)]
unsafe fn read<T: Copy, U>(from: *const T, f: impl Fn(T) -> U) -> [U; LANES] {
    // SAFETY: the caller's promise; lane < LANES.
    std::array::from_fn(|lane| f(unsafe { from.add(lane).read_unaligned() }))
}

impl Isa for Portable {
    const LANES: usize = LANES;
    #[cfg(test)]
    const FUSED: bool = false;
    const OWN_PRODUCTS: bool = false;
    const TILE_ROWS: usize = 4;
    const INT8_ROWS: usize = 2;
    type F = [f32; LANES];
    type I = [i32; LANES];
    type M = [bool; LANES];

    #[inline(never)]
    fn apart<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }
    #[inline(always)]
    fn splat_i(self, x: i32) -> Self::I {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::F {
        // SAFETY: the caller's promise.
        unsafe { read(from, |x| x) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: Self::F) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> Self::F {
        // SAFETY: the caller's promise, for lanes below `count`.
        std::array::from_fn(|lane| if lane < count { unsafe { from.add(lane).read() } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize, x: Self::F) {
        for (lane, &x) in x.iter().enumerate().take(count) {
            // SAFETY: the caller's promise.
            unsafe { to.add(lane).write(x) }
        }
    }
    #[inline(always)]
    unsafe fn load_i(self, from: *const i32) -> Self::I {
        // SAFETY: the caller's promise.
        unsafe { read(from, |x| x) }
    }
    #[inline(always)]
    unsafe fn store_i(self, to: *mut i32, x: Self::I) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[i32; LANES]>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> Self::I {
        // SAFETY: the caller's promise.
        unsafe { read(from, i32::from) }
    }
    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> Self::I {
        // SAFETY: the caller's promise.
        unsafe { read(from, i32::from) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> Self::F {
        // SAFETY: the caller's promise.
        unsafe { read(from, |x| f32::from_bits(u32::from(x) << 16)) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, x: Self::F) {
        for (lane, x) in x.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { to.add(lane).write_unaligned(bf16::from_f32(x).to_bits()) }
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> Self::F {
        // SAFETY: the caller's promise.
        unsafe { read(from, |x| f16::from_bits(x).to_f32()) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16, x: Self::F) {
        for (lane, x) in x.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { to.add(lane).write_unaligned(f16::from_f32(x).to_bits()) }
        }
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|lane| a[lane] * b[lane] + c[lane])
    }
    #[inline(always)]
    fn neg_mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|lane| c[lane] - a[lane] * b[lane])
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn sqrt(self, x: Self::F) -> Self::F {
        map(x, f32::sqrt)
    }
    #[inline(always)]
    fn round(self, x: Self::F) -> Self::F {
        map(x, f32::round_ties_even)
    }

    #[inline(always)]
    fn less(self, a: Self::F, b: Self::F) -> Self::M {
        zip(a, b, |a, b| a < b)
    }
    #[inline(always)]
    fn equal(self, a: Self::F, b: Self::F) -> Self::M {
        zip(a, b, |a, b| a == b)
    }
    #[inline(always)]
    fn unordered(self, a: Self::F, b: Self::F) -> Self::M {
        zip(a, b, |a, b| a.is_nan() || b.is_nan())
    }
    #[inline(always)]
    fn less_i(self, a: Self::I, b: Self::I) -> Self::M {
        zip(a, b, |a, b| a < b)
    }
    #[inline(always)]
    fn select(self, mask: Self::M, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|lane| if mask[lane] { a[lane] } else { b[lane] })
    }
    #[inline(always)]
    fn any(self, mask: Self::M) -> bool {
        mask.into_iter().any(|lane| lane)
    }

    #[inline(always)]
    fn to_i(self, x: Self::F) -> Self::I {
        map(x, |x| {
            let x = x.round_ties_even();
            // 2³¹ and NaN do not fit.
            if (-2147483648.0..2147483648.0).contains(&x) { x as i32 } else { i32::MIN }
        })
    }
    #[inline(always)]
    fn to_f(self, x: Self::I) -> Self::F {
        map(x, |x| x as f32)
    }
    #[inline(always)]
    fn bits(self, x: Self::F) -> Self::I {
        map(x, |x| x.to_bits().cast_signed())
    }
    #[inline(always)]
    fn from_bits(self, x: Self::I) -> Self::F {
        map(x, |x| f32::from_bits(x.cast_unsigned()))
    }
    #[inline(always)]
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, i32::wrapping_add)
    }
    #[inline(always)]
    fn sub_i(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, i32::wrapping_sub)
    }
    #[inline(always)]
    fn and(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, |a, b| a & b)
    }
    #[inline(always)]
    fn or(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, |a, b| a | b)
    }
    #[inline(always)]
    fn xor(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, |a, b| a ^ b)
    }
    #[inline(always)]
    fn shift_left<const N: u32>(self, x: Self::I) -> Self::I {
        map(x, |x| x << N)
    }
    #[inline(always)]
    fn shift_right<const N: u32>(self, x: Self::I) -> Self::I {
        map(x, |x| (x.cast_unsigned() >> N).cast_signed())
    }

    #[inline(always)]
    fn dot_bf16(self, acc: Self::F, a: Self::I, b: Self::I) -> Self::F {
        let low = |x: Self::I| map(x, |x| f32::from_bits(x.cast_unsigned() << 16));
        let high = |x: Self::I| map(x, |x| f32::from_bits(x.cast_unsigned() & 0xffff_0000));
        self.mul_add(high(a), high(b), self.mul_add(low(a), low(b), acc))
    }
    #[inline(always)]
    fn dot_u8_i8(self, acc: Self::I, a: Self::I, b: Self::I) -> Self::I {
        std::array::from_fn(|lane| {
            let (a, b) = (a[lane].to_ne_bytes(), b[lane].to_ne_bytes());
            (0..4).fold(acc[lane], |sum, i| sum + i32::from(a[i]) * i32::from(b[i].cast_signed()))
        })
    }

    #[inline(always)]
    fn swap_pairs(self, x: Self::F) -> Self::F {
        std::array::from_fn(|lane| x[lane ^ 1])
    }
    #[inline(always)]
    fn interleave(self, a: Self::F, b: Self::F) -> [Self::F; 2] {
        let from = |first: usize| std::array::from_fn(|lane| [a, b][lane % 2][first + lane / 2]);
        [from(0), from(LANES / 2)]
    }

    #[inline(always)]
    fn sum(self, x: Self::F) -> f32 {
        let four: [f32; 4] = std::array::from_fn(|lane| x[lane] + x[lane + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }
    #[inline(always)]
    fn greatest(self, x: Self::F) -> f32 {
        let max = |a: f32, b: f32| if a > b { a } else { b };
        let four: [f32; 4] = std::array::from_fn(|lane| max(x[lane], x[lane + 4]));
        max(max(four[0], four[2]), max(four[1], four[3]))
    }
}
