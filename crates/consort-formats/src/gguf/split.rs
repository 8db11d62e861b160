//! Models in several files: `NAME-00001-of-00003.gguf` and so on, each with its place in `split.no`, from 0.

use std::path::{Path, PathBuf};

use super::{Part, header::Header, values::Value};
use crate::error::{Error, show};

/// Digits of a number in a part's name.
const DIGITS: usize = 5;

/// The names of all parts of a model of which `path` is one; `path` alone where its name is not that of a part.
///
/// # Errors
/// For a name with numbers that cannot be.
pub(crate) fn parts(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let Some((stem, number, count)) = path.file_name().and_then(|name| name.to_str()).and_then(numbers) else {
        return Ok(vec![path.to_owned()]);
    };
    if count == 0 || number == 0 || number > count {
        return Err(Error::path(path, format!("its name makes it part {number} of {count}, which cannot be")));
    }
    let name = |number| format!("{stem}-{number:0DIGITS$}-of-{count:0DIGITS$}.gguf");
    Ok((1..=count).map(|number| path.with_file_name(name(number))).collect())
}

/// The stem, the number and the count of a part's name.
fn numbers(name: &str) -> Option<(&str, usize, usize)> {
    let name = name.strip_suffix(".gguf")?;
    let (rest, count) = name.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| {
        (text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
    };
    Some((stem, digits(number)?, digits(count)?))
}

/// Whether a file of this name is read as one part of several.
pub(crate) fn is_part(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.and_then(numbers).is_some_and(|(_, _, count)| count > 1)
}

/// The name of a model's first part, by that of any.
pub(crate) fn first_part(name: String) -> String {
    match numbers(&name) {
        Some((stem, _, count)) => format!("{stem}-{:0DIGITS$}-of-{count:0DIGITS$}.gguf", 1),
        None => name,
    }
}

/// A missing part, for the one that was asked for.
pub(crate) fn missing(path: &Path, count: usize, asked: &Path) -> Error {
    Error::path(path, format!("missing, one of the {count} parts of the model that {} belongs to", show(asked)))
}

/// Checks that the parts are those of one model, in order.
pub(crate) fn check(parts: &[Part], headers: &[Header<'_>]) -> Result<(), Error> {
    let tensors: usize = headers.iter().map(|header| header.tensors.len()).sum();
    for (place, (part, header)) in parts.iter().zip(headers).enumerate() {
        let number = |key: &str| match header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(number)) => Ok(Some(*number)),
            Some(Value::Signed(number)) if *number >= 0 => Ok(Some(number.cast_unsigned())),
            Some(_) => Err(Error::config(&part.file, key, "expected an integer from 0 up, found something else")),
        };
        let count = number("split.count")?;
        if parts.len() == 1 && matches!(count, None | Some(0 | 1)) {
            return Ok(());
        }
        let agree = |key: &str, expected: usize, what: &str| match number(key)? {
            Some(found) if found == expected as u64 => Ok(()),
            found => {
                let found = found.map_or("nothing".to_owned(), |found| found.to_string());
                Err(Error::config(&part.file, key, format!("expected {expected}, {what}, found {found}")))
            }
        };
        if parts.len() == 1 {
            let count = count.unwrap_or_default();
            let what = format!(
                "one of {count} parts of a model, whose names must end in '-00001-of-{count:0DIGITS$}.gguf' and so on"
            );
            return Err(Error::config(&part.file, "split.count", what));
        }
        agree("split.count", parts.len(), "the parts by their names")?;
        agree("split.no", place, "one less than the number in its name")?;
        agree("split.tensors.count", tensors, "the tensors of all parts")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_by_their_names() {
        assert_eq!(numbers("a-b-00002-of-00003.gguf"), Some(("a-b", 2, 3)));
        for other in ["a.gguf", "a-2-of-3.gguf", "a-00002-of-00003.bin", "00002-of-00003.gguf", "a-0000x-of-00003.gguf"]
        {
            assert_eq!(numbers(other), None, "{other}");
        }
        let all = parts(Path::new("d/m-00002-of-00003.gguf")).expect("parts");
        let names: Vec<String> = all.iter().map(|path| path.display().to_string()).collect();
        assert_eq!(names, ["d/m-00001-of-00003.gguf", "d/m-00002-of-00003.gguf", "d/m-00003-of-00003.gguf"]);
        assert!(parts(Path::new("m-00004-of-00003.gguf")).is_err());
        assert!(parts(Path::new("m-00000-of-00000.gguf")).is_err());
    }
}
