//! Element-by-element functions of two arrays under numpy broadcasting.

/// Where the elements of an operand stand for the elements of a broadcast result: strides by axis of the result, 0 along
/// axes that the operand repeats.
pub fn broadcast_strides(dims: &[usize], result: &[usize]) -> Vec<usize> {
    let mut strides = vec![0; result.len()];
    let gap = result.len().saturating_sub(dims.len());
    let mut step = 1usize;
    for at in (0..dims.len().min(result.len())).rev() {
        if dims[at] != 1 {
            strides[at + gap] = step;
        }
        step = step.saturating_mul(dims[at]);
    }
    strides
}

/// Walks the elements of a result of sizes `dims` in row-major order, one row (last axis) at a time, with the offsets of
/// the row's first element in operands of the given strides.
pub fn for_rows<const N: usize>(
    dims: &[usize],
    strides: [&[usize]; N],
    mut row: impl FnMut(usize, [usize; N]),
) {
    let Some((&length, outer)) = dims.split_last() else {
        return row(1, [0; N]);
    };
    if dims.contains(&0) {
        return;
    }
    let mut index = vec![0usize; outer.len()];
    let mut offsets = [0usize; N];
    loop {
        row(length, offsets);
        let mut axis = outer.len();
        loop {
            let Some(next) = axis.checked_sub(1) else { return };
            axis = next;
            index[axis] += 1;
            for (offset, strides) in offsets.iter_mut().zip(strides) {
                *offset += strides[axis];
            }
            if index[axis] < outer[axis] {
                break;
            }
            for (offset, strides) in offsets.iter_mut().zip(strides) {
                *offset -= strides[axis] * outer[axis];
            }
            index[axis] = 0;
        }
    }
}

/// An operand: elements and sizes.
pub type Operand<'a, T> = (&'a [T], &'a [usize]);

/// `f` of the elements of two operands broadcast to `dims`.
pub fn zip<A: Copy, B: Copy, R>(
    a: Operand<A>,
    b: Operand<B>,
    dims: &[usize],
    mut f: impl FnMut(A, B) -> R,
) -> Vec<R> {
    if a.1 == dims && b.1 == dims {
        return a.0.iter().zip(b.0).map(|(&x, &y)| f(x, y)).collect();
    }
    if let ([y], true) = (b.0, a.1 == dims) {
        return a.0.iter().map(|&x| f(x, *y)).collect();
    }
    let (sa, sb) = (broadcast_strides(a.1, dims), broadcast_strides(b.1, dims));
    let (step_a, step_b) = (sa.last().copied().unwrap_or(0), sb.last().copied().unwrap_or(0));
    let mut out = Vec::with_capacity(dims.iter().product());
    for_rows(dims, [&sa, &sb], |length, [at_a, at_b]| {
        out.extend((0..length).map(|i| f(a.0[at_a + i * step_a], b.0[at_b + i * step_b])));
    });
    out
}

/// For each element of a result of sizes `dims`, the index of the element that it comes from in an operand of sizes
/// `from`.
pub fn sources(from: &[usize], dims: &[usize]) -> Vec<usize> {
    let strides = broadcast_strides(from, dims);
    let step = strides.last().copied().unwrap_or(0);
    let mut out = Vec::new();
    for_rows(dims, [&strides], |length, [at]| out.extend((0..length).map(|i| at + i * step)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_and_walks_like_numpy() {
        let sum = zip((&[1, 2, 3], &[3, 1]), (&[10, 20], &[2]), &[3, 2], |a, b| a + b);
        assert_eq!(sum, [11, 21, 12, 22, 13, 23]);
        assert_eq!(zip((&[5], &[]), (&[7], &[]), &[], |a, b| a * b), [35]);
        assert_eq!(zip((&[], &[0, 3]), (&[1], &[1]), &[0, 3], |a: i32, b: i32| a * b), [0; 0]);
        assert_eq!(sources(&[2, 1, 2], &[2, 2, 2]), [0, 1, 0, 1, 2, 3, 2, 3]);
    }
}
