//! From codes to the tensors of a runtime's form.

use ir::{DType, Tensor};
use quant::CodeType;
use quant::layout::blocked::{self, Order};
use quant::layout::{bnb4, gather, nbits};
use quant::weight::outliers::Split;
use quant::weight::{Bits, Block, Quantized, Zero};
use serde::{Deserialize, Serialize};

use super::find::dtype_of;
use super::{Coded, LowBitError, ProductForm, Profile, Reads, RowsForm, Site};

/// One tensor of a packed weight.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    /// What it is: `codes`, `scales`, `scale_codes`, `scale_steps`, `zeros`, `absmax`, `offsets`, `offset_codes`,
    /// `offset_steps`, `offset_block` or `input_scales`.
    pub role: String,
    /// Element type, as ONNX numbers them.
    pub dtype: i32,
    /// Sizes.
    pub dims: Vec<usize>,
    /// The elements. Left out when serialized: whoever keeps a packed weight keeps the bytes where it likes.
    #[serde(skip)]
    pub tensor: Option<Tensor>,
}

impl Part {
    fn new(role: &str, tensor: Tensor) -> Part {
        Part {
            role: role.into(),
            dtype: tensor.dtype().code(),
            dims: tensor.dims().to_vec(),
            tensor: Some(tensor),
        }
    }

    fn of(role: &str, dtype: DType, dims: &[usize], bytes: Vec<u8>) -> Result<Part, LowBitError> {
        Ok(Part::new(role, Tensor::new(dtype, dims, bytes)?))
    }

    fn floats(role: &str, dtype: DType, dims: &[usize], values: &[f32]) -> Result<Part, LowBitError> {
        let bytes: Vec<u8> = match dtype {
            DType::F16 => values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect(),
            DType::BF16 => values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        Part::of(role, dtype, dims, bytes)
    }
}

/// How a weight is stored for one kind of reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// MatMulNBits.
    NBits,
    /// MatMulBnb4 with this `quant_type`.
    Bnb4(i64),
    /// DequantizeLinear along this axis; blocks of [`Stored::block`], or per axis where that is 0.
    Dequantize(i64),
    /// GatherBlockQuantized.
    GatherBlocks,
    /// GatherBlockQuantized over the codes of the product.
    GatherShared,
    /// Rows of int8 with one scale each.
    PerRow,
    /// MatMulInteger of int8 with one scale a row, over activations that are rounded token by token; and a float product of
    /// the columns that meet outliers.
    Int8Outliers,
}

/// The tensors of one form.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stored {
    /// Which form.
    pub form: Form,
    /// Width of a code as stored.
    pub bits: u32,
    /// Columns of a block; 0 for one scale a row.
    pub block: usize,
    /// The tensors.
    pub parts: Vec<Part>,
}

impl Stored {
    /// The tensor of a role.
    pub fn part(&self, role: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.role == role)
    }
}

/// A weight as its runtime stores it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Packed {
    /// N
    pub rows: usize,
    /// K
    pub cols: usize,
    /// For products.
    pub product: Option<Stored>,
    /// For readers of rows.
    pub table: Option<Stored>,
    /// Factor of each column: the weight was multiplied by it, so what it multiplies is divided by it. f32 `[K]`.
    pub input_scales: Option<Part>,
}

impl Packed {
    /// Every tensor, in a fixed order.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        let stored = self.product.iter().chain(&self.table).flat_map(|stored| &stored.parts);
        stored.chain(&self.input_scales)
    }

    /// Every tensor, in the order of [`Packed::parts`].
    pub fn parts_mut(&mut self) -> impl Iterator<Item = &mut Part> {
        let stored = self.product.iter_mut().chain(&mut self.table).flat_map(|stored| &mut stored.parts);
        stored.chain(&mut self.input_scales)
    }

    /// Bytes of the tensors that stand for the weight; column factors are folded away or shared by its neighbours.
    pub fn bytes(&self) -> usize {
        let bytes = |part: &Part| {
            let elements = part.dims.iter().product();
            DType::from_code(part.dtype).and_then(|dtype| dtype.storage_bytes(elements)).unwrap_or(0)
        };
        self.parts().filter(|part| part.role != "input_scales").map(bytes).sum()
    }

    /// Bits a weight takes, everything included.
    pub fn bits_per_weight(&self) -> f64 {
        self.bytes() as f64 * 8.0 / (self.rows as f64 * self.cols as f64).max(1.0)
    }
}

