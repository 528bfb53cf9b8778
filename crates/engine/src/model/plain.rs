//! The row functions as operations of Burn's, for tensors on a graphics
//! adapter. What they compute is [`math`](super::math)'s; their order of sums
//! and their rounding are the adapter's.

use burn::tensor::Tensor;

use super::Activation;

/// `x / rms(x) × weight` for each row.
pub(super) fn rms_norm(x: Tensor<2>, weight: Tensor<1>, eps: f32) -> Tensor<2> {
    let mean = (x.clone() * x.clone()).mean_dim(1);
    x * (mean + eps).sqrt().recip() * weight.unsqueeze()
}

/// `activation(gate) × up` for rows that hold the gates, then as many ups.
pub(super) fn gated(gate_up: Tensor<2>, activation: Activation) -> Tensor<2> {
    let width = gate_up.dims()[1] / 2;
    let gate = gate_up.clone().narrow(1, 0, width);
    activate(gate, activation) * gate_up.narrow(1, width, width)
}

fn activate(x: Tensor<2>, activation: Activation) -> Tensor<2> {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    match activation {
        Activation::Silu => x.clone() * logistic(x),
        Activation::GeluTanh => {
            let cube = x.clone() * x.clone() * x.clone();
            let y = (cube * 0.044_715 + x.clone()) * SQRT_2_OVER_PI;
            x * logistic(y * 2.0)
        }
        Activation::Gelu => {
            let y = x.clone() * std::f32::consts::FRAC_1_SQRT_2;
            (y.erf() + 1.0) * x * 0.5
        }
        Activation::Relu => x.clamp_min(0.0),
        // An adapter's own `tanh` may overflow for large arguments.
        Activation::Tanh => x.clamp(-10.0, 10.0).tanh(),
    }
}

/// `1 / (1 + exp(−x))`, the exponential kept finite: shaders may assume it is.
fn logistic(x: Tensor<2>) -> Tensor<2> {
    ((x.neg().clamp(-87.0, 88.0)).exp() + 1.0).recip()
}
