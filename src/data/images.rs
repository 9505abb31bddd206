//! A folder of pictures: JPEG, PNG, WebP; one picture a sample.
//!
//! Pictures become one (grey) or three channels, whatever the file holds: grey files, palettes, 16 bits a channel, CMYK and
//! transparency (which is dropped) are converted. A photograph is turned upright as its EXIF data say.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use half::f16;
use image::{DynamicImage, ImageDecoder};
use ir::{DType, Dim, Tensor};
use runtime::Feed;

use super::preprocess::{Layout, Preprocess, Shape};
use super::{InputSpec, Source, extension, natural_order, only_input};

/// File names that count as pictures.
pub(super) const EXTENSIONS: &[&str] = &["jpg", "jpeg", "png", "webp"];
/// Pictures that are not read: they are not passed over without a word.
const FOREIGN: &[&str] = &["bmp", "gif", "tif", "tiff", "heic", "heif", "avif", "jp2", "jxl", "ppm", "pgm"];

/// Pictures and how they become a tensor.
pub(super) struct Images {
    /// Files and what they are called in label files.
    files: Vec<(PathBuf, String)>,
    preprocess: Preprocess,
    input: String,
    dtype: DType,
    shape: Shape,
    batched: bool,
}

impl Images {
    pub(super) fn new(
        files: Vec<(PathBuf, String)>,
        specs: &[InputSpec],
        preprocess: &Preprocess,
    ) -> Result<Images> {
        let spec = only_input(specs, "a folder of pictures")?;
        let dims = spec.dims.as_deref().unwrap_or(&[]);
        let batched = dims.len() != 3;
        let inner = if dims.len() == 4 { &dims[1..] } else { dims };
        let shown = || dims.iter().map(Dim::to_string).collect::<Vec<_>>().join(", ");
        if !matches!(inner.len(), 0 | 3) {
            bail!(
                "input {:?} is [{}]: pictures fill [N, C, H, W], [N, H, W, C] or these without N, C being 1 or 3; use .npy or \
                 .npz data",
                spec.name,
                shown()
            );
        }
        let declared = |at: usize| inner.get(at).and_then(Dim::known);
        let fits = |at: usize| matches!(declared(at), Some(1 | 3));
        let layout = preprocess.layout.unwrap_or(match (fits(0), fits(2)) {
            (false, true) => Layout::Nhwc,
            _ => Layout::Nchw,
        });
        let (at_height, at_width, at_channels) = match layout {
            Layout::Nchw => (1, 2, 0),
            Layout::Nhwc => (0, 1, 2),
        };
        let channels = declared(at_channels).or(preprocess.channels).unwrap_or(3);
        if !matches!(channels, 1 | 3) {
            bail!(
                "input {:?} is [{}]: read as {}, it has {channels} channels, and pictures give 1 (grey) or 3. Say --layout if \
                 that is wrong, or use .npy or .npz data",
                spec.name,
                shown(),
                if layout == Layout::Nchw { "NCHW" } else { "NHWC" }
            );
        }
        let size = preprocess.size.or_else(|| Some([declared(at_width)?, declared(at_height)?]));
        let Some([width, height]) = size else {
            bail!(
                "input {:?} is [{}], which leaves the picture size open: give --image-size WIDTHxHEIGHT",
                spec.name,
                shown()
            );
        };
        let dtype = spec.dtype.unwrap_or(DType::F32);
        if !matches!(dtype, DType::F32 | DType::F16 | DType::U8) {
            bail!(
                "input {:?} is {dtype}; pictures become float32, float16 or uint8: use .npy or .npz data",
                spec.name
            );
        }
        let mut preprocess = preprocess.clone();
        if dtype == DType::U8 {
            // Bytes hold pixels; a model that takes them does the arithmetic itself.
            preprocess = preprocess.raw();
        }
        let shape = Shape { channels, width, height, layout };
        Ok(Images { files, preprocess, input: spec.name.clone(), dtype, shape, batched })
    }
}

