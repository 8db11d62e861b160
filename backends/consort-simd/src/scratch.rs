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
struct ThreadMemory(Option<Memory>, usize);

thread_local! {
    static MEMORY: RefCell<ThreadMemory> = const { RefCell::new(ThreadMemory(None, 0)) };
}

/// Runs `work` with so many elements each of this thread's memory; what lies there is whatever it was. What runs inside a task
/// gets memory of its own.
///
/// # Panics
/// When there is no memory.
pub(crate) fn with_scratch<T>(sums: usize, chunk: usize, work: impl FnOnce(Scratch<'_>) -> T) -> T {
    MEMORY.with(|memory| match memory.try_borrow_mut() {
        Ok(mut memory) => work(memory.of(sums, chunk)),
        Err(_) => work(ThreadMemory(None, 0).of(sums, chunk)),
    })
}

impl ThreadMemory {
    fn of(&mut self, sums: usize, chunk: usize) -> Scratch<'_> {
        // Whole cache lines each.
        let first = sums.next_multiple_of(16);
        let all = first + chunk;
        if self.1 < all {
            self.0 = Some(Memory::new(all * size_of::<f32>()).expect("a task's memory"));
            self.1 = all;
        }
        let memory = self.0.as_mut().map_or(&mut [][..], |memory| memory.items_mut(all));
        let (before, after) = memory.split_at_mut(first.min(all));
        Scratch { sums: &mut before[..sums], chunk: &mut after[..chunk] }
    }
}
