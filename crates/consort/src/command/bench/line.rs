//! A case's figures, for people and for programs.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    Loaded,
    case::{Case, Kind},
};
use crate::bench::{Spread, Timed};

/// What was measured of a case.
pub(super) struct Line<'a> {
    pub(super) case: &'a Case,
    pub(super) loaded: &'a Loaded,
    pub(super) timed: Timed,
    /// Most memory so far, in bytes.
    pub(super) peak: Option<u64>,
}

/// Figures derived from the median.
struct Figures {
    /// Tokens a second.
    rate: Spread,
    /// Milliseconds a run, or a step.
    milliseconds: f64,
    /// 10⁹ multiplications and additions a second.
    operations: f64,
    /// 10⁹ bytes of weights a second.
    bytes: f64,
    /// Of the arithmetic that the registers can do.
    share_of_arithmetic: Option<f64>,
    /// Of what can be read from memory.
    share_of_reading: Option<f64>,
}

impl Line<'_> {
    /// Over the columns of [`text`](Self::text).
    pub(super) const HEADER: &'static str = "case                               tokens/s   (min – max)               ms    GFLOP/s     GB/s   of limit    MiB";

    fn figures(&self) -> Result<Figures> {
        let Self { case, loaded, timed, .. } = self;
        let rate = timed.rate(case.tokens() as f64).context("no run was timed")?;
        let seconds = case.tokens() as f64 / rate.median;
        let work = case.work(&loaded.cost);
        let (operations, bytes) = (work.operations / seconds / 1e9, work.bytes / seconds / 1e9);
        let limits = loaded.limits.as_ref();
        Ok(Figures {
            rate,
            milliseconds: 1e3 * seconds / if case.kind == Kind::Decode { case.new as f64 } else { 1.0 },
            operations,
            bytes,
            share_of_arithmetic: limits
                .and_then(|limits| limits.arithmetic(loaded.compute))
                .map(|peak| operations / peak),
            share_of_reading: limits.and_then(|limits| limits.read).map(|read| bytes / read),
        })
    }

    /// A line of the table.
    pub(super) fn text(&self) -> Result<String> {
        let figures = self.figures()?;
        // What a case is bound by: prompts by arithmetic, steps by memory until many rows share what is read.
        let share = match self.case.kind {
            Kind::Prefill | Kind::Encode => figures.share_of_arithmetic,
            Kind::Decode | Kind::Translate => {
                [figures.share_of_reading, figures.share_of_arithmetic].into_iter().flatten().reduce(f64::max)
            }
        };
        let share = share.map_or("–".to_owned(), |share| format!("{:.0} %", 100.0 * share));
        let memory = self.peak.map_or("–".to_owned(), |peak| mib(peak).to_string());
        let noise = match (self.timed.clean, self.timed.others) {
            (true, _) => String::new(),
            (false, Some(others)) => format!("   disturbed: others used {others:.2} processors"),
            (false, None) => "   what others used is not known".to_owned(),
        };
        let Spread { median, min, max } = figures.rate;
        let spread = format!("({min:.1} – {max:.1})");
        Ok(format!(
            "{:30} {median:>12.1}   {spread:<20} {:>9.2} {:>10.1} {:>8.1} {share:>10} {memory:>6}{noise}",
            self.case.name(),
            figures.milliseconds,
            figures.operations,
            figures.bytes,
        ))
    }

    /// An object with everything that is known.
    pub(super) fn json(&self) -> Result<Value> {
        let Self { case, loaded, timed, peak } = self;
        let figures = self.figures()?;
        let limits = loaded.limits.as_ref();
        Ok(json!({
            "engine": "consort",
            "version": env!("CARGO_PKG_VERSION"),
            "backend": loaded.backend,
            "model": loaded.name,
            "dtype": loaded.dtype,
            "compute": loaded.compute.to_string(),
            "threads": loaded.threads,
            "case": case.name(),
            "prompt_tokens": case.prompt,
            "new_tokens": case.new,
            "batch": case.batch,
            "beams": case.beams,
            "unit": "tokens/s",
            "median": figures.rate.median,
            "min": figures.rate.min,
            "max": figures.rate.max,
            "runs": timed.seconds.len(),
            "median_ms": figures.milliseconds,
            "gflop_s": figures.operations,
            "weight_gb_s": figures.bytes,
            "share_of_arithmetic": figures.share_of_arithmetic,
            "share_of_reading": figures.share_of_reading,
            "limits": {
                "read_gb_s": limits.and_then(|limits| limits.read),
                "f32_gflop_s": limits.and_then(|limits| limits.f32),
                "bf16_gflop_s": limits.and_then(|limits| limits.bf16),
                "int8_gflop_s": limits.and_then(|limits| limits.int8),
            },
            "load_s": loaded.load.as_secs_f64(),
            "first_token_s": loaded.first_token.as_secs_f64(),
            "weights_mib": loaded.cost.resident() as f64 / MIB,
            "cache_mib": case.cache(&loaded.cost) as f64 / MIB,
            "peak_rss_mib": peak.map(|peak| peak as f64 / MIB),
            "clean": timed.clean,
            "discarded_blocks": timed.discarded,
            "worst_foreign_cpus": timed.others,
        }))
    }
}

const MIB: f64 = (1u64 << 20) as f64;

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}
