//! SentencePiece's `precompiled_charsmap`, checked before it is read.
//!
//! It begins with the size of a table, in bytes, as 32 bits; the reader in `spm_precompiled` 0.1 makes room for a table of that
//! size before it looks whether it is there: up to 8 GiB for a damaged file of a few bytes, which ends the process.

use serde_json::Value;

/// Whether the table that a charsmap begins with is there.
pub(crate) fn check(charsmap: &[u8]) -> Result<(), String> {
    let Some((size, rest)) = charsmap.split_first_chunk() else {
        return Err(format!("precompiled_charsmap: expected the size of a table, found {} bytes", charsmap.len()));
    };
    let size = u32::from_le_bytes(*size);
    match usize::try_from(size) {
        Ok(size) if size <= rest.len() => Ok(()),
        _ => Err(format!("precompiled_charsmap: expected a table of {size} bytes, found {}", rest.len())),
    }
}

/// [`check`] for all that a normalizer of `tokenizer.json` has.
pub(crate) fn check_normalizer(normalizer: &Value) -> Result<(), String> {
    if let Some(bytes) = normalizer["precompiled_charsmap"].as_str().and_then(base64) {
        check(&bytes)?;
    }
    normalizer["normalizers"].as_array().into_iter().flatten().try_for_each(check_normalizer)
}

/// The bytes of a text in base64 (RFC 4648).
pub(crate) fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0);
    for c in text.trim_end_matches('=').bytes() {
        let six = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xFF) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_that_is_not_there_is_refused() {
        assert_eq!(check(&[4, 0, 0, 0, 1, 2, 3, 4]), Ok(()));
        let missing = "precompiled_charsmap: expected a table of 4294967295 bytes, found 1";
        assert_eq!(check(&[255, 255, 255, 255, 0]).unwrap_err(), missing);
        assert!(check(&[1, 2]).is_err());
        let inner = json!({"type": "Precompiled", "precompiled_charsmap": "/////wA="});
        let nested = json!({"type": "Sequence", "normalizers": [{"type": "NFC"}, inner]});
        assert_eq!(check_normalizer(&nested).unwrap_err(), missing);
        assert_eq!(check_normalizer(&Value::Null), Ok(()));
    }

    #[test]
    fn base64_by_the_examples_of_its_specification() {
        for (text, bytes) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmFy", "foobar")] {
            assert_eq!(base64(text).as_deref(), Some(bytes.as_bytes()));
        }
        assert_eq!(base64("Zm9_"), None);
    }
}
