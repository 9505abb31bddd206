//! A model: its graphs, operator sets, functions and notes.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::op::canonical_domain;
use crate::{Attrs, Graph, GraphId, OpId, Spelling, ValueId};

/// A model.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// `ir_version` of the file.
    pub ir_version: i64,
    /// Operator set versions by domain, as the file writes the domains, in file order.
    pub opsets: Vec<(String, i64)>,
    /// `producer_name`.
    pub producer_name: String,
    /// `producer_version`.
    pub producer_version: String,
    /// `domain` of the model.
    pub domain: String,
    /// `model_version`.
    pub model_version: i64,
    /// Documentation.
    pub doc: String,
    /// `metadata_props`.
    pub metadata: Vec<(String, String)>,
    /// Model-local functions.
    pub functions: Vec<Function>,
    /// Encoded fields that no pass reads (`training_info`, `configuration`), by field number, passed through.
    pub opaque: Vec<(u32, Bytes)>,
    /// What the file says and this model cannot hold (fields newer than the schema), one line each. Such a model is
    /// written only on request.
    pub dropped: Vec<String>,
    /// How the file wrote it.
    pub spelling: Spelling,
    pub(crate) graphs: Vec<Option<Graph>>,
    pub(crate) main: GraphId,
}

/// A model-local function. Its body is a graph whose inputs and outputs are the function's.
#[derive(Clone, Debug, Default)]
pub struct Function {
    /// Domain.
    pub domain: String,
    /// Name.
    pub name: String,
    /// Overload, mostly empty.
    pub overload: String,
    /// The body.
    pub graph: GraphId,
    /// Names of attributes without default.
    pub attrs: Vec<String>,
    /// Attributes with a default.
    pub defaults: Attrs,
    /// Operator sets of the body.
    pub opsets: Vec<(String, i64)>,
    /// Documentation.
    pub doc: String,
    /// `metadata_props`.
    pub metadata: Vec<(String, String)>,
    /// How the file wrote it.
    pub spelling: Spelling,
}

impl Model {
    /// A model around a main graph.
    pub fn new(ir_version: i64, opset: i64, main: Graph) -> Model {
        let opsets = vec![(String::new(), opset)];
        Model { ir_version, opsets, graphs: vec![Some(main)], main: GraphId(0), ..Model::default() }
    }

    /// The version of an operator set; `""` is ONNX's own.
    pub fn opset(&self, domain: &str) -> Option<i64> {
        version(&self.opsets, domain)
    }

    /// Raises (or adds) an operator set to at least `version`.
    pub fn raise_opset(&mut self, domain: &str, version: i64) {
        let wanted = canonical_domain(domain);
        match self.opsets.iter_mut().find(|(domain, _)| canonical_domain(domain) == wanted) {
            Some((_, found)) => *found = (*found).max(version),
            None => self.opsets.push((domain.to_string(), version)),
        }
    }

    /// The id of the main graph.
    pub fn main_id(&self) -> GraphId {
        self.main
    }

    /// The main graph.
    pub fn main(&self) -> &Graph {
        self.graph(self.main)
    }

    /// The main graph.
    pub fn main_mut(&mut self) -> &mut Graph {
        self.graph_mut(self.main)
    }

    /// A graph of the table. The id must be alive.
    pub fn graph(&self, id: GraphId) -> &Graph {
        self.graphs[id.0 as usize].as_ref().expect("a live graph")
    }

    /// A graph of the table. The id must be alive.
    pub fn graph_mut(&mut self, id: GraphId) -> &mut Graph {
        self.graphs[id.0 as usize].as_mut().expect("a live graph")
    }

    /// The graph is in the table.
    pub fn has_graph(&self, id: GraphId) -> bool {
        matches!(self.graphs.get(id.0 as usize), Some(Some(_)))
    }

    /// The graph is the body of a local function: it has no constants, because a file has no place for them there. (Graphs
    /// inside of it may have some.)
    pub fn is_function_body(&self, id: GraphId) -> bool {
        self.functions.iter().any(|function| function.graph == id)
    }

    /// All graphs of the table: main first, then in the order of creation.
    pub fn graph_ids(&self) -> Vec<GraphId> {
        let live = (0..self.graphs.len() as u32).filter(|&id| self.graphs[id as usize].is_some());
        live.map(GraphId).collect()
    }

    /// Adds a graph to the table. `parent` is the operator whose attribute is going to hold it, if any.
    pub fn add_graph(&mut self, mut graph: Graph, parent: Option<(GraphId, OpId)>) -> GraphId {
        graph.set_parent(parent);
        self.graphs.push(Some(graph));
        GraphId(self.graphs.len() as u32 - 1)
    }

    /// Reserves a place in the table, so that an operator can be built around the id of a graph that does not exist yet.
    pub fn reserve_graph(&mut self) -> GraphId {
        self.graphs.push(Some(Graph::default()));
        GraphId(self.graphs.len() as u32 - 1)
    }

    /// Fills a reserved place.
    pub fn put_graph(&mut self, id: GraphId, mut graph: Graph, parent: Option<(GraphId, OpId)>) {
        graph.set_parent(parent);
        self.graphs[id.0 as usize] = Some(graph);
    }

    /// Tells a graph which operator holds it.
    pub fn set_parent(&mut self, id: GraphId, parent: Option<(GraphId, OpId)>) {
        self.graph_mut(id).set_parent(parent);
    }

    /// The value of the surrounding graph that a captured value stands for.
    pub fn outer(&self, graph: GraphId, value: ValueId) -> Option<(GraphId, ValueId)> {
        let (parent, op) = self.graph(graph).parent()?;
        Some((parent, self.graph(parent).captured(op, graph, value)?))
    }

    /// The function of a domain, name and overload.
    pub fn function(&self, domain: &str, name: &str, overload: &str) -> Option<&Function> {
        let domain = canonical_domain(domain);
        self.functions
            .iter()
            .find(|f| f.name == name && canonical_domain(&f.domain) == domain && f.overload == overload)
    }

    /// The function in whose body the graph is, if it is in one.
    pub fn function_of(&self, graph: GraphId) -> Option<&Function> {
        let root = self.surrounding(graph).last().unwrap_or(graph);
        self.functions.iter().find(|function| function.graph == root)
    }

    /// The operator sets that hold in a graph: the function's own inside a function, else the model's.
    pub fn opsets_of(&self, graph: GraphId) -> &[(String, i64)] {
        self.function_of(graph).map_or(&self.opsets, |function| &function.opsets)
    }
}

/// The version of a domain in a list of operator sets; `""` is ONNX's own.
pub fn version(opsets: &[(String, i64)], domain: &str) -> Option<i64> {
    let domain = canonical_domain(domain);
    opsets.iter().find(|(found, _)| canonical_domain(found) == domain).map(|&(_, version)| version)
}

/// Operator sets by canonical domain, sorted: for comparing two models.
pub fn sorted_opsets(opsets: &[(String, i64)]) -> BTreeMap<&str, i64> {
    opsets.iter().map(|(domain, version)| (canonical_domain(domain), *version)).collect()
}
