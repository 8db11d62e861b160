//! Matrix products over panels: [`PANEL`] columns side by side, row after row of the reduced dimension.

pub(crate) mod tile;

/// Columns of a panel: outputs of a weight, keys of a cache's block.
pub(crate) const PANEL: usize = 32;
