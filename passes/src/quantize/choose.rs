//! Decides which operators compute on integers and which values are rounded, before anything is measured.
//!
//! 1. *Products* (convolutions, matrix products with a constant weight) that the target runs on integers are chosen: that
//!    is where integers pay. Their inputs are rounded, and their outputs where the kernel can only write codes.
//! 2. *Arithmetic* between them (a residual add, a pool, a sigmoid) is chosen if every input comes rounded anyway and some
//!    reader takes the output rounded. Around anything else a pair of roundings costs time and accuracy for nothing.
//! 3. *Movement* is chosen where codes arrive and codes are wanted; input and output then share one scale, so the rounding
//!    after it disappears.
//!
//! An activation function that the target absorbs into the product before it stands between the product and the rounding.
//! Everything else stays float, each with its reason.

use std::collections::{BTreeMap, BTreeSet};

use ir::{DType, Graph, Model, OpId, Role as Origin, ValueId};
use ops::{Role, Scheme, Work, scheme};
use quant::{CodeType, Grid};

pub use super::keys::key_of;

use super::classes::Classes;
use super::cost::macs;
use super::plan::{BiasPlan, Conversion, Kernel, OpPlan, Precision, QuantPlan, ValuePlan, WeightPlan};
use crate::target::{Candidate, Support, Target};

/// What the user asks for.
pub struct Choices<'a> {
    /// The target.
    pub target: &'a dyn Target,
    /// The precision of operators that are quantized at all.
    pub precision: Precision,
    /// Precisions of single operators, by the name of the first output: these win. Where operators of two precisions meet,
    /// the value between them is converted.
    pub overrides: BTreeMap<String, Precision>,
    /// One scale a weight instead of one a channel.
    pub per_tensor: bool,
    /// Products of two activations too.
    pub computed_products: bool,
    /// No range is known ahead of time: data are rounded when the model runs, or not at all.
    pub dynamic: bool,
    /// The grid of activations instead of the target's own.
    pub activation: Option<Grid>,
    /// The grid of weights instead of the target's own.
    pub weight: Option<Grid>,
}

impl<'a> Choices<'a> {
    /// The target's own choices, with ranges known ahead of time.
    pub fn new(target: &'a dyn Target) -> Choices<'a> {
        Choices {
            target,
            precision: Precision::Int8,
            overrides: BTreeMap::new(),
            per_tensor: false,
            computed_products: false,
            dynamic: false,
            activation: None,
            weight: None,
        }
    }

    /// The precision that an operator has if it is quantized with ranges known ahead of time.
    fn precision_of(&self, key: &str) -> Precision {
        self.overrides.get(key).copied().filter(|asked| asked.is_static()).unwrap_or(self.precision)
    }

    /// The grid of the activations of a precision.
    fn activation_grid(&self, precision: Precision) -> Grid {
        if let Some(grid) = self.activation.filter(|_| precision == self.precision) {
            return grid;
        }
        let grid = self.target.activation_grid();
        match precision {
            Precision::A16w8 if grid.code.is_signed() => Grid { code: CodeType::I16, ..grid },
            Precision::A16w8 => Grid { code: CodeType::U16, ..grid },
            Precision::Fp8 => Grid::symmetric(CodeType::F8E4M3FN),
            _ => grid,
        }
    }

    /// The grid of the weights of a precision. 8-bit weights are the same beside activations of 8 and of 16 bits.
    fn weight_grid(&self, precision: Precision) -> Grid {
        let alike = (precision == Precision::Fp8) == (self.precision == Precision::Fp8);
        match self.weight.filter(|_| alike) {
            Some(grid) => grid,
            None if precision == Precision::Fp8 => Grid::symmetric(CodeType::F8E4M3FN),
            None => self.target.weight_grid(),
        }
    }
}

/// What is known of one operator while choosing.
struct Node<'a> {
    id: OpId,
    key: String,
    /// What it has if it is chosen.
    precision: Precision,
    scheme: Option<Scheme>,
    support: Support,
    /// Input slots that are rounded if the operator is chosen.
    slots: Vec<usize>,
    /// Chosen whatever its neighbours do.
    insists: bool,
    chosen: bool,
    reason: String,
    graph: &'a Graph,
}

