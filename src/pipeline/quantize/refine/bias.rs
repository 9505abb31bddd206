//! Empirical bias correction: moves each product's bias by the mean error of its output channels, errors from before
//! included.
//!
//! Float and quantized model run on some calibration samples side by side, all samples in step: at the output of each
//! product they meet, the mean error over samples and positions is taken off, and the layers behind see corrected values
//! ([`super::meeting`]). One pass, exact order. For a runtime that lets nobody change values tract does this, whichever
//! runtime was asked for; what tract cannot run gets sweeps instead: a quarter of the products a sweep, in order.
//!
//! The mean of few samples has an error of its own. A correction is shrunk by what of its square that error explains, so
//! that where nothing is systematic nothing moves.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use ir::{Graph, Model, Op, OpKind, ValueId};
use passes::correct_bias::{Site, correct, sites};
use runtime::{Executor, Observer, Session, Tract, View};

use super::super::super::engine::{form_for, prepare, run_all};
use super::super::super::prepare::lowered;
use super::judge::Held;
use super::meeting::Meeting;

/// Samples that corrections are measured on: with half as many a detector was left with twice the noise.
pub const SAMPLES: usize = 16;
/// Bytes that the activations of all samples in step may take.
const BYTES: usize = 512 << 20;
/// Sweeps for runtimes that let nobody change values.
const SWEEPS: usize = 4;

/// Shifts by product, to be added to the biases of the float model from which `emitted` was made.
pub type Shifts = BTreeMap<String, Vec<f64>>;

/// One place in both models.
struct Place {
    site: Site,
    /// The value's name in the quantized model.
    quantized: String,
}

/// Measures the shifts. `emit` makes a quantized model of a float one by the plan at hand.
///
/// # Errors
/// The runtime fails on a sample.
pub fn shifts(
    float: &Model,
    emit: &dyn Fn(&Model) -> Result<Model>,
    executor: &dyn Executor,
    samples: &Held,
    threads: usize,
) -> Result<Shifts> {
    let low_float = lowered(float)?;
    let emitted = emit(float)?;
    let low_quantized = lowered(&emitted)?;
    // In the lowered model biases are constants again and products can be told; a runtime that reads the emitted one
    // knows the same values by the same names.
    let mut places = places(&low_float, &low_quantized);
    if !executor.wants_lowered() {
        places.retain(|place| emitted.main().find(&place.quantized).is_some());
    }
    if places.is_empty() || samples.feeds().is_empty() {
        return Ok(Shifts::new());
    }
    let samples = &Held::of(samples.feeds().iter().take(fitting(&low_float)).cloned().collect());
    let here: Vec<&str> = places.iter().map(|place| place.site.value.as_str()).collect();
    let there: Vec<&str> = places.iter().map(|place| place.quantized.as_str()).collect();
    let steps = Steps { places: &places, samples, threads };
    // Where the runtime lets nobody change values, tract does it in its place if it can: sweeps cannot tell a product's own
    // error from what it inherits of one that is corrected in the same sweep.
    let editor: &dyn Executor = if executor.wants_lowered() { executor } else { &Tract };
    // One session at a time: each may hold a second copy of all weights.
    let in_step = || -> Result<Option<Shifts>> {
        let quantized = tapped(low_quantized, &there);
        if editor.supports(&quantized).is_err() {
            return Ok(None);
        }
        // The float model runs where it runs fastest: nothing is changed in it.
        let session = match executor.wants_lowered() {
            true => prepare(executor, &tapped(low_float.clone(), &here), names(&here))?,
            false => prepare(executor, &low_float, names(&here))?,
        };
        let expected = steps.means(&*session, steps.index(|place| &place.site.value))?;
        drop(session);
        steps.in_step(&expected, &*prepare(editor, &quantized, names(&there))?)
    };
    match in_step() {
        Ok(Some(shifts)) => return Ok(shifts),
        Err(error) if executor.wants_lowered() => return Err(error),
        _ => {}
    }
    let reference = prepare(executor, &low_float, names(&here))?;
    steps.in_sweeps(float, reference.as_ref(), emit, executor)
}

