//! Manifests as they come: files, directories, standard input; YAML streams, JSON, `List`s.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Deserialize as _;
use serde_json::Value;

/// Largest file that is read, in bytes: more than any manifest, less than the memory.
const LARGEST: u64 = 32 * 1024 * 1024;

/// One object out of a manifest.
#[derive(Debug)]
pub(super) struct Document {
    /// The file, or `-`.
    pub file: String,
    /// The object, as JSON text.
    pub object: Value,
}

/// Every object in the files and directories named; `-` is standard input.
pub(super) fn read(paths: &[PathBuf]) -> anyhow::Result<Vec<Document>> {
    let mut all = vec![];
    for path in paths {
        if path.as_os_str() == "-" {
            let text = std::io::read_to_string(std::io::stdin()).context("reading standard input")?;
            parse("-", &text, &mut all)?;
            continue;
        }
        for file in files(path)? {
            let name = file.display().to_string();
            let size = std::fs::metadata(&file).with_context(|| format!("reading `{name}`"))?.len();
            anyhow::ensure!(size <= LARGEST, "`{name}` has {size} bytes; {LARGEST} is the most that is read");
            let text = std::fs::read_to_string(&file).with_context(|| format!("reading `{name}`"))?;
            parse(&name, &text, &mut all)?;
        }
    }
    Ok(all)
}

/// The file itself, or the manifests in a directory and below, in the order of their names.
fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("reading directory `{}`", path.display()))?;
    let mut entries: Vec<PathBuf> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    entries.sort();
    let mut found = vec![];
    for entry in entries {
        let is_manifest =
            entry.extension().and_then(|ending| ending.to_str()).is_some_and(|ending| ["yaml", "yml", "json"].contains(&ending));
        // A link to a directory could lead back up.
        if entry.is_dir() && !entry.is_symlink() {
            found.extend(files(&entry)?);
        } else if is_manifest && entry.is_file() {
            found.push(entry);
        }
    }
    Ok(found)
}

fn parse(file: &str, text: &str, all: &mut Vec<Document>) -> anyhow::Result<()> {
    for (n, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let object = Value::deserialize(document).with_context(|| format!("`{file}`, document {}", n + 1))?;
        flatten(file, object, all);
    }
    Ok(())
}

/// A `List` is its items.
fn flatten(file: &str, mut object: Value, all: &mut Vec<Document>) {
    let is_list = object["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
    match object.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) if is_list => items.into_iter().for_each(|item| flatten(file, item, all)),
        Some(items) => {
            object["items"] = items;
            all.push(Document { file: file.to_owned(), object });
        }
        None if object.is_null() => {}
        None => all.push(Document { file: file.to_owned(), object }),
    }
}
