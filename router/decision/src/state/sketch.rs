//! Small summaries of measured values that forget.

/// Buckets a doubling.
const PER_OCTAVE: usize = 8;
/// From 2^-4 to 2^24: a sixteenth of a millisecond to four hours and a half.
const LEAST_EXPONENT: i64 = -4;
const OCTAVES: usize = 28;
const BUCKETS: usize = OCTAVES * PER_OCTAVE;
/// Weights are brought back to size when a new sample weighs this much.
const HEAVY: f32 = 1e12;

/// Quantiles of positive values, within a tenth of the value, that forget by
/// the number of newer samples: half of the weight is on the last `half_life`.
#[derive(Debug, Clone, PartialEq)]
pub struct Sketch {
    weights: Vec<f32>,
    total: f32,
    next: f32,
    growth: f32,
}

impl Sketch {
    /// An empty one.
    #[must_use]
    pub fn new(half_life: u16) -> Self {
        Self {
            weights: vec![0.0; BUCKETS],
            total: 0.0,
            next: 1.0,
            growth: libm::exp2(1.0 / f64::from(half_life.max(1))) as f32,
        }
    }

    /// Learns a value. One that is no positive number teaches nothing.
    pub fn record(&mut self, value: f64) {
        if !(value.is_finite() && value > 0.0) {
            return;
        }
        self.weights[bucket(value)] += self.next;
        self.total += self.next;
        self.next *= self.growth;
        if self.next > HEAVY {
            let scale = 1.0 / self.next;
            self.weights.iter_mut().for_each(|weight| *weight *= scale);
            self.total = self.weights.iter().sum();
            self.next = 1.0;
        }
    }

    /// The value below which a share of the samples lies; none before the
    /// first sample.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        if self.total <= 0.0 {
            return None;
        }
        let wanted = self.total * share.clamp(0.0, 1.0) as f32;
        let mut below = 0.0;
        let reached = self.weights.iter().position(|weight| {
            below += weight;
            below >= wanted && *weight > 0.0
        });
        Some(upper_edge(reached.unwrap_or(BUCKETS - 1)))
    }
}

/// By exponent and the top three bits of the mantissa, which is exact.
fn bucket(value: f64) -> usize {
    let bits = value.to_bits();
    let exponent = (bits >> 52) as i64 - 1023 - LEAST_EXPONENT;
    let eighth = ((bits >> 49) & 7) as i64;
    let at = exponent * PER_OCTAVE as i64 + eighth;
    usize::try_from(at.max(0)).unwrap_or(0).min(BUCKETS - 1)
}

fn upper_edge(bucket: usize) -> f64 {
    let at = bucket + 1;
    let octave = (at / PER_OCTAVE) as i64 + LEAST_EXPONENT;
    let eighths = (at % PER_OCTAVE) as f64 / PER_OCTAVE as f64;
    f64::from_bits(((octave + 1023) as u64) << 52) * (1.0 + eighths)
}

/// Mean and variance that forget: the first samples weigh alike, later ones
/// at least `least_weight` each.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moments {
    mean: f64,
    variance: f64,
    samples: f64,
    least_weight: f64,
}

impl Moments {
    /// None learnt yet.
    #[must_use]
    pub const fn new(least_weight: f64) -> Self {
        Self {
            mean: 0.0,
            variance: 0.0,
            samples: 0.0,
            least_weight,
        }
    }

    /// Learns a value; one that is no number teaches nothing.
    pub fn record(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.samples = (self.samples + 1.0).min(1e9);
        let weight = (1.0 / self.samples).max(self.least_weight);
        let away = value - self.mean;
        self.mean += weight * away;
        self.variance = (1.0 - weight) * (self.variance + weight * away * away);
    }

    /// How many samples there were.
    #[must_use]
    pub const fn samples(&self) -> f64 {
        self.samples
    }

    /// The mean; `otherwise` before `enough` samples.
    #[must_use]
    pub fn mean_or(&self, enough: f64, otherwise: f64) -> f64 {
        if self.samples >= enough {
            self.mean
        } else {
            otherwise
        }
    }

    /// The mean, beside an estimate that weighs as much as so many samples.
    #[must_use]
    pub fn mean_beside(&self, samples: f64, estimate: f64) -> f64 {
        // Older samples fade: it rests on so many at most.
        let own = self.samples.min(1.0 / self.least_weight);
        (own * self.mean + samples * estimate) / (own + samples)
    }

    /// The variance over the square of the mean; `otherwise` before `enough`.
    #[must_use]
    pub fn spread_or(&self, enough: f64, otherwise: f64) -> f64 {
        if self.samples >= enough && self.mean > 0.0 {
            self.variance / (self.mean * self.mean)
        } else {
            otherwise
        }
    }

    /// The standard deviation.
    #[must_use]
    pub fn deviation(&self) -> f64 {
        self.variance.max(0.0).sqrt()
    }
}
