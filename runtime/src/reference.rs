//! The reference evaluator: operators by their definitions, one after the other. Slow and independent of everything else:
//! the oracle for small models, and the runtime for operators that nobody else has.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ir::{DType, Model, ValueId};
use ops::Value;
use ops::eval::{Options, run};

use crate::executor::widened;
use crate::{Executor, Feed, Observer, Prepare, RuntimeError, Session, Unsupported, View};

pub(crate) const NAME: &str = "reference";

/// The reference evaluator.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

impl Executor for Reference {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").to_string()
    }

    fn wants_lowered(&self) -> bool {
        false
    }

    fn supports(&self, model: &Model) -> Result<(), Vec<Unsupported>> {
        let mut found = Vec::new();
        for id in model.graph_ids() {
            let (graph, opsets) = (model.graph(id), model.opsets_of(id));
            for op in graph.ops().into_iter().map(|op| graph.op(op)) {
                if model.function(op.kind.domain(), &op.kind.name, &op.kind.overload).is_some() {
                    continue;
                }
                match ops::rule(&op.kind, ir::version(opsets, op.kind.domain())) {
                    Ok(rule) if rule.evaluates() => {}
                    Ok(_) => {
                        found.push(Unsupported { op: op.to_string(), why: "it has no evaluation".into() })
                    }
                    Err(why) => found.push(Unsupported { op: op.to_string(), why: why.to_string() }),
                }
            }
        }
        if found.is_empty() { Ok(()) } else { Err(found) }
    }

    fn prepare(&self, model: &Model, options: &Prepare) -> Result<Box<dyn Session>, RuntimeError> {
        self.supports(model).map_err(|list| RuntimeError::Unsupported {
            runtime: NAME,
            what: crate::executor::join(&list),
        })?;
        let main = model.main();
        let mut wanted: HashMap<ValueId, String> = HashMap::new();
        for tap in &options.taps {
            let value = main.find(tap).ok_or_else(|| RuntimeError::NoValue(tap.clone()))?;
            wanted.insert(value, tap.clone());
        }
        for &output in main.outputs() {
            wanted.insert(output, main.value(output).name().to_string());
        }
        Ok(Box::new(Evaluation { model: Arc::new(model.clone()), wanted: Arc::new(wanted) }))
    }
}

struct Evaluation {
    model: Arc<Model>,
    wanted: Arc<HashMap<ValueId, String>>,
}

impl Session for Evaluation {
    fn run(&mut self, feed: &Feed, observer: &mut dyn Observer) -> Result<(), RuntimeError> {
        let main = self.model.main();
        let (main_id, mut shown) = (self.model.main_id(), HashSet::new());
        let mut inputs = Vec::new();
        for &id in main.inputs() {
            let value = main.value(id);
            let fed = feed
                .iter()
                .find(|(name, _)| **name == **value.name())
                .map(|(_, tensor)| widened(tensor, value.dtype()).into_owned());
            if fed.is_none() && value.data.is_none() {
                let (input, found) = (value.name().to_string(), "nothing".to_string());
                return Err(RuntimeError::Input { input, expected: "a tensor".into(), found });
            }
            let mut fed = fed.map(Value::Tensor);
            if let (Some(name), Some(fed)) = (self.wanted.get(&id), &mut fed) {
                show(observer, name, fed);
                shown.insert(id);
            }
            inputs.push(fed);
        }
        let wanted = self.wanted.clone();
        let mut sink = |graph: ir::GraphId, id: ValueId, value: &mut Value| {
            if graph == main_id
                && let Some(name) = wanted.get(&id)
                && shown.insert(id)
            {
                show(observer, name, value);
            }
        };
        let fail = |error: ops::OpError| RuntimeError::Run { runtime: NAME, what: error.to_string() };
        let outputs = run(&self.model, inputs, &Options::default(), Some(&mut sink)).map_err(fail)?;
        // Outputs that are inputs or constants were not computed, so the sink has not seen them.
        for (&id, mut value) in main.outputs().iter().zip(outputs) {
            if shown.insert(id) {
                show(observer, main.value(id).name(), &mut value);
            }
        }
        Ok(())
    }

    fn fork(&self) -> Result<Box<dyn Session>, RuntimeError> {
        Ok(Box::new(Evaluation { model: self.model.clone(), wanted: self.wanted.clone() }))
    }

    fn missing(&self) -> &[String] {
        &[]
    }
}

/// Shows a tensor, after letting the observer change it. Sequences have no view.
fn show(observer: &mut dyn Observer, name: &str, value: &mut Value) {
    let Value::Tensor(tensor) = value else { return };
    if tensor.dtype() == DType::F32
        && observer.edits(name)
        && let Ok(mut elements) = tensor.to_vec::<f32>()
    {
        let dims = tensor.dims().to_vec();
        observer.edit(name, &dims, &mut elements);
        if let Ok(edited) = ir::Tensor::from_slice(&dims, &elements) {
            *tensor = edited;
        }
    }
    observer.see(name, View::of(tensor));
}
