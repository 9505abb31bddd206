//! Compares each sample with what the model declares, before a runtime sees it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ir::{DType, Dim, Tensor};
use runtime::{Feed, View};

use super::{InputSpec, Source};

/// A source whose samples fit the model: inputs complete, types and shapes as declared.
pub(super) struct Checked {
    inner: Box<dyn Source>,
    specs: Vec<InputSpec>,
    path: PathBuf,
}

/// The model takes exactly `batch` samples at a time, and no other number.
pub(super) fn batch_is_fixed(specs: &[InputSpec], batch: usize) -> bool {
    batch > 1 && specs.iter().any(|spec| first(spec) == Some(batch))
}

fn first(spec: &InputSpec) -> Option<usize> {
    spec.dims.as_ref()?.first()?.known()
}

impl Checked {
    /// Samples are joined `batch` at a time afterwards: where the model asks for that many, one may come alone.
    pub(super) fn new(
        inner: Box<dyn Source>,
        mut specs: Vec<InputSpec>,
        path: &Path,
        batch: usize,
    ) -> Checked {
        for spec in &mut specs {
            if let Some(dims) = &mut spec.dims
                && batch > 1
                && dims.first().and_then(Dim::known) == Some(batch)
            {
                dims[0] = Dim::Unknown;
            }
        }
        Checked { inner, specs, path: path.to_path_buf() }
    }

    fn fit(&self, feed: Feed) -> Result<Feed> {
        let found: Vec<String> = feed.iter().map(|(name, _)| name.clone()).collect();
        let mut tensors: Vec<Option<(String, Tensor)>> = feed.into_iter().map(Some).collect();
        // One array and one input belong together whatever the array is called.
        let single = self.specs.len() == 1 && tensors.len() == 1;
        let mut fitted = Feed::new();
        for spec in &self.specs {
            let holds =
                |slot: &Option<(String, Tensor)>| slot.as_ref().is_some_and(|(name, _)| *name == spec.name);
            let at = tensors.iter().position(holds).or(single.then_some(0));
            let Some((_, tensor)) = at.and_then(|at| tensors[at].take()) else {
                bail!("input {:?} is missing; the sample holds: {}", spec.name, found.join(", "));
            };
            let tensor = fit(spec, tensor)?;
            refuse_nan(&spec.name, &tensor)?;
            fitted.push((spec.name.clone(), tensor));
        }
        Ok(fitted)
    }
}

/// The tensor as the input wants it: an exact fit, or a leading batch dimension added or dropped where only that differs.
fn fit(spec: &InputSpec, tensor: Tensor) -> Result<Tensor> {
    let wrong = |tensor: &Tensor| {
        let expected = match &spec.dims {
            Some(dims) => format!("[{}]", dims.iter().map(Dim::to_string).collect::<Vec<_>>().join(", ")),
            None => "any shape".into(),
        };
        let dtype = spec.dtype.map_or("any type".into(), |dtype| dtype.to_string());
        let found = format!("found {} {:?}", tensor.dtype(), tensor.dims());
        // One sample of as many as the model takes at a time.
        let alone = |dims: &[usize]| {
            let rest = spec.dims.as_ref().and_then(|dims| dims.get(1..)).unwrap_or(&[]);
            rest.len() == dims.len()
                && rest.iter().zip(dims).all(|(dim, &size)| dim.known().is_none_or(|d| d == size))
        };
        let single = tensor.dims().strip_prefix(&[1]).is_some_and(alone) || alone(tensor.dims());
        let hint = match first(spec).filter(|&size| size > 1 && single) {
            Some(size) => format!("; the model takes {size} samples at a time: give --batch {size}"),
            None => String::new(),
        };
        anyhow::anyhow!("input {:?}: expected {dtype} {expected}, {found}{hint}", spec.name)
    };
    let tensor = match spec.dtype {
        Some(dtype) if dtype != tensor.dtype() => convert(&tensor, dtype).ok_or_else(|| wrong(&tensor))?,
        _ => tensor,
    };
    let Some(dims) = &spec.dims else { return Ok(tensor) };
    let fits = |sizes: &[usize]| {
        sizes.len() == dims.len()
            && dims.iter().zip(sizes).all(|(dim, &size)| dim.known().is_none_or(|d| d == size))
    };
    if fits(tensor.dims()) {
        return Ok(tensor);
    }
    // Files often hold a scalar as a list of one.
    if fits(&[]) && tensor.elements() == 1 {
        return Ok(tensor.reshaped(&[][..])?);
    }
    let batched: Vec<usize> = std::iter::once(1).chain(tensor.dims().iter().copied()).collect();
    if fits(&batched) {
        return Ok(tensor.reshaped(&batched[..])?);
    }
    Err(wrong(&tensor))
}

