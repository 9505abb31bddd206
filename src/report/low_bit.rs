//! A model of which only weights were quantized, to few bits: the plan that the report draws layers from, and the weights.

use std::collections::BTreeMap;

use ir::OpId;
use passes::quantize::choose::key_of;
use passes::quantize::cost::macs;
use passes::quantize::low_bit::find;
use passes::quantize::{Kernel, OpPlan, Precision, QuantPlan};

use super::schema::{Report, Stored};
use crate::pipeline::low_bit::{LowBit, WeightReport};

/// What became of every operator of the float model. Widths that have no name among the precisions stand for the next wider
/// one; [`with_weights`] says them exactly.
pub fn plan(made: &LowBit, target: &str) -> QuantPlan {
    let graph = made.float.main();
    let (stored, reads) = (by_name(made), readers(made));
    let kept: BTreeMap<&str, &str> = made.kept.iter().map(|kept| (&*kept.name, &*kept.why)).collect();
    let mut plan = QuantPlan { target: target.to_string(), ..QuantPlan::default() };
    for (group, op) in graph.ops().into_iter().enumerate() {
        let weight = reads.get(&op).map(String::as_str);
        let (precision, reason) = if let Some(weight) = weight.and_then(|name| stored.get(name)) {
            let precision = if weight.bits > 4 { Precision::W8 } else { Precision::W4 };
            let block =
                if weight.block == 0 { "a row".into() } else { format!("blocks of {}", weight.block) };
            (precision, format!("{} bits by {}, a scale for {block}", weight.bits, weight.method))
        } else if let Some(why) = weight.and_then(|name| kept.get(name)) {
            (Precision::Float, (*why).to_string())
        } else {
            (Precision::Float, "it reads no weight that could be stored in few bits".into())
        };
        let node = graph.op(op);
        let entry = OpPlan {
            node: node.name.clone(),
            kind: node.kind.to_string(),
            precision,
            kernel: Kernel::Float,
            group,
            reason,
            macs: macs(graph, op),
        };
        plan.ops.insert(key_of(graph, op), entry);
    }
    plan
}

/// The report with every weight in it, and with the exact widths of the layers that read them. What share of the
/// multiplications is on integers is not known: that depends on the runtime's kernel for such weights.
pub fn with_weights(mut report: Report, made: &LowBit) -> Report {
    let graph = made.float.main();
    let stored = by_name(made);
    let width = |(op, name): (OpId, String)| Some((key_of(graph, op), stored.get(name.as_str())?.bits));
    let widths: BTreeMap<String, u32> = readers(made).into_iter().filter_map(width).collect();
    for layer in &mut report.layers {
        if let Some(bits) = widths.get(&layer.key) {
            layer.precision = format!("w{bits}");
        }
    }
    report.stored = made.weights.iter().map(|weight| entry(weight, made)).collect();
    report.integer_share = None;
    report
}

fn entry(weight: &WeightReport, made: &LowBit) -> Stored {
    let count = weight.rows.saturating_mul(weight.cols);
    let width = made.float.graph_ids().into_iter().find_map(|id| {
        let graph = made.float.graph(id);
        graph.constant(graph.find(&weight.name)?).map(|tensor| tensor.bytes().len() as u64)
    });
    Stored {
        name: weight.name.clone(),
        rows: weight.rows,
        columns: weight.cols,
        method: weight.method.clone(),
        bits: weight.bits,
        block: weight.block,
        bits_per_weight: weight.bits_per_weight,
        before: width.unwrap_or(4 * count as u64),
        after: (weight.bits_per_weight * count as f64 / 8.0).ceil() as u64,
        error: weight.relative_error,
        output_error: weight.output_error,
        reason: weight.why.clone(),
    }
}

fn by_name(made: &LowBit) -> BTreeMap<&str, &WeightReport> {
    made.weights.iter().map(|weight| (&*weight.name, weight)).collect()
}

/// Which weight each operator of the main graph reads, also behind a transposition.
fn readers(made: &LowBit) -> BTreeMap<OpId, String> {
    let main = made.float.main_id();
    let mut found = BTreeMap::new();
    for site in find(&made.float, 0).0 {
        for reader in site.readers.iter().filter(|reader| reader.graph == main) {
            found.insert(reader.op, site.name.clone());
        }
    }
    found
}
