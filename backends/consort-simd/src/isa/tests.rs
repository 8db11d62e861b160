//! Each method of each set against plain arithmetic, lane by lane.

use half::{bf16, f16};

use super::{Isa, Kernel, Level};

/// A test of a set's methods.
macro_rules! on_every_level {
    ($name:ident, $isa:ident, $S:ident, $body:block) => {
        #[test]
        fn $name() {
            struct Test;
            impl Kernel for Test {
                type Output = ();
                #[inline(always)]
                fn run<$S: Isa>(self, $isa: $S) {
                    $body
                }
            }
            Level::available().into_iter().for_each(|level| level.run(Test));
        }
    };
}

/// Numbers of every kind: zeros, infinities, NaN, denormals, halves, ends, and others of all exponents.
fn floats(count: usize, seed: u32) -> Vec<f32> {
    const SPECIAL: [f32; 18] = [
        0.0,
        -0.0,
        1.0,
        -1.5,
        0.5,
        2.5,
        -3.5,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MAX,
        f32::MIN_POSITIVE,
        1e-42,
        -1e-45,
        8_388_609.0,
        2_147_483_648.0,
        -2_147_483_648.0,
        3e9,
    ];
    let mut state = seed;
    let mut next = || {
        // Knuth's generator (The Art of Computer Programming 2, 3.3.4): high bits are good.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state
    };
    let mut number = || match next() >> 29 {
        0 => SPECIAL[(next() >> 8) as usize % SPECIAL.len()],
        1..=4 => (next() >> 8) as f32 / 65_536.0 - 128.0,
        _ => f32::from_bits(next() ^ next() >> 16),
    };
    (0..count).map(|_| number()).collect()
}

fn wholes(count: usize, seed: u32) -> Vec<i32> {
    floats(count, seed).iter().map(|x| x.to_bits().cast_signed().rotate_left(7)).collect()
}

fn lanes<S: Isa>(isa: S, x: S::F) -> Vec<f32> {
    let mut y = vec![0.0; S::LANES];
    // SAFETY: there are LANES elements.
    unsafe { isa.store(y.as_mut_ptr(), x) };
    y
}

fn lanes_i<S: Isa>(isa: S, x: S::I) -> Vec<i32> {
    let mut y = vec![0; S::LANES];
    // SAFETY: there are LANES elements.
    unsafe { isa.store_i(y.as_mut_ptr(), x) };
    y
}

fn lanes_m<S: Isa>(isa: S, mask: S::M) -> Vec<bool> {
    lanes(isa, isa.select(mask, isa.splat(1.0), isa.zero())).iter().map(|&x| x == 1.0).collect()
}

fn of<S: Isa>(isa: S, x: &[i32]) -> S::I {
    assert!(x.len() >= S::LANES);
    // SAFETY: there are LANES elements.
    unsafe { isa.load_i(x.as_ptr()) }
}

/// The same bits, or NaN both.
#[track_caller]
fn same(actual: &[f32], expected: impl Iterator<Item = f32>) {
    let expected: Vec<f32> = expected.take(actual.len()).collect();
    let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    assert_eq!(actual.len(), expected.len());
    assert!(actual.iter().zip(&expected).all(same), "{actual:?}, not {expected:?}");
}

#[track_caller]
fn equal<T: PartialEq + std::fmt::Debug>(actual: &[T], expected: impl Iterator<Item = T>) {
    assert_eq!(actual, expected.take(actual.len()).collect::<Vec<T>>());
}

const ROUNDS: u32 = 300;

