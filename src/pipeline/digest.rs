//! Fingerprints of models and samples, so that a stale table or an overlapping shard is refused.

use ir::{Data, Model, Tensor};
use runtime::Feed;
use sha2::{Digest, Sha256};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn describe(hash: &mut Sha256, tensor: &Tensor) {
    hash.update(tensor.dtype().name());
    tensor.dims().iter().for_each(|&size| hash.update((size as u64).to_le_bytes()));
}

fn tensor(hash: &mut Sha256, tensor: &Tensor) {
    describe(hash, tensor);
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

/// Fingerprint of one sample: 16 hexadecimal digits. Nobody forges samples: their bytes are condensed before they are hashed,
/// since a calibration run reads every one.
pub fn sample(feed: &Feed) -> String {
    let mut hash = Sha256::new();
    for (name, value) in feed {
        hash.update(name);
        match value.data() {
            Data::Bytes(bytes) => {
                describe(&mut hash, value);
                hash.update((bytes.len() as u64).to_le_bytes());
                condensed(bytes).iter().for_each(|lane| hash.update(lane.to_le_bytes()));
            }
            Data::Strings(_) => tensor(&mut hash, value),
        }
    }
    hex(&hash.finalize()[..8])
}

const LANES: usize = 8;

/// Eight sums of the words at every eighth place. Every step can be undone, given its word: a single word that differs always
/// shows.
fn condensed(bytes: &[u8]) -> [u64; LANES] {
    let mut lanes = [0x9e37_79b9_7f4a_7c15; LANES];
    let mut take = |block: &[u8; 8 * LANES]| {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
            let mixed = (*lane ^ u64::from_le_bytes(*word)).wrapping_mul(0xd6e8_feb8_6659_fd93);
            *lane = mixed ^ (mixed >> 32);
        }
    };
    let (blocks, rest) = bytes.as_chunks::<{ 8 * LANES }>();
    blocks.iter().for_each(&mut take);
    let mut last = [0; 8 * LANES];
    last[..rest.len()].copy_from_slice(rest);
    take(&last);
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_a_sample_counts() {
        let of =
            |values: &[u8]| sample(&vec![("x".into(), Tensor::from_slice(&[values.len()], values).unwrap())]);
        let plain: Vec<u8> = (0..200).collect();
        let mut seen: std::collections::BTreeSet<String> = [of(&plain), of(&plain[..199])].into();
        for at in 0..plain.len() {
            let mut other = plain.clone();
            other[at] ^= 0x40;
            seen.insert(of(&other));
        }
        assert_eq!(seen.len(), plain.len() + 2);
    }
}
