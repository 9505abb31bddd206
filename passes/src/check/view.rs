//! The model as rules see it: operators of all graphs, and every QuantizeLinear and DequantizeLinear with its parameters.

use std::collections::HashMap;

use ir::{Attrs, DType, GraphId, Model, OpId, Shape, Tensor, ValueId};
use ops::infer::{Inferred, infer_model};

use super::{CheckOptions, Version};
use crate::driver::Scope;
use crate::numbers;

/// Constants are followed through this many copies.
const LONGEST: usize = 16;

/// An operator in its graph.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    pub(super) scope: Scope<'a>,
    pub(super) op: OpId,
}

impl<'a> Node<'a> {
    /// Domain and name.
    pub(super) fn key(self) -> (&'a str, &'a str) {
        self.scope.graph().op(self.op).kind.key()
    }

    /// The name in ONNX's own domain; empty for other domains.
    pub(super) fn name(self) -> &'a str {
        match self.key() {
            ("", name) => name,
            _ => "",
        }
    }

    pub(super) fn attrs(self) -> &'a Attrs {
        &self.scope.graph().op(self.op).attrs
    }

    pub(super) fn input(self, slot: usize) -> Option<ValueId> {
        self.scope.graph().input(self.op, slot)
    }

    pub(super) fn output(self) -> Option<ValueId> {
        self.scope.graph().output(self.op, 0)
    }

    pub(super) fn inputs(self) -> impl Iterator<Item = (usize, ValueId)> {
        let inputs = self.scope.graph().op_inputs(self.op).into_iter().enumerate();
        inputs.filter_map(|(slot, value)| Some((slot, value?)))
    }

    pub(super) fn outputs(self) -> impl Iterator<Item = ValueId> {
        self.scope.graph().op_outputs(self.op).into_iter().flatten()
    }

    pub(super) fn with(self, op: OpId) -> Node<'a> {
        Node { op, ..self }
    }

    /// The operator that writes the value.
    pub(super) fn producer(self, value: ValueId) -> Option<Node<'a>> {
        self.scope.graph().producer(value).map(|(op, _)| self.with(op))
    }

    /// The operators that read the value, with the slot; subgraphs that capture it have none.
    pub(super) fn readers(self, value: ValueId) -> Vec<(Node<'a>, Option<usize>)> {
        let uses = self.scope.graph().uses(value).into_iter();
        uses.map(|reader| {
            let slot = match reader.slot {
                ir::Slot::In(slot) => Some(slot as usize),
                _ => None,
            };
            (self.with(reader.op), slot)
        })
        .collect()
    }

    pub(super) fn is_graph_output(self, value: ValueId) -> bool {
        self.scope.graph().is_output(value)
    }

    /// How findings cite it.
    pub(super) fn cite(self) -> String {
        let op = self.scope.graph().op(self.op);
        match self.outputs().next() {
            Some(first) if op.name.is_empty() => {
                format!("{} of {:?}", op.kind, self.scope.graph().value(first).name())
            }
            _ => op.to_string(),
        }
    }

    pub(super) fn opset(self) -> i64 {
        self.scope.opset()
    }
}

/// A QuantizeLinear or DequantizeLinear, also of Microsoft's domain.
#[derive(Clone, Copy)]
pub(super) struct Link<'a> {
    pub(super) node: Node<'a>,
    /// QuantizeLinear.
    pub(super) quantizes: bool,
    /// Of Microsoft's domain.
    pub(super) contrib: bool,
}

/// The model.
pub(super) struct View<'a> {
    pub(super) model: &'a Model,
    pub(super) options: &'a CheckOptions,
    pub(super) links: Vec<Link<'a>>,
    at: HashMap<(GraphId, OpId), usize>,
    inferred: Inferred,
}

