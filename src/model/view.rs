//! A model's source as the importer is to see it: links to the files that
//! belong to it, and a `tiermesh.json` that says what the user or the hub says.

use anyhow::{Context as _, bail};
use serde_json::{Map, Value};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// What the importer reads beside a checkpoint.
const SIDE_FILE: &str = "tiermesh.json";
/// More than any such file has.
const MAX_SIDE_FILE: u64 = 1 << 20;

/// What is known of a model besides its files.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// Its name; the directory's or the repository's, if nobody gave one.
    pub(super) name: Option<String>,
    /// Its licence, if nobody else says.
    pub(super) license: Option<String>,
    /// Where it comes from.
    pub(super) source: Option<String>,
}

/// A directory of links. It is gone when this is dropped.
pub(super) struct View {
    directory: TempDir,
}

impl View {
    /// The files of `source`, all of them or `only` some, with `given` instead
    /// of what its side file says, and `assumed` where it says nothing.
    ///
    /// # Errors
    /// What cannot be read or written.
    pub(super) fn of(
        source: &Path,
        only: Option<&[String]>,
        given: &Facts,
        assumed: &Facts,
    ) -> anyhow::Result<Self> {
        let source = std::path::absolute(source)?;
        let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
        let entries = match only {
            Some(files) => files.iter().map(PathBuf::from).collect(),
            None => entries(&source)?,
        };
        for entry in entries.iter().filter(|entry| entry.as_path() != SIDE_FILE) {
            let link = directory.path().join(entry);
            let folder = link.parent().unwrap_or(directory.path());
            std::fs::create_dir_all(folder)
                .and_then(|()| std::os::unix::fs::symlink(source.join(entry), &link))
                .with_context(|| format!("cannot link {}", link.display()))?;
        }
        let side = side_file(&source.join(SIDE_FILE), given, assumed)?;
        let path = directory.path().join(SIDE_FILE);
        std::fs::write(&path, Value::Object(side).to_string())
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { directory })
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }
}

fn entries(source: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let read = std::fs::read_dir(source)
        .with_context(|| format!("cannot read the directory {}", source.display()))?;
    let names = read.map(|entry| Ok(PathBuf::from(entry?.file_name())));
    names.collect()
}

fn side_file(path: &Path, given: &Facts, assumed: &Facts) -> anyhow::Result<Map<String, Value>> {
    let mut side = match std::fs::File::open(path) {
        Ok(file) => {
            let mut text = String::new();
            file.take(MAX_SIDE_FILE)
                .read_to_string(&mut text)
                .with_context(|| format!("cannot read {}", path.display()))?;
            serde_json::from_str(&text)
                .with_context(|| format!("{} is not a JSON object", path.display()))?
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Map::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    for (key, given, assumed) in [
        ("name", &given.name, &assumed.name),
        ("license", &given.license, &assumed.license),
        ("source", &given.source, &assumed.source),
    ] {
        if let Some(given) = given {
            side.insert(key.to_owned(), given.clone().into());
        } else if let (false, Some(assumed)) = (side.contains_key(key), assumed) {
            side.insert(key.to_owned(), assumed.clone().into());
        }
    }
    if !side.get("name").is_some_and(Value::is_string) {
        bail!("{} has no name: use --name ID", path.display());
    }
    Ok(side)
}

/// The name a view's model will have.
///
/// # Errors
/// When its side file cannot be read.
pub(super) fn name(view: &View) -> anyhow::Result<String> {
    let path = view.path().join(SIDE_FILE);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let side: Value = serde_json::from_str(&text)?;
    Ok(side["name"].as_str().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_says_goes_before_the_side_file_before_what_is_assumed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), "{}").unwrap();
        std::fs::create_dir(dir.path().join("1_Pooling")).unwrap();
        let side = r#"{"name": "side", "license": "side", "eos": ["<|end|>"]}"#;
        std::fs::write(dir.path().join(SIDE_FILE), side).unwrap();
        let given = Facts {
            license: Some("given".to_owned()),
            ..Facts::default()
        };
        let assumed = Facts {
            name: Some("assumed".to_owned()),
            license: Some("assumed".to_owned()),
            source: Some("assumed".to_owned()),
        };
        let view = View::of(dir.path(), None, &given, &assumed).unwrap();
        let text = std::fs::read_to_string(view.path().join(SIDE_FILE)).unwrap();
        let side: Value = serde_json::from_str(&text).unwrap();
        let expected = serde_json::json!({
            "name": "side", "license": "given", "source": "assumed", "eos": ["<|end|>"],
        });
        assert_eq!(side, expected);
        assert_eq!(name(&view).unwrap(), "side");
        assert!(view.path().join("config.json").is_file());
        assert!(view.path().join("1_Pooling").is_dir());
    }

    #[test]
    fn a_view_of_some_files_has_no_others() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["config.json", "other.safetensors"] {
            std::fs::write(dir.path().join(file), "{}").unwrap();
        }
        let named = Facts {
            name: Some("x".to_owned()),
            ..Facts::default()
        };
        let only = ["config.json".to_owned()];
        let view = View::of(dir.path(), Some(&only), &named, &Facts::default()).unwrap();
        assert!(view.path().join("config.json").is_file());
        assert!(!view.path().join("other.safetensors").exists());
        assert!(View::of(dir.path(), None, &Facts::default(), &Facts::default()).is_err());
    }
}
