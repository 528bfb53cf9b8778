//! Encoders: BERT and its relatives, with what stands on top of them.

use super::raw::{RawConfig, activation};
use super::{
    ConfigError, MAX_CONTEXT, MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, TensorKind, TensorSpec,
    range, unsupported, within,
};
use crate::kernel::Shape;
use crate::model::Activation;

const MAX_LABELS: usize = 1 << 14;

/// What is computed from the hidden states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// Nothing: they are pooled into an embedding.
    Embed,
    /// A label for each token.
    Tokens,
    /// Labels for the text, from its first token: through BERT's pooler.
    Pooled,
    /// The same through RoBERTa's head.
    Dense,
}

/// An encoder's shape.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EncoderConfig {
    pub(crate) architecture: String,
    pub(crate) head: Head,
    pub(crate) vocab: usize,
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    /// Tokens of a text at most.
    pub(crate) context: usize,
    /// Rows of the position table, and the one of the first token.
    pub(crate) positions: usize,
    pub(crate) first_position: usize,
    pub(crate) token_types: usize,
    pub(crate) norm_eps: f32,
    pub(crate) activation: Activation,
    /// Names of what a head tells apart.
    pub(crate) labels: Vec<String>,
}

pub(super) struct Architecture {
    name: String,
    is_roberta: bool,
    head: Head,
}

impl Architecture {
    pub(super) fn of(raw: &RawConfig) -> Option<Self> {
        raw.architectures.iter().find_map(|name| {
            // The longer name first: one is the end of the other.
            let families = [("XLMRoberta", true), ("Roberta", true), ("Bert", false)];
            let (is_roberta, what) = families
                .iter()
                .find_map(|(family, roberta)| Some((*roberta, name.strip_prefix(family)?)))?;
            let head = match (what, is_roberta) {
                ("Model" | "ForMaskedLM" | "ForPreTraining", _) => Head::Embed,
                ("ForTokenClassification", _) => Head::Tokens,
                ("ForSequenceClassification", false) => Head::Pooled,
                ("ForSequenceClassification", true) => Head::Dense,
                _ => return None,
            };
            Some(Self {
                name: name.clone(),
                is_roberta,
                head,
            })
        })
    }
}

impl EncoderConfig {
    pub(super) fn build(architecture: Architecture, raw: &RawConfig) -> Result<Self, ConfigError> {
        let Architecture {
            name,
            is_roberta,
            head,
        } = architecture;
        if let Some(kind) = &raw.position_embedding_type
            && kind != "absolute"
        {
            return Err(unsupported("position_embedding_type", kind, "absolute"));
        }
        if raw.is_decoder == Some(true) {
            return Err(unsupported("is_decoder", true, "false"));
        }
        let hidden = raw.needed("hidden_size", raw.hidden_size)?;
        let hidden = within("hidden_size", hidden, MAX_WIDTH)?;
        let heads = raw.needed("num_attention_heads", raw.num_attention_heads)?;
        let heads = within("num_attention_heads", heads, MAX_HEADS)?;
        if !hidden.is_multiple_of(heads) {
            return Err(range(
                "hidden_size",
                hidden,
                format!("a multiple of {heads} heads"),
            ));
        }
        let vocab = raw.needed("vocab_size", raw.vocab_size)?;
        let layers = raw.needed("num_hidden_layers", raw.num_hidden_layers)?;
        let intermediate = raw.needed("intermediate_size", raw.intermediate_size)?;
        let positions = raw.max_position_embeddings.unwrap_or(512);
        let positions = within("max_position_embeddings", positions, MAX_CONTEXT)?;
        let first_position = match is_roberta {
            true => usize::try_from(raw.pad_token_id.unwrap_or(1) + 1).unwrap_or(usize::MAX),
            false => 0,
        };
        if first_position >= positions {
            return Err(range(
                "pad_token_id",
                first_position,
                format!("below {positions}"),
            ));
        }
        let norm_eps = raw.layer_norm_eps.unwrap_or(1e-12);
        if !(0.0..=1.0).contains(&norm_eps) {
            return Err(range("layer_norm_eps", norm_eps, "0 to 1"));
        }
        let act = raw.hidden_act.as_deref().unwrap_or("gelu");
        Ok(Self {
            architecture: name,
            head,
            vocab: within("vocab_size", vocab, MAX_VOCAB)?,
            hidden,
            intermediate: within("intermediate_size", intermediate, MAX_WIDTH)?,
            layers: within("num_hidden_layers", layers, MAX_LAYERS)?,
            heads,
            context: positions - first_position,
            positions,
            first_position,
            token_types: within(
                "type_vocab_size",
                raw.type_vocab_size.unwrap_or(2),
                MAX_HEADS,
            )?,
            norm_eps: norm_eps as f32,
            activation: activation("hidden_act", act)?,
            labels: labels(head, raw)?,
        })
    }

