//! Order statistics of small samples.

/// The value below which `share` (0 to 1) of the samples lie, between two of
/// them by proportion; NaN of none.
pub(crate) fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = sorted.len().saturating_sub(1) as f64 * share;
    let at = |place: f64| sorted.get(place as usize).copied().unwrap_or(f64::NAN);
    let (below, above) = (at(place.floor()), at(place.ceil()));
    below + (above - below) * place.fract()
}

/// The middle one, or the mean of the middle two.
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
