//! Finds the weights that can be stored in few bits, and who reads them.
//!
//! - the constant right side of a MatMul, also behind a Transpose, a Gemm's (both `transB`), a 1×1 convolution's;
//! - the table of a Gather along its first axis (embeddings);
//! - an embedding and a head that hold the same numbers, even if an exporter transposed one, are one weight with two readers;
//! - weights that inner graphs read from outside, and their own.
//!
//! A weight is found only if every reader can read codes: otherwise the float weight would have to stay beside them.

use std::collections::{BTreeMap, BTreeSet};

use ir::{DType, Graph, GraphId, Model, OpId, Slot, Tensor, ValueId};
use ops::scheme::Work;
use quant::layout::blocked::Order;
use quant::round::ScaleType;
use quant::weight::Stored;

use crate::driver::Scope;
use crate::numbers;

/// How an operator reads a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// `MatMul(x, W)`, W `[K, N]`.
    MatMul,
    /// `MatMul(x, Transpose(W))`, W `[N, K]`.
    Transposed,
    /// `Gemm(x, W, bias?)`.
    Gemm,
    /// `Conv(x, W, bias?)`, W `[N, K, 1, 1]`.
    Conv,
    /// `Gather(W, indices)`, W `[N, K]`.
    Rows,
}

impl Reads {
    /// Axes of the data behind that of the columns: height and width, where the columns are channels.
    pub(super) fn axes_behind(self) -> usize {
        if self == Reads::Conv { 2 } else { 0 }
    }
}

/// One operator that reads a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    /// The graph of the operator.
    pub graph: GraphId,
    /// The operator.
    pub op: OpId,
    /// How.
    pub reads: Reads,
}

impl Reader {
    /// Multiplies by the weight, and does not only pick rows.
    pub fn is_product(&self) -> bool {
        self.reads != Reads::Rows
    }

    /// What is multiplied by the weight; none for a picker of rows.
    pub fn data(&self, model: &Model) -> Option<ValueId> {
        self.is_product().then(|| model.graph(self.graph).input(self.op, 0)).flatten()
    }
}

/// A weight `[N, K]` and its readers.
#[derive(Clone, Debug)]
pub struct Site {
    /// The constant's name.
    pub name: String,
    /// Where it is defined.
    pub graph: GraphId,
    /// The constant.
    pub value: ValueId,
    /// N, the number of output channels or of rows of a table.
    pub rows: usize,
    /// K, the inputs of one output channel or the length of a row.
    pub cols: usize,
    /// How the constant lies in memory.
    pub order: Order,
    /// Who reads it, in the order of the model.
    pub readers: Vec<Reader>,
    /// Other constants that hold the same numbers, transposed.
    pub copies: Vec<(GraphId, ValueId)>,
}

/// A constant that looks like a weight and stays float.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The constant's name.
    pub name: String,
    /// Elements.
    pub elements: usize,
    /// Why.
    pub why: String,
}

impl Site {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.rows.saturating_mul(self.cols)
    }

    /// The constant's elements. None if the constant is gone.
    pub fn tensor<'m>(&self, model: &'m Model) -> Option<&'m Tensor> {
        model.graph(self.graph).constant(self.value)
    }

    /// The elements as they lie.
    pub fn stored<'m>(&self, model: &'m Model) -> Option<Stored<'m>> {
        let tensor = self.tensor(model)?;
        Some(Stored::new(tensor.bytes(), scale_type(tensor.dtype())?))
    }

    /// Some reader multiplies.
    pub fn is_product(&self) -> bool {
        self.readers.iter().any(Reader::is_product)
    }

    /// Some reader picks rows.
    pub fn is_table(&self) -> bool {
        self.readers.iter().any(|reader| !reader.is_product())
    }
}

/// The type of scales that belongs to a weight's type; none for types that are not weights.
pub(super) fn scale_type(dtype: DType) -> Option<ScaleType> {
    match dtype {
        DType::F32 => Some(ScaleType::F32),
        DType::F16 => Some(ScaleType::F16),
        DType::BF16 => Some(ScaleType::Bf16),
        _ => None,
    }
}

/// The element type of scales.
pub(super) fn dtype_of(scale: ScaleType) -> DType {
    match scale {
        ScaleType::F16 => DType::F16,
        ScaleType::Bf16 => DType::BF16,
        _ => DType::F32,
    }
}

