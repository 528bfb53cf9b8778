//! Decoders of the Llama line: embedding, layers, norm and head.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::build::{Builder, Part, Precision, Weights};
use super::layers::{Projection, RmsNorm};
use super::math::{self, AttendSpec, Rotation, Segment};
use super::{Activation, KvCache, KvLayout, KvType, device, ops};
use crate::artifact::TensorError;
use crate::config::{AttentionKind, DecoderConfig, Rope};
use crate::gpu;

/// A decoder of one of the families of [`DecoderConfig`].
#[derive(Module, Debug)]
pub(crate) struct Decoder {
    embedding: Projection,
    layers: Vec<Layer>,
    norm: RmsNorm,
    /// Absent where the embedding serves as the head too. On a graphics adapter
    /// it never does: rows are looked up on the processor.
    head: Option<Projection>,
    /// Where the layers are.
    #[module(skip)]
    device: Device,
    #[module(skip)]
    rules: Rules,
    #[module(skip)]
    kv: KvLayout,
    #[module(skip)]
    vocab: usize,
}

#[derive(Module, Debug)]
struct Layer {
    attention_norm: RmsNorm,
    /// Query, key and value in one call: inputs are quantised once.
    qkv: Projection,
    qk_norms: Option<QkNorms>,
    output: Projection,
    mlp_norm: RmsNorm,
    /// Gate and up in one call.
    gate_up: Projection,
    down: Projection,
    /// Norms after attention and after the feed-forward part.
    after: Option<(RmsNorm, RmsNorm)>,
    #[module(skip)]
    kind: AttentionKind,
}

#[derive(Module, Debug)]
struct QkNorms {
    #[module(skip)]
    query: Vec<f32>,
    #[module(skip)]
    key: Vec<f32>,
}

/// What the forward pass needs of the configuration.
#[derive(Clone, Debug)]
struct Rules {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    norm_eps: f32,
    ropes: Vec<Rope>,
    activation: Activation,
    embedding_scale: f32,
    attention_scale: f32,
    attention_softcap: Option<f32>,
    logit_softcap: Option<f32>,
}

/// One stream's part of a call: tokens that extend what its cache holds.
pub(crate) struct Input<'a> {
    pub(crate) ids: &'a [u32],
    pub(crate) cache: &'a mut KvCache,
}

