//! The comparer compared: every planted fault must be found, and who found it is said.
//!
//! - In an f32 backend ([`Faulty`] around scalar f32): the suite's checks on the quick recipes must find it.
//! - In a formula ([`Faulty`] around the oracle), and in the scalar backend's source (feature `planted-faults` of
//!   consort-scalar): f32 and oracle agree then, and the vectors of other implementations must find it.

mod fault;
mod faulty;
mod quantized;
#[cfg(feature = "self-test")]
mod run;

#[cfg(feature = "self-test")]
pub use self::run::{Hunt, Planted, hunt, summary};
pub use self::{
    fault::Fault,
    faulty::{Faulty, Shared},
};
