//! What a rule sees while it evaluates one operator.

use std::cell::Cell;

use ir::{DType, Element, GraphId, Op, Tensor, TensorError, checked_elements};
use ndarray::ArrayD;

use crate::array;
use crate::attrs::Attributes;
use crate::error::{OpError, Result};
use crate::eval::Host;
use crate::value::Value;

/// The outputs of an operator in slot order. More than are wanted do no harm.
pub type Outputs = Vec<Value>;

/// Memory and steps that an evaluation may use.
#[derive(Debug)]
pub struct Budget {
    bytes: Cell<usize>,
    steps: Cell<u64>,
}

impl Budget {
    /// At most `bytes` held at any time and `steps` operators run.
    pub fn new(bytes: usize, steps: u64) -> Budget {
        Budget { bytes: Cell::new(bytes), steps: Cell::new(steps) }
    }

    /// Bytes left.
    pub fn left(&self) -> usize {
        self.bytes.get()
    }

    pub(crate) fn take(&self, bytes: usize) {
        self.bytes.set(self.bytes.get().saturating_sub(bytes));
    }

    pub(crate) fn give(&self, bytes: usize) {
        self.bytes.set(self.bytes.get().saturating_add(bytes));
    }

    /// Counts one operator; whether it may run.
    pub(crate) fn step(&self) -> bool {
        let left = self.steps.get();
        self.steps.set(left.saturating_sub(1));
        left > 0
    }
}

/// One operator, its inputs, and the budget for its outputs.
pub struct EvalCx<'a> {
    op: &'a Op,
    opset: i64,
    inputs: &'a [Option<Value>],
    wanted: usize,
    budget: &'a Budget,
    pub(crate) host: Option<&'a dyn Host>,
}

