//! The search of `quantize --auto`: picks that keep the budgets, judged whole on held-back samples, and repaired where the
//! sum of parts was wrong.

use anyhow::Result;
use passes::assign_precision::{AssignError, Assignment, Budgets, Column, Effort, solve};
use passes::quantize::Precision;

use super::assign::Choice;
use super::costs::Limit;
use super::damage::decibels;
use super::judge::{Judge, Verdict};
use super::mix::Mixer;
use crate::report::schema::Budget;

/// Whole plans that are tried at most.
pub(super) const TRIALS: usize = 24;

/// Plans that are written for trial where the choice, as written, misses a budget.
const REPAIRS: usize = 4;

/// A mix replaces the uniform plan if it leaves at most this share of its noise: 0.1 dB less.
const WORTHWHILE: f64 = 0.977;

/// Without a budget of work, this many times the bit operations of the uniform plan: weights-only is as small as integers
/// and more accurate, but computes in float, and nobody asks for a slow model. See [`work`].
const WORK: f64 = 1.5;

/// The limit on work that a limit on size stands for, as a multiple of the uniform plan's bit operations. Who allows a file
/// `ratio` times as large allows `(ratio - 1) / 3` of the weights in float, each four times as large, and with them that
/// share of the multiplications, each 16 times the work of 8 bits.
fn work(ratio: f64) -> f64 {
    (1.0 + 5.0 * (ratio - 1.0)).clamp(WORK, 16.0)
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// `--max-size`.
    pub size: Option<(String, Limit)>,
    /// `--max-bitops`.
    pub bitops: Option<(String, Limit)>,
    /// `--max-latency`.
    pub latency: Option<(String, Limit)>,
    /// `--max-drop`, as a share.
    pub drop: Option<(String, f64)>,
    /// `--min-sqnr`.
    pub sqnr: Option<(String, f64)>,
}

/// Fronts by the cost that they are drawn over.
type Fronts = Vec<(Column, Vec<Assignment>)>;

/// The state of a search: what was judged so far.
pub(super) struct Search<'a> {
    mixer: &'a Mixer<'a>,
    judge: &'a Judge<'a>,
    choice: &'a Choice,
    asked: &'a Asked,
    whole: f64,
    /// Everything that was judged.
    tried: Vec<(Vec<usize>, Verdict)>,
    progress: &'a mut dyn FnMut(&'static str, usize, usize),
}

