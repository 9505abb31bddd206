//! Operators that tract turns out not to load: sizes that are computed, states that are left out, and whatever else no table
//! of forms can say. Its message names the operator; that one is run by its definition, and the model is loaded again.

use ir::{GraphId, Model, OpId};

use super::plan::Source;
use super::{NAME, evaluate, gate, guard};
use crate::{Prepare, RuntimeError};

/// A model and which of its operators run by definition.
pub(super) struct Mender {
    model: Model,
    options: Prepare,
    defined: Vec<(GraphId, OpId)>,
}

impl Mender {
    /// A model whose operators have names of their own.
    pub(super) fn new(model: &Model, options: &Prepare, defined: Vec<(GraphId, OpId)>) -> Mender {
        let mut model = model.clone();
        let main = model.main_mut();
        for (number, op) in main.ops().into_iter().enumerate() {
            if main.op(op).name.is_empty() {
                main.op_mut(op).name = format!("{} {number}", main.op(op).kind.name);
            }
        }
        Mender { model: super::plan::with_unique_names(&model), options: options.clone(), defined }
    }

    /// Loads the model as it is known to be loadable by now.
    pub(super) fn load(&self) -> Result<Source, RuntimeError> {
        let mut model = self.model.clone();
        evaluate::replace(&mut model, &self.defined)
            .map_err(|what| RuntimeError::Load { runtime: NAME, what })?;
        guard(|| Source::load(&model, &self.options))
    }

    /// Takes the operator that the error names from tract; false if it names none that has a definition.
    pub(super) fn mend(&mut self, error: &RuntimeError) -> bool {
        let (RuntimeError::Load { what, .. } | RuntimeError::Run { what, .. }) = error else { return false };
        let main = self.model.main();
        // Odd parts stand between quotes. The last name is the innermost: the cause.
        let quoted: Vec<&str> = what.split('"').skip(1).step_by(2).collect();
        let named = quoted.iter().rev().find_map(|text| {
            let ops = main.ops().into_iter().filter(|&op| {
                let name = main.op(op).name.as_str();
                *text == name || text.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))
            });
            ops.max_by_key(|&op| main.op(op).name.len())
        });
        let Some(op) = named else { return false };
        let place = (self.model.main_id(), op);
        if self.defined.contains(&place) || !gate::has_definition(&self.model, place.0, op) {
            return false;
        }
        self.defined.push(place);
        true
    }
}
