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
        columns::<PANEL>(keys, place, count, key);
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

/// Rows as columns of `[C][STRIDE]`, from `place` on.
#[inline(always)]
pub(crate) fn columns<'a, const STRIDE: usize>(
    to: &mut [f32],
    place: usize,
    count: usize,
    row: impl Fn(usize) -> &'a [f32],
) {
    // Four rows and channels at a time are a handful of the baseline's vectors.
    let fours = count / 4 * 4;
    for index in (0..fours).step_by(4) {
        let (a, b, c, d) = (row(index), row(index + 1), row(index + 2), row(index + 3));
        let (mut channel, place) = (0, place + index);
        while let (Some(&[a0, a1, a2, a3]), Some(&[b0, b1, b2, b3]), Some(&[c0, c1, c2, c3]), Some(&[d0, d1, d2, d3])) =
            (four(a, channel), four(b, channel), four(c, channel), four(d, channel))
        {
            let to = &mut to[channel * STRIDE + place..][..3 * STRIDE + 4];
            to[..4].copy_from_slice(&[a0, b0, c0, d0]);
            to[STRIDE..][..4].copy_from_slice(&[a1, b1, c1, d1]);
            to[2 * STRIDE..][..4].copy_from_slice(&[a2, b2, c2, d2]);
            to[3 * STRIDE..][..4].copy_from_slice(&[a3, b3, c3, d3]);
            channel += 4;
        }
        for channel in channel..a.len() {
            to[channel * STRIDE + place..][..4].copy_from_slice(&[a[channel], b[channel], c[channel], d[channel]]);
        }
    }
    for index in fours..count {
        for (channel, &x) in row(index).iter().enumerate() {
            to[channel * STRIDE + place + index] = x;
        }
    }
}

#[inline(always)]
fn four(row: &[f32], first: usize) -> Option<&[f32; 4]> {
    row.get(first..)?.first_chunk()
}

/// Rows as rows of panels `[⌈C/PANEL⌉][PANEL][PANEL]`, from `place` on.
#[inline(always)]
pub(crate) fn rows<'a>(panels: &mut [f32], place: usize, count: usize, row: impl Fn(usize) -> &'a [f32]) {
    for index in 0..count {
        for (to, from) in panels.chunks_exact_mut(PANEL * PANEL).zip(row(index).chunks(PANEL)) {
            to[(place + index) * PANEL..][..from.len()].copy_from_slice(from);
        }
    }
}
