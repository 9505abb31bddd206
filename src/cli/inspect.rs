//! `onnxq inspect`: what is in a model.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use ir::{Model, Role, TypeKind, Value};
use passes::quantize::cost::macs;
use serde::Serialize;

use super::common::read_model;

/// How many of the largest tensors are listed.
const LARGEST: usize = 10;

/// Say what is in a model: operators, weights, inputs and outputs, multiplications
#[derive(clap::Args)]
pub struct Args {
    /// The model
    model: PathBuf,
    /// Print as JSON, with every operator
    #[arg(long)]
    json: bool,
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

#[derive(Serialize)]
struct Node {
    name: String,
    kind: String,
    macs: u64,
    weight_bytes: u64,
    output_bytes: Option<u64>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let report = inspect(read_model(&args.model)?)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(())
}

fn port(value: &Value) -> Port {
    let shape = value.shape().map(|shape| shape.dims.iter().map(ir::Dim::to_string).collect());
    let dtype = match value.ty.as_ref().map(|ty| &ty.kind) {
        Some(TypeKind::Sequence(_)) => Some("sequence".to_string()),
        Some(TypeKind::Map { .. }) => Some("map".to_string()),
        Some(TypeKind::Optional(_)) => Some("optional".to_string()),
        _ => value.dtype().map(|dtype| dtype.to_string()),
    };
    Port { name: value.name().to_string(), dtype, shape }
}

fn inspect(model: Model) -> Result<Report> {
    // Shapes of computed values, for the multiplications; a model that cannot be inferred is shown all the same.
    let mut typed = model.clone();
    let steps = [passes::Step::Once(passes::Spec::new("infer_shapes"))];
    let typed = match passes::run(&mut typed, &steps, passes::Options::default()) {
        Ok(_) => typed,
        Err(failure) => {
            eprintln!("warning: {failure}");
            model.clone()
        }
    };
    let main = model.main();
    let (mut weights, mut largest) = (BTreeMap::<String, Weights>::new(), Vec::new());
    let mut operators = BTreeMap::<String, usize>::new();
    for id in model.graph_ids() {
        let graph = model.graph(id);
        for op in graph.ops() {
            *operators.entry(graph.op(op).kind.to_string()).or_default() += 1;
        }
        for value in
            graph.values().map(|value| graph.value(value)).filter(|value| value.role() == Role::Initializer)
        {
            let Some(data) = &value.data else { continue };
            let (bytes, entry) =
                (data.bytes().len() as u64, weights.entry(data.dtype().to_string()).or_default());
            entry.tensors += 1;
            entry.elements += data.elements() as u64;
            entry.bytes += bytes;
            let (name, shape) = (value.name().to_string(), data.dims().to_vec());
            largest.push(Tensor { name, dtype: data.dtype().to_string(), shape, bytes });
        }
    }
    largest.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
    largest.truncate(LARGEST);
    let graph = typed.main();
    let bytes_of = |value: ir::ValueId| {
        let value = graph.value(value);
        value.dtype()?.storage_bytes(value.shape()?.elements()?).map(|bytes| bytes as u64)
    };
    let node = |op: ir::OpId| {
        let constants = graph.op_inputs(op).into_iter().flatten().filter_map(|value| graph.constant(value));
        let outputs = graph.op_outputs(op).into_iter().flatten();
        Node {
            name: graph.op(op).name.clone(),
            kind: graph.op(op).kind.to_string(),
            macs: macs(graph, op),
            weight_bytes: constants.map(|tensor| tensor.bytes().len() as u64).sum(),
            output_bytes: outputs.map(bytes_of).sum(),
        }
    };
    let nodes: Vec<Node> = graph.ops().into_iter().map(node).collect();
    Ok(Report {
        version: 1,
        ir_version: model.ir_version,
        producer: format!("{} {}", model.producer_name, model.producer_version).trim().to_string(),
        opsets: model.opsets.iter().cloned().collect(),
        inputs: main.inputs().iter().map(|&value| port(main.value(value))).collect(),
        outputs: main.outputs().iter().map(|&value| port(main.value(value))).collect(),
        operators,
        subgraphs: model.graph_ids().len() - 1 - model.functions.len(),
        functions: model.functions.len(),
        weights,
        largest,
        macs: nodes.iter().map(|node| node.macs).sum(),
        nodes,
    })
}

fn print(report: &Report) {
    let opsets: Vec<String> = report
        .opsets
        .iter()
        .map(|(domain, version)| {
            let domain = if domain.is_empty() { "ai.onnx" } else { domain };
            format!("{domain} {version}")
        })
        .collect();
    println!("IR {}, opset {}, made by {:?}", report.ir_version, opsets.join(", "), report.producer);
    for (what, ports) in [("input", &report.inputs), ("output", &report.outputs)] {
        for port in ports {
            let shape =
                port.shape.as_ref().map_or("any shape".into(), |shape| format!("[{}]", shape.join(", ")));
            println!("{what:<7}{} {} {shape}", port.name, port.dtype.as_deref().unwrap_or("any type"));
        }
    }
    let count: usize = report.operators.values().sum();
    println!("\n{count} operators, {} subgraphs, {} functions", report.subgraphs, report.functions);
    for (kind, count) in &report.operators {
        println!("{count:>7} {kind}");
    }
    println!("\nweights");
    for (dtype, weights) in &report.weights {
        println!(
            "  {dtype}: {} tensors, {} elements, {} bytes",
            weights.tensors, weights.elements, weights.bytes
        );
    }
    for tensor in &report.largest {
        println!("  {:>10} bytes  {} {:?} {}", tensor.bytes, tensor.dtype, tensor.shape, tensor.name);
    }
    println!(
        "\n{:.1} million multiplications a run (sizes that the data decide count as 1)",
        report.macs as f64 / 1e6
    );
}
