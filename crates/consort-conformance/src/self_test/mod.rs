//! The comparer compared: every planted fault must be caught, and by what is said.

mod fault;
mod faulty;

pub use self::{fault::Fault, faulty::Faulty};
