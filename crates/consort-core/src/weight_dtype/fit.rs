//! The scale, or scale and minimum, that keep a few values best in whole steps.
//!
//! For a choice of codes the best scale is a weighted least-squares solution; codes come from rounding at a trial scale.
//! Trial scales around the one that just reaches the greatest value are tried in turn, and the one with the least weighted
//! squared error wins. Values weigh by their magnitude beside the block's root mean square: great weights matter more to
//! a product than their share.

/// Trial scales on each side of the plain one, and their distance in codes.
const TRIALS: i32 = 8;
const STEP: f32 = 0.1;

/// s such that `x ≈ s · q`, q whole from `−top` to `top − 1`; 0 where all are 0.
pub(super) fn symmetric(values: &[f32], top: f32) -> f32 {
    let greatest = values.iter().fold(0f32, |most, &x| if x.abs() > most.abs() { x } else { most });
    if greatest == 0.0 {
        return 0.0;
    }
    let weight = weights(values);
    let mut best = (f32::NEG_INFINITY, 0.0);
    for trial in -TRIALS..=TRIALS {
        // The greatest value takes the end that has one code more.
        let inverse = -(top + trial as f32 * STEP) / greatest;
        let (mut product, mut square) = (0f32, 0f32);
        for &x in values {
            let q = (x * inverse).round_ties_even().clamp(-top, top - 1.0);
            let w = weight(x);
            product += w * x * q;
            square += w * q * q;
        }
        // The error is Σ w·x² less this.
        let explained = product * product / square;
        if square > 0.0 && explained > best.0 {
            best = (explained, product / square);
        }
    }
    best.1
}

/// (s, m), neither below 0, such that `x ≈ s · q − m`, q whole from 0 to `top`.
pub(super) fn affine(values: &[f32], top: f32) -> (f32, f32) {
    let low = values.iter().copied().fold(0f32, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if high <= low {
        return (0.0, -low); // nothing lies above the least
    }
    let weight = weights(values);
    let mut best = (f32::INFINITY, (high - low) / top, -low);
    for trial in -TRIALS..=TRIALS {
        let inverse = (top + trial as f32 * STEP) / (high - low);
        let code = |x: f32| ((x - low) * inverse).round_ties_even().clamp(0.0, top);
        // Sums of the weights, of q, q², x and q·x.
        let [mut n, mut q1, mut q2, mut x1, mut qx] = [0f32; 5];
        for &x in values {
            let (q, w) = (code(x), weight(x));
            n += w;
            q1 += w * q;
            q2 += w * q * q;
            x1 += w * x;
            qx += w * q * x;
        }
        let determinant = n * q2 - q1 * q1;
        if determinant <= 0.0 {
            continue;
        }
        let mut scale = (n * qx - q1 * x1) / determinant;
        let mut minimum = (q2 * x1 - q1 * qx) / determinant;
        if minimum > 0.0 {
            (scale, minimum) = (qx / q2, 0.0);
        }
        let error: f32 = values.iter().map(|&x| weight(x) * (scale * code(x) + minimum - x).powi(2)).sum();
        if scale > 0.0 && error < best.0 {
            best = (error, scale, -minimum);
        }
    }
    (best.1, best.2)
}

fn weights(values: &[f32]) -> impl Fn(f32) -> f32 {
    // Powers of two beside the greatest value: squares of tiny or huge ones stay numbers.
    let greatest = values.iter().fold(0f32, |most, x| most.max(x.abs()));
    let mean = values.iter().map(|x| (x / greatest).powi(2)).sum::<f32>() / values.len() as f32;
    let root = mean.sqrt();
    move |x| root + (x / greatest).abs()
}
