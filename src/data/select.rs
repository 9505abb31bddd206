//! Which samples of a source are used: a number of them, evenly spaced or drawn with a seed, in batches.

use anyhow::{Result, bail};
use ir::{Model, Tensor, TensorError};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use runtime::Feed;

use super::Source;

/// Which samples, in what batches.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// At most this many.
    pub samples: Option<usize>,
    /// Draw them at random instead of evenly spaced.
    pub shuffle: bool,
    /// Seed of every random choice.
    pub seed: u64,
    /// Join this many samples along their first axis; 0 and 1 mean none.
    pub batch: usize,
}

/// Applies a selection. `whole`: a batch that is not full is left out.
pub(super) fn select(inner: Box<dyn Source>, selection: &Selection, whole: bool) -> Result<Box<dyn Source>> {
    let total = inner.len();
    let wanted = selection.samples.unwrap_or(total).min(total);
    if wanted == 0 {
        bail!("--samples 0 leaves no data");
    }
    let mut picks: Vec<usize> = (0..total).collect();
    if selection.shuffle {
        picks.shuffle(&mut ChaCha8Rng::seed_from_u64(selection.seed));
        picks.truncate(wanted);
    } else if wanted < total {
        // The middle of each of `wanted` equal parts.
        picks = (0..wanted).map(|k| (2 * k + 1) * total / (2 * wanted)).collect();
    }
    let batch = selection.batch.max(1);
    if whole {
        picks.truncate(picks.len() / batch * batch);
        if picks.is_empty() {
            bail!("the model takes {batch} samples at a time, and there are only {wanted}");
        }
    }
    Ok(Box::new(Picked { inner, picks, batch }))
}

struct Picked {
    inner: Box<dyn Source>,
    picks: Vec<usize>,
    batch: usize,
}

impl Source for Picked {
    fn len(&self) -> usize {
        self.picks.len().div_ceil(self.batch)
    }

    fn sample(&self, at: usize) -> Result<Feed> {
        let first = at * self.batch;
        let members = &self.picks[first..(first + self.batch).min(self.picks.len())];
        let mut joined = self.inner.sample(members[0])?;
        for &member in &members[1..] {
            for (name, tensor) in self.inner.sample(member)? {
                if let Some((_, whole)) = joined.iter_mut().find(|(known, _)| *known == name) {
                    let Ok(longer) = join(whole, &tensor) else {
                        bail!(
                            "--batch: samples of {:?} and {:?} of input {name:?} cannot be joined",
                            whole.dims(),
                            tensor.dims()
                        );
                    };
                    *whole = longer;
                }
            }
        }
        Ok(joined)
    }

    fn label(&self, at: usize) -> String {
        self.inner.label(self.picks[at * self.batch])
    }

    fn members(&self, at: usize) -> Vec<(usize, String)> {
        let first = at * self.batch;
        let members = &self.picks[first..(first + self.batch).min(self.picks.len())];
        members.iter().flat_map(|&member| self.inner.members(member)).collect()
    }

    fn is_random(&self) -> bool {
        self.inner.is_random()
    }

    fn are_pictures(&self) -> bool {
        self.inner.are_pictures()
    }
}

/// The samples that hold any number: an empty batch is a sample that says nothing, and some runtimes fail on it. Only models
/// whose inputs have open sizes can be given one.
///
/// # Errors
/// A sample cannot be read, or every sample is empty.
pub fn telling(model: &Model, source: &dyn Source) -> Result<Vec<usize>> {
    let main = model.main();
    let mut inputs = main.inputs().iter().map(|&value| main.value(value));
    let never = source.are_pictures() || source.is_random();
    if never
        || !inputs
            .any(|input| input.data.is_none() && input.shape().is_none_or(|shape| shape.known().is_none()))
    {
        return Ok((0..source.len()).collect());
    }
    let mut kept = Vec::new();
    for at in 0..source.len() {
        let feed = source.sample(at)?;
        if feed.is_empty() || feed.iter().any(|(_, tensor)| tensor.elements() > 0) {
            kept.push(at);
        }
    }
    if kept.is_empty() && !source.is_empty() {
        bail!("every sample is empty: no input has an element");
    }
    Ok(kept)
}

/// Some samples of a borrowed source.
pub fn part<'a>(inner: &'a dyn Source, picks: &'a [usize]) -> Part<'a> {
    Part { inner, picks }
}

/// See [`part`].
pub struct Part<'a> {
    inner: &'a dyn Source,
    picks: &'a [usize],
}

impl Source for Part<'_> {
    fn len(&self) -> usize {
        self.picks.len()
    }

    fn sample(&self, at: usize) -> Result<Feed> {
        self.inner.sample(self.picks[at])
    }

    fn label(&self, at: usize) -> String {
        self.inner.label(self.picks[at])
    }

    fn members(&self, at: usize) -> Vec<(usize, String)> {
        self.inner.members(self.picks[at])
    }

    fn is_random(&self) -> bool {
        self.inner.is_random()
    }

    fn are_pictures(&self) -> bool {
        self.inner.are_pictures()
    }
}

/// Two tensors along the first axis.
fn join(a: &Tensor, b: &Tensor) -> Result<Tensor, TensorError> {
    let mut dims = a.dims().to_vec();
    match (dims.first_mut(), b.dims()) {
        (Some(size), [more, rest @ ..]) if a.dims()[1..] == *rest && a.dtype() == b.dtype() => *size += more,
        _ => return Err(TensorError::Kind(b.dtype())),
    }
    let mut bytes = a.bytes().to_vec();
    bytes.extend_from_slice(b.bytes());
    Tensor::new(a.dtype(), &dims[..], bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Numbers(usize);

    impl Source for Numbers {
        fn len(&self) -> usize {
            self.0
        }
        fn sample(&self, at: usize) -> Result<Feed> {
            Ok(vec![("x".into(), Tensor::from_slice(&[1], &[at as f32])?)])
        }
    }

    fn picked(selection: Selection) -> Vec<Vec<f32>> {
        let source = select(Box::new(Numbers(10)), &selection, false).unwrap();
        (0..source.len()).map(|at| source.sample(at).unwrap()[0].1.to_vec().unwrap()).collect()
    }

    #[test]
    fn a_part_is_evenly_spaced() {
        let some = picked(Selection { samples: Some(3), ..Selection::default() });
        assert_eq!(some, [[1.0], [5.0], [8.0]]);
    }

    #[test]
    fn batches_join_and_the_last_may_be_short() {
        let batches = picked(Selection { samples: Some(5), batch: 2, ..Selection::default() });
        assert_eq!(batches, [vec![1.0, 3.0], vec![5.0, 7.0], vec![9.0]]);
    }

    #[test]
    fn a_batch_that_is_not_full_may_be_left_out() {
        let selection = Selection { batch: 4, ..Selection::default() };
        let source = select(Box::new(Numbers(10)), &selection, true).unwrap();
        assert_eq!(source.len(), 2);
        assert!(select(Box::new(Numbers(3)), &selection, true).is_err());
    }

    #[test]
    fn a_seed_always_draws_the_same() {
        let draw = |seed| picked(Selection { samples: Some(4), shuffle: true, seed, ..Selection::default() });
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
