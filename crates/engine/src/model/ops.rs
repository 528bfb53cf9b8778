//! The models' own operations under Burn: a backend extension of Flex.
//!
//! Burn's tensors go in and come out; what happens inside is [`kernel`] and
//! [`math`](super::math) on their buffers. What decoders need works on a
//! graphics adapter's tensors too: [`plain`](super::plain) there, and attention
//! on the processor, where keys and values are.

use burn::backend::flex::{Flex, FlexTensor};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Device, Tensor, TensorData};

use super::layers::PackedLinear;
use super::math::{self, Activation, AttendSpec, Segment};
use super::plain;
use super::stack::{self, StackLayer, StackRules};
use crate::{gpu, kernel};

#[backend_extension(Flex)]
trait ModelOps: Backend {
    fn packed_linear(x: FloatTensor<Self>, layer: &PackedLinear) -> FloatTensor<Self>;

    fn attend(
        qkv: FloatTensor<Self>,
        segments: &mut [Segment<'_>],
        spec: AttendSpec<'_>,
    ) -> FloatTensor<Self>;

    fn stack(
        x: FloatTensor<Self>,
        layers: &[StackLayer],
        lengths: &[usize],
        rules: StackRules,
    ) -> FloatTensor<Self>;

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self>;

    fn layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self>;

    fn gated(gate_up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self>;

    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self>;
}

impl ModelOps for Flex {
    fn packed_linear(x: FlexTensor, layer: &PackedLinear) -> FlexTensor {
        let x = x.to_contiguous();
        let mut out = kernel::linear(floats(&x), &layer.parts, layer.path);
        let width = layer.parts.iter().map(|w| w.shape().n).sum();
        if let Some(bias) = &layer.bias {
            math::add_bias(&mut out, bias);
        }
        matrix(out, width)
    }

    fn attend(qkv: FlexTensor, segments: &mut [Segment<'_>], spec: AttendSpec<'_>) -> FlexTensor {
        let qkv = qkv.to_contiguous();
        let out = math::attend(floats(&qkv).to_vec(), segments, spec);
        matrix(out, spec.heads * spec.head_dim)
    }

    fn stack(
        x: FlexTensor,
        layers: &[StackLayer],
        lengths: &[usize],
        rules: StackRules,
    ) -> FlexTensor {
        let x = x.to_contiguous();
        let out = stack::run(floats(&x).to_vec(), layers, lengths, rules);
        matrix(out, rules.hidden)
    }

    fn rms_norm(x: FlexTensor, weight: FlexTensor, eps: f32) -> FlexTensor {
        let x = x.to_contiguous();
        let weight = floats(&weight);
        matrix(math::rms_norm(floats(&x), weight, eps), weight.len())
    }

    fn layer_norm(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, eps: f32) -> FlexTensor {
        let x = x.to_contiguous();
        let (weight, bias) = (floats(&weight), floats(&bias));
        matrix(
            math::layer_norm(floats(&x), weight, bias, eps),
            weight.len(),
        )
    }

    fn gated(gate_up: FlexTensor, activation: Activation) -> FlexTensor {
        let gate_up = gate_up.to_contiguous();
        let width = gate_up.layout().shape()[1] / 2;
        matrix(math::gated(floats(&gate_up), width, activation), width)
    }

    fn activate(x: FlexTensor, activation: Activation) -> FlexTensor {
        let x = x.to_contiguous();
        let width = x.layout().shape()[1];
        matrix(math::activate(floats(&x), width, activation), width)
    }
}

/// The values of a contiguous f32 tensor. Weights are built contiguous;
/// activations are made so before they get here.
fn floats(tensor: &FlexTensor) -> &[f32] {
    let layout = tensor.layout();
    assert!(layout.is_contiguous(), "operand must be contiguous");
    &tensor.storage()[layout.start_offset()..][..layout.num_elements()]
}

fn matrix(values: Vec<f32>, width: usize) -> FlexTensor {
    let rows = values.len() / width;
    FlexTensor::from_data(TensorData::new(values, [rows, width]))
}

fn on_adapter(x: &Tensor<2>) -> bool {
    cfg!(feature = "wgpu") && gpu::holds(&x.device())
}

/// The same values on another device.
pub(super) fn moved(x: Tensor<2>, device: &Device) -> Tensor<2> {
    Tensor::from_data(x.into_data(), device)
}

/// `x · wᵀ + bias` for packed matrices; `x` is `[tokens, k]`.
pub(super) fn packed_linear(x: Tensor<2>, layer: &PackedLinear) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as ModelOps>::packed_linear(
        x.into_dispatch(),
        layer,
    ))
}

/// Rows of a packed matrix as f32: `[rows.len(), k]`.
pub(super) fn packed_rows(layer: &PackedLinear, rows: &[u32], device: &Device) -> Tensor<2> {
    let matrix = &layer.parts[0];
    let width = matrix.shape().k;
    let mut out = Vec::with_capacity(rows.len() * width);
    for row in rows {
        kernel::unpack_row(matrix, *row as usize, &mut out);
    }
    Tensor::from_data(TensorData::new(out, [rows.len(), width]), device)
}

/// See [`math::attend`].
pub(super) fn attend(
    qkv: Tensor<2>,
    segments: &mut [Segment<'_>],
    spec: AttendSpec<'_>,
) -> Tensor<2> {
    if on_adapter(&qkv) {
        let device = qkv.device();
        let attended = attend(moved(qkv, &super::device()), segments, spec);
        return moved(attended, &device);
    }
    Tensor::from_dispatch(<Dispatch as ModelOps>::attend(
        qkv.into_dispatch(),
        segments,
        spec,
    ))
}

/// See [`stack::run`].
pub(super) fn stack(
    x: Tensor<2>,
    layers: &[StackLayer],
    lengths: &[usize],
    rules: StackRules,
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as ModelOps>::stack(
        x.into_dispatch(),
        layers,
        lengths,
        rules,
    ))
}

/// See [`math::rms_norm`].
pub(super) fn rms_norm(x: Tensor<2>, weight: Tensor<1>, eps: f32) -> Tensor<2> {
    if on_adapter(&x) {
        return plain::rms_norm(x, weight, eps);
    }
    Tensor::from_dispatch(<Dispatch as ModelOps>::rms_norm(
        x.into_dispatch(),
        weight.into_dispatch(),
        eps,
    ))
}

/// See [`math::layer_norm`].
pub(super) fn layer_norm(x: Tensor<2>, weight: Tensor<1>, bias: Tensor<1>, eps: f32) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as ModelOps>::layer_norm(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        eps,
    ))
}

/// See [`math::gated`].
pub(super) fn gated(gate_up: Tensor<2>, activation: Activation) -> Tensor<2> {
    if on_adapter(&gate_up) {
        return plain::gated(gate_up, activation);
    }
    Tensor::from_dispatch(<Dispatch as ModelOps>::gated(
        gate_up.into_dispatch(),
        activation,
    ))
}

/// See [`math::activate`].
pub(super) fn activate(x: Tensor<2>, activation: Activation) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as ModelOps>::activate(
        x.into_dispatch(),
        activation,
    ))
}
