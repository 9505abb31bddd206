//! Models whose branches a runtime cannot load all at once.
//!
//! A branch that a given sample does not take may make no sense for its sizes, and a runtime that looks at both branches
//! before it runs refuses the model. [`Adaptive`] then makes a model for the sample at hand: its inputs get the sizes of the
//! sample, small integer and boolean inputs (a sampling rate, a switch) its values, and what follows from them is folded,
//! the conditions of branches above all. The branch that is left is the one that the definition takes; nothing is guessed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ir::{DType, Model, Tensor};
use runtime::{Executor, Feed, Observer, Prepare, Recording, RuntimeError, Session, Tract};

use super::prepare::folded;

/// Elements of an input that counts as a switch.
const SWITCH: usize = 16;
/// Models kept for different sizes.
const KEPT: usize = 16;

/// What a model was made for: sizes by input, and values of switches.
type Key = (BTreeMap<String, Vec<i64>>, Vec<(String, Tensor)>);

/// A session of tract over a model with branches.
pub struct Adaptive {
    general: Box<dyn Session>,
    shared: Arc<Shared>,
    current: Option<(Key, Box<dyn Session>)>,
}

struct Shared {
    model: Model,
    taps: Vec<String>,
    made: Mutex<Made>,
}

#[derive(Default)]
struct Made {
    /// The general model could not be loaded.
    needed: bool,
    sessions: Vec<(Key, Box<dyn Session>)>,
}

impl Adaptive {
    /// `general` is a session over `model` with these taps.
    pub fn new(general: Box<dyn Session>, model: &Model, taps: Vec<String>) -> Adaptive {
        let shared = Shared { model: model.clone(), taps, made: Mutex::default() };
        Adaptive { general, shared: Arc::new(shared), current: None }
    }
}

fn is_switch(tensor: &Tensor) -> bool {
    matches!(tensor.dtype(), DType::Bool | DType::I64 | DType::I32) && tensor.elements() <= SWITCH
}

fn key(feed: &Feed) -> Key {
    let sizes = |tensor: &Tensor| tensor.dims().iter().map(|&size| size as i64).collect();
    let mut switches: Vec<(String, Tensor)> =
        feed.iter().filter(|(_, tensor)| is_switch(tensor)).cloned().collect();
    switches.sort_by(|a, b| a.0.cmp(&b.0));
    (feed.iter().map(|(name, tensor)| (name.clone(), sizes(tensor))).collect(), switches)
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session for inputs like these.
    fn session(&self, key: &Key) -> Result<Box<dyn Session>, RuntimeError> {
        let mut made = self.lock();
        if let Some((_, session)) = made.sessions.iter().find(|(known, _)| known == key) {
            return session.fork();
        }
        let load = |what: String| RuntimeError::Load { runtime: Tract.name(), what };
        let mut model = self.model.clone();
        let main = model.main_mut();
        let mut sizes = key.0.clone();
        sizes.retain(|name, _| main.find(name).is_some());
        for (name, tensor) in &key.1 {
            let Some(input) = main.find(name).filter(|input| main.inputs().contains(input)) else { continue };
            main.value_mut(input).data = Some(tensor.clone());
            main.fix_input(input);
            sizes.remove(name);
        }
        let model = folded(model, &sizes).map_err(|error| load(format!("{error:#}")))?;
        let main = model.main();
        let taps = self.taps.iter().filter(|name| main.find(name).is_some()).cloned().collect();
        let session = Tract.prepare(&model, &Prepare { taps, ..Prepare::default() })?;
        if made.sessions.len() == KEPT {
            made.sessions.remove(0);
        }
        made.sessions.push((key.clone(), session.fork()?));
        Ok(session)
    }
}

impl Session for Adaptive {
    fn run(&mut self, feed: &Feed, observer: &mut dyn Observer) -> Result<(), RuntimeError> {
        if !self.shared.lock().needed {
            // What fails while loading has shown nothing yet.
            match self.general.run(feed, observer) {
                Err(RuntimeError::Load { .. }) => self.shared.lock().needed = true,
                result => return result,
            }
        }
        let key = key(feed);
        let session = match self.current.take() {
            Some((known, session)) if known == key => session,
            _ => self.shared.session(&key)?,
        };
        let (_, session) = self.current.insert((key, session));
        session.run(feed, observer)
    }

    fn fork(&self) -> Result<Box<dyn Session>, RuntimeError> {
        Ok(Box::new(Adaptive { general: self.general.fork()?, shared: self.shared.clone(), current: None }))
    }

    fn missing(&self) -> &[String] {
        self.general.missing()
    }

    fn record(&mut self, feed: &Feed, observer: &mut dyn Observer) -> Result<Recording, RuntimeError> {
        self.general.record(feed, observer)
    }

    fn replay(
        &mut self,
        recording: &Recording,
        replaced: &[(String, Tensor)],
        observer: &mut dyn Observer,
    ) -> Result<(), RuntimeError> {
        self.general.replay(recording, replaced, observer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::engine::{collect, prepare};
    use crate::pipeline::prepare::lowered;

    /// Each branch fails with the sizes that the other is for.
    const MODEL: &str = r#"<ir_version: 8, opset_import: ["" : 18]>
g (float[n, m] x, int64 rate) => (float[k] y)
<int64 fast = {16}, int64[1] last = {-1}>
{
  is_fast = Equal(rate, fast)
  y = If<
    then_branch = then () => (float[p] a) <int64[1] four = {4}> { a = Reshape(x, four) },
    else_branch = other () => (float[q] b) { twice = Add(x, x) b = Squeeze(twice, last) }
  >(is_fast)
}"#;

    fn run(rate: i64, dims: &[usize]) -> Result<Vec<f32>, String> {
        let model = lowered(&ir::text::parse(MODEL).unwrap()).unwrap();
        let mut session = prepare(&Tract, &model, vec![]).map_err(|e| e.to_string())?;
        let x: Vec<f32> = (0..4).map(|v| v as f32).collect();
        let feed = vec![
            ("x".to_string(), Tensor::from_slice(dims, &x).unwrap()),
            ("rate".to_string(), Tensor::from_slice(&[][..], &[rate]).unwrap()),
        ];
        let values = collect(session.as_mut(), &feed).map_err(|e| format!("{e:#}"))?;
        Ok(values[0].1.to_vec().unwrap())
    }

    #[test]
    fn the_branch_that_is_taken_runs_and_the_other_need_not_fit() {
        assert_eq!(run(16, &[2, 2]).unwrap(), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(run(8, &[4, 1]).unwrap(), [0.0, 2.0, 4.0, 6.0]);
        // The branch that is taken fails, though the other would run.
        assert!(run(8, &[2, 2]).is_err());
    }
}
