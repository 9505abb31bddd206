//! Names of sizes that only a run tells, and what equations say about them.
//!
//! Where nothing is known about a size, it gets a name of its own, so that it can be compared further down. Where the file
//! promises a number for an expression of such a name (`3*name` is 672), that is an equation; its solution is put in when
//! the model is inferred again.

use std::collections::{BTreeMap, HashMap};

use ir::{Dim, Graph, GraphId, Model, Role, Shape, TensorType, Type, TypeKind, TypeParts, ValueId};

use crate::infer::Known;
use crate::sym;

/// How many sizes are solved for; beyond, a file that makes equations on purpose only costs time.
pub(super) const SOLVED_LIMIT: usize = 64;

/// The number of the path without calls of functions.
pub(super) const MAIN: usize = 0;

/// What a name is made for: the number of the chain of function calls, the graph, the value.
pub(super) type Owner = (usize, GraphId, ValueId);

pub(super) struct Sizes<'a> {
    /// Prefixes of new names, each with its owner; none for those that the file uses.
    symbols: HashMap<String, Option<Owner>>,
    /// Sizes behind new names, from an earlier inference.
    solved: &'a HashMap<String, i64>,
    /// The same, found out in this one.
    found: BTreeMap<String, i64>,
}

impl<'a> Sizes<'a> {
    pub(super) fn new(solved: &'a HashMap<String, i64>) -> Sizes<'a> {
        Sizes { symbols: HashMap::new(), solved, found: BTreeMap::new() }
    }

    /// What this inference has solved.
    pub(super) fn into_found(self) -> BTreeMap<String, i64> {
        self.found
    }

    /// Keeps new names apart from those that the file uses.
    pub(super) fn claim(&mut self, ty: Option<&Type>) {
        for dim in ty.and_then(Type::shape).into_iter().flat_map(|shape| &shape.dims) {
            // New names are a prefix, an underscore and one word.
            if let Dim::Symbol(name) = dim
                && let Some((prefix, _)) = name.rsplit_once('_')
            {
                self.symbols.insert(prefix.to_string(), None);
            }
        }
    }

    /// A prefix for the names of new sizes of an operator: the name of its first output, as an identifier, made unique.
    /// It is the owner's from now on.
    pub(super) fn unique(&mut self, graph: &Graph, owner: Owner) -> String {
        let prefix = self.prefix(graph, owner);
        self.symbols.insert(prefix.clone(), Some(owner));
        prefix
    }

    /// The same prefix, as long as nobody takes it.
    pub(super) fn prefix(&self, graph: &Graph, owner: Owner) -> String {
        let name = graph.value(owner.2).name();
        let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let plain = plain.trim_matches('_');
        let letter = plain.starts_with(|c: char| c.is_ascii_alphabetic());
        let plain = if letter { plain.to_string() } else { format!("d_{plain}") };
        let taken = |name: &str| self.symbols.get(name).is_some_and(|&other| other != Some(owner));
        let mut candidate = plain.clone();
        let mut number = 1;
        while taken(&candidate) {
            number += 1;
            candidate = format!("{plain}_{number}");
        }
        candidate
    }

    /// Gives the sizes of a tensor of which nothing is known names of their own, so that they can be compared further down.
    pub(super) fn name(&mut self, graph: &Graph, owner: Owner, known: &mut Known) {
        let Some(ty) = known.ty.as_mut() else { return };
        if !ty.shape().is_some_and(|shape| shape.dims.contains(&Dim::Unknown)) {
            return;
        }
        let prefix = self.unique(graph, owner);
        let TypeKind::Tensor(TensorType { shape: Some(shape), .. }) = &mut ty.kind else { return };
        for (axis, dim) in shape.dims.iter_mut().enumerate() {
            if *dim == Dim::Unknown {
                let name = format!("{prefix}_d{axis}");
                *dim = match self.solved.get(&name) {
                    Some(&size) => Dim::Known(size),
                    None => Dim::Symbol(name.into()),
                };
            }
        }
    }

    /// Compares the sizes of a value of the main graph with those that the file promises, and solves for new names.
    pub(super) fn solve(&mut self, model: &Model, inferred: Option<&Type>, declared: Option<&Type>) {
        let (Some(inferred), Some(declared)) =
            (inferred.and_then(Type::shape), declared.and_then(Type::shape))
        else {
            return;
        };
        for (dim, promised) in inferred.dims.iter().zip(&declared.dims) {
            if let (Dim::Symbol(_), &Dim::Known(promised)) = (dim, promised)
                && let Some((name, size)) = sym::solve(dim, promised)
                && self.is_unknown(model, &name)
            {
                self.found.entry(name).or_insert(size);
            }
        }
    }

    /// The name stands for a size that an operator of the main graph decides in a run: no caller may choose it.
    fn is_unknown(&self, model: &Model, name: &str) -> bool {
        let owner = name.rsplit_once('_').and_then(|(prefix, _)| *self.symbols.get(prefix)?);
        owner.is_some_and(|(path, graph, value)| {
            let main = path == MAIN && graph == model.main_id();
            main && model.main().value(value).role() == Role::Computed
        })
    }

    /// Puts in what is known about new names.
    pub(super) fn substitute(&self, known: &mut Known) {
        let replace = |dim: &Dim| match dim {
            Dim::Symbol(_) => self
                .solved
                .iter()
                .fold(dim.clone(), |dim, (name, &size)| sym::substitute(&dim, name, &Dim::Known(size))),
            other => other.clone(),
        };
        if self.solved.is_empty() {
            return;
        }
        known.ty = known.ty.as_ref().map(|ty| map(ty, &replace));
        if known.inside.is_blank() {
            return;
        }
        let inside = &mut *known.inside;
        inside.elements.iter_mut().flatten().for_each(|dim| *dim = replace(dim));
        for item in inside.items.iter_mut().flatten().flatten() {
            *item = map(item, &replace);
        }
    }
}

/// Sizes named inside a body may differ from one run of the body to the next.
pub(super) fn forget(ty: &Type) -> Type {
    map(ty, &|dim| if let Dim::Symbol(_) = dim { Dim::Unknown } else { dim.clone() })
}

/// Names of sizes in a file are names, whatever characters they have: `a-b` is not a difference.
pub(super) fn quote(ty: &Type) -> Type {
    map(ty, &|dim| if let Dim::Symbol(name) = dim { sym::symbol(name) } else { dim.clone() })
}

/// The type with other sizes; negative ones of a file are unknown.
pub(super) fn map(ty: &Type, f: &impl Fn(&Dim) -> Dim) -> Type {
    let tensor = |tensor: &ir::TensorType| ir::TensorType {
        dtype: tensor.dtype,
        shape: tensor.shape.as_ref().map(|shape| Shape {
            dims: shape
                .dims
                .iter()
                .map(|dim| if matches!(dim, Dim::Known(size) if *size < 0) { Dim::Unknown } else { f(dim) })
                .collect(),
            denotations: shape.denotations.clone(),
        }),
    };
    let kind = match &ty.kind {
        TypeKind::Tensor(inner) => TypeKind::Tensor(tensor(inner)),
        TypeKind::Sparse(inner) => TypeKind::Sparse(tensor(inner)),
        TypeKind::Sequence(inner) => TypeKind::Sequence(Box::new(map(inner, f))),
        TypeKind::Optional(inner) => TypeKind::Optional(Box::new(map(inner, f))),
        TypeKind::Map { key, value } => TypeKind::Map { key: *key, value: Box::new(map(value, f)) },
        other => other.clone(),
    };
    if kind == ty.kind {
        return ty.clone();
    }
    TypeParts { kind, denotation: ty.denotation.clone(), spelling: ty.spelling }.into()
}