/// A NaN in the data is a mistake in making them, and would spoil every statistic. (Infinities may be masks.)
fn refuse_nan(input: &str, tensor: &Tensor) -> Result<()> {
    let Some(values) = View::of(tensor).floats() else { return Ok(()) };
    // A sum is NaN if an element is, or if infinities of both signs meet; only then is it worth looking closer.
    if !values.iter().sum::<f32>().is_nan() {
        return Ok(());
    }
    let count = values.iter().filter(|value| value.is_nan()).count();
    if let Some(first) = values.iter().position(|value| value.is_nan()) {
        bail!("input {input:?} holds {count} NaN of {} elements, the first at {first}", values.len());
    }
    Ok(())
}

/// Lossless or customary conversions: float data for a half-precision model, int32 ids for an int64 input.
fn convert(tensor: &Tensor, dtype: DType) -> Option<Tensor> {
    let dims = tensor.dims();
    match (tensor.dtype(), dtype) {
        (DType::F32, DType::F16) => {
            let values: Vec<_> = tensor.to_vec::<f32>().ok()?.into_iter().map(half::f16::from_f32).collect();
            Tensor::from_slice(dims, &values).ok()
        }
        (DType::F32, DType::BF16) => {
            let values: Vec<_> = tensor.to_vec::<f32>().ok()?.into_iter().map(half::bf16::from_f32).collect();
            Tensor::from_slice(dims, &values).ok()
        }
        (DType::F64, DType::F32) => {
            let values: Vec<_> = tensor.to_vec::<f64>().ok()?.into_iter().map(|v| v as f32).collect();
            Tensor::from_slice(dims, &values).ok()
        }
        (DType::F16, DType::F32) => {
            let values: Vec<_> = tensor.to_vec::<half::f16>().ok()?.into_iter().map(f32::from).collect();
            Tensor::from_slice(dims, &values).ok()
        }
        (DType::I32, DType::I64) => {
            let values: Vec<_> = tensor.to_vec::<i32>().ok()?.into_iter().map(i64::from).collect();
            Tensor::from_slice(dims, &values).ok()
        }
        (DType::I64, DType::I32) => {
            let values: Result<Vec<i32>, _> =
                tensor.to_vec::<i64>().ok()?.into_iter().map(i32::try_from).collect();
            Tensor::from_slice(dims, &values.ok()?).ok()
        }
        _ => None,
    }
}

impl Source for Checked {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn sample(&self, at: usize) -> Result<Feed> {
        let place = || format!("{}, sample {}", self.path.display(), self.inner.label(at));
        let feed = self.inner.sample(at).with_context(place)?;
        self.fit(feed).with_context(place)
    }

    fn label(&self, at: usize) -> String {
        self.inner.label(at)
    }

    fn members(&self, at: usize) -> Vec<(usize, String)> {
        self.inner.members(at)
    }

    fn is_random(&self) -> bool {
        self.inner.is_random()
    }

    fn are_pictures(&self) -> bool {
        self.inner.are_pictures()
    }
}
