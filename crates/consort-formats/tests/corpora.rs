//! What fuzzing kept: every input of `fuzz/corpus` again, each an error of one line or a result, never a panic.

use std::{fs, path::Path};

use consort_formats::{Error, fuzzing};

/// Every input of a target; how many there were and how many were right.
fn replay<T>(target: &str, run: impl Fn(&[u8]) -> Result<T, Error>) -> (usize, usize) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let (mut inputs, mut right) = (0, 0);
    for entry in fs::read_dir(corpus).expect("a corpus") {
        let bytes = fs::read(entry.expect("an input").path()).expect("its bytes");
        inputs += 1;
        match run(&bytes) {
            Ok(_) => right += 1,
            Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
        }
    }
    assert!(inputs > 0 && right < inputs, "{target}: {right} of {inputs} are right");
    (inputs, right)
}

fn text<T>(run: impl Fn(&str) -> Result<T, Error>) -> impl Fn(&[u8]) -> Result<T, Error> {
    move |bytes| run(&String::from_utf8_lossy(bytes))
}

#[test]
fn corpora_replay() {
    // Each has inputs that go all the way.
    assert!(replay("gguf", fuzzing::gguf).1 >= 9);
    assert!(replay("safetensors_header", fuzzing::safetensors).1 >= 1);
    assert!(replay("index_json", text(fuzzing::index)).1 >= 1);
    assert!(replay("config_json", text(fuzzing::config)).1 >= 1);
    replay("config_json", text(fuzzing::native));
}
