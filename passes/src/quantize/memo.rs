//! What fitting one plan found out, for the next plan of the same model: accuracy passes make dozens that differ in a few
//! operators, and a range costs a search over its histogram.
//!
//! A memo is of one set of statistics, weights and functions. Who changes those says so ([`Memo::changed`]); who changes
//! biases only need not.

use std::collections::{BTreeMap, BTreeSet};

use quant::Grid;
use quant::range::Method;

use super::fit::FitOptions;
use super::plan::{ValuePlan, WeightPlan};

/// Everything that the range of a class of values depends on, beside the statistics.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    names: Vec<String>,
    grid: Grid,
    method: Method,
    range: Option<(f32, f32)>,
    least_width: Option<f32>,
    behind: bool,
}

impl Asked {
    /// The names are those of one class, in their order.
    pub(super) fn new(names: &[String], entry: &ValuePlan, options: &FitOptions) -> Asked {
        let own = names.iter().find_map(|name| options.methods.get(name));
        Asked {
            names: names.to_vec(),
            grid: entry.grid,
            method: own.copied().unwrap_or(options.method),
            range: names.iter().find_map(|name| options.ranges.get(name)).copied(),
            least_width: options.least_width,
            behind: options.behind,
        }
    }

    /// The members of the class.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }
}

/// A weight before its scales were searched, and the factors that were found.
type Searched = (WeightPlan, Option<Vec<f32>>);

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Memo {
    /// By the first name of the class.
    ranges: BTreeMap<String, Vec<(Asked, ValuePlan)>>,
    /// By operator: the weight as it was before its scales were searched, and the factors, if any are better than 1.
    factors: BTreeMap<String, Vec<Searched>>,
}

impl Memo {
    /// The range that was found for this.
    pub(super) fn range(&self, asked: &Asked) -> Option<&ValuePlan> {
        let known = self.ranges.get(asked.names.first()?)?;
        known.iter().find(|(other, _)| other == asked).map(|(_, plan)| plan)
    }

    /// Keeps what was found.
    pub(super) fn keep(&mut self, asked: Asked, found: ValuePlan) {
        let Some(first) = asked.names.first().cloned() else { return };
        self.ranges.entry(first).or_default().push((asked, found));
    }

    /// The factors that were found for the weight of an operator, or finds them.
    pub(super) fn factors(
        &mut self,
        key: &str,
        weight: &WeightPlan,
        find: impl FnOnce() -> Option<Vec<f32>>,
    ) -> Option<Vec<f32>> {
        let known = self.factors.entry(key.to_string()).or_default();
        if let Some((_, factors)) = known.iter().find(|(other, _)| other == weight) {
            return factors.clone();
        }
        let found = find();
        known.push((weight.clone(), found.clone()));
        found
    }

    /// What is left where the numbers of these values, and constants beside them, are others now.
    pub fn changed(&self, values: &BTreeSet<String>) -> Memo {
        let holds = |(asked, _): &&(Asked, ValuePlan)| {
            !asked.behind && !asked.names.iter().any(|name| values.contains(name))
        };
        let kept = |(name, list): (&String, &Vec<(Asked, ValuePlan)>)| {
            (name.clone(), list.iter().filter(holds).cloned().collect())
        };
        Memo { ranges: self.ranges.iter().map(kept).collect(), factors: BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::min_max;
    use quant::CodeType;

    fn entry() -> ValuePlan {
        ValuePlan {
            grid: Grid::asymmetric(CodeType::U8),
            class: 0,
            range: None,
            params: None,
            source: String::new(),
            sqnr_db: None,
            clipped: None,
            reason: String::new(),
        }
    }

    fn asked(name: &str, behind: bool) -> Asked {
        let options = FitOptions { behind, ..min_max() };
        Asked::new(&[name.to_string()], &entry(), &options)
    }

    #[test]
    fn a_range_is_known_until_its_numbers_change() {
        let all = [asked("x", false), asked("y", false), asked("y", true)];
        let known = |memo: &Memo| all.each_ref().map(|asked| memo.range(asked).is_some());
        let mut memo = Memo::default();
        assert_eq!(known(&memo), [false; 3]);
        all.iter().for_each(|asked| memo.keep(asked.clone(), entry()));
        assert_eq!(known(&memo), [true; 3]);
        // Of y the numbers are the same, but a function behind it may have other constants.
        assert_eq!(known(&memo.changed(&BTreeSet::from(["x".to_string()]))), [false, true, false]);
    }

    #[test]
    fn that_nothing_was_found_is_known_too() {
        let weight = WeightPlan {
            value: "w".into(),
            slot: 1,
            grid: Grid::symmetric(CodeType::I8),
            axis: None,
            block: None,
            scale_factors: Vec::new(),
        };
        let mut memo = Memo::default();
        assert_eq!(memo.factors("y", &weight, || None), None);
        assert_eq!(memo.factors("y", &weight, || Some(vec![2.0])), None);
        assert_eq!(memo.factors("z", &weight, || Some(vec![2.0])), Some(vec![2.0]));
    }
}
