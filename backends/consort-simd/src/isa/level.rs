//! Which instruction set is used: the best that was detected, or a lower one that was asked for.

use std::fmt;

use super::{Isa, Kernel, portable::Portable};
#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};

/// An instruction set that this machine has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(Set);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Set {
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

/// A level that is not known, or not there.
#[derive(Debug, thiserror::Error)]
#[error("instruction set '{asked}' is not one that this machine has (it has {})", names(.available))]
pub struct UnknownLevel {
    asked: String,
    available: Vec<Level>,
}

impl Level {
    /// All that this machine has, the best last.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut, reason = "other machines have one")]
        let mut levels = vec![Self(Set::Portable(Portable::new()))];
        #[cfg(target_arch = "x86_64")]
        {
            levels.extend(Avx2::detect().map(|token| Self(Set::Avx2(token))));
            levels.extend(Avx512::detect().map(|token| Self(Set::Avx512(token))));
        }
        levels
    }

    /// The best one.
    pub fn best() -> Self {
        Self::available().pop().unwrap_or(Self(Set::Portable(Portable::new())))
    }

    /// The one of this name.
    ///
    /// # Errors
    /// [`UnknownLevel`] names those that there are.
    pub fn named(name: &str) -> Result<Self, UnknownLevel> {
        let available = Self::available();
        let found = available.iter().copied().find(|level| level.name() == name);
        found.ok_or_else(|| UnknownLevel { asked: name.to_owned(), available })
    }

    /// `portable`, `avx2`, `avx512`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Portable(_) => "portable",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(_) => "avx512",
        }
    }

    /// [`Isa::TILE_ROWS`].
    pub(crate) fn tile_rows(self) -> usize {
        match self.0 {
            Set::Portable(_) => Portable::TILE_ROWS,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(_) => Avx2::TILE_ROWS,
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(_) => Avx512::TILE_ROWS,
        }
    }

    /// [`Isa::INT8_ROWS`].
    pub(crate) fn int8_rows(self) -> usize {
        match self.0 {
            Set::Portable(_) => Portable::INT8_ROWS,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(_) => Avx2::INT8_ROWS,
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(_) => Avx512::INT8_ROWS,
        }
    }

    /// Runs `kernel` with this level's instructions.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Set::Portable(token) => kernel.run(token),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(token) => token.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(token) => token.run(kernel),
        }
    }
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn names(levels: &[Level]) -> String {
    levels.iter().map(|level| level.name()).collect::<Vec<_>>().join(", ")
}
