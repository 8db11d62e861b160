//! The table: what is measured, against whom, and what is asked. Rows that one run of a program answers stand together.
//!
//! All are at two threads, the same shapes, and the same type of weights. Peers' cases have the names that their scripts print.

use super::job::{Job, Program};

/// Rows that are measured by the same runs.
pub(super) struct Group {
    pub(super) peers: &'static [Job],
    pub(super) ours: &'static [Job],
    pub(super) rows: &'static [Row],
}

/// A row.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// Our case.
    pub(super) case: &'static str,
    /// Theirs: the best of all peers' lines of these names counts.
    pub(super) theirs: &'static [&'static str],
    pub(super) asked: &'static [Bar],
}

/// What a row asks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bar {
    /// At least so many times the best peer's rate.
    Ratio(f64),
    /// At most so many times the best peer's time.
    Time(f64),
    /// A rate at least so great, on the machine that the table was asked on.
    Rate(f64),
    /// A share of what the registers can do.
    Arithmetic(f64),
    /// A share of what can be read from memory.
    Reading(f64),
}

const fn job(engine: &'static str, program: Program, arguments: &'static [&'static str]) -> Job {
    Job { engine, program, arguments, environment: &[] }
}

const fn consort(program: Program, arguments: &'static [&'static str]) -> Job {
    job("consort", program, arguments)
}

const LLAMA_CPP: &str = "llama.cpp";
const TORCH: &str = "torch";
const CANDLE: &str = "candle";
const CT2: &str = "CTranslate2";

