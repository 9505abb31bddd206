//! What a rule sees while it infers one operator.

use std::borrow::Cow;
use std::cell::Cell;

use ir::{DType, Dim, GraphId, Op, Shape, Tensor, Type};
use smallvec::SmallVec;

use crate::attrs::Attributes;
use crate::error::{OpError, Result};
use crate::infer::{Bodies, CONTENTS_LIMIT, Known, shape};

/// One operator, what is known about its inputs, and room for what its rule finds out about its outputs.
pub struct InferCx<'a> {
    pub(crate) op: &'a Op,
    pub(crate) opset: i64,
    pub(crate) inputs: SmallVec<[Option<&'a Known>; 4]>,
    pub(crate) outputs: Vec<Known>,
    /// Prefix of the names that [`InferCx::fresh`] gives: unique to the operator.
    pub(crate) unique: &'a str,
    /// A name with that prefix was given.
    pub(crate) named: Cell<bool>,
    pub(crate) bodies: Option<&'a mut dyn Bodies>,
}

impl<'a> InferCx<'a> {
    /// A context of its own, for an operator outside a model: inputs as given, `outputs` slots.
    pub fn new(op: &'a Op, opset: i64, inputs: &[Option<&'a Known>], outputs: usize) -> InferCx<'a> {
        let (inputs, outputs) = (inputs.iter().copied().collect(), vec![Known::default(); outputs]);
        InferCx { op, opset, inputs, outputs, unique: "unknown", named: Cell::new(false), bodies: None }
    }

    /// What was found out about the outputs.
    pub fn into_outputs(self) -> Vec<Known> {
        self.outputs
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

    // ---- inputs ------------------------------------------------------------------------------------------------

    /// Number of input slots, gaps included.
    pub fn input_count(&self) -> usize {
        self.inputs.len()
    }

    /// Input `at` is there (an optional one may be omitted).
    pub fn has(&self, at: usize) -> bool {
        self.input(at).is_some()
    }

    /// What is known about input `at`; none if it is omitted.
    pub fn input(&self, at: usize) -> Option<&'a Known> {
        self.inputs.get(at).copied().flatten()
    }

    /// The type of input `at`.
    pub fn ty(&self, at: usize) -> Option<&'a Type> {
        self.input(at)?.ty.as_ref()
    }

    /// Element type of input `at`.
    pub fn dtype(&self, at: usize) -> Option<DType> {
        self.input(at)?.dtype()
    }

    /// Sizes of input `at`; none if its rank is not known.
    pub fn dims(&self, at: usize) -> Option<&'a [Dim]> {
        self.input(at)?.dims()
    }

    /// Number of dimensions of input `at`.
    pub fn rank(&self, at: usize) -> Option<usize> {
        Some(self.dims(at)?.len())
    }

    /// The constant that input `at` holds in every run.
    pub fn constant(&self, at: usize) -> Option<&'a Tensor> {
        self.input(at)?.constant.as_ref()
    }

    /// The elements of the small integer tensor at input `at`, each as far as it is known.
    pub fn contents(&self, at: usize) -> Option<Cow<'a, [Dim]>> {
        self.input(at)?.contents()
    }

    /// The elements of the small integer tensor at input `at`, if all of them are numbers.
    pub fn ints(&self, at: usize) -> Option<Vec<i64>> {
        self.input(at)?.ints()
    }

    // ---- outputs -----------------------------------------------------------------------------------------------

    /// Number of output slots, gaps included.
    pub fn output_count(&self) -> usize {
        self.outputs.len()
    }

    /// Sets the type of output `at` to a tensor; what is not known is none. Slots that the operator does not have are
    /// ignored.
    pub fn set(&mut self, at: usize, dtype: Option<DType>, dims: Option<Vec<Dim>>) {
        self.set_known(at, Known::tensor(dtype, dims));
    }

    /// Sets the type of output `at`.
    pub fn set_type(&mut self, at: usize, ty: Option<Type>) {
        self.set_known(at, Known { ty, ..Known::default() });
    }

    /// Sets everything about output `at`.
    pub fn set_known(&mut self, at: usize, known: Known) {
        if let Some(output) = self.outputs.get_mut(at) {
            *output = known;
        }
    }

    /// Adds the contents of output `at`, whose type was set before: one entry for each element, row-major. Ignored where
    /// the shape is not known, too large, or of another size. What the element type does not hold exactly is forgotten.
    pub fn set_contents(&mut self, at: usize, mut contents: Vec<Dim>) {
        let Some(output) = self.outputs.get_mut(at) else { return };
        contents.iter_mut().filter(|dim| !holds(output.dtype(), dim)).for_each(|dim| *dim = Dim::Unknown);
        let elements = output.ty.as_ref().and_then(|ty| ty.shape()?.elements());
        let useful = contents.iter().any(|dim| *dim != Dim::Unknown);
        if elements == Some(contents.len()) && contents.len() <= CONTENTS_LIMIT && useful {
            output.inside.elements = Some(contents);
        }
    }

    /// Contents of output `at`, an element-by-element function of inputs 0 to `count` under broadcasting. The output's type
    /// was set before.
    pub fn combine_contents(&mut self, at: usize, count: usize, f: impl Fn(&Dim, &Dim) -> Dim) {
        let Some(known) = self.outputs.get(at) else { return };
        let Some(dims) = known.ty.as_ref().and_then(|ty| ty.shape()?.known()) else { return };
        let mut result: Option<Vec<Dim>> = None;
        for input in 0..count {
            let (Some(contents), Some(known)) = (self.contents(input), self.input(input)) else { return };
            let Some(from) = known.ty.as_ref().and_then(|ty| ty.shape()?.known()) else { return };
            let Some(spread) = shape::spread(&contents, &from, &dims) else { return };
            result = Some(match result {
                None => spread,
                Some(sofar) => sofar.iter().zip(&spread).map(|(a, b)| f(a, b)).collect(),
            });
        }
        if let Some(contents) = result {
            self.set_contents(at, contents);
        }
    }

    /// Sets output `at` to the type of input `from`.
    pub fn copy_type(&mut self, at: usize, from: usize) {
        self.set_type(at, self.ty(from).cloned());
    }

    /// A size that depends on data: a new symbol, the same in every inference of the same model.
    pub fn fresh(&self, what: &str) -> Dim {
        self.named.set(true);
        Dim::Symbol(format!("{}_{what}", self.unique).into())
    }

    // ---- shapes ------------------------------------------------------------------------------------------------

    /// Numpy broadcasting of the shapes of some inputs; none if a rank is not known.
    pub fn broadcast(&self, inputs: impl IntoIterator<Item = usize>) -> Result<Option<Vec<Dim>>> {
        let mut result: Option<Vec<Dim>> = Some(Vec::new());
        for at in inputs {
            let (Some(sofar), Some(dims)) = (&result, self.dims(at)) else {
                result = None;
                continue;
            };
            let joined = shape::broadcast(sofar, dims);
            result = Some(joined.ok_or_else(|| {
                self.wrong_input(at, &format!("a shape that broadcasts to {}", shape::show(sofar)))
            })?);
        }
        Ok(result)
    }

    /// An axis that may be negative, as an index below `rank`.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize> {
        shape::axis(axis, rank)
            .ok_or_else(|| self.invalid(format!("axis {axis} is not in a tensor of rank {rank}")))
    }

    /// The type that a body declares for one of its inputs.
    pub fn declared_input(&self, graph: GraphId, input: usize) -> Option<Type> {
        self.bodies.as_ref()?.declared_input(graph, input)
    }

    /// Infers a body graph. `inputs` are what is known about its inputs.
    pub fn infer_graph(&mut self, graph: GraphId, inputs: Vec<Known>) -> Result<Vec<Known>> {
        match &mut self.bodies {
            Some(bodies) => bodies.infer(graph, inputs),
            None => Err(self.unsupported("it has a graph, which is outside a model here")),
        }
    }

    /// Infers a body graph that no run reaches, for the record: what is wrong in it is not listed.
    pub fn infer_unreached(&mut self, graph: GraphId) {
        if let Some(bodies) = &mut self.bodies {
            // Its outputs go nowhere.
            let _ = bodies.infer_unreached(graph, Vec::new());
        }
    }

    // ---- errors ------------------------------------------------------------------------------------------------

    /// Input `at` must be there.
    pub fn need(&self, at: usize) -> Result<&'a Known> {
        self.input(at).ok_or_else(|| self.wrong_input(at, "a value"))
    }

    /// Input `at`, where it is known to be a tensor of known rank, must have rank `rank`.
    pub fn need_rank(&self, at: usize, rank: usize) -> Result<Option<&'a [Dim]>> {
        match self.dims(at) {
            Some(dims) if dims.len() != rank => {
                Err(self.wrong_input(at, &format!("a tensor of rank {rank}")))
            }
            dims => Ok(dims),
        }
    }

    /// Input `at`, where it is there and its rank known, must be a vector or, as runtimes take it, a single number.
    pub fn need_axes(&self, at: usize) -> Result<()> {
        match self.rank(at) {
            Some(2..) => Err(self.wrong_input(at, "a vector of axes")),
            _ => Ok(()),
        }
    }

    /// Inputs of one element type: the one that any of them is known to have.
    pub fn same_dtype(&self, inputs: impl IntoIterator<Item = usize>) -> Result<Option<DType>> {
        let mut found = None;
        for at in inputs {
            match (found, self.dtype(at)) {
                (Some(first), Some(other)) if first != other => {
                    return Err(self.wrong_input(at, &format!("element type {first}")));
                }
                (None, dtype) => found = dtype,
                _ => {}
            }
        }
        Ok(found)
    }

    /// An error: input `at` is not what is expected.
    pub fn wrong_input(&self, at: usize, expected: &str) -> OpError {
        let found = match self.input(at) {
            None => "nothing".to_string(),
            Some(known) => known.ty.as_ref().map_or("an unknown type".to_string(), shape::show_type),
        };
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

    /// The type of a dense tensor of known shape, for rules that build types inside others.
    pub fn tensor_type(dtype: DType, dims: Vec<Dim>) -> Type {
        Type::tensor(dtype, Some(Shape::new(dims)))
    }
}

