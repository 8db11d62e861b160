//! What can be wrong with a model directory: always one line, always naming the file.

use std::path::Path;

/// Why a model could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The path is not a model directory; `what` says what to do instead.
    #[error("{path}: {what}")]
    Path {
        /// As given.
        path: String,
        /// What it is and what would help.
        what: String,
    },
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file that was opened.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A configuration value that cannot be or that Consort does not know.
    #[error("{file}: {key}: {what}")]
    Config {
        /// The configuration file.
        file: String,
        /// Dotted path of the key.
        key: String,
        /// Found and expected.
        what: String,
    },
    /// A file that is not what its name says.
    #[error("{file}: {what}")]
    Malformed {
        /// The file.
        file: String,
        /// Found and expected.
        what: String,
    },
    /// A tensor that does not fit its file or the configuration.
    #[error("{file}: tensor '{tensor}': {what}")]
    Tensor {
        /// The weight file.
        file: String,
        /// Name in the file.
        tensor: String,
        /// Found and expected.
        what: String,
    },
    /// The writing of a file was stopped; nothing is left of it.
    #[error("{path}: stopped; nothing was written")]
    Stopped {
        /// The file that was to be.
        path: String,
    },
    /// Weights that the configuration needs and no file has.
    #[error("{directory}: missing {} of the {needed} tensors that {config} asks for: {}", .missing.len(), first(.missing))]
    Missing {
        /// The model directory.
        directory: String,
        /// The configuration file.
        config: &'static str,
        /// How many the configuration asks for.
        needed: usize,
        /// The missing ones, by the name that was looked for.
        missing: Vec<String>,
    },
}

impl Error {
    pub(crate) fn path(path: &Path, what: impl Into<String>) -> Self {
        Self::Path { path: show(path), what: what.into() }
    }

    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: show(path), source }
    }

    pub(crate) fn stopped(path: &Path) -> Self {
        Self::Stopped { path: show(path) }
    }

    pub(crate) fn config(file: &str, key: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Config { file: file.to_owned(), key: key.into(), what: what.into() }
    }

    pub(crate) fn malformed(file: &str, what: impl Into<String>) -> Self {
        Self::Malformed { file: file.to_owned(), what: what.into() }
    }

    pub(crate) fn tensor(file: &str, tensor: &str, what: impl Into<String>) -> Self {
        Self::Tensor { file: file.to_owned(), tensor: printable(tensor), what: what.into() }
    }
}

/// The path for a message, on one line whatever its bytes.
pub(crate) fn show(path: &Path) -> String {
    escape(&path.display().to_string())
}

/// Text from a file for a message: escaped, and cut where it would fill the screen.
pub(crate) fn printable(text: &str) -> String {
    const LIMIT: usize = 120;
    let escaped = escape(text);
    match escaped.char_indices().nth(LIMIT) {
        Some((at, _)) => format!("{}…", escaped.get(..at).unwrap_or_default()),
        None => escaped,
    }
}

fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut line, c| {
        if c.is_control() || c == '\u{2028}' || c == '\u{2029}' {
            line.extend(c.escape_default())
        } else {
            line.push(c)
        }
        line
    })
}

fn first(missing: &[String]) -> String {
    const SHOWN: usize = 4;
    let mut names: Vec<String> = missing.iter().take(SHOWN).map(|name| printable(name)).collect();
    if missing.len() > SHOWN {
        names.push("…".to_owned());
    }
    names.join(", ")
}
