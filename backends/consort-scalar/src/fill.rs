//! A tensor of one value.

use consort_core::{DType, Result};

use crate::{
    element::Element,
    storage::{Item, Storage, filled},
};

/// `elements` times `value`, rounded to `dtype`.
pub(crate) fn fill<E: Element>(elements: usize, value: f64, dtype: DType) -> Result<Storage<E>> {
    by_dtype!(E, dtype, typed(elements, value))
}

fn typed<E: Element, T: Item<E>>(elements: usize, value: f64) -> Result<Storage<E>> {
    Ok(T::store(filled(elements, T::from_f64(value))?))
}
