//! Fingerprints of models and samples, so that a stale table or an overlapping shard is refused.

use ir::{Data, Model, Tensor};
use runtime::Feed;
use sha2::{Digest, Sha256};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn tensor(hash: &mut Sha256, tensor: &Tensor) {
    hash.update(tensor.dtype().name());
    tensor.dims().iter().for_each(|&size| hash.update((size as u64).to_le_bytes()));
    match tensor.data() {
        Data::Bytes(bytes) => hash.update(bytes),
        Data::Strings(strings) => strings.iter().for_each(|string| {
            hash.update((string.len() as u64).to_le_bytes());
            hash.update(string);
        }),
    }
}

/// Fingerprint of what a model computes: operators, attributes, wiring and every weight.
pub fn model(model: &Model) -> String {
    let mut hash = Sha256::new();
    for (domain, version) in &model.opsets {
        hash.update(format!("{domain} {version}\n"));
    }
    for id in model.graph_ids() {
        let graph = model.graph(id);
        let name =
            |value: &Option<ir::ValueId>| value.map_or(String::new(), |v| graph.value(v).name().to_string());
        for op in graph.ops() {
            let inputs: Vec<String> = graph.op_inputs(op).iter().map(name).collect();
            let outputs: Vec<String> = graph.op_outputs(op).iter().map(name).collect();
            hash.update(format!("{}({}) -> {}\n", graph.op(op).kind, inputs.join(","), outputs.join(",")));
            for attr in graph.op(op).attrs.iter() {
                match &attr.value {
                    ir::AttrValue::Tensor(value) => tensor(&mut hash, value),
                    value => hash.update(format!("{}={value:?}\n", attr.name)),
                }
            }
        }
        for value in graph.values().map(|value| graph.value(value)) {
            if let Some(data) = &value.data {
                hash.update(value.name().as_bytes());
                tensor(&mut hash, data);
            }
        }
        let outputs: Vec<String> = graph.outputs().iter().map(|&value| name(&Some(value))).collect();
        hash.update(outputs.join(","));
    }
    hex(&hash.finalize())
}

/// Fingerprint of one sample: 16 hexadecimal digits.
pub fn sample(feed: &Feed) -> String {
    let mut hash = Sha256::new();
    for (name, value) in feed {
        hash.update(name);
        tensor(&mut hash, value);
    }
    hex(&hash.finalize()[..8])
}