/// Whether an element type holds a number exactly. Sizes that are not numbers are taken to fit the wide types, as they do
/// in every model that runs; in narrow ones they may wrap.
fn holds(dtype: Option<DType>, dim: &Dim) -> bool {
    match (dtype, dim) {
        (None, _) | (_, Dim::Unknown) => false,
        (Some(DType::I64 | DType::I32 | DType::F32 | DType::F64), Dim::Symbol(_)) => true,
        (_, Dim::Symbol(_)) => false,
        (Some(DType::F64), Dim::Known(v)) => v.unsigned_abs() <= 1 << 53,
        (Some(DType::F32), Dim::Known(v)) => v.unsigned_abs() <= 1 << 24,
        (Some(DType::F16), Dim::Known(v)) => v.unsigned_abs() <= 1 << 11,
        (Some(DType::BF16), Dim::Known(v)) => v.unsigned_abs() <= 1 << 8,
        (Some(dtype), Dim::Known(v)) => match dtype.class() {
            ir::Class::Bool => (0..=1).contains(v),
            ir::Class::Unsigned if dtype.bits() < 64 => *v >= 0 && v >> dtype.bits() == 0,
            ir::Class::Unsigned => *v >= 0,
            ir::Class::Signed if dtype.bits() < 64 => matches!(v >> (dtype.bits() - 1), 0 | -1),
            ir::Class::Signed => true,
            _ => false,
        },
    }
}
