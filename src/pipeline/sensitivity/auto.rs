//! `quantize --auto`: calibrate, plan, measure, assign; then verify whole plans on held-back samples and repair what the sum
//! of parts got wrong.

use std::collections::BTreeMap;

use anyhow::Result;
use ir::Model;
use passes::quantize::{Precision, QuantPlan};

use super::super::prepare::quantizable;
use super::super::quantize::mixed::{Samples, finished, start};
use super::super::quantize::refine::Step;
use super::super::quantize::{QuantizeOptions, split};
use super::super::table::CalibrationTable;
use super::assign::choice;
use super::costs::CostTable;
use super::damage::Score;
use super::judge::{Judge, Verdict};
use super::mix::Mixer;
use super::run::Labels;
pub use super::search::Asked;
use super::search::{Search, TRIALS};
use super::table::Change;
use super::{MeasureOptions, measure, statistics};
use crate::data::{Source, part, telling};
use crate::report::schema::{Budget, Point};

/// Calibration samples that groups are measured on at most.
const MEASURED: usize = 32;

/// How to find a mix.
pub struct AutoOptions {
    /// The budgets.
    pub asked: Asked,
    /// Candidate precisions beside float.
    pub precisions: Vec<Precision>,
    /// Labels by sample.
    pub labels: Labels,
    /// Measured times.
    pub costs: Option<CostTable>,
}

