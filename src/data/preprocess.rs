//! From a picture to the tensor that a vision model wants: resize, crop or pad, colours, scale, layout.

use anyhow::{Context, Result, bail};
use fast_image_resize::images::Image as Pixels;
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;
use serde::{Deserialize, Serialize};

/// Order of the tensor's axes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Channels first.
    #[default]
    Nchw,
    /// Channels last.
    Nhwc,
}

/// How the picture is brought to the size of the input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    /// Shortest side to `resize` pixels (or to the input's size), then the centre is cut out.
    #[default]
    Crop,
    /// Both sides, whatever the aspect.
    Stretch,
    /// The whole picture in the top left corner, the rest filled with `pad`.
    Letterbox,
}

/// What a picture becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// 1 (grey) or 3.
    pub(super) channels: usize,
    /// Columns.
    pub(super) width: usize,
    /// Rows.
    pub(super) height: usize,
    /// Order of the axes.
    pub(super) layout: Layout,
}

impl Shape {
    /// Sizes of the tensor, without a batch.
    pub(super) fn dims(self) -> [usize; 3] {
        match self.layout {
            Layout::Nchw => [self.channels, self.height, self.width],
            Layout::Nhwc => [self.height, self.width, self.channels],
        }
    }
}

/// The steps and their numbers. Unknown keys in a file are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Preprocess {
    /// Width and height of the tensor; from the model's input if absent.
    pub size: Option<[usize; 2]>,
    /// How the picture gets there.
    pub mode: Resize,
    /// For `crop`: the shortest side before the cut. Pictures whose shortest side has this length stay as they are.
    pub resize: Option<usize>,
    /// Grey level of the filling of `letterbox`, 0 to 255.
    pub pad: u8,
    /// Blue first.
    pub bgr: bool,
    /// Pixels are multiplied by this first: 1/255 gives 0 to 1.
    pub scale: f32,
    /// Subtracted next, per channel in the tensor's order.
    pub mean: [f32; 3],
    /// Divided by last, per channel in the tensor's order.
    pub std: [f32; 3],
    /// Order of the axes; from the model's input if absent.
    pub layout: Option<Layout>,
    /// Channels where the model's input leaves them open: 1 (grey) or 3, which is taken if absent.
    pub channels: Option<usize>,
}

impl Default for Preprocess {
    fn default() -> Preprocess {
        Preprocess::preset(DEFAULT).expect("the preset is in the table")
    }
}

/// What is taken if nobody says how pictures become tensors.
pub const DEFAULT: &str = "imagenet";

/// Presets by the name that users type.
pub const PRESETS: &[(&str, &str)] = &[
    ("imagenet", "centre crop, RGB, (x / 255 - mean) / std with the ImageNet statistics"),
    ("unit", "centre crop, RGB, x / 127.5 - 1: from -1 to 1"),
    ("yolo", "letterbox of 114, BGR, 0 to 255"),
    ("raw", "centre crop, RGB, 0 to 255"),
];

impl Preprocess {
    /// A preset.
    pub fn preset(name: &str) -> Option<Preprocess> {
        let plain = Preprocess {
            size: None,
            mode: Resize::Crop,
            resize: None,
            pad: 114,
            bgr: false,
            scale: 1.0,
            mean: [0.0; 3],
            std: [1.0; 3],
            layout: None,
            channels: None,
        };
        Some(match name {
            "imagenet" => Preprocess {
                scale: 1.0 / 255.0,
                mean: [0.485, 0.456, 0.406],
                std: [0.229, 0.224, 0.225],
                ..plain
            },
            "unit" => Preprocess { mean: [127.5; 3], std: [127.5; 3], ..plain },
            "yolo" => Preprocess { mode: Resize::Letterbox, bgr: true, ..plain },
            "raw" => plain,
            _ => return None,
        })
    }

    /// Reads a TOML file, or names a preset.
    ///
    /// # Errors
    /// An unreadable file or unknown keys.
    pub fn load(name: &str) -> Result<Preprocess> {
        if let Some(preset) = Preprocess::preset(name) {
            return Ok(preset);
        }
        let known: Vec<&str> = PRESETS.iter().map(|(name, _)| *name).collect();
        let text = std::fs::read_to_string(name).with_context(|| {
            format!("{name} is neither a preset ({}) nor a readable file", known.join(", "))
        })?;
        toml::from_str(&text).with_context(|| format!("in {name}"))
    }

    /// The same cut, pixels as they are.
    pub(super) fn raw(self) -> Preprocess {
        Preprocess { scale: 1.0, mean: [0.0; 3], std: [1.0; 3], ..self }
    }

