//! Rows of a product among hundreds have the bits that they have alone: in blocks of rows, in panels that are made for all of
//! them, on any number of threads.

use consort_core::{Backend, Compute, Device, HostData, Result, StoredTensor, Tensor, Ticket, WeightDType, WeightOf};
use consort_simd::{Buffer, Level, Simd};

const ROWS: usize = 300;

fn values(count: usize, step: usize) -> Vec<f32> {
    (0..count).map(|i| (i * step % 211) as f32 / 105.5 - 1.0).collect()
}

fn bits(device: &Device<Simd>, x: &Tensor<Buffer>) -> Vec<u32> {
    match device.backend().download(&x.buffer).and_then(Ticket::wait) {
        Ok(HostData::F32(values)) => values.into_iter().map(f32::to_bits).collect(),
        other => panic!("{other:?}"),
    }
}

/// Rows of `run` over all rows are those of `run` over each of some alone.
fn holds(device: &Device<Simd>, width: usize, run: impl Fn(Tensor<Buffer>) -> Result<Tensor<Buffer>>, what: &str) {
    let x = device.upload(HostData::F32(values(ROWS * width, 37)), &[ROWS, width]).unwrap();
    let all = run(x.clone()).unwrap();
    let (all, outputs) = (bits(device, &all), all.size(1));
    for row in [0, 13, 14, 127, 128, 255, 256, 299] {
        let alone = bits(device, &run(x.slice(0, row, 1).unwrap()).unwrap());
        assert_eq!(alone, all[row * outputs..(row + 1) * outputs], "{what}, row {row}");
    }
}

#[test]
fn a_row_among_hundreds_is_the_row_alone() {
    for level in Level::available() {
        for threads in [1, 3] {
            let device = Device::new(Simd::new(level, threads));
            let pack = |outputs: usize, inputs: usize, dtype| -> WeightOf<Simd> {
                let values: Vec<f64> = values(outputs * inputs, 53).into_iter().map(f64::from).collect();
                device.pack(&[StoredTensor::from_values("w", &values, [outputs, inputs]).unwrap()], dtype).unwrap()
            };
            for (dtype, inputs) in [
                (WeightDType::F32, 131),
                (WeightDType::F16, 65),
                (WeightDType::BF16, 131),
                (WeightDType::Q8_0, 160),
                (WeightDType::Q4_K, 256),
                (WeightDType::Q6_K, 256),
            ] {
                let weight = pack(70, inputs, dtype);
                for compute in Compute::ALL {
                    let what = format!("{level:?} on {threads}, {dtype} in {compute}");
                    let forward = |x| device.linear(x, &weight, None, None, None, compute);
                    holds(&device, inputs, forward, &what);
                    if compute != Compute::Int8 {
                        let backward = |d_y: Tensor<Buffer>| {
                            let weight = weight.clone();
                            device.one(consort_core::Fused::LinearBackwardInput { d_y, weight, compute })
                        };
                        holds(&device, 70, backward, &format!("backward of {what}"));
                    }
                }
            }
        }
    }
}
