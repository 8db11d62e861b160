//! The faults: each one that a real kernel had, or that a threshold over a whole tensor lets pass.

macro_rules! faults {
    ($( $Name:ident = $name:literal: $about:literal, )*) => {
        /// Something that is wrong in a backend.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    MatmulDropsTail = "matmul-drops-tail": "a product leaves out its last term",
    SumDropsTail = "sum-drops-tail": "a sum over more than 32 terms leaves out those after the last whole 32",
    OneWrongOutput = "one-wrong-output": "one element of a product of a thousand or more is off by a thousandth of itself",
    ZeroedOutput = "zeroed-output": "the last element of a product of 2,304 or more is 0",
    SilentHalf = "silent-half": "a product rounds its operands to f16",
    TransposedWeight = "transposed-weight": "a square weight is used transposed",
    LostBias = "lost-bias": "a projection leaves out its bias",
    LostResidual = "lost-residual": "a projection leaves out its residual",
    BiasAfterActivation = "bias-after-activation": "a projection adds its bias after its activation",
    MaskForgotten = "mask-forgotten": "causal attention sees what follows",
    MaskOffByOne = "mask-off-by-one": "a cached query does not see its own position",
    WindowOffByOne = "window-off-by-one": "a window is one position wider",
    SegmentsJoined = "segments-joined": "packed sequences see each other",
    HeadsInterleaved = "heads-interleaved": "query head h reads key head h % K",
    UnscaledScores = "unscaled-scores": "attention leaves out the scale of its scores",
    LostSoftCap = "lost-soft-cap": "attention leaves out its soft cap",
    OneSidedBuckets = "one-sided-buckets": "relative positions of both directions share their buckets",
    DistanceReversed = "distance-reversed": "linear bias grows with the distance",
    StaleCache = "stale-cache": "a step of one row is not written to the cache",
    ShiftedCache = "shifted-cache": "rows are written to the cache in reverse order",
    CacheNotCopied = "cache-not-copied": "a fork's block is not copied",
    BlocksInOrder = "blocks-in-order": "attention takes a sequence's blocks to lie in order",
    WrongEpsilon = "wrong-epsilon": "a norm uses ten times its epsilon",
    MisplacedEpsilon = "misplaced-epsilon": "an rms norm adds epsilon outside of the root",
    LostUnitOffset = "lost-unit-offset": "an rms norm multiplies by w where 1 + w is meant",
    SwappedPairing = "swapped-pairing": "rotary pairs are the other convention's",
    RotaryBackwards = "rotary-backwards": "rotary turns the other way",
    MaximumFromZero = "maximum-from-zero": "softmax looks for its maximum from 0 on",
    NoMaximum = "no-maximum": "softmax does not subtract its maximum",
    WrongGelu = "wrong-gelu": "the error function's GELU is computed by the tanh form",
    WrongSilu = "wrong-silu": "SiLU has the factor of quick GELU",
    GateAndUpSwapped = "gate-and-up-swapped": "the activation is on up instead of gate",
    BroadcastBroken = "broadcast-broken": "an operand of one row is added to the first row only",
    StridesIgnored = "strides-ignored": "a transposed operand of an element-wise function is read row by row",
    OffsetIgnored = "offset-ignored": "a view that begins inside its buffer is read from the buffer's beginning",
    MaskedNan = "masked-nan": "a choice is computed by multiplication, so that NaN comes through",
    LastOfEquals = "last-of-equals": "of equal greatest elements the last is taken",
    ClampedId = "clamped-id": "an id beyond the rows reads the last row",
    DuplicatesLost = "duplicates-lost": "of several rows added to one place only the last counts",
    TruncatedCast = "truncated-cast": "a cast to bf16 cuts off instead of rounding",
    LostFraction = "rough-exponential": "an exponential is off by 2 in ten thousand where its argument is below −4",
    NibblesSwapped = "nibbles-swapped": "the halves of a block of q4_0 are exchanged",
    UnsignedQuants = "unsigned-quants": "quants of q8_0 are read without their sign",
    MinimumForgotten = "minimum-forgotten": "the minima of blocks are left out",
    FifthBitLost = "fifth-bit-lost": "the fifth bit of quants is left out",
    NeighboursScale = "neighbours-scale": "a sub-block is read with the scale of the next",
    CodesFloored = "codes-floored": "activations are quantised by cutting off instead of rounding",
    CodesTiesAway = "codes-ties-away": "halves between two codes are rounded away from zero",
    ScaleOf128 = "scale-of-128": "a scale is a 128th of the greatest magnitude",
    ScaleOfRow = "scale-of-row": "all blocks of a row are quantised by the row's greatest magnitude",
    NeighbourScale = "neighbour-scale": "a product in int8 takes the scale of the block before",
    CodesWrapped = "codes-wrapped": "codes go up to 128, and that one wraps to −128",
    OtherCodes = "other-codes": "a product in int8 quantises by a way of its own, cutting off instead of rounding",
    Int8Forgotten = "int8-forgotten": "a product in int8 is computed in f32",
    TruncatedOperands = "truncated-operands": "a product in bf16 cuts its operands off instead of rounding them",
    BlocksTakenForZeros = "blocks-taken-for-zeros": "blocks below 2⁻⁹⁸ are taken for zeros",
    IgnoredTarget = "ignored-target": "a row without a target has a loss",
    LostSmoothing = "lost-smoothing": "cross-entropy leaves out its smoothing",
    NoBiasCorrection = "no-bias-correction": "AdamW leaves out the correction of its first moment",
    CoupledDecay = "coupled-decay": "AdamW adds the decay to the gradient",
    BackwardSign = "backward-sign": "the cotangent of softmax has the wrong sign",
    BackwardFactor = "backward-factor": "the cotangent of an activation is twice what it should be",
    NotCentred = "not-centred": "the backward of layer norm does not subtract the mean",
    DeltaForgotten = "delta-forgotten": "the backward of attention leaves out its row sums",
    WeightGradientTail = "weight-gradient-tail": "the gradient of a weight leaves out the last row",
    EmbeddingOverwritten = "embedding-overwritten": "of several uses of a token only the last has a gradient",
    TargetForgotten = "target-forgotten": "the backward of cross-entropy leaves out the target",
    Aliased = "aliased": "an element-wise function writes its result over its operand",
    Race = "race": "every third sum is without its last term",
    Company = "company": "a product of several rows adds in two halves: as accurate, but other bits than alone",
}

impl Fault {
    /// The operations that it is in, as far as they show it best.
    pub fn operations(self) -> &'static [&'static str] {
        match self {
            Self::MatmulDropsTail | Self::OneWrongOutput | Self::ZeroedOutput | Self::SilentHalf | Self::Company => {
                &["matmul"]
            }
            Self::SumDropsTail | Self::Race | Self::LastOfEquals => &["reduce"],
            Self::TransposedWeight | Self::LostBias | Self::LostResidual | Self::BiasAfterActivation => &["linear"],
            Self::MaskForgotten | Self::SegmentsJoined => &["attention"],
            Self::WindowOffByOne
            | Self::HeadsInterleaved
            | Self::UnscaledScores
            | Self::LostSoftCap
            | Self::OneSidedBuckets
            | Self::DistanceReversed => &["attention", "cached_attention"],
            Self::MaskOffByOne | Self::BlocksInOrder => &["cached_attention"],
            Self::StaleCache | Self::ShiftedCache => &["cache_write"],
            Self::CacheNotCopied => &["cache_copy"],
            Self::WrongEpsilon => &["layer_norm", "rms_norm"],
            Self::MisplacedEpsilon | Self::LostUnitOffset => &["rms_norm"],
            Self::SwappedPairing | Self::RotaryBackwards => &["rotary"],
            Self::MaximumFromZero | Self::NoMaximum => &["softmax"],
            Self::WrongGelu | Self::WrongSilu => &["activation"],
            Self::GateAndUpSwapped => &["gated"],
            Self::BroadcastBroken => &["binary"],
            Self::StridesIgnored | Self::OffsetIgnored | Self::LostFraction | Self::Aliased => &["unary"],
            Self::MaskedNan => &["select"],
            Self::ClampedId => &["gather_rows"],
            Self::DuplicatesLost => &["scatter_rows"],
            Self::TruncatedCast => &["copy"],
            Self::NibblesSwapped
            | Self::UnsignedQuants
            | Self::MinimumForgotten
            | Self::FifthBitLost
            | Self::NeighboursScale => &["embedding", "linear"],
            Self::CodesFloored
            | Self::CodesTiesAway
            | Self::ScaleOf128
            | Self::ScaleOfRow
            | Self::CodesWrapped
            | Self::BlocksTakenForZeros => &["quantize_activations"],
            Self::NeighbourScale | Self::OtherCodes | Self::Int8Forgotten | Self::TruncatedOperands => &["linear"],
            Self::IgnoredTarget | Self::LostSmoothing => &["cross_entropy"],
            Self::NoBiasCorrection | Self::CoupledDecay => &["adamw"],
            Self::BackwardSign => &["softmax_backward"],
            Self::BackwardFactor => &["activation_backward"],
            Self::NotCentred => &["layer_norm_backward"],
            Self::DeltaForgotten => &["attention_backward"],
            Self::WeightGradientTail => &["linear_backward_weight"],
            Self::EmbeddingOverwritten => &["embedding_backward"],
            Self::TargetForgotten => &["cross_entropy_backward"],
        }
    }

    /// Whether it could be in a formula that all backends share, so that vectors must show it; others are slips of a kernel:
    /// of sizes beyond the vectors', of memory, of order or of rounding. What blocks mean is held to the `gguf` package by the
    /// core's own tests.
    pub fn is_formula(self) -> bool {
        !matches!(
            self,
            Self::MinimumForgotten
                | Self::FifthBitLost
                | Self::NeighboursScale
                | Self::OneWrongOutput
                | Self::ZeroedOutput
                | Self::Aliased
                | Self::Race
                | Self::Company
        )
    }
}
