//! Reading and writing models as Hugging Face directories.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::module::Param;
use burn::tensor::{Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::batch::id;
use crate::model::{Layer, Llama, Norm, Shape, parameter};
use crate::tokens::{self, END, PAD, TITLE};

/// A matrix or vector on its way to or from a file, `[out, in]` as Hugging Face has it.
struct Array {
    dims: Vec<usize>,
    values: Vec<f32>,
}

/// Writes `config.json`, `tokenizer.json` and `model.safetensors` (F32) into `folder`.
///
/// # Errors
///
/// When the folder cannot be written.
pub fn save(folder: &Path, model: &Llama, tokenizer: &Tokenizer) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let config = serde_json::to_string_pretty(&config(&model.shape(), tokenizer)?)?;
    replace(&folder.join("config.json"), (config + "\n").as_bytes())?;
    let text = tokenizer.to_string(false).map_err(tokens::failure)?;
    replace(&folder.join("tokenizer.json"), text.as_bytes())?;
    let arrays = arrays(model);
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = arrays
        .into_iter()
        .map(|(name, array)| {
            let bytes = array.values.iter().flat_map(|v| v.to_le_bytes()).collect();
            (name, array.dims, bytes)
        })
        .collect();
    let views = bytes
        .iter()
        .map(|(name, dims, bytes)| {
            Ok((
                name.as_str(),
                TensorView::new(Dtype::F32, dims.clone(), bytes)?,
            ))
        })
        .collect::<Result<Vec<_>>>()?;
    let file = safetensors::serialize(views, None)?;
    replace(&folder.join("model.safetensors"), &file)
}

/// Reads what [`save`] wrote.
///
/// # Errors
///
/// When a file is missing, malformed or of another architecture.
pub fn load(folder: &Path, device: &Device) -> Result<(Llama, Tokenizer)> {
    let tokenizer = tokens::load(&folder.join("tokenizer.json"))?;
    let config = fs::read(folder.join("config.json"))
        .with_context(|| format!("cannot read {}/config.json", folder.display()))?;
    let shape = shape(&serde_json::from_slice(&config)?)?;
    let file = fs::read(folder.join("model.safetensors"))
        .with_context(|| format!("cannot read {}/model.safetensors", folder.display()))?;
    let file = SafeTensors::deserialize(&file)?;
    let arrays: HashMap<String, Array> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let values = (view.data().chunks_exact(4))
                .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
                .collect();
            let dims = view.shape().to_vec();
            (name, Array { dims, values })
        })
        .collect();
    let mut model = Llama::init(shape, 0, device);
    fill(&mut model, &arrays, device)?;
    Ok((model, tokenizer))
}

/// Writes a file so that a stop in the middle leaves the old one.
///
/// # Errors
///
/// When the file cannot be written.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let draft = path.with_extension("part");
    fs::write(&draft, bytes).with_context(|| format!("cannot write {}", draft.display()))?;
    fs::rename(&draft, path).with_context(|| format!("cannot write {}", path.display()))
}

fn config(shape: &Shape, tokenizer: &Tokenizer) -> Result<Value> {
    Ok(json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.feed_forward,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.max_positions,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": shape.norm_eps,
        "attention_bias": false,
        "mlp_bias": false,
        "tie_word_embeddings": true,
        "bos_token_id": id(tokenizer, TITLE)?,
        "eos_token_id": id(tokenizer, END)?,
        "pad_token_id": id(tokenizer, PAD)?,
        "torch_dtype": "float32",
    }))
}

fn shape(config: &Value) -> Result<Shape> {
    let number = |key: &str| {
        let value = config[key]
            .as_u64()
            .with_context(|| format!("config.json: no {key}"))?;
        Ok::<_, anyhow::Error>(usize::try_from(value)?)
    };
    // transformers 5 keeps the base of the angles a level down.
    let theta = [
        &config["rope_theta"],
        &config["rope_parameters"]["rope_theta"],
    ];
    let theta = theta.into_iter().find_map(Value::as_f64);
    let tied = config["tie_word_embeddings"] == true;
    ensure!(
        config["model_type"] == "llama" && tied,
        "config.json: not a Llama with tied embeddings"
    );
    Ok(Shape {
        hidden: number("hidden_size")?,
        layers: number("num_hidden_layers")?,
        heads: number("num_attention_heads")?,
        kv_heads: number("num_key_value_heads")?,
        head_dim: number("head_dim")?,
        feed_forward: number("intermediate_size")?,
        vocab: number("vocab_size")?,
        max_positions: number("max_position_embeddings")?,
        rope_theta: theta.context("config.json: no rope_theta")?,
        norm_eps: config["rms_norm_eps"]
            .as_f64()
            .context("config.json: no rms_norm_eps")?,
    })
}

