//! Manifests as they come: files, directories, standard input; YAML streams, JSON, `List`s.
//!
//! In: paths. Out: every object with the place of every field, and a [`Problem`] for each
//! thing that could not be read. One bad document, file or path never hides the others.
//!
//! What is no object of Kubernetes (values of a chart, a workflow) is passed over: a directory
//! holds all kinds of YAML.

mod build;
mod json;
pub(super) mod node;
mod scalar;
mod yaml;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use build::{Fault, Read};
use node::{Node, Position, What};
use sha2::{Digest as _, Sha256};

/// Largest file that is read, in bytes: more than any manifest, less than the memory.
const LARGEST: u64 = 32 * 1024 * 1024;
/// Most objects of one run.
const MOST_OBJECTS: usize = 100_000;

/// One object out of a manifest.
#[derive(Clone, Debug)]
pub(super) struct Document {
    /// The file, or `-`.
    pub file: Arc<str>,
    /// The object.
    pub root: Node,
}

/// Something that could not be read, or not without a doubt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// The file, or `-`.
    pub file: Arc<str>,
    /// Where in it; none where it is about the file as a whole.
    pub at: Option<Position>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
}

/// What the paths held.
#[derive(Debug, Default)]
pub(super) struct Manifests {
    /// How many documents were read, objects or not; a `List` is one.
    pub read: usize,
    /// Every object, in the order of paths, files and lines.
    pub objects: Vec<Document>,
    /// What could not be read.
    pub problems: Vec<Problem>,
    /// Whether there were more objects than are taken.
    is_full: bool,
}

impl Document {
    /// `apiVersion`.
    pub fn api_version(&self) -> &str {
        self.root.text("apiVersion")
    }

    /// API group; empty for the core group.
    pub fn group(&self) -> &str {
        self.api_version().split_once('/').map_or("", |(group, _)| group)
    }

    /// `kind`.
    pub fn kind(&self) -> &str {
        self.root.text("kind")
    }

    /// `metadata.name`, or `metadata.generateName`.
    pub fn name(&self) -> &str {
        let Some(metadata) = self.root.member("metadata") else { return "" };
        match metadata.text("name") {
            "" => metadata.text("generateName"),
            name => name,
        }
    }

    /// `metadata.namespace`, where it is written.
    pub fn namespace(&self) -> Option<&str> {
        Some(self.root.member("metadata")?.text("namespace")).filter(|namespace| !namespace.is_empty())
    }
}

/// The one document of a file that is no manifest, with the place of every field.
///
/// # Errors
/// The file cannot be read, or holds nothing, or more than one document; where, and why.
pub(super) fn document(path: &Path) -> Result<Node, Problem> {
    let file: Arc<str> = path.display().to_string().into();
    let problem = |at, message: String, help: &str| Problem { file: file.clone(), at, message, help: help.to_owned() };
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        io::stdin().lock().take(LARGEST).read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(LARGEST).read_to_string(&mut text))
    };
    read.map_err(|error| problem(None, format!("the file cannot be read: {error}"), ""))?;
    let Read { mut documents, mut faults } = Read::of(&text);
    if !faults.is_empty() {
        let Fault { at, message, help } = faults.swap_remove(0);
        return Err(problem(Some(at), message, help));
    }
    match (documents.pop(), documents.is_empty()) {
        (Some(document), true) => Ok(document),
        (None, _) => Err(problem(None, "the file holds nothing".to_owned(), "")),
        (Some(document), false) => {
            Err(problem(Some(document.at), "the file holds more than one document".to_owned(), "split it"))
        }
    }
}

impl Manifests {
    /// Every object in the files and directories named; `-` is standard input.
    pub fn read(paths: &[PathBuf]) -> Self {
        let mut all = Self::default();
        for path in paths {
            if path.as_os_str() == "-" {
                all.source("-", io::stdin().lock());
            } else {
                all.path(path);
            }
        }
        all
    }