/// All of it.
pub(super) const TABLE: &[Group] = &[
    Group {
        peers: &[job("onnxruntime", Program::Script("gemm_numpy.py"), &["2"])],
        ours: &[consort(Program::Benches("linear"), &["--threads", "2", "--compute", "f32"])],
        rows: &[Row {
            name: "gemm-f32",
            title: "product 2048³ in f32",
            case: "gemm_2048_f32",
            theirs: &["gemm_2048_f32"],
            asked: &[Bar::Arithmetic(0.85), Bar::Ratio(1.0)],
        }],
    },
    Group {
        peers: &[job(TORCH, Program::Script("limits.py"), &[])],
        ours: &[
            consort(Program::Benches("linear"), &["--threads", "2", "--compute", "bf16"]),
            consort(Program::Benches("linear"), &["--threads", "2", "--compute", "int8"]),
        ],
        rows: &[
            Row {
                name: "gemm-bf16",
                title: "product 2048³ in bf16",
                case: "gemm_2048_bf16",
                theirs: &["gemm_2048_bf16_mm", "gemm_2048_bf16_linear"],
                asked: &[Bar::Arithmetic(0.85), Bar::Ratio(1.0)],
            },
            Row {
                name: "gemm-int8",
                title: "product 2048³ in int8",
                case: "gemm_2048_int8",
                theirs: &["gemm_2048_int8_int_mm"],
                asked: &[Bar::Arithmetic(0.85), Bar::Ratio(1.0)],
            },
        ],
    },
    Group {
        peers: &[
            job(TORCH, Program::Script("torch_lm.py"), &["llama1b", "f32", "--prefill", "128", "--decode", "0"]),
            job(CANDLE, Program::Candle, &["llama1b", "f32"]),
        ],
        ours: &[consort(
            Program::Preset("llama-1.1b"),
            &["--threads", "2", "--prompt-tokens", "128", "--new-tokens", "0"],
        )],
        rows: &[Row {
            name: "llama-prefill-f32",
            title: "1.1B, prompt of 128, f32",
            case: "prefill_128",
            theirs: &["prefill_128"],
            asked: &[Bar::Ratio(1.9)],
        }],
    },
    Group {
        peers: &[
            job(LLAMA_CPP, Program::LlamaBench("llama1b-bf16"), &["--pp", "128", "--tg", ""]),
            job(LLAMA_CPP, Program::LlamaBench("llama1b-bf16"), &["--pp", "", "--tg", "32", "--extra=-d 128"]),
            job(
                TORCH,
                Program::Script("torch_lm.py"),
                &["llama1b", "bf16", "--prefill", "128", "--prompt", "128", "--decode", "32"],
            ),
        ],
        ours: &[consort(
            Program::Gguf("llama1b-bf16"),
            &["--threads", "2", "--compute", "bf16", "--prompt-tokens", "128", "--new-tokens", "32"],
        )],
        rows: &[
            Row {
                name: "llama-prefill-bf16",
                title: "1.1B, prompt of 128, bf16",
                case: "prefill_128",
                theirs: &["prefill_128"],
                asked: &[Bar::Ratio(1.3)],
            },
            Row {
                name: "llama-decode-bf16",
                title: "1.1B, 32 tokens after 128, bf16",
                case: "decode_32_after_128",
                theirs: &["decode_32", "decode_32_after_128"],
                asked: &[Bar::Reading(0.90), Bar::Ratio(1.0)],
            },
        ],
    },
    Group {
        peers: &[
            job(LLAMA_CPP, Program::LlamaBench("llama1b-q8_0"), &["--pp", "128", "--tg", ""]),
            job(LLAMA_CPP, Program::LlamaBench("llama1b-q8_0"), &["--pp", "", "--tg", "32", "--extra=-d 128"]),
            Job {
                engine: CANDLE,
                program: Program::CandleGguf("llama1b-q8_0"),
                arguments: &[],
                environment: &[("PEERS_PP", "128")],
            },
        ],
        ours: &[consort(
            Program::Gguf("llama1b-q8_0"),
            &["--threads", "2", "--compute", "int8", "--prompt-tokens", "128", "--new-tokens", "32"],
        )],
        rows: &[
            Row {
                name: "llama-prefill-q8_0",
                title: "1.1B, prompt of 128, Q8_0",
                case: "prefill_128",
                theirs: &["prefill_128"],
                asked: &[Bar::Ratio(1.6)],
            },
            Row {
                name: "llama-decode-q8_0",
                title: "1.1B, 32 tokens after 128, Q8_0",
                case: "decode_32_after_128",
                theirs: &["decode_32", "decode_32_after_128"],
                asked: &[Bar::Reading(0.85), Bar::Ratio(1.0)],
            },
        ],
    },
    Group {
        peers: &[
            job(LLAMA_CPP, Program::LlamaBench("llama1b-q4_0"), &["--pp", "128", "--tg", ""]),
            job(LLAMA_CPP, Program::LlamaBench("llama1b-q4_0"), &["--pp", "", "--tg", "32", "--extra=-d 128"]),
        ],
        ours: &[consort(
            Program::Gguf("llama1b-q4_0"),
            &["--threads", "2", "--compute", "int8", "--prompt-tokens", "128", "--new-tokens", "32"],
        )],
        rows: &[
            Row {
                name: "llama-prefill-q4_0",
                title: "1.1B, prompt of 128, Q4_0",
                case: "prefill_128",
                theirs: &["prefill_128"],
                asked: &[Bar::Ratio(1.5)],
            },
            Row {
                name: "llama-decode-q4_0",
                title: "1.1B, 32 tokens after 128, Q4_0",
                case: "decode_32_after_128",
                theirs: &["decode_32", "decode_32_after_128"],
                asked: &[Bar::Reading(0.85), Bar::Ratio(1.1)],
            },
        ],
    },
    Group {
        peers: &[job("onnxruntime", Program::Script("ort_lm.py"), &["--threads", "2"])],
        ours: &[consort(
            Program::Preset("gpt2-124m"),
            &["--threads", "2", "--prompt-tokens", "512", "--new-tokens", "0"],
        )],
        rows: &[Row {
            name: "gpt2-prefill-f32",
            title: "GPT-2 124M, prompt of 512, f32",
            case: "prefill_512",
            theirs: &["prefill_512"],
            asked: &[Bar::Ratio(1.05)],
        }],
    },
    Group {
        peers: &[job(TORCH, Program::Script("torch_lm.py"), &["gpt2", "bf16", "--prefill", "512", "--decode", "0"])],
        ours: &[consort(
            Program::Preset("gpt2-124m"),
            &["--threads", "2", "--dtype", "bf16", "--compute", "bf16", "--prompt-tokens", "512", "--new-tokens", "0"],
        )],
        rows: &[Row {
            name: "gpt2-prefill-bf16",
            title: "GPT-2 124M, prompt of 512, bf16",
            case: "prefill_512",
            theirs: &["prefill_512"],
            asked: &[Bar::Ratio(1.3)],
        }],
    },
    Group {
        peers: &[job(LLAMA_CPP, Program::LlamaBench("gpt2-f32"), &["--pp", "", "--tg", "64", "--extra=-d 32"])],
        ours: &[consort(Program::Gguf("gpt2-f32"), &["--threads", "2", "--prompt-tokens", "32", "--new-tokens", "64"])],
        rows: &[Row {
            name: "gpt2-decode-f32",
            title: "GPT-2 124M, 64 tokens after 32, f32",
            case: "decode_64_after_32",
            theirs: &["decode_64"],
            asked: &[Bar::Ratio(0.95)],
        }],
    },
    Group {
        peers: &[job(LLAMA_CPP, Program::LlamaBench("gpt2-f16"), &["--pp", "", "--tg", "64", "--extra=-d 32"])],
        ours: &[consort(Program::Gguf("gpt2-f16"), &["--threads", "2", "--prompt-tokens", "32", "--new-tokens", "64"])],
        rows: &[Row {
            name: "gpt2-decode-f16",
            title: "GPT-2 124M, 64 tokens after 32, f16",
            case: "decode_64_after_32",
            theirs: &["decode_64"],
            asked: &[Bar::Ratio(1.0)],
        }],
    },
    Group {
        peers: &[job(LLAMA_CPP, Program::LlamaBench("gpt2-q8_0"), &["--pp", "", "--tg", "64", "--extra=-d 32"])],
        ours: &[consort(
            Program::Gguf("gpt2-q8_0"),
            &["--threads", "2", "--compute", "int8", "--prompt-tokens", "32", "--new-tokens", "64"],
        )],
        rows: &[Row {
            name: "gpt2-decode-q8_0",
            title: "GPT-2 124M, 64 tokens after 32, Q8_0",
            case: "decode_64_after_32",
            theirs: &["decode_64"],
            asked: &[Bar::Ratio(1.3)],
        }],
    },
    Group {
        peers: &[job(LLAMA_CPP, Program::LlamaBench("stories15m-f32"), &["--pp", "", "--tg", "128", "--extra=-d 16"])],
        ours: &[consort(
            Program::Gguf("stories15m-f32"),
            &["--threads", "2", "--prompt-tokens", "16", "--new-tokens", "128"],
        )],
        rows: &[Row {
            name: "stories-decode-f32",
            title: "15M, 128 tokens after 16, f32: what an operation costs besides its work",
            case: "decode_128_after_16",
            theirs: &["decode_128"],
            asked: &[Bar::Ratio(0.95)],
        }],
    },
    Group {
        peers: &[
            job(CT2, Program::Script("ct2_seq2seq.py"), &["--compute", "float32"]),
            Job {
                engine: CT2,
                program: Program::Script("ct2_seq2seq.py"),
                arguments: &["--compute", "float32"],
                environment: &[("CT2_FORCE_CPU_ISA", "AVX512")],
            },
        ],
        ours: &[consort(
            Program::Preset("marian-base"),
            &["--threads", "2", "--prompt-tokens", "32", "--new-tokens", "32", "--batch", "1,8", "--beams", "1,4"],
        )],
        rows: &[
            Row {
                name: "translate-f32-b1",
                title: "translation 512 wide, 32 → 32 tokens, f32: one sentence, greedy",
                case: "translate_32_to_32_b1_beam1",
                theirs: &["translate_32_to_32_b1_beam1"],
                asked: &[Bar::Ratio(1.05)],
            },
            Row {
                name: "translate-f32-b1x4",
                title: "one sentence, 4 beams",
                case: "translate_32_to_32_b1_beam4",
                theirs: &["translate_32_to_32_b1_beam4"],
                asked: &[Bar::Ratio(1.4)],
            },
            Row {
                name: "translate-f32-b8",
                title: "8 sentences, greedy",
                case: "translate_32_to_32_b8_beam1",
                theirs: &["translate_32_to_32_b8_beam1"],
                asked: &[Bar::Ratio(1.9)],
            },
            Row {
                name: "translate-f32-b8x4",
                title: "8 sentences, 4 beams",
                case: "translate_32_to_32_b8_beam4",
                theirs: &["translate_32_to_32_b8_beam4"],
                asked: &[Bar::Ratio(2.5)],
            },
        ],
    },
    Group {
        peers: &[job(CT2, Program::Script("ct2_seq2seq.py"), &["--compute", "int8"])],
        ours: &[consort(
            Program::Preset("marian-base"),
            &["--threads", "2", "--dtype", "q8_0", "--compute", "int8", "--prompt-tokens", "32", "--new-tokens", "32"],
        )],
        rows: &[Row {
            name: "translate-q8_0-b1",
            title: "the same in Q8_0: one sentence, greedy",
            case: "translate_32_to_32_b1_beam1",
            theirs: &["translate_32_to_32_b1_beam1"],
            asked: &[Bar::Rate(450.0)],
        }],
    },
    Group {
        peers: &[job(TORCH, Program::Script("torch_seq2seq.py"), &["--dtype", "bf16"])],
        ours: &[consort(
            Program::Preset("marian-base"),
            &[
                "--threads",
                "2",
                "--dtype",
                "bf16",
                "--compute",
                "bf16",
                "--prompt-tokens",
                "32",
                "--new-tokens",
                "32",
                "--batch",
                "1,8",
                "--beams",
                "1,4",
            ],
        )],
        rows: &[
            Row {
                name: "translate-bf16-b1",
                title: "the same in bf16: one sentence, greedy",
                case: "translate_32_to_32_b1_beam1",
                theirs: &["translate_32_to_32_b1_beam1"],
                asked: &[Bar::Ratio(1.0)],
            },
            Row {
                name: "translate-bf16-b1x4",
                title: "one sentence, 4 beams, bf16",
                case: "translate_32_to_32_b1_beam4",
                theirs: &["translate_32_to_32_b1_beam4"],
                asked: &[Bar::Ratio(1.0)],
            },
            Row {
                name: "translate-bf16-b8",
                title: "8 sentences, greedy, bf16",
                case: "translate_32_to_32_b8_beam1",
                theirs: &["translate_32_to_32_b8_beam1"],
                asked: &[Bar::Ratio(1.0)],
            },
            Row {
                name: "translate-bf16-b8x4",
                title: "8 sentences, 4 beams, bf16",
                case: "translate_32_to_32_b8_beam4",
                theirs: &["translate_32_to_32_b8_beam4"],
                asked: &[Bar::Ratio(1.0)],
            },
        ],
    },
    Group {
        peers: &[job(TORCH, Program::Script("torch_train.py"), &["--compile", "--runs", "5"])],
        ours: &[consort(Program::Benches("train"), &["--threads", "2", "--compute", "f32"])],
        rows: &[Row {
            name: "train-f32",
            title: "training step of 10.75M parameters, f32, against torch.compile",
            case: "train_step",
            theirs: &["train_step_compile"],
            asked: &[Bar::Time(0.53)],
        }],
    },
    Group {
        peers: &[job(TORCH, Program::Script("torch_train.py"), &["--bf16", "--runs", "5"])],
        ours: &[consort(Program::Benches("train"), &["--threads", "2", "--compute", "bf16"])],
        rows: &[Row {
            name: "train-bf16",
            title: "training step of 10.75M parameters, bf16 products, against torch autocast",
            case: "train_step",
            theirs: &["train_step_eager_bf16autocast"],
            asked: &[Bar::Time(0.87)],
        }],
    },
];

