//! Memory: a shared vector of one of the element types, and strided views of it.

use std::{mem, sync::Arc};

use consort_core::{DType, Error, HostData, Layout, Result, Shape, Tensor};
use half::{bf16, f16};
use ndarray::{ArrayViewD, ArrayViewMutD, IxDyn, ShapeBuilder};

use crate::{
    element::{Cast, Element},
    fault::{Fault, planted},
    misfit,
};

/// A handle of memory; cloning it clones the handle.
#[derive(Clone, Debug)]
pub struct Buffer<E>(Arc<Storage<E>>);

/// The memory itself.
#[derive(Debug)]
pub(crate) enum Storage<E> {
    /// The type that the backend computes in.
    Float(Vec<E>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
    U32(Vec<u32>),
}

/// A type that a buffer of a backend computing in `E` can hold.
pub(crate) trait Item<E>: Cast {
    /// The elements, if they are of this type.
    fn of(storage: &Storage<E>) -> Option<&Vec<Self>>;

    /// As [`of`](Self::of), to be changed.
    fn of_mut(storage: &mut Storage<E>) -> Option<&mut Vec<Self>>;

    /// The elements as a storage.
    fn store(elements: Vec<Self>) -> Storage<E>;
}

macro_rules! items {
    ($($Type:ty: $Variant:ident),*) => { $(
        impl<E: Element> Item<E> for $Type {
            fn of(storage: &Storage<E>) -> Option<&Vec<Self>> {
                if let Storage::$Variant(elements) = storage { Some(elements) } else { None }
            }

            fn of_mut(storage: &mut Storage<E>) -> Option<&mut Vec<Self>> {
                if let Storage::$Variant(elements) = storage { Some(elements) } else { None }
            }

            fn store(elements: Vec<Self>) -> Storage<E> {
                Storage::$Variant(elements)
            }
        }
    )* };
}

items!(E: Float, f16: F16, bf16: BF16, u32: U32);

/// Calls `function::<E, T>`, where T is the type that `dtype` names on a backend computing in `E`.
macro_rules! by_dtype {
    ($E:ty, $dtype:expr, $function:ident($($argument:expr),*)) => {
        match $dtype {
            consort_core::DType::F16 => $function::<$E, half::f16>($($argument),*),
            consort_core::DType::BF16 => $function::<$E, half::bf16>($($argument),*),
            consort_core::DType::U32 => $function::<$E, u32>($($argument),*),
            float if float == <$E>::DTYPE => $function::<$E, $E>($($argument),*),
            other => Err(crate::storage::other_float::<$E>(other)),
        }
    };
}

impl<E: Element> Buffer<E> {
    pub(crate) fn new(storage: Storage<E>) -> Self {
        Self(Arc::new(storage))
    }

    pub(crate) fn to_host(&self) -> HostData {
        match &*self.0 {
            Storage::Float(elements) => E::to_host(elements.clone()),
            Storage::F16(elements) => HostData::F16(elements.clone()),
            Storage::BF16(elements) => HostData::BF16(elements.clone()),
            Storage::U32(elements) => HostData::U32(elements.clone()),
        }
    }
}

impl<E: Element> Storage<E> {
    pub(crate) fn from_host(data: HostData) -> Result<Self> {
        Ok(match data {
            HostData::F16(elements) => Self::F16(elements),
            HostData::BF16(elements) => Self::BF16(elements),
            HostData::U32(elements) => Self::U32(elements),
            floats => Self::Float(E::from_host(floats).map_err(|other| other_float::<E>(other.dtype()))?),
        })
    }
}

/// A view of the elements of `x`.
pub(crate) fn view<E: Element, T: Item<E>>(x: &Tensor<Buffer<E>>) -> Result<ArrayViewD<'_, T>> {
    view_of(elements(x)?, x.layout())
}

/// The elements of `layout` in `data`.
pub(crate) fn view_of<'a, T>(data: &'a [T], layout: &Layout) -> Result<ArrayViewD<'a, T>> {
    let shape = IxDyn(layout.shape().sizes()).strides(IxDyn(layout.strides()));
    data.get(layout.offset()..)
        .and_then(|data| ArrayViewD::from_shape(shape, data).ok())
        .ok_or_else(|| misfit("view", format!("{layout:?} of {} elements", data.len())))
}

/// The elements of `x`, broadcast to `shape`.
pub(crate) fn broadcast<'a, E: Element, T: Item<E>>(
    x: &'a Tensor<Buffer<E>>,
    shape: &Shape,
) -> Result<ArrayViewD<'a, T>> {
    let mut layout = *x.layout();
    if planted(Fault::FirstRowOnly) && layout.shape().rank() > 1 && layout.shape().sizes()[0] > 1 {
        layout = layout.slice(0, 0, 1)?;
    }
    view_of(elements(x)?, &layout.broadcast_to(*shape)?)
}

/// `data` as a row-major array.
pub(crate) fn row_major<'a, T>(data: &'a mut [T], shape: &Shape) -> Result<ArrayViewMutD<'a, T>> {
    let elements = data.len();
    ArrayViewMutD::from_shape(IxDyn(shape.sizes()), data)
        .map_err(|_| misfit("view", format!("{elements} elements as {shape}")))
}

/// All elements of the buffer of `x`, whatever its layout.
pub(crate) fn elements<E: Element, T: Item<E>>(x: &Tensor<Buffer<E>>) -> Result<&[T]> {
    T::of(&x.buffer.0)
        .map(Vec::as_slice)
        .ok_or_else(|| misfit("view", format!("a tensor of {} whose buffer is another type's", x.dtype())))
}