/// What one use of a constant asks of it.
enum Use {
    As(Reader, Order, usize, usize),
    No(String),
}

/// Every weight of at least `least` elements, in the order of their first readers, and the candidates that stay float.
pub fn find(model: &Model, least: usize) -> (Vec<Site>, Vec<Kept>) {
    let mut uses: BTreeMap<(GraphId, ValueId), Vec<Use>> = BTreeMap::new();
    let mut first = Vec::new();
    for graph in model.graph_ids() {
        let scope = Scope { model, id: graph };
        for op in scope.graph().schedule().unwrap_or_else(|_| scope.graph().ops()) {
            for (slot, value) in scope.graph().op_inputs(op).into_iter().enumerate() {
                let Some(value) = value else { continue };
                let Some(tensor) = scope.constant(value) else { continue };
                if scale_type(tensor.dtype()).is_none() || tensor.rank() < 2 || tensor.elements() < least {
                    continue;
                }
                let key = scope.defined(value);
                for found in look(scope, op, slot, tensor) {
                    let known = uses.entry(key).or_insert_with(|| {
                        first.push(key);
                        Vec::new()
                    });
                    known.push(found);
                }
            }
        }
    }
    let (mut sites, mut kept) = (Vec::new(), Vec::new());
    for key in first {
        let found = uses.remove(&key).unwrap_or_default();
        match site(model, key, found) {
            Ok(site) => sites.push(site),
            Err(Some(why)) => {
                let value = model.graph(key.0).value(key.1);
                let elements = value.data.as_ref().map_or(0, Tensor::elements);
                kept.push(Kept { name: value.name().to_string(), elements, why });
            }
            Err(None) => {}
        }
    }
    tie(model, &mut sites);
    (sites, kept)
}

/// Constants that hold codes already, with the operators that read them, in the order of the model.
pub fn already_coded(model: &Model) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for graph in model.graph_ids() {
        let scope = Scope { model, id: graph };
        for op in scope.graph().ops() {
            let slots: &[usize] = match scope.graph().op(op).kind.key() {
                (
                    "com.microsoft",
                    "MatMulNBits" | "MatMulBnb4" | "MatMulIntegerToFloat" | "DynamicQuantizeMatMul",
                ) => &[1],
                ("com.microsoft", "GatherBlockQuantized") | ("", "DequantizeLinear") => &[0],
                ("", "MatMulInteger" | "ConvInteger") => &[1],
                ("", "QLinearMatMul" | "QLinearConv") => &[3],
                _ => continue,
            };
            for value in slots.iter().filter_map(|&slot| scope.graph().input(op, slot)) {
                if scope.constant(value).is_some_and(|tensor| tensor.rank() > 1) {
                    let operator = scope.graph().op(op).kind.name.to_string();
                    found.push((scope.graph().value(value).name().to_string(), operator));
                }
            }
        }
    }
    found
}

/// All uses together; an error without a reason if no use is one of a weight.
fn site(model: &Model, (graph, value): (GraphId, ValueId), uses: Vec<Use>) -> Result<Site, Option<String>> {
    let defined = model.graph(graph).value(value);
    if !uses.iter().any(|found| matches!(found, Use::As(..))) {
        return Err(uses.into_iter().find_map(|found| match found {
            Use::No(why) if !why.is_empty() => Some(why),
            _ => None,
        }));
    }
    if model.graph(graph).is_output(value) {
        return Err(Some("it is an output of the model".into()));
    }
    let mut readers = Vec::new();
    let mut shape = None;
    for found in uses {
        match found {
            Use::As(reader, order, rows, cols) => {
                if shape.is_some_and(|known| known != (order, rows, cols)) {
                    return Err(Some("its readers take it one way and the other".into()));
                }
                shape = Some((order, rows, cols));
                readers.push(reader);
            }
            Use::No(why) if why.is_empty() => {
                return Err(Some("an operator other than a product reads it too".into()));
            }
            Use::No(why) => return Err(Some(why)),
        }
    }
    let (order, rows, cols) = shape.ok_or(None)?;
    let name = defined.name().to_string();
    Ok(Site { name, graph, value, rows, cols, order, readers, copies: Vec::new() })
}

