//! Caches kept as plain tensors: per layer, keys and values `[blocks · rows per block, K, C]`.

use crate::{
    backend::{Backend, CacheOf, TensorOf},
    cache::{CachePlan, CacheSpec, CacheStore, lock},
    device::Device,
    error::{Error, Result},
    shape::Shape,
};

type Layers<B> = Vec<Option<[TensorOf<B>; 2]>>;

/// Puts row t of `key` and `value` `[T, K, C]` where the plan says.
///
/// # Errors
/// What the primitives meet; the layer is lost then.
pub fn cache_write<B: Backend>(
    device: &Device<B>,
    cache: &CacheOf<B>,
    key: TensorOf<B>,
    value: TensorOf<B>,
    layer: usize,
    plan: &CachePlan,
) -> Result<()> {
    let CacheStore::Plain(layers) = cache.store() else {
        return Err(crate::backend::unsupported(device.backend(), "cache_write"));
    };
    let rows = device.upload_ids(plan.targets())?;
    let mut layers = lock(layers);
    // Taken out, so that the only handle is the operation's and the write happens in place.
    let [keys, values] = layers[layer].take().ok_or_else(lost)?;
    let keys = device.scatter_rows(keys, &rows, key, false)?;
    let values = device.scatter_rows(values, &rows, value, false)?;
    layers[layer] = Some([keys, values]);
    Ok(())
}

/// Makes room for `blocks` blocks.
///
/// # Errors
/// [`Error::OutOfMemory`]; layers not yet grown stay as they were.
pub fn cache_reserve<B: Backend>(
    device: &Device<B>,
    spec: &CacheSpec,
    layers: &mut Layers<B>,
    blocks: usize,
) -> Result<()> {
    let rows = blocks * spec.block;
    let shape = Shape::new(&[rows, spec.key_value_heads, spec.head_width])?;
    for layer in layers {
        let [keys, values] = layer.as_ref().ok_or_else(lost)?;
        if keys.size(0) < rows {
            let grow = |old: &TensorOf<B>| device.write(device.zeros(shape, device.float())?, old.clone(), &[0, 0, 0]);
            *layer = Some([grow(keys)?, grow(values)?]);
        }
    }
    Ok(())
}

/// Copies whole blocks `(from, to)` in all layers, as if one after the other.
///
/// # Errors
/// What the primitives meet; the layer is lost then.
pub fn cache_copy<B: Backend>(
    device: &Device<B>,
    spec: &CacheSpec,
    layers: &mut Layers<B>,
    pairs: &[(u32, u32)],
) -> Result<()> {
    let block = spec.block as u32;
    let mut rest = pairs;
    while !rest.is_empty() {
        // As many as do not read what an earlier one of them wrote.
        let reads_written = |&at: &usize| rest[..at].iter().any(|(_, to)| *to == rest[at].0);
        let (together, later) = rest.split_at((1..rest.len()).find(reads_written).unwrap_or(rest.len()));
        let rows = |pick: fn(&(u32, u32)) -> u32| {
            let rows = together.iter().flat_map(|pair| (0..block).map(move |row| pick(pair) * block + row));
            device.upload_ids(rows.collect())
        };
        let (from, to) = (rows(|pair| pair.0)?, rows(|pair| pair.1)?);
        for layer in &mut *layers {
            let [keys, values] = layer.take().ok_or_else(lost)?;
            let copy = |all: TensorOf<B>| {
                let x = device.gather_rows(&all, &from)?;
                device.scatter_rows(all, &to, x, false)
            };
            *layer = Some([copy(keys)?, copy(values)?]);
        }
        rest = later;
    }
    Ok(())
}

/// Keys and values at physical rows, each `[R, K, C]`.
///
/// # Errors
/// What the primitives meet.
pub fn cache_read<B: Backend>(
    device: &Device<B>,
    layers: &Layers<B>,
    layer: usize,
    rows: &[u32],
) -> Result<[TensorOf<B>; 2]> {
    let [keys, values] = layers.get(layer).and_then(Option::as_ref).ok_or_else(lost)?;
    let rows = device.upload_ids(rows.to_vec())?;
    Ok([device.gather_rows(keys, &rows)?, device.gather_rows(values, &rows)?])
}

fn lost() -> Error {
    Error::DeviceLost("an earlier operation on this cache failed; start the sequences anew".into())
}
