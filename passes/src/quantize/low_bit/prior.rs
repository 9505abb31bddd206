//! What is known about the inputs of a weight without running anything.
//!
//! Behind a normalization every column has about the same power before it is multiplied by its own constant: x = norm · γ, so
//! the mean of x_k² is proportional to γ_k². Errors of a weight count by the power of the column that they meet
//! (Σ (w − ŵ)²·x²), so a data-free quantizer that knows γ can do with it what a calibrated one does with an imatrix.

use ir::{Graph, Model, OpId};

use super::Site;
use crate::numbers;

/// Relative mean squares of the K inputs of a weight, mean 1; none if nothing is known or its products disagree.
pub fn importance(model: &Model, site: &Site) -> Option<Vec<f32>> {
    let mut found: Option<Vec<f32>> = None;
    for reader in site.readers.iter().filter(|reader| reader.is_product()) {
        let graph = model.graph(reader.graph);
        let gains = gains(graph, reader.data(model)?, site.cols)?;
        if found.as_ref().is_some_and(|known| *known != gains) {
            return None;
        }
        found = Some(gains);
    }
    found
}

/// γ² of the value's columns, scaled to mean 1.
fn gains(graph: &Graph, value: ir::ValueId, columns: usize) -> Option<Vec<f32>> {
    let (op, _) = graph.producer(value)?;
    let constant = match graph.op(op).kind.key() {
        ("", "Mul") => {
            let slot = usize::from(graph.input(op, 0).is_some_and(|v| graph.constant(v).is_none()));
            normalized(graph, op, 1 - slot).then(|| graph.input(op, slot)).flatten()
        }
        ("", "RMSNormalization" | "SimplifiedLayerNormalization") => graph.input(op, 1),
        // The bias adds the same to every token; its share of the power is known too.
        ("", "LayerNormalization") => graph.input(op, 1),
        _ => None,
    }?;
    let tensor = graph.constant(constant)?;
    if tensor.elements() != columns || tensor.dims().last() != Some(&columns) {
        return None;
    }
    let mut squares: Vec<f64> = numbers::floats(tensor)?.iter().map(|v| v * v).collect();
    if let ("", "LayerNormalization") = graph.op(op).kind.key()
        && let Some(bias) = graph.input(op, 2).and_then(|v| graph.constant(v)).and_then(numbers::floats)
        && bias.len() == columns
    {
        squares.iter_mut().zip(&bias).for_each(|(square, b)| *square += b * b);
    }
    let mean = squares.iter().sum::<f64>() / columns as f64;
    (mean.is_finite() && mean > 0.0).then(|| squares.iter().map(|s| (s / mean) as f32).collect())
}

/// The value in a slot of a Mul is a normalized one: a product or quotient with something that has one number a token, such as
/// the reciprocal of the root of the mean square.
fn normalized(graph: &Graph, op: OpId, slot: usize) -> bool {
    let Some(value) = graph.input(op, slot) else { return false };
    // Exporters cast to float and back around it.
    let mut at = graph.producer(value);
    while let Some((cast, _)) = at.filter(|(op, _)| graph.op(*op).kind.is("Cast")) {
        at = graph.input(cast, 0).and_then(|v| graph.producer(v));
    }
    let Some((inner, _)) = at else { return false };
    let kind = &graph.op(inner).kind;
    let a_number_a_token = |slot: usize| {
        let shape = graph.input(inner, slot).and_then(|v| graph.value(v).shape());
        shape.is_some_and(|s| s.rank() > 1 && s.dims.last().and_then(ir::Dim::known) == Some(1))
    };
    match kind.key() {
        ("", "Mul" | "Div") => a_number_a_token(1) || (kind.is("Mul") && a_number_a_token(0)),
        ("", "LayerNormalization" | "RMSNormalization" | "SimplifiedLayerNormalization") => true,
        _ => false,
    }
}
