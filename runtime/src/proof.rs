//! What is known of tract's operators: the table of forms that it was seen to run right, and how an operator's form is read.
//!
//! The table is generated (`tests/runtimes.rs`, which runs the ONNX node cases and ONNX Runtime's answers for
//! com.microsoft operators through tract, each also with other element types and operator sets). A row says: this operator
//! with inputs of these types ran right in every case, except where one of the listed features (or pairs, `a&b`) was
//! present. A row with `+` in the place of the types lists the attributes with which the operator was ever seen to run
//! right: tract ignores attributes that it does not know.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::OnceLock;

use ir::{AttrValue, DType, GraphId, Model, OpId, Role, ValueId};

/// The table as it is checked in.
const TABLE: &str = include_str!("tract/proven.txt");

/// How an operator is used, as far as runtimes have been seen to differ by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// The operator: `Conv`, `com.microsoft.Gelu`.
    pub op: String,
    /// Element types of the given inputs, repeats left out; none if one is not known.
    pub types: Option<String>,
    /// What else may matter: attributes (strings and integers with their values), given slots, ranks, the operator set.
    pub features: BTreeSet<String>,
    /// Attributes by what must have been seen: their names; lists of strings (activations) with their values.
    pub attributes: BTreeSet<String>,
}

/// The form of an operator.
pub fn form(model: &Model, graph: GraphId, op: OpId) -> Form {
    let g = model.graph(graph);
    let node = g.op(op);
    let (domain, name) = node.kind.key();
    let name = if domain.is_empty() { name.to_string() } else { format!("{domain}.{name}") };
    let mut types: Option<Vec<&str>> = Some(Vec::new());
    let mut features = BTreeSet::new();
    for (at, input) in g.op_inputs(op).iter().enumerate() {
        let Some(input) = *input else { continue };
        let (outer, value) = defined(model, graph, input);
        let value = model.graph(outer).value(value);
        types = types.zip(value.dtype()).map(|(mut types, dtype)| {
            if types.last() != Some(&dtype.name()) {
                types.push(dtype.name());
            }
            types
        });
        if let Some(shape) = value.shape() {
            features.insert(format!("rank{at}={}", shape.rank()));
        }
        // Lists of inputs may be of any length; only slots that stand for something of their own are a feature.
        if at < 12 {
            features.insert(format!("input{at}"));
        }
    }
    for (at, output) in g.op_outputs(op).iter().enumerate().skip(1) {
        if output.is_some() && at < 12 {
            features.insert(format!("output{at}"));
        }
    }
    let mut attributes = BTreeSet::new();
    for attr in node.attrs.iter() {
        attributes.insert(match &attr.value {
            AttrValue::Strings(list) => {
                let list: Vec<_> = list.iter().map(|text| String::from_utf8_lossy(text)).collect();
                format!("{}={}", attr.name, list.join(","))
            }
            _ => attr.name.to_string(),
        });
        features.insert(match &attr.value {
            AttrValue::Int(value) => format!("{}={value}", attr.name),
            AttrValue::String(text) => format!("{}={}", attr.name, String::from_utf8_lossy(text)),
            _ => attr.name.to_string(),
        });
    }
    if let Some(version) = ir::version(model.opsets_of(graph), domain) {
        features.insert(format!("opset={version}"));
    }
    Form { op: name, types: types.map(|types| types.join(",")), features, attributes }
}

/// Where a value is defined: itself, or what it stands for in an outer graph.
fn defined(model: &Model, graph: GraphId, value: ValueId) -> (GraphId, ValueId) {
    let mut at = (graph, value);
    while model.graph(at.0).value(at.1).role() == Role::Captured {
        match model.outer(at.0, at.1) {
            Some(outer) => at = outer,
            None => break,
        }
    }
    at
}

/// Rows by operator and types: the features with which it is not known to be right.
type Rows = HashMap<&'static str, BTreeMap<&'static str, BTreeSet<&'static str>>>;

fn rows() -> &'static Rows {
    static ROWS: OnceLock<Rows> = OnceLock::new();
    ROWS.get_or_init(|| {
        let mut rows = Rows::new();
        for line in TABLE.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let mut words = line.split(' ');
            let (Some(op), Some(types)) = (words.next(), words.next()) else { continue };
            rows.entry(op).or_default().insert(types, words.collect());
        }
        rows
    })
}

/// Whether tract is known to run this form right; the reason if not.
pub(crate) fn proven(form: &Form) -> Result<(), String> {
    let row = rows().get(form.op.as_str()).ok_or("tract was not seen to run it right")?;
    let types = form.types.as_deref().ok_or("the types of its inputs are not known")?;
    let refused = row
        .get(types)
        .ok_or_else(|| format!("tract was not seen to run it right with inputs of type {types}"))?;
    let seen = |attribute: &&String| row.get("+").is_some_and(|seen| seen.contains(attribute.as_str()));
    let all = |words: &&&str| words.split('&').all(|word| form.features.contains(word));
    let refused = refused.iter().find(all).copied();
    let unseen = form.attributes.iter().find(|attribute| !seen(attribute)).map(String::as_str);
    match refused.or(unseen) {
        Some(feature) => Err(format!("tract was not seen to run it right with {feature}")),
        None => Ok(()),
    }
}

/// Element types that tract has.
pub fn has_type(dtype: DType) -> bool {
    crate::tract::has_type(dtype)
}