on_every_level!(arithmetic, isa, S, {
    for round in 0..ROUNDS {
        let (a, b, c) = (floats(16, round), floats(16, round + 1000), floats(16, round + 2000));
        let (x, y, z) = (isa.read(&a), isa.read(&b), isa.read(&c));
        let pairs = || a.iter().copied().zip(b.iter().copied());
        same(&lanes(isa, x), a.iter().copied());
        same(&lanes(isa, isa.splat(a[0])), std::iter::repeat(a[0]));
        same(&lanes(isa, isa.zero()), std::iter::repeat(0.0));
        same(&lanes(isa, isa.add(x, y)), pairs().map(|(a, b)| a + b));
        same(&lanes(isa, isa.sub(x, y)), pairs().map(|(a, b)| a - b));
        same(&lanes(isa, isa.mul(x, y)), pairs().map(|(a, b)| a * b));
        same(&lanes(isa, isa.div(x, y)), pairs().map(|(a, b)| a / b));
        let mul_add = |a: f32, b: f32, c: f32| if S::FUSED { a.mul_add(b, c) } else { a * b + c };
        same(&lanes(isa, isa.mul_add(x, y, z)), pairs().zip(&c).map(|((a, b), &c)| mul_add(a, b, c)));
        same(&lanes(isa, isa.neg_mul_add(x, y, z)), pairs().zip(&c).map(|((a, b), &c)| mul_add(-a, b, c)));
        same(&lanes(isa, isa.max(x, y)), pairs().map(|(a, b)| if a > b { a } else { b }));
        same(&lanes(isa, isa.min(x, y)), pairs().map(|(a, b)| if a < b { a } else { b }));
        same(&lanes(isa, isa.sqrt(x)), a.iter().map(|x| x.sqrt()));
        same(&lanes(isa, isa.round(x)), a.iter().map(|x| x.round_ties_even()));
        same(&lanes(isa, isa.abs(x)), a.iter().map(|x| x.abs()));
        same(&lanes(isa, isa.negate(x)), a.iter().map(|x| -x));
        same(&lanes(isa, isa.swap_pairs(x)), (0..16).map(|lane| a[lane ^ 1]));
        let interleaved = isa.interleave(x, y).map(|x| lanes(isa, x)).concat();
        same(&interleaved, (0..32).map(|lane| if lane % 2 == 0 { a[lane / 2] } else { b[lane / 2] }));
    }
});

on_every_level!(comparisons, isa, S, {
    for round in 0..ROUNDS {
        let (a, mut b) = (floats(16, round), floats(16, round + 1000));
        b[3] = a[3];
        let (x, y) = (isa.read(&a), isa.read(&b));
        let pairs = || a.iter().copied().zip(b.iter().copied());
        equal(&lanes_m(isa, isa.less(x, y)), pairs().map(|(a, b)| a < b));
        equal(&lanes_m(isa, isa.equal(x, y)), pairs().map(|(a, b)| a == b));
        equal(&lanes_m(isa, isa.unordered(x, y)), pairs().map(|(a, b)| a.is_nan() || b.is_nan()));
        let selected = lanes(isa, isa.select(isa.less(x, y), x, y));
        same(&selected, pairs().map(|(a, b)| if a < b { a } else { b }));
        assert_eq!(isa.any(isa.less(x, y)), pairs().take(S::LANES).any(|(a, b)| a < b));
        let (i, j) = (wholes(16, round), wholes(16, round + 1000));
        equal(&lanes_m(isa, isa.less_i(of(isa, &i), of(isa, &j))), i.iter().zip(&j).map(|(i, j)| i < j));
    }
    for lane in 0..S::LANES {
        let mut one = [0.0; 16];
        one[lane] = 1.0;
        assert!(isa.any(isa.less(isa.zero(), isa.read(&one))), "lane {lane}");
    }
    assert!(!isa.any(isa.less(isa.zero(), isa.zero())));
});

