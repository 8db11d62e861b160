//! AVX-512 (F, BW, DQ, VL) with VNNI and BF16: sixteen lanes. Processors with AVX-512 but without these two run as AVX2.

use std::{arch::x86_64::*, mem::transmute};

use super::{Isa, Kernel};

/// The token; [`detect`](Self::detect) alone makes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        let there = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx512bf16")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        there.then_some(Self(()))
    }

    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
        fn compiled<K: Kernel>(token: Avx512, kernel: K) -> K::Output {
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

impl Isa for Avx512 {
    const LANES: usize = 16;
    #[cfg(test)]
    const FUSED: bool = true;
    const OWN_PRODUCTS: bool = true;
    const TILE_ROWS: usize = 14;
    const INT8_ROWS: usize = 12;
    type F = __m512;
    type I = __m512i;
    type M = __mmask16;

    #[inline(always)]
    fn apart<K: Kernel>(self, kernel: K) -> K::Output {
        self.run(kernel)
    }

    instructions! {
        [] splat(x: f32) -> Self::F = _mm512_set1_ps(x);
        [] splat_i(x: i32) -> Self::I = _mm512_set1_epi32(x);
        [unsafe] load(from: *const f32) -> Self::F = _mm512_loadu_ps(from);
        [unsafe] store(to: *mut f32, x: Self::F) = _mm512_storeu_ps(to, x);
        [unsafe] load_first(from: *const f32, count: usize) -> Self::F = _mm512_maskz_loadu_ps(first(count), from);
        [unsafe] store_first(to: *mut f32, count: usize, x: Self::F) = _mm512_mask_storeu_ps(to, first(count), x);
        [unsafe] load_i(from: *const i32) -> Self::I = _mm512_loadu_epi32(from);
        [unsafe] store_i(to: *mut i32, x: Self::I) = _mm512_storeu_epi32(to, x);
        [unsafe] load_u8(from: *const u8) -> Self::I = _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()));
        [unsafe] load_i8(from: *const i8) -> Self::I = _mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()));
        [unsafe] load_bf16(from: *const u16) -> Self::F = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()))));
        [unsafe] store_bf16(to: *mut u16, x: Self::F) = _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(to_bf16(x)));
        [unsafe] load_f16(from: *const u16) -> Self::F = _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()));
        [unsafe] store_f16(to: *mut u16, x: Self::F) = _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x));
        [] add(a: Self::F, b: Self::F) -> Self::F = _mm512_add_ps(a, b);
        [] sub(a: Self::F, b: Self::F) -> Self::F = _mm512_sub_ps(a, b);
        [] mul(a: Self::F, b: Self::F) -> Self::F = _mm512_mul_ps(a, b);
        [] div(a: Self::F, b: Self::F) -> Self::F = _mm512_div_ps(a, b);
        [] mul_add(a: Self::F, b: Self::F, c: Self::F) -> Self::F = _mm512_fmadd_ps(a, b, c);
        [] neg_mul_add(a: Self::F, b: Self::F, c: Self::F) -> Self::F = _mm512_fnmadd_ps(a, b, c);
        [] max(a: Self::F, b: Self::F) -> Self::F = _mm512_max_ps(a, b);
        [] min(a: Self::F, b: Self::F) -> Self::F = _mm512_min_ps(a, b);
        [] sqrt(x: Self::F) -> Self::F = _mm512_sqrt_ps(x);
        [] round(x: Self::F) -> Self::F = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
        [] less(a: Self::F, b: Self::F) -> Self::M = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b);
        [] equal(a: Self::F, b: Self::F) -> Self::M = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b);
        [] unordered(a: Self::F, b: Self::F) -> Self::M = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, b);
        [] less_i(a: Self::I, b: Self::I) -> Self::M = _mm512_cmplt_epi32_mask(a, b);
        [] select(mask: Self::M, a: Self::F, b: Self::F) -> Self::F = _mm512_mask_blend_ps(mask, b, a);
        [] any(mask: Self::M) -> bool = mask != 0;
        [] to_i(x: Self::F) -> Self::I = _mm512_cvtps_epi32(x);
        [] to_f(x: Self::I) -> Self::F = _mm512_cvtepi32_ps(x);
        [] bits(x: Self::F) -> Self::I = _mm512_castps_si512(x);
        [] from_bits(x: Self::I) -> Self::F = _mm512_castsi512_ps(x);
        [] add_i(a: Self::I, b: Self::I) -> Self::I = _mm512_add_epi32(a, b);
        [] sub_i(a: Self::I, b: Self::I) -> Self::I = _mm512_sub_epi32(a, b);
        [] and(a: Self::I, b: Self::I) -> Self::I = _mm512_and_si512(a, b);
        [] or(a: Self::I, b: Self::I) -> Self::I = _mm512_or_si512(a, b);
        [] xor(a: Self::I, b: Self::I) -> Self::I = _mm512_xor_si512(a, b);
        [] shift_left [N] (x: Self::I) -> Self::I = _mm512_slli_epi32::<N>(x);
        [] shift_right [N] (x: Self::I) -> Self::I = _mm512_srli_epi32::<N>(x);
        [] dot_bf16(acc: Self::F, a: Self::I, b: Self::I) -> Self::F = _mm512_dpbf16_ps(acc, transmute::<__m512i, __m512bh>(a), transmute::<__m512i, __m512bh>(b));
        [] dot_u8_i8(acc: Self::I, a: Self::I, b: Self::I) -> Self::I = _mm512_dpbusd_epi32(acc, a, b);
        [] scale(x: Self::F, n: Self::F) -> Self::F = _mm512_scalef_ps(x, n);
        [] swap_pairs(x: Self::F) -> Self::F = _mm512_permute_ps::<0b10_11_00_01>(x);
        [] interleave(a: Self::F, b: Self::F) -> [Self::F; 2] = {
            let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
            [_mm512_permutex2var_ps(a, low, b), _mm512_permutex2var_ps(a, high, b)]
        };
        [] sum(x: Self::F) -> f32 = {
            let eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        };
        [] greatest(x: Self::F) -> f32 = {
            let eight = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        };
    }
}

/// The first `count < 16` lanes.
#[inline(always)]
fn first(count: usize) -> __mmask16 {
    debug_assert!(count < 16, "{count} of 16 lanes");
    (1 << count) - 1
}

/// bf16 in the lower half of each lane: to nearest even, NaN quiet. Not `vcvtneps2bf16`, which flushes denormals.
///
/// # Safety
/// AVX-512 must be there.
#[inline(always)]
unsafe fn to_bf16(x: __m512) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let bits = _mm512_castps_si512(x);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
        _mm512_srli_epi32::<16>(_mm512_mask_blend_epi32(nan, rounded, quiet))
    }
}
