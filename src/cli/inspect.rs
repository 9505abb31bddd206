//! `onnxq inspect`: what is in a model.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use ir::{Model, Value};
use ops::infer::shape::show_type;
use passes::quantize::cost::macs;
use serde::Serialize;

use super::common::{read_model, warn};
use super::table::Table;

/// How many of the largest tensors and of the heaviest operators are listed.
const LISTED: usize = 10;

/// Say what is in a model: operators, weights, inputs and outputs, multiplications
#[derive(clap::Args)]
pub struct Args {
    /// The model
    model: PathBuf,
    /// Print as JSON, with every operator
    #[arg(long)]
    json: bool,
    /// List every operator, in order, instead of the heaviest
    #[arg(long)]
    nodes: bool,
}

#[derive(Serialize)]
struct Report {
    version: u32,
    ir_version: i64,
    producer: String,
    opsets: BTreeMap<String, i64>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    operators: BTreeMap<String, usize>,
    without_rule: BTreeMap<String, usize>,
    subgraphs: usize,
    functions: usize,
    weights: BTreeMap<String, Weights>,
    largest: Vec<Tensor>,
    macs: u64,
    nodes: Vec<Node>,
}

#[derive(Serialize)]
struct Port {
    name: String,
    dtype: Option<String>,
    shape: Option<Vec<String>>,
    /// A value is stored, which a caller may replace.
    stored: bool,
    /// The whole type as text, also of sequences and maps.
    r#type: String,
}

#[derive(Default, Serialize)]
struct Weights {
    tensors: usize,
    elements: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Tensor {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    bytes: u64,
}

/// An operator. Multiplications and bytes count sizes that the data decide as 1; bytes are none where a rank is not known.
#[derive(Serialize)]
struct Node {
    graph: String,
    name: String,
    kind: String,
    output: String,
    macs: u64,
    weight_bytes: u64,
    input_bytes: Option<u64>,
    output_bytes: Option<u64>,
    shape: Option<String>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let report = inspect(&read_model(&args.model)?);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report, args.nodes);
    }
    Ok(())
}