/// The elements of `x` themselves, to be changed in place: when `x` covers its buffer row-major and is the last handle.
/// `x` is empty afterwards.
pub(crate) fn take<E: Element, T: Item<E>>(x: &mut Tensor<Buffer<E>>) -> Option<Vec<T>> {
    let layout = *x.layout();
    let elements = T::of_mut(Arc::get_mut(&mut x.buffer.0)?)?;
    let whole = layout.is_contiguous() && layout.offset() == 0 && layout.shape().elements() == elements.len();
    whole.then(|| mem::take(elements))
}

/// The elements of `x` row-major: themselves where [`take`] can, else a copy.
pub(crate) fn take_or_copy<E: Element, T: Item<E>>(x: &mut Tensor<Buffer<E>>) -> Result<Vec<T>> {
    match take(x) {
        Some(elements) => Ok(elements),
        None => {
            let view = view::<E, T>(x)?;
            let mut out = reserve(view.len())?;
            extend(&mut out, &view);
            Ok(out)
        }
    }
}

/// Puts the elements of `view` behind `out`, row-major.
pub(crate) fn extend<T: Copy>(out: &mut Vec<T>, view: &ArrayViewD<'_, T>) {
    match view.as_slice() {
        Some(elements) => out.extend_from_slice(elements),
        None => out.extend(view.iter().copied()),
    }
}

/// An empty vector with room for `elements`.
///
/// # Errors
/// [`Error::OutOfMemory`]; what is left is not known here and given as 0.
pub(crate) fn reserve<T>(elements: usize) -> Result<Vec<T>> {
    let mut out = Vec::new();
    let asked = (elements as u64).saturating_mul(size_of::<T>() as u64);
    out.try_reserve_exact(elements).map_err(|_| Error::OutOfMemory { asked, limit: 0 })?;
    Ok(out)
}

/// `elements` times `value`.
pub(crate) fn filled<T: Copy>(elements: usize, value: T) -> Result<Vec<T>> {
    let mut out = reserve(elements)?;
    out.resize(elements, value);
    Ok(out)
}

/// The error for f64 on a backend of f32, and the other way round.
pub(crate) fn other_float<E: Element>(dtype: DType) -> Error {
    misfit(E::BACKEND, format!("this backend computes in {} and does not hold {dtype}", E::DTYPE))
}

#[cfg(test)]
mod tests {
    use consort_core::{Host, Primitive, Spec, operation::BinaryKind, operation::UnaryKind};

    use super::*;
    use crate::Oracle;

    fn tensor(sizes: &[usize]) -> Tensor<Buffer<f64>> {
        let shape = Shape::new(sizes).unwrap();
        let elements = (0..shape.elements()).map(|index| index as f64).collect();
        Tensor::new(Buffer::new(Storage::Float(elements)), shape, DType::F64)
    }

    #[test]
    fn only_whole_last_handles_are_taken() {
        assert_eq!(take::<f64, f64>(&mut tensor(&[2, 3])).unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let mut shared = tensor(&[2, 3]);
        let other = shared.clone();
        assert!(take::<f64, f64>(&mut shared).is_none());
        drop(other);
        assert!(take::<f64, u32>(&mut shared).is_none());
        assert!(take::<f64, f64>(&mut shared).is_some());
        assert!(take::<f64, f64>(&mut tensor(&[2, 3]).permute(&[1, 0]).unwrap()).is_none());
        assert!(take::<f64, f64>(&mut tensor(&[2, 3]).slice(0, 0, 1).unwrap()).is_none());
        assert!(take::<f64, f64>(&mut tensor(&[2, 3]).slice(0, 1, 1).unwrap()).is_none());
        assert!(take::<f64, f64>(&mut tensor(&[1]).broadcast_to(&[2, 3]).unwrap()).is_none());
    }

    #[test]
    fn operations_change_their_last_operand_in_place() {
        let whole = || tensor(&[2, 3]);
        let small = || tensor(&[1, 3]);
        let ids = || Tensor::new(Buffer::new(Storage::U32(vec![1])), Shape::new(&[1]).unwrap(), DType::U32);
        let add = |a, b| Primitive::Binary { a, b, kind: BinaryKind::Add };
        let operations = [
            (true, Primitive::Unary { x: whole(), kind: UnaryKind::Exp }),
            (true, add(whole(), small())),
            (true, add(small(), whole())),
            (true, Primitive::Write { into: whole(), x: small(), start: Shape::new(&[1, 0]).unwrap() }),
            (true, Primitive::ScatterRows { into: whole(), ids: ids(), x: small(), add: false }),
            (true, Primitive::ScatterRows { into: whole(), ids: ids(), x: small(), add: true }),
            (false, Primitive::Copy { x: whole(), dtype: DType::F64 }),
        ];
        let address = |buffer: &Buffer<f64>| f64::of(&buffer.0).unwrap().as_ptr();
        for (in_place, mut operation) in operations {
            let mut operands = Vec::new();
            operation.for_each_tensor(&mut |tensor| {
                if tensor.sizes() == [2, 3] {
                    operands.push(address(&tensor.buffer));
                }
            });
            let out = Spec { shape: Shape::new(&[2, 3]).unwrap(), dtype: DType::F64 };
            let result = Oracle::new().evaluate(&mut operation, &out).unwrap();
            assert_eq!(operands.contains(&address(&result)), in_place, "{}", operation.name());
        }
    }
}
