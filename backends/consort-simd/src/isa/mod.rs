//! Instruction sets: one trait of lanes, a token for each set, and a level that picks one at run time.
//!
//! A token exists only where its instructions were detected ([`Level`]), so its methods are safe. Kernels are generic over
//! [`Isa`] and are compiled once for each set by [`Level::run`]: everything on the way from there to a token's method must be
//! `#[inline(always)]`, or it is compiled without the instructions.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod level;
mod portable;
#[cfg(test)]
mod tests;

pub use level::{Level, UnknownLevel};

/// Code that is compiled for every instruction set.
pub(crate) trait Kernel {
    /// What it gives.
    type Output;

    /// Runs it; implementations are `#[inline(always)]`.
    fn run<S: Isa>(self, isa: S) -> Self::Output;
}

/// Lanes of an instruction set.
///
/// Comparisons with a NaN are false. `unsafe` methods read or write memory: the pointer must be good for as many elements as
/// they say, in any alignment.
pub(crate) trait Isa: Copy + Send + Sync + 'static {
    /// How many lanes a register has.
    const LANES: usize;
    /// Whether [`mul_add`](Self::mul_add) rounds once.
    #[cfg(test)]
    const FUSED: bool;
    /// Whether products in f32 go through kernels of this crate; through matrixmultiply else.
    const OWN_PRODUCTS: bool;
    /// Rows of a [`tile`](crate::gemm::tile): twice as many sums as these must be held in registers, with a few to spare.
    const TILE_ROWS: usize;
    /// As [`TILE_ROWS`](Self::TILE_ROWS), of a product of bytes, whose sums leave less room.
    const INT8_ROWS: usize;
    /// Floats.
    type F: Copy;
    /// Whole numbers of 32 bits.
    type I: Copy;
    /// A truth for each lane.
    type M: Copy;

    /// Runs `kernel` compiled by itself, and not into the caller: for what many kernels share.
    fn apart<K: Kernel>(self, kernel: K) -> K::Output;
    fn splat(self, x: f32) -> Self::F;
    fn splat_i(self, x: i32) -> Self::I;
    /// Reads LANES floats.
    unsafe fn load(self, from: *const f32) -> Self::F;
    /// Writes LANES floats.
    unsafe fn store(self, to: *mut f32, x: Self::F);
    /// Reads `count < LANES` floats; zeros follow.
    unsafe fn load_first(self, from: *const f32, count: usize) -> Self::F;
    /// Writes the first `count < LANES` floats.
    unsafe fn store_first(self, to: *mut f32, count: usize, x: Self::F);
    /// Reads LANES whole numbers.
    unsafe fn load_i(self, from: *const i32) -> Self::I;
    /// Writes LANES whole numbers.
    unsafe fn store_i(self, to: *mut i32, x: Self::I);
    /// Reads LANES bytes, each from 0 to 255.
    unsafe fn load_u8(self, from: *const u8) -> Self::I;
    /// Reads LANES bytes, each from −128 to 127.
    unsafe fn load_i8(self, from: *const i8) -> Self::I;
    /// Reads LANES bf16.
    unsafe fn load_bf16(self, from: *const u16) -> Self::F;
    /// Writes LANES bf16: to nearest even, NaN stays NaN.
    unsafe fn store_bf16(self, to: *mut u16, x: Self::F);
    /// Reads LANES f16.
    unsafe fn load_f16(self, from: *const u16) -> Self::F;
    /// Writes LANES f16: to nearest even, NaN stays NaN.
    unsafe fn store_f16(self, to: *mut u16, x: Self::F);

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a · b + c`.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c − a · b`.
    fn neg_mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a > b ? a : b`: b where one is a NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? a : b`: b where one is a NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    fn sqrt(self, x: Self::F) -> Self::F;
    /// To the nearest whole number, the even one of two.
    fn round(self, x: Self::F) -> Self::F;

    fn less(self, a: Self::F, b: Self::F) -> Self::M;
    fn equal(self, a: Self::F, b: Self::F) -> Self::M;
    /// Either is a NaN.
    fn unordered(self, a: Self::F, b: Self::F) -> Self::M;
    /// `a < b`, signed.
    fn less_i(self, a: Self::I, b: Self::I) -> Self::M;
    /// `mask ? a : b`.
    fn select(self, mask: Self::M, a: Self::F, b: Self::F) -> Self::F;
    /// Some lane is set.
    fn any(self, mask: Self::M) -> bool;

    /// To the nearest whole number, the even one of two; beyond 32 bits `i32::MIN`.
    fn to_i(self, x: Self::F) -> Self::I;
    fn to_f(self, x: Self::I) -> Self::F;
    fn bits(self, x: Self::F) -> Self::I;
    #[allow(clippy::wrong_self_convention, reason = "a token is not what is converted")]
    fn from_bits(self, x: Self::I) -> Self::F;
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn sub_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    fn xor(self, a: Self::I, b: Self::I) -> Self::I;
    fn shift_left<const N: u32>(self, x: Self::I) -> Self::I;
    /// Zeros come in.
    fn shift_right<const N: u32>(self, x: Self::I) -> Self::I;

    /// Of pairs of bf16: `acc + a₀b₀ + a₁b₁` (lower half first), summed as the set does it.
    fn dot_bf16(self, acc: Self::F, a: Self::I, b: Self::I) -> Self::F;
    /// Of four bytes: `acc + Σ aᵢbᵢ`, a from 0 to 255, b from −128 to 127; exact.
    fn dot_u8_i8(self, acc: Self::I, a: Self::I, b: Self::I) -> Self::I;

    /// `x · 2ⁿ` for whole n from −252 to 254, rounded once where `x · 2^(n/2)` is a normal number; NaN of NaNs.
    #[inline(always)]
    fn scale(self, x: Self::F, n: Self::F) -> Self::F {
        // Two factors: 2ⁿ itself may be beyond the type where the product is not. 1.5 · 2²³ leaves n in the last bits.
        let whole = self.splat(12_582_912.0);
        let n = self.sub_i(self.bits(self.add(n, whole)), self.bits(whole));
        let half = self.sub_i(self.shift_right::<1>(self.add_i(n, self.splat_i(512))), self.splat_i(256));
        let power = |n| self.from_bits(self.shift_left::<23>(self.add_i(n, self.splat_i(127))));
        self.mul(self.mul(x, power(half)), power(self.sub_i(n, half)))
    }

    /// Lanes 2i and 2i + 1 exchanged.
    fn swap_pairs(self, x: Self::F) -> Self::F;
    /// `a₀ b₀ a₁ b₁ …`, in two registers.
    fn interleave(self, a: Self::F, b: Self::F) -> [Self::F; 2];
    /// Sum of all lanes, by halves: lane i and lane i + LANES/2 first.
    fn sum(self, x: Self::F) -> f32;
    /// Greatest of all lanes; what [`max`](Self::max) says of NaN.
    fn greatest(self, x: Self::F) -> f32;

    #[inline(always)]
    fn zero(self) -> Self::F {
        self.splat(0.0)
    }

    #[inline(always)]
    fn abs(self, x: Self::F) -> Self::F {
        self.from_bits(self.and(self.bits(x), self.splat_i(i32::MAX)))
    }

    #[inline(always)]
    fn negate(self, x: Self::F) -> Self::F {
        self.from_bits(self.xor(self.bits(x), self.splat_i(i32::MIN)))
    }

    /// The first LANES of `x`, or as many as there are, with zeros after.
    #[inline(always)]
    fn read(self, x: &[f32]) -> Self::F {
        if x.len() >= Self::LANES {
            // SAFETY: there are LANES elements.
            unsafe { self.load(x.as_ptr()) }
        } else {
            // SAFETY: there are as many elements as are read.
            unsafe { self.load_first(x.as_ptr(), x.len()) }
        }
    }

    /// Puts lanes into the first LANES of `to`, or into as many as there are.
    #[inline(always)]
    fn write(self, to: &mut [f32], x: Self::F) {
        if to.len() >= Self::LANES {
            // SAFETY: there are LANES elements.
            unsafe { self.store(to.as_mut_ptr(), x) }
        } else {
            // SAFETY: there are as many elements as are written.
            unsafe { self.store_first(to.as_mut_ptr(), to.len(), x) }
        }
    }
}