impl Node<'_> {
    fn rounded(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.slots.iter().filter_map(|&slot| self.graph.input(self.id, slot))
    }

    fn data_inputs(&self) -> Vec<ValueId> {
        self.rounded().filter(|&value| self.graph.constant(value).is_none()).collect()
    }

    /// Constants that stand where activations may: rounded like these. Weights have a plan of their own.
    fn constant_operands(&self) -> Vec<ValueId> {
        match &self.scheme {
            Some(scheme) if !matches!(scheme.work, Work::Product | Work::Lookup) => self
                .rounded()
                .filter(|&value| self.graph.constant(value).is_some_and(|t| t.dtype() == DType::F32))
                .collect(),
            _ => Vec::new(),
        }
    }

    fn outputs(&self) -> Vec<(usize, ValueId)> {
        let Some(scheme) = &self.scheme else { return Vec::new() };
        let outputs = self.graph.op_outputs(self.id).into_iter().enumerate();
        outputs
            .filter(|(slot, _)| scheme.output(*slot) != Role::Keep)
            .filter_map(|(slot, v)| Some((slot, v?)))
            .collect()
    }
}

/// Makes the plan. Ranges, scales and zero points are empty: see [`super::fit`].
pub fn choose(model: &Model, choices: &Choices<'_>) -> QuantPlan {
    let graph = model.main();
    let schedule = graph.schedule().unwrap_or_else(|_| graph.ops());
    let mut nodes: BTreeMap<OpId, Node<'_>> =
        schedule.iter().map(|&id| (id, classify(graph, id, choices))).collect();
    let absorbed = absorb(graph, &schedule, &nodes, choices.target);
    // A function within another operator's kernel takes and gives no codes of its own.
    for function in absorbed.values() {
        if let Some(node) = nodes.get_mut(function) {
            node.chosen = false;
        }
    }
    let needs = settle(graph, &schedule, &mut nodes, &absorbed);
    let (mut plan, mut groups) = write(graph, &schedule, &nodes, &absorbed, &needs, choices);
    super::dynamic::choose(&mut plan, model, choices, &mut groups);
    plan
}

fn classify<'a>(graph: &'a Graph, id: OpId, choices: &Choices<'_>) -> Node<'a> {
    let key = key_of(graph, id);
    let scheme = scheme(graph, id);
    let mut node = Node {
        id,
        precision: choices.precision_of(&key),
        key,
        scheme: None,
        support: Support::Float(""),
        slots: Vec::new(),
        insists: false,
        chosen: false,
        reason: String::new(),
        graph,
    };
    let Some(found) = scheme else {
        node.reason = "cannot be quantized".into();
        return node;
    };
    let candidate = Candidate { graph, op: id, scheme: &found };
    node.support = choices.target.support(candidate);
    node.slots = (0..graph.op(id).input_count())
        .filter(|&slot| matches!(found.input(slot), Role::Data | Role::Weight { .. }))
        .filter(|&slot| choices.target.rounds(candidate, slot))
        .collect();
    // Sizes and indices run through the same operators as data: only what is known to be float is worth insisting on.
    let float =
        |slot: &usize| graph.input(id, *slot).is_some_and(|v| graph.value(v).dtype() == Some(DType::F32));
    node.insists = node.slots.iter().all(float) && choices.target.insists(candidate);
    let weights = candidate.weight_slots();
    let asked = choices.overrides.get(&node.key).copied();
    node.reason = if asked == Some(Precision::Float) {
        "kept in float by choice".into()
    } else if found.work == Work::Lookup {
        "picks among constants".into()
    } else if choices.dynamic || asked.is_some_and(|asked| asked == Precision::Dynamic || asked.is_storage())
    {
        "no range of its data is known ahead of time".into()
    } else if let Support::Float(why) = node.support {
        why.into()
    } else if !graph.op_inputs(id).iter().flatten().all(|&value| float32(graph, value)) {
        "its data are not float32".into()
    } else if found.work == Work::Product
        && weights.is_empty()
        && !choices.computed_products
        && !choices.target.multiplies_activations()
    {
        "both operands are computed: little weight to save, much rounding".into()
    } else if !beside_nothing(graph, candidate, &node.slots, &node.support, choices.target) {
        format!("{} cannot load a rounding beside its neighbour", choices.target.name())
    } else if weights.iter().any(|&slot| !finite(graph, id, slot)) {
        "the weight holds NaN or infinity".into()
    } else {
        node.chosen = true;
        match found.work {
            Work::Product => "product with a constant weight".into(),
            Work::Arithmetic => "between quantized values".into(),
            Work::Movement | Work::Lookup => "moves quantized values".into(),
        }
    };
    node.scheme = Some(found);
    node
}

