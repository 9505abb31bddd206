//! [`ir::Model`] => the file's messages.
//!
//! A model is written part by part: a node, a tensor or a type becomes a message of its own, is encoded and is gone. What
//! holds long lists (models, graphs, functions, nodes, attributes with graphs) never exists as a message: see [`Wire`].

mod attr;
mod graph;
mod place;
mod tensor;
mod types;
mod wire;

use bytes::BufMut;
use ir::{Function, Graph, GraphId, Model};

use crate::error::ProtoError;
use crate::generated as pb;
use crate::parts::fields;
use crate::read::CONFIGURATION;
use crate::spelling::{self, has, number, text};

pub(crate) use place::{Chunk, Placement, Placer};
pub(crate) use wire::{Lengths, Wire};

/// What the converters share.
pub(crate) struct Exporter<'a> {
    model: &'a Model,
    pub placer: Placer,
}

impl<'a> Exporter<'a> {
    pub fn new(model: &'a Model, placer: Placer) -> Exporter<'a> {
        Exporter { model, placer }
    }

    /// The whole model.
    pub fn model<B: BufMut>(&mut self, wire: &mut Wire<'_, B>) -> Result<(), ProtoError> {
        let model = self.model;
        let spelling = model.spelling;
        wire.fields(&pb::ModelProto {
            ir_version: number(spelling, spelling::IR_VERSION, model.ir_version),
            producer_name: text(spelling, spelling::PRODUCER_NAME, &model.producer_name),
            producer_version: text(spelling, spelling::PRODUCER_VERSION, &model.producer_version),
            domain: text(spelling, spelling::DOMAIN, &model.domain),
            model_version: number(spelling, spelling::MODEL_VERSION, model.model_version),
            doc_string: text(spelling, spelling::DOC, &model.doc),
            ..Default::default()
        });
        wire.open(fields::MODEL_GRAPH, |wire| self.graph(model.main_id(), wire))?;
        wire.fields(&pb::ModelProto {
            opset_import: opsets(&model.opsets, spelling),
            metadata_props: types::pairs(&model.metadata),
            ..Default::default()
        });
        let mut opaque: Vec<_> = model.opaque.iter().collect();
        opaque.sort_by_key(|(number, _)| *number);
        let (before, behind) = opaque.split_at(opaque.partition_point(|(number, _)| *number < CONFIGURATION));
        before.iter().for_each(|(number, bytes)| wire.bytes(*number, bytes));
        for function in &model.functions {
            wire.open(fields::MODEL_FUNCTION, |wire| self.function(function, wire))?;
        }
        behind.iter().for_each(|(number, bytes)| wire.bytes(*number, bytes));
        Ok(())
    }

    fn function<B: BufMut>(&mut self, function: &Function, wire: &mut Wire<'_, B>) -> Result<(), ProtoError> {
        let graph = self.model.graph(function.graph);
        let spelling = function.spelling;
        let names =
            |values: &[ir::ValueId]| values.iter().map(|&v| graph.value(v).name().to_string()).collect();
        wire.fields(&pb::FunctionProto {
            name: text(spelling, spelling::NAME, &function.name),
            input: names(graph.inputs()),
            output: names(graph.outputs()),
            attribute: function.attrs.clone(),
            ..Default::default()
        });
        self.nodes(fields::FUNCTION_NODE, function.graph, wire)?;
        wire.fields(&pb::FunctionProto {
            doc_string: text(spelling, spelling::DOC, &function.doc),
            opset_import: opsets(&function.opsets, spelling),
            domain: text(spelling, spelling::DOMAIN, &function.domain),
            ..Default::default()
        });
        self.attributes(fields::FUNCTION_DEFAULT, &function.defaults, wire)?;
        self.value_infos(fields::FUNCTION_INFO, graph, wire);
        wire.fields(&pb::FunctionProto {
            overload: text(spelling, spelling::OVERLOAD, &function.overload),
            metadata_props: types::pairs(&function.metadata),
            ..Default::default()
        });
        Ok(())
    }

    fn table(&self, id: GraphId) -> &'a Graph {
        self.model.graph(id)
    }
}

fn opsets(opsets: &[(String, i64)], spelling: ir::Spelling) -> Vec<pb::OperatorSetIdProto> {
    let import = |(at, (domain, version)): (usize, &(String, i64))| pb::OperatorSetIdProto {
        domain: (!domain.is_empty() || has(spelling, spelling::opset_domain(at))).then(|| domain.clone()),
        version: Some(*version),
    };
    opsets.iter().enumerate().map(import).collect()
}
