/// How blocks are packed. Readers do not care: each block says whether it is packed, and zstd's levels differ in nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    None,
    /// In about 60 % of the time, for files that a merge will soon replace. Rows pack as well as with `Dense`, indexes 25 % worse.
    Fast,
    /// For files that stay.
    Dense,
}

impl Packing {
    /// `Fast`, where anything is packed.
    pub fn fast(compress: bool) -> Self {
        if compress { Self::Fast } else { Self::None }
    }

    /// `Dense`, where anything is packed.
    pub fn dense(compress: bool) -> Self {
        if compress { Self::Dense } else { Self::None }
    }

    /// zstd's. The negative one leaves literals as they are, which costs most of the time otherwise.
    pub(super) fn zstd_level(self) -> Option<i32> {
        match self {
            Self::None => None,
            Self::Fast => Some(-1),
            Self::Dense => Some(1),
        }
    }
}
