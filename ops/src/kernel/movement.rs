//! Moving elements without looking at them: any element type, strings and packed types included.

use std::iter;

use ir::{Data, Tensor, TensorError};

use crate::array;
use crate::number;

/// Elements of one fixed width.
trait Unit: Copy {
    fn load(bytes: &[u8]) -> Vec<Self>;
    fn store(units: &[Self]) -> Vec<u8>;
}

impl<const N: usize> Unit for [u8; N] {
    fn load(bytes: &[u8]) -> Vec<[u8; N]> {
        bytes.as_chunks::<N>().0.to_vec()
    }

    fn store(units: &[[u8; N]]) -> Vec<u8> {
        units.as_flattened().to_vec()
    }
}

fn out_of_range(dims: &[usize]) -> TensorError {
    TensorError::Overflow(dims.to_vec())
}

fn select<T: Clone>(
    sources: &[Vec<T>],
    count: usize,
    picks: impl Iterator<Item = (usize, usize)>,
) -> Option<Vec<T>> {
    let mut out = Vec::with_capacity(count);
    for (source, at) in picks.take(count) {
        out.push(sources.get(source)?.get(at)?.clone());
    }
    (out.len() == count).then_some(out)
}

fn pick_units<T: Unit>(
    sources: &[&Tensor],
    dims: &[usize],
    picks: impl Iterator<Item = (usize, usize)>,
) -> Result<Tensor, TensorError> {
    let loaded: Vec<Vec<T>> = sources.iter().map(|source| T::load(source.bytes())).collect();
    let count = ir::checked_elements(dims)?;
    let units = select(&loaded, count, picks).ok_or_else(|| out_of_range(dims))?;
    Tensor::new(sources[0].dtype(), dims, T::store(&units))
}

/// A tensor whose elements come from several tensors of one type: `picks` names, for each element in row-major order, the
/// tensor and the index in it. An error if there are too few picks or one points nowhere.
pub fn pick(
    sources: &[&Tensor],
    dims: &[usize],
    picks: impl Iterator<Item = (usize, usize)>,
) -> Result<Tensor, TensorError> {
    let Some(first) = sources.first() else { return Err(out_of_range(dims)) };
    let dtype = first.dtype();
    if let Some(other) = sources.iter().find(|source| source.dtype() != dtype) {
        return Err(TensorError::Kind(other.dtype()));
    }
    let count = ir::checked_elements(dims)?;
    if let Data::Strings(_) = first.data() {
        let all: Vec<_> = sources.iter().filter_map(|s| array::to_strings(s)).map(<[_]>::to_vec).collect();
        let strings = select(&all, count, picks).ok_or_else(|| out_of_range(dims))?;
        return Tensor::strings(dims, strings);
    }
    match dtype.bits() {
        bits @ 1..8 => {
            let codes = |s: &&Tensor| number::unpack(s.bytes(), bits, s.elements());
            let all: Vec<Vec<u8>> = sources.iter().map(codes).collect();
            let codes = select(&all, count, picks).ok_or_else(|| out_of_range(dims))?;
            Tensor::new(dtype, dims, number::pack(&codes, bits))
        }
        8 => pick_units::<[u8; 1]>(sources, dims, picks),
        16 => pick_units::<[u8; 2]>(sources, dims, picks),
        32 => pick_units::<[u8; 4]>(sources, dims, picks),
        64 => pick_units::<[u8; 8]>(sources, dims, picks),
        128 => pick_units::<[u8; 16]>(sources, dims, picks),
        _ => Err(TensorError::Kind(dtype)),
    }
}

/// A tensor whose elements come from one tensor: `picks` gives the index for each element in row-major order.
pub fn take(
    source: &Tensor,
    dims: &[usize],
    picks: impl Iterator<Item = usize>,
) -> Result<Tensor, TensorError> {
    pick(&[source], dims, picks.map(|at| (0, at)))
}

/// Blocks of `block` neighbouring elements, in the given order: a copy of runs where [`take`] would go one by one.
pub fn take_blocks(
    source: &Tensor,
    dims: &[usize],
    block: usize,
    starts: impl Iterator<Item = usize>,
) -> Result<Tensor, TensorError> {
    if ir::checked_elements(dims)? == 0 {
        return take(source, dims, iter::empty());
    }
    let width = source.dtype().bits() / 8;
    let whole_bytes = source.dtype().bits().is_multiple_of(8) && width > 0;
    if !whole_bytes || block <= 1 {
        return take(source, dims, starts.flat_map(|start| start..start.saturating_add(block)));
    }
    let needed = ir::checked_elements(dims)?.checked_mul(width).ok_or_else(|| out_of_range(dims))?;
    let mut out = Vec::with_capacity(needed);
    for start in starts {
        let range = start.checked_mul(width).zip(start.saturating_add(block).checked_mul(width));
        let run = range.and_then(|(from, to)| source.bytes().get(from..to));
        out.extend_from_slice(run.ok_or_else(|| out_of_range(dims))?);
        if out.len() > needed {
            return Err(out_of_range(dims));
        }
    }
    Tensor::new(source.dtype(), dims, out)
}

