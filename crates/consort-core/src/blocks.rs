//! Which sequence owns which blocks of a cache. Pure bookkeeping: no tensor is touched here.
//!
//! Blocks are counted by their owners, so that forks (beams, shared prefixes) share them until one writes.

use crate::{
    cache::{FREED, PlanSequence},
    error::{Error, Result},
};

/// Block tables of one pool.
#[derive(Debug)]
pub(crate) struct BlockTables {
    block: usize,
    window: Option<usize>,
    owners: Vec<u32>,
    free: Vec<u32>,
    sequences: Vec<Option<PlanSequence>>,
}

impl BlockTables {
    /// Tables for blocks of `block` rows; with a `window`, blocks that no later position can see are let go. A window of
    /// 0, which sees nothing, keeps what one of 1 does: the block that is being written.
    pub(crate) fn new(block: usize, window: Option<usize>) -> Self {
        let window = window.map(|window| window.max(1));
        Self { block, window, owners: Vec::new(), free: Vec::new(), sequences: Vec::new() }
    }

    /// Blocks that the pool must have room for.
    pub(crate) fn capacity(&self) -> usize {
        self.owners.len()
    }

    /// Blocks in use.
    #[cfg(test)]
    fn used(&self) -> usize {
        self.owners.len() - self.free.len()
    }

    pub(crate) fn open(&mut self, slot: usize) {
        if self.sequences.len() <= slot {
            self.sequences.resize(slot + 1, None);
        }
        self.sequences[slot] = Some(PlanSequence { blocks: Vec::new(), length: 0 });
    }

    pub(crate) fn sequence(&self, slot: usize) -> Result<&PlanSequence> {
        self.sequences.get(slot).and_then(Option::as_ref).ok_or_else(|| closed(slot))
    }

    /// A new sequence that shares all blocks of `from`.
    pub(crate) fn fork(&mut self, from: usize, slot: usize) -> Result<()> {
        let sequence = self.sequence(from)?.clone();
        for &block in sequence.blocks.iter().filter(|&&block| block != FREED) {
            self.owners[block as usize] += 1;
        }
        self.open(slot);
        self.sequences[slot] = Some(sequence);
        Ok(())
    }

    pub(crate) fn close(&mut self, slot: usize) {
        if let Some(sequence) = self.sequences.get_mut(slot).and_then(Option::take) {
            for block in sequence.blocks {
                self.release(block);
            }
        }
    }

    /// Whether positions from `length` on can be forgotten: what the next one would see must still be there.
    pub(crate) fn can_truncate(&self, slot: usize, length: usize) -> Result<()> {
        let sequence = self.sequence(slot)?;
        let first_needed = self.window.map_or(0, |window| (length + 1).saturating_sub(window));
        if length < sequence.length
            && first_needed < length
            && sequence.blocks.get(first_needed / self.block) == Some(&FREED)
        {
            return Err(Error::Input(format!(
                "sequence {slot} cannot go back to {length} tokens: what its window would see was let go"
            )));
        }
        Ok(())
    }

    /// Forgets positions from `length` on.
    pub(crate) fn truncate(&mut self, slot: usize, length: usize) -> Result<()> {
        self.can_truncate(slot, length)?;
        let Some(sequence) = self.sequences.get_mut(slot).and_then(Option::as_mut) else { return Ok(()) };
        if length < sequence.length {
            sequence.length = length;
            for block in sequence.blocks.split_off(length.div_ceil(self.block)) {
                self.release(block);
            }
        }
        Ok(())
    }

    /// Lets go the blocks that neither the next position of a sequence nor any later one can see.
    pub(crate) fn release_passed(&mut self, slot: usize) -> Result<()> {
        let Some(window) = self.window else { return Ok(()) };
        let sequence = self.sequence(slot)?;
        let passed = ((sequence.length + 1).saturating_sub(window) / self.block).min(sequence.blocks.len());
        // Those before the last ones let go were let go earlier: a step costs what it frees.
        for index in (0..passed).rev() {
            let block = match self.sequences[slot].as_mut() {
                Some(sequence) => std::mem::replace(&mut sequence.blocks[index], FREED),
                None => FREED,
            };
            if block == FREED {
                break;
            }
            self.release(block);
        }
        Ok(())
    }

    /// Makes room for `rows` more positions of a sequence, at least one, as blocks that it alone owns.
    ///
    /// What the window has passed is let go by [`release_passed`](Self::release_passed), for all sequences of a step
    /// before the first is extended, so that [`undo`](Self::undo) finds a block that was copied from where it was.
    pub(crate) fn extend(&mut self, slot: usize, rows: usize) -> Result<Extension> {
        let mut sequence = self.sequences.get_mut(slot).and_then(Option::take).ok_or_else(|| closed(slot))?;
        let mut extension = Extension { slot, length: sequence.length, blocks: sequence.blocks.len(), replaced: None };
        let partial = !sequence.length.is_multiple_of(self.block);
        // The last block is written into. It is replaced where others share it, and where it was let go: a window of 1
        // sees nothing of it, so that a truncation may end inside.
        if let (true, Some(last)) = (partial, sequence.blocks.last_mut())
            && (*last == FREED || self.owners[*last as usize] > 1)
        {
            let own = self.take();
            let old = std::mem::replace(last, own);
            self.release(old);
            extension.replaced = Some((old, own));
        }
        sequence.length += rows;
        while sequence.blocks.len() * self.block < sequence.length {
            let block = self.take();
            sequence.blocks.push(block);
        }
        self.sequences[slot] = Some(sequence);
        Ok(extension)
    }