impl<'a> View<'a> {
    pub(super) fn new(model: &'a Model, options: &'a CheckOptions) -> View<'a> {
        let inferred = infer_model(model, &ops::infer::Options::default());
        let mut view = View { model, options, links: Vec::new(), at: HashMap::new(), inferred };
        let links: Vec<Link<'a>> = view.nodes().filter_map(link).collect();
        view.at = links.iter().enumerate().map(|(at, l)| ((l.node.scope.id, l.node.op), at)).collect();
        view.links = links;
        view
    }

    /// Every operator of every graph, in the order of the file.
    pub(super) fn nodes(&self) -> impl Iterator<Item = Node<'a>> + use<'a> {
        let model = self.model;
        model.graph_ids().into_iter().flat_map(move |id| {
            let scope = Scope { model, id };
            scope.graph().ops().into_iter().map(move |op| Node { scope, op })
        })
    }

    /// Operators of ONNX's own domain with one of these names.
    pub(super) fn named(&self, names: &'static [&'static str]) -> impl Iterator<Item = Node<'a>> + use<'a> {
        self.nodes().filter(move |node| names.contains(&node.name()))
    }

    /// The link that this operator is.
    pub(super) fn link(&self, node: Node<'a>) -> Option<Link<'a>> {
        self.at.get(&(node.scope.id, node.op)).map(|&at| self.links[at])
    }

    /// The DequantizeLinear that writes the value.
    pub(super) fn dequantized(&self, node: Node<'a>, value: ValueId) -> Option<Link<'a>> {
        self.link(node.producer(value)?).filter(|link| !link.quantizes)
    }

    /// The DequantizeLinear that writes this input.
    pub(super) fn dequantized_input(&self, node: Node<'a>, slot: usize) -> Option<Link<'a>> {
        self.dequantized(node, node.input(slot)?)
    }

    /// The QuantizeLinears that read the value.
    pub(super) fn roundings(&self, node: Node<'a>, value: ValueId) -> Vec<Link<'a>> {
        let readers = node.readers(value).into_iter().filter(|(_, slot)| *slot == Some(0));
        readers.filter_map(|(reader, _)| self.link(reader)).filter(|link| link.quantizes).collect()
    }

    /// The only reader of the value is a QuantizeLinear, and the value is no output.
    pub(super) fn only_rounded(&self, node: Node<'a>, value: ValueId) -> Option<Link<'a>> {
        let reader = node.scope.graph().sole_use(value)?;
        self.link(node.with(reader.op)).filter(|link| link.quantizes && reader.slot == ir::Slot::In(0))
    }

    /// The constant that the value always holds: an initializer, or what a Constant holds.
    pub(super) fn tensor(&self, node: Node<'a>, mut value: ValueId) -> Option<&'a Tensor> {
        for _ in 0..LONGEST {
            if let Some(tensor) = node.scope.constant(value) {
                return Some(tensor);
            }
            let producer = node.producer(value)?;
            match producer.name() {
                "Constant" => return producer.attrs().tensor("value"),
                "Identity" => value = producer.input(0)?,
                _ => return None,
            }
        }
        None
    }

    /// The value does not depend on the inputs, as far as an importer's own folding sees: a constant behind casts.
    pub(super) fn is_fixed(&self, node: Node<'a>, mut value: ValueId) -> bool {
        for _ in 0..LONGEST {
            if self.tensor(node, value).is_some() {
                return true;
            }
            let Some(producer) = node.producer(value) else { return false };
            match producer.name() {
                "Constant" => return true,
                "Cast" | "CastLike" | "Identity" => match producer.input(0) {
                    Some(input) => value = input,
                    None => return false,
                },
                _ => return false,
            }
        }
        false
    }

    pub(super) fn dtype(&self, node: Node<'a>, value: ValueId) -> Option<DType> {
        let (graph, value) = node.scope.defined(value);
        let known = self.model.graph(graph).value(value).dtype();
        known.or_else(|| self.inferred.ty(graph, value)?.dtype())
    }

    pub(super) fn shape(&self, node: Node<'a>, value: ValueId) -> Option<Shape> {
        if let Some(tensor) = self.tensor(node, value) {
            return Some(Shape::fixed(tensor.dims()));
        }
        let (graph, value) = node.scope.defined(value);
        let inferred = self.inferred.ty(graph, value).and_then(|ty| ty.shape().cloned());
        inferred.or_else(|| self.model.graph(graph).value(value).shape())
    }

    /// The sizes, if all are known.
    pub(super) fn shape_known(&self, node: Node<'a>, value: ValueId) -> Option<Vec<usize>> {
        self.shape(node, value)?.known()
    }

    /// The runtime is known to be at least this version.
    pub(super) fn at_least(&self, version: &[u32]) -> Option<bool> {
        self.options.runtime_version.as_ref().map(|found| *found >= Version::new(version))
    }
}

fn link(node: Node<'_>) -> Option<Link<'_>> {
    let (quantizes, contrib) = match node.key() {
        ("", "QuantizeLinear") => (true, false),
        ("", "DequantizeLinear") => (false, false),
        ("com.microsoft", "QuantizeLinear") => (true, true),
        ("com.microsoft", "DequantizeLinear") => (false, true),
        _ => return None,
    };
    Some(Link { node, quantizes, contrib })
}

impl<'a> Link<'a> {
    pub(super) fn input(self) -> Option<ValueId> {
        self.node.input(0)
    }

    pub(super) fn output(self) -> Option<ValueId> {
        self.node.output()
    }

    pub(super) fn scale(self) -> Option<ValueId> {
        self.node.input(1)
    }

    pub(super) fn zero(self) -> Option<ValueId> {
        self.node.input(2)
    }

    pub(super) fn scale_tensor(self, view: &View<'a>) -> Option<&'a Tensor> {
        view.tensor(self.node, self.scale()?)
    }

    pub(super) fn zero_tensor(self, view: &View<'a>) -> Option<&'a Tensor> {
        view.tensor(self.node, self.zero()?)
    }

    /// The scales, if they are constants of a type that models compute in.
    pub(super) fn scales(self, view: &View<'a>) -> Option<Vec<f64>> {
        numbers::floats(self.scale_tensor(view)?)
    }

    /// The zero points, if they are constant integers of at least 8 bits; one zero where there are none.
    pub(super) fn zeros(self, view: &View<'a>) -> Option<Vec<i64>> {
        match self.zero() {
            None => Some(vec![0]),
            Some(_) => integers(self.zero_tensor(view)?),
        }
    }

    pub(super) fn axis(self) -> Option<i64> {
        self.node.attrs().int("axis")
    }

    /// The axis as ONNX reads it, from the front.
    pub(super) fn axis_of(self, rank: usize) -> Option<usize> {
        crate::forms::axis(self.axis().unwrap_or(1), rank)
    }

    pub(super) fn block(self) -> i64 {
        self.node.attrs().int("block_size").unwrap_or(0)
    }

    /// One scale an index along the axis.
    pub(super) fn per_channel(self, view: &View<'a>) -> bool {
        self.block() == 0 && self.scale_count(view).is_some_and(|count| count > 1)
    }

    pub(super) fn scale_count(self, view: &View<'a>) -> Option<usize> {
        view.shape(self.node, self.scale()?)?.elements()
    }

    /// Element type of the codes.
    pub(super) fn code(self, view: &View<'a>) -> Option<DType> {
        if !self.quantizes {
            return view.dtype(self.node, self.input()?);
        }
        if let Some(zero) = self.zero() {
            return view.dtype(self.node, zero);
        }
        match self.node.attrs().int("output_dtype") {
            Some(code) if code != 0 => DType::from_code(i32::try_from(code).ok()?),
            _ => Some(DType::U8),
        }
    }

    /// The constant whose codes these are: the codes themselves or what is quantized to them.
    pub(super) fn weight(self, view: &View<'a>) -> Option<&'a Tensor> {
        let input = self.input()?;
        if let Some(tensor) = view.tensor(self.node, input) {
            return Some(tensor);
        }
        let source =
            view.link(self.node.producer(input)?).filter(|link| !self.quantizes && link.quantizes)?;
        view.tensor(source.node, source.input()?)
    }

    /// Sizes of what is quantized.
    pub(super) fn shape(self, view: &View<'a>) -> Option<Shape> {
        view.shape(self.node, self.input()?)
    }

    /// Scale and zero point are the same numbers.
    pub(super) fn same(self, other: Link<'a>, view: &View<'a>) -> bool {
        let equal = |a: Option<ValueId>, b: Option<ValueId>| match (a, b) {
            (Some(a), Some(b)) => {
                (self.node.scope.id == other.node.scope.id && a == b)
                    || match (view.tensor(self.node, a), view.tensor(other.node, b)) {
                        (Some(a), Some(b)) => a.dtype() == b.dtype() && a.bytes() == b.bytes(),
                        _ => false,
                    }
            }
            (None, None) => true,
            (Some(some), None) => zero_bytes(view.tensor(self.node, some)),
            (None, Some(some)) => zero_bytes(view.tensor(other.node, some)),
        };
        equal(self.scale(), other.scale()) && equal(self.zero(), other.zero())
    }
}

fn zero_bytes(tensor: Option<&Tensor>) -> bool {
    tensor.is_some_and(|tensor| tensor.bytes().iter().all(|&byte| byte == 0))
}

/// The elements of an integer tensor of 8 to 64 bits.
pub(super) fn integers(tensor: &Tensor) -> Option<Vec<i64>> {
    macro_rules! read {
        ($($variant:ident => $native:ty),*) => {
            match tensor.dtype() {
                $(DType::$variant => tensor.to_vec::<$native>().ok()?.into_iter().map(i64::from).collect(),)*
                _ => return None,
            }
        };
    }
    Some(read!(I8 => i8, U8 => u8, I16 => i16, U16 => u16, I32 => i32, I64 => i64))
}
