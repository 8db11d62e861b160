//! AVX2 with FMA and F16C: eight lanes.

use std::arch::x86_64::*;

use super::{Isa, Kernel};

/// The token; [`detect`](Self::detect) alone makes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        let there =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        there.then_some(Self(()))
    }

    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn compiled<K: Kernel>(token: Avx2, kernel: K) -> K::Output {
            kernel.run(token)
        }
        // SAFETY: the token says that the instructions are there.
        unsafe { compiled(self, kernel) }
    }
}

/// Functions of the trait by instructions of the set: the token says that they are there, and what reads or writes memory has
/// its caller's promise.
macro_rules! instructions {
    ($( [$($unsafe:tt)?] $name:ident $([$N:ident])? ($($arg:ident : $Arg:ty),*) $(-> $Out:ty)? = $body:expr; )*) => { $(
        #[inline(always)]
        $($unsafe)? fn $name $(<const $N: u32>)? (self $(, $arg: $Arg)*) $(-> $Out)? {
            // SAFETY: see the macro.
            #[allow(unused_unsafe, reason = "some only call others")]
            unsafe { $body }
        }
    )* };
}

impl Isa for Avx2 {
    const LANES: usize = 8;
    #[cfg(test)]
    const FUSED: bool = true;
    const OWN_PRODUCTS: bool = true;
    const TILE_ROWS: usize = 6;
    const INT8_ROWS: usize = 4;
    type F = __m256;
    type I = __m256i;
    type M = __m256;

    #[inline(always)]
    fn apart<K: Kernel>(self, kernel: K) -> K::Output {
        self.run(kernel)
    }

