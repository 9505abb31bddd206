//! The values that are alive between two stages, for every sample, and how a stage makes new ones of them.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result, ensure};
use ir::{Model, Tensor, ValueId};
use passes::quantize::low_bit::{Packed, Site, wire};
use passes::stages::{Stage, extract};
use runtime::{Executor, Feed, Level, Reference, View};

use super::super::engine::{Engine, prepare, run_all};
use super::super::prepare::lowered;
use super::options::LowBitOptions;
use crate::data::Source;

/// Values alive, by sample.
pub type Stream = Vec<HashMap<ValueId, Tensor>>;

/// Tokens of a sample; 1 where it has none.
fn tokens_of(feed: &Feed) -> usize {
    let ids = feed.iter().filter(|(_, tensor)| tensor.dtype().is_int());
    ids.map(|(_, tensor)| tensor.elements()).max().unwrap_or(1)
}

/// How many samples the token budget allows.
pub fn enough(source: &dyn Source, options: &LowBitOptions) -> Result<usize> {
    let mut tokens = 0;
    for at in 0..source.len() {
        if tokens >= options.calibrated.tokens.max(1) {
            return Ok(at);
        }
        tokens += tokens_of(&source.sample(at)?);
    }
    Ok(source.len())
}

/// The inputs of the model for as many samples as the token budget allows, and the tokens.
pub fn feeds(model: &Model, source: &dyn Source, options: &LowBitOptions) -> Result<(Stream, usize)> {
    let (mut stream, mut tokens) = (Stream::new(), 0);
    for at in 0..enough(source, options)? {
        let feed = source.sample(at)?;
        tokens += tokens_of(&feed);
        let known = feed.into_iter().filter_map(|(name, tensor)| Some((model.main().find(&name)?, tensor)));
        stream.push(known.collect());
    }
    ensure!(!stream.is_empty(), "there are no calibration samples");
    Ok((stream, tokens))
}

/// Values of one stream, as samples for a runtime.
struct Samples<'a> {
    stream: &'a Stream,
    inputs: Vec<(ValueId, String)>,
}

impl Source for Samples<'_> {
    fn len(&self) -> usize {
        self.stream.len()
    }

    fn sample(&self, at: usize) -> Result<Feed> {
        let values = &self.stream[at];
        let one = |(id, name): &(ValueId, String)| {
            let tensor = values.get(id).with_context(|| format!("{name:?} is not there"))?;
            Ok((name.clone(), tensor.clone()))
        };
        self.inputs.iter().map(one).collect()
    }
}

/// Runs a stage on every sample and adds its outputs to the stream.
pub fn run(
    model: &Model,
    stage: &Stage,
    weights: &[(Site, Packed)],
    stream: &mut Stream,
    options: &LowBitOptions,
) -> Result<()> {
    if stage.ops.is_empty() {
        return Ok(());
    }
    let mut part = extract(model, stage);
    wire(&mut part, weights, |_| 0)?;
    let part = lowered(&part)?;
    let (executor, _) = options.engine.choose(&part)?;
    let first = run_in(executor.as_ref(), model, stage, &part, stream, options);
    let made = match (first, options.engine.engine) {
        (Err(error), Engine::Auto) => match options.engine.ort(Level::Basic) {
            // A stage that the first choice fails on is run by the next one.
            Ok(ort) => run_in(&ort, model, stage, &part, stream, options)?,
            Err(_) => run_in(&Reference, model, stage, &part, stream, options).map_err(|_| error)?,
        },
        (first, _) => first?,
    };
    for (sample, id, tensor) in made {
        stream[sample].insert(id, tensor);
    }
    Ok(())
}

/// The outputs of a stage: sample, value, tensor.
fn run_in(
    executor: &dyn Executor,
    model: &Model,
    stage: &Stage,
    part: &Model,
    stream: &Stream,
    options: &LowBitOptions,
) -> Result<Vec<(usize, ValueId, Tensor)>> {
    let session = prepare(executor, part, vec![])?;
    let main = model.main();
    let name = |value: &ValueId| main.value(*value).name().to_string();
    let inputs = part.main().inputs();
    let wanted: BTreeSet<String> = inputs.iter().map(|&v| part.main().value(v).name().to_string()).collect();
    let inputs: Vec<(ValueId, String)> = stage.inputs.iter().map(|v| (*v, name(v))).collect();
    let inputs: Vec<_> = inputs.into_iter().filter(|(_, name)| wanted.contains(name)).collect();
    let outputs: HashMap<String, ValueId> = stage.outputs.iter().map(|v| (name(v), *v)).collect();
    let made = {
        let samples = Samples { stream, inputs };
        let all: Vec<usize> = (0..samples.len()).collect();
        run_all(
            session.as_ref(),
            &samples,
            &all,
            options.engine.threads(),
            Vec::new,
            |made: &mut Vec<(usize, ValueId, Tensor)>, session, sample, feed| {
                let mut keep = |name: &str, value: View<'_>| {
                    if let (Some(&id), Some(tensor)) = (outputs.get(name), value.to_tensor()) {
                        made.push((sample, id, tensor));
                    }
                };
                Ok(session.run(&feed, &mut keep)?)
            },
            |_| (),
        )?
    };
    let made: Vec<_> = made.into_iter().flatten().collect();
    // tract does not show sizes that it computes with as symbols.
    ensure!(
        made.len() == stream.len() * stage.outputs.len(),
        "{} does not show every value that goes from stage to stage",
        executor.name()
    );
    Ok(made)
}
