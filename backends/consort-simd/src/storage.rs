//! Memory: aligned, shared by handle, and used again.
//!
//! A buffer whose last handle goes returns to its pool, so that a decoding step takes what the one before it left, without an
//! allocation and without a page that the system would have to clear. Large memory lies on huge pages where the system has
//! them.

use std::{
    alloc::{Layout as Size, alloc_zeroed, dealloc},
    mem::{ManuallyDrop, size_of},
    ptr::NonNull,
    slice,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use consort_core::{DType, Error, HostData, Result, Shape, Tensor};
use half::{bf16, f16};
use memmap2::{Advice, MmapMut, MmapOptions};

/// Bytes that memory is aligned to: a cache line, and a register of the widest set.
const ALIGNMENT: usize = 64;
/// From here on memory comes from the system by itself, on huge pages.
const LARGE: usize = 1 << 21;
/// What a pool keeps at first for later use, in bytes.
const KEPT: usize = 64 << 20;
/// A pool's size classes: four to each power of two.
const CLASSES: usize = 4 * usize::BITS as usize;

/// An element of a buffer.
pub(crate) trait Item: Copy + Send + Sync + 'static {
    const DTYPE: DType;
    const ZERO: Self;
}

macro_rules! items {
    ($($Type:ty: $dtype:ident $zero:expr),*) => { $(
        impl Item for $Type {
            const DTYPE: DType = DType::$dtype;
            const ZERO: Self = $zero;
        }
    )* };
}

items!(f32: F32 0.0, f16: F16 f16::ZERO, bf16: BF16 bf16::ZERO, u32: U32 0);

/// Bytes of its own, all initialised; no bits are invalid as an [`Item`].
pub(crate) struct Memory {
    start: NonNull<u8>,
    bytes: usize,
    /// Of large memory.
    _map: Option<MmapMut>,
}

// SAFETY: it owns its bytes and changes them through `&mut self` only.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Zeros.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(crate) fn new(bytes: usize) -> Result<Self> {
        let out_of_memory = || Error::OutOfMemory { asked: bytes as u64, limit: 0 };
        if bytes >= LARGE {
            let mut map = MmapOptions::new().len(bytes).map_anon().map_err(|_| out_of_memory())?;
            // A system without huge pages says no, and small ones do.
            let _ = map.advise(Advice::HugePage);
            let start = NonNull::new(map.as_mut_ptr()).ok_or_else(out_of_memory)?;
            return Ok(Self { start, bytes, _map: Some(map) });
        }
        let size = Size::from_size_align(bytes.max(1), ALIGNMENT).map_err(|_| out_of_memory())?;
        // SAFETY: the size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(size) }).ok_or_else(out_of_memory)?;
        Ok(Self { start, bytes, _map: None })
    }

    /// The first `count` elements.
    ///
    /// # Panics
    /// When there are fewer.
    pub(crate) fn items<T: Copy>(&self, count: usize) -> &[T] {
        assert!(count <= self.bytes / size_of::<T>(), "{count} elements in {} bytes", self.bytes);
        // SAFETY: inside, aligned, initialised, and any bits are a T (numbers alone are asked for).
        unsafe { slice::from_raw_parts(self.start.as_ptr().cast(), count) }
    }

    /// As [`items`](Self::items), to be changed.
    pub(crate) fn items_mut<T: Copy>(&mut self, count: usize) -> &mut [T] {
        assert!(count <= self.bytes / size_of::<T>(), "{count} elements in {} bytes", self.bytes);
        // SAFETY: as in `items`, and exclusive by `&mut self`.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr().cast(), count) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self._map.is_none()
            && let Ok(size) = Size::from_size_align(self.bytes.max(1), ALIGNMENT)
        {
            // SAFETY: allocated in `new` with this size.
            unsafe { dealloc(self.start.as_ptr(), size) };
        }
    }
}

/// A handle of memory; cloning it clones the handle.
pub struct Buffer(ManuallyDrop<Arc<Block>>);

