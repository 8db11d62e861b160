//! Activations quantised wrongly.

use consort_core::{
    Backend, Device, Result, TensorOf,
    decompose::{ACTIVATION_BLOCK, LEAST_ACTIVATION, dequantize_activations},
};

use super::Fault;

/// Whether the fault is in how activations are quantised.
pub(super) fn is_in_codes(fault: Fault) -> bool {
    matches!(
        fault,
        Fault::CodesFloored
            | Fault::CodesTiesAway
            | Fault::ScaleOf128
            | Fault::ScaleOfRow
            | Fault::CodesWrapped
            | Fault::BlocksTakenForZeros
    )
}

/// Codes and scales as the fault makes them.
pub(super) fn wrong<B: Backend>(device: &Device<B>, fault: Fault, x: &TensorOf<B>) -> Result<[TensorOf<B>; 2]> {
    let [rows, width] = [x.size(0), x.size(1)];
    let x: Vec<f32> = device.download(x)?.to_f64().into_iter().map(|x| x as f32).collect();
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    for row in x.chunks(width.max(1)) {
        for block in row.chunks(ACTIVATION_BLOCK) {
            let over = if fault == Fault::ScaleOfRow { row } else { block };
            let greatest = over.iter().fold(0f32, |most, x| if x.is_nan() || x.abs() > most { x.abs() } else { most });
            let most = if matches!(fault, Fault::ScaleOf128 | Fault::CodesWrapped) { 128.0 } else { 127.0 };
            let least = if fault == Fault::BlocksTakenForZeros { 4.0 * LEAST_ACTIVATION } else { LEAST_ACTIVATION };
            let strange = !greatest.is_finite();
            let nothing = f64::from(greatest) < least;
            let inverse = most / greatest;
            let code = |x: &f32| match fault {
                _ if strange || nothing => 0.0,
                Fault::CodesFloored => (x * inverse).floor(),
                Fault::CodesTiesAway => (x * inverse).round(),
                Fault::ScaleOf128 => (x * inverse).round_ties_even().min(127.0),
                Fault::CodesWrapped => match (x * inverse).round_ties_even() {
                    128.0 => -128.0,
                    code => code,
                },
                _ => (x * inverse).round_ties_even(),
            };
            codes.extend(block.iter().map(code).map(f64::from));
            scales.push(match (strange, nothing) {
                (true, _) => f64::NAN,
                (_, true) => 0.0,
                _ => f64::from(greatest / most),
            });
        }
    }
    let blocks = width.div_ceil(ACTIVATION_BLOCK);
    Ok([device.upload_floats(&codes, &[rows, width])?, device.upload_floats(&scales, &[rows, blocks])?])
}

/// Activations as a faulty product takes them.
pub(super) fn taken<B: Backend>(device: &Device<B>, fault: Fault, x: &TensorOf<B>) -> Result<TensorOf<B>> {
    if fault == Fault::OtherCodes {
        let [codes, scales] = wrong(device, Fault::CodesFloored, x)?;
        return dequantize_activations(device, codes, &scales);
    }
    let [codes, scales] = device.quantize_activations(x.clone())?;
    let blocks = scales.size(1);
    let mut values = device.download(&scales)?.to_f64();
    values.chunks_mut(blocks.max(1)).for_each(|row| row.rotate_right(1));
    let scales = device.upload_floats(&values, scales.sizes())?;
    dequantize_activations(device, codes, &scales)
}

/// The upper half of each f32.
pub(super) fn truncated<B: Backend>(device: &Device<B>, x: &TensorOf<B>) -> Result<TensorOf<B>> {
    let cut = |value: f64| f64::from(f32::from_bits((value as f32).to_bits() & 0xffff_0000));
    let values: Vec<f64> = device.download(x)?.to_f64().into_iter().map(cut).collect();
    device.upload_floats(&values, x.sizes())
}