/// Lays a weight out for the readers of a site. `input_scales` are the factors that its columns were multiplied by.
pub fn pack(
    site: &Site,
    dtype: DType,
    coded: &Coded,
    profile: &Profile,
    input_scales: Option<&[f32]>,
) -> Result<Packed, LowBitError> {
    let product = match site.is_product() {
        true => Some(product(site, dtype, coded, profile)?),
        false => None,
    };
    let table = match site.is_table() {
        true => Some(table(site, dtype, coded, profile, product.as_ref())?),
        false => None,
    };
    let input_scales =
        input_scales.map(|scales| Part::floats("input_scales", DType::F32, &[scales.len()], scales));
    Ok(Packed { rows: site.rows, cols: site.cols, product, table, input_scales: input_scales.transpose()? })
}

fn lacks(profile: &Profile, what: &str, remedy: &str) -> LowBitError {
    LowBitError::Form { profile: profile.name, what: what.into(), remedy: remedy.into() }
}

fn check_width(q: &Quantized, profile: &Profile) -> Result<(), LowBitError> {
    if profile.stores(q.spec.bits).is_none() {
        let what = format!("weights of {} bits", q.spec.bits.width());
        return Err(lacks(profile, &what, &format!("it has {} bits", profile.widths_told())));
    }
    if q.zero_points.is_some() && !profile.zero_points {
        return Err(lacks(profile, "zero points", "quantize symmetrically"));
    }
    Ok(())
}

fn product(site: &Site, dtype: DType, coded: &Coded, profile: &Profile) -> Result<Stored, LowBitError> {
    match (profile.product, coded) {
        (_, Coded::Uniform(q)) => {
            let pointwise = site.readers.iter().any(|reader| reader.reads == Reads::Conv);
            uniform(pointwise, dtype, q, profile)
        }
        (_, Coded::Split(q)) => int8_outliers(dtype, q),
        (ProductForm::NBits, Coded::Double(q)) => {
            let mut stored = uniform(false, dtype, &q.weight, profile)?;
            small_scales(&mut stored, dtype, profile, &q.weight, (&q.integers, &q.steps))?;
            Ok(stored)
        }
        (ProductForm::NBits, Coded::DoubleAffine(q)) => {
            let two = q.weight.two_term();
            let mut stored = uniform(false, dtype, &two.weight, profile)?;
            small_scales(&mut stored, dtype, profile, &two.weight, (&q.integers, &q.steps))?;
            let dims = [q.offset_steps.len(), q.offsets.len() / q.offset_steps.len().max(1)];
            let offsets = q.offsets.iter().map(|&b| b as u8).collect();
            stored.parts.push(Part::of("offset_codes", DType::I8, &dims, offsets)?);
            stored.parts.push(Part::floats("offset_steps", dtype, &dims[..1], &q.offset_steps)?);
            stored.parts.push(offset_block(q.weight.block)?);
            Ok(stored)
        }
        (_, Coded::Double(_) | Coded::DoubleAffine(_)) => {
            Err(lacks(profile, "scales of 8 bits", "leave out --scale-bits"))
        }
        (ProductForm::NBits, Coded::Table(q)) => {
            let m = bnb4::pack(q)?;
            let parts = vec![
                Part::of("codes", DType::U8, &[m.codes.len()], m.codes.clone())?,
                Part::floats("absmax", dtype, &[m.absmax.len()], &m.absmax)?,
            ];
            Ok(Stored { form: Form::Bnb4(m.quant_type()), bits: 4, block: m.block, parts })
        }
        (_, Coded::Table(_)) => Err(lacks(profile, "tables of values (nf4, fp4)", "use rtn-search")),
        (ProductForm::PerChannel, Coded::Affine(_)) => {
            Err(lacks(profile, "float offsets", "use rtn-search with 8 bits"))
        }
        (_, Coded::Affine(q)) => {
            let two = q.two_term();
            // A convolution becomes a product too: its offsets need one.
            let mut stored = uniform(false, dtype, &two.weight, profile)?;
            let blocks = q.blocks_per_row();
            // [blocks, N]: the right side of a MatMul.
            let turned: Vec<f32> =
                (0..blocks).flat_map(|b| two.offsets.iter().skip(b).step_by(blocks)).copied().collect();
            stored.parts.push(Part::floats("offsets", dtype, &[blocks, q.rows], &turned)?);
            stored.parts.push(offset_block(q.block)?);
            Ok(stored)
        }
    }
}