/// The pictures of a folder by name, or, where it holds folders alone, those in them (one folder a class, say), called by their
/// path from here.
///
/// # Errors
/// An unreadable folder, a link to nothing, pictures of kinds that are not read.
pub(super) fn find(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    gather(folder, "", &mut found)?;
    Ok(found)
}

fn gather(folder: &Path, prefix: &str, found: &mut Vec<(PathBuf, String)>) -> Result<()> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
    };
    let mut entries = read().with_context(|| format!("cannot read {}", folder.display()))?;
    entries.sort_by(|a, b| natural_order(a, b));
    // What begins with a dot is some program's own.
    entries.retain(|path| !file_name(path).starts_with('.'));
    let is_picture = |path: &&PathBuf| EXTENSIONS.contains(&extension(path).as_str());
    let foreign: Vec<&PathBuf> =
        entries.iter().filter(|path| FOREIGN.contains(&extension(path).as_str())).collect();
    if let Some(first) = foreign.first() {
        bail!(
            "{} holds pictures of a kind that is not read, such as {:?} ({} of them): convert them to PNG or JPEG, or move them \
             away",
            folder.display(),
            file_name(first),
            foreign.len()
        );
    }
    let before = found.len();
    for path in entries.iter().filter(is_picture) {
        if !path.exists() {
            bail!("{} is a link to nothing", path.display());
        }
        if path.is_file() {
            found.push((path.clone(), format!("{prefix}{}", file_name(path))));
        }
    }
    if found.len() > before {
        return Ok(());
    }
    // Links to folders are not followed: they may lead round in circles.
    for path in entries.iter().filter(|path| path.is_dir() && !path.is_symlink()) {
        gather(path, &format!("{prefix}{}/", file_name(path)), found)?;
    }
    Ok(())
}

/// The last part of a path, for messages and label files.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Reads a picture, upright.
fn read(file: &Path) -> Result<DynamicImage> {
    let reader = image::ImageReader::open(file)
        .with_context(|| format!("cannot open {}", file.display()))?
        .with_guessed_format()?;
    let decode = || -> image::ImageResult<DynamicImage> {
        let mut decoder = reader.into_decoder()?;
        let orientation = decoder.orientation()?;
        let mut picture = DynamicImage::from_decoder(decoder)?;
        picture.apply_orientation(orientation);
        Ok(picture)
    };
    decode().with_context(|| format!("cannot read the picture {}", file.display()))
}

impl Source for Images {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn sample(&self, at: usize) -> Result<Feed> {
        let Some((file, _)) = self.files.get(at) else { bail!("there is no picture {at}") };
        let values = self.preprocess.apply(read(file)?.into_rgb8(), self.shape)?;
        let mut dims = self.shape.dims().to_vec();
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
        self.files.get(at).map(|(_, name)| name.clone()).unwrap_or_default()
    }

