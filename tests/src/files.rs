//! What lies in a folder: the objects of an archive, the files of a spool.

use std::path::{Path, PathBuf};

/// All files below a folder, in order.
///
/// # Panics
/// When a folder cannot be read.
pub fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("a folder that can be read can be listed").path();
        if path.is_dir() { found.extend(below(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}
