//! Shapes that real models ask for.

use super::Sweep;

pub(super) fn sweep(_op: &str, _sweep: &mut Sweep) {}
