//! Which code path a process uses, and the proof that it may.

use std::fmt;

/// What a configuration asks for (`engine.kernel`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelChoice {
    /// The fastest path this processor has.
    #[default]
    Auto,
    /// AVX-512 with VNNI.
    Avx512,
    /// AVX2.
    Avx2,
    /// A portable vector library: NEON on aarch64, SSE2 on any x86-64.
    Portable,
    /// One number after the other: what the others are compared with.
    Scalar,
    /// A decoder's matrices on a graphics processor, in f32; everything else
    /// as with [`Self::Auto`]. Needs a build with the feature `wgpu`.
    Wgpu,
}

/// A path was asked for by name that cannot run here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelUnavailable {
    /// The processor lacks what it needs.
    #[error(
        "engine.kernel = {asked} cannot run on this processor; use auto, or one of: {available}"
    )]
    Processor {
        /// What was asked for.
        asked: KernelChoice,
        /// What would run.
        available: &'static str,
    },
    /// This program was built without it.
    #[error(
        "engine.kernel = wgpu needs a program built with the feature wgpu \
         (cargo build --release --features wgpu); this one has auto, avx512, avx2, portable and \
         scalar"
    )]
    NotBuilt,
    /// There is no graphics processor, or it cannot be used.
    #[error("engine.kernel = wgpu finds no graphics adapter it can use: {reason}")]
    Adapter {
        /// What its driver, or the lack of one, says.
        reason: String,
    },
}

impl KernelChoice {
    /// Every choice there is.
    pub const ALL: [Self; 6] = [
        Self::Auto,
        Self::Avx512,
        Self::Avx2,
        Self::Portable,
        Self::Scalar,
        Self::Wgpu,
    ];

    /// The name used in configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
            Self::Scalar => "scalar",
            Self::Wgpu => "wgpu",
        }
    }

    /// Finds the path on this machine.
    ///
    /// # Errors
    ///
    /// When the path was named and the processor lacks it, or the program was
    /// built without it, or there is no graphics adapter for it.
    pub fn resolve(self) -> Result<KernelPath, KernelUnavailable> {
        if self == Self::Wgpu {
            crate::gpu::open()?;
        }
        let kind = match self {
            #[cfg(target_arch = "x86_64")]
            Self::Auto | Self::Wgpu | Self::Avx512 if has_avx512_vnni() => Kind::Avx512,
            #[cfg(target_arch = "x86_64")]
            Self::Auto | Self::Wgpu | Self::Avx2 if has_avx2() => Kind::Avx2,
            Self::Auto | Self::Wgpu | Self::Portable => Kind::Portable,
            Self::Scalar => Kind::Scalar,
            Self::Avx512 | Self::Avx2 => {
                let available = match Self::Avx2.resolve().is_ok() && self != Self::Avx2 {
                    true => "avx2, portable, scalar",
                    false => "portable, scalar",
                };
                return Err(KernelUnavailable::Processor {
                    asked: self,
                    available,
                });
            }
        };
        Ok(KernelPath {
            kind,
            gpu: self == Self::Wgpu,
        })
    }
}

impl fmt::Display for KernelChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for KernelChoice {
    type Err = UnknownKernel;

    fn from_str(name: &str) -> Result<Self, UnknownKernel> {
        Self::ALL
            .into_iter()
            .find(|choice| choice.as_str() == name)
            .ok_or_else(|| UnknownKernel(name.to_owned()))
    }
}

/// A kernel name that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("engine.kernel = {0:?} is unknown; use auto, avx512, avx2, portable, scalar or wgpu")]
pub struct UnknownKernel(String);

/// A code path this machine has been seen to support. Only
/// [`KernelChoice::resolve`] makes one, which is what the unsafe calls of the
/// vector paths rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelPath {
    kind: Kind,
    /// Whether a decoder's matrices go to the graphics adapter.
    gpu: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Scalar,
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Multiplies and adds with one rounding: bits of its own.
    #[cfg(target_arch = "x86_64")]
    Avx512Fused,
}

impl KernelPath {
    /// The same path with products and sums rounded once instead of twice: to
    /// measure what equal bits on every path cost. No configuration names it,
    /// and models on it have numerics ids of their own. None but for AVX-512.
    #[must_use]
    pub fn fused(self) -> Option<Self> {
        match self.kind {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 | Kind::Avx512Fused if !self.gpu => Some(Self {
                kind: Kind::Avx512Fused,
                gpu: false,
            }),
            _ => None,
        }
    }

    /// Whether its bits are its own.
    pub(crate) fn is_fused(self) -> bool {
        self.fused() == Some(self)
    }

    /// Whether a decoder's matrices go to the graphics adapter.
    pub(crate) fn is_gpu(self) -> bool {
        self.gpu
    }

    /// The path of packed layers: an encoder's, on a graphics path too.
    pub(super) fn kind(self) -> Kind {
        self.kind
    }

    /// The most tokens whose sums fit the path's registers, with as many tile
    /// rows as it takes at a time.
    pub(super) fn group(self) -> usize {
        match self.kind {
            Kind::Scalar => 1,
            Kind::Portable => 2,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => 4,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 | Kind::Avx512Fused => super::linear::GROUP,
        }
    }

    /// Whether it takes two tile rows at a time.
    pub(super) fn pairs(self) -> bool {
        match self.kind {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 | Kind::Avx512Fused => true,
            _ => false,
        }
    }

    /// The path's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self.kind {
            _ if self.gpu => KernelChoice::Wgpu.as_str(),
            Kind::Scalar => "scalar",
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Fused => "avx512-fused",
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512_vnni() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni")
}
