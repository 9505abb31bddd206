//! Operators in the place of one.

use ir::{AttrValue, Graph, Op, OpId, OpKind, Place, Tensor, ValueId};

/// Puts operators where one stands.
pub(super) struct Build<'a> {
    pub(super) graph: &'a mut Graph,
    /// What is replaced.
    pub(super) old: OpId,
    /// Start of the names of new values.
    pub(super) hint: String,
}

impl<'a> Build<'a> {
    pub(super) fn new(graph: &'a mut Graph, old: OpId) -> Build<'a> {
        let first = graph.output(old, 0).map(|value| graph.value(value).name().to_string());
        let hint = first.unwrap_or_else(|| graph.op(old).name.clone());
        Build { graph, old, hint }
    }

    /// An operator with one output.
    pub(super) fn op(
        &mut self,
        domain: &str,
        name: &str,
        inputs: &[Option<ValueId>],
        attrs: &[(&str, AttrValue)],
    ) -> ValueId {
        let output = self.graph.new_value(&format!("{}_{}", self.hint, name.to_ascii_lowercase()), None);
        // The value's name is unique, and runtimes want the nodes' to be.
        let named = self.graph.value(output).name().to_string();
        let mut op = Op::of(OpKind::new(domain, name)).named(&named);
        attrs.iter().for_each(|(name, value)| op.attrs.set(name, value.clone()));
        self.graph.add_op(op, inputs, &[Some(output)], Place::Near(self.old)).expect("the output is new");
        output
    }

    /// An operator of ONNX's own domain whose inputs are all there.
    pub(super) fn onnx(&mut self, name: &str, inputs: &[ValueId], attrs: &[(&str, AttrValue)]) -> ValueId {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        self.op("", name, &inputs, attrs)
    }

    pub(super) fn constant(&mut self, what: &str, data: Tensor) -> ValueId {
        self.graph.new_constant(&format!("{}_{what}", self.hint), data)
    }

    /// `result` takes the place of the old operator's output, and the old operator goes.
    pub(super) fn finish(self, result: ValueId) {
        let Build { graph, old, .. } = self;
        let (Some(output), Some((last, _))) = (graph.output(old, 0), graph.producer(result)) else { return };
        let inputs = graph.op_inputs(old);
        let name = graph.op(old).name.clone();
        let _ = graph.set_op_output(old, 0, None);
        graph.remove_op(old);
        graph.replace_uses(result, output);
        graph.set_op_output(last, 0, Some(output)).expect("the output was just freed");
        graph.remove_value(result);
        if !name.is_empty() {
            graph.op_mut(last).name = name;
        }
        for input in inputs.into_iter().flatten() {
            remove_unread(graph, input);
        }
    }
}

/// Removes a constant that nothing reads, and a movement of a constant whose result nothing reads.
pub(super) fn remove_unread(graph: &mut Graph, value: ValueId) {
    if !graph.is_live_value(value) || graph.is_used(value) {
        return;
    }
    match graph.producer(value) {
        None => {
            graph.remove_value(value);
        }
        Some((op, _)) if graph.op(op).kind.is("Transpose") => {
            let inputs = graph.op_inputs(op);
            graph.remove_op(op);
            graph.remove_value(value);
            for input in inputs.into_iter().flatten() {
                remove_unread(graph, input);
            }
        }
        Some(_) => {}
    }
}