fn port(value: &Value) -> Port {
    let shape = value.shape().map(|shape| shape.dims.iter().map(ir::Dim::to_string).collect());
    let dtype = value.dtype().map(|dtype| dtype.to_string());
    let r#type = value.ty.as_ref().map_or("any type".to_string(), show_type);
    Port { name: value.name().to_string(), dtype, shape, stored: value.data.is_some(), r#type }
}

/// The model with the types that inference finds; a model that cannot be inferred is shown all the same.
fn typed(model: &Model) -> Model {
    let mut typed = model.clone();
    let steps = [passes::Step::Once(passes::Spec::new("infer_shapes"))];
    match passes::run(&mut typed, &steps, passes::Options::default()) {
        Ok(report) => {
            warn(&report);
            typed
        }
        Err(failure) => {
            eprintln!("warning: {failure}");
            model.clone()
        }
    }
}

fn inspect(model: &Model) -> Report {
    let typed = typed(model);
    let main = typed.main();
    let mut tensors = Tensors::default();
    let (mut operators, mut without_rule) = (BTreeMap::new(), BTreeMap::new());
    let mut nodes = Vec::new();
    for id in typed.graph_ids() {
        let graph = typed.graph(id);
        for value in graph.values().map(|value| graph.value(value)) {
            // Also inputs with a stored value: files of IR version 3 list every weight as an input.
            if let Some(data) = &value.data {
                tensors.add(value.name(), data);
            } else if let Some(sparse) = &value.sparse {
                tensors.add(value.name(), &sparse.values);
            }
        }
        for at in graph.ops() {
            let op = graph.op(at);
            *operators.entry(op.kind.to_string()).or_insert(0) += 1;
            let function = typed.function(op.kind.domain(), &op.kind.name, &op.kind.overload).is_some();
            let opset = ir::version(typed.opsets_of(id), op.kind.domain());
            if !function && ops::rule(&op.kind, opset).is_err() {
                *without_rule.entry(op.kind.to_string()).or_insert(0) += 1;
            }
            nodes.push(node(&typed, id, at, &mut tensors));
        }
    }
    let mut largest = tensors.list;
    largest.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
    largest.truncate(LISTED);
    Report {
        version: 1,
        ir_version: model.ir_version,
        producer: format!("{} {}", model.producer_name, model.producer_version).trim().to_string(),
        opsets: model.opsets.iter().cloned().collect(),
        inputs: main.inputs().iter().map(|&value| port(main.value(value))).collect(),
        outputs: main.outputs().iter().map(|&value| port(main.value(value))).collect(),
        operators,
        without_rule,
        subgraphs: model.graph_ids().len().saturating_sub(1 + model.functions.len()),
        functions: model.functions.len(),
        weights: tensors.by_type,
        largest,
        macs: nodes.iter().map(|node| node.macs).fold(0, u64::saturating_add),
        nodes,
    }
}

#[derive(Default)]
struct Tensors {
    by_type: BTreeMap<String, Weights>,
    list: Vec<Tensor>,
}

impl Tensors {
    fn add(&mut self, name: &str, data: &ir::Tensor) {
        let (bytes, entry) = (bytes_of(data), self.by_type.entry(data.dtype().to_string()).or_default());
        entry.tensors += 1;
        entry.elements += data.elements() as u64;
        entry.bytes += bytes;
        let (name, shape) = (name.to_string(), data.dims().to_vec());
        self.list.push(Tensor { name, dtype: data.dtype().to_string(), shape, bytes });
    }
}

/// Bytes of the elements; of strings, of their letters.
fn bytes_of(tensor: &ir::Tensor) -> u64 {
    match tensor.data() {
        ir::Data::Bytes(bytes) => bytes.len() as u64,
        ir::Data::Strings(strings) => strings.iter().map(|string| string.len() as u64).sum(),
    }
}

/// The constant that the value is: stored in this graph or in one around it, or held by an operator that reads nothing. Of a
/// sparse one what is stored: its numbers.
fn stored(model: &Model, graph: ir::GraphId, value: ir::ValueId) -> Option<&ir::Tensor> {
    let (mut graph, mut value) = (graph, value);
    while let Some(outer) = model.outer(graph, value) {
        (graph, value) = outer;
    }
    let graph = model.graph(graph);
    let held = || {
        let (producer, _) = graph.producer(value)?;
        held(graph, producer)
    };
    let sparse = || graph.value(value).sparse.as_ref().map(|sparse| &sparse.values);
    graph.value(value).data.as_ref().or_else(sparse).or_else(held)
}

/// The tensor that an operator without inputs gives.
fn held(graph: &ir::Graph, at: ir::OpId) -> Option<&ir::Tensor> {
    let op = graph.op(at);
    let mut attrs = op.attrs.iter().filter(|_| op.input_count() == 0);
    attrs.find_map(|attr| if let ir::AttrValue::Tensor(tensor) = &attr.value { Some(tensor) } else { None })
}

/// One operator. Constants that it reads are its weights, and tensors in its attributes; what an operator does nothing but
/// hold counts where it is read.
fn node(model: &Model, id: ir::GraphId, at: ir::OpId, tensors: &mut Tensors) -> Node {
    let graph = model.graph(id);
    let op = graph.op(at);
    let weight = |value: ir::ValueId| stored(model, id, value);
    let output = graph.op_outputs(at).into_iter().flatten().next();
    let output_name = output.map_or(String::new(), |value| graph.value(value).name().to_string());
    let mut weight_bytes: u64 = graph
        .op_inputs(at)
        .into_iter()
        .flatten()
        .filter_map(weight)
        .map(bytes_of)
        .fold(0, u64::saturating_add);
    for attr in op.attrs.iter() {
        if let ir::AttrValue::Tensor(tensor) = &attr.value {
            let read_elsewhere = held(graph, at).is_some();
            weight_bytes = weight_bytes.saturating_add(if read_elsewhere { 0 } else { bytes_of(tensor) });
            tensors.add(&output_name, tensor);
        }
    }
    let bytes = |value: ir::ValueId| {
        let value = graph.value(value);
        // As for the multiplications: sizes that the data decide count as 1.
        let sizes: Vec<usize> = value.shape()?.dims.iter().map(|dim| dim.known().unwrap_or(1)).collect();
        let elements = ir::checked_elements(&sizes).ok()?;
        value.dtype()?.storage_bytes(elements).map(|bytes| bytes as u64)
    };
    let read = graph.op_inputs(at).into_iter().flatten().filter(|&value| weight(value).is_none());
    Node {
        graph: graph.name.clone(),
        name: op.name.clone(),
        kind: op.kind.to_string(),
        output: output_name,
        macs: macs(graph, at),
        weight_bytes,
        input_bytes: read.map(bytes).sum(),
        output_bytes: graph.op_outputs(at).into_iter().flatten().map(bytes).sum(),
        shape: output.and_then(|value| graph.value(value).ty.as_ref().map(show_type)),
    }
}

fn print(report: &Report, all: bool) {
    let opsets: Vec<String> = report
        .opsets
        .iter()
        .map(|(domain, version)| {
            let domain = if domain.is_empty() { "ai.onnx" } else { domain };
            format!("{domain} {version}")
        })
        .collect();
    let maker =
        if report.producer.is_empty() { String::new() } else { format!(", made by {:?}", report.producer) };
    println!("IR {}, opset {}{maker}", report.ir_version, opsets.join(", "));
    for (what, ports) in [("input", &report.inputs), ("output", &report.outputs)] {
        for port in ports.iter().filter(|port| !port.stored || what == "output") {
            println!("{what:<7}{} {}", port.name, port.r#type);
        }
    }
    let stored = report.inputs.iter().filter(|port| port.stored).count();
    if stored > 0 {
        println!("{stored} more inputs have stored values");
    }
    let count: usize = report.operators.values().sum();
    println!("\n{count} operators, {} subgraphs, {} functions", report.subgraphs, report.functions);
    for (kind, count) in &report.operators {
        let note =
            if report.without_rule.contains_key(kind) { "  (not understood: kept as it is)" } else { "" };
        println!("{count:>7} {kind}{note}");
    }
    println!("\nweights{}", if report.weights.is_empty() { ": none" } else { "" });
    for (dtype, weights) in &report.weights {
        println!(
            "  {dtype}: {} tensors, {} elements, {} bytes",
            weights.tensors, weights.elements, weights.bytes
        );
    }
    if !report.largest.is_empty() {
        println!("\nlargest tensors");
    }
    for tensor in &report.largest {
        println!("  {:>10} bytes  {} {:?} {}", tensor.bytes, tensor.dtype, tensor.shape, tensor.name);
    }
    let mut nodes: Vec<&Node> = report.nodes.iter().collect();
    if !all {
        // The sort is stable: equal ones stay in the order of the model.
        nodes.sort_by_key(|node| std::cmp::Reverse(node.macs));
        nodes.retain(|node| node.macs > 0);
        nodes.truncate(LISTED);
    }
    if !nodes.is_empty() {
        println!("\n{}", if all { "operators in order" } else { "heaviest operators" });
        let mut table = Table::new(&[
            "multiplications",
            "weight bytes",
            "read bytes",
            "written bytes",
            "operator",
            "output",
        ]);
        for node in nodes {
            let open = |bytes: Option<u64>| bytes.map_or("?".to_string(), |bytes| bytes.to_string());
            let name = if node.name.is_empty() { &node.output } else { &node.name };
            table.row(vec![
                node.macs.to_string(),
                node.weight_bytes.to_string(),
                open(node.input_bytes),
                open(node.output_bytes),
                format!("{} ({})", name, node.kind),
                node.shape.clone().unwrap_or_default(),
            ]);
        }
        print!("{table}");
    }
    let macs = match report.macs {
        few @ 0..100_000 => few.to_string(),
        many => format!("{:.1} million", many as f64 / 1e6),
    };
    println!("\n{macs} multiplications a run (sizes that the data decide count as 1)");
}