    fn are_pictures(&self) -> bool {
        // Of bytes there is nothing to say.
        self.dtype != DType::U8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(dtype: DType, dims: &[Option<usize>]) -> Vec<InputSpec> {
        let dims =
            dims.iter().map(|dim| dim.map_or_else(|| Dim::symbol("n"), |size: usize| size.into())).collect();
        vec![InputSpec { name: "x".into(), dtype: Some(dtype), dims: Some(dims) }]
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let red = image::RgbImage::from_pixel(8, 8, image::Rgb([200, 100, 50]));
        red.save(folder.path().join("a b.png")).unwrap();
        let deep = image::ImageBuffer::from_pixel(8, 8, image::Luma([40_000u16]));
        deep.save(folder.path().join("deep.png")).unwrap();
        folder
    }

    fn raw() -> Preprocess {
        Preprocess { size: Some([4, 4]), ..Preprocess::preset("raw").unwrap() }
    }

    fn first(dtype: DType, dims: &[Option<usize>], at: usize) -> Tensor {
        let folder = folder();
        let images = Images::new(find(folder.path()).unwrap(), &spec(dtype, dims), &raw()).unwrap();
        images.sample(at).unwrap().remove(0).1
    }

    #[test]
    fn the_channels_and_their_place_follow_from_the_input() {
        let n = None;
        for (dims, found) in [
            (vec![n, Some(3), n, n], vec![1, 3, 4, 4]),
            (vec![n, Some(1), n, n], vec![1, 1, 4, 4]),
            (vec![n, n, n, Some(1)], vec![1, 4, 4, 1]),
            (vec![n, n, n, Some(3)], vec![1, 4, 4, 3]),
            (vec![n, n, n, n], vec![1, 3, 4, 4]),
            (vec![Some(4), Some(4), Some(3)], vec![4, 4, 3]),
        ] {
            assert_eq!(first(DType::F32, &dims, 0).dims(), found, "{dims:?}");
        }
    }

    /// ITU-R 601: (19595 · 200 + 38470 · 100 + 7471 · 50 + 2^15) / 2^16 = 124.
    #[test]
    fn grey_is_luma() {
        let grey = first(DType::F32, &[None, Some(1), None, None], 0);
        assert_eq!(grey.to_vec::<f32>().unwrap(), [124.0; 16]);
    }

    #[test]
    fn sixteen_bits_become_eight_and_bytes_stay_pixels() {
        let grey = first(DType::U8, &[None, None, None, Some(1)], 1);
        assert_eq!(grey.to_vec::<u8>().unwrap(), [156; 16]);
        let folder = folder();
        let preset = Preprocess { size: Some([4, 4]), ..Preprocess::default() };
        let spec = spec(DType::U8, &[None, Some(3), None, None]);
        let images = Images::new(find(folder.path()).unwrap(), &spec, &preset).unwrap();
        assert_eq!(images.sample(0).unwrap()[0].1.to_vec::<u8>().unwrap()[..16], [200; 16]);
    }

    #[test]
    fn a_photograph_is_turned_upright() {
        // A JPEG of 8 x 4 pixels whose EXIF says: turn by 90 degrees.
        let mut jpeg = Vec::new();
        let wide = image::RgbImage::from_pixel(8, 4, image::Rgb([9, 9, 9]));
        image::codecs::jpeg::JpegEncoder::new(&mut jpeg).encode_image(&wide).unwrap();
        let tiff =
            [b"II\x2a\0\x08\0\0\0".as_slice(), b"\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"].concat();
        let length = (tiff.len() + 8) as u16;
        let app1 = [b"\xff\xe1".as_slice(), &length.to_be_bytes(), b"Exif\0\0", &tiff].concat();
        jpeg.splice(2..2, app1);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("photo.jpg");
        std::fs::write(&file, jpeg).unwrap();
        let picture = read(&file).unwrap();
        assert_eq!((picture.width(), picture.height()), (4, 8));
    }

    #[test]
    fn folders_in_a_folder_are_classes() {
        let folder = tempfile::tempdir().unwrap();
        for class in ["cat", "dog"] {
            std::fs::create_dir(folder.path().join(class)).unwrap();
            let file = folder.path().join(class).join("1.png");
            image::RgbImage::new(4, 4).save(file).unwrap();
        }
        let names: Vec<String> = find(folder.path()).unwrap().into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["cat/1.png", "dog/1.png"]);
        std::fs::write(folder.path().join("cat/2.bmp"), b"BM").unwrap();
        assert!(find(folder.path()).unwrap_err().to_string().contains("\"2.bmp\""));
    }

    #[test]
    fn what_pictures_cannot_fill_is_refused_with_a_way_out() {
        for (dtype, dims, what) in [
            (DType::F32, vec![None, Some(4), None, None], "4 channels"),
            (DType::F32, vec![None, Some(3)], ".npy"),
            (DType::I32, vec![None, Some(3), None, None], "int32"),
        ] {
            let error = Images::new(vec![], &spec(dtype, &dims), &raw()).err().unwrap().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
