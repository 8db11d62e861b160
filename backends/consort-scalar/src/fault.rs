//! Formulas that are wrong on purpose, for the self-test of consort-conformance.
//!
//! f32 and the oracle share this crate's source: what is wrong here is wrong in both, so that they agree. Only vectors of
//! other implementations can tell, and the self-test shows that they do. Without the feature `planted-faults`
//! `planted` is `false` and costs nothing; with it nothing is wrong until `plant` is called.

macro_rules! faults {
    ($( $Name:ident = $name:literal: $about:literal, )*) => {
        /// Something that can be wrong in the source of this crate.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Fault {
            $( #[doc = $about] $Name, )*
        }

        impl Fault {
            /// Every fault.
            pub const ALL: &'static [Self] = &[$(Self::$Name),*];

            /// Its name in reports.
            pub fn name(self) -> &'static str {
                match self { $( Self::$Name => $name, )* }
            }

            /// What is wrong.
            pub fn about(self) -> &'static str {
                match self { $( Self::$Name => $about, )* }
            }
        }
    };
}

faults! {
    SumDropsLast = "source:sum-drops-last": "a sum leaves out its last term",
    MaximumFromZero = "source:maximum-from-zero": "a maximum is at least 0",
    LastOfEquals = "source:last-of-equals": "of equal greatest elements the last is taken",
    ProductDropsLast = "source:product-drops-last": "a product leaves out its last term",
    LastColumnLost = "source:last-column-lost": "the columns of a product after the last whole panel are 0",
    OperandTransposed = "source:operand-transposed": "a square right operand of a product is used transposed",
    FirstRowOnly = "source:first-row-only": "a first axis is broadcast from its first element even where there are more",
    OperandsSwapped = "source:operands-swapped": "a difference is taken the other way round where its left operand is broadcast",
    ErfAsTanh = "source:erf-as-tanh": "the error function is approximated by a tanh",
    RoughExponential = "source:rough-exponential": "an exponential has a relative error of one in a million",
    TruncatedCast = "source:truncated-cast": "a cast cuts off instead of rounding",
    NextRow = "source:next-row": "the row after the one asked for is gathered, where there is one",
    AddReplaces = "source:add-replaces": "rows are replaced where they should be added",
    ChosenByProduct = "source:chosen-by-product": "a choice is computed by multiplication, so that NaN comes through",
    WrittenAtStart = "source:written-at-start": "a box is written at the beginning of the last axis",
    LessOrEqual = "source:less-or-equal": "less is true of equals",
    TiesAwayFromZero = "source:ties-away-from-zero": "halves are rounded away from zero instead of to even",
    SingleForgotten = "source:single-forgotten": "numbers of f64 are not rounded to f32 where that is asked for",
    DoubledReciprocal = "source:reciprocal-doubled": "a reciprocal is twice what it should be",
}

#[cfg(feature = "planted-faults")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(u8::MAX);

/// Makes this fault, and no other, the case in all of this process; `None` makes all right again.
#[cfg(feature = "planted-faults")]
pub fn plant(fault: Option<Fault>) {
    PLANTED.store(fault.map_or(u8::MAX, |fault| fault as u8), std::sync::atomic::Ordering::SeqCst);
}

/// Whether this fault is the case.
#[cfg(feature = "planted-faults")]
pub(crate) fn planted(fault: Fault) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == fault as u8
}

/// Nothing is wrong in a build without the feature.
#[cfg(not(feature = "planted-faults"))]
pub(crate) const fn planted(_: Fault) -> bool {
    false
}
