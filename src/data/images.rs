//! A folder of pictures: JPEG, PNG, WebP; one picture a sample.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use half::f16;
use ir::{DType, Dim, Tensor};
use runtime::Feed;

use super::preprocess::{Layout, Preprocess};
use super::{InputSpec, Source, only_input};

/// File names that count as pictures.
pub(super) const EXTENSIONS: &[&str] = &["jpg", "jpeg", "png", "webp"];

/// Pictures and how they become a tensor.
pub(super) struct Images {
    files: Vec<PathBuf>,
    preprocess: Preprocess,
    input: String,
    dtype: DType,
    width: usize,
    height: usize,
    layout: Layout,
    batched: bool,
}

impl Images {
    pub(super) fn new(files: Vec<PathBuf>, specs: &[InputSpec], preprocess: &Preprocess) -> Result<Images> {
        let spec = only_input(specs, "a folder of pictures")?;
        let dims = spec.dims.as_deref().unwrap_or(&[]);
        let batched = dims.len() != 3;
        let inner = if dims.len() == 4 { &dims[1..] } else { dims };
        if !matches!(inner.len(), 0 | 3) {
            bail!(
                "input {:?} has {} dimensions: pictures fill [N, 3, H, W], [N, H, W, 3] or these without N",
                spec.name,
                dims.len()
            );
        }
        let is_three = |at: usize| inner.get(at).and_then(Dim::known) == Some(3);
        let layout = preprocess.layout.unwrap_or(if is_three(2) && !is_three(0) {
            Layout::Nhwc
        } else {
            Layout::Nchw
        });
        let (at_height, at_width, at_channels) = match layout {
            Layout::Nchw => (1, 2, 0),
            Layout::Nhwc => (0, 1, 2),
        };
        if let Some(channels) = inner.get(at_channels).and_then(Dim::known).filter(|&channels| channels != 3)
        {
            bail!("input {:?} has {channels} channels; pictures have 3: use .npy or .npz data", spec.name);
        }
        let declared = |at: usize| inner.get(at).and_then(Dim::known);
        let size = preprocess.size.or_else(|| Some([declared(at_width)?, declared(at_height)?]));
        let Some([width, height]) = size else {
            bail!("input {:?} leaves the picture size open: give --image-size WIDTHxHEIGHT", spec.name);
        };
        let dtype = spec.dtype.unwrap_or(DType::F32);
        if !matches!(dtype, DType::F32 | DType::F16 | DType::U8) {
            bail!("input {:?} is {dtype}; pictures become float, float16 or uint8", spec.name);
        }
        let (input, preprocess) = (spec.name.clone(), preprocess.clone());
        Ok(Images { files, preprocess, input, dtype, width, height, layout, batched })
    }
}

/// The last part of a path, for messages and label files.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

impl Source for Images {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn sample(&self, at: usize) -> Result<Feed> {
        let file = &self.files[at];
        let picture = image::ImageReader::open(file)
            .with_context(|| format!("cannot open {}", file.display()))?
            .with_guessed_format()?
            .decode()
            .with_context(|| format!("cannot read the picture {}", file.display()))?
            .into_rgb8();
        let values = self.preprocess.apply(&picture, self.width, self.height, self.layout)?;
        let mut dims = match self.layout {
            Layout::Nchw => vec![3, self.height, self.width],
            Layout::Nhwc => vec![self.height, self.width, 3],
        };
        if self.batched {
            dims.insert(0, 1);
        }
        let tensor = match self.dtype {
            DType::F16 => {
                Tensor::from_slice(&dims, &values.into_iter().map(f16::from_f32).collect::<Vec<_>>())?
            }
            DType::U8 => Tensor::from_slice(
                &dims,
                &values.into_iter().map(|v| v.round_ties_even() as u8).collect::<Vec<_>>(),
            )?,
            _ => Tensor::from_slice(&dims, &values)?,
        };
        Ok(vec![(self.input.clone(), tensor)])
    }

    fn label(&self, at: usize) -> String {
        file_name(&self.files[at])
    }

    fn are_pictures(&self) -> bool {
        true
    }
}