    /// The picture as floats, of the sizes of [`Shape::dims`]. A grey one is luma before it is resized, scaled with the
    /// averages of the numbers for colours.
    pub(super) fn apply(&self, mut picture: RgbImage, shape: Shape) -> Result<Vec<f32>> {
        let Shape { channels, width, height, layout } = shape;
        if channels == 1 {
            picture.pixels_mut().for_each(|pixel| pixel.0 = [luma(pixel.0); 3]);
        }
        let fitted = self.fit(&picture, width, height)?;
        let average = |of: [f32; 3]| if channels == 1 { [of.iter().sum::<f32>() / 3.0; 3] } else { of };
        let (mean, std) = (average(self.mean), average(self.std));
        let plane = width * height;
        let mut out = vec![0.0; channels * plane];
        for (at, pixel) in fitted.chunks_exact(3).enumerate() {
            for channel in 0..channels {
                let raw = pixel[if self.bgr { 2 - channel } else { channel }];
                let value = (f32::from(raw) * self.scale - mean[channel]) / std[channel];
                match layout {
                    Layout::Nchw => out[channel * plane + at] = value,
                    Layout::Nhwc => out[at * channels + channel] = value,
                }
            }
        }
        Ok(out)
    }

    /// RGB pixels of exactly the wanted size.
    fn fit(&self, picture: &RgbImage, width: usize, height: usize) -> Result<Vec<u8>> {
        let (w, h) = (picture.width() as usize, picture.height() as usize);
        if w == 0 || h == 0 {
            bail!("the picture is empty");
        }
        match self.mode {
            Resize::Stretch => resize(picture.as_raw(), w, h, width, height),
            Resize::Letterbox => {
                let ratio = f64::min(width as f64 / w as f64, height as f64 / h as f64);
                let (nw, nh) = (((w as f64 * ratio) as usize).max(1), ((h as f64 * ratio) as usize).max(1));
                let small = resize(picture.as_raw(), w, h, nw, nh)?;
                let mut out = vec![self.pad; 3 * width * height];
                for (row, line) in small.chunks_exact(3 * nw).enumerate() {
                    out[row * width * 3..row * width * 3 + 3 * nw].copy_from_slice(line);
                }
                Ok(out)
            }
            Resize::Crop => {
                let shortest = self.resize.unwrap_or_else(|| default_shortest(w.min(h), width.max(height)));
                let ratio = shortest as f64 / w.min(h) as f64;
                let side = |size: usize| ((size as f64 * ratio).round() as usize).max(1);
                let (nw, nh) = (side(w), side(h));
                if nw < width || nh < height {
                    bail!("resize {shortest} is smaller than the input, {width} x {height}");
                }
                let pixels = resize(picture.as_raw(), w, h, nw, nh)?;
                let (left, top) = ((nw - width) / 2, (nh - height) / 2);
                let mut out = Vec::with_capacity(3 * width * height);
                for row in top..top + height {
                    let start = 3 * (row * nw + left);
                    out.extend_from_slice(&pixels[start..start + 3 * width]);
                }
                Ok(out)
            }
        }
    }
}

/// ITU-R 601, in the integer arithmetic of Pillow.
fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((19595 * u32::from(r) + 38470 * u32::from(g) + 7471 * u32::from(b) + (1 << 15)) >> 16) as u8
}

/// Without a stated size, a picture that is at most a quarter larger than the input is cut as it is (data sets are often
/// stored with a shortest side of 256 for inputs of 224); anything else is brought to the customary 8/7 of the input.
fn default_shortest(shortest: usize, input: usize) -> usize {
    if (input..=input * 5 / 4).contains(&shortest) { shortest } else { (input * 8).div_ceil(7) }
}

/// Area-weighted bilinear, as Pillow does it.
fn resize(pixels: &[u8], w: usize, h: usize, width: usize, height: usize) -> Result<Vec<u8>> {
    if (w, h) == (width, height) {
        return Ok(pixels.to_vec());
    }
    let source = Pixels::from_vec_u8(w as u32, h as u32, pixels.to_vec(), PixelType::U8x3)?;
    let mut target = Pixels::new(width as u32, height as u32, PixelType::U8x3);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    Resizer::new().resize(&source, &mut target, &options)?;
    Ok(target.into_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 200]))
    }

    fn square(layout: Layout) -> Shape {
        Shape { channels: 3, width: 4, height: 4, layout }
    }

    #[test]
    fn the_centre_is_cut_without_resampling_where_the_side_fits() {
        let plain = Preprocess {
            resize: Some(6),
            scale: 1.0,
            mean: [0.0; 3],
            std: [1.0; 3],
            ..Preprocess::default()
        };
        let out = plain.apply(picture(8, 6), square(Layout::Nchw)).unwrap();
        assert_eq!(out[..4], [2.0, 3.0, 4.0, 5.0]);
        assert_eq!(out[16..20], [1.0, 1.0, 1.0, 1.0]);
        assert_eq!(out[32], 200.0);
    }

    #[test]
    fn letterbox_fills_the_rest_and_swaps_colours() {
        let out = Preprocess::preset("yolo").unwrap().apply(picture(4, 2), square(Layout::Nhwc)).unwrap();
        assert_eq!(out[..3], [200.0, 0.0, 0.0]);
        assert_eq!(out[3 * 8..3 * 8 + 3], [114.0; 3]);
    }

    #[test]
    fn unknown_keys_are_errors() {
        assert!(toml::from_str::<Preprocess>("mode = \"crop\"\nscael = 1.0").is_err());
    }
}
