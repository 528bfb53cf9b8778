//! Blocks of 256 values in two levels: eight or sixteen groups with small
//! integer scales, which one or two f16 scale in turn.

use super::blocks::half;

pub(super) const Q4_BYTES: usize = 144;
pub(super) const Q5_BYTES: usize = 176;
pub(super) const Q6_BYTES: usize = 210;

/// The scale and the minimum of each group of 32, six bits each in twelve
/// bytes: the first four whole, the others with their upper two bits in what
/// those leave free.
fn groups(block: &[u8]) -> impl Iterator<Item = (f32, f32)> {
    let (scale, minimum) = (half(block, 0), half(block, 2));
    let packed: [u8; 12] = std::array::from_fn(|i| block[4 + i]);
    (0..8).map(move |group| {
        let (s, m) = if group < 4 {
            (packed[group] & 63, packed[group + 4] & 63)
        } else {
            let lower = packed[group + 4];
            (
                (lower & 0xf) | (packed[group - 4] >> 6 << 4),
                (lower >> 4) | (packed[group] >> 6 << 4),
            )
        };
        (scale * f32::from(s), minimum * f32::from(m))
    })
}

/// f16 scale, f16 minimum, 12 bytes of group scales, 128 bytes of halves: a
/// run of 32 bytes holds one group low and the next high.
pub(super) fn decode_q4(block: &[u8], out: &mut [f32]) {
    for (group, ((scale, minimum), out)) in groups(block).zip(out.chunks_exact_mut(32)).enumerate()
    {
        let bytes = &block[16 + group / 2 * 32..][..32];
        for (value, byte) in out.iter_mut().zip(bytes) {
            let bits = byte >> (group % 2 * 4) & 0xf;
            *value = scale * f32::from(bits) - minimum;
        }
    }
}

/// As `decode_q4` with 32 bytes more before the halves: bit `g` of byte `i`
/// is the fifth bit of value `i` of group `g`.
pub(super) fn decode_q5(block: &[u8], out: &mut [f32]) {
    let fifths = &block[16..48];
    for (group, ((scale, minimum), out)) in groups(block).zip(out.chunks_exact_mut(32)).enumerate()
    {
        let bytes = &block[48 + group / 2 * 32..][..32];
        for ((value, byte), fifth) in out.iter_mut().zip(bytes).zip(fifths) {
            let bits = (byte >> (group % 2 * 4) & 0xf) | ((fifth >> group & 1) << 4);
            *value = scale * f32::from(bits) - minimum;
        }
    }
}

/// 128 bytes of halves, 64 of pairs of upper bits, 16 signed scales, f16
/// scale. Each half of the block has runs of 32 values: two low, two high.
pub(super) fn decode_q6(block: &[u8], out: &mut [f32]) {
    let scale = half(block, 208);
    for (run, out) in out.chunks_exact_mut(32).enumerate() {
        let (side, run) = (run / 4, run % 4);
        let lows = &block[side * 64 + run % 2 * 32..][..32];
        let highs = &block[128 + side * 32..][..32];
        for (i, value) in out.iter_mut().enumerate() {
            let low = lows[i] >> (run / 2 * 4) & 0xf;
            let high = highs[i] >> (run * 2) & 3;
            let group = block[192 + side * 8 + run * 2 + i / 16].cast_signed();
            let bits = i16::from(low | high << 4) - 32;
            *value = scale * f32::from(group) * f32::from(bits);
        }
    }
}
