//! Exponentials and what is made of them, the same bits on every machine.

/// What stands between the two matrices of a feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// `x · Φ(x)` with Φ by `tanh`: Hugging Face's `gelu_pytorch_tanh`.
    GeluTanh,
    /// `x · Φ(x)` with Φ by `erf`: Hugging Face's `gelu`.
    Gelu,
    /// `max(x, 0)`.
    Relu,
    /// `tanh(x)`.
    Tanh,
}

impl Activation {
    #[inline(always)]
    pub(super) fn apply(self, x: &[f32], out: &mut [f32]) {
        let pairs = out.iter_mut().zip(x);
        match self {
            Self::Silu => pairs.for_each(|(out, x)| *out = x / (1.0 + exp(-x))),
            Self::GeluTanh => pairs.for_each(|(out, x)| *out = gelu_tanh(*x)),
            Self::Gelu => pairs.for_each(|(out, x)| *out = gelu(*x)),
            Self::Relu => pairs.for_each(|(out, x)| *out = x.max(0.0)),
            Self::Tanh => pairs.for_each(|(out, x)| *out = tanh(*x)),
        }
    }
}

/// `0.5 (1 + tanh y)` is `1 / (1 + exp(−2y))`.
#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let y = SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x);
    x / (1.0 + exp(-2.0 * y))
}

#[inline(always)]
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// Within 2e-7 of `tanh x`.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// `erf x` within 4e-7, as a ratio of polynomials. Method and coefficients as
/// in XLA's 32-bit `erf`.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let mut p = -2.726_142_3e-10;
    for c in [
        2.770_681_4e-8,
        -2.101_024_1e-6,
        -5.692_506_4e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ] {
        p = p * square + c;
    }
    let mut q = -1.456_607_2e-5;
    for c in [
        -2.133_740_6e-4,
        -1.682_827e-3,
        -7.373_329_2e-3,
        -1.426_473_9e-2,
    ] {
        q = q * square + c;
    }
    x * p / q
}

/// `eˣ` within two units in the last place, the same bits everywhere. Below
/// −87.3 it is not quite zero and above 88 not quite infinite, which neither a
/// softmax nor a sigmoid can tell. Method and coefficients as in Cephes'
/// `expf`: `x = n ln 2 + r`, a polynomial in `r`, and `n` into the exponent.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.3, 88.0);
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let mut p = 1.987_569_1e-4;
    for c in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        p = p * r + c;
    }
    let p = p * r * r + r + 1.0;
    // n is within −126..=127 by the clamp, or 0 for a NaN, which p carries on.
    let power = f32::from_bits(((n as i32 + 127) as u32) << 23);
    p * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_over_its_whole_range() {
        let mut x = -87.0f32;
        while x < 88.0 {
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.5e-7, "exp({x}) is off by {error:e}");
            x += 0.0137;
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 1.3e-38);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_and_erf_are_close() {
        // erf by its series and, for large arguments, its complement's decay.
        let erf_exact = |x: f64| {
            let (mut term, mut sum) = (x, x);
            for n in 1..200 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            sum * std::f64::consts::FRAC_2_SQRT_PI
        };
        let mut x = -5.0f32;
        while x < 5.0 {
            let wide = f64::from(x);
            assert!((f64::from(tanh(x)) - wide.tanh()).abs() < 2e-7, "tanh {x}");
            if x.abs() < 4.0 {
                let off = (f64::from(erf(x)) - erf_exact(wide)).abs();
                assert!(off < 4e-7, "erf({x}) is off by {off:e}");
            }
            x += 0.0137;
        }
        assert!((erf(9.0) - 1.0).abs() < 2e-7 && (erf(-9.0) + 1.0).abs() < 2e-7);
        assert!(tanh(f32::NAN).is_nan() && erf(f32::NAN).is_nan());
        assert_eq!((tanh(200.0), tanh(-200.0)), (1.0, -1.0));
    }

    #[test]
    fn activations_are_what_their_names_say() {
        let x = [-3.0f32, -0.5, 0.0, 0.25, 4.0];
        let applied = |activation: Activation| {
            let mut out = [0.0; 5];
            activation.apply(&x, &mut out);
            out
        };
        let phi = |x: f64| 0.5 * (1.0 + f64::from(erf((x / 2f64.sqrt()) as f32)));
        for (i, x) in x.iter().map(|x| f64::from(*x)).enumerate() {
            let close = |activation, exact: f64| {
                let got = f64::from(applied(activation)[i]);
                assert!(
                    (got - exact).abs() < 1e-6,
                    "{activation:?}({x}) = {got}, not {exact}"
                );
            };
            close(Activation::Silu, x / (1.0 + (-x).exp()));
            close(Activation::Gelu, x * phi(x));
            let y = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            close(Activation::GeluTanh, 0.5 * x * (1.0 + y.tanh()));
            close(Activation::Relu, x.max(0.0));
            close(Activation::Tanh, x.tanh());
        }
    }
}