/// What the runtime runs of an emitted model: the lowered form, or the model itself where it reads quantized ones.
pub fn runnable(executor: &dyn Executor, emitted: &Model) -> Result<Model> {
    Ok(form_for(executor, emitted)?.into_owned())
}

fn names(values: &[&str]) -> Vec<String> {
    values.iter().map(|name| name.to_string()).collect()
}

/// The model with each of the values behind a barrier, which no runtime fuses away: what is seen and changed there is what
/// everything behind reads. (Inside a fusible chain tract shows a second copy of a value, which leads nowhere.) The tapped
/// value keeps its name.
fn tapped(mut model: Model, values: &[&str]) -> Model {
    let graph = model.main_mut();
    for name in values {
        let Some(value) = graph.find(name) else { continue };
        let Some((producer, _)) = graph.producer(value).filter(|_| !graph.is_output(value)) else { continue };
        let ty = graph.value(value).ty.clone();
        let behind = graph.new_value(&format!("{name}_tapped"), ty);
        graph.replace_uses(value, behind);
        let op = Op::of(OpKind::new("onnxq", "Barrier")).named(&format!("{name}_tap"));
        if graph.add_op(op, &[Some(value)], &[Some(behind)], ir::Place::Near(producer)).is_err() {
            graph.replace_uses(behind, value);
            continue;
        }
        let spare = graph.fresh_name(&format!("{name}_untapped"));
        if graph.rename(value, &spare).is_ok() {
            let _ = graph.rename(behind, name);
        }
    }
    model.raise_opset("onnxq", 1);
    model
}

/// How many samples may run at once.
fn fitting(model: &Model) -> usize {
    (BYTES / peak(model.main()).max(1)).clamp(2, SAMPLES)
}

/// The most bytes that activations take at once, in the order of execution; sizes that the data decide count as 1.
fn peak(graph: &Graph) -> usize {
    let size = |value: ValueId| -> usize {
        let Some(shape) = graph.value(value).shape().filter(|_| graph.constant(value).is_none()) else {
            return 0;
        };
        shape.dims.iter().fold(4usize, |product, dim| product.saturating_mul(dim.known().unwrap_or(1)))
    };
    let schedule = graph.schedule().unwrap_or_else(|_| graph.ops());
    let mut readers: BTreeMap<ValueId, usize> = BTreeMap::new();
    let (mut alive, mut most) = (0usize, 0usize);
    for op in schedule {
        for value in graph.op_outputs(op).into_iter().flatten() {
            readers.insert(value, graph.uses(value).len());
            alive = alive.saturating_add(size(value));
        }
        most = most.max(alive);
        for value in graph.op_inputs(op).into_iter().flatten() {
            let Some(left) = readers.get_mut(&value) else { continue };
            *left = left.saturating_sub(1);
            if *left == 0 && !graph.is_output(value) {
                readers.remove(&value);
                alive = alive.saturating_sub(size(value));
            }
        }
    }
    most
}

/// Where each product's output is in both models. A rounded output of the whole model has another name in the emitted one:
/// there the product stands before the rounding.
fn places(float: &Model, quantized: &Model) -> Vec<Place> {
    let there: BTreeMap<String, Site> = sites(quantized).into_iter().map(|s| (s.value.clone(), s)).collect();
    let graph = quantized.main();
    let find = |site: &Site| {
        let mut value = graph.find(&site.value)?;
        for _ in 0..3 {
            let name: &str = graph.value(value).name();
            if there.get(name).is_some_and(|other| other.channels == site.channels) {
                return Some(name.to_string());
            }
            value = graph.input(graph.producer(value)?.0, 0)?;
        }
        None
    };
    let places = sites(float).into_iter().filter_map(|site| {
        let quantized = find(&site)?;
        Some(Place { site, quantized })
    });
    places.collect()
}

