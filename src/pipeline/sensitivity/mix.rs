//! Plans of mixed precision: the same numbers as the plan of one precision, for a choice of groups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use ir::{Graph, Model};
use ops::Work;
use passes::quantize::choose::key_of;
use passes::quantize::plan::OpPlan;
use passes::quantize::storage::stored;
use passes::quantize::{Choices, Kernel, Precision, QuantPlan, ValuePlan, WeightPlan, choose};
use quant::Grid;

use super::super::quantize::{QuantizeOptions, base_plan};
use super::super::table::CalibrationTable;

/// Operators that switch precision together.
#[derive(Clone, Debug)]
pub struct Group {
    /// The key of its first product, or of its first operator: unique, and known to users.
    pub name: String,
    /// Keys of its operators, in the order of execution.
    pub ops: Vec<String>,
    /// Multiplications of one run.
    pub macs: u64,
    /// It holds a product: what only moves or combines values follows its neighbours.
    pub product: bool,
}

/// What mixed plans are made from.
pub struct Mixer<'a> {
    /// The simplified float model.
    pub model: &'a Model,
    /// The plan in which everything that can be is quantized, fitted.
    pub base: &'a QuantPlan,
    /// What the base was made with.
    pub options: &'a QuantizeOptions,
    /// The groups in the order of execution.
    pub groups: Vec<Group>,
    /// Precisions of every operator that the base leaves in float by choice of the user.
    float: BTreeSet<String>,
    /// The same with everything at another precision whose ranges are known ahead of time.
    further: BTreeMap<Precision, QuantPlan>,
    /// Weights in forms that the base plan has not, by operator: searching their scales takes a while.
    stored: Mutex<Stored>,
}

/// Planned weights by operator and precision; none where the operator has no weight that can be stored so.
type Stored = BTreeMap<(String, Precision), Option<Vec<WeightPlan>>>;

impl<'a> Mixer<'a> {
    /// Finds the groups.
    pub fn new(model: &'a Model, base: &'a QuantPlan, options: &'a QuantizeOptions) -> Mixer<'a> {
        let graph = model.main();
        let schedule = graph.schedule().unwrap_or_else(|_| graph.ops());
        let mut at: BTreeMap<usize, usize> = BTreeMap::new();
        let mut groups: Vec<Group> = Vec::new();
        let mut float = BTreeSet::new();
        let mut named = BTreeSet::new();
        for op in schedule {
            let key = key_of(graph, op);
            let Some(entry) = base.ops.get(&key) else { continue };
            if entry.precision == Precision::Float {
                float.insert(key);
                continue;
            }
            let index = *at.entry(entry.group).or_insert_with(|| {
                groups.push(Group { name: key.clone(), ops: Vec::new(), macs: 0, product: false });
                groups.len() - 1
            });
            let group = &mut groups[index];
            let product = ops::scheme(graph, op).is_some_and(|scheme| scheme.work == Work::Product);
            if product && named.insert(index) {
                group.name = key.clone();
            }
            group.product |= product;
            group.ops.push(key);
            group.macs += entry.macs;
        }
        Mixer { model, base, options, groups, float, further: BTreeMap::new(), stored: Mutex::default() }
    }

    /// Makes the plans of further precisions whose activations are rounded on grids of their own, as far as the target has
    /// kernels on their codes.
    ///
    /// # Errors
    /// As `base_plan`.
    pub fn with(mut self, precisions: &[Precision], table: &CalibrationTable) -> Result<Mixer<'a>> {
        for &precision in precisions {
            let new = precision.is_static() && precision != self.uniform();
            if new && self.options.target.kernel(precision) == Kernel::Integer {
                let options = QuantizeOptions { precision, activation: None, ..self.options.clone() };
                self.further.insert(precision, base_plan(self.model, table, &options)?);
            }
        }
        Ok(self)
    }

    /// What a plan that was fitted says of a value on this grid.
    fn known(&self, name: &str, grid: Grid) -> Option<&ValuePlan> {
        let plans = std::iter::once(self.base).chain(self.further.values());
        plans.filter_map(|plan| plan.values.get(name)).find(|value| value.grid == grid)
    }

    /// The precision of the base plan.
    pub fn uniform(&self) -> Precision {
        let of =
            |group: &Group| group.ops.first().and_then(|key| self.base.ops.get(key)).map(|op| op.precision);
        self.groups.iter().find_map(of).unwrap_or(Precision::Int8)
    }

    /// Whether a precision says something else of this group than the others do: weights alone need weights.
    pub fn allows(&self, group: &Group, precision: Precision) -> bool {
        if precision.is_storage() {
            return group.ops.iter().any(|key| self.weights(key, precision).is_some());
        }
        precision == Precision::Float || precision == self.uniform() || self.further.contains_key(&precision)
    }

    /// The weights of an operator in a form for computing in float; none if it has no such form.
    fn weights(&self, key: &str, precision: Precision) -> Option<Vec<WeightPlan>> {
        let known = self.base.weights.get(key)?;
        if precision == Precision::W8 {
            return Some(known.clone());
        }
        if !self.options.target.stores().contains(&precision) {
            return None;
        }
        let graph = self.model.main();
        let find = || {
            let (op, _) = graph.producer(graph.find(key)?)?;
            stored(graph, op, precision, self.options.target, self.options.per_tensor).ok()
        };
        let mut memory = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        memory.entry((key.to_string(), precision)).or_insert_with(find).clone()
    }