on_every_level!(whole_numbers, isa, S, {
    let whole = |x: f32| match x.round_ties_even() {
        x if (-2_147_483_648.0..2_147_483_648.0).contains(&x) => x as i32,
        _ => i32::MIN,
    };
    for round in 0..ROUNDS {
        let (a, i, j) = (floats(16, round), wholes(16, round), wholes(16, round + 1000));
        let (x, m, n) = (isa.read(&a), of(isa, &i), of(isa, &j));
        let pairs = || i.iter().copied().zip(j.iter().copied());
        equal(&lanes_i(isa, isa.to_i(x)), a.iter().map(|&x| whole(x)));
        same(&lanes(isa, isa.to_f(m)), i.iter().map(|&i| i as f32));
        equal(&lanes_i(isa, isa.bits(x)), a.iter().map(|x| x.to_bits().cast_signed()));
        same(&lanes(isa, isa.from_bits(m)), i.iter().map(|i| f32::from_bits(i.cast_unsigned())));
        equal(&lanes_i(isa, isa.splat_i(i[0])), std::iter::repeat(i[0]));
        equal(&lanes_i(isa, isa.add_i(m, n)), pairs().map(|(i, j)| i.wrapping_add(j)));
        equal(&lanes_i(isa, isa.sub_i(m, n)), pairs().map(|(i, j)| i.wrapping_sub(j)));
        equal(&lanes_i(isa, isa.and(m, n)), pairs().map(|(i, j)| i & j));
        equal(&lanes_i(isa, isa.or(m, n)), pairs().map(|(i, j)| i | j));
        equal(&lanes_i(isa, isa.xor(m, n)), pairs().map(|(i, j)| i ^ j));
        equal(&lanes_i(isa, isa.shift_left::<7>(m)), i.iter().map(|i| i << 7));
        equal(&lanes_i(isa, isa.shift_right::<7>(m)), i.iter().map(|i| (i.cast_unsigned() >> 7).cast_signed()));
        equal(&lanes_i(isa, isa.shift_left::<31>(m)), i.iter().map(|i| i << 31));
        equal(&lanes_i(isa, isa.shift_right::<31>(m)), i.iter().map(|i| (i.cast_unsigned() >> 31).cast_signed()));
    }
});

on_every_level!(scaling, isa, S, {
    for n in -252..=254 {
        for x in [1.0f32, -1.25, 0.707_106_77, 1.414_3, 0.999_999_94] {
            let expected = (f64::from(x) * 2f64.powi(n)) as f32;
            same(&lanes(isa, isa.scale(isa.splat(x), isa.splat(n as f32))), std::iter::repeat(expected));
        }
    }
});

on_every_level!(some_lanes, isa, S, {
    for misaligned in 0..3 {
        let a = floats(40, 7);
        for count in 0..=S::LANES {
            let x = &a[misaligned..misaligned + count];
            let expected = || x.iter().copied().chain(std::iter::repeat(0.0));
            same(&lanes(isa, isa.read(x)), expected());
            let mut to = vec![7.0; 40];
            isa.write(&mut to[misaligned..misaligned + count], isa.read(&a[misaligned..]));
            let rest = std::iter::repeat_n(7.0, 40 - misaligned - count);
            same(&to, std::iter::repeat_n(7.0, misaligned).chain(x.iter().copied()).chain(rest));
            if count < S::LANES {
                let mut to = vec![7.0; 40];
                // SAFETY: there are more than `count` elements.
                let read = unsafe {
                    let read = isa.load_first(x.as_ptr(), count);
                    isa.store_first(to.as_mut_ptr().add(misaligned), count, isa.read(&a[misaligned..]));
                    read
                };
                same(&lanes(isa, read), expected());
                same(&to[misaligned..], x.iter().copied().chain(std::iter::repeat(7.0)));
            }
        }
    }
});

on_every_level!(narrow_types, isa, S, {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    for halves in all.chunks_exact(S::LANES) {
        // SAFETY: there are LANES elements.
        let [from_bf16, from_f16] = unsafe { [isa.load_bf16(halves.as_ptr()), isa.load_f16(halves.as_ptr())] };
        same(&lanes(isa, from_bf16), halves.iter().map(|&x| bf16::from_bits(x).to_f32()));
        same(&lanes(isa, from_f16), halves.iter().map(|&x| f16::from_bits(x).to_f32()));
        // What they are, just above and below halfway to the next, and halfway.
        for low in [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
            let x: Vec<f32> = halves.iter().map(|&x| f32::from_bits(u32::from(x) << 16 | low)).collect();
            let mut to = [0u16; 16];
            // SAFETY: there are LANES elements.
            unsafe { isa.store_bf16(to.as_mut_ptr(), isa.read(&x)) };
            equal(&to[..S::LANES], x.iter().map(|&x| bf16::from_f32(x).to_bits()));
        }
    }
    let bytes: Vec<u8> = (0..=u8::MAX).collect();
    for bytes in bytes.chunks_exact(S::LANES) {
        // SAFETY: there are LANES elements.
        let [unsigned, signed] = unsafe { [isa.load_u8(bytes.as_ptr()), isa.load_i8(bytes.as_ptr().cast())] };
        equal(&lanes_i(isa, unsigned), bytes.iter().map(|&x| i32::from(x)));
        equal(&lanes_i(isa, signed), bytes.iter().map(|&x| i32::from(x.cast_signed())));
    }
});