/// The blocks of the offsets: a form may have cut or joined its own.
fn offset_block(block: usize) -> Result<Part, LowBitError> {
    Part::of("offset_block", DType::I64, &[], (block as i64).to_le_bytes().to_vec())
}

/// Puts integers and steps in the place of the scales. Rows that share a step lie in one row of the integers.
fn small_scales(
    stored: &mut Stored,
    dtype: DType,
    profile: &Profile,
    q: &Quantized,
    (integers, steps): (&[u8], &[f32]),
) -> Result<(), LowBitError> {
    let scales = [q.rows, q.blocks_per_row()];
    if dtype != DType::F32 || stored.part("scales").is_none_or(|part| part.dims != scales) {
        return Err(lacks(
            profile,
            "scales of 8 bits for float16 or for such blocks",
            "leave out --scale-bits, or take blocks of 16, 32, 64 or 128",
        ));
    }
    let dims = [steps.len(), integers.len() / steps.len().max(1)];
    stored.parts.retain(|part| part.role != "scales");
    stored.parts.push(Part::of("scale_codes", DType::U8, &dims, integers.to_vec())?);
    stored.parts.push(Part::floats("scale_steps", dtype, &dims[..1], steps)?);
    Ok(())
}

/// Both parts as right sides of products: int8 `[K, N]`, float `[O, N]`.
fn int8_outliers(dtype: DType, q: &Split) -> Result<Stored, LowBitError> {
    let (rows, cols, width) = (q.rest.rows, q.rest.cols, q.columns.len());
    // Codes lie around 128.
    let codes = (0..cols * rows).map(|at| q.rest.codes[at % rows * cols + at / rows] ^ 0x80).collect();
    let kept: Vec<f32> =
        (0..cols).map(|k| if q.columns.binary_search(&k).is_ok() { 0.0 } else { 1.0 }).collect();
    let columns: Vec<u8> = q.columns.iter().flat_map(|&k| (k as i64).to_le_bytes()).collect();
    let turned: Vec<f32> = (0..width * rows).map(|at| q.outliers[at % rows * width + at / rows]).collect();
    let mut parts = vec![
        Part::of("codes", DType::I8, &[cols, rows], codes)?,
        Part::floats("scales", dtype, &[rows], &q.rest.scales)?,
    ];
    if width > 0 {
        parts.push(Part::floats("kept", dtype, &[cols], &kept)?);
        parts.push(Part::of("columns", DType::I64, &[width], columns)?);
        parts.push(Part::floats("outliers", dtype, &[width, rows], &turned)?);
    }
    Ok(Stored { form: Form::Int8Outliers, bits: 8, block: 0, parts })
}

/// `pointwise`: a convolution reads it as its weight.
fn uniform(pointwise: bool, dtype: DType, q: &Quantized, profile: &Profile) -> Result<Stored, LowBitError> {
    check_width(q, profile)?;
    match profile.product {
        ProductForm::NBits => {
            let m = nbits::pack(q)?;
            let mut parts = vec![
                Part::of("codes", DType::U8, &m.codes_shape(), m.codes.clone())?,
                Part::floats("scales", dtype, &[m.rows, m.blocks_per_row()], &m.scales)?,
            ];
            if let Some(zeros) = &m.zero_points {
                parts.push(Part::of("zeros", DType::U8, &[m.rows, m.zero_bytes_per_row()], zeros.clone())?);
            }
            Ok(Stored { form: Form::NBits, bits: m.bits, block: m.block, parts })
        }
        ProductForm::PerChannel if !is_per_row(q) => {
            Err(lacks(profile, "blocked weights", "use 8 bits, symmetric, one scale a channel"))
        }
        ProductForm::Blocked | ProductForm::PerChannel => {
            let turned = pointwise || lies_turned(q.spec.bits.stored(), q.rows);
            dequantize(dtype, q, if turned { Order::Nk } else { Order::Kn }, pointwise)
        }
    }
}

/// Codes of a product that lie `[N, K]` behind a Transpose, though blocks of `[K, N]` are what runtimes look for: ONNX Runtime
/// 1.31 misreads rows of `[K, N]` whose 2-bit codes do not fill whole bytes, where it fuses them to a MatMulNBits.
pub(super) fn lies_turned(bits: u32, rows: usize) -> bool {
    bits == 2 && !rows.is_multiple_of(4)
}

fn is_per_row(q: &Quantized) -> bool {
    q.spec.bits == Bits::Eight && q.block >= q.cols && q.zero_points.is_none()
}

