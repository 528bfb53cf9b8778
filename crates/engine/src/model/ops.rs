//! The decoder's own operations under Burn: a backend extension of Flex.
//!
//! Burn's tensors go in and come out; what happens inside is [`kernel`] and
//! [`math`](super::math) on their buffers.

use burn::backend::flex::{Flex, FlexTensor};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Int, Tensor, TensorData};
use half::f16;

use super::math::{self, AttendSpec};
use crate::kernel::{self, KernelPath, PackedRef, Shape};

#[backend_extension(Flex)]
trait DecoderOps: Backend {
    fn packed_linear(
        x: FloatTensor<Self>,
        bytes: IntTensor<Self>,
        scales: FloatTensor<Self>,
        shape: Shape,
        path: KernelPath,
    ) -> FloatTensor<Self>;

    fn packed_rows(
        bytes: IntTensor<Self>,
        scales: FloatTensor<Self>,
        shape: Shape,
        rows: &[u32],
    ) -> FloatTensor<Self>;

    fn attend(
        q: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        spec: AttendSpec,
    ) -> FloatTensor<Self>;

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self>;

    fn swiglu(gate_up: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl DecoderOps for Flex {
    fn packed_linear(
        x: FlexTensor,
        bytes: FlexTensor,
        scales: FlexTensor,
        shape: Shape,
        path: KernelPath,
    ) -> FlexTensor {
        let x = x.to_contiguous();
        let out = kernel::linear(floats(&x), packed(&bytes, &scales, shape), path);
        matrix(out, shape.n)
    }

    fn packed_rows(
        bytes: FlexTensor,
        scales: FlexTensor,
        shape: Shape,
        rows: &[u32],
    ) -> FlexTensor {
        let mut out = Vec::with_capacity(rows.len() * shape.k);
        for row in rows {
            kernel::unpack_row(packed(&bytes, &scales, shape), *row as usize, &mut out);
        }
        matrix(out, shape.k)
    }

    fn attend(q: FlexTensor, keys: FlexTensor, values: FlexTensor, spec: AttendSpec) -> FlexTensor {
        let q = q.to_contiguous();
        let out = math::attend(floats(&q), floats(&keys), floats(&values), spec);
        matrix(out, spec.heads * spec.head_dim)
    }

    fn rms_norm(x: FlexTensor, weight: FlexTensor, eps: f32) -> FlexTensor {
        let x = x.to_contiguous();
        let weight = floats(&weight);
        matrix(math::rms_norm(floats(&x), weight, eps), weight.len())
    }

    fn swiglu(gate_up: FlexTensor) -> FlexTensor {
        let gate_up = gate_up.to_contiguous();
        let width = gate_up.layout().shape()[1] / 2;
        matrix(math::swiglu(floats(&gate_up), width), width)
    }
}

/// The values of a contiguous f32 tensor. Weights and caches are built
/// contiguous; activations are made so before they get here.
fn floats(tensor: &FlexTensor) -> &[f32] {
    let layout = tensor.layout();
    assert!(layout.is_contiguous(), "operand must be contiguous");
    &tensor.storage()[layout.start_offset()..][..layout.num_elements()]
}

fn packed<'a>(bytes: &'a FlexTensor, scales: &'a FlexTensor, shape: Shape) -> PackedRef<'a> {
    PackedRef {
        bytes: bytes.storage::<u8>(),
        scales: scales.storage::<f16>(),
        shape,
    }
}

fn matrix(values: Vec<f32>, width: usize) -> FlexTensor {
    let rows = values.len() / width;
    FlexTensor::from_data(TensorData::new(values, [rows, width]))
}

/// `x · wᵀ` for a packed `w`; `x` is `[tokens, k]`.
pub(super) fn packed_linear(
    x: Tensor<2>,
    (bytes, scales): (Tensor<1, Int>, Tensor<1>),
    shape: Shape,
    path: KernelPath,
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as DecoderOps>::packed_linear(
        x.into_dispatch(),
        bytes.into_dispatch(),
        scales.into_dispatch(),
        shape,
        path,
    ))
}

/// Rows of a packed matrix as f32: `[rows.len(), k]`.
pub(super) fn packed_rows(
    (bytes, scales): (Tensor<1, Int>, Tensor<1>),
    shape: Shape,
    rows: &[u32],
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as DecoderOps>::packed_rows(
        bytes.into_dispatch(),
        scales.into_dispatch(),
        shape,
        rows,
    ))
}

/// See [`math::attend`].
pub(super) fn attend(
    q: Tensor<2>,
    keys: Tensor<2>,
    values: Tensor<2>,
    spec: AttendSpec,
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as DecoderOps>::attend(
        q.into_dispatch(),
        keys.into_dispatch(),
        values.into_dispatch(),
        spec,
    ))
}

/// See [`math::rms_norm`].
pub(super) fn rms_norm(x: Tensor<2>, weight: Tensor<1>, eps: f32) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as DecoderOps>::rms_norm(
        x.into_dispatch(),
        weight.into_dispatch(),
        eps,
    ))
}

/// See [`math::swiglu`].
pub(super) fn swiglu(gate_up: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as DecoderOps>::swiglu(gate_up.into_dispatch()))
}