/// Prints names and what is asked.
pub(super) fn list() {
    for row in TABLE.iter().flat_map(|group| group.rows) {
        let asked: Vec<String> = row.asked.iter().map(|bar| bar.text()).collect();
        println!("{:22} {:60} {}", row.name, row.title, asked.join("; "));
    }
}

impl Bar {
    /// In words.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Ratio(ratio) => format!("≥ {ratio}×"),
            Self::Time(time) => format!("≤ {time}× the time"),
            Self::Rate(rate) => format!("≥ {rate} a second"),
            Self::Arithmetic(share) => format!("≥ {:.0} % of the registers", 100.0 * share),
            Self::Reading(share) => format!("≥ {:.0} % of reading", 100.0 * share),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_names_of_one_row() {
        let names: Vec<&str> = TABLE.iter().flat_map(|group| group.rows).map(|row| row.name).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        for group in TABLE {
            assert!(!group.peers.is_empty() && !group.ours.is_empty());
            for row in group.rows {
                assert!(!row.theirs.is_empty() && !row.asked.is_empty(), "{}", row.name);
            }
        }
    }

    #[test]
    fn presets_are_there() {
        for job in TABLE.iter().flat_map(|group| group.ours) {
            if let Program::Preset(name) = job.program {
                let path = crate::workspace::root().join(format!("configs/{name}.toml"));
                assert!(path.is_file(), "{}", path.display());
            }
        }
    }
}
