//! Panels that were made from others, once for many blocks of rows.

use std::ops::Range;

use consort_core::Result;

use super::{CHUNK, PANEL, Panels};
use crate::{
    Simd,
    isa::{Isa, Kernel},
    storage::{Buffer, filled},
    team::Parts,
};

/// `[panels, steps, PANEL]`.
pub(super) struct Made<const PAIRS: bool> {
    panels: Buffer,
    steps: usize,
}

impl<const PAIRS: bool> Made<PAIRS> {
    /// All of `from`, which is of the same kind.
    ///
    /// # Errors
    /// Out of memory.
    pub(super) fn new<P: Panels>(simd: &Simd, from: &P, panels: usize, steps: usize) -> Result<Self> {
        debug_assert!(P::PAIRS == PAIRS && !P::DIRECT);
        let size = steps * PANEL;
        let mut made = simd.pool.take::<f32>(panels * size)?;
        let to = Parts::new(filled::<f32>(&mut made)?);
        simd.team.ranges(panels, 1, |range| {
            for panel in range {
                // SAFETY: panels do not meet.
                let to = unsafe { to.part(panel * size..(panel + 1) * size) };
                simd.level.run(Make { from, panel, to });
            }
        });
        Ok(Self { panels: made, steps })
    }
}

struct Make<'a, P> {
    from: &'a P,
    panel: usize,
    to: &'a mut [f32],
}

impl<P: Panels> Kernel for Make<'_, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { from, panel, to } = self;
        // An odd number of rows is made in room for an even one.
        let mut last = [0f32; (CHUNK + 1) * PANEL];
        for (index, to) in to.chunks_mut(CHUNK * PANEL).enumerate() {
            let range = index * CHUNK..index * CHUNK + to.len() / PANEL;
            if range.len().is_multiple_of(2) {
                from.chunk(isa, panel, range, to);
            } else {
                let made = from.chunk(isa, panel, range, &mut last);
                to.copy_from_slice(made);
            }
        }
    }
}

impl<const PAIRS: bool> Panels for Made<PAIRS> {
    const PAIRS: bool = PAIRS;
    const DIRECT: bool = true;

    #[inline(always)]
    fn chunk<'a, S: Isa>(&'a self, _: S, panel: usize, range: Range<usize>, _: &'a mut [f32]) -> &'a [f32] {
        let panels = self.panels.elements::<f32>().unwrap_or(&[]);
        &panels[(panel * self.steps + range.start) * PANEL..(panel * self.steps + range.end) * PANEL]
    }
}
