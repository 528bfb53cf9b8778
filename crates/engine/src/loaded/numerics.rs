//! What must be equal for two machines to say the very same tokens.

use tiermesh_core::{ModelDigest, NumericsId};

use crate::artifact::Quantization;
use crate::gpu;
use crate::model::{KvType, Precision};

/// Raised by every change that can change a token: kernels, row functions,
/// sampler, prompt assembly. With the crate's version it is the engine's part
/// of a numerics id.
const NUMERICS_REVISION: u32 = 2;

pub(super) fn numerics_id(
    quantization: Quantization,
    (precision, kv): (Precision, KvType),
    digest: &ModelDigest,
) -> NumericsId {
    let kernel = match precision {
        Precision::Packed(_, path) if path.is_fused() => {
            format!("{}-tiles-{}", quantization.as_str(), path.as_str())
        }
        Precision::Packed(..) => format!("{}-tiles", quantization.as_str()),
        Precision::Dense => format!("f32-gemm-{}", vector_class()),
        Precision::Gpu(..) => {
            let adapter = gpu::open().map_or("none", |adapter| &adapter.name);
            format!("{}-f32-{adapter}", quantization.as_str())
        }
    };
    let backend = match precision {
        Precision::Gpu(..) => "wgpu",
        _ => "flex",
    };
    let id = format!(
        "{}-{NUMERICS_REVISION}/{backend}-{}-{}/{kernel}/{}/{digest}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
        std::env::consts::OS,
        kv.as_str(),
    );
    NumericsId::new(id).expect("made of letters, digits and allowed marks, under 200 bytes")
}

/// What Burn's matrix product chooses its code by.
fn vector_class() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return "avx512";
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return "avx2";
        }
    }
    "base"
}
