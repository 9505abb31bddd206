//! The file => [`ir::Model`].
//!
//! Long lists are decoded part by part: see [`crate::parts`].
//!
//! Every converter takes the fields that it understands out of the message and then looks whether anything is left:
//! what is left is noted in [`ir::Model::dropped`], so nothing is lost in silence.

mod attr;
mod graph;
mod tensor;
mod types;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use ir::{Attrs, Function, Graph, Model, OpKind};

use crate::error::ProtoError;
use crate::external::ExternalFiles;
use crate::generated as pb;
use crate::parts::{fields, single, split};
use crate::spelling::{self, Marks};
use graph::Scope;

pub(crate) use types::pairs;

/// What the converters share: the model being built, the graphs under construction from the outside in, and the files.
pub(crate) struct Importer {
    model: Model,
    scopes: Vec<Scope>,
    files: ExternalFiles,
    dropped: Vec<String>,
    /// Names of attributes: few words, written often.
    words: HashSet<Arc<str>>,
    /// Kinds of operators, by domain, name and overload.
    kinds: HashMap<(String, String, String), OpKind>,
    /// Where errors happen: graphs and nodes from the outside in.
    place: Vec<String>,
}

impl Importer {
    /// An importer of single tensors.
    pub fn of_tensors(place: &str) -> Importer {
        Importer::new(Model::default(), ExternalFiles::new(None, None), place)
    }

    fn new(model: Model, files: ExternalFiles, place: &str) -> Importer {
        let place = vec![place.to_string()];
        let (words, kinds) = (HashSet::new(), HashMap::new());
        Importer { model, scopes: Vec::new(), files, dropped: Vec::new(), words, kinds, place }
    }

    /// A word that many operators have in common, held once.
    fn shared(&mut self, word: &str) -> Arc<str> {
        if let Some(known) = self.words.get(word) {
            return known.clone();
        }
        let word: Arc<str> = Arc::from(word);
        self.words.insert(word.clone());
        word
    }

    /// A kind of operators, held once.
    fn kind(&mut self, domain: String, name: String, overload: String) -> OpKind {
        let key = (domain, name, overload);
        if let Some(known) = self.kinds.get(&key) {
            return known.clone();
        }
        let kind = OpKind::overloaded(&key.0, &key.1, &key.2);
        self.kinds.insert(key, kind.clone());
        kind
    }

    fn place(&self) -> String {
        self.place.join(", ")
    }

    fn invalid(&self, what: impl Into<String>) -> ProtoError {
        ProtoError::Invalid { place: self.place(), what: what.into() }
    }

    fn graph_error(&self, source: ir::GraphError) -> ProtoError {
        ProtoError::Graph { place: self.place(), source }
    }

    fn drop_note(&mut self, what: &str) {
        let note = format!("{}: {what}", self.place());
        self.dropped.push(note);
    }

    /// Notes what no converter took out of a message.
    fn check_rest<M: prost::Message + Default + PartialEq>(&mut self, rest: &M, what: &str) {
        if *rest != M::default() {
            self.drop_note(&format!("{what} has fields that do not belong to it"));
        }
    }

    fn function(&mut self, bytes: &Bytes) -> Result<Function, ProtoError> {
        let (proto, [nodes, infos, defaults]) = split::<pb::FunctionProto, 3>(
            bytes,
            [fields::FUNCTION_NODE, fields::FUNCTION_INFO, fields::FUNCTION_DEFAULT],
        )?;
        let mut marks = Marks::default();
        let name = marks.text(spelling::NAME, proto.name);
        let domain = marks.text(spelling::DOMAIN, proto.domain);
        let overload = marks.text(spelling::OVERLOAD, proto.overload);
        let doc = marks.text(spelling::DOC, proto.doc_string);
        let (opsets, opset_marks) = opsets(proto.opset_import);
        marks.note(opset_marks, true);

        self.place = vec![format!("function {name:?}")];
        let mut graph = Graph::new(&name);
        for input in &proto.input {
            graph.add_input(input, None).map_err(|e| self.graph_error(e))?;
        }
        let id = self.model.reserve_graph();
        self.scopes.push(Scope::new(graph, id));
        self.nodes(nodes)?;
        for output in &proto.output {
            self.output(output)?;
        }
        self.value_infos(infos)?;
        let defaults: Attrs = self.attributes(defaults, &mut Vec::new())?;
        let graph = self.close_scope()?.graph;
        self.model.put_graph(id, graph, None);
        Ok(Function {
            domain,
            name,
            overload,
            graph: id,
            attrs: proto.attribute,
            defaults,
            opsets,
            doc,
            metadata: pairs(proto.metadata_props),
            spelling: marks.done(),
        })
    }
}

/// Operator sets and the marks of their domains.
fn opsets(imports: Vec<pb::OperatorSetIdProto>) -> (Vec<(String, i64)>, u32) {
    let mut marks = 0;
    let opsets = imports.into_iter().enumerate().map(|(at, import)| {
        if import.domain.as_deref() == Some("") {
            marks |= spelling::opset_domain(at);
        }
        (import.domain.unwrap_or_default(), import.version.unwrap_or_default())
    });
    (opsets.collect(), marks)
}

/// The model of a file.
pub(crate) fn model(bytes: &Bytes, files: ExternalFiles) -> Result<Model, ProtoError> {
    let (proto, [graphs, functions]) =
        split::<pb::ModelProto, 2>(bytes, [fields::MODEL_GRAPH, fields::MODEL_FUNCTION])?;
    let mut marks = Marks::default();
    let mut model = Model::new(0, 0, Graph::default());
    model.ir_version = marks.number(spelling::IR_VERSION, proto.ir_version);
    model.producer_name = marks.text(spelling::PRODUCER_NAME, proto.producer_name);
    model.producer_version = marks.text(spelling::PRODUCER_VERSION, proto.producer_version);
    model.domain = marks.text(spelling::DOMAIN, proto.domain);
    model.model_version = marks.number(spelling::MODEL_VERSION, proto.model_version);
    model.doc = marks.text(spelling::DOC, proto.doc_string);
    let (opsets, opset_marks) = opsets(proto.opset_import);
    marks.note(opset_marks, true);
    model.opsets = opsets;
    model.metadata = pairs(proto.metadata_props);
    model.spelling = marks.done();

    let mut importer = Importer::new(model, files, "model");
    let Some(graph) = single(graphs) else {
        return Err(importer.invalid("the file holds no graph"));
    };
    if proto.training_info.iter().flat_map(training_graphs).any(has_external) {
        return Err(importer.invalid("training_info with external data is not supported"));
    }
    importer.place.clear();
    let main = importer.model.main_id();
    let scope = importer.graph(&graph, main)?;
    *importer.model.main_mut() = scope.graph;

    let mut keys = HashSet::new();
    for function in functions {
        let function = importer.function(&function)?;
        let key = (
            ir::canonical_domain(&function.domain).to_string(),
            function.name.clone(),
            function.overload.clone(),
        );
        if !keys.insert(key) {
            return Err(importer.invalid("the model has two functions of this domain, name and overload"));
        }
        importer.model.functions.push(function);
    }
    let mut model = importer.model;
    model.dropped = importer.dropped;
    Ok(model)
}

fn training_graphs(info: &pb::TrainingInfoProto) -> impl Iterator<Item = &pb::GraphProto> {
    info.initialization.iter().chain(info.algorithm.iter())
}

/// An initializer of the graph has its elements in another file. (Their paths would be wrong beside the output.)
fn has_external(graph: &pb::GraphProto) -> bool {
    graph.initializer.iter().any(|tensor| !tensor.external_data.is_empty())
}
