//! An operator: what it is called, its attributes and notes. Its inputs and outputs are edges of the graph.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;

use crate::{Attrs, Blank, Rare, Spelling};

/// Which operator: domain, name, and overload for functions. Copies share it: a model has far more operators than kinds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpKind(Arc<KindParts>);

/// What an [`OpKind`] consists of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KindParts {
    /// The domain as the file writes it; `""` and `"ai.onnx"` both mean ONNX's own.
    pub domain: Arc<str>,
    /// The operator's name, for example `Conv`.
    pub name: Arc<str>,
    /// Overload of a function, mostly empty.
    pub overload: Arc<str>,
}

impl Deref for OpKind {
    type Target = KindParts;

    fn deref(&self) -> &KindParts {
        &self.0
    }
}

impl OpKind {
    /// An operator of a domain (`""` for ONNX's own).
    pub fn new(domain: &str, name: &str) -> OpKind {
        OpKind::overloaded(domain, name, "")
    }

    /// An overload of a function.
    pub fn overloaded(domain: &str, name: &str, overload: &str) -> OpKind {
        OpKind(Arc::new(KindParts { domain: domain.into(), name: name.into(), overload: overload.into() }))
    }

    /// The domain, with ONNX's own always as `""`.
    pub fn domain(&self) -> &str {
        canonical_domain(&self.domain)
    }

    /// The operator's domain and name for look-ups in tables.
    pub fn key(&self) -> (&str, &str) {
        (self.domain(), &self.name)
    }

    /// The operator of ONNX's own domain with this name.
    pub fn is(&self, name: &str) -> bool {
        &*self.name == name && self.domain().is_empty()
    }
}

/// ONNX's own domain is written `""` or `"ai.onnx"`; this gives `""` for both.
pub fn canonical_domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

impl fmt::Display for OpKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.domain().is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}.{}", self.domain, self.name)
        }
    }
}

/// An operator of a graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Op {
    /// Which operator.
    pub kind: OpKind,
    /// The node's name; may be empty and need not be unique.
    pub name: String,
    /// Attributes.
    pub attrs: Attrs,
    /// Documentation and the like.
    pub notes: Rare<OpNotes>,
    /// How the file wrote it.
    pub spelling: Spelling,
    /// Position in the file, then order of creation.
    pub(crate) order: (u64, u64),
    /// Number of input and output slots, gaps included.
    pub(crate) arity: (u32, u32),
}

/// What few operators have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OpNotes {
    /// Documentation.
    pub doc: String,
    /// `metadata_props`.
    pub metadata: Vec<(String, String)>,
    /// Encoded fields that no pass reads (`device_configurations`), passed through.
    pub opaque: Option<Bytes>,
    /// Names of the operators of the original file that this one stands for; empty if it is one of them.
    pub origin: Vec<Arc<str>>,
}

impl Blank for OpNotes {
    fn blank() -> &'static OpNotes {
        static BLANK: OpNotes =
            OpNotes { doc: String::new(), metadata: Vec::new(), opaque: None, origin: Vec::new() };
        &BLANK
    }
}

impl Op {
    /// An operator of ONNX's own domain without attributes.
    pub fn new(name: &str) -> Op {
        Op::of(OpKind::new("", name))
    }

    /// An operator of any domain without attributes.
    pub fn of(kind: OpKind) -> Op {
        Op {
            kind,
            name: String::new(),
            attrs: Attrs::default(),
            notes: Rare::default(),
            spelling: Spelling::default(),
            order: (0, 0),
            arity: (0, 0),
        }
    }

    /// The same with a node name.
    pub fn named(mut self, name: &str) -> Op {
        self.name = name.to_string();
        self
    }

    /// The same with one more attribute.
    pub fn with(mut self, name: &str, value: impl Into<crate::AttrValue>) -> Op {
        self.attrs.set(name, value.into());
        self
    }

    /// The same with these attributes.
    pub fn with_attrs(mut self, attrs: Attrs) -> Op {
        self.attrs = attrs;
        self
    }

    /// Number of input slots, gaps included.
    pub fn input_count(&self) -> usize {
        self.arity.0 as usize
    }

    /// Number of output slots, gaps included.
    pub fn output_count(&self) -> usize {
        self.arity.1 as usize
    }
}

/// `"name" (Kind)`, or `Kind` where the node has no name: how errors and reports cite an operator.
impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() { self.kind.fmt(f) } else { write!(f, "\"{}\" ({})", self.name, self.kind) }
    }
}
