//! The checkpoints once more, in a file outside of the database: one line of JSON each.
//!
//! It only grows, so it may lie where nothing can be taken back. A line that a full disk has
//! torn is written again whole, after its beginning.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::AuditError;
use super::checkpoint::Checkpoint;

/// More than the longest line.
const LINE: u64 = 8 << 10;

/// The file, and what is known to be in it.
#[derive(Debug)]
pub(super) struct Copy {
    path: PathBuf,
    /// The last checkpoint in it.
    pub last: Option<Checkpoint>,
}

impl Copy {
    pub(super) fn open(path: &Path) -> Result<Self, AuditError> {
        let failed = |source| AuditError::io("reading the copy of the checkpoints", path, source);
        let end = match File::open(path) {
            Ok(mut file) => end_of(&mut file).map_err(failed)?,
            Err(source) if source.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(failed(source)),
        };
        let last = end.lines().rev().find_map(|line| serde_json::from_str(line).ok());
        Ok(Self { path: path.to_owned(), last })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends checkpoints, of which those that are in it already are left out, and makes them
    /// durable.
    pub(super) fn append(&mut self, checkpoints: &[Checkpoint]) -> Result<(), AuditError> {
        for checkpoint in checkpoints {
            if self.last.as_ref().is_some_and(|last| checkpoint.seq <= last.seq) {
                continue;
            }
            let line = checkpoint.line()?;
            append(&self.path, &line)
                .map_err(|source| AuditError::io("writing the copy of the checkpoints", &self.path, source))?;
            self.last = Some(checkpoint.clone());
        }
        Ok(())
    }
}

fn append(path: &Path, line: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let is_torn = !matches!(end_of(&mut file)?.chars().last(), None | Some('\n'));
    let text = format!("{}{line}\n", if is_torn { "\n" } else { "" });
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// The last lines of a file.
fn end_of(file: &mut File) -> io::Result<String> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(LINE)))?;
    let mut end = vec![];
    file.take(LINE).read_to_end(&mut end)?;
    Ok(String::from_utf8_lossy(&end).into_owned())
}