/// Every value that would be rounded for the operator may be.
fn beside_nothing(
    graph: &Graph,
    candidate: Candidate<'_>,
    slots: &[usize],
    support: &Support,
    target: &dyn Target,
) -> bool {
    let inputs = slots.iter().filter_map(|&slot| graph.input(candidate.op, slot));
    if !inputs.filter(|&value| graph.constant(value).is_none()).all(|value| target.rounds_value(graph, value))
    {
        return false;
    }
    let outputs = graph.op_outputs(candidate.op).into_iter().enumerate();
    let written =
        outputs.filter(|(slot, _)| candidate.scheme.output(*slot) != Role::Keep).filter_map(|(_, v)| v);
    *support != Support::Codes
        || written.into_iter().all(|value| {
            // A function that the operator absorbs is rounded in its place.
            let last = match graph.uses(value)[..] {
                [reader] if target.absorbs(candidate, reader.op) => {
                    graph.output(reader.op, 0).unwrap_or(value)
                }
                _ => value,
            };
            target.rounds_value(graph, last)
        })
}

/// Float32, or no number that is rounded at all (sizes, conditions).
fn float32(graph: &Graph, value: ValueId) -> bool {
    graph.value(value).dtype().is_none_or(|dtype| dtype == DType::F32 || !dtype.is_float())
}

pub(super) fn finite(graph: &Graph, op: OpId, slot: usize) -> bool {
    let Some(tensor) = graph.input(op, slot).and_then(|value| graph.constant(value)) else { return false };
    if tensor.dtype() != DType::F32 {
        return tensor.to_vec::<f32>().is_ok_and(|values| values.iter().all(|v| v.is_finite()));
    }
    // Weights may be large: no copy, and no branch within a piece.
    let odd = |bytes: &[u8; 4]| !f32::from_ne_bytes(*bytes).is_finite();
    tensor
        .bytes()
        .as_chunks::<4>()
        .0
        .chunks(4096)
        .all(|piece| !piece.iter().fold(false, |any, b| any | odd(b)))
}

/// Products followed by one activation function and nothing else: the output that is rounded is the function's.
fn absorb(
    graph: &Graph,
    schedule: &[OpId],
    nodes: &BTreeMap<OpId, Node<'_>>,
    target: &dyn Target,
) -> BTreeMap<OpId, OpId> {
    let mut absorbed = BTreeMap::new();
    let mut functions = BTreeSet::new();
    for id in schedule {
        let node = &nodes[id];
        if functions.contains(id) {
            continue;
        }
        let Some(scheme) = node.scheme.as_ref().filter(|scheme| node.chosen && scheme.work != Work::Movement)
        else {
            continue;
        };
        let Some(output) = graph.output(*id, 0) else { continue };
        let readers = graph.uses(output);
        if let [reader] = readers[..]
            && !graph.is_output(output)
            && target.absorbs(Candidate { graph, op: *id, scheme }, reader.op)
            && graph.input(reader.op, 0) == Some(output)
        {
            absorbed.insert(*id, reader.op);
            functions.insert(reader.op);
        }
    }
    absorbed
}

/// The value that is rounded for the output of an operator: its own, or that of the function it absorbs.
fn rounded_output(graph: &Graph, absorbed: &BTreeMap<OpId, OpId>, op: OpId, output: ValueId) -> ValueId {
    absorbed.get(&op).and_then(|&function| graph.output(function, 0)).unwrap_or(output)
}

/// Removes choices that do not hold until all do, and returns the values to round with who wants it.
fn settle(
    graph: &Graph,
    schedule: &[OpId],
    nodes: &mut BTreeMap<OpId, Node<'_>>,
    absorbed: &BTreeMap<OpId, OpId>,
) -> BTreeMap<ValueId, OpId> {
    loop {
        let needs = needs(graph, schedule, nodes, absorbed);
        let mut dropped = Vec::new();
        for id in schedule {
            let node = &nodes[id];
            let Some(scheme) = node.scheme.as_ref().filter(|s| node.chosen && s.work != Work::Product) else {
                continue;
            };
            if let Some(why) = objection(graph, nodes, &needs, absorbed, node, scheme) {
                dropped.push((*id, why));
            }
        }
        if dropped.is_empty() {
            return needs;
        }
        for (id, why) in dropped {
            let node = nodes.get_mut(&id).expect("the operator is in the table");
            node.chosen = false;
            node.reason = why.into();
        }
    }
}