/// The mean of each channel; none if the sizes are not those of the site.
fn channel_means(dims: &[usize], elements: &[f32], site: &Site) -> Option<Vec<f64>> {
    let axis = site.axis.unwrap_or(dims.len().checked_sub(1)?);
    let channels = *dims.get(axis)?;
    let inner: usize = dims[axis + 1..].iter().product();
    if channels != site.channels || elements.is_empty() || inner == 0 {
        return None;
    }
    let mut sums = vec![0.0f64; channels];
    for (row, stretch) in elements.chunks_exact(inner).enumerate() {
        sums[row % channels] += stretch.iter().map(|&v| f64::from(v)).sum::<f64>();
    }
    let count = (elements.len() / channels) as f64;
    sums.iter_mut().for_each(|sum| *sum /= count);
    sums.iter().all(|mean| mean.is_finite()).then_some(sums)
}

/// Adds a number to each channel.
fn add(dims: &[usize], elements: &mut [f32], site: &Site, shift: &[f64]) {
    let axis = site.axis.unwrap_or(dims.len().saturating_sub(1));
    let inner: usize = dims[axis + 1..].iter().product();
    for (row, stretch) in elements.chunks_exact_mut(inner.max(1)).enumerate() {
        let by = shift[row % shift.len()] as f32;
        stretch.iter_mut().for_each(|v| *v += by);
    }
}

/// The mean over samples, shrunk by the share of its square that its standard error explains.
fn shrunk_mean(rows: &[&[f64]]) -> Vec<f64> {
    let Some(first) = rows.first() else { return Vec::new() };
    let count = rows.len() as f64;
    let channel = |at: usize| {
        let mean = rows.iter().map(|row| row[at]).sum::<f64>() / count;
        if rows.len() < 2 || mean == 0.0 {
            return mean;
        }
        let spread = rows.iter().map(|row| (row[at] - mean).powi(2)).sum::<f64>() / (count - 1.0);
        mean * (1.0 - spread / count / (mean * mean)).max(0.0)
    };
    (0..first.len()).map(channel).collect()
}

/// Collects channel means.
struct Means<'a> {
    places: &'a BTreeMap<&'a str, (usize, &'a Site)>,
    found: BTreeMap<usize, Vec<f64>>,
}

impl Observer for Means<'_> {
    fn see(&mut self, name: &str, value: View<'_>) {
        if let Some(&(at, site)) = self.places.get(name)
            && let Some(elements) = value.floats()
            && let Some(means) = channel_means(value.dims(), &elements, site)
        {
            self.found.insert(at, means);
        }
    }
}

/// Meets the other samples at each place and corrects.
struct Corrector<'a> {
    places: &'a BTreeMap<&'a str, (usize, &'a Site)>,
    expected: &'a BTreeMap<usize, Vec<f64>>,
    meeting: &'a Meeting,
    member: usize,
    edited: bool,
}

impl Observer for Corrector<'_> {
    fn see(&mut self, _: &str, _: View<'_>) {}

    fn edits(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    fn edit(&mut self, name: &str, dims: &[usize], elements: &mut [f32]) {
        self.edited = true;
        let Some(&(at, site)) = self.places.get(name) else { return };
        let Some(expected) = self.expected.get(&at) else { return };
        let Some(means) = channel_means(dims, elements, site) else { return };
        let error: Vec<f64> = expected.iter().zip(&means).map(|(e, m)| e - m).collect();
        if let Some(shift) = self.meeting.meet(self.member, at, error, shrunk_mean) {
            add(dims, elements, site, &shift);
        }
    }
}

/// The samples and where they are looked at.
struct Steps<'a> {
    places: &'a [Place],
    samples: &'a Held,
    threads: usize,
}

