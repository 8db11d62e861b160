//! `consort forward`: one pass, with everything that it computes, as safetensors.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use consort_core::HostData;
use safetensors::{Dtype, tensor::TensorView};
use tempfile::NamedTempFile;

use super::{Common, ModelPath, TokenIds, encode, note, parse_tokens};
use crate::{ForwardInput, NamedTensor};

#[derive(Args)]
pub(super) struct Forward {
    #[command(flatten)]
    model: ModelPath,
    /// Text to run over (of an encoder-decoder, its source)
    #[arg(long, value_name = "TEXT", required_unless_present = "tokens", conflicts_with = "tokens")]
    prompt: Option<String>,
    /// Token ids to run over, comma-separated
    #[arg(long, value_name = "1,2,3", value_parser = parse_tokens)]
    tokens: Option<TokenIds>,
    /// Target token ids of an encoder-decoder, start token included [default: the start token alone]
    #[arg(long, value_name = "0,4,…", value_parser = parse_tokens)]
    decoder_tokens: Option<TokenIds>,
    /// Keep attention probabilities too
    #[arg(long)]
    attention: bool,
    /// File to write
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
    #[command(flatten)]
    common: Common,
}

impl Forward {
    pub(super) fn run(self) -> Result<()> {
        let open = self.model.open()?;
        let tokens = match self.tokens {
            Some(tokens) => tokens,
            None => encode(&open, self.prompt.as_deref().unwrap_or_default())?,
        };
        let both = open.config().encoder.is_some() && open.config().decoder.is_some();
        let decoder_tokens = match self.decoder_tokens {
            Some(_) if !both => bail!("--decoder-tokens is for encoder-decoder models, and this is none"),
            Some(tokens) => tokens,
            None if both => vec![open.start_token()?],
            None => Vec::new(),
        };
        // Before a long computation, not after it.
        let file = Out::create(&self.out).with_context(|| self.out.display().to_string())?;
        let model = self.common.load(open)?;
        let input = ForwardInput { tokens, decoder_tokens, attention: self.attention };
        let tensors = model.forward(&input)?;
        file.write(&serialize(&tensors)?).with_context(|| self.out.display().to_string())?;
        for tensor in &tensors {
            note(format_args!("{:28} {:?}", tensor.name, tensor.sizes));
        }
        self.common.report(&model.report());
        Ok(())
    }
}

/// A file that is not there until all of it is: a temporary one beside it, renamed at the end.
enum Out<'a> {
    Beside(NamedTempFile, &'a Path),
    /// What cannot be replaced, like a pipe.
    Special(File),
}

impl<'a> Out<'a> {
    fn create(path: &'a Path) -> Result<Self> {
        match fs::metadata(path) {
            Ok(kind) if kind.is_dir() => bail!("is a directory: give a file to write"),
            Ok(kind) if !kind.is_file() => return Ok(Self::Special(File::options().write(true).open(path)?)),
            _ => {}
        }
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        // As any new file; by default temporary ones are their owner's alone.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        Ok(Self::Beside(builder.tempfile_in(folder)?, path))
    }

    fn write(self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Beside(mut file, path) => {
                file.write_all(bytes)?;
                file.persist(path)?;
            }
            Self::Special(mut file) => file.write_all(bytes)?,
        }
        Ok(())
    }
}

fn serialize(tensors: &[NamedTensor]) -> Result<Vec<u8>> {
    let bytes: Vec<(Dtype, Vec<u8>)> =
        tensors.iter().map(|tensor| little_endian(&tensor.data)).collect::<Result<_>>()?;
    let mut views = Vec::with_capacity(tensors.len());
    for (tensor, (dtype, bytes)) in tensors.iter().zip(&bytes) {
        views.push((tensor.name.clone(), TensorView::new(*dtype, tensor.sizes.clone(), bytes)?));
    }
    Ok(safetensors::serialize(views, None::<HashMap<String, String>>)?)
}

fn little_endian(data: &HostData) -> Result<(Dtype, Vec<u8>)> {
    Ok(match data {
        HostData::F32(values) => (Dtype::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        HostData::F64(values) => (Dtype::F64, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        other => bail!("a result of type {} has no place in the file", other.dtype()),
    })
}
