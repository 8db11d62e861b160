//! `linear`: `[N, N] · [N, N]ᵀ` as a model asks for it, activations rounded or quantised within the time that counts.

use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use consort_benches::{OnBackend, drawn, settle, weight};
use consort_core::{Backend, Compute, Device, WeightDType};
use serde_json::json;

use crate::Common;

#[derive(Args)]
pub(crate) struct Linear {
    /// N
    #[arg(long, value_name = "N", default_value_t = 2048)]
    size: usize,
    /// Type that the weight is kept in [default: the one that goes with --compute]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<String>,
    #[command(flatten)]
    common: Common,
}

impl AsRef<Common> for Linear {
    fn as_ref(&self) -> &Common {
        &self.common
    }
}

impl OnBackend for Linear {
    fn run<B: Backend>(&mut self, name: &'static str, device: &Device<B>) -> Result<()> {
        let (size, compute) = (self.size, self.common.compute);
        let dtype = match &self.dtype {
            Some(name) => WeightDType::from_name(name).with_context(|| format!("there is no type '{name}'"))?,
            None => match compute {
                Compute::F32 => WeightDType::F32,
                Compute::BF16 => WeightDType::BF16,
                Compute::Int8 => WeightDType::Q8_0,
            },
        };
        let x = drawn(device, &[size, size], 1)?;
        let weight = weight(device, [size, size], dtype)?;
        let once = || {
            let start = Instant::now();
            let y = device.linear(x.clone(), &weight, None, None, None, compute)?;
            settle(device, &y)?;
            anyhow::Ok(start.elapsed().as_secs_f64())
        };
        once()?;
        let timed = self.common.blocks()?.time(once)?;
        let operations = 2.0 * (size as f64).powi(3);
        let own = json!({ "case": format!("gemm_{size}_{compute}"), "dtype": dtype.to_string() });
        self.common.print(name, "GFLOP/s", operations / 1e9, operations, &timed, own)
    }
}