/// What slot `slot` of an operator, which holds this constant, asks of it. More than one answer behind a Transpose.
fn look(scope: Scope<'_>, op: OpId, slot: usize, tensor: &Tensor) -> Vec<Use> {
    let node = scope.graph().op(op);
    let dims = tensor.dims();
    let reader = |op, reads| Reader { graph: scope.id, op, reads };
    let no = |why: &str| vec![Use::No(why.to_string())];
    if !node.kind.domain().is_empty() {
        return no("");
    }
    match (&*node.kind.name, slot) {
        ("MatMul", 1) => match *dims {
            [k, n] if takes_matrix(scope, op) => vec![Use::As(reader(op, Reads::MatMul), Order::Kn, n, k)],
            [_, _] => no("it is multiplied by a vector"),
            _ => no("it is a stack of matrices"),
        },
        ("MatMul", 0) => no("it is the left side of a product"),
        ("Gemm", 1) => gemm(scope, op, dims, reader(op, Reads::Gemm)),
        ("Conv", 1) => match *dims {
            [n, k, 1, 1] if is_pointwise(scope, op, k) => {
                vec![Use::As(reader(op, Reads::Conv), Order::Nk, n, k)]
            }
            _ => no("the convolution is not 1 × 1 of stride 1 without padding and groups"),
        },
        ("Gather", 0) => match *dims {
            [n, k] if node.attrs.int("axis").unwrap_or(0) == 0 => {
                match only_factors(scope, op) && of_positions(tensor, k) {
                    true => no("its rows are factors of activations, as those of rotary tables are"),
                    false => vec![Use::As(reader(op, Reads::Rows), Order::Nk, n, k)],
                }
            }
            _ => no("it is not gathered by rows"),
        },
        ("Transpose", 0) => transposed(scope, op, dims).unwrap_or_else(|| no("")),
        _ => no(""),
    }
}

/// The rows that a Gather picks are, moved about at most, only multiplied with computed values element by element: the table is
/// one of factors.
fn only_factors(scope: Scope<'_>, op: OpId) -> bool {
    /// Operators between the table and its products; more are no rotary table's.
    const MOST: usize = 16;
    let graph = scope.graph();
    let mut open: Vec<ValueId> = graph.output(op, 0).into_iter().collect();
    let (mut seen, mut factors) = (0, false);
    while let Some(value) = open.pop() {
        seen += 1;
        if seen > MOST || graph.is_output(value) {
            return false;
        }
        for found in graph.uses(value) {
            let node = graph.op(found.op);
            let (domain, name) = node.kind.key();
            match (domain, name, found.slot) {
                ("", "Mul", Slot::In(slot)) => {
                    let other = graph.input(found.op, usize::from(slot == 0));
                    if other.is_none_or(|other| scope.constant(other).is_some()) {
                        return false;
                    }
                    factors = true;
                }
                ("", "RotaryEmbedding", Slot::In(1 | 2))
                | ("com.microsoft", "RotaryEmbedding", Slot::In(2 | 3)) => {
                    factors = true;
                }
                (_, _, Slot::In(_)) if moves(graph, found.op) => open.extend(graph.output(found.op, 0)),
                _ => return false,
            }
        }
    }
    factors
}

/// The operator gives the numbers that it reads, in another order, shape or type.
fn moves(graph: &Graph, op: OpId) -> bool {
    let moved = || ops::scheme(graph, op).is_some_and(|scheme| scheme.work == Work::Movement);
    graph.op(op).kind.is("Cast") || moved()
}

/// Cosines or sines of positions: at position 0 all are alike, and none is above 2 (long contexts scale them by up to 1.5).
/// Their errors turn every activation of a position the same way, and they are small beside what they are read with.
fn of_positions(tensor: &Tensor, columns: usize) -> bool {
    let Some(values) = numbers::floats(tensor) else { return false };
    let first = values.get(..columns).unwrap_or(&[]);
    first.windows(2).all(|pair| pair[0] == pair[1]) && values.iter().all(|v| v.abs() <= 2.0)
}

/// The left side of a MatMul has more than one dimension, or nobody knows.
fn takes_matrix(scope: Scope<'_>, op: OpId) -> bool {
    scope.graph().input(op, 0).and_then(|x| scope.rank(x)) != Some(1)
}

