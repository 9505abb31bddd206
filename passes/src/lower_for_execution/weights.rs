//! Weights that operators hold as codes of few bits become float constants, and the operators their float forms.
//!
//! ```text
//! y = com.microsoft.MatMulNBits <K, N, bits, block_size> (x, codes, scales, zeros, groups, bias)   =>   y = MatMul(x, w) + bias
//! y = com.microsoft.GatherBlockQuantized(codes, indices, scales, zeros)                           =>   y = Gather(w, indices)
//! ```
//!
//! Declines codes that are computed; scales may be a DequantizeLinear of constants.

use ir::{DType, Op, OpId, Tensor, Type, ValueId};
use ops::eval::{Budget, eval_op};
use ops::kernel::blocks::{FP4, NBits, NF4, Zeros, table_blocks};
use ops::{OpName, Value};

use crate::driver::{OrNoMatch, Patch, Ref, Rule, Scope, Skip};
use crate::numbers;

/// Memory that one table may take while it is made: far above any vocabulary, far below an overflow.
const MOST_BYTES: usize = 1 << 36;

/// Every rule of this file.
pub(super) const RULES: &[&dyn Rule] = &[&Product, &Table];

fn floats(scope: Scope<'_>, at: OpId, slot: usize, what: &str) -> Result<Vec<f32>, Skip> {
    let computed = || scope.because(at, format!("its {what} are computed"));
    let value = scope.input(at, slot).ok_or_else(computed)?;
    let folded;
    let tensor = match scope.constant(value) {
        Some(tensor) => tensor,
        None => {
            folded = dequantized(scope, value).ok_or_else(computed)?;
            &folded
        }
    };
    ops::array::to_f32s(tensor).ok_or_else(|| scope.because(at, format!("its {what} are no numbers")))
}

/// Numbers that are stored as integers with constant steps: scales of eight bits, also if rows share a step.
fn dequantized(scope: Scope<'_>, value: ValueId) -> Option<Tensor> {
    let reshape = scope.producer_is(value, "Reshape");
    let op = reshape.or_else(|| scope.producer_is(value, "DequantizeLinear"))?;
    let mut inputs = Vec::new();
    for input in scope.graph().op_inputs(op) {
        inputs.push(match input {
            Some(input) => Some(Value::Tensor(match scope.constant(input) {
                Some(tensor) => tensor.clone(),
                None => reshape.and_then(|_| dequantized(scope, input))?,
            })),
            None => None,
        });
    }
    let budget = Budget::new(MOST_BYTES, 1);
    match eval_op(scope.model, scope.id, op, &inputs, &|_| None, &budget).ok()?.into_iter().next()? {
        Value::Tensor(tensor) => Some(tensor),
        _ => None,
    }
}

/// MatMulNBits and MatMulBnb4.
struct Product;

impl Rule for Product {
    fn name(&self) -> &'static str {
        "weights"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] =
            &[OpName::of("com.microsoft", "MatMulNBits"), OpName::of("com.microsoft", "MatMulBnb4")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let op = scope.graph().op(at);
        let because = |why: String| scope.because(at, why);
        let size = |name: &str| {
            let found = op.attrs.int(name).and_then(|size| u32::try_from(size).ok()).filter(|&size| size > 0);
            found
                .map(|size| size as usize)
                .ok_or_else(|| because(format!("its {name} is not a positive size")))
        };
        let (k, n, block) = (size("K")?, size("N")?, size("block_size")?);
        n.checked_mul(k)
            .filter(|&count| count <= isize::MAX as usize / 8)
            .ok_or_else(|| because("its weight is too large".into()))?;
        let codes = scope.constant_input(at, 1).ok_or_else(|| because("its codes are computed".into()))?;
        let nbits = op.kind.key().1 == "MatMulNBits";
        // `[rows, columns]` of the stored weight, and whether the product takes its transpose.
        let (weights, transposed) = if nbits {
            (nbits_weights(scope, at, codes, (k, n, block))?, true)
        } else {
            let table = match op.attrs.int("quant_type") {
                Some(0) => &FP4,
                Some(1) => &NF4,
                other => return Err(because(format!("quant_type {other:?}"))),
            };
            let most = floats(scope, at, 2, "scales")?;
            let weights = table_blocks(codes.bytes(), table, &most, n * k, block).map_err(because)?;
            (weights, op.attrs.int("transB").unwrap_or(1) != 0)
        };
        let x = scope.input(at, 0).or_no_match()?;
        let dtype = scope.dtype(x).unwrap_or(DType::F32);
        // The constant is stored as the product reads it, so that no runtime transposes it at every run.
        let (dims, stored): ([usize; 2], Vec<f64>) = match transposed {
            true => {
                let places = (0..k).flat_map(|i| (0..n).map(move |j| j * k + i));
                ([k, n], places.map(|place| f64::from(weights[place])).collect())
            }
            false => ([n, k], weights.iter().map(|&w| f64::from(w)).collect()),
        };
        let weight = numbers::from_floats(dtype, &dims, &stored)
            .ok_or_else(|| because(format!("{dtype} operands")))?;
        let output = scope.output(at, 0).or_no_match()?;
        let mut patch = Patch::instead_of(&[at]);
        let weight = patch.constant("weight", weight);
        let operands = [Some(Ref::Old(x)), Some(weight)];
        match scope.input(at, 5).filter(|_| nbits) {
            None => patch.produce(at, Op::new("MatMul"), &operands, &[Some(output)]),
            Some(bias) => {
                let ty = Type::tensor(dtype, scope.shape(output));
                let product = patch.insert(at, Op::new("MatMul"), &operands, "product", Some(ty));
                patch.produce(at, Op::new("Add"), &[Some(product), Some(bias.into())], &[Some(output)]);
            }
        }
        Ok(patch)
    }
}