on_every_level!(dot_products, isa, S, {
    let dot = |sum: i32, a: i32, b: i32| {
        let products = a.to_ne_bytes().into_iter().zip(b.to_ne_bytes());
        sum + products.map(|(a, b)| i32::from(a) * i32::from(b.cast_signed())).sum::<i32>()
    };
    let ends = [0x0000_0000, 0xffff_ffff, 0x8080_8080, 0x7f7f_7f7f, 0xff80_7f00_u32].map(u32::cast_signed);
    for a in ends {
        for b in ends {
            let sums = isa.dot_u8_i8(isa.splat_i(-5), isa.splat_i(a), isa.splat_i(b));
            equal(&lanes_i(isa, sums), std::iter::repeat(dot(-5, a, b)));
        }
    }
    assert_eq!(lanes_i(isa, isa.dot_u8_i8(isa.splat_i(0), isa.splat_i(-1), isa.splat_i(ends[2])))[0], -255 * 128 * 4);
    for round in 0..ROUNDS {
        let (a, b) = (wholes(16, round), wholes(16, round + 1000));
        let sums: Vec<i32> = wholes(16, round + 2000).iter().map(|x| x >> 4).collect();
        let actual = lanes_i(isa, isa.dot_u8_i8(of(isa, &sums), of(isa, &a), of(isa, &b)));
        equal(&actual, (0..16).map(|lane| dot(sums[lane], a[lane], b[lane])));
        // bf16 of no extreme size: the sum is as near as two roundings of its parts.
        let tame = |x: i32| x & 0x807f_807f_u32.cast_signed() | 0x3f80_3f80;
        let (a, b): (Vec<i32>, Vec<i32>) = a.into_iter().zip(b).map(|(a, b)| (tame(a), tame(b))).unzip();
        let acc: Vec<f32> = sums.iter().map(|&x| x as f32 / 268_435_456.0).collect();
        let actual = lanes(isa, isa.dot_bf16(isa.read(&acc), of(isa, &a), of(isa, &b)));
        for (lane, actual) in actual.into_iter().enumerate() {
            let part = |x: i32, shift: u32| f64::from(f32::from_bits((x.cast_unsigned() >> shift) << 16));
            let products = [0, 16].map(|shift| part(a[lane], shift) * part(b[lane], shift));
            let exact = f64::from(acc[lane]) + products[0] + products[1];
            let size = f64::from(acc[lane]).abs() + products[0].abs() + products[1].abs();
            assert!((f64::from(actual) - exact).abs() <= size * 2f64.powi(-22), "{actual}, not {exact}");
        }
    }
});

on_every_level!(over_lanes, isa, S, {
    for round in 0..ROUNDS {
        // Some of them with NaN, most of them without.
        let x: Vec<f32> = floats(16, round).into_iter().map(|x| if x.abs() < 1e30 { x } else { 0.1 }).collect();
        for x in [x, floats(16, round + 1000)] {
            let x = &x[..S::LANES];
            let halve = |x: &[f32], f: fn(f32, f32) -> f32| -> f32 {
                let mut x = x.to_vec();
                while x.len() > 1 {
                    let half = x.len() / 2;
                    x = (0..half).map(|lane| f(x[lane], x[lane + half])).collect();
                }
                x[0]
            };
            same(&[isa.sum(isa.read(x))], std::iter::once(halve(x, |a, b| a + b)));
            same(&[isa.greatest(isa.read(x))], std::iter::once(halve(x, |a, b| if a > b { a } else { b })));
        }
    }
});