/// Why an operator that is no product should stay float.
fn objection(
    graph: &Graph,
    nodes: &BTreeMap<OpId, Node<'_>>,
    needs: &BTreeMap<ValueId, OpId>,
    absorbed: &BTreeMap<OpId, OpId>,
    node: &Node<'_>,
    scheme: &Scheme,
) -> Option<&'static str> {
    let inputs = node.data_inputs();
    if inputs.is_empty() {
        return Some("it reads only constants");
    }
    if node.insists {
        return None;
    }
    if node.rounded().any(|value| graph.constant(value).is_some() && !coarse(graph, value)) {
        return Some("a constant operand would lose too much on one scale");
    }
    // A value arrives rounded if something else than this operator wants it so.
    let arrives = |value: &ValueId| {
        let wanted = |reader: &ir::Use| reader.op != node.id && wants(nodes, reader.op, *value);
        let codes = graph.producer(*value).is_some_and(|(op, _)| {
            let writer =
                absorbed.iter().find(|(_, function)| **function == op).map_or(op, |(product, _)| *product);
            nodes[&writer].chosen && nodes[&writer].support == Support::Codes
        });
        codes || (needs.contains_key(value) && graph.uses(*value).iter().any(wanted))
    };
    let movement = scheme.work == Work::Movement;
    let arriving = inputs.iter().filter(|value| arrives(value)).count();
    if !movement && arriving < inputs.len() {
        return Some("an input is not quantized");
    }
    let mut outputs =
        node.outputs().into_iter().map(|(_, value)| rounded_output(graph, absorbed, node.id, value));
    let leaves = outputs.any(|value| {
        graph.uses(value).iter().any(|reader| nodes[&reader.op].chosen && wants(nodes, reader.op, value))
    });
    if !leaves {
        return Some("nothing reads its output quantized");
    }
    None
}

/// A chosen operator takes this value rounded.
fn wants(nodes: &BTreeMap<OpId, Node<'_>>, op: OpId, value: ValueId) -> bool {
    let node = &nodes[&op];
    node.chosen && node.rounded().any(|input| input == value)
}

/// A constant that one 8-bit scale serves well: rounding noise at least 30 dB below it. Below that a per-channel constant
/// (a normalization's factor) would be the weakest link of the model.
fn coarse(graph: &Graph, value: ValueId) -> bool {
    let Some(values) = graph.constant(value).and_then(|tensor| tensor.to_vec::<f32>().ok()) else {
        return false;
    };
    let (low, high) = quant::quantize::min_max(&values);
    let step = (f64::from(high.max(0.0)) - f64::from(low.min(0.0))) / 255.0;
    let power = values.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>() / values.len().max(1) as f64;
    power.is_finite() && step * step / 12.0 * 1000.0 <= power
}

/// Values that the chosen operators want rounded, with one of them each.
fn needs(
    graph: &Graph,
    schedule: &[OpId],
    nodes: &BTreeMap<OpId, Node<'_>>,
    absorbed: &BTreeMap<OpId, OpId>,
) -> BTreeMap<ValueId, OpId> {
    let mut needs = BTreeMap::new();
    for id in schedule {
        let node = &nodes[id];
        if !node.chosen {
            continue;
        }
        for value in node.data_inputs().into_iter().chain(node.constant_operands()) {
            needs.entry(value).or_insert(*id);
        }
        if node.support == Support::Codes {
            for (_, output) in node.outputs() {
                needs.entry(rounded_output(graph, absorbed, *id, output)).or_insert(*id);
            }
        }
    }
    needs
}