/// Tensors of a DequantizeLinear; `[N, K, 1, 1]` for convolutions.
fn dequantize(dtype: DType, q: &Quantized, order: Order, pointwise: bool) -> Result<Stored, LowBitError> {
    let m = blocked::pack(q, order)?;
    let code = DType::from_name(m.code.name()).ok_or(LowBitError::Incomplete("element type"))?;
    let extend = |dims: &[usize]| match (pointwise, dims.len()) {
        (true, 2) => [dims, &[1, 1]].concat(),
        _ => dims.to_vec(),
    };
    let scales = extend(&m.scales_shape());
    let mut parts = vec![
        Part::of("codes", code, &extend(&m.shape()), m.codes.clone())?,
        Part::floats("scales", dtype, &scales, &m.scales)?,
    ];
    if let Some(zeros) = &m.zero_points {
        parts.push(Part::of("zeros", code, &scales, zeros.clone())?);
    }
    let block = m.block.unwrap_or(0);
    Ok(Stored { form: Form::Dequantize(m.axis()), bits: q.spec.bits.stored(), block, parts })
}

fn table(
    site: &Site,
    dtype: DType,
    coded: &Coded,
    profile: &Profile,
    product: Option<&Stored>,
) -> Result<Stored, LowBitError> {
    let Coded::Uniform(q) = coded else {
        return Err(lacks(profile, "tables with float offsets or values", "use rtn-search for embeddings"));
    };
    check_width(q, profile)?;
    let form = match profile.rows {
        RowsForm::Float => return Err(lacks(profile, "quantized embeddings", "keep them in float")),
        RowsForm::GatherInt4 if q.spec.bits.stored() != 4 => {
            return Err(lacks(profile, "embeddings of other widths than 4 bits", "ask for 4 bits"));
        }
        RowsForm::GatherInt4 => gather::Form::Int4,
        RowsForm::GatherBytes => gather::Form::Bytes,
        RowsForm::Dequantize => return dequantize(dtype, q, Order::Nk, false),
        RowsForm::PerRow if !is_per_row(q) => {
            return Err(lacks(profile, "blocked tables", "use 8 bits, symmetric, one scale a row"));
        }
        RowsForm::PerRow => {
            let codes = q.codes.iter().map(|&code| code ^ 0x80).collect();
            let parts = vec![
                Part::of("codes", DType::I8, &[q.rows, q.cols], codes)?,
                Part::floats("scales", dtype, &[q.rows, 1], &q.scales)?,
            ];
            return Ok(Stored { form: Form::PerRow, bits: 8, block: 0, parts });
        }
    };
    let m = gather::pack(q, form)?;
    let shared = product.is_some_and(|p| {
        p.form == Form::NBits && p.bits == m.bits && p.block == m.block && site.cols.is_multiple_of(m.block)
    });
    if shared && m.code == CodeType::U8 {
        return Ok(Stored { form: Form::GatherShared, bits: m.bits, block: m.block, parts: Vec::new() });
    }
    let code = DType::from_name(m.code.name()).ok_or(LowBitError::Incomplete("element type"))?;
    let blocks = site.cols.div_ceil(m.block.max(1));
    let mut parts = vec![
        Part::of("codes", code, &m.shape(), m.codes.clone())?,
        Part::floats("scales", dtype, &[m.rows, blocks], &m.scales)?,
    ];
    if let Some(zeros) = &m.zero_points {
        parts.push(Part::of("zeros", code, &m.zero_points_shape(), zeros.clone())?);
    }
    Ok(Stored { form: Form::GatherBlocks, bits: m.bits, block: m.block, parts })
}

/// What to ask a quantizer for, so that a profile can store rows of `cols`: symmetric where there are no zero points, one scale
/// a row where there are no blocks, and blocks that the runtime has.
pub fn adapt(profile: &Profile, spec: quant::weight::Spec, cols: usize, dtype: DType) -> quant::weight::Spec {
    let zero = if profile.zero_points { spec.zero } else { Zero::Center };
    let (bits, block) = match profile.product {
        ProductForm::PerChannel => (spec.bits, Block::Row),
        _ => profile.fit(spec.bits, spec.block, cols),
    };
    let scale = super::find::scale_type(dtype).unwrap_or(spec.scale);
    debug_assert_eq!(dtype_of(scale), dtype);
    quant::weight::Spec { bits, zero, block, scale }
}