    /// Every tensor, by the name a bare encoder gives it.
    pub(super) fn tensors(&self) -> Vec<TensorSpec> {
        let hidden = self.hidden;
        let table = |name: &str, rows: usize| TensorSpec {
            name: name.to_owned(),
            kind: TensorKind::Table(Shape { n: rows, k: hidden }),
        };
        let mut all = vec![
            TensorSpec::matrix("embeddings.word_embeddings.weight", self.vocab, hidden),
            table("embeddings.position_embeddings.weight", self.positions),
            table("embeddings.token_type_embeddings.weight", self.token_types),
        ];
        let norm = |all: &mut Vec<TensorSpec>, name: String| {
            all.push(TensorSpec::vector(format!("{name}.weight"), hidden));
            all.push(TensorSpec::vector(format!("{name}.bias"), hidden));
        };
        let linear = |all: &mut Vec<TensorSpec>, name: String, n: usize, k: usize| {
            all.push(TensorSpec::matrix(format!("{name}.weight"), n, k));
            all.push(TensorSpec::vector(format!("{name}.bias"), n));
        };
        norm(&mut all, "embeddings.LayerNorm".to_owned());
        for layer in 0..self.layers {
            let name = |part: &str| format!("encoder.layer.{layer}.{part}");
            for part in ["query", "key", "value"] {
                linear(
                    &mut all,
                    name(&format!("attention.self.{part}")),
                    hidden,
                    hidden,
                );
            }
            linear(&mut all, name("attention.output.dense"), hidden, hidden);
            norm(&mut all, name("attention.output.LayerNorm"));
            linear(
                &mut all,
                name("intermediate.dense"),
                self.intermediate,
                hidden,
            );
            linear(&mut all, name("output.dense"), hidden, self.intermediate);
            norm(&mut all, name("output.LayerNorm"));
        }
        for (name, outputs) in self.head_layers() {
            linear(&mut all, name.to_owned(), outputs, hidden);
        }
        all
    }

    /// The head's linear layers, in order: name and outputs.
    pub(crate) fn head_layers(&self) -> Vec<(&'static str, usize)> {
        let labels = self.labels.len();
        match self.head {
            Head::Embed => Vec::new(),
            Head::Tokens => vec![("classifier", labels)],
            Head::Pooled => vec![("pooler.dense", self.hidden), ("classifier", labels)],
            Head::Dense => vec![
                ("classifier.dense", self.hidden),
                ("classifier.out_proj", labels),
            ],
        }
    }
}

/// Label names in the order of their numbers.
fn labels(head: Head, raw: &RawConfig) -> Result<Vec<String>, ConfigError> {
    if head == Head::Embed {
        return Ok(Vec::new());
    }
    let count = match raw.id2label.is_empty() {
        true => raw.num_labels.unwrap_or(2),
        false => raw.id2label.len(),
    };
    let count = within("id2label", count, MAX_LABELS)?;
    let name = |id: usize| match raw.id2label.is_empty() {
        true => Ok(format!("LABEL_{id}")),
        false => raw.id2label.get(&id.to_string()).cloned().ok_or_else(|| {
            range(
                "id2label",
                format!("(no {id})"),
                format!("every number from 0 to {}", count - 1),
            )
        }),
    };
    (0..count).map(name).collect()
}
