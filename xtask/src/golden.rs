//! Golden models and test vectors, made by the scripts of `xtask/golden` in a virtual environment of their own.
//!
//! `golden.py` makes models with what the reference computes for them, some with gradients and losses of training;
//! `vectors.py` makes single operations in the form of `docs/case-format.md`; `blocks.py` makes blocks of quantised weights.
//!
//! The environment is `golden-venv` in cargo's target directory; it is filled once, and again when `requirements.txt`
//! changes (a copy of it is kept inside as the stamp). `CONSORT_GOLDEN_PYTHON` names a Python to use instead, one that
//! has the requirements already.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{
    Outcome,
    process::{shown, status},
    workspace::{self, Metadata},
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What to make.
    #[arg(long, value_enum, default_value_t = What::All)]
    what: What,
    /// Where they go: models in DIR, vectors in DIR/vectors, blocks in DIR/blocks. The committed ones in tests/golden,
    /// tests/vectors and crates/consort-core/tests/blocks by default.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only the model or format of this name, and the vectors with this in their names.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Another draw of weights, prompts and operands; needs --out.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Which sizes the models have; others than odd need --out.
    #[arg(long, value_enum, default_value_t = Sizes::Odd)]
    sizes: Sizes,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Small models: what they compute, and how they train.
    Models,
    /// Test vectors: single operations and their gradients.
    Vectors,
    /// Blocks of quantised weights, and their values.
    Blocks,
    /// All of them.
    All,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sizes {
    /// Sizes that are no multiple of anything.
    Odd,
    /// A second set.
    Other,
}

/// Exit status of the scripts when nothing has the name of --only.
const NO_SUCH_CASE: i32 = 3;

/// `cargo xtask golden`.
pub(crate) fn run(arguments: &Arguments) -> Result<Outcome> {
    let committed = arguments.seed == 0 && arguments.sizes == Sizes::Odd;
    let [models, vectors, blocks] = match &arguments.out {
        Some(out) => {
            let out = std::path::absolute(out).with_context(|| out.display().to_string())?;
            [out.clone(), out.join("vectors"), out.join("blocks")]
        }
        None if committed => ["tests/golden", "tests/vectors", "crates/consort-core/tests/blocks"]
            .map(|folder| workspace::root().join(folder)),
        None => {
            eprintln!("error: --out is needed with --seed or --sizes: what is committed has seed 0 and odd sizes");
            return Ok(Outcome::WrongUsage);
        }
    };
    let folder = workspace::root().join("xtask/golden");
    let python = match std::env::var_os("CONSORT_GOLDEN_PYTHON") {
        Some(python) => PathBuf::from(python),
        None => environment(&Metadata::read()?.target()?.join("golden-venv"), &folder.join("requirements.txt"))?,
    };
    let script = |name: &str, out: &Path| {
        let mut command = Command::new(&python);
        command.arg(folder.join(name)).arg(out).args(["--seed", &arguments.seed.to_string()]);
        if let Some(only) = &arguments.only {
            command.args(["--only", only]);
        }
        command
    };
    let mut commands = Vec::new();
    if matches!(arguments.what, What::Models | What::All) {
        let mut command = script("golden.py", &models);
        command.args(["--sizes", if arguments.sizes == Sizes::Odd { "odd" } else { "other" }]);
        commands.push(command);
    }
    if matches!(arguments.what, What::Vectors | What::All) {
        commands.push(script("vectors.py", &vectors));
    }
    if matches!(arguments.what, What::Blocks | What::All) {
        commands.push(script("blocks.py", &blocks));
    }
    // With a name it is enough that one of the scripts knows it.
    let mut known = false;
    for command in &mut commands {
        let status = status(command)?;
        known |= status.success();
        if !status.success() && status.code() != Some(NO_SUCH_CASE) {
            return Ok(Outcome::Failed);
        }
    }
    Ok(if known { Outcome::Done } else { Outcome::Failed })
}

/// The Python of an environment that has the requirements.
fn environment(folder: &Path, requirements: &Path) -> Result<PathBuf> {
    let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let stamp = folder.join("requirements.txt");
    let wanted = fs::read(requirements).with_context(|| requirements.display().to_string())?;
    if fs::read(&stamp).is_ok_and(|installed| installed == wanted) && python.is_file() {
        return Ok(python);
    }
    let system = ["python3", "python"].into_iter().find(|name| {
        let version = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    });
    let Some(system) = system else {
        bail!(
            "no python3 here: goldens are made with torch; install Python 3.11 or later, or set CONSORT_GOLDEN_PYTHON"
        );
    };
    eprintln!("making {} (torch: about 1 GB, once)", folder.display());
    let mut create = Command::new(system);
    create.args(["-m", "venv", "--clear"]).arg(folder);
    if !status(&mut create)?.success() {
        bail!("`{}` failed: Debian has it in the package python3-venv", shown(&create));
    }
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(requirements);
    if !status(&mut install)?.success() {
        bail!("`{}` failed: this step needs the network, once", shown(&install));
    }
    fs::write(&stamp, wanted).with_context(|| stamp.display().to_string())?;
    Ok(python)
}