/// What was found.
pub struct Found {
    /// The plan; none if no plan keeps the budgets.
    pub plan: Option<QuantPlan>,
    /// The model that the plan is of: the simplified float model, perhaps with channels equalized.
    pub float: Model,
    /// What the accuracy passes did before groups were measured.
    pub steps: Vec<Step>,
    /// Statistics of the simplified float model, for emitting and for the report.
    pub table: CalibrationTable,
    /// Scores by group and precision.
    pub scores: BTreeMap<Change, Score>,
    /// Operators of each group.
    pub groups: BTreeMap<String, Vec<String>>,
    /// Fronts of the report.
    pub points: Vec<Point>,
    /// Each budget and what was reached; of the nearest plan if there is none that keeps them.
    pub budgets: Vec<Budget>,
    /// Accuracy that was lost on held-back samples, where outputs are choices.
    pub drop: Option<f64>,
    /// Share of labelled held-back samples that are right: in float, with the plan; and how many there are.
    pub accuracy: Option<(f64, f64, usize)>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// Finds the plan.
///
/// # Errors
/// The model cannot be run or quantized.
pub fn auto(
    model: Model,
    source: &dyn Source,
    options: &QuantizeOptions,
    auto: &AutoOptions,
    progress: &mut dyn FnMut(&'static str, usize, usize),
) -> Result<Found> {
    let float = quantizable(model)?;
    let kept = telling(&float, source)?;
    let mut notes = Vec::new();
    if kept.len() < source.len() {
        notes.push(format!(
            "{} of {} samples are empty and were left out",
            source.len() - kept.len(),
            source.len()
        ));
    }
    let labels: Labels =
        kept.iter().enumerate().filter_map(|(at, sample)| Some((at, *auto.labels.get(sample)?))).collect();
    let source: &dyn Source = &part(source, &kept);
    let (seen, held) = split(source.len());
    let held = if held.is_empty() { seen.clone() } else { held };
    let (table, engine) = match &options.table {
        Some(table) => (table.clone(), options.engine.clone()),
        None => statistics(&float, &part(source, &seen), &options.engine, &mut notes, &mut |done, all| {
            progress("calibrating", done, all);
        })?,
    };
    let options = &QuantizeOptions { engine, ..options.clone() };
    progress("improving", 0, 1);
    let samples = Samples { source, seen: &seen, judged: &held };
    let begun = start(&float, &table, &samples, options)?;
    notes.extend(begun.note);
    let mixer = Mixer::new(&begun.model, &begun.plan, options).with(&auto.precisions, &begun.table)?;
    let few = evenly(&seen, MEASURED);
    let here: Labels =
        few.iter().enumerate().filter_map(|(at, sample)| Some((at, *labels.get(sample)?))).collect();
    let how = MeasureOptions {
        engine: options.engine.clone(),
        precisions: auto.precisions.clone(),
        ..MeasureOptions::default()
    };
    let measured = measure(&mixer, &part(source, &few), &here, &how, None, progress, &mut |_| Ok(()))?;
    for note in measured.notes {
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    let scores = measured.table.scores();
    let judge = Judge::new(&begun.model, source, held.clone(), &labels, &options.engine)?;
    let whole = proto::to_bytes(&float)?.len() as u64;
    let uniform = vec![mixer.uniform(); mixer.groups.len()];
    progress("judging", 0, TRIALS);
    let full = judge.judge(&mixer.plan(&uniform))?;
    let sum: f64 = mixer
        .groups
        .iter()
        .filter_map(|group| scores.get(&(group.name.clone(), mixer.uniform())))
        .map(|score| score.noise)
        .sum();
    let correction = (full.score.noise / sum).clamp(0.25, 8.0);
    let correction = if correction.is_finite() { correction } else { 1.0 };
    let costs = auto.costs.as_ref();
    let choice = choice(&mixer, &scores, &measured.bytes, whole, costs, correction);
    let first = (choice.uniform(mixer.uniform()), full);
    let mut search = Search::new(&mixer, &judge, &choice, &auto.asked, whole, first, progress);
    let (picks, fronts) = search.find(&mut notes)?;
    let finish = |picks: &[usize]| -> Result<Verdict> {
        let plan = mixer.plan(&choice.mix(picks));
        judge.judge_written(&finished(&float, &begun.model, &plan, &samples, options)?)
    };
    let picks = search.finish(picks, &finish)?;
    let nearest = picks.clone().or_else(|| search.nearest());
    let shown = nearest.unwrap_or_else(|| choice.uniform(mixer.uniform()));
    let budgets = search.reached(&shown);
    let tried = search.into_tried();
    let verdict = tried.iter().find(|(known, _)| *known == shown).map(|(_, verdict)| verdict.clone());
    let mut points = Vec::new();
    for (column, assignments) in &fronts {
        let mut here: Vec<(Vec<usize>, Point)> = assignments
            .iter()
            .map(|found| (found.picks.clone(), choice.point(*column, &found.picks, &found.costs)))
            .collect();
        if !here.iter().any(|(known, _)| *known == shown) {
            here.push((shown.clone(), choice.point(*column, &shown, &choice.problem.costs(&shown))));
        }
        for (known, point) in &mut here {
            point.chosen = *known == shown && picks.is_some();
            if let Some((_, verdict)) = tried.iter().find(|(tried, _)| tried == known) {
                point.measured_db = Some(verdict.score.global_db);
                point.metric = verdict.accuracy.map(|(_, found, _)| found);
                point.bytes = verdict.bytes;
            }
        }
        points.extend(here.into_iter().map(|(_, point)| point));
    }
    let plan = picks.map(|picks| mixer.plan(&choice.mix(&picks)));
    let groups = mixer.groups.iter().map(|group| (group.name.clone(), group.ops.clone())).collect();
    let (drop, accuracy) = verdict.map_or((None, None), |verdict| (verdict.drop, verdict.accuracy));
    let (steps, float) = (begun.steps, begun.model);
    Ok(Found { plan, float, steps, table, scores, groups, points, budgets, drop, accuracy, notes })
}

/// `count` of the samples, evenly spaced.
fn evenly(samples: &[usize], count: usize) -> Vec<usize> {
    let wanted = count.min(samples.len());
    (0..wanted).map(|at| samples[(2 * at + 1) * samples.len() / (2 * wanted)]).collect()
}