struct Block {
    dtype: DType,
    elements: usize,
    memory: Memory,
    pool: Weak<Pool>,
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        Self(ManuallyDrop::new(Arc::clone(&self.0)))
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.0.elements, self.0.dtype)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: taken once, here.
        let mut block = unsafe { ManuallyDrop::take(&mut self.0) };
        if let Some(last) = Arc::get_mut(&mut block)
            && let Some(pool) = last.pool.upgrade()
        {
            pool.keep(block);
        }
    }
}

impl Buffer {
    pub(crate) fn to_host(&self) -> HostData {
        match self.0.dtype {
            DType::F16 => HostData::F16(self.0.memory.items(self.0.elements).to_vec()),
            DType::BF16 => HostData::BF16(self.0.memory.items(self.0.elements).to_vec()),
            DType::U32 => HostData::U32(self.0.memory.items(self.0.elements).to_vec()),
            _ => HostData::F32(self.0.memory.items(self.0.elements).to_vec()),
        }
    }

    /// All elements.
    ///
    /// # Errors
    /// [`Error::Shape`] when they are of another type.
    pub(crate) fn elements<T: Item>(&self) -> Result<&[T]> {
        if self.0.dtype != T::DTYPE {
            return Err(misfit(format!("a buffer of {} as {}", self.0.dtype, T::DTYPE)));
        }
        Ok(self.0.memory.items(self.0.elements))
    }

    /// All elements, to be changed, where this is the last handle.
    pub(crate) fn elements_mut<T: Item>(&mut self) -> Option<&mut [T]> {
        let block = Arc::get_mut(&mut self.0)?;
        (block.dtype == T::DTYPE).then(|| block.memory.items_mut(block.elements))
    }
}

/// Memory that was used and may be again.
pub(crate) struct Pool {
    classes: Mutex<Vec<Vec<Arc<Block>>>>,
    /// Bytes kept, and how many may be.
    kept: AtomicUsize,
    limit: AtomicUsize,
    /// Bytes that were let go for the limit since it was last raised.
    let_go: AtomicUsize,
    itself: Weak<Self>,
}