impl Decoder {
    /// Builds the modules.
    pub(crate) fn build(
        config: &DecoderConfig,
        weights: &dyn Weights,
        (precision, kv): (Precision, KvType),
    ) -> Result<Self, TensorError> {
        let builder = Builder::new(weights, precision);
        let table = |builder: &Builder<'_>, name: &str| {
            let part = Part {
                name: name.to_owned(),
                outputs: config.vocab,
                bias: false,
            };
            builder.projection(&[part], config.hidden)
        };
        let layers = (0..config.layers.len()).map(|index| Layer::build(&builder, config, index));
        let norm = (config.norm_offset, config.norm_eps);
        const EMBEDDING: &str = "model.embed_tokens";
        let decoder = Self {
            embedding: table(&builder.on_host(), EMBEDDING)?,
            layers: layers.collect::<Result<_, _>>()?,
            norm: builder.rms_norm("model.norm.weight", config.hidden, norm)?,
            head: match config.tied_head {
                true if gpu::holds(&builder.device) => Some(table(&builder, EMBEDDING)?),
                true => None,
                false => Some(table(&builder, "lm_head")?),
            },
            device: builder.device.clone(),
            rules: Rules {
                heads: config.heads,
                kv_heads: config.kv_heads,
                head_dim: config.head_dim,
                norm_eps: config.norm_eps,
                ropes: config.ropes.clone(),
                activation: config.activation,
                embedding_scale: config.embedding_scale,
                attention_scale: config.attention_scale,
                attention_softcap: config.attention_softcap,
                logit_softcap: config.logit_softcap,
            },
            kv: KvLayout {
                layers: config.layers.len(),
                kv_heads: config.kv_heads,
                head_dim: config.head_dim,
                kind: kv,
            },
            vocab: config.vocab,
        };
        builder.finish()?;
        Ok(decoder)
    }

    /// The logits after the last of `ids`, which extend what `cache` holds.
    pub(crate) fn forward(&self, ids: &[u32], cache: &mut KvCache) -> Vec<f32> {
        let mut inputs = [Input { ids, cache }];
        let last = self.hidden(&mut inputs).narrow(0, ids.len() - 1, 1);
        self.logits(last)
    }

    /// The logits after each of `ids`, row by row.
    pub(crate) fn forward_all(&self, ids: &[u32], cache: &mut KvCache) -> Vec<f32> {
        let hidden = self.hidden(&mut [Input { ids, cache }]);
        self.logits(hidden)
    }

    /// An empty cache for this model.
    pub(crate) fn cache(&self) -> KvCache {
        KvCache::new(self.kv)
    }

    /// What its caches look like.
    pub(crate) fn kv_layout(&self) -> KvLayout {
        self.kv
    }

    /// Reads the tokens of many streams in one pass over the weights. Returns
    /// the logits after the last token of those that are `wanted`, in order.
    pub(crate) fn step(&self, inputs: &mut [Input<'_>], wanted: &[bool]) -> Vec<Vec<f32>> {
        let hidden = self.hidden(inputs);
        let mut end = 0;
        let mut rows = Vec::new();
        for (input, wanted) in inputs.iter().zip(wanted) {
            end += input.ids.len();
            if *wanted {
                rows.push(hidden.clone().narrow(0, end - 1, 1));
            }
        }
        if rows.is_empty() {
            return Vec::new();
        }
        let logits = self.logits(Tensor::cat(rows, 0));
        logits
            .chunks_exact(self.vocab)
            .map(<[f32]>::to_vec)
            .collect()
    }

    /// Whether reading many tokens at once gives the bits of reading them one
    /// by one.
    pub(crate) fn is_row_exact(&self) -> bool {
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        head.is_row_exact()
    }

    /// The hidden states of all streams' tokens, `[tokens, hidden]`.
    fn hidden(&self, inputs: &mut [Input<'_>]) -> Tensor<2> {
        let ids: Vec<u32> = inputs.iter().flat_map(|input| input.ids).copied().collect();
        let positions: Vec<usize> = inputs
            .iter_mut()
            .flat_map(|input| {
                let start = input.cache.reserve(input.ids.len());
                start..start + input.ids.len()
            })
            .collect();
        let ropes = self.rules.ropes.iter();
        let rotations: Vec<Rotation> = ropes.map(|rope| rotation(rope, &positions)).collect();
        let mut x = self.embedding.rows(&ids, &device());
        if self.rules.embedding_scale != 1.0 {
            x = x * self.rules.embedding_scale;
        }
        if gpu::holds(&self.device) {
            x = ops::moved(x, &self.device);
        }
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x, index, inputs, &rotations, &self.rules);
        }
        for input in inputs {
            input.cache.commit(input.ids.len());
        }
        x
    }

    fn logits(&self, hidden: Tensor<2>) -> Vec<f32> {
        let hidden = self.norm.forward(hidden);
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        let logits = head.forward(hidden).into_data();
        let mut logits: Vec<f32> = logits.try_into_vec().expect("the head's output is f32");
        if let Some(cap) = self.rules.logit_softcap {
            logits
                .iter_mut()
                .for_each(|l| *l = cap * math::tanh(*l / cap));
        }
        logits
    }
}