    /// The plan in which each group has the given precision.
    pub fn plan(&self, precisions: &[Precision]) -> QuantPlan {
        let mut overrides: BTreeMap<String, Precision> =
            self.float.iter().map(|key| (key.clone(), Precision::Float)).collect();
        let mut weights_only = Vec::new();
        for (group, &precision) in self.groups.iter().zip(precisions) {
            for key in &group.ops {
                if precision != self.uniform() {
                    let fixed = self.further.contains_key(&precision);
                    overrides.insert(key.clone(), if fixed { precision } else { Precision::Float });
                }
                if precision.is_storage()
                    && let Some(weights) = self.weights(key, precision)
                {
                    weights_only.push((key.clone(), precision, weights));
                }
            }
        }
        // Choosing again settles what stands between: an operator with a float neighbour may have to be float too.
        let mut plan = loop {
            let plan = self.choose(&overrides);
            let missing: Vec<&str> = plan
                .rounded()
                .filter(|(name, value)| self.known(name, value.grid).is_none())
                .map(|(name, _)| name)
                .collect();
            let before = overrides.len();
            for name in missing {
                self.readers(name).into_iter().for_each(|key| {
                    overrides.insert(key, Precision::Float);
                });
            }
            if overrides.len() == before {
                break plan;
            }
        };
        for (name, value) in plan.rounded_mut() {
            let Some(known) = self.known(name, value.grid) else { continue };
            let (class, reason) = (value.class, std::mem::take(&mut value.reason));
            *value = ValuePlan { class, reason, ..known.clone() };
        }
        for (key, weights) in &mut plan.weights {
            if let Some(known) = self.base.weights.get(key) {
                weights.clone_from(known);
            }
        }
        for (key, precision, weights) in weights_only {
            let reason = match precision {
                Precision::W4 => "4-bit weights, float activations",
                Precision::Fp16 => "weights in half precision, computed in float",
                _ => "8-bit weights, float activations",
            };
            if let Some(op) = plan.ops.get_mut(&key) {
                *op = OpPlan { precision, reason: reason.into(), ..op.clone() };
            }
            if weights.is_empty() {
                plan.weights.remove(&key);
            } else {
                plan.weights.insert(key.clone(), weights);
            }
            // The bias follows the scale of rounded data: there is none.
            plan.biases.remove(&key);
        }
        plan.equalized = self.base.equalized;
        // Groups keep the numbers of the base plan: reports and saved plans speak of those.
        for (key, op) in &mut plan.ops {
            if let Some(known) = self.base.ops.get(key) {
                op.group = known.group;
                if known.precision == Precision::Float {
                    op.reason.clone_from(&known.reason);
                }
                if known.precision != Precision::Float && op.precision == Precision::Float {
                    op.reason = match precisions_of(&self.groups, precisions, key) {
                        Some(Precision::Float) => {
                            "kept in float: quantizing it costs more accuracy than it saves".into()
                        }
                        _ => std::mem::take(&mut op.reason),
                    };
                }
            }
        }
        plan
    }

    fn choose(&self, overrides: &BTreeMap<String, Precision>) -> QuantPlan {
        let choices = Choices {
            precision: self.uniform(),
            overrides: overrides.clone(),
            per_tensor: self.options.per_tensor,
            activation: self.options.activation,
            weight: self.options.weight,
            ..Choices::new(self.options.target)
        };
        choose(self.model, &choices)
    }

    fn readers(&self, value: &str) -> Vec<String> {
        let graph = self.model.main();
        let Some(value) = graph.find(value) else { return Vec::new() };
        let readers = graph.uses(value).into_iter().map(|reader| reader.op);
        readers.chain(graph.producer(value).map(|(op, _)| op)).map(|op| key_of(graph, op)).collect()
    }

    /// Pairs of groups between which values pass: `(producer, reader, value)`.
    pub fn links(&self) -> Vec<(usize, usize, String)> {
        let graph = self.model.main();
        let owner = self.owners();
        let mut links = BTreeSet::new();
        for op in graph.ops() {
            let Some(&to) = owner.get(&key_of(graph, op)) else { continue };
            for input in graph.op_inputs(op).into_iter().flatten() {
                // Through operators of no group: activation functions that a product absorbs, moves in float.
                let mut value = input;
                for _ in 0..4 {
                    let Some((writer, _)) = graph.producer(value) else { break };
                    if let Some(&from) = owner.get(&key_of(graph, writer)) {
                        if from != to {
                            links.insert((from, to, name(graph, input)));
                        }
                        break;
                    }
                    match graph.input(writer, 0) {
                        Some(before) => value = before,
                        None => break,
                    }
                }
            }
        }
        links.into_iter().collect()
    }

    fn owners(&self) -> BTreeMap<String, usize> {
        let pairs = self.groups.iter().enumerate();
        pairs.flat_map(|(at, group)| group.ops.iter().map(move |key| (key.clone(), at))).collect()
    }
}

fn precisions_of(groups: &[Group], precisions: &[Precision], key: &str) -> Option<Precision> {
    let at = groups.iter().position(|group| group.ops.iter().any(|op| op == key))?;
    precisions.get(at).copied()
}

fn name(graph: &Graph, value: ir::ValueId) -> String {
    graph.value(value).name().to_string()
}
