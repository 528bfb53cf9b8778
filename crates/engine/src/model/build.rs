//! From a checkpoint's tensors to modules.

use burn::tensor::Device;

use super::layers::{Projection, RmsNorm};
use super::{Dimensions, Layer, Llama, device};
use crate::artifact::tensors::{Matrix, TensorError, Tensors};
use crate::config::LlamaConfig;
use crate::kernel::{KernelPath, Shape, pack, quantize_rows};

/// How matrices are held in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    /// Packed int8; float matrices are quantised on the way in.
    Packed(KernelPath),
    /// f32, as the file has them. For comparison with other programs.
    Dense,
}

impl Llama {
    /// Builds the modules.
    pub(crate) fn build(
        config: &LlamaConfig,
        tensors: &Tensors<'_>,
        precision: Precision,
    ) -> Result<Self, TensorError> {
        let builder = Builder {
            config,
            tensors,
            precision,
            device: device(),
        };
        let table = Shape {
            n: config.vocab,
            k: config.hidden,
        };
        let layers = (0..config.layers).map(|index| builder.layer(index));
        Ok(Self {
            embedding: builder.projection(&[("model.embed_tokens.weight".into(), table)])?,
            layers: layers.collect::<Result<_, _>>()?,
            norm: builder.norm("model.norm.weight")?,
            head: match config.tied_head {
                true => None,
                false => Some(builder.projection(&[("lm_head.weight".into(), table)])?),
            },
            shape: Dimensions {
                heads: config.heads,
                kv_heads: config.kv_heads,
                head_dim: config.head_dim,
                frequencies: frequencies(config.head_dim, config.rope_theta),
            },
        })
    }
}

/// `θ^(−2i / head_dim)`, in f32 as in Hugging Face's Llama.
fn frequencies(head_dim: usize, theta: f64) -> Vec<f32> {
    let of_pair = |i: usize| 1.0 / theta.powf((2 * i) as f64 / head_dim as f64);
    (0..head_dim / 2).map(|i| of_pair(i) as f32).collect()
}

struct Builder<'a> {
    config: &'a LlamaConfig,
    tensors: &'a Tensors<'a>,
    precision: Precision,
    device: Device,
}

impl Builder<'_> {
    fn layer(&self, index: usize) -> Result<Layer, TensorError> {
        let LlamaConfig {
            hidden,
            intermediate,
            heads,
            kv_heads,
            head_dim,
            ..
        } = *self.config;
        let name = |part: &str| format!("model.layers.{index}.{part}.weight");
        let attention = |part: &str, heads: usize| {
            (
                name(&format!("self_attn.{part}_proj")),
                Shape {
                    n: heads * head_dim,
                    k: hidden,
                },
            )
        };
        let wide = |part: &str| {
            (
                name(&format!("mlp.{part}_proj")),
                Shape {
                    n: intermediate,
                    k: hidden,
                },
            )
        };
        Ok(Layer {
            attention_norm: self.norm(&name("input_layernorm"))?,
            qkv: self.projection(&[
                attention("q", heads),
                attention("k", kv_heads),
                attention("v", kv_heads),
            ])?,
            output: self.projection(&[(
                name("self_attn.o_proj"),
                Shape {
                    n: hidden,
                    k: heads * head_dim,
                },
            )])?,
            mlp_norm: self.norm(&name("post_attention_layernorm"))?,
            gate_up: self.projection(&[wide("gate"), wide("up")])?,
            down: self.projection(&[(
                name("mlp.down_proj"),
                Shape {
                    n: hidden,
                    k: intermediate,
                },
            )])?,
        })
    }

    fn norm(&self, name: &str) -> Result<RmsNorm, TensorError> {
        let weight = self.tensors.vector(name, self.config.hidden)?;
        Ok(RmsNorm::new(weight, self.config.norm_eps, &self.device))
    }

    /// One projection of matrices with the same inputs, their rows in order.
    fn projection(&self, parts: &[(String, Shape)]) -> Result<Projection, TensorError> {
        let k = parts[0].1.k;
        let whole = Shape {
            n: parts.iter().map(|(_, shape)| shape.n).sum(),
            k,
        };
        match self.precision {
            Precision::Packed(path) => {
                let (mut values, mut scales) = (Vec::new(), Vec::new());
                for (name, shape) in parts {
                    let (more_values, more_scales) = self.quantized(name, *shape)?;
                    values.extend(more_values);
                    scales.extend(more_scales);
                }
                let packed = pack(&values, &scales, whole).map_err(|source| TensorError::Pack {
                    name: parts[0].0.clone(),
                    source,
                })?;
                Ok(Projection::packed(packed, path, &self.device))
            }
            Precision::Dense => {
                let mut weights = Vec::new();
                for (name, shape) in parts {
                    weights.extend(self.dense(name, *shape)?);
                }
                Ok(Projection::dense(weights, whole, &self.device))
            }
        }
    }

    fn quantized(
        &self,
        name: &str,
        shape: Shape,
    ) -> Result<(Vec<i8>, Vec<half::f16>), TensorError> {
        match self.tensors.matrix(name, shape)? {
            Matrix::Quantized { values, scales } => Ok((values, scales)),
            Matrix::Dense(weights) => {
                quantize_rows(&weights, shape).map_err(|source| TensorError::Pack {
                    name: name.to_owned(),
                    source,
                })
            }
        }
    }

    fn dense(&self, name: &str, shape: Shape) -> Result<Vec<f32>, TensorError> {
        Ok(match self.tensors.matrix(name, shape)? {
            Matrix::Dense(weights) => weights,
            Matrix::Quantized { values, scales } => values
                .chunks_exact(crate::kernel::BLOCK)
                .zip(scales)
                .flat_map(|(block, scale)| {
                    block.iter().map(move |v| f32::from(*v) * scale.to_f32())
                })
                .collect(),
        })
    }
}
