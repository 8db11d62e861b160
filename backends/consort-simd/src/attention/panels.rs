//! Keys and values as panels of [`PANEL`] rows of one head: both are right operands of a [`tile`](crate::gemm::tile).
//!
//! ```text
//! keys    [C][PANEL]               of scores: C goes along the panel, a key is a column
//! values  [⌈C/PANEL⌉][PANEL][PANEL]  of a weighted sum: keys go along the panel, a channel is a column
//! ```
//!
//! Nothing is promised of rows that were not written, nor of columns of values from C on: products with them go to columns
//! that nobody reads.

use crate::gemm::PANEL;

/// How keys and values of some heads lie: panel p of head h begins at `(p · heads + h) · size`.
#[derive(Clone, Copy)]
pub(crate) struct Panels {
    /// K.
    pub(crate) heads: usize,
    /// C.
    pub(crate) width: usize,
}

impl Panels {
    /// Floats of a row of values: C to a multiple of [`PANEL`].
    pub(crate) fn padded(&self) -> usize {
        self.width.next_multiple_of(PANEL)
    }

    /// Floats of a head's panel of keys; its values follow.
    pub(crate) fn keys(&self) -> usize {
        PANEL * self.width
    }

    /// Floats of a head's panel of keys and values.
    pub(crate) fn size(&self) -> usize {
        self.keys() + PANEL * self.padded()
    }

    /// Puts keys and values of one head, rows of C, into `panel` from `place` on.
    pub(crate) fn write<'a>(
        &self,
        panel: &mut [f32],
        place: usize,
        count: usize,
        key: impl Fn(usize) -> &'a [f32],
        value: impl Fn(usize) -> &'a [f32],
    ) {
        let (keys, values) = panel.split_at_mut(self.keys());
        columns(keys, place, count, key);
        rows(values, place, count, value);
    }

    /// Reads key and value at `place`.
    pub(crate) fn read(&self, panel: &[f32], place: usize, key: &mut [f32], value: &mut [f32]) {
        let (keys, values) = panel.split_at(self.keys());
        for (to, from) in key.iter_mut().zip(keys.chunks_exact(PANEL)) {
            *to = from[place];
        }
        for (to, from) in value.chunks_mut(PANEL).zip(values.chunks_exact(PANEL * PANEL)) {
            to.copy_from_slice(&from[place * PANEL..][..to.len()]);
        }
    }
}

/// Rows as columns of a panel `[C][PANEL]`, from `place` on.
#[inline]
pub(crate) fn columns<'a>(panel: &mut [f32], place: usize, count: usize, row: impl Fn(usize) -> &'a [f32]) {
    for first in (0..count).step_by(4) {
        if first + 4 <= count {
            // Four at a time are whole vectors of the baseline.
            let rows = [row(first), row(first + 1), row(first + 2), row(first + 3)];
            let mut fours = rows.map(|row| row.chunks_exact(4));
            for to in panel.chunks_exact_mut(4 * PANEL) {
                let [Some(a), Some(b), Some(c), Some(d)] = fours.each_mut().map(Iterator::next) else { break };
                for channel in 0..4 {
                    to[channel * PANEL + place + first..][..4]
                        .copy_from_slice(&[a[channel], b[channel], c[channel], d[channel]]);
                }
            }
            let done = rows[0].len() / 4 * 4;
            for (channel, to) in panel.chunks_exact_mut(PANEL).enumerate().skip(done) {
                to[place + first..][..4].copy_from_slice(&rows.map(|row| row[channel]));
            }
        } else {
            for index in first..count {
                for (to, &from) in panel.chunks_exact_mut(PANEL).zip(row(index)) {
                    to[place + index] = from;
                }
            }
        }
    }
}

/// Rows as rows of panels `[⌈C/PANEL⌉][PANEL][PANEL]`, from `place` on.
#[inline]
pub(crate) fn rows<'a>(panels: &mut [f32], place: usize, count: usize, row: impl Fn(usize) -> &'a [f32]) {
    for index in 0..count {
        for (to, from) in panels.chunks_exact_mut(PANEL * PANEL).zip(row(index).chunks(PANEL)) {
            to[(place + index) * PANEL..][..from.len()].copy_from_slice(from);
        }
    }
}