    /// Takes extensions of one step back, all of them, latest first; `capacity` is what there was before.
    pub(crate) fn undo(&mut self, extensions: &[Extension], capacity: usize) {
        for extension in extensions.iter().rev() {
            let Some(mut sequence) = self.sequences.get_mut(extension.slot).and_then(Option::take) else { continue };
            for block in sequence.blocks.split_off(extension.blocks) {
                self.release(block);
            }
            if let (Some((old, own)), Some(last)) = (extension.replaced, sequence.blocks.last_mut()) {
                *last = old;
                self.release(own);
                if old != FREED {
                    self.owners[old as usize] += 1;
                }
            }
            sequence.length = extension.length;
            self.sequences[extension.slot] = Some(sequence);
        }
        self.owners.truncate(capacity);
        self.free.retain(|&block| (block as usize) < capacity);
    }

    fn take(&mut self) -> u32 {
        let block = self.free.pop().unwrap_or_else(|| {
            self.owners.push(0);
            (self.owners.len() - 1) as u32
        });
        self.owners[block as usize] = 1;
        block
    }

    fn release(&mut self, block: u32) {
        if block == FREED {
            return;
        }
        let owners = &mut self.owners[block as usize];
        *owners -= 1;
        if *owners == 0 {
            self.free.push(block);
        }
    }
}

/// What [`BlockTables::extend`] changed.
#[derive(Debug)]
pub(crate) struct Extension {
    slot: usize,
    /// Positions and blocks before.
    length: usize,
    blocks: usize,
    /// The last block before, and what stands in its place.
    replaced: Option<(u32, u32)>,
}

impl Extension {
    /// The copy `(from, to)` that must be made before anything is written.
    pub(crate) fn copy(&self) -> Option<(u32, u32)> {
        self.replaced.filter(|(old, _)| *old != FREED)
    }
}

fn closed(slot: usize) -> Error {
    Error::Input(format!("sequence {slot} is not open"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fork_shares_until_it_writes() {
        let mut tables = BlockTables::new(4, None);
        tables.open(0);
        tables.extend(0, 6).unwrap();
        tables.fork(0, 1).unwrap();
        assert_eq!(tables.used(), 2);
        let (from, to) = tables.extend(1, 1).unwrap().copy().unwrap();
        assert_eq!(tables.sequence(0).unwrap().blocks[1], from);
        assert_eq!(tables.sequence(1).unwrap().blocks[1], to);
        assert_eq!(tables.extend(0, 1).unwrap().copy(), None);
        tables.close(0);
        tables.close(1);
        assert_eq!(tables.used(), 0);
    }

    #[test]
    fn windows_let_blocks_go() {
        let mut tables = BlockTables::new(4, Some(5));
        tables.open(0);
        for _ in 0..40 {
            tables.release_passed(0).unwrap();
            tables.extend(0, 1).unwrap();
            assert!(tables.used() <= 3);
        }
        assert!(tables.truncate(0, 20).is_err());
        tables.truncate(0, 39).unwrap();
    }

    #[test]
    fn a_window_of_one_can_go_back_into_a_block_that_was_let_go() {
        let mut tables = BlockTables::new(4, Some(1));
        tables.open(0);
        tables.extend(0, 10).unwrap();
        tables.release_passed(0).unwrap();
        assert_eq!(tables.sequence(0).unwrap().blocks[..2], [FREED; 2]);
        tables.truncate(0, 5).unwrap();
        let extension = tables.extend(0, 1).unwrap();
        assert_eq!(extension.copy(), None);
        assert_ne!(tables.sequence(0).unwrap().blocks[1], FREED);
        tables.undo(&[extension], 3);
        assert_eq!(tables.sequence(0).unwrap(), &PlanSequence { blocks: vec![FREED; 2], length: 5 });
    }

    proptest! {
        #[test]
        fn no_block_is_lost_or_written_by_two(
            steps in prop::collection::vec((0u8..6, 0usize..6, 1usize..9), 1..60),
            window in prop::option::of(0usize..8),
        ) {
            let mut tables = BlockTables::new(3, window);
            for (step, slot, amount) in steps {
                let open = tables.sequence(slot).is_ok();
                match step {
                    0 if !open => tables.open(slot),
                    1 if open => { tables.extend(slot, amount).unwrap(); }
                    2 if open => { let _ = tables.truncate(slot, amount); }
                    // A step over every open sequence, taken back, leaves no trace.
                    5 => {
                        let open: Vec<usize> = (0..12).filter(|&slot| tables.sequence(slot).is_ok()).collect();
                        open.iter().for_each(|&slot| tables.release_passed(slot).unwrap());
                        let before = (tables.owners.clone(), tables.sequences.clone());
                        let mut free = tables.free.clone();
                        let extensions: Vec<_> =
                            open.iter().map(|&slot| tables.extend(slot, amount).unwrap()).collect();
                        tables.undo(&extensions, before.0.len());
                        prop_assert_eq!(&before, &(tables.owners.clone(), tables.sequences.clone()));
                        free.sort_unstable();
                        let mut after = tables.free.clone();
                        after.sort_unstable();
                        prop_assert_eq!(free, after);
                    }
                    3 if open && tables.sequence(slot + 6).is_err() => tables.fork(slot, slot + 6).unwrap(),
                    4 => { tables.close(slot); tables.close(slot + 6); }
                    _ => {}
                }
                let mut owners = vec![0u32; tables.capacity()];
                for sequence in tables.sequences.iter().flatten() {
                    prop_assert_eq!(sequence.blocks.len(), sequence.length.div_ceil(3));
                    let held = sequence.blocks.iter().filter(|&&block| block != FREED);
                    held.for_each(|&block| owners[block as usize] += 1);
                }
                prop_assert_eq!(&owners, &tables.owners);
            }
        }
    }
}
