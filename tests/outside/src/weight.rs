//! Weights as this backend keeps them, and what is computed over them.

use consort_core::{
    DType, Error, HostData, Result, StoredTensor, Tensor, Weight, WeightDType, WeightStore, concatenated_shape,
    config::Activation, decode,
};

use super::{
    activation,
    matmul::add_product,
    memory::{Buffer, singles},
};

/// A weight, `[inputs, outputs]`: a product then walks along the outputs, which lie side by side.
pub struct Packed {
    values: Vec<f32>,
    inputs: usize,
    outputs: usize,
}

/// The weight of these parts, rounded to what it is to be kept as. Elements that are not finite are refused.
pub(crate) fn pack(parts: &[StoredTensor], dtype: WeightDType) -> Result<Packed> {
    let [outputs, inputs] = concatenated_shape(parts)?;
    let HostData::F32(rows) = decode(parts, dtype, DType::F32)? else {
        return Err(Error::weight("pack", "decoded to another type than f32"));
    };
    let places = (0..inputs).flat_map(|input| (0..outputs).map(move |output| output * inputs + input));
    Ok(Packed { values: places.map(|place| rows[place]).collect(), inputs, outputs })
}

/// The weight as it came, `[outputs, inputs]`: what decompositions compute with.
pub(crate) fn unpack(packed: &Packed) -> HostData {
    let Packed { values, inputs, outputs } = packed;
    let places = (0..*outputs).flat_map(|output| (0..*inputs).map(move |input| input * outputs + output));
    HostData::F32(places.map(|place| values[place]).collect())
}

/// `f(x · Wᵀ + b) + residual`.
pub(crate) fn linear(
    x: &Tensor<Buffer>,
    weight: &Weight<Buffer, Packed>,
    bias: Option<&Tensor<Buffer>>,
    kind: Option<Activation>,
    residual: Option<&Tensor<Buffer>>,
) -> Option<HostData> {
    let WeightStore::Packed(Packed { values, inputs, outputs }) = weight.store() else { return None };
    let f = kind.map_or(Some((|x| x) as fn(f32) -> f32), activation::function)?;
    let rows = x.size(0);
    let x = singles(x)?;
    let mut y = vec![0.0; rows * outputs];
    for (row, y) in y.chunks_mut(*outputs).enumerate() {
        add_product(y, &x[row * inputs..][..*inputs], values);
    }
    if let Some(bias) = bias {
        let bias = singles(bias)?;
        y.chunks_mut(*outputs).for_each(|y| y.iter_mut().zip(bias.iter()).for_each(|(y, b)| *y += b));
    }
    y.iter_mut().for_each(|y| *y = f(*y));
    if let Some(residual) = residual {
        y.iter_mut().zip(singles(residual)?.iter()).for_each(|(y, r)| *y += r);
    }
    Some(HostData::F32(y))
}

/// Rows of a table; zeros for a row that there is not.
pub(crate) fn embedding(weight: &Weight<Buffer, Packed>, ids: &Tensor<Buffer>) -> Option<HostData> {
    let WeightStore::Packed(Packed { values, inputs, outputs }) = weight.store() else { return None };
    let HostData::U32(all) = &*ids.buffer else { return None };
    let ids = super::memory::places(ids.layout()).into_iter().map(|place| all[place] as usize);
    let element = |id: usize, input: usize| if id < *outputs { values[input * outputs + id] } else { 0.0 };
    Some(HostData::F32(ids.flat_map(|id| (0..*inputs).map(move |input| element(id, input))).collect()))
}
