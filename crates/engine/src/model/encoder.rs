//! Encoders of the BERT line, and the heads on top of them.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};

use super::build::{Builder, Part, Precision, Weights};
use super::layers::{LayerNorm, Projection};
use super::math::{AttendSpec, Segment};
use super::{Activation, KvCache, KvLayout, KvType, device, ops};
use crate::artifact::TensorError;
use crate::config::{EncoderConfig, Head};
use crate::kernel::Shape;

/// An encoder with its head, if it has one.
#[derive(Module, Debug)]
pub(crate) struct Encoder {
    words: Projection,
    norm: LayerNorm,
    layers: Vec<Layer>,
    head: Vec<Projection>,
    #[module(skip)]
    tables: Tables,
    #[module(skip)]
    rules: Rules,
}

/// What is added to the embedding of a word.
#[derive(Clone, Debug)]
struct Tables {
    positions: Vec<f32>,
    /// Of the first type of token: a text stands alone.
    token_type: Vec<f32>,
}

#[derive(Clone, Copy, Debug)]
struct Rules {
    hidden: usize,
    heads: usize,
    first_position: usize,
    activation: Activation,
    head: Head,
}

#[derive(Module, Debug)]
struct Layer {
    qkv: Projection,
    output: Projection,
    attention_norm: LayerNorm,
    up: Projection,
    down: Projection,
    norm: LayerNorm,
}

impl Encoder {
    /// Builds the modules.
    pub(crate) fn build(
        config: &EncoderConfig,
        weights: &dyn Weights,
        precision: Precision,
    ) -> Result<Self, TensorError> {
        let builder = Builder::new(weights, precision);
        let hidden = config.hidden;
        let table = |name: &str, n: usize| {
            let name = format!("embeddings.{name}_embeddings.weight");
            weights.table(&name, Shape { n, k: hidden })
        };
        let linear = |(name, outputs): (&str, usize)| {
            let (name, bias) = (name.to_owned(), true);
            builder.projection(
                &[Part {
                    name,
                    outputs,
                    bias,
                }],
                hidden,
            )
        };
        let words = Part {
            name: "embeddings.word_embeddings".to_owned(),
            outputs: config.vocab,
            bias: false,
        };
        let mut token_type = table("token_type", config.token_types)?;
        token_type.truncate(hidden);
        let layers = (0..config.layers).map(|index| Layer::build(&builder, config, index));
        Ok(Self {
            words: builder.projection(&[words], hidden)?,
            norm: builder.layer_norm("embeddings.LayerNorm", hidden, config.norm_eps)?,
            layers: layers.collect::<Result<_, _>>()?,
            head: config
                .head_layers()
                .into_iter()
                .map(linear)
                .collect::<Result<_, _>>()?,
            tables: Tables {
                positions: table("position", config.positions)?,
                token_type,
            },
            rules: Rules {
                hidden,
                heads: config.heads,
                first_position: config.first_position,
                activation: config.activation,
                head: config.head,
            },
        })
    }

    /// The last hidden states of texts, text after text: `[tokens, hidden]`.
    /// Texts are not padded, so none costs more than it is long.
    pub(crate) fn hidden(&self, texts: &[&[u32]]) -> Vec<f32> {
        values(self.states(texts))
    }

    /// The head's outputs: a row for each token, or for each text.
    pub(crate) fn outputs(&self, texts: &[&[u32]]) -> Vec<f32> {
        let mut x = self.states(texts);
        if self.rules.head != Head::Tokens {
            let mut first = 0;
            let rows = texts.iter().map(|text| {
                let row = x.clone().narrow(0, first, 1);
                first += text.len();
                row
            });
            x = Tensor::cat(rows.collect(), 0);
        }
        for (index, layer) in self.head.iter().enumerate() {
            if index > 0 {
                x = ops::activate(x, Activation::Tanh);
            }
            x = layer.forward(x);
        }
        values(x)
    }

    fn states(&self, texts: &[&[u32]]) -> Tensor<2> {
        let Rules { hidden, heads, .. } = self.rules;
        let ids: Vec<u32> = texts.iter().flat_map(|text| text.iter()).copied().collect();
        let mut added = Vec::with_capacity(ids.len() * hidden);
        for text in texts {
            let first = self.rules.first_position * hidden;
            let positions = &self.tables.positions[first..][..text.len() * hidden];
            for row in positions.chunks_exact(hidden) {
                added.extend(row.iter().zip(&self.tables.token_type).map(|(p, t)| t + p));
            }
        }
        let added = TensorData::new(added, [ids.len(), hidden]);
        let words = self.words.rows(&ids, &device());
        let mut x = self
            .norm
            .forward(words + Tensor::from_data(added, &device()));
        let layout = KvLayout {
            layers: 1,
            kv_heads: heads,
            head_dim: hidden / heads,
            kind: KvType::F32,
        };
        // Keys and values of one layer at a time: written, read, and written
        // over by the next.
        let mut caches: Vec<KvCache> = texts.iter().map(|_| KvCache::new(layout)).collect();
        for (cache, text) in caches.iter_mut().zip(texts) {
            cache.reserve(text.len());
        }
        for layer in &self.layers {
            let mut segments: Vec<Segment<'_>> = texts
                .iter()
                .zip(&mut caches)
                .map(|(text, cache)| Segment {
                    tokens: text.len(),
                    cache,
                })
                .collect();
            x = layer.forward(x, &mut segments, self.rules);
        }
        x
    }
}

impl Layer {
    fn build(
        builder: &Builder<'_>,
        config: &EncoderConfig,
        index: usize,
    ) -> Result<Self, TensorError> {
        let hidden = config.hidden;
        let name = |part: &str| format!("encoder.layer.{index}.{part}");
        let part = |what: &str, outputs: usize| Part {
            name: name(what),
            outputs,
            bias: true,
        };
        let norm = |what: &str| builder.layer_norm(&name(what), hidden, config.norm_eps);
        let qkv =
            ["query", "key", "value"].map(|what| part(&format!("attention.self.{what}"), hidden));
        Ok(Self {
            qkv: builder.projection(&qkv, hidden)?,
            output: builder.projection(&[part("attention.output.dense", hidden)], hidden)?,
            attention_norm: norm("attention.output.LayerNorm")?,
            up: builder.projection(&[part("intermediate.dense", config.intermediate)], hidden)?,
            down: builder.projection(&[part("output.dense", hidden)], config.intermediate)?,
            norm: norm("output.LayerNorm")?,
        })
    }

    fn forward(&self, x: Tensor<2>, segments: &mut [Segment<'_>], rules: Rules) -> Tensor<2> {
        let head_dim = rules.hidden / rules.heads;
        let spec = AttendSpec {
            layer: 0,
            heads: rules.heads,
            kv_heads: rules.heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            softcap: None,
            window: None,
            causal: false,
            norms: None,
            rotation: None,
        };
        let attended = ops::attend(self.qkv.forward(x.clone()), segments, spec);
        let x = self
            .attention_norm
            .forward(x + self.output.forward(attended));
        let up = ops::activate(self.up.forward(x.clone()), rules.activation);
        self.norm.forward(x + self.down.forward(up))
    }
}

fn values(x: Tensor<2>) -> Vec<f32> {
    x.into_data().try_into_vec().expect("activations are f32")
}
