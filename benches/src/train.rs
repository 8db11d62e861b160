//! `train`: one step, that is a forward pass, the loss brought to the host, all gradients, and AdamW on every parameter.

use std::{path::PathBuf, sync::Arc, time::Instant};

use anyhow::{Context, Result};
use clap::Args;
use consort_benches::OnBackend;
use consort_core::{
    Backend, Compute, Device, Fused, TensorOf, Transformer, TransformerConfig, WeightDType,
    autodiff::{Autodiff, Parameter},
    model::{LoadOptions, RandomWeights},
    operation::AdamWSettings,
    philox,
};
use serde_json::json;

use crate::Common;

#[derive(Args)]
pub(crate) struct Train {
    /// Shape of the model: decoder-only, with a context
    #[arg(long, value_name = "FILE.toml", default_value = "configs/char-10m.toml")]
    config: PathBuf,
    /// Sequences of a step, each as long as the context
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: usize,
    #[command(flatten)]
    common: Common,
}

/// A model under training.
struct Trainer<B: Backend> {
    model: Transformer<Autodiff<B>>,
    parameters: Vec<Arc<Parameter<B>>>,
    moments: Vec<[TensorOf<B>; 2]>,
    inputs: Vec<Vec<u32>>,
    targets: Vec<u32>,
    steps: u32,
}

impl AsRef<Common> for Train {
    fn as_ref(&self) -> &Common {
        &self.common
    }
}

impl OnBackend for Train {
    fn run<B: Backend>(&mut self, name: &'static str, device: &Device<B>) -> Result<()> {
        let shown = || self.config.display().to_string();
        let text = std::fs::read_to_string(&self.config).with_context(shown)?;
        let config: TransformerConfig = toml::from_str(&text).with_context(shown)?;
        let mut trainer = Trainer::new(device, &config, self.batch, self.common.compute)?;
        let parameters = config.slots().iter().map(|slot| slot.shape[0] * slot.shape[1]).sum::<usize>();
        let mut losses = Vec::new();
        let mut once = || {
            let start = Instant::now();
            losses.push(trainer.step()?);
            anyhow::Ok(start.elapsed().as_secs_f64())
        };
        let first_step = once()?;
        once()?;
        let timed = self.common.blocks()?.time(once)?;
        let (Some(first), Some(last)) = (losses.first(), losses.last()) else { anyhow::bail!("no step was taken") };
        anyhow::ensure!(last < first, "the loss went from {first} to {last}: a step does not learn");
        let decoder = config.decoder.as_ref().context("no decoder")?;
        let context = trainer.inputs[0].len();
        let rows = (context * self.batch) as f64;
        // As nanoGPT counts: three passes of two operations a weight, tables of positions left out, and half of the scores.
        let positions = context * config.width;
        let scores = 6 * decoder.layers * decoder.attention.heads * decoder.attention.head_width * context;
        let operations = rows * (6 * (parameters - positions) + scores) as f64;
        let own = json!({
            "case": "train_step",
            "model": self.config.file_stem().map(|name| name.to_string_lossy().into_owned()),
            "parameters": parameters,
            "first_step_s": first_step,
            "losses": [first, last],
        });
        self.common.print(name, "tokens/s", rows, operations, &timed, own)
    }
}

impl<B: Backend> Trainer<B> {
    fn new(device: &Device<B>, config: &TransformerConfig, batch: usize, compute: Compute) -> Result<Self> {
        let decoder = config.decoder.as_ref().filter(|_| config.encoder.is_none());
        let decoder = decoder.context("a decoder alone is trained here")?;
        let context = decoder.context.context("the decoder has no context: how long is a sequence?")?;
        let tape = Device::new(Autodiff::new(device.clone()));
        // What is rounded in the product anyway is kept rounded: masters are in singles.
        let dtype = if compute == Compute::BF16 { WeightDType::BF16 } else { WeightDType::F32 };
        let options = LoadOptions { dtype: Some(dtype), compute, ..LoadOptions::default() };
        let model = Transformer::load(&tape, config, &RandomWeights::new(config, 0), options)?;
        let parameters = tape.backend().parameters();
        let moments = parameters
            .iter()
            .map(|parameter| {
                let zeros = || device.zeros(*parameter.value().shape(), device.float());
                Ok([zeros()?, zeros()?])
            })
            .collect::<Result<_>>()?;
        let draw =
            |row: usize, at: usize| (philox::uniform(0, row as u64, at as u64) * decoder.vocabulary as f64) as u32;
        let text: Vec<Vec<u32>> = (0..batch).map(|row| (0..=context).map(|at| draw(row, at)).collect()).collect();
        Ok(Self {
            model,
            parameters,
            moments,
            inputs: text.iter().map(|text| text[..context].to_vec()).collect(),
            targets: text.iter().flat_map(|text| text[1..].to_vec()).collect(),
            steps: 0,
        })
    }

    /// Trains once; the mean loss before it.
    fn step(&mut self) -> Result<f64> {
        let tape = self.model.device();
        let device = tape.backend().inner().clone();
        let rows = self.targets.len();
        let inputs: Vec<&[u32]> = self.inputs.iter().map(Vec::as_slice).collect();
        let hidden = self.model.forward(&[], &inputs, None)?;
        let logits = self.model.logits(&hidden, None)?;
        let targets = tape.upload_ids(self.targets.clone())?;
        let losses = tape.one(Fused::CrossEntropy { logits, targets, smoothing: 0.0 })?; // [R]
        let loss = tape.download(&losses)?.to_f64().iter().sum::<f64>() / rows as f64;
        let share = device.fill(&[rows], 1.0 / rows as f64)?;
        let gradients = tape.backend().backward(&[(losses, share)])?;
        self.steps += 1;
        let settings =
            AdamWSettings { rate: 1e-3, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.1, step: self.steps };
        // Handed over, so that the moments are changed where they lie.
        let moments = std::mem::take(&mut self.moments);
        for (parameter, [first, second]) in self.parameters.iter().zip(moments) {
            let value = parameter.value();
            let gradient = match gradients.parameter(parameter) {
                Some(gradient) => gradient,
                None => device.zeros(*value.shape(), device.float())?,
            };
            let outputs = device.fused(Fused::AdamW { parameter: value, gradient, first, second, settings })?;
            let outputs = <[TensorOf<B>; 3]>::try_from(outputs.into_vec());
            let [value, first, second] = outputs.ok().context("adamw has three outputs")?;
            self.moments.push([first, second]);
            tape.backend().set(parameter, value)?;
        }
        Ok(loss)
    }
}
