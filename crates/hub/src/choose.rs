//! Which files of a repository a model is made of.

use super::HubError;
use super::name::is_plain_path;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// One file of weights.
pub(crate) const SINGLE: &str = "model.safetensors";
/// Which shard holds which tensor.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// What an artifact of ours is known by.
pub const MANIFEST: &str = "manifest.json";

/// What is read beside weights, where a repository has it.
const SIDE: [&str; 11] = [
    MANIFEST,
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "2_Normalize/config.json",
];
/// Without these there is no model.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];

/// What tells what an artifact is: little, beside its weights.
pub(crate) fn outline(repo: &str, present: &BTreeSet<&str>) -> Result<Vec<String>, HubError> {
    for file in [MANIFEST, "config.json"] {
        if !present.contains(file) {
            return Err(HubError::Incomplete {
                repo: repo.to_owned(),
                file: file.to_owned(),
                needs: "an artifact of ours has",
            });
        }
    }
    let known = [MANIFEST, "config.json", "generation_config.json"];
    let there = known.into_iter().filter(|file| present.contains(file));
    Ok(there.map(str::to_owned).collect())
}

/// Every file that has a name of its own: all but shards.
pub(crate) fn known() -> impl Iterator<Item = &'static str> {
    SIDE.into_iter().chain([SINGLE, INDEX])
}

/// The files to fetch before the weights are known: all but shards.
pub(crate) fn first(repo: &str, present: &BTreeSet<&str>) -> Result<Vec<String>, HubError> {
    for file in NEEDED {
        if !present.contains(file) {
            return Err(HubError::Incomplete {
                repo: repo.to_owned(),
                file: file.to_owned(),
                needs: "an import needs",
            });
        }
    }
    let side = SIDE.iter().filter(|file| present.contains(**file));
    let mut files: Vec<String> = side.map(|file| (*file).to_owned()).collect();
    // One whole file goes before shards, as in the hub's own tools: some
    // repositories have both.
    if present.contains(SINGLE) {
        files.push(SINGLE.to_owned());
    } else if present.contains(INDEX) {
        files.push(INDEX.to_owned());
    } else {
        return Err(HubError::NoWeights {
            repo: repo.to_owned(),
        });
    }
    Ok(files)
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The shards an index names, in order, each once.
pub(crate) fn shards(
    repo: &str,
    index: &[u8],
    present: impl Fn(&str) -> bool,
) -> Result<Vec<String>, HubError> {
    let repo = || repo.to_owned();
    let index: Index = serde_json::from_slice(index).map_err(|source| HubError::Index {
        repo: repo(),
        file: INDEX,
        source,
    })?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    for file in &shards {
        let file = file.clone();
        if !is_plain_path(&file) || !file.ends_with(".safetensors") {
            return Err(HubError::Path { repo: repo(), file });
        }
        if !present(&file) {
            return Err(HubError::Incomplete {
                repo: repo(),
                file,
                needs: "its index names",
            });
        }
    }
    match shards.is_empty() {
        true => Err(HubError::NoWeights { repo: repo() }),
        false => Ok(shards.into_iter().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(present: &[&str]) -> Result<Vec<String>, HubError> {
        first("a/b", &present.iter().copied().collect())
    }

    #[test]
    fn one_file_goes_before_shards_and_other_formats_stay_away() {
        let present = [
            "README.md",
            "config.json",
            "tokenizer.json",
            "consolidated.safetensors",
            "model.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
        ];
        let files = ["config.json", "tokenizer.json", "model.safetensors"];
        assert_eq!(chosen(&present).unwrap(), files);
    }

    #[test]
    fn a_repository_without_weights_or_tokenizer_says_what_is_missing() {
        let error = chosen(&["config.json", "tokenizer.json", "pytorch_model.bin"]).unwrap_err();
        assert!(matches!(error, HubError::NoWeights { .. }), "{error}");
        let error = chosen(&["config.json", "model.safetensors"]).unwrap_err();
        assert!(error.to_string().contains("tokenizer.json"), "{error}");
    }

    #[test]
    fn an_index_names_plain_files_that_are_there() {
        let index = |shard: &str| {
            let map = serde_json::json!({"weight_map": {"x": shard, "y": shard}});
            map.to_string().into_bytes()
        };
        let there = |file: &str| file != "gone.safetensors";
        let good = shards("a/b", &index("m-1.safetensors"), there).unwrap();
        assert_eq!(good, ["m-1.safetensors"]);
        for bad in [
            "../m.safetensors",
            "/m.safetensors",
            "m.bin",
            "gone.safetensors",
        ] {
            let error = shards("a/b", &index(bad), there).unwrap_err();
            assert!(error.to_string().contains(bad), "{error}");
        }
        assert!(shards("a/b", b"{\"weight_map\": {}}", there).is_err());
        assert!(shards("a/b", b"[]", there).is_err());
    }
}