/// Writes the decisions down.
fn write(
    graph: &Graph,
    schedule: &[OpId],
    nodes: &BTreeMap<OpId, Node<'_>>,
    absorbed: &BTreeMap<OpId, OpId>,
    needs: &BTreeMap<ValueId, OpId>,
    choices: &Choices<'_>,
) -> (QuantPlan, Classes) {
    let mut plan = QuantPlan { target: choices.target.name().to_string(), ..QuantPlan::default() };
    let mut classes = Classes::default();
    let mut groups = Classes::default();
    let name = |value: ValueId| graph.value(value).name().to_string();
    let grids: BTreeMap<ValueId, Grids> =
        needs.keys().map(|&value| (value, Grids::of(graph, nodes, absorbed, value, choices))).collect();
    // Values share parameters grid by grid: what a value is on a second grid is a class of its own.
    let class_name = |value: ValueId, precision: Option<Precision>| {
        let first = grids.get(&value).map(|grids| grids.first);
        match precision.map(|precision| choices.activation_grid(precision)) {
            Some(grid) if first.is_some_and(|first| first != grid) => {
                format!("{}\n{}", name(value), grid.code.name())
            }
            _ => name(value),
        }
    };
    let functions: BTreeSet<OpId> =
        absorbed.iter().filter(|(op, _)| nodes[op].chosen).map(|(_, f)| *f).collect();
    for id in schedule {
        let node = &nodes[id];
        let Some(scheme) = &node.scheme else { continue };
        let candidate = Candidate { graph, op: *id, scheme };
        let members: Vec<ValueId> =
            node.data_inputs().into_iter().chain(node.outputs().into_iter().map(|(_, v)| v)).collect();
        let all_rounded = members.iter().all(|value| needs.contains_key(value));
        if (node.chosen || all_rounded) && choices.target.unifies(candidate) {
            let precision = node.chosen.then_some(node.precision);
            let names: Vec<String> = members.iter().map(|&value| class_name(value, precision)).collect();
            names.windows(2).for_each(|pair| classes.unite(&pair[0], &pair[1]));
        }
        if !node.chosen {
            continue;
        }
        if scheme.work == Work::Product {
            quantize_weights(&mut plan, candidate, &node.key, node.precision, choices);
        }
        for (slot, output) in node.outputs() {
            if let Role::Moves(from) = scheme.output(slot)
                && let Some(input) = graph.input(*id, from)
            {
                let output = rounded_output(graph, absorbed, *id, output);
                let precision = Some(node.precision);
                classes.unite(&class_name(input, precision), &class_name(output, precision));
            }
        }
        // Whatever moves or computes between products switches with the operator it reads from.
        if scheme.work != Work::Product {
            for value in node.data_inputs() {
                if let Some((writer, _)) = graph.producer(value)
                    && nodes[&writer].chosen
                {
                    groups.unite(&nodes[&writer].key, &node.key);
                }
            }
        }
    }
    for (&value, &asker) in needs {
        let entry = |grid: Grid, class: usize, reason: String| {
            let fixed = graph.producer(value).and_then(|(op, slot)| {
                let scheme = nodes[&op].scheme.as_ref()?;
                let Role::Fixed(low, high) = scheme.output(slot) else { return None };
                Some(choices.target.fixed_range(Candidate { graph, op, scheme }, grid, (low, high)))
            });
            let source = if fixed.is_some() { "fixed" } else { "" }.to_string();
            ValuePlan {
                grid,
                class,
                range: fixed,
                params: None,
                source,
                sqnr_db: None,
                clipped: None,
                reason,
            }
        };
        let grids = &grids[&value];
        let class = classes.class(&class_name(value, None));
        plan.values.insert(name(value), entry(grids.first, class, format!("for {}", graph.op(asker))));
        for (precision, readers) in &grids.further {
            let class = classes.class(&class_name(value, Some(*precision)));
            let to = entry(choices.activation_grid(*precision), class, format!("for readers in {precision}"));
            let conversion = Conversion { readers: readers.clone(), to };
            plan.conversions.entry(name(value)).or_default().push(conversion);
        }
    }
    for id in schedule {
        let node = &nodes[id];
        let absorbed_function = functions.contains(id);
        let refused = choices.target.refuses(graph, *id);
        let rounded_neighbour = || {
            graph.op_inputs(*id).iter().chain(&graph.op_outputs(*id)).flatten().any(|v| needs.contains_key(v))
        };
        let commutes = |scheme| choices.target.commutes(Candidate { graph, op: *id, scheme });
        let kernel = match &node.scheme {
            _ if refused.is_some() => Kernel::Fails,
            Some(scheme) if node.chosen && scheme.work == Work::Movement => Kernel::Moves,
            Some(_) if node.chosen => choices.target.kernel(node.precision),
            _ if absorbed_function => Kernel::Moves,
            Some(scheme) if commutes(scheme) && rounded_neighbour() => Kernel::Moves,
            _ => Kernel::Float,
        };
        let op = graph.op(*id);
        let entry = OpPlan {
            node: op.name.clone(),
            kind: op.kind.to_string(),
            precision: if node.chosen { node.precision } else { Precision::Float },
            kernel,
            group: groups.class(&node.key),
            reason: match refused {
                Some(why) => format!("{}; {why}", node.reason),
                None if absorbed_function => "absorbed by the operator before it".into(),
                None => node.reason.clone(),
            },
            macs: macs(graph, *id),
        };
        plan.ops.insert(node.key.clone(), entry);
    }
    (plan, groups)
}

