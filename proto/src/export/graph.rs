//! Graphs.

use ir::{Graph, GraphId, OpId, Role, Slots, Stray, StrayList, Value, ValueId};
use prost::Message;

use super::Exporter;
use super::types::{pairs, ty};
use crate::error::ProtoError;
use crate::generated as pb;
use crate::spelling::{self, text};

impl Exporter<'_> {
    pub(super) fn graph(&mut self, id: GraphId) -> Result<pb::GraphProto, ProtoError> {
        let graph = self.table(id);
        let spelling = graph.spelling;
        let infos = |values: &[ValueId]| values.iter().map(|&v| info(graph.value(v))).collect();
        let (initializer, sparse_initializer) = self.initializers(graph);
        Ok(pb::GraphProto {
            node: self.nodes(id)?,
            name: text(spelling, spelling::NAME, &graph.name),
            initializer,
            sparse_initializer,
            doc_string: text(spelling, spelling::DOC, &graph.doc),
            input: infos(graph.inputs()),
            output: outputs(graph),
            value_info: self.value_infos(graph),
            quantization_annotation: graph.annotations.iter().map(annotation).collect(),
            metadata_props: pairs(&graph.metadata),
        })
    }

    /// Nodes in schedule order, which is the file's where that is topological.
    pub(super) fn nodes(&mut self, id: GraphId) -> Result<Vec<pb::NodeProto>, ProtoError> {
        let graph = self.table(id);
        let place = || format!("graph {:?}", graph.name);
        let schedule = graph.schedule().map_err(|source| ProtoError::Graph { place: place(), source })?;
        schedule.into_iter().map(|op| self.node(graph, op)).collect()
    }

    fn node(&mut self, graph: &Graph, id: OpId) -> Result<pb::NodeProto, ProtoError> {
        let op = graph.op(id);
        let spelling = op.spelling;
        let names = |slots: Slots| {
            let name =
                |slot: Option<ValueId>| slot.map_or_else(String::new, |v| graph.value(v).name().to_string());
            slots.into_iter().map(name).collect()
        };
        let opaque = match &op.opaque {
            Some(bytes) => {
                pb::NodeProto::decode(bytes.clone()).map_err(|e| ProtoError::Decode(e.to_string()))?
            }
            None => pb::NodeProto::default(),
        };
        Ok(pb::NodeProto {
            input: names(graph.op_inputs(id)),
            output: names(graph.op_outputs(id)),
            name: text(spelling, spelling::NAME, &op.name),
            op_type: Some(op.kind.name.to_string()),
            domain: text(spelling, spelling::DOMAIN, &op.kind.domain),
            overload: text(spelling, spelling::OVERLOAD, &op.kind.overload),
            attribute: self.attributes(&op.attrs)?,
            doc_string: text(spelling, spelling::DOC, &op.doc),
            metadata_props: pairs(&op.metadata),
            device_configurations: opaque.device_configurations,
        })
    }

    /// Initializers in the file's order, then new ones in the order of creation.
    fn initializers(&mut self, graph: &Graph) -> (Vec<pb::TensorProto>, Vec<pb::SparseTensorProto>) {
        let mut values: Vec<ValueId> = graph
            .values()
            .filter(|&v| graph.value(v).data.is_some() || graph.value(v).sparse.is_some())
            .collect();
        values.sort_by_key(|&v| last_if_new(graph.value(v).listing.initializer));
        let (mut dense, mut sparse) = (Vec::new(), Vec::new());
        for value in values.into_iter().map(|v| graph.value(v)) {
            if let Some(data) = &value.data {
                dense.push(self.tensor(data, Some(value.name())));
            } else if let Some(data) = &value.sparse {
                sparse.push(self.sparse(data, Some(value.name())));
            }
        }
        (dense, sparse)
    }

    /// `value_info`: the file's entries in the file's order, then the types of other computed values.
    pub(super) fn value_infos(&mut self, graph: &Graph) -> Vec<pb::ValueInfoProto> {
        let mut entries: Vec<(u64, pb::ValueInfoProto)> = Vec::new();
        for id in graph.values() {
            let value = graph.value(id);
            // What was computed and is now a constant needs no declared type, which might be a vaguer one.
            let folded = value.role() == Role::Initializer && value.listing.initializer == 0;
            let listed = value.listing.info > 0 && !folded;
            let new = value.role() == Role::Computed && value.ty.is_some() && !graph.is_output(id);
            if listed || new {
                entries.push((last_if_new(value.listing.info), info(value)));
            }
        }
        let strays = graph.strays.iter().filter(|stray| stray.list == StrayList::Info);
        entries.extend(strays.map(|stray| (last_if_new(stray.at), stray_info(stray))));
        entries.sort_by_key(|(at, _)| *at);
        entries.into_iter().map(|(_, entry)| entry).collect()
    }
}

fn last_if_new(at: u32) -> u64 {
    if at == 0 { u64::MAX } else { u64::from(at) }
}

fn outputs(graph: &Graph) -> Vec<pb::ValueInfoProto> {
    let mut outputs: Vec<pb::ValueInfoProto> =
        graph.outputs().iter().map(|&v| info(graph.value(v))).collect();
    for stray in graph.strays.iter().filter(|stray| stray.list == StrayList::Output) {
        // Passes clear strays, but a caller may have edited the outputs without one.
        let at = (stray.at as usize).wrapping_sub(1);
        if let Some(output) = outputs.get_mut(at).filter(|output| output.name.as_deref() == Some(&stray.name))
        {
            *output = stray_info(stray);
        }
    }
    outputs
}

fn info(value: &Value) -> pb::ValueInfoProto {
    pb::ValueInfoProto {
        name: Some(value.name().to_string()),
        r#type: value.ty.as_ref().map(ty),
        doc_string: text(value.spelling, spelling::DOC, &value.doc),
        metadata_props: pairs(&value.metadata),
    }
}

fn stray_info(stray: &Stray) -> pb::ValueInfoProto {
    pb::ValueInfoProto {
        name: Some(stray.name.clone()),
        r#type: stray.ty.as_ref().map(ty),
        doc_string: text(stray.spelling, spelling::DOC, &stray.doc),
        metadata_props: pairs(&stray.metadata),
    }
}

fn annotation(annotation: &ir::Annotation) -> pb::TensorAnnotation {
    pb::TensorAnnotation {
        tensor_name: Some(annotation.tensor.clone()),
        quant_parameter_tensor_names: pairs(&annotation.parameters),
    }
}
