//! [`ir::Model`] => the file's messages.
//!
//! Messages share the tensors' bytes, so a whole model in this form costs what its structure costs, not its weights.

mod attr;
mod graph;
mod place;
mod tensor;
mod types;

use ir::{Function, Graph, GraphId, Model};

use crate::error::ProtoError;
use crate::generated as pb;
use crate::spelling::{self, has, number, text};

pub(crate) use place::{Chunk, Placement, Placer};

/// What the converters share.
pub(crate) struct Exporter<'a> {
    model: &'a Model,
    pub placer: Placer,
}

impl<'a> Exporter<'a> {
    pub fn new(model: &'a Model, placer: Placer) -> Exporter<'a> {
        Exporter { model, placer }
    }

    /// The model without functions and opaque fields.
    pub fn model(&mut self) -> Result<pb::ModelProto, ProtoError> {
        let model = self.model;
        let spelling = model.spelling;
        Ok(pb::ModelProto {
            ir_version: number(spelling, spelling::IR_VERSION, model.ir_version),
            opset_import: opsets(&model.opsets, spelling),
            producer_name: text(spelling, spelling::PRODUCER_NAME, &model.producer_name),
            producer_version: text(spelling, spelling::PRODUCER_VERSION, &model.producer_version),
            domain: text(spelling, spelling::DOMAIN, &model.domain),
            model_version: number(spelling, spelling::MODEL_VERSION, model.model_version),
            doc_string: text(spelling, spelling::DOC, &model.doc),
            graph: Some(self.graph(model.main_id())?),
            metadata_props: types::pairs(&model.metadata),
            ..Default::default()
        })
    }

    /// The functions, as a model that holds nothing else.
    pub fn functions(&mut self) -> Result<pb::ModelProto, ProtoError> {
        let functions: Result<_, ProtoError> =
            self.model.functions.iter().map(|f| self.function(f)).collect();
        Ok(pb::ModelProto { functions: functions?, ..Default::default() })
    }

    fn function(&mut self, function: &Function) -> Result<pb::FunctionProto, ProtoError> {
        let graph = self.model.graph(function.graph);
        let spelling = function.spelling;
        let names =
            |values: &[ir::ValueId]| values.iter().map(|&v| graph.value(v).name().to_string()).collect();
        Ok(pb::FunctionProto {
            name: text(spelling, spelling::NAME, &function.name),
            input: names(graph.inputs()),
            output: names(graph.outputs()),
            attribute: function.attrs.clone(),
            attribute_proto: self.attributes(&function.defaults)?,
            node: self.nodes(function.graph)?,
            doc_string: text(spelling, spelling::DOC, &function.doc),
            opset_import: opsets(&function.opsets, spelling),
            domain: text(spelling, spelling::DOMAIN, &function.domain),
            overload: text(spelling, spelling::OVERLOAD, &function.overload),
            value_info: self.value_infos(graph),
            metadata_props: types::pairs(&function.metadata),
        })
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