/// The grids of one value.
struct Grids {
    /// What it is rounded to first: what the operator before it writes, or the widest that a reader wants.
    first: Grid,
    /// Readers of other precisions, by their keys.
    further: Vec<(Precision, Vec<String>)>,
}

impl Grids {
    fn of(
        graph: &Graph,
        nodes: &BTreeMap<OpId, Node<'_>>,
        absorbed: &BTreeMap<OpId, OpId>,
        value: ValueId,
        choices: &Choices<'_>,
    ) -> Grids {
        let mut read: BTreeMap<Precision, Vec<String>> = BTreeMap::new();
        for reader in graph.uses(value) {
            if wants(nodes, reader.op, value) {
                let node = &nodes[&reader.op];
                let keys = read.entry(node.precision).or_default();
                if !keys.contains(&node.key) {
                    keys.push(node.key.clone());
                }
            }
        }
        let writer = graph.producer(value).map(|(op, _)| {
            absorbed.iter().find(|(_, function)| **function == op).map_or(op, |(product, _)| *product)
        });
        let writer =
            writer.map(|op| &nodes[&op]).filter(|node| node.chosen && node.support == Support::Codes);
        let bits = |precision: &Precision| choices.activation_grid(*precision).code.bits();
        let first = writer
            .map(|node| node.precision)
            // The first of the widest: a narrow grid behind a wide one loses nothing that matters.
            .or_else(|| {
                read.keys().copied().max_by_key(|precision| (bits(precision), std::cmp::Reverse(*precision)))
            })
            .unwrap_or(choices.precision);
        let first_grid = choices.activation_grid(first);
        read.retain(|precision, _| choices.activation_grid(*precision) != first_grid);
        Grids { first: first_grid, further: read.into_iter().collect() }
    }
}

pub(super) fn quantize_weights(
    plan: &mut QuantPlan,
    candidate: Candidate<'_>,
    key: &str,
    precision: Precision,
    choices: &Choices<'_>,
) {
    let Candidate { graph, op, scheme } = candidate;
    let name = |slot: usize| graph.input(op, slot).map(|value| graph.value(value).name().to_string());
    let mut weights = Vec::new();
    for slot in candidate.weight_slots() {
        let Role::Weight { channel, .. } = scheme.input(slot) else { continue };
        let axis =
            if choices.per_tensor { None } else { choices.target.weight_axis(candidate, slot, channel) };
        let grid = choices.weight_grid(precision);
        let value = name(slot).unwrap_or_default();
        weights.push(WeightPlan { value, slot, grid, axis, block: None, scale_factors: Vec::new() });
    }
    let bias = (0..graph.op(op).input_count()).find(|&slot| scheme.input(slot) == Role::Bias);
    if let (Some(bias), [weight]) = (bias, &weights[..])
        && choices.target.quantizes_bias()
        && precision != Precision::Fp8
        && candidate.is_constant(bias)
        && let Some(value) = name(bias)
    {
        // The data operand is the other one of the product.
        let data_slot = if weight.slot == 0 { 1 } else { 0 };
        plan.biases
            .insert(key.to_string(), BiasPlan { value, slot: bias, data_slot, weight_slot: weight.slot });
    }
    plan.weights.insert(key.to_string(), weights);
}

/// The value is a graph input or computed: something calibration can see.
pub fn is_observable(graph: &Graph, value: ValueId) -> bool {
    matches!(graph.value(value).role(), Origin::Input | Origin::Computed)
}