/// Tensors of one type woven together: `rows` times, `runs[i]` elements of each source `i` in turn.
pub fn weave(
    sources: &[&Tensor],
    dims: &[usize],
    rows: usize,
    runs: &[usize],
) -> Result<Tensor, TensorError> {
    let Some(first) = sources.first() else { return Err(out_of_range(dims)) };
    let dtype = first.dtype();
    let width = dtype.bits() / 8;
    let elements = ir::checked_elements(dims)?;
    if dtype.bits() % 8 != 0 || width == 0 || elements == 0 {
        let picks = (0..rows).flat_map(|row| {
            let one = move |(source, &run): (usize, &usize)| {
                (row * run..(row + 1) * run).map(move |at| (source, at))
            };
            runs.iter().enumerate().flat_map(one)
        });
        return pick(sources, dims, picks);
    }
    let mut out = Vec::with_capacity(elements.checked_mul(width).ok_or_else(|| out_of_range(dims))?);
    for row in 0..rows {
        for (source, &run) in sources.iter().zip(runs) {
            let run = run.checked_mul(width).ok_or_else(|| out_of_range(dims))?;
            let bytes = source.bytes().get(row * run..(row + 1) * run).filter(|_| source.dtype() == dtype);
            out.extend_from_slice(bytes.ok_or_else(|| out_of_range(dims))?);
        }
    }
    Tensor::new(dtype, dims, out)
}

/// The indices of the elements of a strided view of sizes `dims`, in row-major order: element `i` stands at
/// `offset + sum(i[k] * strides[k])`. The caller makes sure that every index lies in the tensor.
pub fn strided(dims: &[usize], offset: isize, strides: &[isize]) -> impl Iterator<Item = usize> + use<> {
    let dims = dims.to_vec();
    let strides = strides.to_vec();
    let mut index = vec![0usize; dims.len()];
    let mut next = (!dims.contains(&0)).then_some(offset);
    iter::from_fn(move || {
        let current = next?;
        let mut position = current;
        let mut axis = dims.len();
        next = loop {
            let Some(inner) = axis.checked_sub(1) else { break None };
            axis = inner;
            index[axis] += 1;
            position += strides[axis];
            if index[axis] < dims[axis] {
                break Some(position);
            }
            position -= strides[axis] * dims[axis] as isize;
            index[axis] = 0;
        };
        usize::try_from(current).ok()
    })
}

/// A strided view as a tensor of its own; copies runs where the innermost axes are contiguous.
pub fn take_strided(
    source: &Tensor,
    dims: &[usize],
    offset: isize,
    strides: &[isize],
) -> Result<Tensor, TensorError> {
    let mut block = 1usize;
    let mut outer = dims.len();
    while let Some(axis) = outer.checked_sub(1) {
        if dims[axis] != 1 && strides[axis] != block as isize {
            break;
        }
        block = block.checked_mul(dims[axis]).ok_or_else(|| out_of_range(dims))?;
        outer = axis;
    }
    take_blocks(source, dims, block, strided(&dims[..outer], offset, &strides[..outer]))
}

#[cfg(test)]
mod tests {
    use ir::DType;

    use super::*;

    #[test]
    fn every_width_moves() {
        for &dtype in DType::ALL.iter().filter(|&&dtype| dtype != DType::String) {
            let codes: Vec<u8> = (0..dtype.storage_bytes(6).unwrap() as u8).collect();
            let source = Tensor::new(dtype, [2usize, 3].as_slice(), codes).unwrap();
            let turned = take_strided(&source, &[3, 2], 0, &[1, 3]).unwrap();
            let back = take_strided(&turned, &[2, 3], 0, &[1, 2]).unwrap();
            assert_eq!(back.dims(), source.dims());
            assert_eq!(back.bytes().len(), source.bytes().len());
            let same = take(&source, &[2, 3], 0..6).unwrap();
            assert_eq!(back.bytes(), same.bytes(), "{dtype}");
            assert!(take(&source, &[1], iter::once(6)).is_err());
        }
    }

    #[test]
    fn reversed_views() {
        let source = Tensor::from_slice(&[4], &[1i32, 2, 3, 4]).unwrap();
        let reversed = take_strided(&source, &[4], 3, &[-1]).unwrap();
        assert_eq!(reversed.to_vec::<i32>().unwrap(), [4, 3, 2, 1]);
        let none = take_strided(&source, &[0, 4], 0, &[4, 1]).unwrap();
        assert_eq!(none.elements(), 0);
    }
}
