//! The machine that is measured, in words. From Linux's /proc and /sys; elsewhere little is known.

use std::{fs, process::Command, thread};

/// Instruction sets that matter here.
const SETS: [&str; 7] = ["avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16"];

/// Its parts, one line each.
pub(super) fn describe() -> Vec<(&'static str, String)> {
    let cores = thread::available_parallelism().map_or("unknown".to_owned(), |cores| cores.to_string());
    vec![
        ("processor", processor()),
        ("cores", cores),
        ("caches", caches()),
        ("memory", memory()),
        ("instructions", sets()),
        ("system", output("uname", &["-sr"])),
        ("compiler", output("rustc", &["--version"])),
    ]
}

/// Name of the processor.
pub(super) fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let numbers = [("cpu family", "family"), ("model", "model")]
        .iter()
        .filter_map(|(key, name)| Some(format!("{name} {}", field(&text, key)?)))
        .collect::<Vec<_>>();
    match field(&text, "model name") {
        Some(name) => format!("{name} ({})", numbers.join(", ")),
        None => std::env::consts::ARCH.to_owned(),
    }
}

fn sets() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags: Vec<&str> = field(&text, "flags").unwrap_or_default().split_whitespace().collect();
    let found: Vec<&str> = SETS.into_iter().filter(|set| flags.contains(set)).collect();
    if found.is_empty() { "unknown".to_owned() } else { found.join(", ") }
}

fn memory() -> String {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = field(&text, "MemTotal").and_then(|size| size.split_whitespace().next()?.parse::<f64>().ok());
    kib.map_or("unknown".to_owned(), |kib| format!("{:.1} GiB", kib / f64::from(1 << 20)))
}

fn caches() -> String {
    let read = |index: usize, file: &str| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{file}");
        fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
    };
    let cache = |index| {
        let kind = read(index, "type")?;
        let shown = if kind == "Unified" { String::new() } else { format!(" {}", kind.to_lowercase()) };
        Some(format!("L{}{shown} {}", read(index, "level")?, read(index, "size")?))
    };
    let found: Vec<String> = (0..8).filter_map(cache).collect();
    if found.is_empty() { "unknown".to_owned() } else { found.join(", ") }
}

/// The first value of a key in `key : value` lines.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim())
}

fn output(program: &str, arguments: &[&str]) -> String {
    let found = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success());
    found.map_or("unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_its_keys() {
        let text = "model\t\t: 17\nmodel name\t: A B\ncpu MHz : 1\n";
        assert_eq!(
            (field(text, "model"), field(text, "model name"), field(text, "cpu")),
            (Some("17"), Some("A B"), None)
        );
    }

    #[test]
    fn every_part_has_a_word() {
        assert!(describe().iter().all(|(_, what)| !what.is_empty()));
    }
}
