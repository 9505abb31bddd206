//! `onnxq.Evaluate`: an operator that tract lacks or does not run right, run by its definition in [`ops`].
//!
//! The definition travels through tract's own model format: as the bytes of a model that holds nothing but the operator.
//! Omitted inputs and outputs leave no gap here; the definition knows which slots there are.

use ir::{Graph, GraphId, Model, Op as IrOp, OpId, OpKind, Place};
use ops::eval::Budget;
use ops::{EvalCx, InferCx, Known, Value};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::EvalOp;
use tract_onnx::tract_hir::infer::InferenceOp;
use tract_onnx::tract_hir::internal::*;

use super::convert::{datum_type, dtype, from_tract, to_tract, without_dims};

/// Bytes that one operator may take for its outputs.
const MOST_BYTES: usize = 16 << 30;

/// Operators that bodies inside the operator may run; it has none.
const MOST_STEPS: u64 = 1;

/// What the operator is.
#[derive(Debug)]
struct Definition {
    op: IrOp,
    opset: i64,
    /// Input slots that are given.
    inputs: Vec<bool>,
    /// Output slots that are wanted.
    outputs: Vec<bool>,
}

/// The operator inside tract.
#[derive(Clone, Debug)]
pub(super) struct Evaluate(Arc<Definition>);

// Two operators are the same only if they are one: tract may merge clones, never different nodes.
impl PartialEq for Evaluate {
    fn eq(&self, other: &Evaluate) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Evaluate {}

/// Replaces operators by their definitions.
pub(super) fn replace(model: &mut Model, wanted: &[(GraphId, OpId)]) -> Result<(), String> {
    let failed = |error: ir::GraphError| error.to_string();
    for &(id, op) in wanted {
        let bytes = encode(model, id, op)?;
        let graph = model.graph_mut(id);
        let inputs: Vec<_> = graph.op_inputs(op).into_iter().filter(Option::is_some).collect();
        let outputs = graph.op_outputs(op);
        for at in 0..outputs.len() {
            graph.set_op_output(op, at, None).map_err(failed)?;
        }
        let outputs: Vec<_> = outputs.into_iter().filter(Option::is_some).collect();
        let name = graph.op(op).name.clone();
        let new = IrOp::of(OpKind::new("onnxq", "Evaluate"))
            .named(&name)
            .with("definition", ir::AttrValue::String(bytes.into()));
        graph.add_op(new, &inputs, &outputs, Place::Near(op)).map_err(failed)?;
        graph.remove_op(op);
    }
    if !wanted.is_empty() {
        model.raise_opset("onnxq", 1);
        model.settle();
    }
    Ok(())
}

fn encode(model: &Model, id: GraphId, op: OpId) -> Result<Vec<u8>, String> {
    let failed = |error: ir::GraphError| error.to_string();
    let graph = model.graph(id);
    let held = graph.op(op).clone();
    let domain = held.kind.domain().to_string();
    let opsets = model.opsets_of(id);
    let mut own = Graph::new("definition");
    let mut inputs = Vec::new();
    for (at, input) in graph.op_inputs(op).iter().enumerate() {
        inputs.push(match input {
            Some(_) => Some(own.add_input(&format!("i{at}"), None).map_err(failed)?),
            None => None,
        });
    }
    let mut outputs = Vec::new();
    for (at, output) in graph.op_outputs(op).iter().enumerate() {
        outputs.push(match output {
            Some(_) => Some(own.add_computed(&format!("o{at}"), None).map_err(failed)?),
            None => None,
        });
    }
    own.add_op(held, &inputs, &outputs, Place::End).map_err(failed)?;
    outputs.iter().flatten().for_each(|&output| own.add_output(output));
    let mut whole = Model::new(model.ir_version, ir::version(opsets, "").unwrap_or(1), own);
    if !domain.is_empty() {
        whole.raise_opset(&domain, ir::version(opsets, &domain).unwrap_or(1));
    }
    proto::to_bytes(&whole).map_err(|error| error.to_string())
}

/// Builds the operator from its attribute.
pub(super) fn build(
    _cx: &tract_onnx::model::ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let attr = node.attribute.iter().find(|attr| attr.name == "definition");
    let bytes = attr.map(|attr| attr.s.clone()).context("an Evaluate without definition")?;
    let model = proto::read_bytes(bytes.into(), None).map_err(|error| format_err!("{error}"))?.model;
    let main = model.main();
    let id = *main.ops().first().context("an empty definition")?;
    let op = main.op(id).clone();
    let opset = model.opset(op.kind.domain()).unwrap_or(1);
    let given = |slots: ir::Slots| slots.iter().map(Option::is_some).collect();
    let (inputs, outputs) = (given(main.op_inputs(id)), given(main.op_outputs(id)));
    Ok((expand(Evaluate(Arc::new(Definition { op, opset, inputs, outputs }))), vec![]))
}

impl Definition {
    /// Things for the given slots, with gaps where the operator has them.
    fn placed<T>(&self, mut things: impl Iterator<Item = T>) -> Vec<Option<T>> {
        self.inputs.iter().map(|&given| if given { things.next() } else { None }).collect()
    }

