//! Order statistics of small samples.

/// The value below which `share` (0 to 1) of the samples lie; NaN of none.
pub(crate) fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let at = (last as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// The middle one.
pub(crate) fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// The least and the most.
pub(crate) fn range(samples: &[f64]) -> (f64, f64) {
    (quantile(samples, 0.0), quantile(samples, 1.0))
}

/// Rounded for people and JSON: three decimals below 10, one above.
pub(crate) fn round(value: f64) -> f64 {
    let scale = if value.abs() < 10.0 { 1e3 } else { 10.0 };
    (value * scale).round() / scale
}
