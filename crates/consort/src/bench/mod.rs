//! Speed measured so that it can be believed: what `consort bench` and the workspace's own benchmarks share.
//!
//! - Calls are timed in [`Blocks`]; what other processes used of the machine meanwhile is watched, and a block that they
//!   disturbed is told or repeated.
//! - A share is of a [limit](Limits) that was measured in the same run, never of a table's figure.
//! - [`Cost`] counts multiplications and bytes from a configuration, so that a rate has something to be a share of.

mod blocks;
mod cost;
mod limits;
mod machine;

pub use self::{
    blocks::{Blocks, Spread, Timed},
    cost::{Cost, Work},
    limits::{Limits, read_bandwidth},
    machine::{Noise, peak_memory, reset_peak_memory},
};