impl Pool {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new_cyclic(|itself| Self {
            classes: Mutex::new((0..CLASSES).map(|_| Vec::new()).collect()),
            kept: AtomicUsize::new(0),
            limit: AtomicUsize::new(KEPT),
            let_go: AtomicUsize::new(0),
            itself: Weak::clone(itself),
        })
    }

    /// A buffer with whatever lies there: for outputs that are written whole.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(crate) fn take<T: Item>(&self, elements: usize) -> Result<Buffer> {
        self.take_of(T::DTYPE, elements)
    }

    /// As [`take`](Self::take), of a type that is known at run time.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::Shape`] for f64.
    pub(crate) fn take_of(&self, dtype: DType, elements: usize) -> Result<Buffer> {
        if dtype == DType::F64 {
            return Err(misfit("this backend computes in f32 and does not hold f64"));
        }
        let bytes = elements.checked_mul(dtype.size()).ok_or(Error::OutOfMemory { asked: u64::MAX, limit: 0 })?;
        let class = class(bytes);
        if let Some(mut block) = self.lock().get_mut(class).and_then(Vec::pop) {
            self.kept.fetch_sub(size(class), Ordering::Relaxed);
            if let Some(block) = Arc::get_mut(&mut block) {
                (block.dtype, block.elements) = (dtype, elements);
            }
            return Ok(Buffer(ManuallyDrop::new(block)));
        }
        let memory = Memory::new(size(class))?;
        Ok(Buffer(ManuallyDrop::new(Arc::new(Block { dtype, elements, memory, pool: Weak::clone(&self.itself) }))))
    }

    /// Zeros.
    ///
    /// # Errors
    /// As [`take_of`](Self::take_of).
    pub(crate) fn zeros(&self, dtype: DType, elements: usize) -> Result<Buffer> {
        let mut buffer = self.take_of(dtype, elements)?;
        if let Some(block) = Arc::get_mut(&mut buffer.0) {
            block.memory.items_mut::<u8>(elements * dtype.size()).fill(0);
        }
        Ok(buffer)
    }

    /// Data from the host.
    ///
    /// # Errors
    /// As [`take_of`](Self::take_of).
    pub(crate) fn upload(&self, data: &HostData) -> Result<Buffer> {
        fn copy<T: Item>(pool: &Pool, data: &[T]) -> Result<Buffer> {
            let mut buffer = pool.take::<T>(data.len())?;
            if let Some(elements) = buffer.elements_mut::<T>() {
                elements.copy_from_slice(data);
            }
            Ok(buffer)
        }
        match data {
            HostData::F32(data) => copy(self, data),
            HostData::F16(data) => copy(self, data),
            HostData::BF16(data) => copy(self, data),
            HostData::U32(data) => copy(self, data),
            HostData::F64(_) => Err(misfit("this backend computes in f32 and does not hold f64")),
        }
    }

    /// Takes a block back, whose last handle this is, as far as there is room.
    ///
    /// The limit grows where the same memory comes and goes: training needs all of a step's activations again in the next.
    fn keep(&self, block: Arc<Block>) {
        let class = class(block.memory.bytes);
        let limit = self.limit.load(Ordering::Relaxed);
        if self.kept.load(Ordering::Relaxed) + size(class) > limit {
            if self.let_go.fetch_add(size(class), Ordering::Relaxed) > 8 * limit {
                self.let_go.store(0, Ordering::Relaxed);
                self.limit.store(limit.saturating_mul(2), Ordering::Relaxed);
            }
            return;
        }
        self.kept.fetch_add(size(class), Ordering::Relaxed);
        if let Some(blocks) = self.lock().get_mut(class) {
            blocks.push(block);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<Arc<Block>>>> {
        self.classes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The size class of so many bytes: the smallest whose [`size`] holds them.
fn class(bytes: usize) -> usize {
    let bytes = bytes.max(ALIGNMENT);
    let power = bytes.ilog2() as usize;
    let quarter = (1 << power) / 4;
    4 * power + (bytes - (1 << power)).div_ceil(quarter)
}

/// Bytes of a size class.
fn size(class: usize) -> usize {
    let (power, quarters) = (class / 4, class % 4);
    (1 << power) / 4 * (4 + quarters)
}

/// The elements of `x` in row-major order, where they lie so in its buffer.
pub(crate) fn contiguous<T: Item>(x: &Tensor<Buffer>) -> Result<Option<&[T]>> {
    let elements = x.buffer.elements::<T>()?;
    let layout = x.layout();
    if !layout.is_contiguous() {
        return Ok(None);
    }
    let range = layout.offset()..layout.offset() + layout.shape().elements();
    elements.get(range).map(Some).ok_or_else(|| misfit("a tensor beyond its buffer"))
}

/// The buffer of `x`, to be changed in place: when `x` covers it row-major and is the last handle; `x` must not be used then.
pub(crate) fn take<T: Item>(x: &mut Tensor<Buffer>, none: &Buffer) -> Option<Buffer> {
    let layout = *x.layout();
    let elements = x.buffer.elements_mut::<T>()?.len();
    let whole = layout.is_contiguous() && layout.offset() == 0 && layout.shape().elements() == elements;
    whole.then(|| std::mem::replace(&mut x.buffer, none.clone()))
}

/// The slice of a buffer that was just taken from the pool, or by [`take`].
///
/// # Errors
/// [`Error::Shape`] when it has another handle or type.
pub(crate) fn filled<T: Item>(buffer: &mut Buffer) -> Result<&mut [T]> {
    buffer.elements_mut::<T>().ok_or_else(|| misfit("a buffer that is shared"))
}

/// A tensor as rows of `width` elements that lie together: the last dimensions of it, so many that their sizes give `width`.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    elements: &'a [f32],
    stride: usize,
    /// How many there are.
    pub(crate) count: usize,
    /// Elements of each.
    pub(crate) width: usize,
}

impl<'a> Rows<'a> {
    /// `None` where the elements of a row do not lie together, or rows not at equal distances: the caller copies then.
    pub(crate) fn new(x: &'a Tensor<Buffer>, width: usize) -> Result<Option<Self>> {
        let elements = x.buffer.elements::<f32>()?;
        let layout = x.layout();
        let sizes = layout.shape().sizes();
        let count = match width {
            0 => sizes[..sizes.len().saturating_sub(1)].iter().product(),
            _ => layout.shape().elements() / width,
        };
        let Ok(shape) = Shape::new(&[count, width]) else { return Ok(None) };
        let Some(flat) = layout.reshape(shape)? else { return Ok(None) };
        if width > 1 && flat.strides()[1] != 1 {
            return Ok(None);
        }
        let elements = elements.get(flat.offset()..).ok_or_else(|| misfit("a tensor beyond its buffer"))?;
        let stride = flat.strides()[0];
        if count > 0 && width > 0 && (count - 1) * stride + width > elements.len() {
            return Err(misfit("a tensor beyond its buffer"));
        }
        Ok(Some(Self { elements, stride, count, width }))
    }

    /// Row `index`.
    pub(crate) fn row(&self, index: usize) -> &'a [f32] {
        match self.width {
            0 => &[],
            width => &self.elements[index * self.stride..][..width],
        }
    }

    /// The elements from the first row on; row r begins at `r · stride`.
    pub(crate) fn elements(&self) -> &'a [f32] {
        self.elements
    }

    /// From the beginning of a row to that of the next.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }
}

