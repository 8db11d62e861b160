//! What benchmarks of operations and the training step share: the backends of the build, and operands drawn at random.
//!
//! One file an operation in `benches/benches/`, each generic over the backend. Cargo features say which backends are measured.

#![forbid(unsafe_code)]

use std::{sync::Arc, thread};

use anyhow::{Result, bail};
use consort_core::{Backend, DType, Device, HostData, StoredTensor, TensorOf, WeightDType, WeightOf, philox};

/// Something that is run on a backend, whichever it is.
pub trait OnBackend {
    /// Runs it.
    ///
    /// # Errors
    /// What the operations meet.
    fn run<B: Backend>(&mut self, name: &'static str, device: &Device<B>) -> Result<()>;
}

/// Makes [`each`] of lines `"feature" => |threads| open;`, the fastest first.
macro_rules! backends {
    ($($feature:literal => $open:expr;)*) => {
        /// Runs `what` on the backend called `only`, or on every one in the build, each with so many threads where it takes
        /// a number of them.
        ///
        /// # Errors
        /// The first that a run gives; a backend that is not in the build, or does not open.
        pub fn each(only: Option<&str>, threads: Option<usize>, what: &mut impl OnBackend) -> Result<()> {
            let threads = threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
            let mut known = Vec::new();
            let mut found = false;
            $(
                #[cfg(feature = $feature)]
                {
                    known.push($feature);
                    if only.is_none_or(|only| only == $feature) {
                        found = true;
                        let open: fn(usize) -> Result<_> = $open;
                        what.run($feature, &Device::new(open(threads)?))?;
                    }
                }
            )*
            match found {
                true => Ok(()),
                false => bail!("backend '{}' is not in this build (in it: {known:?})", only.unwrap_or("any")),
            }
        }
    };
}

backends! {
    "simd" => |threads| Ok(consort_simd::Simd::with_threads(threads)?);
    "scalar" => |_| Ok(consort_scalar::Single::new());
}

/// A tensor of normal numbers, the same for the same `seed`.
///
/// # Errors
/// [`consort_core::Error::OutOfMemory`].
pub fn drawn<B: Backend>(device: &Device<B>, sizes: &[usize], seed: u64) -> Result<TensorOf<B>> {
    let values = numbers(sizes.iter().product(), seed);
    Ok(device.upload(HostData::from_f64(values.iter().map(|&value| f64::from(value)), device.float()), sizes)?)
}

/// A packed weight of normal numbers, deviation 0.02.
///
/// # Errors
/// [`consort_core::Error::OutOfMemory`], or a type that its rows do not fit.
pub fn weight<B: Backend>(device: &Device<B>, shape: [usize; 2], dtype: WeightDType) -> Result<WeightOf<B>> {
    let values = numbers(shape[0] * shape[1], 7);
    let bytes: Vec<u8> = values.into_iter().flat_map(|value| (0.02 * value).to_le_bytes()).collect();
    let stored = StoredTensor::new("weight", Arc::new(bytes), 0, WeightDType::F32, shape)?;
    Ok(device.pack(&[stored], dtype)?)
}

/// Waits for everything that `x` depends on, at the cost of little more than a row.
///
/// # Errors
/// What went wrong on the way.
pub fn settle<B: Backend>(device: &Device<B>, x: &TensorOf<B>) -> Result<()> {
    debug_assert!(x.dtype() != DType::U32, "floats");
    let row = device.gather_rows(x, &device.upload_ids(vec![0])?)?;
    device.download(&row)?;
    Ok(())
}

fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let fours = (0..count.div_ceil(4) as u64).flat_map(|at| philox::four_normals(seed, 0, at));
    fours.take(count).map(|value| value as f32).collect()
}
