//! Which weights are quantized together: those that read the same value.

use std::collections::{BTreeMap, BTreeSet};

use ir::{Model, ValueId};
use passes::quantize::low_bit::{Reads, Site};
use passes::stages::Positions;

use super::method::Choice;
use super::options::{LowBitOptions, Targets};

/// Weights that are quantized together.
pub struct Group {
    /// What they read; more than one value where a weight has several readers.
    pub inputs: Vec<ValueId>,
    /// Indices of their sites.
    pub members: Vec<usize>,
    /// By site: the value that its product is added to.
    pub residuals: BTreeMap<usize, ValueId>,
}

/// Groups in the order in which their inputs are computed.
pub fn groups(
    model: &Model,
    sites: &[(Site, Choice)],
    positions: &Positions,
    options: &LowBitOptions,
    wanted: impl Fn(&Choice) -> bool,
) -> Vec<Group> {
    let mut members: BTreeMap<Vec<ValueId>, Vec<usize>> = BTreeMap::new();
    for (at, (site, choice)) in sites.iter().enumerate() {
        let outside = site.readers.iter().any(|r| r.is_product() && r.graph != model.main_id());
        if !wanted(choice) || !site.is_product() || outside {
            continue;
        }
        let inputs: BTreeSet<ValueId> = site.readers.iter().filter_map(|reader| reader.data(model)).collect();
        members.entry(inputs.into_iter().collect()).or_default().push(at);
    }
    let position = |values: &[ValueId]| values.iter().map(|&v| positions.of(v)).max().unwrap_or(0);
    let mut groups: Vec<Group> = members
        .into_iter()
        .map(|(inputs, members)| {
            let residual = |&at: &usize| {
                let other = residual(model, &sites[at].0)?;
                // One that is computed later could itself depend on this group.
                (positions.of(other) <= position(&inputs)).then_some((at, other))
            };
            let wanted = options.calibrated.targets == Targets::Residual;
            let residuals = members.iter().filter(|_| wanted).filter_map(residual).collect();
            Group { inputs, members, residuals }
        })
        .collect();
    groups.sort_by_key(|group| (position(&group.inputs), group.members[0]));
    groups
}

/// What the only product of a weight is added to: a value of the same shape that is not constant, behind a bias at most.
fn residual(model: &Model, site: &Site) -> Option<ValueId> {
    let [reader] = site.readers.iter().filter(|reader| reader.is_product()).collect::<Vec<_>>()[..] else {
        return None;
    };
    if reader.reads == Reads::Conv {
        return None;
    }
    let graph = model.main();
    let mut value = graph.output(reader.op, 0)?;
    loop {
        let found = graph.sole_use(value)?;
        if !graph.op(found.op).kind.is("Add") {
            return None;
        }
        let inputs = graph.op_inputs(found.op);
        let other = inputs.iter().flatten().copied().find(|&other| other != value)?;
        let sum = graph.output(found.op, 0)?;
        if graph.value(other).role() != ir::Role::Initializer {
            let same = graph.value(other).shape().is_some()
                && graph.value(other).shape() == graph.value(sum).shape();
            return same.then_some(other);
        }
        value = sum;
    }
}