fn gemm(scope: Scope<'_>, op: OpId, dims: &[usize], reader: Reader) -> Vec<Use> {
    let attrs = &scope.graph().op(op).attrs;
    let no = |why: &str| vec![Use::No(why.to_string())];
    let [a, b] = *dims else { return no("it is no matrix") };
    if attrs.int("transA").unwrap_or(0) != 0 {
        return no("the Gemm transposes its data");
    }
    let has_bias = scope.graph().input(op, 2).is_some();
    if attrs.float("alpha").unwrap_or(1.0) != 1.0 || (has_bias && attrs.float("beta").unwrap_or(1.0) != 1.0) {
        return no("the Gemm scales its product");
    }
    match attrs.int("transB").unwrap_or(0) {
        0 => vec![Use::As(reader, Order::Kn, b, a)],
        _ => vec![Use::As(reader, Order::Nk, a, b)],
    }
}

fn is_pointwise(scope: Scope<'_>, op: OpId, inputs: usize) -> bool {
    let attrs = &scope.graph().op(op).attrs;
    let all = |name: &str, wanted: i64| attrs.ints(name).is_none_or(|v| v.iter().all(|&v| v == wanted));
    let rank = scope.graph().input(op, 0).and_then(|x| scope.rank(x));
    attrs.int("group").unwrap_or(1) == 1
        && all("strides", 1)
        && all("pads", 0)
        && all("dilations", 1)
        && inputs > 0
        && rank == Some(4)
}

/// A Transpose of a matrix that only right sides of MatMuls read.
fn transposed(scope: Scope<'_>, op: OpId, dims: &[usize]) -> Option<Vec<Use>> {
    let graph = scope.graph();
    let [n, k] = *dims else { return None };
    if graph.op(op).attrs.ints("perm").is_some_and(|perm| perm != [1, 0]) {
        return None;
    }
    let output = graph.output(op, 0)?;
    if graph.is_output(output) {
        return None;
    }
    let readers = graph.uses(output).into_iter().map(|found| {
        let node = graph.op(found.op);
        let right = node.kind.is("MatMul") && found.slot == Slot::In(1) && takes_matrix(scope, found.op);
        let reader = Reader { graph: scope.id, op: found.op, reads: Reads::Transposed };
        right.then_some(Use::As(reader, Order::Nk, n, k))
    });
    readers.collect()
}

/// Joins a product's weight to a table that holds the same numbers.
fn tie(model: &Model, sites: &mut Vec<Site>) {
    let tables: Vec<usize> =
        (0..sites.len()).filter(|&at| sites[at].is_table() && !sites[at].is_product()).collect();
    let mut gone = BTreeSet::new();
    for table in tables {
        for at in 0..sites.len() {
            let (a, b) = (&sites[table], &sites[at]);
            let alike = (a.rows, a.cols) == (b.rows, b.cols) && a.graph == b.graph && at != table;
            if alike && b.is_product() && !b.is_table() && !gone.contains(&at) && same(model, a, b) {
                let head = sites[at].clone();
                sites[table].readers.extend(head.readers);
                sites[table].copies.push((head.graph, head.value));
                gone.insert(at);
            }
        }
    }
    let mut at = 0;
    sites.retain(|_| {
        at += 1;
        !gone.contains(&(at - 1))
    });
}

/// Equal numbers, element by element of `[N, K]`. Ends at the first difference.
fn same(model: &Model, a: &Site, b: &Site) -> bool {
    let (Some(left), Some(right)) = (a.tensor(model), b.tensor(model)) else { return false };
    let size = left.dtype().bits() / 8;
    if left.dtype() != right.dtype() || size == 0 {
        return false;
    }
    if a.order == b.order {
        return left.bytes() == right.bytes();
    }
    let (rows, cols) = (a.rows, a.cols);
    let at = |site: &Site, n: usize, k: usize| match site.order {
        Order::Nk => (n * cols + k) * size,
        Order::Kn => (k * rows + n) * size,
    };
    let element = |tensor: &Tensor, start: usize| tensor.bytes().get(start..start + size).map(<[u8]>::to_vec);
    (0..rows).all(|n| (0..cols).all(|k| element(left, at(a, n, k)) == element(right, at(b, n, k))))
}
