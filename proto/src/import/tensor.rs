//! Tensors in all their encodings.

use bytes::Bytes;
use ir::{Class, DType, Dims, Encoding, SparseTensor, Tensor, TensorNotes, checked_elements};

use super::{Importer, pairs};
use crate::error::{ExternalProblem, ProtoError, TensorProblem};
use crate::generated as pb;
use crate::spelling::{self, Marks};

impl Importer {
    /// A tensor that keeps its name in its notes.
    pub(crate) fn tensor(&mut self, proto: pb::TensorProto) -> Result<Tensor, ProtoError> {
        let name = proto.name.clone().unwrap_or_default();
        self.try_tensor(proto).map_err(|problem| self.tensor_error(name, problem))
    }

    /// A tensor whose name is that of its value, and the name.
    pub(crate) fn initializer(&mut self, mut proto: pb::TensorProto) -> Result<(Tensor, String), ProtoError> {
        let name = proto.name.take().unwrap_or_default();
        match self.try_tensor(proto) {
            Ok(tensor) => Ok((tensor, name)),
            Err(problem) => Err(self.tensor_error(name, problem)),
        }
    }

    fn tensor_error(&self, tensor: String, problem: TensorProblem) -> ProtoError {
        ProtoError::Tensor { place: self.place(), tensor, problem }
    }

    fn try_tensor(&mut self, mut proto: pb::TensorProto) -> Result<Tensor, TensorProblem> {
        let code = proto.data_type.take().unwrap_or_default();
        let dtype = DType::from_code(code).ok_or(TensorProblem::DType(code))?;
        let dims = dims(&std::mem::take(&mut proto.dims))?;
        if proto.segment.is_some() {
            return Err(TensorProblem::Segment);
        }
        let mut marks = Marks::default();
        let name = marks.text(spelling::NAME, proto.name.take());
        let doc = marks.text(spelling::DOC, proto.doc_string.take());
        let metadata = pairs(std::mem::take(&mut proto.metadata_props));
        let mut tensor = match proto.data_location.take() {
            None => inline(dtype, dims, &mut proto)?,
            Some(0) => {
                marks.note(spelling::LOCATION, true);
                inline(dtype, dims, &mut proto)?
            }
            Some(1) => self.external(dtype, dims, &mut proto)?,
            Some(other) => return Err(TensorProblem::Location(other)),
        };
        let field = filled(&proto);
        if !field.is_empty() {
            return Err(TensorProblem::Field { dtype, field });
        }
        if !proto.external_data.is_empty() {
            self.drop_note(&format!("tensor {name:?} has external_data without being external"));
        }
        if !(name.is_empty() && doc.is_empty() && metadata.is_empty()) {
            tensor.notes = Some(Box::new(TensorNotes { name, doc, metadata }));
        }
        tensor.spelling = marks.done();
        Ok(tensor)
    }

    fn external(
        &mut self,
        dtype: DType,
        dims: Dims,
        proto: &mut pb::TensorProto,
    ) -> Result<Tensor, TensorProblem> {
        let entries = pairs(std::mem::take(&mut proto.external_data));
        // Of two entries of one key the last one holds, as it does for the onnx package.
        let entry =
            |key: &str| entries.iter().rfind(|(found, _)| found == key).map(|(_, value)| value.as_str());
        let file = entry("location").unwrap_or_default().to_string();
        let slice = self.external_slice(dtype, &dims, &file, entry("offset"), entry("length"));
        let bytes = match slice {
            Ok(bytes) => bytes,
            Err(Problem::External(problem)) => return Err(TensorProblem::External { file, problem }),
            Err(Problem::Tensor(problem)) => return Err(problem),
        };
        let mut tensor = raw(dtype, dims, bytes)?;
        tensor.encoding = Encoding::External;
        Ok(tensor)
    }

