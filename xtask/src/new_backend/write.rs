//! Many files written, or none.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// A file and what it will be.
pub(super) struct Change {
    /// Relative to the root.
    pub(super) path: PathBuf,
    /// What it is; `None` for a new one.
    pub(super) before: Option<String>,
    /// What it will be.
    pub(super) after: String,
}

/// Writes all changes, or leaves everything under `root` as it was.
///
/// New texts are written beside the files first; what can still fail then is a rename, and those made before are undone.
pub(super) fn all_or_nothing(root: &Path, changes: &[Change]) -> Result<()> {
    let mut done = Done::default();
    let result = changes
        .iter()
        .try_for_each(|change| done.stage(root, change))
        .and_then(|()| changes.iter().try_for_each(|change| done.commit(root, change)));
    if result.is_err() {
        done.undo();
    }
    result
}

/// What was done so far.
#[derive(Default)]
struct Done {
    folders: Vec<PathBuf>,
    staged: Vec<PathBuf>,
    /// Files that have their new text, with the old one.
    committed: Vec<(PathBuf, Option<String>)>,
}

impl Done {
    fn stage(&mut self, root: &Path, change: &Change) -> Result<()> {
        let path = root.join(&change.path);
        for folder in path.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
            if !folder.exists() {
                fs::create_dir(folder).with_context(|| folder.display().to_string())?;
                self.folders.push(folder.to_owned());
            }
        }
        let staged = beside(&path);
        let shown = || staged.display().to_string();
        fs::File::create_new(&staged).with_context(shown)?;
        self.staged.push(staged.clone());
        fs::write(&staged, &change.after).with_context(shown)
    }

    fn commit(&mut self, root: &Path, change: &Change) -> Result<()> {
        let path = root.join(&change.path);
        fs::rename(beside(&path), &path).with_context(|| path.display().to_string())?;
        self.committed.push((path, change.before.clone()));
        Ok(())
    }

    fn undo(self) {
        let warn = |path: &Path, result: io::Result<()>| match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                eprintln!("warning: {} could not be put back: {error}", path.display());
            }
            _ => {}
        };
        for (path, before) in self.committed {
            warn(&path, before.map_or_else(|| fs::remove_file(&path), |text| fs::write(&path, text)));
        }
        for path in self.staged {
            warn(&path, fs::remove_file(&path));
        }
        for folder in self.folders.into_iter().rev() {
            warn(&folder, fs::remove_dir(&folder));
        }
    }
}

/// Where the new text waits.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn change(path: &str, before: Option<&str>, after: &str) -> Change {
        Change { path: path.into(), before: before.map(str::to_owned), after: after.to_owned() }
    }

    /// Everything under a folder: files with their texts, folders with none.
    fn tree(folder: &Path) -> BTreeMap<PathBuf, Option<String>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(inner) = folders.pop() {
            for entry in fs::read_dir(inner).unwrap() {
                let path = entry.unwrap().path();
                found.insert(path.clone(), fs::read_to_string(&path).ok());
                if path.is_dir() {
                    folders.push(path);
                }
            }
        }
        found
    }

    #[test]
    fn all_are_written() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("old"), "1").unwrap();
        all_or_nothing(folder.path(), &[change("a/b/new", None, "2"), change("old", Some("1"), "3")]).unwrap();
        let texts: Vec<Option<String>> = tree(folder.path()).into_values().collect();
        assert_eq!(texts, [None, None, Some("2".to_owned()), Some("3".to_owned())]);
    }

    #[test]
    fn or_none() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("old"), "1").unwrap();
        fs::create_dir_all(folder.path().join("taken/inside")).unwrap();
        fs::create_dir(folder.path().join("waiting.tmp")).unwrap();
        let before = tree(folder.path());
        for last in ["taken", "waiting", "old/below"] {
            let changes = [change("a/b/new", None, "2"), change("old", Some("1"), "3"), change(last, None, "4")];
            let error = all_or_nothing(folder.path(), &changes).unwrap_err();
            assert!(format!("{error:#}").contains(last), "{error:#}");
            assert_eq!(tree(folder.path()), before, "{last}");
        }
    }
}