impl<'a> EvalCx<'a> {
    /// A context outside a model. `wanted` is the number of output slots.
    pub fn new(
        op: &'a Op,
        opset: i64,
        inputs: &'a [Option<Value>],
        wanted: usize,
        budget: &'a Budget,
    ) -> EvalCx<'a> {
        EvalCx { op, opset, inputs, wanted, budget, host: None }
    }

    /// The same under another version of the operator set.
    pub(crate) fn under(&self, opset: i64) -> EvalCx<'a> {
        EvalCx { opset, ..*self }
    }

    /// The operator.
    pub fn op(&self) -> &'a Op {
        self.op
    }

    /// Version of the operator's operator set.
    pub fn opset(&self) -> i64 {
        self.opset
    }

    /// The attributes.
    pub fn attrs(&self) -> Attributes<'a> {
        Attributes(self.op)
    }

    /// Number of output slots.
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    // ---- inputs ------------------------------------------------------------------------------------------------

    /// Number of input slots, gaps included.
    pub fn input_count(&self) -> usize {
        self.inputs.len()
    }

    /// Input `at` is there.
    pub fn has(&self, at: usize) -> bool {
        self.opt_value(at).is_some()
    }

    /// Input `at`; none if omitted.
    pub fn opt_value(&self, at: usize) -> Option<&'a Value> {
        self.inputs.get(at)?.as_ref()
    }

    /// Input `at`.
    pub fn value(&self, at: usize) -> Result<&'a Value> {
        self.opt_value(at).ok_or_else(|| self.wrong_input(at, "a value"))
    }

    /// The tensor at input `at`; none if omitted.
    pub fn opt_tensor(&self, at: usize) -> Result<Option<&'a Tensor>> {
        match self.opt_value(at) {
            None => Ok(None),
            Some(Value::Tensor(tensor)) => Ok(Some(tensor)),
            Some(_) => Err(self.wrong_input(at, "a tensor")),
        }
    }

    /// The tensor at input `at`.
    pub fn tensor(&self, at: usize) -> Result<&'a Tensor> {
        self.opt_tensor(at)?.ok_or_else(|| self.wrong_input(at, "a tensor"))
    }

    /// The tensor at input `at` as an array of a native type.
    pub fn array<T: Element>(&self, at: usize) -> Result<ArrayD<T>> {
        let tensor = self.tensor(at)?;
        array::array(tensor).map_err(|_| self.wrong_input(at, &format!("elements of type {}", T::DTYPE)))
    }

    /// The elements of input `at` as a native type.
    pub fn vec<T: Element>(&self, at: usize) -> Result<Vec<T>> {
        self.tensor(at)?.to_vec().map_err(|_| self.wrong_input(at, &format!("elements of type {}", T::DTYPE)))
    }

    /// The elements of the integer tensor at input `at`.
    pub fn ints(&self, at: usize) -> Result<Vec<i64>> {
        array::to_i64s(self.tensor(at)?).ok_or_else(|| self.wrong_input(at, "integers"))
    }

    /// The elements of the integer tensor at input `at`; none if omitted.
    pub fn opt_ints(&self, at: usize) -> Result<Option<Vec<i64>>> {
        if self.has(at) { self.ints(at).map(Some) } else { Ok(None) }
    }

    /// The axes at input `at`; none if omitted. Runtimes take a single number too.
    pub fn opt_axes(&self, at: usize) -> Result<Option<Vec<i64>>> {
        match self.opt_tensor(at)? {
            Some(axes) if axes.rank() > 1 => Err(self.wrong_input(at, "a vector of axes")),
            _ => self.opt_ints(at),
        }
    }

    /// The elements of the tensor of numbers at input `at`, as f32.
    pub fn f32s(&self, at: usize) -> Result<Vec<f32>> {
        array::to_f32s(self.tensor(at)?).ok_or_else(|| self.wrong_input(at, "numbers"))
    }

    /// The elements of the tensor of numbers at input `at`, as f64.
    pub fn f64s(&self, at: usize) -> Result<Vec<f64>> {
        array::to_f64s(self.tensor(at)?).ok_or_else(|| self.wrong_input(at, "numbers"))
    }

    /// The tensors at these inputs must have one element type; omitted ones have none.
    pub fn same_dtype(&self, inputs: impl IntoIterator<Item = usize>) -> Result<()> {
        let mut first = None;
        for at in inputs {
            let Some(found) = self.opt_value(at).and_then(Value::as_tensor).map(Tensor::dtype) else {
                continue;
            };
            let expected = *first.get_or_insert(found);
            if found != expected {
                return Err(self.wrong_input(at, &format!("element type {expected}")));
            }
        }
        Ok(())
    }

    /// The tensor at input `at`, which must have this rank.
    pub fn tensor_of_rank(&self, at: usize, rank: usize) -> Result<&'a Tensor> {
        let tensor = self.tensor(at)?;
        match tensor.rank() == rank {
            true => Ok(tensor),
            false => Err(self.wrong_input(at, &format!("a tensor of rank {rank}"))),
        }
    }

    /// An axis that may be negative, as an index below `rank`.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize> {
        let found = crate::infer::shape::axis(axis, rank);
        found.ok_or_else(|| self.invalid(format!("axis {axis} is not in a tensor of rank {rank}")))
    }

    // ---- outputs -----------------------------------------------------------------------------------------------

    /// Number of elements of a tensor that is going to be made. Checked for overflow and against the budget: call it
    /// before the allocation. Sub-byte types count a byte an element, which is what they take while being computed.
    pub fn reserve(&self, dtype: DType, dims: &[usize]) -> Result<usize> {
        let elements = checked_elements(dims).map_err(|error| self.tensor_error(error))?;
        let size = match dtype.bits() {
            0 => 32,
            bits => bits.div_ceil(8),
        };
        let needed = elements.saturating_mul(size);
        match needed <= self.budget.left() {
            true => Ok(elements),
            false => Err(OpError::Budget { op: self.op.to_string(), needed, left: self.budget.left() }),
        }
    }

    /// The single output: a tensor of a native type, row-major.
    pub fn make<T: Element>(&self, dims: &[usize], elements: &[T]) -> Result<Outputs> {
        self.give(Tensor::from_slice(dims, elements))
    }

    /// The single output: an array of a native type.
    pub fn make_array<T: Element>(&self, array: ArrayD<T>) -> Result<Outputs> {
        self.give(array::tensor(array))
    }

    /// The single output: a tensor that may have failed to be built.
    pub fn give(&self, tensor: std::result::Result<Tensor, TensorError>) -> Result<Outputs> {
        Ok(vec![Value::Tensor(tensor.map_err(|error| self.tensor_error(error))?)])
    }

    /// Checks that `bytes` which a rule has gathered so far fit the budget.
    pub fn hold(&self, bytes: usize) -> Result<()> {
        match bytes <= self.budget.left() {
            true => Ok(()),
            false => {
                Err(OpError::Budget { op: self.op.to_string(), needed: bytes, left: self.budget.left() })
            }
        }
    }

    /// Element type and shape that a body declares for one of its outputs.
    pub fn declared_output(&self, graph: GraphId, output: usize) -> Option<(DType, Vec<ir::Dim>)> {
        self.host?.declared_output(graph, output)
    }

    /// The type that a body declares for one of its inputs.
    pub fn declared_input(&self, graph: GraphId, input: usize) -> Option<ir::Type> {
        self.host?.declared_input(graph, input)
    }

    /// Runs a body graph.
    pub fn run(&self, graph: GraphId, inputs: Vec<Value>) -> Result<Vec<Value>> {
        match self.host {
            Some(host) => host
                .run(graph, inputs)
                .map_err(|source| OpError::Body { op: self.op.to_string(), source: Box::new(source) }),
            None => Err(self.unsupported("it has a graph, which is outside a model here")),
        }
    }

    // ---- errors ------------------------------------------------------------------------------------------------

    /// An error: input `at` is not what is expected.
    pub fn wrong_input(&self, at: usize, expected: &str) -> OpError {
        let found = self.opt_value(at).map_or("nothing".to_string(), Value::describe);
        OpError::Input { op: self.op.to_string(), at, expected: expected.to_string(), found }
    }

    /// An error: the operator is wrong.
    pub fn invalid(&self, why: impl Into<String>) -> OpError {
        OpError::Invalid { op: self.op.to_string(), why: why.into() }
    }

    /// A form of the operator that the rule does not handle.
    pub fn unsupported(&self, why: impl Into<String>) -> OpError {
        OpError::Unsupported { op: self.op.to_string(), why: why.into() }
    }

    /// The element type of input `at` is not handled.
    pub fn unsupported_dtype(&self, at: usize) -> OpError {
        let found = self.opt_value(at).map_or("nothing".to_string(), Value::describe);
        self.unsupported(format!("input {at} is {found}"))
    }

    /// A tensor could not be built.
    pub fn tensor_error(&self, source: TensorError) -> OpError {
        OpError::Tensor { op: self.op.to_string(), source }
    }
}