    instructions! {
        [] splat(x: f32) -> Self::F = _mm256_set1_ps(x);
        [] splat_i(x: i32) -> Self::I = _mm256_set1_epi32(x);
        [unsafe] load(from: *const f32) -> Self::F = _mm256_loadu_ps(from);
        [unsafe] store(to: *mut f32, x: Self::F) = _mm256_storeu_ps(to, x);
        [unsafe] load_first(from: *const f32, count: usize) -> Self::F = _mm256_maskload_ps(from, first(count));
        [unsafe] store_first(to: *mut f32, count: usize, x: Self::F) = _mm256_maskstore_ps(to, first(count), x);
        [unsafe] load_i(from: *const i32) -> Self::I = _mm256_loadu_si256(from.cast());
        [unsafe] store_i(to: *mut i32, x: Self::I) = _mm256_storeu_si256(to.cast(), x);
        [unsafe] load_u8(from: *const u8) -> Self::I = _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()));
        [unsafe] load_i8(from: *const i8) -> Self::I = _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()));
        [unsafe] load_bf16(from: *const u16) -> Self::F = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()))));
        [unsafe] store_bf16(to: *mut u16, x: Self::F) = {
            let x = to_bf16(x);
            let packed = _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
            _mm_storeu_si128(to.cast(), packed)
        };
        [unsafe] load_f16(from: *const u16) -> Self::F = _mm256_cvtph_ps(_mm_loadu_si128(from.cast()));
        [unsafe] store_f16(to: *mut u16, x: Self::F) = _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x));
        [] add(a: Self::F, b: Self::F) -> Self::F = _mm256_add_ps(a, b);
        [] sub(a: Self::F, b: Self::F) -> Self::F = _mm256_sub_ps(a, b);
        [] mul(a: Self::F, b: Self::F) -> Self::F = _mm256_mul_ps(a, b);
        [] div(a: Self::F, b: Self::F) -> Self::F = _mm256_div_ps(a, b);
        [] mul_add(a: Self::F, b: Self::F, c: Self::F) -> Self::F = _mm256_fmadd_ps(a, b, c);
        [] neg_mul_add(a: Self::F, b: Self::F, c: Self::F) -> Self::F = _mm256_fnmadd_ps(a, b, c);
        [] max(a: Self::F, b: Self::F) -> Self::F = _mm256_max_ps(a, b);
        [] min(a: Self::F, b: Self::F) -> Self::F = _mm256_min_ps(a, b);
        [] sqrt(x: Self::F) -> Self::F = _mm256_sqrt_ps(x);
        [] round(x: Self::F) -> Self::F = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
        [] less(a: Self::F, b: Self::F) -> Self::M = _mm256_cmp_ps::<_CMP_LT_OQ>(a, b);
        [] equal(a: Self::F, b: Self::F) -> Self::M = _mm256_cmp_ps::<_CMP_EQ_OQ>(a, b);
        [] unordered(a: Self::F, b: Self::F) -> Self::M = _mm256_cmp_ps::<_CMP_UNORD_Q>(a, b);
        [] less_i(a: Self::I, b: Self::I) -> Self::M = _mm256_castsi256_ps(_mm256_cmpgt_epi32(b, a));
        [] select(mask: Self::M, a: Self::F, b: Self::F) -> Self::F = _mm256_blendv_ps(b, a, mask);
        [] any(mask: Self::M) -> bool = _mm256_movemask_ps(mask) != 0;
        [] to_i(x: Self::F) -> Self::I = _mm256_cvtps_epi32(x);
        [] to_f(x: Self::I) -> Self::F = _mm256_cvtepi32_ps(x);
        [] bits(x: Self::F) -> Self::I = _mm256_castps_si256(x);
        [] from_bits(x: Self::I) -> Self::F = _mm256_castsi256_ps(x);
        [] add_i(a: Self::I, b: Self::I) -> Self::I = _mm256_add_epi32(a, b);
        [] sub_i(a: Self::I, b: Self::I) -> Self::I = _mm256_sub_epi32(a, b);
        [] and(a: Self::I, b: Self::I) -> Self::I = _mm256_and_si256(a, b);
        [] or(a: Self::I, b: Self::I) -> Self::I = _mm256_or_si256(a, b);
        [] xor(a: Self::I, b: Self::I) -> Self::I = _mm256_xor_si256(a, b);
        [] shift_left [N] (x: Self::I) -> Self::I = _mm256_sll_epi32(x, _mm_cvtsi32_si128(N as i32));
        [] shift_right [N] (x: Self::I) -> Self::I = _mm256_srl_epi32(x, _mm_cvtsi32_si128(N as i32));
        [] dot_bf16(acc: Self::F, a: Self::I, b: Self::I) -> Self::F = {
            let low = |x| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x));
            let high = |x| _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(0xffff_0000_u32 as i32)));
            _mm256_fmadd_ps(high(a), high(b), _mm256_fmadd_ps(low(a), low(b), acc))
        };
        [] dot_u8_i8(acc: Self::I, a: Self::I, b: Self::I) -> Self::I = {
            // By way of 16 bits: products of bytes as they are would saturate in pairs.
            let even_a = _mm256_and_si256(a, _mm256_set1_epi16(0xff));
            let odd_a = _mm256_srli_epi16::<8>(a);
            let even_b = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b));
            let odd_b = _mm256_srai_epi16::<8>(b);
            let even = _mm256_madd_epi16(even_a, even_b);
            _mm256_add_epi32(acc, _mm256_add_epi32(even, _mm256_madd_epi16(odd_a, odd_b)))
        };
        [] swap_pairs(x: Self::F) -> Self::F = _mm256_permute_ps::<0b10_11_00_01>(x);
        [] interleave(a: Self::F, b: Self::F) -> [Self::F; 2] = {
            // Within halves first: a₀ b₀ a₁ b₁ | a₄ …, and a₂ b₂ a₃ b₃ | a₆ ….
            let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            [_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high)]
        };
        [] sum(x: Self::F) -> f32 = {
            let four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        };
        [] greatest(x: Self::F) -> f32 = {
            let four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        };
    }
}

/// The first `count < 8` lanes.
///
/// # Safety
/// AVX2 must be there.
#[inline(always)]
unsafe fn first(count: usize) -> __m256i {
    debug_assert!(count < 8, "{count} of 8 lanes");
    // SAFETY: the caller's promise.
    unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
}

/// bf16 in the lower half of each lane: to nearest even, NaN quiet.
///
/// # Safety
/// AVX2 must be there.
#[inline(always)]
unsafe fn to_bf16(x: __m256) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let bits = _mm256_castps_si256(x);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
        _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan))
    }
}
