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
    /// Tables for blocks of `block` rows; with a `window`, blocks that no later position can see are let go.
    pub(crate) fn new(block: usize, window: Option<usize>) -> Self {
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

    /// Forgets positions from `length` on.
    pub(crate) fn truncate(&mut self, slot: usize, length: usize) -> Result<()> {
        let sequence = self.sequences.get_mut(slot).and_then(Option::as_mut).ok_or_else(|| closed(slot))?;
        if length >= sequence.length {
            return Ok(());
        }
        let first_needed = self.window.map_or(0, |window| (length + 1).saturating_sub(window));
        if sequence.blocks[first_needed / self.block..].first() == Some(&FREED) && first_needed < length {
            return Err(Error::Input(format!(
                "sequence {slot} cannot go back to {length} tokens: what its window would see was let go"
            )));
        }
        sequence.length = length;
        for block in sequence.blocks.split_off(length.div_ceil(self.block)) {
            self.release(block);
        }
        Ok(())
    }

    /// Makes room for `rows` more positions of a sequence, as blocks that it alone owns. Returns the copies `(from, to)`
    /// that must be made first.
    pub(crate) fn extend(&mut self, slot: usize, rows: usize) -> Result<Option<(u32, u32)>> {
        let mut sequence = self.sequences.get_mut(slot).and_then(Option::take).ok_or_else(|| closed(slot))?;
        if let Some(window) = self.window {
            let passed = (sequence.length + 1).saturating_sub(window) / self.block;
            for index in 0..passed.min(sequence.blocks.len()) {
                self.release(std::mem::replace(&mut sequence.blocks[index], FREED));
            }
        }
        let mut copy = None;
        let partial = sequence.length % self.block != 0;
        if let (true, Some(&last)) = (partial && rows > 0, sequence.blocks.last())
            && last != FREED
            && self.owners[last as usize] > 1
        {
            let own = self.take();
            self.release(last);
            if let Some(last_block) = sequence.blocks.last_mut() {
                *last_block = own;
            }
            copy = Some((last, own));
        }
        sequence.length += rows;
        while sequence.blocks.len() * self.block < sequence.length {
            let block = self.take();
            sequence.blocks.push(block);
        }
        self.sequences[slot] = Some(sequence);
        Ok(copy)
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
        let (from, to) = tables.extend(1, 1).unwrap().unwrap();
        assert_eq!(tables.sequence(0).unwrap().blocks[1], from);
        assert_eq!(tables.sequence(1).unwrap().blocks[1], to);
        assert_eq!(tables.extend(0, 1).unwrap(), None);
        tables.close(0);
        tables.close(1);
        assert_eq!(tables.used(), 0);
    }

    #[test]
    fn windows_let_blocks_go() {
        let mut tables = BlockTables::new(4, Some(5));
        tables.open(0);
        for _ in 0..40 {
            tables.extend(0, 1).unwrap();
            assert!(tables.used() <= 3);
        }
        assert!(tables.truncate(0, 20).is_err());
        tables.truncate(0, 39).unwrap();
    }

    proptest! {
        #[test]
        fn no_block_is_lost_or_written_by_two(steps in prop::collection::vec((0u8..5, 0usize..6, 0usize..9), 1..60)) {
            let mut tables = BlockTables::new(3, None);
            for (step, slot, amount) in steps {
                let open = tables.sequence(slot).is_ok();
                match step {
                    0 if !open => tables.open(slot),
                    1 if open => { tables.extend(slot, amount).unwrap(); }
                    2 if open => tables.truncate(slot, amount).unwrap(),
                    3 if open && tables.sequence(slot + 6).is_err() => tables.fork(slot, slot + 6).unwrap(),
                    4 => { tables.close(slot); tables.close(slot + 6); }
                    _ => {}
                }
                let mut owners = vec![0u32; tables.capacity()];
                for sequence in tables.sequences.iter().flatten() {
                    prop_assert_eq!(sequence.blocks.len(), sequence.length.div_ceil(3));
                    sequence.blocks.iter().for_each(|&block| owners[block as usize] += 1);
                }
                prop_assert_eq!(&owners, &tables.owners);
            }
        }
    }
}
