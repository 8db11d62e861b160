//! A memory-mapped file as a [`ByteSource`]: the one place of this crate with unsafe code.
#![allow(unsafe_code)]

use std::{fs::File, io, ops::Range};

use consort_core::ByteSource;
use memmap2::{Mmap, MmapOptions};

/// A whole file, mapped read-only and private.
pub(crate) struct MappedFile(Mmap);

impl MappedFile {
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the map is read-only and private, so nothing in this process writes to it. Another process that
        // changes the file under us changes values that we read as plain bytes, never as a type with invalid values;
        // one that truncates it makes a later read end the process (SIGBUS), which every memory-mapped reader accepts.
        unsafe { MmapOptions::new().map_copy_read_only(file) }.map(Self)
    }
}

impl ByteSource for MappedFile {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        {
            let whole = whole_pages(range, self.0.len());
            if !whole.is_empty() {
                // SAFETY: `whole` is inside the map and made of whole pages. DontNeed on pages of a read-only private
                // map of a file drops nothing that was written: the next read takes the same bytes from the file.
                // That it fails (a locked page) only means that the memory stays in use.
                let _ = unsafe {
                    self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, whole.start, whole.len())
                };
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

/// The largest page of the systems that we run on (arm64 Linux and ppc64 have 64 KiB); a multiple of all others.
const PAGE: usize = 64 << 10;

/// The whole pages strictly inside `range`: what begins or ends in a page shared with a neighbour stays.
#[cfg_attr(not(unix), allow(dead_code))]
fn whole_pages(range: Range<usize>, length: usize) -> Range<usize> {
    let start = range.start.div_ceil(PAGE).saturating_mul(PAGE);
    let end = range.end.min(length) / PAGE * PAGE;
    start..end.max(start)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn only_whole_pages_are_released() {
        assert_eq!(whole_pages(1..PAGE, PAGE * 4), PAGE..PAGE);
        assert_eq!(whole_pages(0..PAGE, PAGE * 4), 0..PAGE);
        assert_eq!(whole_pages(1..PAGE * 3 + 5, PAGE * 4), PAGE..PAGE * 3);
        assert_eq!(whole_pages(0..usize::MAX, PAGE + 1), 0..PAGE);
        assert!(whole_pages(usize::MAX - 1..usize::MAX, PAGE).is_empty());
    }

    #[test]
    fn released_pages_read_the_same_again() {
        let mut file = tempfile::tempfile().expect("temporary file");
        let bytes: Vec<u8> = (0..PAGE * 3 + 17).map(|i| (i * 31 % 251) as u8).collect();
        file.write_all(&bytes).expect("write");
        let map = MappedFile::new(&file).expect("map");
        assert_eq!(map.bytes(), bytes);
        map.release(5..PAGE * 3 + 17);
        map.release(0..usize::MAX);
        assert_eq!(map.bytes(), bytes);
    }
}
