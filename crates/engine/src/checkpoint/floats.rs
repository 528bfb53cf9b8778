//! Plain floating-point values on disk, read as f32 piece by piece.

use std::io;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::read_at::ReadAt;

/// Bytes that are read at once; what a read costs in memory beside `out`.
const PIECE: usize = 1 << 18;

/// How a value lies in the file, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FloatType {
    F16,
    Bf16,
    F32,
    F64,
}

impl FloatType {
    /// Bytes a value.
    pub(super) fn size(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// Reads `out.len()` values that begin at the byte `offset`.
    pub(super) fn read(
        self,
        file: &dyn ReadAt,
        mut offset: u64,
        out: &mut [f32],
    ) -> io::Result<()> {
        let piece_values = PIECE / self.size();
        let mut bytes = vec![0; out.len().min(piece_values) * self.size()];
        let mut decoder = Decoder::default();
        for piece in out.chunks_mut(piece_values) {
            let bytes = &mut bytes[..piece.len() * self.size()];
            file.read_exact_at(offset, bytes)?;
            decoder.decode(self, bytes, piece);
            offset += bytes.len() as u64;
        }
        Ok(())
    }
}

/// Scratch of the half-precision types: whole slices are widened by the
/// processor's own instructions where it has them.
#[derive(Default)]
struct Decoder {
    f16: Vec<f16>,
    bf16: Vec<bf16>,
}

impl Decoder {
    fn decode(&mut self, kind: FloatType, bytes: &[u8], out: &mut [f32]) {
        let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        match kind {
            FloatType::F16 => {
                self.f16.clear();
                self.f16.extend(pairs().map(f16::from_le_bytes));
                self.f16.convert_to_f32_slice(out);
            }
            FloatType::Bf16 => {
                self.bf16.clear();
                self.bf16.extend(pairs().map(bf16::from_le_bytes));
                self.bf16.convert_to_f32_slice(out);
            }
            FloatType::F32 => {
                for (value, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                    *value = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
            FloatType::F64 => {
                for (value, b) in out.iter_mut().zip(bytes.chunks_exact(8)) {
                    let b = [b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]];
                    // Rounding to f32 is what loading as f32 means.
                    *value = f64::from_le_bytes(b) as f32;
                }
            }
        }
    }
}
