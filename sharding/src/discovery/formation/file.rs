//! A region's record in a file of the node that is named to form the region.
//!
//! Invariants: the file is replaced whole or not at all, and durable before anything is answered.
//! There is no race to win: the directory belongs to one node.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::super::Failure;
use super::Held;

pub(super) fn read(path: &Path) -> Result<Option<Held>, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(Held { text, version: String::new() })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Failure::File { path: path.into(), source }),
    }
}

/// `false`: it is there.
pub(super) fn create(path: &Path, text: &str) -> Result<bool, Failure> {
    if read(path)?.is_some() {
        return Ok(false);
    }
    write(path, text)
}

/// `false`: it is not what was read.
pub(super) fn replace(path: &Path, text: &str, held: &Held) -> Result<bool, Failure> {
    if read(path)?.is_none_or(|now| now.text != held.text) {
        return Ok(false);
    }
    write(path, text)
}

fn write(path: &Path, text: &str) -> Result<bool, Failure> {
    let next = path.with_extension("next");
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let put = || {
        fs::create_dir_all(directory)?;
        let mut file = File::create(&next)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&next, path)?;
        File::open(directory)?.sync_all()
    };
    put().map_err(|source| Failure::File { path: path.into(), source })?;
    Ok(true)
}
