//! Graphs.

use bytes::BufMut;
use ir::{Graph, GraphId, OpId, Role, Slots, Stray, StrayList, Value, ValueId};
use prost::Message;

use super::types::{pairs, ty};
use super::{Exporter, Wire};
use crate::error::ProtoError;
use crate::generated as pb;
use crate::parts::fields;
use crate::spelling::{self, text};

impl Exporter<'_> {
    pub(super) fn graph<B: BufMut>(&mut self, id: GraphId, wire: &mut Wire<'_, B>) -> Result<(), ProtoError> {
        let graph = self.table(id);
        let spelling = graph.spelling;
        self.nodes(fields::GRAPH_NODE, id, wire)?;
        wire.fields(&pb::GraphProto {
            name: text(spelling, spelling::NAME, &graph.name),
            ..Default::default()
        });
        let constants = constants(graph);
        for value in constants.iter().map(|&id| graph.value(id)) {
            if let Some(data) = &value.data {
                wire.message(fields::GRAPH_INITIALIZER, &self.tensor(data, Some(value.name())));
            }
        }
        wire.fields(&pb::GraphProto {
            doc_string: text(spelling, spelling::DOC, &graph.doc),
            input: graph.inputs().iter().map(|&id| info(graph.value(id))).collect(),
            output: outputs(graph),
            ..Default::default()
        });
        self.value_infos(fields::GRAPH_INFO, graph, wire);
        wire.fields(&pb::GraphProto {
            quantization_annotation: graph.annotations.iter().map(annotation).collect(),
            ..Default::default()
        });
        for value in constants.iter().map(|&id| graph.value(id)) {
            if let (None, Some(data)) = (&value.data, &value.sparse) {
                wire.message(fields::GRAPH_SPARSE, &self.sparse(data, Some(value.name())));
            }
        }
        wire.fields(&pb::GraphProto { metadata_props: pairs(&graph.metadata), ..Default::default() });
        Ok(())
    }

    /// Nodes in schedule order, which is the file's where that is topological.
    pub(super) fn nodes<B: BufMut>(
        &mut self,
        field: u32,
        id: GraphId,
        wire: &mut Wire<'_, B>,
    ) -> Result<(), ProtoError> {
        let graph = self.table(id);
        let place = || format!("graph {:?}", graph.name);
        let schedule = graph.schedule().map_err(|source| ProtoError::Graph { place: place(), source })?;
        schedule.into_iter().try_for_each(|op| wire.open(field, |wire| self.node(graph, op, wire)))
    }

    fn node<B: BufMut>(&mut self, graph: &Graph, id: OpId, wire: &mut Wire<'_, B>) -> Result<(), ProtoError> {
        let op = graph.op(id);
        let spelling = op.spelling;
        let names = |slots: Slots| {
            let name =
                |slot: Option<ValueId>| slot.map_or_else(String::new, |v| graph.value(v).name().to_string());
            slots.into_iter().map(name).collect()
        };
        wire.fields(&pb::NodeProto {
            input: names(graph.op_inputs(id)),
            output: names(graph.op_outputs(id)),
            name: text(spelling, spelling::NAME, &op.name),
            op_type: Some(op.kind.name.to_string()),
            ..Default::default()
        });
        self.attributes(fields::NODE_ATTRIBUTE, &op.attrs, wire)?;
        let opaque = match &op.notes.opaque {
            Some(bytes) => {
                pb::NodeProto::decode(bytes.clone()).map_err(|e| ProtoError::Decode(e.to_string()))?
            }
            None => pb::NodeProto::default(),
        };
        wire.fields(&pb::NodeProto {
            domain: text(spelling, spelling::DOMAIN, &op.kind.domain),
            overload: text(spelling, spelling::OVERLOAD, &op.kind.overload),
            doc_string: text(spelling, spelling::DOC, &op.notes.doc),
            metadata_props: pairs(&op.notes.metadata),
            device_configurations: opaque.device_configurations,
            ..Default::default()
        });
        Ok(())
    }

    /// `value_info`: the file's entries in the file's order, then the types of other computed values.
    pub(super) fn value_infos<B: BufMut>(&self, field: u32, graph: &Graph, wire: &mut Wire<'_, B>) {
        enum Entry<'g> {
            Value(ValueId),
            Stray(&'g Stray),
        }
        let mut entries = Vec::new();
        for id in graph.values() {
            let value = graph.value(id);
            // What was computed and is now a constant needs no declared type, which might be a vaguer one.
            let folded = value.role() == Role::Initializer && value.listing.initializer == 0;
            let listed = value.listing.info > 0 && !folded;
            let new = value.role() == Role::Computed && value.ty.is_some() && !graph.is_output(id);
            if listed || new {
                entries.push((last_if_new(value.listing.info), Entry::Value(id)));
            }
        }
        let strays = graph.strays.iter().filter(|stray| stray.list == StrayList::Info);
        entries.extend(strays.map(|stray| (last_if_new(stray.at), Entry::Stray(stray))));
        entries.sort_by_key(|(at, _)| *at);
        for (_, entry) in entries {
            match entry {
                Entry::Value(id) => wire.message(field, &info(graph.value(id))),
                Entry::Stray(stray) => wire.message(field, &stray_info(stray)),
            }
        }
    }
}

/// Values with data: initializers in the file's order, then new ones in the order of creation.
fn constants(graph: &Graph) -> Vec<ValueId> {
    let mut values: Vec<ValueId> = graph.values().filter(|&v| graph.value(v).has_data()).collect();
    values.sort_by_key(|&v| last_if_new(graph.value(v).listing.initializer));
    values
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
        doc_string: text(value.spelling, spelling::DOC, &value.notes.doc),
        metadata_props: pairs(&value.notes.metadata),
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
