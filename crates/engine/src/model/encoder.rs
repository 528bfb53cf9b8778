//! Encoders of the BERT line, and the heads on top of them.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};

use super::build::{Builder, Part, Precision, Weights};
use super::layers::{LayerNorm, Projection};
use super::stack::{StackLayer, StackRules};
use super::{Activation, device, ops};
use crate::artifact::TensorError;
use crate::config::{EncoderConfig, Head};
use crate::kernel::{Encoding, KernelPath, Shape};

/// An encoder with its head, if it has one.
#[derive(Module, Debug)]
pub(crate) struct Encoder {
    words: Projection,
    norm: LayerNorm,
    layers: Vec<StackLayer>,
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
    first_position: usize,
    stack: StackRules,
    head: Head,
}

impl Encoder {
    /// Builds the modules, with linear layers in this encoding.
    pub(crate) fn build(
        config: &EncoderConfig,
        weights: &dyn Weights,
        packed: (Encoding, KernelPath),
    ) -> Result<Self, TensorError> {
        let (encoding, path) = packed;
        let builder = Builder::new(weights, Precision::Packed(encoding, path));
        // Rows of f32 are found faster where they lie in one piece.
        let words_builder = match encoding {
            Encoding::F32 => Builder::new(weights, Precision::Dense),
            _ => Builder::new(weights, builder.precision),
        };
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
        let layers = (0..config.layers).map(|index| layer(&builder, config, packed, index));
        Ok(Self {
            words: words_builder.projection(&[words], hidden)?,
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
                first_position: config.first_position,
                stack: StackRules {
                    heads: config.heads,
                    hidden,
                    activation: config.activation,
                },
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
        let hidden = self.rules.stack.hidden;
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
        let x = self
            .norm
            .forward(words + Tensor::from_data(added, &device()));
        let lengths: Vec<usize> = texts.iter().map(|text| text.len()).collect();
        ops::stack(x, &self.layers, &lengths, self.rules.stack)
    }
}

fn layer(
    builder: &Builder<'_>,
    config: &EncoderConfig,
    packed: (Encoding, KernelPath),
    index: usize,
) -> Result<StackLayer, TensorError> {
    let hidden = config.hidden;
    let name = |part: &str| format!("encoder.layer.{index}.{part}");
    let part = |what: &str, outputs: usize| Part {
        name: name(what),
        outputs,
        bias: true,
    };
    let linear = |parts: &[Part], inputs: usize| builder.packed_linear(parts, inputs, packed);
    let norm = |what: &str| builder.norm(&name(what), hidden, config.norm_eps);
    let qkv = ["query", "key", "value"].map(|what| part(&format!("attention.self.{what}"), hidden));
    Ok(StackLayer {
        qkv: linear(&qkv, hidden)?,
        output: linear(&[part("attention.output.dense", hidden)], hidden)?,
        attention_norm: norm("attention.output.LayerNorm")?,
        up: linear(&[part("intermediate.dense", config.intermediate)], hidden)?,
        down: linear(&[part("output.dense", hidden)], config.intermediate)?,
        norm: norm("output.LayerNorm")?,
    })
}

fn values(x: Tensor<2>) -> Vec<f32> {
    x.into_data().try_into_vec().expect("activations are f32")
}