impl<'a> Search<'a> {
    /// A search from the plan of one precision, `first`, and its verdict. `whole`: bytes of the float model's file.
    pub(super) fn new(
        mixer: &'a Mixer<'a>,
        judge: &'a Judge<'a>,
        choice: &'a Choice,
        asked: &'a Asked,
        whole: u64,
        first: (Vec<usize>, Verdict),
        progress: &'a mut dyn FnMut(&'static str, usize, usize),
    ) -> Search<'a> {
        Search { mixer, judge, choice, asked, whole: whole as f64, tried: vec![first], progress }
    }

    /// Everything that was judged.
    pub(super) fn into_tried(self) -> Vec<(Vec<usize>, Verdict)> {
        self.tried
    }

    /// The limits on costs.
    fn budgets(&self) -> Budgets {
        let floats = self.choice.problem.costs(&self.choice.uniform(Precision::Float));
        let limit = |asked: &Option<(String, Limit)>, column: Column| {
            asked.as_ref().map(|(_, limit)| limit.of(floats[column as usize]))
        };
        let size = self.asked.size.as_ref().map(|(_, limit)| limit.of(self.whole));
        [None, size, limit(&self.asked.bitops, Column::Bitops), limit(&self.asked.latency, Column::Latency)]
    }

    fn wants_accuracy(&self) -> bool {
        self.asked.drop.is_some() || self.asked.sqnr.is_some()
    }

    fn verdict(&mut self, picks: &[usize]) -> Result<Verdict> {
        if let Some((_, known)) = self.tried.iter().find(|(tried, _)| tried == picks) {
            return Ok(known.clone());
        }
        (self.progress)("judging", self.tried.len(), TRIALS);
        let verdict = self.judge.judge(&self.mixer.plan(&self.choice.mix(picks)))?;
        self.tried.push((picks.to_vec(), verdict.clone()));
        Ok(verdict)
    }

    fn accurate(&self, verdict: &Verdict) -> bool {
        let drop = self
            .asked
            .drop
            .as_ref()
            .is_none_or(|(_, most)| verdict.drop.is_none_or(|drop| drop <= *most + 1e-12));
        drop && self.asked.sqnr.as_ref().is_none_or(|(_, least)| verdict.score.global_db >= *least)
    }

    /// The picks that keep every budget, verified; none if there are none. Fronts for the report.
    pub(super) fn find(&mut self, notes: &mut Vec<String>) -> Result<(Option<Vec<usize>>, Fronts)> {
        let mut budgets = self.budgets();
        let fronts = self.choice.fronts(&[None; 4])?;
        // The file's size is known only when it was made: what the prediction missed is taken off the budget.
        for _ in 0..4 {
            let found =
                if self.wants_accuracy() { self.cheapest(&budgets)? } else { self.best(&budgets, notes)? };
            let Some(picks) = found else { return Ok((self.kept(), fronts)) };
            let verdict = self.verdict(&picks)?;
            let size = self.budgets()[Column::Bytes as usize];
            match (size, &mut budgets[Column::Bytes as usize]) {
                (Some(size), Some(left)) if verdict.bytes as f64 > size => {
                    *left -= (verdict.bytes as f64 - size) * 1.05 + 64.0;
                }
                _ => return Ok((Some(picks), fronts)),
            }
        }
        Ok((self.kept(), fronts))
    }

    /// Every budget is kept, by what was measured where it was.
    fn keeps(&self, picks: &[usize], verdict: &Verdict) -> bool {
        let mut costs = self.choice.problem.costs(picks);
        costs[Column::Bytes as usize] = verdict.bytes as f64;
        let within = |(cost, budget): (&f64, &Option<f64>)| {
            budget.is_none_or(|budget| *cost <= budget * (1.0 + 1e-12))
        };
        costs.iter().zip(&self.budgets()).all(within) && self.accurate(verdict)
    }

    /// Judges the choice and the plan of one precision as they will be written, with corrected biases, and keeps the better
    /// of the two: a mix is never worse than the plan that it is meant to improve. What is asked for in accuracy is asked of
    /// the written model too.
    pub(super) fn finish(
        &mut self,
        picks: Option<Vec<usize>>,
        finish: &dyn Fn(&[usize]) -> Result<Verdict>,
    ) -> Result<Option<Vec<usize>>> {
        let Some(picks) = picks else { return Ok(None) };
        let uniform = self.choice.uniform(self.mixer.uniform());
        let verdict = self.finished(&picks, finish)?;
        if !self.keeps(&picks, &verdict) {
            return self.instead(finish);
        }
        if picks == uniform {
            return Ok(Some(picks));
        }
        // Where accuracy is the budget the cheapest is asked for, and else the most accurate.
        let costs = [&uniform, &picks].map(|picks| self.choice.problem.costs(picks));
        let work = Column::Bitops as usize;
        let cheaper = costs[0][work] <= costs[1][work];
        if self.wants_accuracy()
            && !(cheaper && costs[0][Column::Bytes as usize] <= costs[1][Column::Bytes as usize])
        {
            return Ok(Some(picks));
        }
        let plain = self.finished(&uniform, finish)?;
        if self.wants_accuracy() {
            return Ok(Some(if self.keeps(&uniform, &plain) { uniform } else { picks }));
        }
        // Smaller gains are chance on a dozen samples.
        let better = |verdict: &Verdict| verdict.score.noise < plain.score.noise * WORTHWHILE;
        if !self.keeps(&uniform, &plain) || better(&verdict) {
            return Ok(Some(picks));
        }
        // Some of the changes are good: those of which most was expected, half of them, then a few.
        let groups = &self.choice.problem.groups;
        let gain = |at: usize| groups[at][uniform[at]][0] - groups[at][picks[at]][0];
        let mut changed: Vec<usize> = (0..picks.len()).filter(|&at| picks[at] != uniform[at]).collect();
        changed.sort_by(|&a, &b| gain(b).total_cmp(&gain(a)).then(a.cmp(&b)));
        for parts in [2, 6] {
            let mut fewer = uniform.clone();
            changed[..changed.len().div_ceil(parts)].iter().for_each(|&at| fewer[at] = picks[at]);
            if fewer == picks {
                continue;
            }
            let verdict = self.finished(&fewer, finish)?;
            if self.keeps(&fewer, &verdict) && better(&verdict) {
                return Ok(Some(fewer));
            }
        }
        Ok(Some(uniform))
    }

    /// The choice did not keep as written what it kept when it was tried, for example because biases were corrected on other
    /// samples: the most accurate of what else was tried that does.
    fn instead(&mut self, finish: &dyn Fn(&[usize]) -> Result<Verdict>) -> Result<Option<Vec<usize>>> {
        let kept = self.tried.iter().filter(|(picks, verdict)| self.keeps(picks, verdict));
        let mut order: Vec<(f64, Vec<usize>)> =
            kept.map(|(picks, verdict)| (verdict.score.noise, picks.clone())).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (_, picks) in order.into_iter().take(REPAIRS) {
            let verdict = self.finished(&picks, finish)?;
            if self.keeps(&picks, &verdict) {
                return Ok(Some(picks));
            }
        }
        Ok(None)
    }

    /// Judges a plan as it will be written; that replaces what was known of it.
    fn finished(&mut self, picks: &[usize], finish: &dyn Fn(&[usize]) -> Result<Verdict>) -> Result<Verdict> {
        (self.progress)("judging", self.tried.len(), TRIALS);
        let verdict = finish(picks)?;
        self.tried.retain(|(known, _)| known != picks);
        self.tried.push((picks.to_vec(), verdict.clone()));
        Ok(verdict)
    }

    /// Of everything that was tried, the most accurate that keeps every budget, measured sizes and all.
    fn kept(&self) -> Option<Vec<usize>> {
        let kept = self.tried.iter().filter(|(picks, verdict)| self.keeps(picks, verdict));
        let best = kept.min_by(|a, b| a.1.score.noise.total_cmp(&b.1.score.noise));
        best.map(|(picks, _)| picks.clone())
    }

    /// The most accurate within the costs.
    fn best(&mut self, budgets: &Budgets, notes: &mut Vec<String>) -> Result<Option<Vec<usize>>> {
        let mut within = *budgets;
        let uniform = self.choice.problem.costs(&self.choice.uniform(self.mixer.uniform()));
        if within[Column::Bitops as usize].is_none() && within[Column::Latency as usize].is_none() {
            let ratio =
                within[Column::Bytes as usize].map_or(1.0, |most| most / uniform[Column::Bytes as usize]);
            let most = work(ratio);
            within[Column::Bitops as usize] = Some(uniform[Column::Bitops as usize] * most);
            let note = format!(
                "no limit on work was given: at most {most:.2} x the bit operations of the uniform plan"
            );
            if !notes.contains(&note) {
                notes.push(note);
            }
            if within[Column::Bytes as usize].is_none() {
                within[Column::Bytes as usize] = Some(uniform[Column::Bytes as usize] * 1.1);
                notes.push("no limit on size was given: at most 1.1 x the size of the uniform plan".into());
            }
        }
        let mut solved = solve(&self.choice.problem, Column::Loss, &within, Effort::default());
        if matches!(solved, Err(AssignError::Infeasible { .. })) && within != *budgets {
            let note = "what was asked for needs more work than that: no limit on work then".to_string();
            if !notes.contains(&note) {
                notes.push(note);
            }
            within = *budgets;
            solved = solve(&self.choice.problem, Column::Loss, &within, Effort::default());
        }
        match solved {
            Ok(found) => {
                let verdict = self.verdict(&found.picks)?;
                let (uniform, full) =
                    self.tried.first().cloned().unwrap_or((found.picks.clone(), verdict.clone()));
                // Never worse than the plan that needs no search.
                let fits = self
                    .choice
                    .problem
                    .costs(&uniform)
                    .iter()
                    .zip(&within)
                    .all(|(c, b)| b.is_none_or(|b| *c <= b));
                if fits && full.score.noise < verdict.score.noise {
                    Ok(Some(uniform))
                } else {
                    Ok(Some(found.picks))
                }
            }
            Err(AssignError::Infeasible { nearest, .. }) => {
                self.verdict(&nearest.picks)?;
                Ok(None)
            }
            Err(other) => Err(other.into()),
        }
    }

    /// The cheapest that is accurate enough: by halving along the front, then by reverting the worst groups of the next
    /// cheaper plan.
    fn cheapest(&mut self, budgets: &Budgets) -> Result<Option<Vec<usize>>> {
        let fronts = match self.choice.fronts(budgets) {
            Ok(fronts) => fronts,
            // Not even the costs can be kept: the nearest is judged for the message.
            Err(_) => {
                if let Err(AssignError::Infeasible { nearest, .. }) =
                    solve(&self.choice.problem, Column::Loss, budgets, Effort::default())
                {
                    self.verdict(&nearest.picks)?;
                }
                return Ok(None);
            }
        };
        let wanted = if self.choice.timed { Column::Latency } else { Column::Bitops };
        let found = fronts.iter().find(|(column, _)| *column == wanted).or(fronts.first());
        let Some((_, front)) = found else { return Ok(None) };
        let (mut low, mut high) = (0, front.len());
        while low < high {
            let middle = (low + high) / 2;
            let verdict = self.verdict(&front[middle].picks)?;
            if self.accurate(&verdict) { high = middle } else { low = middle + 1 }
        }
        let best = front.get(low).map(|found| found.picks.clone());
        // Between two points of the front: the cheaper one with its worst groups reverted, one after the other.
        let start = match low {
            0 => return Ok(best),
            _ => front[low - 1].picks.clone(),
        };
        let cost = |picks: &[usize]| self.choice.problem.costs(picks)[wanted as usize];
        let limit = best.as_ref().map_or(f64::INFINITY, |best| cost(best));
        let mut picks = start;
        for _ in 0..if best.is_some() { 3 } else { 10 } {
            let Some(next) = self.reverted(&picks, budgets) else { break };
            if self.choice.problem.costs(&next)[wanted as usize] >= limit {
                break;
            }
            picks = next;
            let verdict = self.verdict(&picks)?;
            if self.accurate(&verdict) {
                return Ok(Some(picks));
            }
        }
        Ok(best)
    }

    /// The group that harms most gets its next better precision, within the budgets.
    fn reverted(&self, picks: &[usize], budgets: &Budgets) -> Option<Vec<usize>> {
        let groups = &self.choice.problem.groups;
        let mut order: Vec<usize> = (0..picks.len()).collect();
        let harm = |at: usize| groups[at][picks[at]][0];
        order.sort_by(|&a, &b| harm(b).total_cmp(&harm(a)).then(a.cmp(&b)));
        order.into_iter().find_map(|at| {
            let better = (0..groups[at].len()).filter(|&pick| groups[at][pick][0] < harm(at) * 0.5);
            let pick = better.min_by(|&a, &b| groups[at][a][2].total_cmp(&groups[at][b][2]))?;
            let mut next = picks.to_vec();
            next[at] = pick;
            let costs = self.choice.problem.costs(&next);
            costs.iter().zip(budgets).all(|(cost, budget)| budget.is_none_or(|b| *cost <= b)).then_some(next)
        })
    }

    /// Of everything tried, what misses the budgets least.
    pub(super) fn nearest(&self) -> Option<Vec<usize>> {
        let budgets = self.budgets();
        let miss = |(picks, verdict): &&(Vec<usize>, Verdict)| -> f64 {
            let mut costs = self.choice.problem.costs(picks);
            costs[Column::Bytes as usize] = verdict.bytes as f64;
            let over = costs
                .iter()
                .zip(&budgets)
                .map(|(cost, budget)| budget.map_or(0.0, |b| (cost / b - 1.0).max(0.0)));
            let over: f64 = over.sum();
            let drop = self
                .asked
                .drop
                .as_ref()
                .zip(verdict.drop)
                .map_or(0.0, |((_, most), drop)| (drop - most).max(0.0) * 10.0);
            let sqnr = self
                .asked
                .sqnr
                .as_ref()
                .map_or(0.0, |(_, least)| (least - verdict.score.global_db).max(0.0) / 10.0);
            over + drop + sqnr
        };
        self.tried.iter().min_by(|a, b| miss(a).total_cmp(&miss(b))).map(|(picks, _)| picks.clone())
    }

    /// Each budget and what these picks make of it.
    pub(super) fn reached(&self, picks: &[usize]) -> Vec<Budget> {
        let costs = self.choice.problem.costs(picks);
        let floats = self.choice.problem.costs(&self.choice.uniform(Precision::Float));
        let verdict = self.tried.iter().find(|(known, _)| known == picks).map(|(_, verdict)| verdict);
        let mut rows = Vec::new();
        let mut row = |asked: &str, reached: String, met: bool| {
            rows.push(Budget { asked: asked.to_string(), reached, met });
        };
        let limits = self.budgets();
        if let (Some((text, _)), Some(limit)) = (&self.asked.size, limits[1]) {
            let bytes = verdict.map_or(costs[1], |verdict| verdict.bytes as f64);
            row(
                &format!("--max-size {text}"),
                format!("{bytes:.0} bytes ({:.3} x)", bytes / self.whole),
                bytes <= limit,
            );
        }
        if let (Some((text, _)), Some(limit)) = (&self.asked.bitops, limits[2]) {
            let share = costs[2] / floats[2].max(1.0);
            row(
                &format!("--max-bitops {text}"),
                format!("{:.3e} ({share:.3} x)", costs[2]),
                costs[2] <= limit * (1.0 + 1e-12),
            );
        }
        if let (Some((text, _)), Some(limit)) = (&self.asked.latency, limits[3]) {
            row(
                &format!("--max-latency {text}"),
                format!("{:.1} us predicted", costs[3]),
                costs[3] <= limit * (1.0 + 1e-12),
            );
        }
        if let Some((text, most)) = &self.asked.drop {
            let drop = verdict.and_then(|verdict| verdict.drop);
            let told = drop.map_or("the outputs are no choices: not measured".into(), |drop| {
                format!("{:.2} %", drop * 100.0)
            });
            row(&format!("--max-drop {text}"), told, drop.is_some_and(|drop| drop <= *most + 1e-12));
        }
        if let Some((text, least)) = &self.asked.sqnr {
            let found = verdict.map_or(decibels(costs[0]), |verdict| verdict.score.global_db);
            row(&format!("--min-sqnr {text}"), format!("{found:.1} dB"), found >= *least);
        }
        rows
    }
}