/// A vector whose elements lie at equal distances.
#[derive(Clone, Copy)]
pub(crate) struct Column<'a, T> {
    elements: &'a [T],
    stride: usize,
}

impl<'a, T: Item> Column<'a, T> {
    /// Of a tensor of one dimension.
    ///
    /// # Errors
    /// [`Error::Shape`] when it is of another type or beyond its buffer.
    pub(crate) fn new(x: &'a Tensor<Buffer>) -> Result<Self> {
        let layout = x.layout();
        let elements = x.buffer.elements::<T>()?.get(layout.offset()..layout.end());
        let stride = layout.strides().first().copied().unwrap_or(1);
        Ok(Self { elements: elements.ok_or_else(|| misfit("a tensor beyond its buffer"))?, stride })
    }

    /// Element `index`.
    pub(crate) fn at(&self, index: usize) -> T {
        self.elements[index * self.stride]
    }
}

/// For operands that the core would not have let through.
pub(crate) fn misfit(what: impl Into<String>) -> Error {
    Error::Shape { operation: "simd", what: what.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_hold_what_they_are_for() {
        for bytes in (0..5000).chain([1 << 20, (1 << 20) + 1, 3 << 29, usize::MAX / 4]) {
            let class = class(bytes);
            assert!(size(class) >= bytes && class < CLASSES, "{bytes}");
            assert!(bytes <= ALIGNMENT || size(class - 1) < bytes, "{bytes}");
            assert_eq!(self::class(size(class)), class, "{bytes}");
        }
    }

    #[test]
    fn what_is_let_go_is_used_again() {
        let pool = Pool::new();
        let buffer = pool.take::<f32>(1000).unwrap();
        let address = buffer.elements::<f32>().unwrap().as_ptr();
        let other = buffer.clone();
        drop(buffer);
        assert_ne!(pool.take::<f32>(1000).unwrap().elements::<f32>().unwrap().as_ptr(), address);
        drop(other);
        let again = pool.take::<u32>(999).unwrap();
        assert_eq!(again.elements::<u32>().unwrap().as_ptr().cast(), address);
        assert_eq!(again.elements::<u32>().unwrap().len(), 999);
        drop(pool);
        drop(again);
    }

    #[test]
    fn large_memory_is_zero_and_aligned() {
        for bytes in [0, 1, 100, LARGE, LARGE + 1] {
            let memory = Memory::new(bytes).unwrap();
            assert!(memory.items::<u8>(bytes).iter().all(|&byte| byte == 0));
            assert_eq!(memory.start.as_ptr() as usize % ALIGNMENT, 0);
        }
        assert!(Memory::new(usize::MAX / 2).is_err());
    }
}