fn nbits_weights(
    scope: Scope<'_>,
    at: OpId,
    codes: &Tensor,
    (k, n, block): (usize, usize, usize),
) -> Result<Vec<f32>, Skip> {
    let because = |why: String| scope.because(at, why);
    let bits = match scope.graph().op(at).attrs.int("bits").unwrap_or(4) {
        bits @ (2 | 4 | 8) => bits as usize,
        other => return Err(because(format!("{other} bits"))),
    };
    if !block.is_power_of_two() || block < 16 || codes.dtype() != DType::U8 {
        return Err(because("its blocks have another form".into()));
    }
    let scales = floats(scope, at, 2, "scales")?;
    let stored = match scope.input(at, 3) {
        Some(zeros) => {
            Some(scope.constant(zeros).ok_or_else(|| because("its zero points are computed".into()))?)
        }
        None => None,
    };
    let given = match stored {
        Some(zeros) if zeros.dtype() != DType::U8 => Some(floats(scope, at, 3, "zero points")?),
        _ => None,
    };
    let zeros = match (stored, &given) {
        (_, Some(numbers)) => Zeros::Numbers(numbers),
        (Some(packed), None) => Zeros::Packed(packed.bytes()),
        (None, None) => Zeros::Middle,
    };
    let groups = match scope.input(at, 4) {
        None => None,
        Some(groups) => {
            let groups = scope.constant(groups).and_then(numbers::ints);
            let groups = groups.ok_or_else(|| because("its groups are computed".into()))?;
            Some(groups.iter().map(|&group| usize::try_from(group).unwrap_or(usize::MAX)).collect::<Vec<_>>())
        }
    };
    if groups.is_some() && stored.is_some() {
        return Err(because("groups with zero points, which ONNX Runtime reads in another way".into()));
    }
    NBits { k, n, block, bits, codes: codes.bytes(), scales: &scales, zeros, groups: groups.as_deref() }
        .weights()
        .map_err(because)
}

/// A constant table, or a constant under other sizes: how an embedding shares its codes with a head.
fn table_codes(scope: Scope<'_>, at: OpId) -> Option<Tensor> {
    let value = scope.input(at, 0)?;
    if let Some(tensor) = scope.constant(value) {
        return Some(tensor.clone());
    }
    let reshape = scope.producer_is(value, "Reshape")?;
    let sizes = numbers::ints(scope.constant_input(reshape, 1)?)?;
    let sizes: Option<Vec<usize>> = sizes.into_iter().map(|size| usize::try_from(size).ok()).collect();
    scope.constant_input(reshape, 0)?.reshaped(&sizes?[..]).ok()
}

/// GatherBlockQuantized: the operator itself, asked for every row, gives the table.
struct Table;

impl Rule for Table {
    fn name(&self) -> &'static str {
        "weights"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[OpName::of("com.microsoft", "GatherBlockQuantized")];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let op = scope.graph().op(at);
        let because = |why: &str| scope.because(at, why);
        let (x, output) = (scope.input(at, 1).or_no_match()?, scope.output(at, 0).or_no_match()?);
        let data = table_codes(scope, at).ok_or_else(|| because("its codes are computed"))?;
        let rank = data.rank() as i64;
        let axis = op.attrs.int("gather_axis").unwrap_or(0);
        let axis = if axis < 0 { axis + rank } else { axis };
        let rows = usize::try_from(axis).ok().and_then(|axis| data.dims().get(axis));
        let rows = *rows.ok_or_else(|| because("its axis is out of range"))?;
        let every: Vec<i64> = (0..rows as i64).collect();
        let mut inputs =
            vec![Some(Value::Tensor(data.clone())), Some(Value::Tensor(numbers::vector(&every)))];
        for slot in [2, 3] {
            inputs.push(match scope.input(at, slot) {
                None => None,
                Some(value) => {
                    let tensor = scope.constant(value).ok_or_else(|| because("its scales are computed"))?;
                    Some(Value::Tensor(tensor.clone()))
                }
            });
        }
        let budget = Budget::new(MOST_BYTES, 1);
        let table = eval_op(scope.model, scope.id, at, &inputs, &|_| None, &budget)
            .map_err(|error| because(&error.to_string()))?;
        let Some(Value::Tensor(table)) = table.into_iter().next() else {
            return Err(because("it has no table"));
        };
        let mut patch = Patch::instead_of(&[at]);
        let table = patch.constant("table", table);
        patch.produce(
            at,
            Op::new("Gather").with("axis", axis),
            &[Some(table), Some(x.into())],
            &[Some(output)],
        );
        Ok(patch)
    }
}