    fn external_slice(
        &mut self,
        dtype: DType,
        dims: &Dims,
        file: &str,
        offset: Option<&str>,
        length: Option<&str>,
    ) -> Result<Bytes, Problem> {
        if file.is_empty() {
            return Err(Problem::External(ExternalProblem::NoLocation));
        }
        let needed = needed(dtype, dims)? as u64;
        let number = |key: &'static str, value: Option<&str>, default: u64| match value {
            None => Ok(default),
            Some(value) => value
                .trim()
                .parse()
                .map_err(|_| Problem::External(ExternalProblem::Number { key, value: value.to_string() })),
        };
        let offset = number("offset", offset, 0)?;
        let found = number("length", length, needed)?;
        if found != needed {
            return Err(Problem::External(ExternalProblem::Length { needed, found }));
        }
        self.files.slice(file, offset, needed).map_err(Problem::External)
    }

    /// A sparse tensor and the name of its values, which is its name as an initializer.
    pub(crate) fn sparse(
        &mut self,
        proto: pb::SparseTensorProto,
    ) -> Result<(SparseTensor, String), ProtoError> {
        let (Some(values), Some(indices)) = (proto.values, proto.indices) else {
            return Err(self.invalid("a sparse tensor has no values or no indices"));
        };
        let (values, name) = self.initializer(values)?;
        let indices = self.tensor(indices)?;
        match dims(&proto.dims) {
            Ok(dims) => Ok((SparseTensor { dims, values, indices }, name)),
            Err(problem) => Err(self.tensor_error(name, problem)),
        }
    }
}

enum Problem {
    External(ExternalProblem),
    Tensor(TensorProblem),
}

impl From<TensorProblem> for Problem {
    fn from(problem: TensorProblem) -> Problem {
        Problem::Tensor(problem)
    }
}

fn dims(sizes: &[i64]) -> Result<Dims, TensorProblem> {
    sizes.iter().map(|&size| usize::try_from(size).map_err(|_| TensorProblem::NegativeSize(size))).collect()
}

/// Bytes that a tensor of numbers takes in `raw_data`.
fn needed(dtype: DType, dims: &Dims) -> Result<usize, TensorProblem> {
    let overflow = || TensorProblem::Overflow(dims.to_vec());
    let elements = checked_elements(dims).map_err(|_| overflow())?;
    if dtype == DType::String {
        return Err(TensorProblem::Field { dtype, field: "raw_data or external data".into() });
    }
    dtype.storage_bytes(elements).ok_or_else(overflow)
}

fn check(
    dtype: DType,
    dims: &Dims,
    unit: &'static str,
    needed: usize,
    found: usize,
) -> Result<(), TensorProblem> {
    if needed == found {
        return Ok(());
    }
    Err(TensorProblem::Length { dtype, dims: dims.to_vec(), unit, needed, found })
}

fn raw(dtype: DType, dims: Dims, bytes: Bytes) -> Result<Tensor, TensorProblem> {
    let needed = needed(dtype, &dims)?;
    check(dtype, &dims, "bytes", needed, bytes.len())?;
    let found = bytes.len();
    Tensor::new(dtype, dims.clone(), bytes).map_err(|_| TensorProblem::Length {
        dtype,
        dims: dims.to_vec(),
        unit: "bytes",
        needed,
        found,
    })
}

/// Takes the elements out of the message's own fields.
fn inline(dtype: DType, dims: Dims, proto: &mut pb::TensorProto) -> Result<Tensor, TensorProblem> {
    if let Some(bytes) = proto.raw_data.take() {
        return raw(dtype, dims, bytes);
    }
    if dtype == DType::String {
        let strings = std::mem::take(&mut proto.string_data);
        let needed = checked_elements(&dims).map_err(|_| TensorProblem::Overflow(dims.to_vec()))?;
        check(dtype, &dims, "strings", needed, strings.len())?;
        let found = strings.len();
        return Tensor::strings(dims.clone(), strings).map_err(|_| TensorProblem::Length {
            dtype,
            dims: dims.to_vec(),
            unit: "strings",
            needed,
            found,
        });
    }
    let elements = checked_elements(&dims).map_err(|_| TensorProblem::Overflow(dims.to_vec()))?;
    let count = |needed, found| check(dtype, &dims, "entries", needed, found);
    let bytes: Bytes = match dtype {
        DType::F32 | DType::C64 => {
            let entries = std::mem::take(&mut proto.float_data);
            let parts = if dtype == DType::C64 { 2 } else { 1 };
            count(elements.saturating_mul(parts), entries.len())?;
            plain(entries, f32::to_le_bytes)
        }
        DType::F64 | DType::C128 => {
            let entries = std::mem::take(&mut proto.double_data);
            let parts = if dtype == DType::C128 { 2 } else { 1 };
            count(elements.saturating_mul(parts), entries.len())?;
            plain(entries, f64::to_le_bytes)
        }
        DType::I64 => {
            let entries = std::mem::take(&mut proto.int64_data);
            count(elements, entries.len())?;
            plain(entries, i64::to_le_bytes)
        }
        DType::U64 => {
            let entries = std::mem::take(&mut proto.uint64_data);
            count(elements, entries.len())?;
            plain(entries, u64::to_le_bytes)
        }
        DType::U32 => {
            let entries = std::mem::take(&mut proto.uint64_data);
            count(elements, entries.len())?;
            let mut bytes = Vec::with_capacity(entries.len().saturating_mul(4));
            for (at, &entry) in entries.iter().enumerate() {
                let range = |_| TensorProblem::Range { dtype, field: "uint64_data", at, value: entry as i64 };
                bytes.extend(u32::try_from(entry).map_err(range)?.to_le_bytes());
            }
            bytes.into()
        }
        _ => {
            let entries = std::mem::take(&mut proto.int32_data);
            count(int32_entries(dtype, elements), entries.len())?;
            from_int32(dtype, &entries)?.into()
        }
    };
    let mut tensor = raw(dtype, dims, bytes)?;
    tensor.encoding = Encoding::Typed;
    Ok(tensor)
}

