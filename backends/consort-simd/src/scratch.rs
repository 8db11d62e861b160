//! Memory that a thread keeps for its tasks.

use std::cell::RefCell;

use crate::storage::Memory;

/// What a task works in.
pub(crate) struct Scratch<'a> {
    /// Sums of a panel.
    pub(crate) sums: &'a mut [f32],
    /// A chunk of the right operand.
    pub(crate) chunk: &'a mut [f32],
}

/// Memory that grows to what was asked most.
pub(crate) struct ThreadMemory(Option<Memory>, usize);

thread_local! {
    static MEMORY: RefCell<ThreadMemory> = const { RefCell::new(ThreadMemory(None, 0)) };
}

/// Runs `work` with this thread's memory. Tasks do not nest: what runs inside a task gets memory of its own.
#[inline(always)]
pub(crate) fn with_scratch<T>(work: impl FnOnce(&mut ThreadMemory) -> T) -> T {
    MEMORY.with(|memory| match memory.try_borrow_mut() {
        Ok(mut memory) => work(&mut memory),
        Err(_) => work(&mut ThreadMemory(None, 0)),
    })
}

impl ThreadMemory {
    /// So many elements each; what lies there is whatever it was.
    ///
    /// # Panics
    /// When there is no memory for them.
    pub(crate) fn of(&mut self, sums: usize, chunk: usize) -> Scratch<'_> {
        // Whole cache lines each.
        let all = sums.next_multiple_of(16) + chunk;
        if self.1 < all {
            self.0 = Some(Memory::new(all * size_of::<f32>()).expect("a task's memory"));
            self.1 = all;
        }
        let memory = self.0.as_mut().map_or(&mut [][..], |memory| memory.items_mut(all));
        let (first, chunk_memory) = memory.split_at_mut(sums.next_multiple_of(16));
        Scratch { sums: &mut first[..sums], chunk: &mut chunk_memory[..chunk] }
    }
}