    /// A digest of every file that [`Manifests::read`] would read, without reading what it says.
    ///
    /// # Errors
    /// One of them cannot be read, and which.
    pub fn digest(paths: &[PathBuf]) -> Result<[u8; 32], String> {
        fn take(path: &Path, digest: &mut Sha256) -> Result<(), String> {
            let said = |error: io::Error| format!("`{}` cannot be read: {error}", path.display());
            if path.is_dir() {
                return files(path).map_err(said)?.iter().try_for_each(|entry| take(entry, digest));
            }
            let mut bytes = vec![];
            File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)).map_err(said)?;
            digest.update(path.as_os_str().as_encoded_bytes());
            digest.update(b"\0");
            digest.update(Sha256::digest(&bytes));
            Ok(())
        }
        let mut digest = Sha256::new();
        paths.iter().try_for_each(|path| take(path, &mut digest))?;
        Ok(digest.finalize().into())
    }

    fn path(&mut self, path: &Path) {
        let name = path.display().to_string();
        if path.is_dir() {
            return match files(path) {
                Ok(entries) => entries.iter().for_each(|entry| self.path(entry)),
                Err(error) => self.problem(&name.into(), None, format!("the directory cannot be read: {error}"), ""),
            };
        }
        match File::open(path) {
            Ok(file) => self.source(&name, file),
            Err(error) => self.problem(&name.into(), None, format!("the file cannot be read: {error}"), ""),
        }
    }

    /// Reads one file to its end.
    fn source(&mut self, name: &str, from: impl io::Read) {
        let file: Arc<str> = name.into();
        let mut bytes = vec![];
        if let Err(error) = from.take(LARGEST + 1).read_to_end(&mut bytes) {
            return self.problem(&file, None, format!("the file cannot be read: {error}"), "");
        }
        if bytes.len() as u64 > LARGEST {
            return self.problem(&file, None, format!("the file has more than {LARGEST} bytes"), "split it");
        }
        self.text(&file, &bytes);
    }

    /// Takes in what a file holds.
    fn text(&mut self, file: &Arc<str>, bytes: &[u8]) {
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let valid = error.valid_up_to();
                let before = String::from_utf8_lossy(&bytes[..valid]);
                return self.problem(
                    file,
                    Some(Position::of(&before, valid)),
                    "the file is no UTF-8".to_owned(),
                    "save it as UTF-8",
                );
            }
        };
        let Read { documents, faults } = Read::of(text);
        self.read += documents.len();
        for Fault { at, message, help } in faults {
            self.problem(file, Some(at), message, help);
        }
        for document in documents {
            self.take(file, document);
        }
    }

    fn problem(&mut self, file: &Arc<str>, at: Option<Position>, message: String, help: &str) {
        self.problems.push(Problem { file: file.clone(), at, message, help: help.to_owned() });
    }

    /// Takes in an object; a `List` is its items, and those of a `PodList` are Pods.
    fn take(&mut self, file: &Arc<str>, mut root: Node) {
        let (api_version, kind) = (root.text("apiVersion").to_owned(), root.text("kind").to_owned());
        if api_version.is_empty() || kind.is_empty() {
            return;
        }
        if let Some(of) = kind.strip_suffix("List")
            && let Some(items) = items(&mut root)
        {
            for mut item in items {
                if let What::Object(members) = &mut item.what
                    && !of.is_empty()
                    && !members.iter().any(|member| &*member.key == "kind")
                {
                    let at = item.at;
                    let member =
                        |key: &str, text: &str| node::Member { key: key.into(), at, value: Node { at, what: What::text(text) } };
                    members.extend([member("apiVersion", &api_version), member("kind", of)]);
                }
                self.take(file, item);
            }
            return;
        }
        if self.objects.len() < MOST_OBJECTS {
            self.objects.push(Document { file: file.clone(), root });
        } else if !std::mem::replace(&mut self.is_full, true) {
            let message = format!("there are more than {MOST_OBJECTS} objects; from this one on none is checked");
            self.problem(file, Some(root.at), message, "check fewer files at once");
        }
    }
}

/// The items of a list, taken out.
fn items(root: &mut Node) -> Option<Vec<Node>> {
    let What::Object(members) = &mut root.what else { return None };
    match &mut members.iter_mut().find(|member| &*member.key == "items")?.value.what {
        What::List(items) => Some(std::mem::take(items)),
        _ => None,
    }
}

/// What is in a directory and may hold manifests, in the order of the names.
fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries =
        std::fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<PathBuf>>>()?;
    entries.sort();
    let is_manifest = |path: &Path| {
        path.extension().and_then(|ending| ending.to_str()).is_some_and(|ending| ["yaml", "yml", "json"].contains(&ending))
    };
    // A link to a directory could lead back up.
    entries.retain(|entry| if entry.is_dir() { !entry.is_symlink() } else { is_manifest(entry) });
    Ok(entries)
}

#[cfg(test)]
mod tests;
