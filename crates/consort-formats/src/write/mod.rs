//! Model files, written to a temporary name beside the target and renamed when all of it is there.

mod directory;
pub(crate) mod gguf;
mod metadata;
mod model;
mod pieces;
pub(crate) mod safetensors;

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

use crate::error::{Error, show};

pub use self::{
    directory::write_directory,
    model::{Parts, Written, write_gguf},
};

/// Called with bytes written and bytes in all; stops the writing when it gives false.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

/// Makes `path` a file of what `write` writes and `check` finds right, or leaves everything as it was.
///
/// # Errors
/// [`Error::Path`] when `path` cannot be a file; [`Error::Io`] when the system refuses; what `write` gives.
pub(crate) fn whole_file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> Result<(), Error>,
    check: &dyn Fn(&Path) -> Result<(), Error>,
) -> Result<(), Error> {
    match fs::metadata(path) {
        Ok(kind) if kind.is_dir() => return Err(Error::path(path, "is a directory: give a file to write")),
        Ok(kind) if !kind.is_file() => return Err(Error::path(path, "is no regular file: give another to write")),
        _ => {}
    }
    // What a link stands for is replaced, and not the link.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let path = target.as_path();
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(Error::path(path, format!("there is no folder '{}' to write it in", show(folder))));
    }
    let failed = |error| Error::io(path, error);
    let mut builder = tempfile::Builder::new();
    // As any new file; by default temporary ones are their owner's alone.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let file = builder.prefix(".consort-").tempfile_in(folder).map_err(failed)?;
    let mut buffered = BufWriter::with_capacity(1 << 20, file.as_file());
    write(&mut buffered)?;
    buffered.flush().map_err(failed)?;
    drop(buffered);
    check(file.path())?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Where bytes go, counted for a progress.
struct Counted<'a, 'b> {
    path: &'a Path,
    file: &'a mut BufWriter<&'b File>,
    written: u64,
    total: u64,
    progress: Progress<'a>,
}

impl Counted<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|error| Error::io(self.path, error))?;
        self.written += bytes.len() as u64;
        if (self.progress)(self.written, self.total) { Ok(()) } else { Err(Error::stopped(self.path)) }
    }
}