/// The bytes of a list of numbers: the list's own memory where the machine holds numbers as ONNX does.
fn plain<T: Copy + Send + Sync + 'static, const N: usize>(
    mut entries: Vec<T>,
    bytes: impl Fn(T) -> [u8; N],
) -> Bytes {
    struct Owner<T>(Vec<T>);
    impl<T> AsRef<[u8]> for Owner<T> {
        fn as_ref(&self) -> &[u8] {
            // SAFETY: the list's elements as bytes. Every caller's `T` is a float or integer, which has no padding.
            unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), size_of_val(self.0.as_slice())) }
        }
    }
    if cfg!(target_endian = "little") {
        entries.shrink_to_fit();
        return Bytes::from_owner(Owner(entries));
    }
    entries.into_iter().flat_map(bytes).collect()
}

/// Entries of `int32_data` for so many elements: types of less than a byte share entries, six-bit types do not.
fn int32_entries(dtype: DType, elements: usize) -> usize {
    match dtype.bits() {
        2 => elements.div_ceil(4),
        4 => elements.div_ceil(2),
        _ => elements,
    }
}

/// The packed bytes of `int32_data`.
fn from_int32(dtype: DType, entries: &[i32]) -> Result<Vec<u8>, TensorProblem> {
    // Bit patterns and packed nibbles are numbers without sign by the specification, but writers that went through a
    // signed char exist; both give the same bits.
    let (low, high) = match (dtype.bits(), dtype.class()) {
        (32, _) => (i32::MIN, i32::MAX),
        (16, _) => (i32::from(i16::MIN), i32::from(u16::MAX)),
        (6, _) => (0, 63),
        (_, Class::Bool) => (0, 255),
        _ => (i32::from(i8::MIN), i32::from(u8::MAX)),
    };
    if let Some((at, &value)) = entries.iter().enumerate().find(|&(_, &entry)| entry < low || entry > high) {
        return Err(TensorProblem::Range { dtype, field: "int32_data", at, value: i64::from(value) });
    }
    Ok(match dtype.bits() {
        32 => entries.iter().flat_map(|entry| entry.to_le_bytes()).collect(),
        16 => entries.iter().flat_map(|&entry| (entry as u16).to_le_bytes()).collect(),
        6 => pack_six_bits(entries),
        _ => entries.iter().map(|&entry| entry as u8).collect(),
    })
}

/// Four elements in three bytes, low bits first.
fn pack_six_bits(entries: &[i32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len().div_ceil(4) * 3);
    for group in entries.chunks(4) {
        let bits =
            group.iter().enumerate().fold(0u32, |bits, (at, &entry)| bits | (entry as u32) << (6 * at));
        bytes.extend(&bits.to_le_bytes()[..(6 * group.len()).div_ceil(8)]);
    }
    bytes
}

/// The names of the data fields that hold something.
fn filled(proto: &pb::TensorProto) -> String {
    let fields = [
        ("raw_data", proto.raw_data.is_some()),
        ("float_data", !proto.float_data.is_empty()),
        ("int32_data", !proto.int32_data.is_empty()),
        ("string_data", !proto.string_data.is_empty()),
        ("int64_data", !proto.int64_data.is_empty()),
        ("double_data", !proto.double_data.is_empty()),
        ("uint64_data", !proto.uint64_data.is_empty()),
    ];
    let filled: Vec<&str> = fields.iter().filter(|(_, filled)| *filled).map(|(name, _)| *name).collect();
    filled.join(" and ")
}