impl Layer {
    fn build(
        builder: &Builder<'_>,
        config: &DecoderConfig,
        index: usize,
    ) -> Result<Self, TensorError> {
        let hidden = config.hidden;
        let name = |part: &str| format!("model.layers.{index}.{part}");
        let part = |name: String, outputs: usize, bias: bool| Part {
            name,
            outputs,
            bias,
        };
        let qkv = config.qkv().into_iter();
        let qkv: Vec<Part> = qkv
            .map(|(what, n, bias)| part(name(what), n, bias))
            .collect();
        let gate_up = config.gate_up().into_iter();
        let gate_up: Vec<Part> = gate_up
            .map(|(what, n)| part(name(what), n, config.mlp_bias))
            .collect();
        let norm = |which: &str| {
            let name = name(&format!("{which}.weight"));
            builder.rms_norm(&name, hidden, (config.norm_offset, config.norm_eps))
        };
        let norms = config.norms();
        let output = part(name("self_attn.o_proj"), hidden, config.output_bias);
        let down = part(name("mlp.down_proj"), hidden, config.mlp_bias);
        Ok(Self {
            attention_norm: norm(norms[0])?,
            qkv: builder.projection(&qkv, hidden)?,
            qk_norms: match config.qk_norm {
                true => Some(QkNorms::build(builder, config, index)?),
                false => None,
            },
            output: builder.projection(&[output], config.heads * config.head_dim)?,
            mlp_norm: norm(norms[1])?,
            gate_up: builder.projection(&gate_up, hidden)?,
            down: builder.projection(&[down], config.intermediate)?,
            after: match norms {
                [_, _, attention, mlp] => Some((norm(attention)?, norm(mlp)?)),
                _ => None,
            },
            kind: config.layers[index],
        })
    }

    fn forward(
        &self,
        x: Tensor<2>,
        index: usize,
        inputs: &mut [Input<'_>],
        rotations: &[Rotation],
        rules: &Rules,
    ) -> Tensor<2> {
        let qkv = self.qkv.forward(self.attention_norm.forward(x.clone()));
        let norms = self.qk_norms.as_ref();
        let spec = AttendSpec {
            layer: index,
            heads: rules.heads,
            kv_heads: rules.kv_heads,
            head_dim: rules.head_dim,
            scale: rules.attention_scale,
            softcap: rules.attention_softcap,
            window: self.kind.window,
            causal: true,
            norms: norms.map(|n| (&*n.query, &*n.key, rules.norm_eps)),
            rotation: self.kind.rope.map(|rope| &rotations[rope]),
        };
        let mut segments: Vec<Segment<'_>> = inputs
            .iter_mut()
            .map(|input| Segment {
                tokens: input.ids.len(),
                cache: input.cache,
            })
            .collect();
        let attended = self.output.forward(ops::attend(qkv, &mut segments, spec));
        let after = self.after.as_ref();
        let x = x + after.map_or_else(
            || attended.clone(),
            |(norm, _)| norm.forward(attended.clone()),
        );
        let gate_up = self.gate_up.forward(self.mlp_norm.forward(x.clone()));
        let fed = self.down.forward(ops::gated(gate_up, rules.activation));
        match after {
            Some((_, norm)) => x + norm.forward(fed),
            None => x + fed,
        }
    }
}

impl QkNorms {
    fn build(
        builder: &Builder<'_>,
        config: &DecoderConfig,
        index: usize,
    ) -> Result<Self, TensorError> {
        let norm = |which: &str| {
            let name = format!("model.layers.{index}.self_attn.{which}_norm.weight");
            let mut weight = builder.weights.vector(&name, config.head_dim)?;
            weight.iter_mut().for_each(|w| *w += config.norm_offset);
            Ok::<_, TensorError>(weight)
        };
        Ok(Self {
            query: norm("q")?,
            key: norm("k")?,
        })
    }
}

/// Cosines and sines of these positions.
fn rotation(rope: &Rope, positions: &[usize]) -> Rotation {
    let half = rope.frequencies.len();
    let capacity = positions.len() * half;
    let (mut cos, mut sin) = (Vec::with_capacity(capacity), Vec::with_capacity(capacity));
    for position in positions {
        for frequency in &rope.frequencies {
            // The angle is f32, as in Hugging Face's models; from there f64
            // keeps the system's math library out of the result's bits.
            let (s, c) = f64::from(*position as f32 * frequency).sin_cos();
            cos.push(c as f32 * rope.amplitude);
            sin.push(s as f32 * rope.amplitude);
        }
    }
    Rotation { half, cos, sin }
}
