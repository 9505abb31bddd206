//! Weights chosen by what their layers read: the model runs stage by stage, each stage behind weights that are quantized
//! already, and never as a whole.
//!
//! Weights that read the same value are a group. A stage of the graph ends where a group's input is computed
//! ([`passes::stages`]); it is run on all samples, the group's Gram matrix is summed up, its weights are quantized and go to the
//! spool, and the next stage reads them from there. Each operator runs once a sample (twice where the float model's values are
//! wanted too), so the whole costs one pass over the data and the Gram matrices. In memory are one stage, one Gram matrix and
//! the values that are alive at the cut. An interrupted run goes through the stages again, but only computes what is missing.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context, Result};
use ir::{Model, ValueId};
use passes::quantize::low_bit::{Packed, Site};
use passes::stages::{Positions, Stage, cut};
use quant::weight::gram::Gram;

use super::groups::{Group, groups};
use super::layer::Seen;
use super::method::Choice;
use super::options::{LowBitOptions, Targets, WeightMethod};
use super::spool::Spool;
use super::stream::{feeds, run};
use super::{Progress, key};
use crate::data::Source;

/// Quantizes every weight that a calibrated method was chosen for and whose input can be seen. Returns what it left out.
pub fn calibrated(
    model: &Model,
    sites: &[(Site, Choice)],
    source: &dyn Source,
    options: &LowBitOptions,
    spool: &mut Spool,
    notes: &mut Vec<String>,
    progress: &mut Progress<'_>,
) -> Result<()> {
    let positions = Positions::new(model)?;
    let groups = groups(model, sites, &positions, options, |choice| choice.method.is_calibrated());
    if groups.is_empty() {
        notes.push("no weight is read in the main graph: nothing was calibrated".into());
        return Ok(());
    }
    let stops: Vec<Vec<ValueId>> = groups
        .iter()
        .map(|group| group.inputs.iter().chain(group.residuals.values()).copied().collect())
        .collect();
    let stages = cut(model, &positions, &stops);
    let (mut quantized, tokens) = feeds(model, source, options)?;
    let mut float = (options.calibrated.targets != Targets::Own).then(|| quantized.clone());
    let estimate = estimate(sites, &groups, tokens, options)?;
    for (at, (group, stage)) in groups.iter().zip(&stages).enumerate() {
        progress(&format!("calibrating (about {estimate:.0} s in all)"), at, groups.len());
        let wired = wired(model, stage, sites, spool);
        run(model, stage, &wired, &mut quantized, options)?;
        if let Some(float) = &mut float {
            run(model, stage, &[], float, options)?;
        }
        let missing: Vec<usize> = group
            .members
            .iter()
            .copied()
            .filter(|&m| spool.get(&key(model, &sites[m].0)).is_none())
            .collect();
        if !missing.is_empty() {
            let seen = Seen { model, sites, group, quantized: &quantized, float: float.as_ref() };
            seen.quantize(options, spool)?;
        }
        for stream in [Some(&mut quantized), float.as_mut()].into_iter().flatten() {
            for values in stream {
                stage.last_use.iter().for_each(|value| {
                    values.remove(value);
                });
            }
        }
    }
    progress("calibrating", groups.len(), groups.len());
    Ok(())
}

/// Takes the members of a group, their Gram matrix and the largest magnitude of each column.
pub type Look<'a> = dyn FnMut(&[usize], &Gram, &[f32]) -> Result<()> + 'a;

/// Runs the float model stage by stage and shows, one group of weights after the other, the Gram matrix and the largest
/// magnitudes of the columns that it reads.
pub fn observe(
    model: &Model,
    sites: &[(Site, Choice)],
    source: &dyn Source,
    options: &LowBitOptions,
    progress: &mut Progress<'_>,
    seen: &mut Look<'_>,
) -> Result<()> {
    let positions = Positions::new(model)?;
    let groups = groups(model, sites, &positions, options, |_| true);
    let stops: Vec<Vec<ValueId>> = groups.iter().map(|group| group.inputs.clone()).collect();
    let stages = cut(model, &positions, &stops);
    let (mut stream, _) = feeds(model, source, options)?;
    for (at, (group, stage)) in groups.iter().zip(&stages).enumerate() {
        progress("observing", at, groups.len());
        run(model, stage, &[], &mut stream, options)?;
        if let Some(&first) = group.members.first() {
            let rows = Seen { model, sites, group, quantized: &stream, float: None };
            let cols = sites[first].0.cols;
            let (mut gram, mut largest) = (Gram::new(cols), vec![0.0f32; cols]);
            for sample in 0..stream.len() {
                for &input in &group.inputs {
                    let found = rows.rows(&stream, sample, input, cols)?;
                    gram.add(&found).with_context(|| format!("the input of {:?}", sites[first].0.name))?;
                    for row in found.chunks(cols) {
                        largest.iter_mut().zip(row).for_each(|(l, v)| *l = l.max(v.abs()));
                    }
                }
            }
            seen(&group.members, &gram, &largest)?;
        }
        for values in &mut stream {
            stage.last_use.iter().for_each(|value| {
                values.remove(value);
            });
        }
    }
    progress("observing", groups.len(), groups.len());
    Ok(())
}

/// Seconds that Gram matrices and quantizers will take, from the speed of a small matrix product here and now.
fn estimate(
    sites: &[(Site, Choice)],
    groups: &[Group],
    tokens: usize,
    options: &LowBitOptions,
) -> Result<f64> {
    const SIZE: usize = 512;
    let started = Instant::now();
    Gram::new(SIZE).add(&vec![0.5; SIZE * SIZE])?;
    let rate = (SIZE as f64).powi(3) / started.elapsed().as_secs_f64().max(1e-6);
    let group = |group: &Group| {
        let k = group.members.first().map_or(0, |&m| sites[m].0.cols) as f64;
        let rows: f64 = group.members.iter().map(|&m| sites[m].0.rows as f64).sum();
        let sweeps = options.calibrated.gptq.sweeps_for(rows as usize, tokens as u64) as f64;
        // Forty candidates of column scales, each rounded and weighed in the rows that are looked at.
        let scales = match group.members.first().map(|&m| sites[m].1.method) {
            Some(WeightMethod::Awq | WeightMethod::AwqGptq) => {
                80.0 * rows.min(1024.0 * group.members.len() as f64)
            }
            _ => 0.0,
        };
        let moments = if options.calibrated.targets == Targets::Own { 1.0 } else { 3.0 };
        moments * tokens as f64 * k * k + 1.5 * k.powi(3) + (scales + rows * (1.0 + 2.0 * sweeps)) * k * k
    };
    Ok(groups.iter().map(group).sum::<f64>() / rate)
}

/// The finished weights that operators of a stage read.
fn wired(model: &Model, stage: &Stage, sites: &[(Site, Choice)], spool: &Spool) -> Vec<(Site, Packed)> {
    let ops: BTreeSet<_> = stage.ops.iter().copied().collect();
    let mut found = Vec::new();
    for (site, _) in sites {
        let mut site = site.clone();
        // Bodies of control flow go with their operator: they keep float weights here.
        site.readers.retain(|reader| reader.graph == model.main_id() && ops.contains(&reader.op));
        if let Some(done) = spool.get(&key(model, &site)).filter(|_| !site.readers.is_empty()) {
            found.push((site, done.packed.clone()));
        }
    }
    found
}
