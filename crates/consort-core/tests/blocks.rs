//! Blocks of quantised weights against the `gguf` package: `cargo xtask golden --what blocks` made the files in `blocks/`.

use std::{fs, path::Path};

use consort_core::WeightDType;

fn records(file: &str, bytes: usize) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/blocks").join(file);
    let all = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(!all.is_empty() && all.len().is_multiple_of(bytes), "{file}: {} bytes in records of {bytes}", all.len());
    all.chunks(bytes).map(<[u8]>::to_vec).collect()
}

fn singles(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn formats() -> impl Iterator<Item = WeightDType> {
    WeightDType::ALL.into_iter().filter(|dtype| dtype.block() > 1)
}

#[test]
fn blocks_decode_to_the_same_bits() {
    for dtype in formats() {
        let size = dtype.block_bytes();
        for (number, record) in records(&format!("{dtype}.bin"), size + dtype.block() * 4).iter().enumerate() {
            let mut values = vec![0.0; dtype.block()];
            dtype.decode(&record[..size], &mut values);
            for (index, (value, expected)) in values.iter().zip(singles(&record[size..])).enumerate() {
                let same = value.to_bits() == f64::from(expected).to_bits() || value.is_nan() && expected.is_nan();
                assert!(same, "{dtype}, block {number}, element {index}: {value}, expected {expected}");
            }
        }
    }
}

#[test]
fn small_blocks_are_encoded_to_the_same_bytes() {
    for dtype in formats().filter(|dtype| dtype.block() == 32) {
        for (number, record) in
            records(&format!("{dtype}.encoded.bin"), dtype.block_bytes() + dtype.block() * 4).iter().enumerate()
        {
            let (values, expected) = record.split_at(dtype.block() * 4);
            let values: Vec<f64> = singles(values).into_iter().map(f64::from).collect();
            let mut bytes = Vec::new();
            dtype.encode(&values, &mut bytes);
            assert_eq!(bytes, expected, "{dtype}, block {number}");
        }
    }
}
