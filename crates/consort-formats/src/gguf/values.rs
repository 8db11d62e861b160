//! The values of a GGUF file's header, read from its bytes with every length compared with the bytes that are left.

/// A metadata value; text and arrays are slices of the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Unsigned(u64),
    Signed(i64),
    Float32(f32),
    Float64(f64),
    Flag(bool),
    Text(&'a [u8]),
    Array(Array<'a>),
}

/// An array of one kind of elements, none of them an array.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Array<'a> {
    pub(crate) kind: Kind,
    pub(crate) count: usize,
    /// Exactly its elements.
    pub(crate) bytes: &'a [u8],
    pub(crate) version: u32,
}

impl<'a> Array<'a> {
    /// Its elements in order.
    pub(crate) fn values(self) -> impl Iterator<Item = Value<'a>> {
        let mut cursor = Cursor { bytes: self.bytes, at: 0, version: self.version };
        // Every element was read once before.
        (0..self.count).map_while(move |_| cursor.value(self.kind).ok())
    }
}

/// The kind of a metadata value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Unsigned(usize),
    Signed(usize),
    Float32,
    Float64,
    Flag,
    Text,
    Array,
}

impl Kind {
    pub(super) fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Unsigned(1),
            1 => Self::Signed(1),
            2 => Self::Unsigned(2),
            3 => Self::Signed(2),
            4 => Self::Unsigned(4),
            5 => Self::Signed(4),
            6 => Self::Float32,
            7 => Self::Flag,
            8 => Self::Text,
            9 => Self::Array,
            10 => Self::Unsigned(8),
            11 => Self::Signed(8),
            12 => Self::Float64,
            _ => return None,
        })
    }

    /// Fewest bytes that a value takes.
    fn least(self, version: u32) -> usize {
        match self {
            Self::Unsigned(bytes) | Self::Signed(bytes) => bytes,
            Self::Float32 => 4,
            Self::Float64 => 8,
            Self::Flag => 1,
            Self::Text => word(version),
            Self::Array => 4 + word(version),
        }
    }
}

/// Bytes of a count or a length.
pub(super) fn word(version: u32) -> usize {
    if version == 1 { 4 } else { 8 }
}

/// Why something could not be read.
pub(super) enum Short {
    /// The file ends at byte `end`, and `needed` bytes from `at` on were asked for.
    Truncated { at: usize, needed: u64, end: usize },
    /// An array of arrays.
    Nested,
    /// An array's elements of unknown type.
    Unknown(u32),
    /// Neither 0 nor 1.
    NoFlag(u8),
}

impl Short {
    pub(super) fn line(&self, what: &str) -> String {
        match self {
            Self::Truncated { at, needed, end } => {
                format!("truncated or damaged: {what} takes {needed} bytes from byte {at} on, the file has {end}")
            }
            Self::Nested => "an array of arrays, which nothing here needs".to_owned(),
            Self::Unknown(number) => format!("damaged: an array of the unknown type {number}"),
            Self::NoFlag(byte) => format!("expected true (1) or false (0), found {byte}"),
        }
    }
}

/// A place in the header.
pub(super) struct Cursor<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
    pub(super) version: u32,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: u64) -> Result<&'a [u8], Short> {
        let end = usize::try_from(length).ok().and_then(|length| self.at.checked_add(length));
        match end.and_then(|end| self.bytes.get(self.at..end)) {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => Err(Short::Truncated { at: self.at, needed: length, end: self.bytes.len() }),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Short> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count or a length.
    pub(super) fn word(&mut self) -> Result<u64, Short> {
        if self.version == 1 { self.u32().map(u64::from) } else { self.u64() }
    }

    pub(super) fn text(&mut self) -> Result<&'a [u8], Short> {
        let length = self.word()?;
        self.take(length)
    }

    /// A little-endian integer, its sign extended over the bytes that it lacks where it has one.
    fn integer(&mut self, bytes: usize, signed: bool) -> Result<u64, Short> {
        let taken = self.take(bytes as u64)?;
        let negative = signed && taken.last().is_some_and(|last| last & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        for (wide, byte) in wide.iter_mut().zip(taken) {
            *wide = *byte;
        }
        Ok(u64::from_le_bytes(wide))
    }

    pub(super) fn value(&mut self, kind: Kind) -> Result<Value<'a>, Short> {
        Ok(match kind {
            Kind::Unsigned(bytes) => Value::Unsigned(self.integer(bytes, false)?),
            Kind::Signed(bytes) => Value::Signed(self.integer(bytes, true)?.cast_signed()),
            Kind::Float32 => Value::Float32(self.array().map(f32::from_le_bytes)?),
            Kind::Float64 => Value::Float64(self.array().map(f64::from_le_bytes)?),
            Kind::Flag => match self.array()? {
                [0] => Value::Flag(false),
                [1] => Value::Flag(true),
                [other] => return Err(Short::NoFlag(other)),
            },
            Kind::Text => Value::Text(self.text()?),
            Kind::Array => Value::Array(self.elements()?),
        })
    }

    fn elements(&mut self) -> Result<Array<'a>, Short> {
        let number = self.u32()?;
        let kind = Kind::of(number).ok_or(Short::Unknown(number))?;
        if kind == Kind::Array {
            return Err(Short::Nested);
        }
        let count = self.word()?;
        let start = self.at;
        let needed = count.saturating_mul(kind.least(self.version) as u64);
        let left = (self.bytes.len() - start) as u64;
        if needed > left {
            return Err(Short::Truncated { at: start, needed, end: self.bytes.len() });
        }
        match kind {
            // These have no size of their own, or values that cannot be.
            Kind::Text | Kind::Flag => (0..count).try_for_each(|_| self.value(kind).map(|_| ()))?,
            _ => self.take(needed).map(|_| ())?,
        }
        let bytes = self.bytes.get(start..self.at).unwrap_or_default();
        Ok(Array { kind, count: count as usize, bytes, version: self.version })
    }
}
