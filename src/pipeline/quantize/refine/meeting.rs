//! A place where threads that run the same model on different samples meet at each point of it, and go on with the mean of
//! what all of them found there.
//!
//! So a statistic over all samples at one layer can act on the same samples' next layers, in one pass over the model.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Meets all `members` at numbered points.
pub struct Meeting {
    members: usize,
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Default)]
struct State {
    /// What arrived at points that are not complete, by member.
    arrived: BTreeMap<usize, BTreeMap<usize, Vec<f64>>>,
    /// What was agreed on.
    agreed: BTreeMap<usize, Arc<Vec<f64>>>,
    /// Members that stand at a point that is not complete.
    waiting: usize,
    /// Members that left.
    left: usize,
    /// Somebody will never come.
    broken: bool,
}

impl Meeting {
    /// A meeting of so many members, numbered from 0.
    pub fn new(members: usize) -> Meeting {
        Meeting { members, state: Mutex::default(), bell: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all members are at `point`, and returns what `agree` makes of their contributions, in the order of
    /// members. None if some member never comes (it failed, or stands at another point): then the meeting is over.
    pub fn meet(
        &self,
        member: usize,
        point: usize,
        found: Vec<f64>,
        agree: impl Fn(&[&[f64]]) -> Vec<f64>,
    ) -> Option<Arc<Vec<f64>>> {
        let mut state = self.lock();
        if state.broken || state.left > 0 {
            state.broken = true;
            self.bell.notify_all();
            return None;
        }
        let here = state.arrived.entry(point).or_default();
        here.insert(member, found);
        if here.len() == self.members {
            let all = state.arrived.remove(&point)?;
            let rows: Vec<&[f64]> = all.values().map(Vec::as_slice).collect();
            let agreed = Arc::new(agree(&rows));
            state.agreed.insert(point, agreed.clone());
            state.waiting -= self.members - 1;
            self.bell.notify_all();
            return Some(agreed);
        }
        state.waiting += 1;
        if state.waiting == self.members {
            state.broken = true;
            self.bell.notify_all();
        }
        loop {
            if let Some(agreed) = state.agreed.get(&point) {
                return Some(agreed.clone());
            }
            if state.broken {
                return None;
            }
            state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A member is through, or failed. Whoever still waits for it goes on without.
    pub fn leave(&self) {
        let mut state = self.lock();
        state.left += 1;
        if state.waiting > 0 {
            state.broken = true;
        }
        self.bell.notify_all();
    }

    /// Everything that was agreed on; none if the meeting broke up.
    pub fn agreed(&self) -> Option<BTreeMap<usize, Arc<Vec<f64>>>> {
        let state = self.lock();
        (!state.broken).then(|| state.agreed.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(points: [&[usize]; 3]) -> Option<BTreeMap<usize, Arc<Vec<f64>>>> {
        let meeting = Meeting::new(3);
        let mean = |rows: &[&[f64]]| vec![rows.iter().map(|row| row[0]).sum::<f64>() / rows.len() as f64];
        std::thread::scope(|scope| {
            for (member, points) in points.into_iter().enumerate() {
                let meeting = &meeting;
                scope.spawn(move || {
                    for &point in points {
                        meeting.meet(member, point, vec![(member * 10 + point) as f64], mean);
                    }
                    meeting.leave();
                });
            }
        });
        meeting.agreed()
    }

    #[test]
    fn all_go_on_with_the_mean() {
        let agreed = run([&[0, 1, 2], &[0, 1, 2], &[0, 1, 2]]).unwrap();
        assert_eq!(agreed.values().map(|v| v[0]).collect::<Vec<_>>(), [10.0, 11.0, 12.0]);
    }

    #[test]
    fn nobody_waits_for_ever() {
        assert!(run([&[0, 1], &[1, 0], &[0, 1]]).is_none(), "another order");
        assert!(run([&[0, 1], &[0], &[0, 1]]).is_none(), "one leaves early");
    }
}
