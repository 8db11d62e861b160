//! What a post-processor adds to a text: one token before it, one after it.

use serde_json::Value;

use super::{Embedded, flat, kind_of, refused};
use crate::Error;

pub(super) fn write(processor: &Value, embedded: &mut Embedded) -> Result<(), Error> {
    let (mut before, mut after) = (None, None);
    for part in flat(processor, "processors") {
        match kind_of(part) {
            // It only changes offsets.
            "ByteLevel" => continue,
            _ if before.is_some() || after.is_some() => return Err(refused("two post-processors add tokens")),
            "TemplateProcessing" => (before, after) = template(part)?,
            "RobertaProcessing" | "BertProcessing" => {
                (before, after) = (Some(id(&part["cls"][1])?), Some(id(&part["sep"][1])?));
            }
            other => return Err(refused(format!("GGUF has no post-processor {other}"))),
        }
    }
    if embedded.model == "bert" {
        let (Some(cls), Some(sep)) = (before, after) else {
            return Err(refused("GGUF always adds [CLS] and [SEP] to a WordPiece text, and this adds not both"));
        };
        (embedded.cls, embedded.sep) = (Some(cls), Some(sep));
        // Programs take the token before a text from here.
        embedded.bos = Some(cls);
        (embedded.add_bos, embedded.add_eos) = (Some(true), Some(true));
        embedded.eos = embedded.eos.or(Some(sep));
        return Ok(());
    }
    (embedded.add_bos, embedded.add_eos) = (Some(before.is_some()), Some(after.is_some()));
    for (key, role, added) in [("BOS", &mut embedded.bos, before), ("EOS", &mut embedded.eos, after)] {
        match (*role, added) {
            (Some(role), Some(added)) if role != added => {
                return Err(refused(format!("{key} is token {role}, but token {added} is added in its place")));
            }
            (None, Some(added)) => *role = Some(added),
            _ => {}
        }
    }
    Ok(())
}

/// The tokens around the text in the template for a single one.
fn template(processor: &Value) -> Result<(Option<u32>, Option<u32>), Error> {
    let (mut before, mut after, mut text) = (None, None, false);
    for part in processor["single"].as_array().into_iter().flatten() {
        let Some(name) = part["SpecialToken"]["id"].as_str() else {
            text = true;
            continue;
        };
        let place = if text { &mut after } else { &mut before };
        let ids = &processor["special_tokens"][name]["ids"];
        if place.is_some() || ids.as_array().is_some_and(|ids| ids.len() != 1) {
            return Err(refused("GGUF adds at most one token before and one after a text"));
        }
        *place = Some(id(&ids[0])?);
    }
    Ok((before, after))
}

fn id(value: &Value) -> Result<u32, Error> {
    let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
    id.ok_or_else(|| refused(format!("the post-processor adds {value}, which is no id")))
}
