//! `consort forward`: one pass, with everything that it computes, as safetensors.

use std::{
    collections::HashMap,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use consort_core::HostData;
use safetensors::{Dtype, tensor::TensorView};

use super::{Common, ModelPath, parse_tokens};
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
    tokens: Option<std::vec::Vec<u32>>,
    /// Target token ids of an encoder-decoder, start token included [default: the start token alone]
    #[arg(long, value_name = "0,4,…", value_parser = parse_tokens)]
    decoder_tokens: Option<std::vec::Vec<u32>>,
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
        let tokens = match (self.tokens, &self.prompt) {
            (Some(tokens), _) => tokens,
            (None, Some(text)) => open.usable_tokenizer()?.encode(text, true)?,
            (None, None) => Vec::new(),
        };
        if tokens.is_empty() {
            bail!("the prompt is empty: there is nothing to compute from");
        }
        let both = open.config().encoder.is_some() && open.config().decoder.is_some();
        let decoder_tokens = match self.decoder_tokens {
            Some(_) if !both => bail!("--decoder-tokens is for encoder-decoder models, and this is none"),
            Some(tokens) => tokens,
            None if both => vec![open.start_token()?],
            None => Vec::new(),
        };
        let model = self.common.load(open)?;
        let input = ForwardInput { tokens, decoder_tokens, attention: self.attention };
        let tensors = model.forward(&input)?;
        write(&self.out, &tensors).with_context(|| self.out.display().to_string())?;
        for tensor in &tensors {
            eprintln!("{:28} {:?}", tensor.name, tensor.sizes);
        }
        self.common.report(&model);
        Ok(())
    }
}

/// Writes to a temporary file beside `path`, then renames it: `path` is never half a file.
fn write(path: &Path, tensors: &[NamedTensor]) -> Result<()> {
    let bytes: Vec<(Dtype, Vec<u8>)> = tensors.iter().map(|tensor| little_endian(&tensor.data)).collect::<Result<_>>()?;
    let mut views = Vec::with_capacity(tensors.len());
    for (tensor, (dtype, bytes)) in tensors.iter().zip(&bytes) {
        views.push((tensor.name.clone(), TensorView::new(*dtype, tensor.sizes.clone(), bytes)?));
    }
    let file = safetensors::serialize(views, None::<HashMap<String, String>>)?;
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
    temporary.write_all(&file)?;
    temporary.persist(path)?;
    Ok(())
}

fn little_endian(data: &HostData) -> Result<(Dtype, Vec<u8>)> {
    Ok(match data {
        HostData::F32(values) => (Dtype::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        HostData::F64(values) => (Dtype::F64, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        other => bail!("a result of type {} has no place in the file", other.dtype()),
    })
}