impl Steps<'_> {
    fn index<'b>(&'b self, name: impl Fn(&'b Place) -> &'b str) -> BTreeMap<&'b str, (usize, &'b Site)> {
        self.places.iter().enumerate().map(|(at, place)| (name(place), (at, &place.site))).collect()
    }

    /// Runs the quantized model on all samples in step, correcting it towards the float model's means. None if the runtime
    /// lets nobody change values, or the samples do not take the same way through the model.
    fn in_step(
        &self,
        expected: &[BTreeMap<usize, Vec<f64>>],
        quantized: &dyn Session,
    ) -> Result<Option<Shifts>> {
        let places = self.index(|place| &place.quantized);
        let meeting = Meeting::new(self.samples.feeds().len());
        let mut forks = Vec::new();
        for _ in self.samples.feeds() {
            forks.push(quantized.fork()?);
        }
        let results: Vec<Result<bool>> = std::thread::scope(|scope| {
            let (places, meeting) = (&places, &meeting);
            let members = forks.into_iter().zip(self.samples.feeds()).zip(expected);
            let mut handles = Vec::new();
            for (member, ((mut session, feed), expected)) in members.enumerate() {
                handles.push(scope.spawn(move || {
                    let mut corrector = Corrector { places, expected, meeting, member, edited: false };
                    let ran = session.run(feed, &mut corrector);
                    meeting.leave();
                    ran?;
                    Ok(corrector.edited)
                }));
            }
            handles
                .into_iter()
                .map(|handle| handle.join().unwrap_or_else(|_| bail!("a worker thread panicked")))
                .collect()
        });
        let edited = results.into_iter().collect::<Result<Vec<bool>>>()?;
        let agreed = meeting.agreed().filter(|_| edited.iter().all(|&edited| edited));
        Ok(agreed.map(|agreed| {
            let named = |(at, shift): (usize, std::sync::Arc<Vec<f64>>)| {
                Some((self.places.get(at)?.site.value.clone(), shift.to_vec()))
            };
            agreed.into_iter().filter_map(named).collect()
        }))
    }

    fn in_sweeps(
        &self,
        float: &Model,
        reference: &dyn Session,
        emit: &dyn Fn(&Model) -> Result<Model>,
        executor: &dyn Executor,
    ) -> Result<Shifts> {
        let expected = self.means(reference, self.index(|place| &place.site.value))?;
        let mut shifts = Shifts::new();
        let part = self.places.len().div_ceil(SWEEPS).max(1);
        for first in (0..self.places.len()).step_by(part) {
            let mut corrected = float.clone();
            correct(&mut corrected, &shifts);
            let model = runnable(executor, &emit(&corrected)?)?;
            let taps = self.places.iter().map(|place| place.quantized.clone()).collect();
            let session = prepare(executor, &model, taps)?;
            let found = self.means(session.as_ref(), self.index(|place| &place.quantized))?;
            for (at, place) in self.places.iter().enumerate().skip(first).take(part) {
                let errors: Vec<Vec<f64>> = expected
                    .iter()
                    .zip(&found)
                    .filter_map(|(e, f)| {
                        Some(e.get(&at)?.iter().zip(f.get(&at)?).map(|(e, f)| e - f).collect())
                    })
                    .collect();
                let rows: Vec<&[f64]> = errors.iter().map(Vec::as_slice).collect();
                if !rows.is_empty() {
                    shifts.insert(place.site.value.clone(), shrunk_mean(&rows));
                }
            }
        }
        Ok(shifts)
    }

    /// The channel means of each sample, in the order of samples.
    fn means(
        &self,
        session: &dyn Session,
        places: BTreeMap<&str, (usize, &Site)>,
    ) -> Result<Vec<BTreeMap<usize, Vec<f64>>>> {
        let all: Vec<usize> = (0..self.samples.feeds().len()).collect();
        let parts = run_all(
            session,
            self.samples,
            &all,
            self.threads,
            Vec::new,
            |done: &mut Vec<_>, session, sample, feed| {
                let mut means = Means { places: &places, found: BTreeMap::new() };
                session.run(&feed, &mut means)?;
                done.push((sample, means.found));
                Ok(())
            },
            |_| {},
        )?;
        let mut parts: Vec<_> = parts.into_iter().flatten().collect();
        parts.sort_by_key(|(sample, _)| *sample);
        Ok(parts.into_iter().map(|(_, found)| found).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_shifts_follow_the_channels() {
        let site = |axis| Site { value: "y".into(), axis, channels: 2 };
        let mut x = [1.0, 3.0, 10.0, 30.0, 5.0, 7.0, 50.0, 70.0];
        assert_eq!(channel_means(&[2, 2, 2], &x, &site(Some(1))), Some(vec![4.0, 40.0]));
        assert_eq!(channel_means(&[4, 2], &x, &site(None)), Some(vec![16.5, 27.5]));
        assert_eq!(channel_means(&[8], &x, &site(None)), None);
        add(&[2, 2, 2], &mut x, &site(Some(1)), &[1.0, -1.0]);
        assert_eq!(x, [2.0, 4.0, 9.0, 29.0, 6.0, 8.0, 49.0, 69.0]);
    }

    /// The reference evaluator lets nobody change values, so these are sweeps.
    #[test]
    fn sweeps_find_what_each_layer_adds() {
        let parse = |w: &str| -> Model {
            let text = format!(
                "<ir_version: 10, opset_import: [\"\": 17]> g (float[1,2] x) => (float[1,2] z)
                <float[2,2] w = {{{w}}}, float[2] b = {{1, 2}}, float[2,2] v = {{1, 0, 0, 1}}, float[2] c = {{0, 0}}>
                {{ y = Gemm(x, w, b) z = Gemm(y, v, c) }}"
            );
            ir::text::parse(&text).unwrap()
        };
        let float = parse("1, 0, 0, 1");
        // \"Quantized\": one weight of the first layer is 1.5 instead of 1. Biases follow the float model's.
        let emit = |model: &Model| -> Result<Model> {
            let mut emitted = parse("1.5, 0, 0, 1");
            let graph = emitted.main_mut();
            for (value, name) in [("y", "b"), ("z", "c")] {
                let held = |graph: &ir::Graph| {
                    let (op, _) = graph.producer(graph.find(value).unwrap()).unwrap();
                    (op, graph.input(op, 2).unwrap())
                };
                let bias = model.main().constant(held(model.main()).1).unwrap().clone();
                let (op, _) = held(graph);
                let fresh = graph.new_constant(name, bias);
                graph.set_input(op, 2, Some(fresh));
            }
            Ok(emitted)
        };
        let feed = |x: f32| -> runtime::Feed {
            vec![("x".to_string(), ir::Tensor::from_slice(&[1, 2], &[x, 1.0]).unwrap())]
        };
        let samples = Held::of(vec![feed(2.0), feed(2.0), feed(2.0)]);
        let shifts = shifts(&float, &emit, &runtime::Reference, &samples, 2).unwrap();
        // The first layer is off by 0.5 * 2 on its first channel, always; the second, behind the correction, is right.
        assert_eq!(shifts["y"], [-1.0, 0.0]);
        assert_eq!(shifts["z"], [0.0, 0.0]);
    }

    #[test]
    fn what_nobody_reads_any_more_takes_no_memory() {
        let model = ir::text::parse(
            "<ir_version: 10, opset_import: [\"\": 17]> g (float[1,100] x) => (float[1,100] z)
            { a = Relu(x) b = Neg(a) c = Abs(b) d = Neg(c) z = Add(d, a) }",
        );
        let mut model = model.unwrap();
        passes::run(
            &mut model,
            &[passes::Step::Once(passes::Spec::new("infer_shapes"))],
            passes::Options::default(),
        )
        .unwrap();
        // Of five values of 400 bytes three at most are alive: a, and what is read and written beside it.
        assert_eq!(peak(model.main()), 3 * 400);
    }

    #[test]
    fn what_is_not_systematic_does_not_move() {
        assert_eq!(shrunk_mean(&[&[2.0, 1.0], &[2.0, -1.0]]), [2.0, 0.0]);
        assert_eq!(shrunk_mean(&[&[2.0]]), [2.0]);
        let halfway = shrunk_mean(&[&[1.0], &[3.0]]);
        // mean 2, standard error 1: a quarter of the square is chance.
        assert_eq!(halfway, [1.5]);
    }
}