/// Every tensor under Hugging Face's name, in a fixed order.
fn arrays(model: &Llama) -> Vec<(String, Array)> {
    let shape = model.shape();
    let (query, kv) = (
        shape.heads * shape.head_dim,
        shape.kv_heads * shape.head_dim,
    );
    let mut arrays = vec![(
        "model.embed_tokens.weight".to_owned(),
        array(&model.embedding.val()),
    )];
    for (i, layer) in model.layers.iter().enumerate() {
        let mut push = |name: &str, array: Array| {
            arrays.push((format!("model.layers.{i}.{name}.weight"), array));
        };
        let part = |matrix: &Param<Tensor<2>>, start: usize, width: usize| {
            array(&matrix.val().narrow(1, start, width).transpose())
        };
        push("input_layernorm", array(&layer.norm_attention.weight.val()));
        push("self_attn.q_proj", part(&layer.qkv, 0, query));
        push("self_attn.k_proj", part(&layer.qkv, query, kv));
        push("self_attn.v_proj", part(&layer.qkv, query + kv, kv));
        push("self_attn.o_proj", part(&layer.output, 0, shape.hidden));
        push(
            "post_attention_layernorm",
            array(&layer.norm_feed_forward.weight.val()),
        );
        push("mlp.gate_proj", part(&layer.gate_up, 0, shape.feed_forward));
        push(
            "mlp.up_proj",
            part(&layer.gate_up, shape.feed_forward, shape.feed_forward),
        );
        push("mlp.down_proj", part(&layer.down, 0, shape.hidden));
    }
    arrays.push((
        "model.norm.weight".to_owned(),
        array(&model.norm.weight.val()),
    ));
    arrays
}

fn array<const D: usize>(tensor: &Tensor<D>) -> Array {
    let data = tensor.clone().into_data();
    Array {
        dims: tensor.dims().to_vec(),
        values: data.iter::<f32>().collect(),
    }
}

fn fill(model: &mut Llama, arrays: &HashMap<String, Array>, device: &Device) -> Result<()> {
    let get = |name: &str| {
        arrays
            .get(name)
            .with_context(|| format!("no tensor {name}"))
    };
    let norm = |norm: &mut Norm, name: &str| -> Result<()> {
        norm.weight = vector(get(name)?, device);
        Ok(())
    };
    model.embedding = {
        let array = get("model.embed_tokens.weight")?;
        parameter(array.values.clone(), [array.dims[0], array.dims[1]], device)
    };
    for (i, layer) in model.layers.iter_mut().enumerate() {
        let name = |part: &str| format!("model.layers.{i}.{part}.weight");
        let columns = |parts: &[&str]| -> Result<Param<Tensor<2>>> {
            let parts: Vec<&Array> = parts
                .iter()
                .map(|part| get(&name(part)))
                .collect::<Result<_>>()?;
            Ok(side_by_side(&parts, device))
        };
        norm(&mut layer.norm_attention, &name("input_layernorm"))?;
        norm(
            &mut layer.norm_feed_forward,
            &name("post_attention_layernorm"),
        )?;
        let Layer {
            qkv,
            output,
            gate_up,
            down,
            ..
        } = layer;
        *qkv = columns(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"])?;
        *output = columns(&["self_attn.o_proj"])?;
        *gate_up = columns(&["mlp.gate_proj", "mlp.up_proj"])?;
        *down = columns(&["mlp.down_proj"])?;
    }
    norm(&mut model.norm, "model.norm.weight")
}

fn vector(array: &Array, device: &Device) -> Param<Tensor<1>> {
    parameter(array.values.clone(), [array.dims[0]], device)
}

/// From several `[out, in]` on file to one `[in, out + out + …]`.
fn side_by_side(arrays: &[&Array], device: &Device) -> Param<Tensor<2>> {
    let inputs = arrays[0].dims[1];
    let values: Vec<f32> = (0..inputs)
        .flat_map(|input| {
            arrays.iter().flat_map(move |array| {
                let column = array.values.iter().skip(input).step_by(inputs);
                column.copied()
            })
        })
        .collect();
    let outputs = values.len() / inputs;
    parameter(values, [inputs, outputs], device)
}