    /// The wanted ones of the outputs.
    fn wanted<T>(&self, outputs: Vec<T>) -> TractResult<TVec<T>> {
        let count = self.outputs.iter().filter(|wanted| **wanted).count();
        let kept: TVec<T> =
            outputs.into_iter().zip(&self.outputs).filter(|(_, wanted)| **wanted).map(|(o, _)| o).collect();
        ensure!(kept.len() == count, "{} gives fewer outputs than are read", self.op);
        Ok(kept)
    }

    fn infer(&self, inputs: &[&TypedFact]) -> TractResult<Vec<Known>> {
        let known = inputs.iter().map(|fact| {
            if let Some(constant) = &fact.konst
                && let Some(tensor) =
                    from_tract(&without_dims(&constant.clone().into_tvalue(), &SymbolValues::default()))
            {
                return Known::of_constant(tensor);
            }
            let dims = fact.shape.iter().map(|dim| match dim.to_usize() {
                Ok(size) => ir::Dim::from(size),
                Err(_) => ir::Dim::symbol(&dim.to_string()),
            });
            let plain =
                if fact.datum_type == TDim::datum_type() { i64::datum_type() } else { fact.datum_type };
            Known::tensor(dtype(plain), Some(dims.collect()))
        });
        let known: Vec<Known> = known.collect();
        let known = self.placed(known.iter());
        let rule = ops::rule(&self.op.kind, Some(self.opset)).map_err(|error| format_err!("{error}"))?;
        let mut cx = InferCx::new(&self.op, self.opset, &known, self.outputs.len());
        rule.infer(&mut cx).map_err(|error| format_err!("{error}"))?;
        Ok(cx.into_outputs())
    }
}

impl Expansion for Evaluate {
    fn name(&self) -> StaticName {
        "Evaluate".into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.0.outputs.iter().filter(|wanted| **wanted).count())
    }

    /// Nothing is known before the types are: [`TypedOp::output_facts`] says it all.
    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        _s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        _outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, self.0.inputs.iter().filter(|given| **given).count())
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let facts: Vec<TypedFact> =
            inputs.iter().map(|&input| model.outlet_fact(input).cloned()).collect::<TractResult<_>>()?;
        let facts: Vec<&TypedFact> = facts.iter().collect();
        let known = self.0.wanted(self.0.infer(&facts)?)?;
        let mut outputs = tvec!();
        for known in known {
            let datum = known.dtype().and_then(datum_type);
            let datum = datum.with_context(|| format!("the type of {} is not known", self.0.op))?;
            let dims = known.dims().with_context(|| format!("the rank of {} is not known", self.0.op))?;
            let dims = dims.iter().map(|dim| match dim {
                ir::Dim::Known(size) => size.to_dim(),
                // A name that is one of tract's own, or a size that only the data decide.
                ir::Dim::Symbol(name) if model.symbols.get(name).is_some() => {
                    model.symbols.sym(name).to_dim()
                }
                _ => model.symbols.new_with_prefix("evaluated_").to_dim(),
            });
            outputs.push(datum.fact(dims.collect::<TVec<TDim>>()));
        }
        model.wire_node(prefix, Evaluated { definition: self.0.clone(), outputs }, inputs)
    }
}

/// The typed operator, with the facts that were found out when it was wired: a symbol for an open size must stay the same.
#[derive(Clone, Debug, PartialEq)]
struct Evaluated {
    definition: Arc<Definition>,
    outputs: TVec<TypedFact>,
}

impl PartialEq for Definition {
    fn eq(&self, other: &Definition) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Evaluated {}

impl Op for Evaluated {
    fn name(&self) -> StaticName {
        "Evaluate".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Evaluated {
    fn eval(&self, cx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let own = &self.definition;
        let plain = |value: &TValue| from_tract(&without_dims(value, cx.symbols)).map(Value::Tensor);
        let tensors = inputs.iter().map(plain);
        let tensors: Option<Vec<Value>> = tensors.collect();
        let tensors = tensors.with_context(|| format!("{} reads an element type that onnx lacks", own.op))?;
        let values = own.placed(tensors.into_iter());
        let rule = ops::rule(&own.op.kind, Some(own.opset)).map_err(|error| format_err!("{error}"))?;
        let budget = Budget::new(MOST_BYTES, MOST_STEPS);
        let cx = EvalCx::new(&own.op, own.opset, &values, own.outputs.len(), &budget);
        let outputs = rule.eval(&cx).map_err(|error| format_err!("{error}"))?;
        let mut found = tvec!();
        for output in own.wanted(outputs)? {
            let tensor = match &output {
                Value::Tensor(tensor) => to_tract(tensor),
                _ => None,
            };
            found.push(tensor.with_context(|| format!("{} gives no tensor", own.op))?.into_tvalue());
        }
        Ok(found)
    }

    op_out_of_plan!();
}

impl TypedOp for Evaluated {
    as_op!();

    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(self.outputs.clone())
    }
}
